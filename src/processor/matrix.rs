// SPDX-License-Identifier: MPL-2.0

//! The matrix product that most kernels spend their time in.
//!
//! Matrices have the layout of feature maps: blocks of sixteen columns (channels), in each block one [`Lanes`] for
//! every row (position). So the products read and write feature maps directly.

use super::vector::{LANES, Lanes, Vector};

/// `c = a b`, or `c += a b`, with `b` packed in panels of [`Vector::COLUMNS`] blocks of columns: `[panel][row of
/// b][block]`.
///
/// Every number of `c` is summed in the order of the rows of `b`, however the rows of `a` are divided among tiles. So
/// the results do not depend on how the work is divided among threads.
#[derive(Clone, Copy)]
pub struct Product {
    pub a: *const Lanes,
    /// From one block of columns of `a` to the next, in [`Lanes`].
    pub a_step: usize,
    /// Rows of `a` and `c`.
    pub rows: usize,
    /// Columns of `a` and rows of `b`, in blocks.
    pub depth: usize,
    pub b: *const Lanes,
    pub c: *mut Lanes,
    /// From one block of columns of `c` to the next, in [`Lanes`].
    pub c_step: usize,
    /// Columns of `b` and `c`, in blocks.
    pub columns: usize,
    /// Whether the product is added to what is in `c`.
    pub add: bool,
}

/// Computes `product` in tiles of `ROWS` rows and `COLUMNS` blocks, whose sums stay in registers.
///
/// # Safety
///
/// `a` and `b` must be good for reading and `c` for writing the matrices that `product` describes, and `c` must not
/// overlap the others.
#[inline(always)]
pub unsafe fn multiply<V: Vector, const ROWS: usize, const COLUMNS: usize>(product: &Product) {
    debug_assert!(product.columns.is_multiple_of(COLUMNS));
    for panel in 0..product.columns / COLUMNS {
        let mut row = 0;
        // SAFETY: all offsets are inside the matrices, which the caller vouches for.
        unsafe {
            while row + ROWS <= product.rows {
                tile::<V, ROWS, COLUMNS>(product, panel, row);
                row += ROWS;
            }
            if ROWS > 4 {
                while row + 4 <= product.rows {
                    tile::<V, 4, COLUMNS>(product, panel, row);
                    row += 4;
                }
            }
            if ROWS > 2 {
                while row + 2 <= product.rows {
                    tile::<V, 2, COLUMNS>(product, panel, row);
                    row += 2;
                }
            }
            while row < product.rows {
                tile::<V, 1, COLUMNS>(product, panel, row);
                row += 1;
            }
        }
    }
}

/// # Safety
///
/// As for [`multiply`], and the tile must lie inside `c`.
#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const COLUMNS: usize>(product: &Product, panel: usize, row: usize) {
    let mut sums = [[V::splat(0.0); COLUMNS]; ROWS];
    // SAFETY: the caller vouches for the matrices, and for the tile to be inside.
    unsafe {
        if product.add {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(&*product.c.add((panel * COLUMNS + n) * product.c_step + row + r));
                }
            }
        }
        let mut a = product.a.add(row).cast::<f32>();
        let mut b = product.b.add(panel * product.depth * LANES * COLUMNS);
        for _ in 0..product.depth {
            for lane in 0..LANES {
                let mut columns = [V::splat(0.0); COLUMNS];
                for (n, column) in columns.iter_mut().enumerate() {
                    *column = V::load(&*b.add(n));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let value = V::splat(*a.add(r * LANES + lane));
                    for (sum, column) in sums.iter_mut().zip(&columns) {
                        *sum = value.mul_add(*column, *sum);
                    }
                }
                b = b.add(COLUMNS);
            }
            a = a.add(product.a_step * LANES);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                sum.store(&mut *product.c.add((panel * COLUMNS + n) * product.c_step + row + r));
            }
        }
    }
}

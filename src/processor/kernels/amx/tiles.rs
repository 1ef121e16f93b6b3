// SPDX-License-Identifier: MPL-2.0

//! The tile registers, and the product that all of AMX's kernels are made of.

use std::{arch::asm, marker::PhantomData};

use super::is_supported;
use crate::processor::Lanes;

/// Rows and columns of a product: two tiles of 16 each. Also the numbers summed in a step, 16 pairs.
pub const SIDE: usize = 32;
/// Lines of the right factor in a step: two tiles.
pub const STEP: usize = 32;
/// Lines of the next right factor that are fetched in a step.
pub const FETCHED: usize = 8;

/// The operand of `ldtilecfg`: all eight tiles have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_of_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The configured tile registers of this thread, which must not have two of these at a time. They are released when
/// this is dropped: their state slows every context switch.
pub struct Tiles {
    /// It must stay in its thread.
    thread: PhantomData<*const ()>,
    /// There are no tile registers: plain code computes the products, so that everything else can be tested.
    #[cfg(test)]
    are_missing: bool,
}

/// The steps of a product: `rows` times `columns` of them, each of which takes the left factor from another place.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    pub rows: usize,
    /// From a row of steps to the next, in lines.
    pub pitch: usize,
    pub columns: usize,
    /// From a step to the next, in lines.
    pub stride: usize,
}

impl Steps {
    /// How many there are; `None` is too many to count.
    pub fn count(&self) -> Option<usize> {
        self.rows.checked_mul(self.columns)
    }

    /// Whether there is a step, and all of them lie inside a left and a right factor of so many lines.
    fn fit(&self, left: usize, right: usize) -> bool {
        let reach = || {
            let last_row = self.rows.checked_sub(1)?.checked_mul(self.pitch)?;
            let last_column = self.columns.checked_sub(1)?.checked_mul(self.stride)?;
            last_row.checked_add(last_column)?.checked_add(SIDE)
        };
        let lines = || self.count()?.checked_mul(STEP);
        reach().is_some_and(|reach| reach <= left) && lines().is_some_and(|lines| lines <= right)
    }
}

/// `sums += a b`, 32 rows and 32 columns.
pub struct Product<'a> {
    /// The left factor: a line for each row has 32 numbers of it. The 32 lines of the first step come first.
    pub a: &'a [Lanes],
    pub steps: Steps,
    /// The right factor: for each step a tile of the first 16 columns and one of the others. A line of a tile has of
    /// each column the two numbers that belong to a pair of the left factor's.
    pub b: &'a [Lanes],
    /// The next right factor: [`FETCHED`] lines of each [`STEP`] are fetched into the cache.
    pub next: &'a [Lanes],
    /// Two lines for each row: the sums of its columns.
    pub sums: &'a mut [Lanes],
    /// From a row of the sums to the next, in lines.
    pub sums_pitch: usize,
    /// Whether the sums begin at zero instead of what they are.
    pub fresh: bool,
}

impl Tiles {
    /// Configures the tile registers of this thread.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn configure() -> Self {
        #[cfg(test)]
        if !is_supported() {
            return Self { thread: PhantomData, are_missing: true };
        }
        assert!(is_supported(), "there are no tile registers");
        // SAFETY: there are.
        unsafe { Self::configure_unchecked() }
    }

    /// The same without checking whether it is supported.
    ///
    /// # Safety
    ///
    /// The processor must have AMX, and the system must permit it.
    pub unsafe fn configure_unchecked() -> Self {
        // SAFETY: the caller vouches for the instruction, and the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) };
        Self {
            thread: PhantomData,
            #[cfg(test)]
            are_missing: false,
        }
    }

    /// Computes `product`.
    ///
    /// A step loads four tiles and multiplies four times. The loads, from the first-level cache at 8 cycles each, hide
    /// behind the products at 16 cycles each.
    ///
    /// # Panics
    ///
    /// If a slice is too short.
    pub fn multiply(&self, product: Product) {
        let Product { a, steps, b, next, ref sums, sums_pitch, fresh } = product;
        assert!(steps.fit(a.len(), b.len()));
        let sums_reach = sums_pitch.checked_mul(SIDE - 1).and_then(|last| last.checked_add(2));
        assert!(sums_reach.is_some_and(|reach| reach <= sums.len()));
        #[cfg(test)]
        if self.are_missing {
            return super::tests::multiply(product);
        }
        let sums = product.sums;
        // SAFETY: the tiles are configured, as long as `self` lives and in this thread. All lines that are read or
        // written are inside the slices, by the assertions; `next` is only prefetched, which never fails. A pitch or
        // stride that wraps is that of a single row or column, after which nothing is read.
        unsafe {
            asm!(
                "test {n}, {n}",
                "jnz 2f",
                "mov {n}, {sums_pitch}",
                "shl {n}, 4",
                "lea {p}, [{sums} + {n}]",
                "tileloadd tmm0, [{sums} + {sums_pitch}*1]",
                "tileloadd tmm1, [{sums} + {sums_pitch}*1 + 64]",
                "tileloadd tmm2, [{p} + {sums_pitch}*1]",
                "tileloadd tmm3, [{p} + {sums_pitch}*1 + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "mov {p}, {a}",
                "mov {n}, {columns}",
                "4:",
                "tileloadd tmm4, [{p} + {line}*1]",
                "tileloadd tmm6, [{b} + {line}*1]",
                "tileloadd tmm7, [{b} + {line}*1 + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{p} + {line}*1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht0 [{next}]",
                "prefetcht0 [{next} + 64]",
                "prefetcht0 [{next} + 128]",
                "prefetcht0 [{next} + 192]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "prefetcht0 [{next} + 256]",
                "prefetcht0 [{next} + 320]",
                "prefetcht0 [{next} + 384]",
                "prefetcht0 [{next} + 448]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {p}, {stride}",
                "add {b}, 2048",
                "add {next}, 2048",
                "dec {n}",
                "jnz 4b",
                "add {a}, {pitch}",
                "dec {rows}",
                "jnz 3b",
                "mov {n}, {sums_pitch}",
                "shl {n}, 4",
                "lea {p}, [{sums} + {n}]",
                "tilestored [{sums} + {sums_pitch}*1], tmm0",
                "tilestored [{sums} + {sums_pitch}*1 + 64], tmm1",
                "tilestored [{p} + {sums_pitch}*1], tmm2",
                "tilestored [{p} + {sums_pitch}*1 + 64], tmm3",
                n = inout(reg) usize::from(fresh) => _,
                p = out(reg) _,
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                next = inout(reg) next.as_ptr() => _,
                rows = inout(reg) steps.rows => _,
                columns = in(reg) steps.columns,
                pitch = in(reg) steps.pitch.wrapping_mul(size_of::<Lanes>()),
                stride = in(reg) steps.stride.wrapping_mul(size_of::<Lanes>()),
                line = in(reg) size_of::<Lanes>(),
                sums = in(reg) sums.as_mut_ptr(),
                sums_pitch = in(reg) sums_pitch * size_of::<Lanes>(),
                out("tmm0") _,
                out("tmm1") _,
                out("tmm2") _,
                out("tmm3") _,
                out("tmm4") _,
                out("tmm5") _,
                out("tmm6") _,
                out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(test)]
        if self.are_missing {
            return;
        }
        // SAFETY: the instruction exists where tiles were configured.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_outside_of_the_factors_do_not_fit() {
        let steps = |rows, pitch, columns, stride| Steps { rows, pitch, columns, stride };
        assert!(steps(3, 7, 2, 1).fit(2 * 7 + 1 + SIDE, 6 * STEP));
        assert!(!steps(3, 7, 2, 1).fit(2 * 7 + SIDE, 6 * STEP));
        assert!(!steps(3, 7, 2, 1).fit(2 * 7 + 1 + SIDE, 6 * STEP - 1));
        let (half, most) = (usize::MAX / 2 + 1, usize::MAX);
        // Sums and products that would wrap to 0 or a small number.
        for steps in [
            steps(0, 1, 1, 1),
            steps(1, 1, 0, 1),
            steps(3, half, 1, 1),
            steps(1, 1, 3, half),
            steps(2, most - SIDE + 1, 1, 1),
            steps(2, half, 2, half),
            steps(half, 0, 2, 0),
            steps(half / STEP * 2, 0, 1, 0),
        ] {
            assert!(!steps.fit(1000, 1000), "{steps:?}");
        }
    }
}

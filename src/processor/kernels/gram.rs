// SPDX-License-Identifier: MPL-2.0

//! Memory for Gram matrices, and what all backends do with them.

use std::ops::Range;

use super::{Shape, sum};
use crate::processor::{Engine, LANES, Lanes, Parts, Task, Vector};

/// Blocks of rows of the matrix that a job computes.
const ROWS_OF_JOB: usize = 4;

/// The Gram matrix of feature maps of one shape, and the memory to compute it in.
pub struct GramMatrix {
    shape: Shape,
    /// How many parts the positions are divided into. It depends on the shape alone, because the results depend on it.
    chunks: usize,
    /// Sums over each part of the positions, `[chunk][row][column]`; blocks below the diagonal are unused.
    partial: Vec<Lanes>,
    values: Vec<Lanes>,
    difference: Vec<Lanes>,
    /// The squares of the difference, for each block of rows.
    squares: Vec<f64>,
}

impl GramMatrix {
    /// Memory for feature maps of `shape`.
    pub fn new(shape: Shape) -> Self {
        let chunks = chunks(shape);
        let matrix = vec![Lanes::ZERO; shape.channels * shape.blocks()];
        Self {
            shape,
            chunks,
            partial: vec![Lanes::ZERO; chunks * matrix.len()],
            values: matrix.clone(),
            difference: matrix,
            squares: vec![0.0; shape.blocks()],
        }
    }

    /// A matrix for this many channels whose values are known, `[row][column]`.
    pub fn from_values(channels: usize, values: Vec<Lanes>) -> Self {
        let gram = Self::new(Shape { channels, height: 1, width: 1 });
        assert_eq!(values.len(), gram.values.len());
        Self { values, ..gram }
    }

    /// The bytes of one for feature maps of `shape`.
    pub fn memory_for(shape: Shape) -> usize {
        (chunks(shape) + 2) * shape.channels * shape.blocks() * size_of::<Lanes>()
    }

    /// The matrix that was last computed, `[row][column]`.
    pub fn values(&self) -> &[Lanes] {
        &self.values
    }

    /// Replaces this matrix by M D M, where D is its difference from `target` and M a metric. All are symmetric,
    /// `[row][column]`. Returns `<M D, D M>`, the squared distance in the metric, of which 2 M D M is the gradient for D.
    pub fn difference_in_metric(&mut self, engine: &mut Engine, target: &[Lanes], metric: &[Lanes]) -> f64 {
        assert_eq!([target.len(), metric.len()], [self.values.len(); 2]);
        let (kind, shape) = (engine.kind(), self.shape);
        for (value, target) in self.values.iter_mut().zip(target) {
            value.0.iter_mut().zip(target.0).for_each(|(value, target)| *value -= target);
        }
        let (panels, scratch) = (shape.blocks() / kind.panel(), shape.channels * kind.panel());
        let (difference, products) = (&self.values[..], &Parts::new(&mut self.difference));
        engine.for_each(panels, scratch, |panel, packed| {
            let factors = [difference, metric];
            kind.run(PanelOfProduct { shape, factors, panel, packed, product: products, other: None });
        });
        let results = &mut self.partial[..difference.len()];
        let (products, result, squares) = (&self.difference[..], &Parts::new(results), Parts::new(&mut self.squares));
        engine.for_each(panels, scratch, |panel, packed| {
            // SAFETY: no other job has this number.
            let mut square = unsafe { squares.part(panel..panel + 1) };
            square[0] = 0.0;
            let (factors, other) = ([metric, products], Some((difference, &mut square[0])));
            kind.run(PanelOfProduct { shape, factors, panel, packed, product: result, other });
        });
        self.values.copy_from_slice(&self.partial[..target.len()]);
        self.squares[..panels].iter().sum()
    }

    /// The sum of the squares, in a metric M, of the feature maps F of which this is the Gram matrix G:
    /// `<M F, F> = positions * channels * <M, G>`.
    pub fn squared_norm_in_metric(&self, metric: &[Lanes]) -> f64 {
        (self.shape.positions() * self.shape.channels) as f64 * inner_product(&self.values, metric)
    }

    /// The shape of the feature maps.
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Computes the matrix. `add_up` fills rows of it, given in blocks and as `[row][column]`, with sums over one of
    /// `chunks` parts of the positions; columns left of the diagonal are not used. It gets memory of `scratch`
    /// [`Lanes`].
    pub(super) fn compute(
        &mut self,
        engine: &mut Engine,
        scratch: usize,
        add_up: impl Fn((usize, usize), Range<usize>, &mut [Lanes], &mut [Lanes]) + Sync,
    ) {
        let (shape, chunks, matrix) = (self.shape, self.chunks, self.values.len());
        let partial = Parts::new(&mut self.partial);
        engine.for_each(chunks * shape.blocks().div_ceil(ROWS_OF_JOB), scratch, |job, scratch| {
            // The first rows have the most columns right of the diagonal and come first.
            let (chunk, rows) = (job % chunks, job / chunks * ROWS_OF_JOB);
            let rows = rows..shape.blocks().min(rows + ROWS_OF_JOB);
            let row = shape.blocks() * LANES;
            let start = chunk * matrix;
            // SAFETY: no other job has these rows of this chunk.
            let mut sums = unsafe { partial.part(start + rows.start * row..start + rows.end * row) };
            add_up((chunk, chunks), rows, scratch, &mut sums);
        });
        let (partial, values) = (&self.partial[..], Parts::new(&mut self.values));
        // SAFETY: each block has a job of its own.
        engine.for_each(shape.blocks(), 0, |block, _| unsafe { gather(shape, partial, &values, block) });
    }

    /// Subtracts a target from the matrix and returns the squared distance. `subtract` packs the difference for a block
    /// of rows in places that no other block has, and returns its square.
    pub(super) fn subtract(
        &mut self,
        engine: &mut Engine,
        target: &[Lanes],
        subtract: impl Fn(usize, &[Lanes], &Parts<Lanes>) -> f64 + Sync,
    ) -> f64 {
        assert_eq!(target.len(), self.values.len());
        let (values, difference) = (&self.values[..], Parts::new(&mut self.difference));
        let squares = Parts::new(&mut self.squares);
        engine.for_each(self.shape.blocks(), 0, |block, _| {
            // SAFETY: no other job has this block.
            let mut squares = unsafe { squares.part(block..block + 1) };
            squares[0] = subtract(block, values, &difference);
        });
        self.squares.iter().sum()
    }

    /// What [`subtract`](Self::subtract) packed.
    pub(super) fn difference(&self) -> &[Lanes] {
        &self.difference
    }
}

/// The sum of the element-wise products.
fn inner_product(one: &[Lanes], other: &[Lanes]) -> f64 {
    let pairs = one.iter().zip(other).flat_map(|(one, other)| one.0.into_iter().zip(other.0));
    pairs.map(|(one, other)| f64::from(one) * f64::from(other)).sum()
}

/// The columns of one panel of a product of square matrices, all `[row][column]`.
struct PanelOfProduct<'a> {
    shape: Shape,
    factors: [&'a [Lanes]; 2],
    panel: usize,
    /// Memory for the panel of the right factor, whose rows are too far apart for the cache.
    packed: &'a mut [Lanes],
    /// No other job writes to these columns.
    product: &'a Parts<'a, Lanes>,
    /// A matrix, and what its inner product with the panel is added to.
    other: Option<(&'a [Lanes], &'a mut f64)>,
}

impl Task for PanelOfProduct<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        if V::COLUMNS == 2 { self.multiply::<V, 8, 2>() } else { self.multiply::<V, 4, 1>() }
    }
}

impl PanelOfProduct<'_> {
    /// Computes the panel, `ROWS` rows at a time.
    #[inline(always)]
    fn multiply<V: Vector, const ROWS: usize, const COLUMNS: usize>(mut self) {
        let (blocks, first) = (self.shape.blocks(), self.panel * COLUMNS);
        let [left, right] = self.factors;
        for (packed, row) in self.packed.chunks_exact_mut(COLUMNS).zip(right.chunks_exact(blocks)) {
            packed.copy_from_slice(&row[first..first + COLUMNS]);
        }
        for (n, left) in left.chunks_exact(ROWS * blocks).enumerate() {
            let mut sums = [[V::splat(0.0); COLUMNS]; ROWS];
            for (block, packed) in self.packed.chunks_exact(LANES * COLUMNS).enumerate() {
                let mut rows = [&left[block]; ROWS];
                for (row, lanes) in rows.iter_mut().enumerate() {
                    *lanes = &left[row * blocks + block];
                }
                for lane in 0..LANES {
                    let mut columns = [V::splat(0.0); COLUMNS];
                    for (column, right) in columns.iter_mut().zip(&packed[lane * COLUMNS..]) {
                        *column = V::load(right);
                    }
                    for (row, sums) in rows.iter().zip(&mut sums) {
                        let factor = V::splat(row.0[lane]);
                        for (sum, column) in sums.iter_mut().zip(&columns) {
                            *sum = factor.mul_add(*column, *sum);
                        }
                    }
                }
            }
            let mut squares = V::splat(0.0);
            for (row, sums) in sums.iter().enumerate() {
                let start = (n * ROWS + row) * blocks + first;
                // SAFETY: no other job has these columns.
                let mut product = unsafe { self.product.part(start..start + COLUMNS) };
                for (column, sum) in sums.iter().enumerate() {
                    if let Some((other, _)) = &self.other {
                        squares = sum.mul_add(V::load(&other[start + column]), squares);
                    }
                    sum.store(&mut product[column]);
                }
            }
            if let Some((_, total)) = &mut self.other {
                **total += sum(squares);
            }
        }
    }
}

/// How many parts the positions are divided into.
fn chunks(shape: Shape) -> usize {
    (shape.positions() / 2048).clamp(1, 16)
}

/// Adds up the chunks of one block of rows from the diagonal on, and mirrors them.
///
/// # Safety
///
/// No other thread may do so with this block.
unsafe fn gather(shape: Shape, partial: &[Lanes], values: &Parts<Lanes>, block: usize) {
    let scale = 1.0 / (shape.positions() * shape.channels) as f32;
    let at = |row: usize, column: usize| row * shape.blocks() + column;
    for column in block..shape.blocks() {
        let mut square = [[0.0; LANES]; LANES];
        for chunk in partial.chunks_exact(shape.channels * shape.blocks()) {
            for (row, sums) in square.iter_mut().enumerate() {
                let terms = &chunk[at(block * LANES + row, column)];
                sums.iter_mut().zip(&terms.0).for_each(|(sum, term)| *sum += term);
            }
        }
        for row in 0..LANES {
            let (here, mirrored) = (at(block * LANES + row, column), at(column * LANES + row, block));
            // SAFETY: this pair of blocks belongs to no other job.
            unsafe {
                values.part(here..here + 1)[0] = Lanes(square[row].map(|sum| sum * scale));
                values.part(mirrored..mirrored + 1)[0] = Lanes(square.map(|sums| sums[row] * scale));
            }
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Memory for Gram matrices, and what all backends do with them.

use std::ops::Range;

use super::Shape;
use crate::processor::{Engine, LANES, Lanes, Parts};

/// Blocks of rows of the matrix that a job computes.
const ROWS_OF_JOB: usize = 4;

/// The Gram matrix of feature maps of one shape, and the memory to compute it in.
pub struct GramMatrix {
    shape: Shape,
    /// Into how many parts the positions are divided. It depends on the shape alone, since sums depend on it.
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

    /// The bytes of one for feature maps of `shape`.
    pub fn memory_for(shape: Shape) -> usize {
        (chunks(shape) + 2) * shape.channels * shape.blocks() * size_of::<Lanes>()
    }

    /// The matrix that was last computed, `[row][column]`.
    pub fn values(&self) -> &[Lanes] {
        &self.values
    }

    /// The shape of the feature maps.
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Computes the matrix. `add_up` fills rows of it, given in blocks and as `[row][column]`, with sums over one of
    /// so many chunks of the positions: columns left of the diagonal are not looked at. It gets memory of `scratch`
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

/// Into how many parts the positions are divided.
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

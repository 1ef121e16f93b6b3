// SPDX-License-Identifier: MPL-2.0

//! Gram matrices, and their difference from those of the style as a matrix to multiply feature maps with.

use super::Shape;
#[cfg(target_arch = "x86_64")]
use super::amx;
use crate::processor::{Engine, Kind, LANES, Lanes, Parts, Precision, Task, Vector};

/// Positions of which all channels fit into the cache.
const STRETCH: usize = 128;
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
    /// Of the difference, for each block of rows.
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

    /// The matrix that was last computed.
    pub fn values(&self) -> &[Lanes] {
        &self.values
    }

    /// Computes `F F^T / (positions * channels)`.
    pub fn compute(&mut self, engine: &mut Engine, features: &[Lanes]) {
        let shape = self.shape;
        assert_eq!(features.len(), engine.kind().lanes(shape));
        let (kind, chunks, matrix) = (engine.kind(), self.chunks, self.values.len());
        let partial = Parts::new(&mut self.partial);
        let scratch = match kind {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => amx::sums_scratch(shape),
            _ => 0,
        };
        engine.for_each(chunks * shape.blocks().div_ceil(ROWS_OF_JOB), scratch, |job, _scratch| {
            // The first rows have the most columns right of the diagonal and come first.
            let (chunk, rows) = (job % chunks, job / chunks * ROWS_OF_JOB);
            let rows = rows..shape.blocks().min(rows + ROWS_OF_JOB);
            let row = shape.blocks() * LANES;
            let start = chunk * matrix;
            // SAFETY: no other job has these rows of this chunk.
            let sums = unsafe { partial.part(start + rows.start * row..start + rows.end * row) };
            match kind {
                // SAFETY: this kind is supported.
                #[cfg(target_arch = "x86_64")]
                Kind::Amx => unsafe { amx::sums(shape, features, (chunk, chunks), rows, _scratch, sums) },
                _ => {
                    let positions = chunk * shape.positions() / chunks..(chunk + 1) * shape.positions() / chunks;
                    kind.run(Sums { shape, features, positions, rows, sums });
                }
            }
        });
        let partial = &self.partial[..];
        let values = Parts::new(&mut self.values);
        engine.for_each(shape.blocks(), 0, |block, _| gather(shape, partial, values, block));
    }

    /// Prepares the gradient of the distance from `target`: the difference times `slope`, packed to be multiplied
    /// with. Returns the squared distance.
    pub fn difference(&mut self, engine: &mut Engine, target: &[Lanes], slope: f32) -> (f64, &[Lanes]) {
        let shape = self.shape;
        assert_eq!(target.len(), self.values.len());
        let (kind, values) = (engine.kind(), &self.values[..]);
        let (difference, squares) = (Parts::new(&mut self.difference), Parts::new(&mut self.squares));
        engine.for_each(shape.blocks(), 0, |block, _| {
            // SAFETY: no other job has this block.
            let squares = unsafe { &mut squares.part(block..block + 1)[0] };
            match kind {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: this kind is supported.
                Kind::Amx => unsafe {
                    *squares = amx::difference(shape, values, target, slope, block, difference);
                },
                _ => kind.run(Difference {
                    shape,
                    panel: kind.panel(),
                    values,
                    target,
                    slope,
                    block,
                    difference,
                    squares,
                }),
            }
        });
        // In bfloat16 it takes half as much.
        let len = self.difference.len() / if kind.precision() == Precision::Bf16 { 2 } else { 1 };
        (self.squares.iter().sum(), &self.difference[..len])
    }
}

/// Into how many parts the positions are divided.
fn chunks(shape: Shape) -> usize {
    (shape.positions() / 2048).clamp(1, 16)
}

struct Sums<'a> {
    shape: Shape,
    features: &'a [Lanes],
    positions: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
    /// `[row][column]`
    sums: &'a mut [Lanes],
}

impl Task for Sums<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        self.sums.fill(Lanes::ZERO);
        for start in self.positions.clone().step_by(STRETCH) {
            let count = STRETCH.min(self.positions.end - start);
            let stretch = |block: usize| &self.features[block * self.shape.positions() + start..][..count];
            for row in self.rows.clone() {
                let sums = &mut self.sums[(row - self.rows.start) * LANES * self.shape.blocks()..];
                for column in (row / V::COLUMNS * V::COLUMNS..self.shape.blocks()).step_by(V::COLUMNS) {
                    let sums = &mut sums[column..];
                    if V::COLUMNS == 2 {
                        let columns = [stretch(column), stretch(column + 1)];
                        tiles::<V, 8, 2>(stretch(row), columns, sums, self.shape.blocks());
                    } else {
                        tiles::<V, 4, 1>(stretch(row), [stretch(column)], sums, self.shape.blocks());
                    }
                }
            }
        }
    }
}

/// Adds the products of a block of channels with others to `sums`, `ROWS` channels at a time.
#[inline(always)]
fn tiles<V: Vector, const ROWS: usize, const COLUMNS: usize>(
    row: &[Lanes],
    columns: [&[Lanes]; COLUMNS],
    sums: &mut [Lanes],
    pitch: usize,
) {
    for first in (0..LANES).step_by(ROWS) {
        let mut tile = [[V::splat(0.0); COLUMNS]; ROWS];
        for (r, tile) in tile.iter_mut().enumerate() {
            for (n, sum) in tile.iter_mut().enumerate() {
                *sum = V::load(&sums[(first + r) * pitch + n]);
            }
        }
        for (position, channels) in row.iter().enumerate() {
            let mut others = [V::splat(0.0); COLUMNS];
            for (other, column) in others.iter_mut().zip(columns) {
                // SAFETY: all stretches have the same length.
                *other = V::load(unsafe { column.get_unchecked(position) });
            }
            for (r, tile) in tile.iter_mut().enumerate() {
                let channel = V::splat(channels.0[first + r]);
                for (sum, other) in tile.iter_mut().zip(&others) {
                    *sum = channel.mul_add(*other, *sum);
                }
            }
        }
        for (r, tile) in tile.iter().enumerate() {
            for (n, sum) in tile.iter().enumerate() {
                sum.store(&mut sums[(first + r) * pitch + n]);
            }
        }
    }
}

/// Adds up the chunks of one block of rows from the diagonal on, and mirrors them.
fn gather(shape: Shape, partial: &[Lanes], values: Parts<Lanes>, block: usize) {
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

struct Difference<'a> {
    shape: Shape,
    panel: usize,
    values: &'a [Lanes],
    target: &'a [Lanes],
    slope: f32,
    block: usize,
    difference: Parts<'a, Lanes>,
    squares: &'a mut f64,
}

impl Task for Difference<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let slope = V::splat(self.slope);
        *self.squares = 0.0;
        for row in self.block * LANES..(self.block + 1) * LANES {
            let mut squares = V::splat(0.0);
            for column in 0..self.shape.blocks() {
                let at = row * self.shape.blocks() + column;
                let difference = V::load(&self.values[at]).sub(V::load(&self.target[at]));
                squares = difference.mul_add(difference, squares);
                let place = (column / self.panel * self.shape.channels + row) * self.panel + column % self.panel;
                // SAFETY: no other job has this row.
                difference.mul(slope).store(unsafe { &mut self.difference.part(place..place + 1)[0] });
            }
            *self.squares += sum(squares);
        }
    }
}

/// The sum of sixteen numbers.
#[inline(always)]
pub fn sum<V: Vector>(vector: V) -> f64 {
    let mut lanes = Lanes::ZERO;
    vector.store(&mut lanes);
    lanes.0.iter().map(|&value| f64::from(value)).sum()
}

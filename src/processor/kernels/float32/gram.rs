// SPDX-License-Identifier: MPL-2.0

//! Gram matrices, and their difference from those of the style as a matrix to multiply feature maps with.

use std::ops::Range;

use crate::processor::{
    Engine, LANES, Lanes, Parts, Task, Vector,
    kernels::{GramMatrix, Shape, sum},
};

/// Positions of which all channels fit into the cache.
const STRETCH: usize = 128;

pub(super) fn compute(engine: &mut Engine, gram: &mut GramMatrix, features: &[Lanes]) {
    let (shape, kind) = (gram.shape(), engine.kind());
    assert_eq!(features.len(), shape.lanes());
    gram.compute(engine, 0, |(chunk, chunks), rows, _, sums| {
        let positions = chunk * shape.positions() / chunks..(chunk + 1) * shape.positions() / chunks;
        kind.run(Sums { shape, features, positions, rows, sums });
    });
}

pub(super) fn difference<'g>(
    engine: &mut Engine,
    gram: &'g mut GramMatrix,
    target: &[Lanes],
    slope: f32,
) -> (f64, &'g [Lanes]) {
    let (shape, kind) = (gram.shape(), engine.kind());
    let distance = gram.subtract(engine, target, |block, values, difference| {
        let mut squares = 0.0;
        let panel = kind.panel();
        kind.run(Difference { shape, panel, values, target, slope, block, difference, squares: &mut squares });
        squares
    });
    (distance, gram.difference())
}

struct Sums<'a> {
    shape: Shape,
    features: &'a [Lanes],
    positions: Range<usize>,
    rows: Range<usize>,
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

struct Difference<'a> {
    shape: Shape,
    panel: usize,
    values: &'a [Lanes],
    target: &'a [Lanes],
    slope: f32,
    block: usize,
    difference: &'a Parts<'a, Lanes>,
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
                let mut packed = unsafe { self.difference.part(place..place + 1) };
                difference.mul(slope).store(&mut packed[0]);
            }
            *self.squares += sum(squares);
        }
    }
}

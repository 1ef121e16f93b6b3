// SPDX-License-Identifier: MPL-2.0

//! 3x3 convolution by the minimal filtering algorithm F(4x4, 3x3) of Winograd (1980; Lavin and Gray 2016): 36
//! products for 16 outputs that take 144 directly.
//!
//! A job computes a few tiles of 4x4 outputs from start to end, so that intermediate results stay in the cache: the 6x6
//! inputs of each tile are transformed, and so are the filters; the 36 matrices of tiles times channels are multiplied
//! with those of the filters, and the products transformed back. Transforming the filters in each job costs a few
//! hundredths of the products. Transforming them once would cost more: transformed, they take four times the memory,
//! and small images are limited by the time to read them.
//!
//! The points of interpolation are 0, ±√½, ±√2 and infinity. That √½ and √2 are reciprocal keeps the transforms well
//! conditioned: the error is a fraction of that of the common points 0, ±1, ±2.

use std::{
    f32::consts::{FRAC_1_SQRT_2, SQRT_2},
    ops::Range,
};

use super::filters::{HalfFilters, TAPS};
use crate::processor::{
    Engine, LANES, Lanes, Parts, Task, Vector,
    kernels::{
        Shape,
        epilogue::{Epilogue, SharedEpilogue},
    },
    matrix::Product,
};

/// An array from an expression for each element. `array::from_fn` takes a closure, which might not be inlined.
macro_rules! array {
    ([$($value:literal),*] |$n:ident| $element:expr) => {
        [$({
            let $n: usize = $value;
            $element
        }),*]
    };
}

/// An array of three.
macro_rules! three {
    (|$n:ident| $element:expr) => {
        array!([0, 1, 2] | $n | $element)
    };
}

/// An array of six.
macro_rules! six {
    (|$n:ident| $element:expr) => {
        array!([0, 1, 2, 3, 4, 5] | $n | $element)
    };
}

/// Outputs of a tile on each side.
const SIDE: usize = 4;
/// Inputs of a tile on each side.
const REACH: usize = 6;
/// Products of a tile.
const POINTS: usize = REACH * REACH;
/// Tiles of a job, which are multiplied with each transformed filter while it is in the cache.
const TILES: usize = 48;
/// Blocks of inputs whose filters are transformed at a time: the matrix of one point fits into the first-level cache,
/// those of all 36 into the second.
const CHUNK: usize = 4;

/// Convolves `input`, of shape `shape`, with `filters`.
pub fn convolve(
    engine: &mut Engine,
    shape: Shape,
    input: &[Lanes],
    filters: &HalfFilters,
    epilogue: Epilogue,
    output: &mut [Lanes],
) {
    let blocks = filters.outputs / LANES;
    assert_eq!(filters.inputs, shape.channels);
    assert_eq!(input.len(), shape.lanes());
    assert_eq!(output.len(), blocks * shape.positions());
    let epilogue = &epilogue.share(filters.outputs, output.len());
    let kind = engine.kind();
    let tiles = shape.height.div_ceil(SIDE) * shape.width.div_ceil(SIDE);
    let plan = Plan::new(tiles, shape.blocks(), blocks, kind.panel(), engine.threads());
    let output = &Parts::new(output);
    engine.for_each(plan.jobs(), plan.scratch(), |job, scratch| {
        // Jobs that share their columns follow each other: their filters are still in the cache.
        let (part, group) = (job / plan.groups, job % plan.groups);
        let tiles = group * plan.tiles..tiles.min((group + 1) * plan.tiles);
        let columns = part * plan.columns..blocks.min((part + 1) * plan.columns);
        kind.run(Job { shape, input, filters, epilogue, output, tiles, columns, scratch });
    });
}

/// How a convolution is divided into jobs. It has no influence on the result.
#[derive(Debug, Clone, Copy)]
struct Plan {
    depth: usize,
    panel: usize,
    /// Tiles of a job.
    tiles: usize,
    /// How many jobs that makes for all tiles.
    groups: usize,
    /// Blocks of outputs of a job.
    columns: usize,
    /// How many jobs that makes for all blocks.
    parts: usize,
}

impl Plan {
    fn new(tiles: usize, depth: usize, blocks: usize, panel: usize, threads: usize) -> Self {
        let groups = tiles.div_ceil(TILES).max(1);
        let tiles_of_job = tiles.div_ceil(groups).next_multiple_of(4);
        let groups = tiles.div_ceil(tiles_of_job);
        // The transform of the inputs is repeated for each part of the outputs: that is worth it only to give every
        // thread something to do.
        let parts = (4 * threads).div_ceil(groups).min(blocks.div_ceil(4)).max(1);
        let columns = blocks.div_ceil(parts).next_multiple_of(panel);
        Self { depth, panel, tiles: tiles_of_job, groups, columns, parts: blocks.div_ceil(columns) }
    }

    fn jobs(&self) -> usize {
        self.groups * self.parts
    }

    fn scratch(&self) -> usize {
        let inputs = point_step(self.depth, self.tiles);
        let products = point_step(self.panel, self.tiles);
        let filters = point_step(self.panel, CHUNK * LANES);
        POINTS * (inputs + products + filters)
    }
}

/// From the matrix of one point to the next. One more than needed, or all 36 would compete for one set of the cache.
fn point_step(blocks: usize, rows: usize) -> usize {
    blocks * rows + 1
}

struct Job<'a> {
    shape: Shape,
    input: &'a [Lanes],
    filters: &'a HalfFilters,
    epilogue: &'a SharedEpilogue<'a>,
    output: &'a Parts<'a, Lanes>,
    tiles: Range<usize>,
    columns: Range<usize>,
    scratch: &'a mut [Lanes],
}

impl Task for Job<'_> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let (depth, rows) = (self.shape.blocks(), self.tiles.len());
        let input_step = point_step(depth, rows);
        let product_step = point_step(V::COLUMNS, rows);
        let filter_step = point_step(V::COLUMNS, CHUNK * LANES);
        let scratch = std::mem::take(&mut self.scratch);
        let (inputs, scratch) = scratch.split_at_mut(POINTS * input_step);
        let (products, scratch) = scratch.split_at_mut(POINTS * product_step);
        let filters = &mut scratch[..POINTS * filter_step];
        for block in 0..depth {
            self.transform_inputs::<V>(block, inputs, input_step);
        }
        for panel in self.columns.start / V::COLUMNS..self.columns.end / V::COLUMNS {
            for start in (0..depth).step_by(CHUNK) {
                let blocks = start..depth.min(start + CHUNK);
                self.transform_filters::<V>(panel, blocks.clone(), filters, filter_step);
                for point in 0..POINTS {
                    let product = Product {
                        a: inputs[point * input_step + start * rows..].as_ptr(),
                        a_step: rows,
                        rows,
                        depth: blocks.len(),
                        b: filters[point * filter_step..].as_ptr(),
                        c: products[point * product_step..].as_mut_ptr(),
                        c_step: rows,
                        columns: V::COLUMNS,
                        add: start > 0,
                    };
                    // SAFETY: the slices, which end after a matrix of each size, are in bounds; `c` is a slice of its
                    // own.
                    unsafe { V::multiply(&product) };
                }
            }
            for column in 0..V::COLUMNS {
                self.transform_outputs::<V>(panel * V::COLUMNS + column, &products[column * rows..], product_step);
            }
        }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn transform_inputs<V: Vector>(&self, block: usize, transformed: &mut [Lanes], step: usize) {
        let Shape { height, width, .. } = self.shape;
        let plane = &self.input[block * height * width..][..height * width];
        let across = width.div_ceil(SIDE);
        let first = block * self.tiles.len();
        let mut edge = [Lanes::ZERO; POINTS];
        for (n, tile) in self.tiles.clone().enumerate() {
            let (top, left) = (tile / across * SIDE, tile % across * SIDE);
            let inside = top > 0 && left > 0 && top + REACH <= height + 1 && left + REACH <= width + 1;
            let (patch, pitch) = if inside {
                (&plane[(top - 1) * width + left - 1..], width)
            } else {
                copy_edge(&mut edge, plane, (height, width), (top, left));
                (&edge[..], REACH)
            };
            let rows = six!(|y| {
                let inputs = &patch[y * pitch..][..REACH];
                input_transform(six!(|x| V::load(&inputs[x])))
            });
            for (x, points) in transformed.chunks_exact_mut(REACH * step).enumerate() {
                let column = input_transform(six!(|y| rows[y][x]));
                for (value, matrix) in column.iter().zip(points.chunks_exact_mut(step)) {
                    value.store(&mut matrix[first + n]);
                }
            }
        }
    }

    /// Transforms the filters of a panel of outputs for some blocks of inputs.
    #[inline(always)]
    fn transform_filters<V: Vector>(&self, panel: usize, blocks: Range<usize>, transformed: &mut [Lanes], step: usize) {
        let rows = panel * self.filters.inputs + blocks.start * LANES..panel * self.filters.inputs + blocks.end * LANES;
        let filters = &self.filters.packed[rows.start * V::COLUMNS * TAPS..rows.end * V::COLUMNS * TAPS];
        for (n, taps) in filters.chunks_exact(TAPS).enumerate() {
            let rows = three!(|y| filter_transform(three!(|x| V::widen(&taps[3 * y + x]))));
            for (x, points) in transformed.chunks_exact_mut(REACH * step).enumerate() {
                let column = filter_transform(three!(|y| rows[y][x]));
                for (value, matrix) in column.iter().zip(points.chunks_exact_mut(step)) {
                    value.store(&mut matrix[n]);
                }
            }
        }
    }

    #[inline(always)]
    fn transform_outputs<V: Vector>(&self, block: usize, products: &[Lanes], step: usize) {
        let Shape { height, width, .. } = self.shape;
        let across = width.div_ceil(SIDE);
        let unit = V::splat(self.filters.unit);
        let mut bias = Lanes::ZERO;
        if let SharedEpilogue::Relu { bias: biases, .. } = self.epilogue {
            bias.0.copy_from_slice(&biases[block * LANES..][..LANES]);
        }
        let (bias, zero) = (V::load(&bias), V::splat(0.0));
        for (n, tile) in self.tiles.clone().enumerate() {
            let columns = six!(|x| output_transform(six!(|y| V::load(&products[(x * REACH + y) * step + n]))));
            let (top, left) = (tile / across * SIDE, tile % across * SIDE);
            let visible = SIDE.min(width - left);
            #[allow(clippy::needless_range_loop)] // It is the second index of two.
            for y in 0..SIDE.min(height - top) {
                let start = (block * height + top + y) * width + left;
                // SAFETY: no other job has this tile and block.
                let mut outputs = unsafe { self.output.part(start..start + visible) };
                let row = output_transform(six!(|x| columns[x][y]));
                let row = row.iter().zip(outputs.iter_mut());
                match self.epilogue {
                    SharedEpilogue::Relu { positive, .. } => {
                        // SAFETY: as for the outputs.
                        let mut positive =
                            positive.as_ref().map(|positive| unsafe { positive.part(start..start + visible) });
                        for (x, (value, output)) in row.enumerate() {
                            let value = value.mul_add(unit, bias).max(zero);
                            if let Some(positive) = &mut positive {
                                positive[x] = value.above(zero);
                            }
                            value.store(output);
                        }
                    }
                    SharedEpilogue::Masked(bits) => {
                        for ((value, output), bits) in row.zip(&bits[start..]) {
                            value.mul(unit).keep(*bits).store(output);
                        }
                    }
                    SharedEpilogue::Plain => {
                        for (value, output) in row {
                            value.mul(unit).store(output);
                        }
                    }
                }
            }
        }
    }
}

/// Copies the inputs of a tile at the edge of the image, with zeros for what lies outside.
#[inline(always)]
fn copy_edge(
    patch: &mut [Lanes; POINTS],
    plane: &[Lanes],
    (height, width): (usize, usize),
    (top, left): (usize, usize),
) {
    patch.fill(Lanes::ZERO);
    let columns = left.saturating_sub(1)..width.min(left + REACH - 1);
    for y in top.saturating_sub(1)..height.min(top + REACH - 1) {
        let row = &plane[y * width..][columns.clone()];
        patch[(y + 1 - top) * REACH + columns.start + 1 - left..][..row.len()].copy_from_slice(row);
    }
}

#[inline(always)]
fn input_transform<V: Vector>(d: [V; REACH]) -> [V; REACH] {
    let (half, two) = (V::splat(-0.5), V::splat(-2.0));
    let (a, b, sum) = (V::splat(FRAC_1_SQRT_2), V::splat(SQRT_2), V::splat(-2.5));
    let even_a = d[2].mul_add(two, d[4]);
    let odd_a = d[1].mul_add(two, d[3]).mul(a);
    let even_b = d[2].mul_add(half, d[4]);
    let odd_b = d[1].mul_add(half, d[3]).mul(b);
    [
        d[2].mul_add(sum, d[0].add(d[4])),
        even_a.add(odd_a),
        even_a.sub(odd_a),
        even_b.add(odd_b),
        even_b.sub(odd_b),
        d[3].mul_add(sum, d[1].add(d[5])),
    ]
}

/// Without the scale of the rows of two points, which [`output_transform`] makes up for.
#[inline(always)]
fn filter_transform<V: Vector>(g: [V; 3]) -> [V; REACH] {
    let (half, two) = (V::splat(0.5), V::splat(2.0));
    let (a, b, minus_a, minus_b) =
        (V::splat(FRAC_1_SQRT_2), V::splat(SQRT_2), V::splat(-FRAC_1_SQRT_2), V::splat(-SQRT_2));
    let (even_a, even_b) = (g[2].mul_add(half, g[0]), g[2].mul_add(two, g[0]));
    [
        g[0],
        g[1].mul_add(a, even_a),
        g[1].mul_add(minus_a, even_a),
        g[1].mul_add(b, even_b),
        g[1].mul_add(minus_b, even_b),
        g[2],
    ]
}

#[inline(always)]
fn output_transform<V: Vector>(m: [V; REACH]) -> [V; SIDE] {
    let (even_a, odd_a) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (even_b, odd_b) = (m[3].add(m[4]), m[3].sub(m[4]));
    [
        m[0].add(sum_of(even_a, 1.0, even_b, 1.0)),
        sum_of(odd_a, FRAC_1_SQRT_2, odd_b, SQRT_2),
        sum_of(even_a, 0.5, even_b, 2.0),
        m[5].add(sum_of(odd_a, 0.5 * FRAC_1_SQRT_2, odd_b, 2.0 * SQRT_2)),
    ]
}

/// The terms of two points with the scales of their rows of the filter transform, times the powers of the points.
#[inline(always)]
fn sum_of<V: Vector>(a: V, power_a: f32, b: V, power_b: f32) -> V {
    a.mul_add(V::splat(power_a / -1.5), b.mul(V::splat(power_b / 6.0)))
}

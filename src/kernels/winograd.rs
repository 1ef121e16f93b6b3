// SPDX-License-Identifier: MPL-2.0

//! 3x3 convolution by the minimal filtering algorithm F(4x4, 3x3) of Winograd (1980; Lavin and Gray 2016): 36
//! products for 16 outputs that take 144 directly.
//!
//! A job takes a few tiles of 4x4 outputs through all three steps, so that what is between them stays in the cache:
//! the 6x6 inputs of each tile are transformed, the 36 matrices of tiles times channels multiplied with those of the
//! filters, and the products transformed back.
//!
//! The points of interpolation are 0, ±√½, ±√2 and infinity. Their products of one keep the transforms well
//! conditioned: the error is a fraction of that of the common points 0, ±1, ±2.

use std::{
    f32::consts::{FRAC_1_SQRT_2, SQRT_2},
    ops::Range,
};

use super::{
    Engine, Shape,
    matrix::Product,
    threads::Parts,
    vector::{LANES, Lanes, Task, Vector},
};
use crate::vgg::Convolution;

/// An array of six by what each is. Closures, as `array::from_fn` has, would not surely be inlined.
macro_rules! six {
    (|$n:ident| $element:expr) => {
        [
            six!($n = 0, $element),
            six!($n = 1, $element),
            six!($n = 2, $element),
            six!($n = 3, $element),
            six!($n = 4, $element),
            six!($n = 5, $element),
        ]
    };
    ($n:ident = $value:literal, $element:expr) => {{
        let $n: usize = $value;
        $element
    }};
}

/// Outputs of a tile on each side.
const SIDE: usize = 4;
/// Inputs of a tile on each side.
const REACH: usize = 6;
/// Products of a tile.
const POINTS: usize = REACH * REACH;

/// Which way a convolution is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From input to output.
    Forward,
    /// From the gradient of the output to that of the input.
    Backward,
}

/// What becomes of the results of a convolution.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    /// The bias is added and what is negative becomes zero. One bit for each number tells if it is above zero.
    Relu { bias: &'a [f32], positive: Option<Parts<'a, u16>> },
    /// Numbers whose bit is not set become zero.
    Masked(&'a [u16]),
    /// They stay.
    Plain,
}

/// Channels of input and output of `convolution`.
fn channels(convolution: &Convolution, direction: Direction) -> (usize, usize) {
    match direction {
        Direction::Forward => (convolution.inputs, convolution.outputs),
        Direction::Backward => (convolution.outputs, convolution.inputs),
    }
}

/// How many [`Lanes`] the transformed filters of a convolution take, either way.
pub fn transformed_len(convolution: &Convolution) -> usize {
    POINTS * convolution.inputs * convolution.outputs / LANES
}

/// Writes the transformed filters to `filters`: for each point a matrix, inputs times outputs, packed as
/// `Product` wants it.
pub fn transform_filters(engine: &mut Engine, convolution: &Convolution, direction: Direction, filters: &mut [Lanes]) {
    let (_, outputs) = channels(convolution, direction);
    assert_eq!(filters.len(), transformed_len(convolution));
    let kind = engine.kind();
    let (panel, filters) = (kind.panel(), Parts::new(filters));
    engine.for_each(outputs / LANES, 0, |block, _| {
        kind.run(Filters { convolution, direction, panel, block, filters });
    });
}

/// The filters of one block of outputs.
struct Filters<'a> {
    convolution: &'a Convolution,
    direction: Direction,
    panel: usize,
    block: usize,
    filters: Parts<'a, Lanes>,
}

impl Task for Filters<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (inputs, outputs) = channels(self.convolution, self.direction);
        let matrix = inputs * outputs / LANES;
        let (panel, column) = (self.block / self.panel, self.block % self.panel);
        for input in 0..inputs {
            let mut taps = [Lanes::ZERO; 9];
            for lane in 0..LANES {
                let output = self.block * LANES + lane;
                let (filter, turn) = match self.direction {
                    Direction::Forward => (output * inputs + input, 0),
                    Direction::Backward => (input * outputs + output, 8),
                };
                let filter = &self.convolution.weight[9 * filter..][..9];
                for (tap, lanes) in taps.iter_mut().enumerate() {
                    lanes.0[lane] = filter[turn.max(tap) - turn.min(tap)];
                }
            }
            let mut rows = [[V::splat(0.0); 3]; REACH];
            for x in 0..3 {
                let column = filter_transform([V::load(&taps[x]), V::load(&taps[x + 3]), V::load(&taps[x + 6])]);
                for (row, value) in rows.iter_mut().zip(column) {
                    row[x] = value;
                }
            }
            for (y, row) in rows.into_iter().enumerate() {
                for (x, value) in filter_transform(row).into_iter().enumerate() {
                    let at = (y * REACH + x) * matrix + (panel * inputs + input) * self.panel + column;
                    // SAFETY: no other job has this block of outputs.
                    value.store(unsafe { &mut self.filters.part(at..at + 1)[0] });
                }
            }
        }
    }
}

/// Convolves `input`, of shape `shape`, with transformed filters to `outputs` channels.
pub fn convolve(
    engine: &mut Engine,
    shape: Shape,
    input: &[Lanes],
    filters: &[Lanes],
    epilogue: Epilogue,
    output: &mut [Lanes],
) {
    let blocks = output.len() / shape.positions();
    assert_eq!(input.len(), shape.lanes());
    assert_eq!(output.len(), blocks * shape.positions());
    assert_eq!(filters.len(), POINTS * shape.channels * blocks);
    match epilogue {
        Epilogue::Relu { bias, positive } => {
            assert_eq!(bias.len(), blocks * LANES);
            assert!(positive.is_none_or(|positive| positive.has_length(output.len())));
        }
        Epilogue::Masked(bits) => assert_eq!(bits.len(), output.len()),
        Epilogue::Plain => {}
    }

    let kind = engine.kind();
    let tiles = shape.height.div_ceil(SIDE) * shape.width.div_ceil(SIDE);
    let plan = Plan::new(tiles, shape.blocks(), blocks, kind.panel(), engine.threads());
    let output = Parts::new(output);
    engine.for_each(plan.jobs(), plan.scratch(), |job, scratch| {
        // Jobs that share their columns follow each other: the filters are still in the cache.
        let (part, group) = (job / plan.groups, job % plan.groups);
        let tiles = group * plan.tiles..tiles.min((group + 1) * plan.tiles);
        let columns = part * plan.columns..blocks.min((part + 1) * plan.columns);
        kind.run(Job { shape, blocks, input, filters, epilogue, output, tiles, columns, scratch });
    });
}

/// How a convolution is divided into jobs. It does not change any result.
#[derive(Debug, Clone, Copy)]
struct Plan {
    depth: usize,
    /// Tiles of a job.
    tiles: usize,
    /// How many times that covers all tiles.
    groups: usize,
    /// Blocks of outputs of a job.
    columns: usize,
    /// How many times that covers all blocks.
    parts: usize,
}

impl Plan {
    fn new(tiles: usize, depth: usize, blocks: usize, panel: usize, threads: usize) -> Self {
        // Transformed inputs and products of a job are to stay in the cache. With many channels that is hopeless, and
        // what counts is that the filters, fetched anew for each job, meet many tiles.
        let wanted = if depth.max(blocks) <= 4 { 24 } else { 48 };
        let groups = tiles.div_ceil(wanted).max(1);
        let tiles_of_job = tiles.div_ceil(groups).next_multiple_of(4);
        let groups = tiles.div_ceil(tiles_of_job);
        // The transform of the inputs is repeated for each part of the outputs: that is worth it only to give every
        // thread something to do.
        let parts = (4 * threads).div_ceil(groups).min(blocks.div_ceil(4)).max(1);
        let columns = blocks.div_ceil(parts).next_multiple_of(panel);
        Self { depth, tiles: tiles_of_job, groups, columns, parts: blocks.div_ceil(columns) }
    }

    fn jobs(&self) -> usize {
        self.groups * self.parts
    }

    fn scratch(&self) -> usize {
        POINTS * (point_step(self.depth, self.tiles) + point_step(self.columns, self.tiles))
    }
}

/// From the matrix of one point to the next. One more than needed: else all 36 would compete for one set of the cache.
fn point_step(blocks: usize, tiles: usize) -> usize {
    blocks * tiles + 1
}

struct Job<'a> {
    shape: Shape,
    /// Of all outputs.
    blocks: usize,
    input: &'a [Lanes],
    filters: &'a [Lanes],
    epilogue: Epilogue<'a>,
    output: Parts<'a, Lanes>,
    tiles: Range<usize>,
    columns: Range<usize>,
    scratch: &'a mut [Lanes],
}

impl Task for Job<'_> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let (depth, rows, columns) = (self.shape.blocks(), self.tiles.len(), self.columns.len());
        let (input_step, output_step) = (point_step(depth, rows), point_step(columns, rows));
        let scratch = std::mem::take(&mut self.scratch);
        let (transformed, products) = scratch.split_at_mut(POINTS * input_step);
        let products = &mut products[..POINTS * output_step];
        for block in 0..depth {
            self.transform_inputs::<V>(block, transformed, input_step);
        }
        for point in 0..POINTS {
            let filters = &self.filters[(point * self.blocks + self.columns.start) * self.shape.channels..];
            let product = Product {
                a: transformed[point * input_step..].as_ptr(),
                a_step: rows,
                rows,
                depth,
                b: filters[..columns * self.shape.channels].as_ptr(),
                c: products[point * output_step..].as_mut_ptr(),
                c_step: rows,
                columns,
            };
            // SAFETY: the slices, which end after a matrix of each size, are in bounds; `c` is a slice of its own.
            unsafe { V::multiply(&product) };
        }
        for column in 0..columns {
            self.transform_outputs::<V>(column, products, output_step);
        }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn transform_inputs<V: Vector>(&self, block: usize, transformed: &mut [Lanes], step: usize) {
        let Shape { height, width, .. } = self.shape;
        let plane = &self.input[block * height * width..][..height * width];
        let across = width.div_ceil(SIDE);
        let matrix = block * self.tiles.len();
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
            for x in 0..REACH {
                let column = input_transform(six!(|y| rows[y][x]));
                for (y, value) in column.iter().enumerate() {
                    value.store(&mut transformed[(y * REACH + x) * step + matrix + n]);
                }
            }
        }
    }

    #[inline(always)]
    fn transform_outputs<V: Vector>(&self, column: usize, products: &[Lanes], step: usize) {
        let Shape { height, width, .. } = self.shape;
        let across = width.div_ceil(SIDE);
        let block = self.columns.start + column;
        let matrix = column * self.tiles.len();
        let mut bias = Lanes::ZERO;
        if let Epilogue::Relu { bias: biases, .. } = self.epilogue {
            bias.0.copy_from_slice(&biases[block * LANES..][..LANES]);
        }
        let (bias, zero) = (V::load(&bias), V::splat(0.0));
        for (n, tile) in self.tiles.clone().enumerate() {
            let columns = six!(|x| output_transform(six!(|y| V::load(&products[(y * REACH + x) * step + matrix + n]))));
            let (top, left) = (tile / across * SIDE, tile % across * SIDE);
            let visible = SIDE.min(width - left);
            #[allow(clippy::needless_range_loop)] // It is the second index of two.
            for y in 0..SIDE.min(height - top) {
                let start = (block * height + top + y) * width + left;
                // SAFETY: no other job has this tile and block.
                let outputs = unsafe { self.output.part(start..start + visible) };
                let row = output_transform(six!(|x| columns[x][y]));
                for (x, (&value, output)) in row.iter().zip(outputs).enumerate() {
                    let value = match self.epilogue {
                        Epilogue::Relu { positive, .. } => {
                            let value = value.add(bias).max(zero);
                            if let Some(positive) = positive {
                                // SAFETY: as for the outputs.
                                unsafe { positive.part(start + x..start + x + 1)[0] = value.above(zero) };
                            }
                            value
                        }
                        Epilogue::Masked(bits) => value.keep(bits[start + x]),
                        Epilogue::Plain => value,
                    };
                    value.store(output);
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

#[inline(always)]
fn output_transform<V: Vector>(m: [V; REACH]) -> [V; SIDE] {
    let (half, two) = (V::splat(0.5), V::splat(2.0));
    let (a, b) = (V::splat(FRAC_1_SQRT_2), V::splat(SQRT_2));
    let (even_a, odd_a) = (m[1].add(m[2]), m[1].sub(m[2]).mul(a));
    let (even_b, odd_b) = (m[3].add(m[4]), m[3].sub(m[4]).mul(b));
    [
        m[0].add(even_a).add(even_b),
        odd_a.add(odd_b),
        even_b.mul_add(two, even_a.mul(half)),
        odd_b.mul_add(two, odd_a.mul_add(half, m[5])),
    ]
}

#[inline(always)]
fn filter_transform<V: Vector>(g: [V; 3]) -> [V; REACH] {
    let (a, b) = (V::splat(FRAC_1_SQRT_2), V::splat(SQRT_2));
    let (half, two) = (V::splat(0.5), V::splat(2.0));
    let (scale_a, scale_b) = (V::splat(-1.0 / 1.5), V::splat(1.0 / 6.0));
    let (even_a, odd_a) = (g[2].mul_add(half, g[0]).mul(scale_a), g[1].mul(a).mul(scale_a));
    let (even_b, odd_b) = (g[2].mul_add(two, g[0]).mul(scale_b), g[1].mul(b).mul(scale_b));
    [g[0], even_a.add(odd_a), even_a.sub(odd_a), even_b.add(odd_b), even_b.sub(odd_b), g[2]]
}

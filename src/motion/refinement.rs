// SPDX-License-Identifier: MPL-2.0

//! Variational refinement (Brox, Bruhn, Papenberg and Weickert 2004): from a flow that is about right to one that is
//! smooth wherever the picture does not contradict.
//!
//! The flow minimizes the sum over the pixels of
//!
//! ```text
//! P(brightness constancy^2) + GRADIENT * P(gradient constancy^2) + SMOOTHNESS * P(|grad u|^2 + |grad v|^2)
//! ```
//!
//! with P(s^2) = sqrt(s^2 + e^2). Both constancies are divided by the gradient of what shall be constant, so that they
//! are distances in pixels (Zimmer, Bruhn and Weickert 2011). A round takes them for linear and P for
//! quadratic at the flow so far, which gives a system of linear equations, and comes close to its solution by
//! successive over-relaxation.

use std::{array, ops::Range};

use super::{Flow, pyramid::Plane};
use crate::kernels::{Task, Vector};

/// Weights of the terms.
const BRIGHTNESS: f32 = 5.0;
const GRADIENT: f32 = 10.0;
const SMOOTHNESS: f32 = 5.0;
/// Square of the gradient, in levels a pixel, below which it counts as noise.
const NOISE: f32 = 1.0;
/// e^2 in P.
const EPSILON: f32 = 1e-4;
/// Half sweeps of the relaxation in a round, and by how much each goes beyond.
const HALF_SWEEPS: usize = 10;
const RELAXATION: f32 = 1.6;

/// Rows that a job computes beyond its own on either side. A pixel hears of the next in half a sweep, so that the rows
/// a job keeps come out as if it had all.
const MARGIN: usize = HALF_SWEEPS;
/// Columns beyond the edges in the memory of a job, so that edges need no code of their own.
const PAD: usize = 2;

/// One round for some rows of a flow.
pub struct Refine<'a> {
    pub picture: &'a Plane,
    pub other: &'a Plane,
    pub flow: &'a Flow,
    pub rows: Range<usize>,
    /// Where the rows of the refined flow go.
    pub x: &'a mut [f32],
    pub y: &'a mut [f32],
    pub memory: &'a mut Memory,
}

/// What a job computes with, to be used again.
#[derive(Default)]
pub struct Memory {
    mean: Vec<f32>,
    difference: Vec<f32>,
    /// 1 where the flow stays in the picture, else 0.
    inside: Vec<f32>,
    /// The flow, before and while it is refined.
    x: Vec<f32>,
    y: Vec<f32>,
    smoothness: Vec<f32>,
    /// Weights of the smoothness between a pixel and the next on the right, and the next below.
    right: Vec<f32>,
    below: Vec<f32>,
    /// The inverse of the matrix of a pixel: xx, xy, yy.
    inverse: [Vec<f32>; 3],
    /// The right side of its equations.
    constant: [Vec<f32>; 2],
    /// The flow of a row, before it changes.
    before: Vec<f32>,
    /// [`RELAXATION`] and 0 in turns.
    blend: Vec<f32>,
}

/// Rows of the memory: `rows` of the picture and PAD more on each side.
#[derive(Clone)]
struct Layout {
    width: usize,
    height: usize,
    rows: Range<usize>,
}

impl Layout {
    #[inline(always)]
    fn stride(&self) -> usize {
        self.width + 2 * PAD
    }

    #[inline(always)]
    fn len(&self) -> usize {
        (self.rows.len() + 2 * PAD) * self.stride()
    }

    /// Where the row of the picture begins, with its padding. `y` may be up to PAD rows outside.
    #[inline(always)]
    fn start(&self, y: isize) -> usize {
        (y + PAD as isize - self.rows.start as isize).cast_unsigned() * self.stride()
    }

    #[inline(always)]
    fn row<'a>(&self, plane: &'a [f32], y: isize) -> &'a [f32] {
        &plane[self.start(y)..][..self.stride()]
    }

    #[inline(always)]
    fn row_mut<'a>(&self, plane: &'a mut [f32], y: isize) -> &'a mut [f32] {
        let start = self.start(y);
        &mut plane[start..][..self.stride()]
    }

    /// For each pixel of a row, that so many columns and rows further. All such slices are as long as the picture is
    /// wide, so that a loop over them needs no checks and is compiled for many pixels at a time.
    #[inline(always)]
    fn near<'a>(&self, plane: &'a [f32], y: isize, columns: isize) -> &'a [f32] {
        &plane[self.start(y) + PAD.wrapping_add_signed(columns)..][..self.width]
    }

    /// The weights of a row towards left, right, above and below.
    #[inline(always)]
    fn smoothness<'a>(&self, right: &'a [f32], below: &'a [f32], y: isize) -> [&'a [f32]; 4] {
        [self.near(right, y, -1), self.near(right, y, 0), self.near(below, y - 1, 0), self.near(below, y, 0)]
    }

    #[inline(always)]
    fn pixels_mut<'a>(&self, plane: &'a mut [f32], y: isize) -> &'a mut [f32] {
        let start = self.start(y) + PAD;
        &mut plane[start..][..self.width]
    }
}

impl Task for Refine<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (width, height) = (self.flow.width, self.flow.height);
        let rows = self.rows.start.saturating_sub(MARGIN)..(self.rows.end + MARGIN).min(height);
        let layout = Layout { width, height, rows };
        let memory = self.memory;
        memory.resize(&layout);
        memory.warp(&layout, self.picture, self.other, self.flow);
        memory.weigh_smoothness(&layout);
        memory.set_up(&layout);
        // All half sweeps go down the rows together, each a row behind the one before, so that a row is still in the
        // cache when the next comes to it. They find every pixel as if they had gone one after the other.
        for front in layout.rows.start..layout.rows.end + HALF_SWEEPS {
            for half in 0..HALF_SWEEPS {
                if let Some(row) = front.checked_sub(half).filter(|row| layout.rows.contains(row)) {
                    memory.relax(&layout, row, half % 2);
                }
            }
        }
        for y in self.rows.clone() {
            let at = (y - self.rows.start) * width;
            self.x[at..at + width].copy_from_slice(&layout.row(&memory.x, y as isize)[PAD..PAD + width]);
            self.y[at..at + width].copy_from_slice(&layout.row(&memory.y, y as isize)[PAD..PAD + width]);
        }
    }
}

impl Memory {
    fn resize(&mut self, layout: &Layout) {
        let Self { mean, difference, inside, x, y, smoothness, right, below, inverse, constant, before, blend } = self;
        let single = [mean, difference, inside, x, y, smoothness, right, below];
        for plane in single.into_iter().chain(inverse).chain(constant) {
            plane.resize(layout.len(), 0.0);
        }
        before.resize(2 * layout.stride(), 0.0);
        blend.clear();
        blend.extend([RELAXATION, 0.0].iter().cycle().take(layout.width + 1));
    }

    /// Takes the flow over, and the mean and the difference of the picture and the other one, warped by it.
    #[inline(always)]
    fn warp(&mut self, layout: &Layout, picture: &Plane, other: &Plane, flow: &Flow) {
        const BEYOND: isize = PAD as isize;
        let (width, height) = (layout.width, layout.height);
        let (right, bottom) = ((width - 1) as f32, (height - 1) as f32);
        for row in layout.rows.start as isize - BEYOND..layout.rows.end as isize + BEYOND {
            let y = row.clamp(0, height as isize - 1).cast_unsigned();
            let (flow_x, flow_y) = (&flow.x[y * width..][..width], &flow.y[y * width..][..width]);
            let mean = layout.row_mut(&mut self.mean, row);
            let difference = layout.row_mut(&mut self.difference, row);
            let inside = layout.row_mut(&mut self.inside, row);
            for x in 0..width {
                let (to_x, to_y) = (x as f32 + flow_x[x], y as f32 + flow_y[x]);
                let (x_in, y_in) = (to_x.clamp(0.0, right), to_y.clamp(0.0, bottom));
                inside[x + PAD] = if x_in == to_x && y_in == to_y { 1.0 } else { 0.0 };
                mean[x + PAD] = other.at(x_in, y_in);
            }
            for (x, &level) in picture.row(y).iter().enumerate() {
                difference[x + PAD] = mean[x + PAD] - level;
                mean[x + PAD] = 0.5 * (mean[x + PAD] + level);
            }
            extend(mean);
            extend(difference);
            for (plane, flow) in [(&mut self.x, flow_x), (&mut self.y, flow_y)] {
                let to = layout.row_mut(plane, row);
                to[PAD..PAD + width].copy_from_slice(flow);
                extend(to);
            }
        }
    }

    /// The derivative of P for the smoothness, between neighbours.
    #[inline(always)]
    fn weigh_smoothness(&mut self, layout: &Layout) {
        let (stride, height) = (layout.stride(), layout.height as isize);
        let rows = layout.rows.start as isize..layout.rows.end as isize;
        for y in rows.start - 1..rows.end + 1 {
            let start = layout.start(y);
            // All columns but the first and the last.
            let around = [&self.x, &self.y].map(|plane| {
                [start - stride, start + stride, start - 1, start + 1].map(|start| &plane[start + 1..][..stride - 2])
            });
            smoothness_row(&mut self.smoothness[start + 1..][..stride - 2], &around);
        }
        for y in rows.start - 1..rows.end {
            let [here, right, below] = [(y, 0), (y, 1), (y + 1, 0)].map(|(y, x)| layout.near(&self.smoothness, y, x));
            mean_row(layout.pixels_mut(&mut self.right, y), here, right);
            mean_row(layout.pixels_mut(&mut self.below, y), here, below);
            // Nothing lies beyond the edges.
            let edge = layout.start(y) + PAD;
            self.right[edge - 1] = 0.0;
            self.right[edge + layout.width - 1] = 0.0;
            if y < 0 || y + 1 == height {
                layout.pixels_mut(&mut self.below, y).fill(0.0);
            }
        }
    }

    /// The equations of each pixel, solved for its own flow.
    #[inline(always)]
    fn set_up(&mut self, layout: &Layout) {
        for y in layout.rows.start as isize..layout.rows.end as isize {
            let equations = Equations {
                mean: array::from_fn(|row| {
                    array::from_fn(|column| layout.near(&self.mean, y + row as isize - 2, column as isize - 2))
                }),
                difference: array::from_fn(|row| {
                    array::from_fn(|column| layout.near(&self.difference, y + row as isize - 1, column as isize - 1))
                }),
                inside: layout.near(&self.inside, y, 0),
                flow: [&self.x, &self.y].map(|plane| layout.near(plane, y, 0)),
                smoothness: layout.smoothness(&self.right, &self.below, y),
            };
            let [xx, xy, yy] = self.inverse.each_mut().map(|plane| layout.pixels_mut(plane, y));
            let [p, q] = self.constant.each_mut().map(|plane| layout.pixels_mut(plane, y));
            equations.solve(xx, xy, yy, p, q);
        }
    }

    /// Half a sweep of a row: the pixels of one colour of a chessboard, each by its equations and its neighbours' flow.
    #[inline(always)]
    fn relax(&mut self, layout: &Layout, row: usize, colour: usize) {
        let stride = layout.stride();
        let y = row as isize;
        // Only pixels of this colour change, and only those of the other are read: the values before serve.
        let (x_before, y_before) = self.before.split_at_mut(stride);
        x_before.copy_from_slice(layout.row(&self.x, y));
        y_before.copy_from_slice(layout.row(&self.y, y));
        let [(x_above, x, x_below), (y_above, y_here, y_below)] = [&mut self.x, &mut self.y].map(|plane| {
            let (above, rest) = plane.split_at_mut(layout.start(y));
            let (here, below) = rest.split_at_mut(stride);
            (
                &above[above.len() - stride..][PAD..][..layout.width],
                &mut here[PAD..][..layout.width],
                &below[PAD..][..layout.width],
            )
        });
        let sweep = Sweep {
            inverse: self.inverse.each_ref().map(|plane| layout.near(plane, y, 0)),
            constant: self.constant.each_ref().map(|plane| layout.near(plane, y, 0)),
            smoothness: layout.smoothness(&self.right, &self.below, y),
            x: [&x_before[PAD - 1..][..layout.width], &x_before[PAD + 1..][..layout.width], x_above, x_below],
            y: [&y_before[PAD - 1..][..layout.width], &y_before[PAD + 1..][..layout.width], y_above, y_below],
            blend: &self.blend[(row + colour) % 2..][..layout.width],
        };
        sweep.relax(x, y_here);
    }
}

/// [`SMOOTHNESS`] times the derivative of P, given the flow above, below, left and right.
#[inline(always)]
fn smoothness_row(to: &mut [f32], flow: &[[&[f32]; 4]; 2]) {
    for n in 0..to.len() {
        let square = |[above, below, left, right]: &[&[f32]; 4]| {
            let (dx, dy) = (0.5 * (right[n] - left[n]), 0.5 * (below[n] - above[n]));
            dx * dx + dy * dy
        };
        to[n] = SMOOTHNESS / (square(&flow[0]) + square(&flow[1]) + EPSILON).sqrt();
    }
}

#[inline(always)]
fn mean_row(to: &mut [f32], a: &[f32], b: &[f32]) {
    to.iter_mut().zip(a).zip(b).for_each(|((to, a), b)| *to = 0.5 * (a + b));
}

/// What the equations of a row of pixels are made of. All slices are as long as the row. Those that are written to are
/// arguments of [`solve`](Self::solve): that they overlap no other is then known to the compiler, which can compute
/// many pixels at a time.
struct Equations<'a> {
    /// The pixels around each, up to two rows and columns away.
    mean: [[&'a [f32]; 5]; 5],
    /// The same, up to one.
    difference: [[&'a [f32]; 3]; 3],
    inside: &'a [f32],
    flow: [&'a [f32]; 2],
    /// The weights towards left, right, above and below.
    smoothness: [&'a [f32]; 4],
}

impl Equations<'_> {
    #[inline(always)]
    fn solve(&self, xx: &mut [f32], xy: &mut [f32], yy: &mut [f32], p: &mut [f32], q: &mut [f32]) {
        let Self { mean, difference, inside, flow, smoothness } = self;
        for n in 0..xx.len() {
            let ix = 0.5 * (mean[2][3][n] - mean[2][1][n]);
            let iy = 0.5 * (mean[3][2][n] - mean[1][2][n]);
            let ixx = 0.25 * (mean[2][4][n] - 2.0 * mean[2][2][n] + mean[2][0][n]);
            let iyy = 0.25 * (mean[4][2][n] - 2.0 * mean[2][2][n] + mean[0][2][n]);
            let ixy = 0.25 * ((mean[3][3][n] - mean[3][1][n]) - (mean[1][3][n] - mean[1][1][n]));
            let iz = difference[1][1][n];
            let ixz = 0.5 * (difference[1][2][n] - difference[1][0][n]);
            let iyz = 0.5 * (difference[2][1][n] - difference[0][1][n]);

            let scale = 1.0 / (ix * ix + iy * iy + NOISE);
            let weight = inside[n] * BRIGHTNESS * scale / (scale * iz * iz + EPSILON).sqrt();
            let mut m = [weight * ix * ix, weight * ix * iy, weight * iy * iy];
            let mut r = [-weight * ix * iz, -weight * iy * iz];

            let x_scale = 1.0 / (ixx * ixx + ixy * ixy + NOISE);
            let y_scale = 1.0 / (ixy * ixy + iyy * iyy + NOISE);
            let squares = x_scale * ixz * ixz + y_scale * iyz * iyz;
            let weight = inside[n] * GRADIENT / (squares + EPSILON).sqrt();
            let (x_weight, y_weight) = (weight * x_scale, weight * y_scale);
            m[0] += x_weight * ixx * ixx + y_weight * ixy * ixy;
            m[1] += x_weight * ixx * ixy + y_weight * ixy * iyy;
            m[2] += x_weight * ixy * ixy + y_weight * iyy * iyy;
            r[0] -= x_weight * ixx * ixz + y_weight * ixy * iyz;
            r[1] -= x_weight * ixy * ixz + y_weight * iyy * iyz;

            let [flow_x, flow_y] = flow.map(|flow| flow[n]);
            p[n] = r[0] + m[0] * flow_x + m[1] * flow_y;
            q[n] = r[1] + m[1] * flow_x + m[2] * flow_y;
            // Of pixels that were found to stand still this keeps noise away.
            let moves = if flow_x == 0.0 && flow_y == 0.0 { 0.0 } else { 1.0 };
            let around = (smoothness[0][n] + smoothness[1][n]) + (smoothness[2][n] + smoothness[3][n]);
            // Not zero, even for a lone pixel without structure.
            let (a, b) = (m[0] + around + EPSILON, m[2] + around + EPSILON);
            let scale = moves / (a * b - m[1] * m[1]);
            xx[n] = b * scale;
            xy[n] = -m[1] * scale;
            yy[n] = a * scale;
        }
    }
}

/// What half a sweep reads of a row, in slices as those of [`Equations`].
struct Sweep<'a> {
    inverse: [&'a [f32]; 3],
    constant: [&'a [f32]; 2],
    smoothness: [&'a [f32]; 4],
    /// The flow to the left, to the right, above and below.
    x: [&'a [f32]; 4],
    y: [&'a [f32]; 4],
    /// By how much to go towards the solution: not at all for pixels of the other colour.
    blend: &'a [f32],
}

impl Sweep<'_> {
    #[inline(always)]
    fn relax(&self, x: &mut [f32], y: &mut [f32]) {
        let Self { inverse: [xx, xy, yy], constant, smoothness, .. } = self;
        for n in 0..x.len() {
            let pull = |flow: &[&[f32]; 4]| {
                (smoothness[0][n] * flow[0][n] + smoothness[1][n] * flow[1][n])
                    + (smoothness[2][n] * flow[2][n] + smoothness[3][n] * flow[3][n])
            };
            let (p, q) = (constant[0][n] + pull(&self.x), constant[1][n] + pull(&self.y));
            x[n] += self.blend[n] * (xx[n] * p + xy[n] * q - x[n]);
            y[n] += self.blend[n] * (xy[n] * p + yy[n] * q - y[n]);
        }
    }
}

/// Continues a row into its padding.
#[inline(always)]
fn extend(row: &mut [f32]) {
    let end = row.len() - PAD;
    let (first, last) = (row[PAD], row[end - 1]);
    row[..PAD].fill(first);
    row[end..].fill(last);
}

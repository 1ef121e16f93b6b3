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
//! are distances in pixels (Zimmer, Bruhn and Weickert 2011, section 3.2). A round takes them for linear and P for
//! quadratic at the flow so far, which gives a system of linear equations, and comes close to its solution by
//! successive over-relaxation.

use std::ops::Range;

use super::{Flow, pyramid::Plane};
use crate::kernels::{Task, Vector};

/// Weights of the terms.
const BRIGHTNESS: f32 = 5.0;
const GRADIENT: f32 = 10.0;
const SMOOTHNESS: f32 = 10.0;
/// Square of the gradient, in levels a pixel, below which it counts as noise.
const NOISE: f32 = 1.0;
/// e^2 in P.
const EPSILON: f32 = 1e-6;
/// Sweeps of the relaxation in a round, and by how much each goes beyond.
const SWEEPS: usize = 5;
const RELAXATION: f32 = 1.6;

/// Rows that a job computes beyond its own on either side. A pixel hears of the next in half a sweep, so that the rows
/// a job keeps come out as if it had all.
const MARGIN: usize = 2 * SWEEPS;
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
}

impl Task for Refine<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (width, height) = (self.flow.width, self.flow.height);
        let rows = self.rows.start.saturating_sub(MARGIN)..(self.rows.end + MARGIN).min(height);
        let layout = Layout { width, height, rows };
        let memory = self.memory;
        memory.resize(layout.len());
        memory.warp(&layout, self.picture, self.other, self.flow);
        memory.weigh_smoothness(&layout);
        memory.set_up(&layout);
        for _ in 0..SWEEPS {
            memory.relax(&layout, 0);
            memory.relax(&layout, 1);
        }
        for y in self.rows.clone() {
            let at = (y - self.rows.start) * width;
            self.x[at..at + width].copy_from_slice(&layout.row(&memory.x, y as isize)[PAD..PAD + width]);
            self.y[at..at + width].copy_from_slice(&layout.row(&memory.y, y as isize)[PAD..PAD + width]);
        }
    }
}

impl Memory {
    fn resize(&mut self, len: usize) {
        let Self { mean, difference, inside, x, y, smoothness, right, below, inverse, constant } = self;
        let single = [mean, difference, inside, x, y, smoothness, right, below];
        for plane in single.into_iter().chain(inverse).chain(constant) {
            plane.resize(len, 0.0);
        }
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
        let width = layout.width;
        for y in layout.rows.start as isize - 1..layout.rows.end as isize + 1 {
            let smoothness = &mut layout.row_mut(&mut self.smoothness, y)[PAD - 1..PAD + width + 1];
            smoothness.fill(EPSILON);
            for plane in [&self.x, &self.y] {
                let (above, here, below) = (layout.row(plane, y - 1), layout.row(plane, y), layout.row(plane, y + 1));
                let (above, below) = (&above[PAD - 1..], &below[PAD - 1..]);
                for (n, value) in smoothness.iter_mut().enumerate() {
                    let (dx, dy) = (0.5 * (here[n + 2] - here[n]), 0.5 * (below[n] - above[n]));
                    *value += dx * dx + dy * dy;
                }
            }
            smoothness.iter_mut().for_each(|value| *value = SMOOTHNESS / value.sqrt());
        }
        for y in layout.rows.start as isize - 1..layout.rows.end as isize {
            let last = y < 0 || y + 1 >= layout.height as isize;
            let (here, next) = (layout.row(&self.smoothness, y), layout.row(&self.smoothness, y + 1));
            let right = layout.row_mut(&mut self.right, y);
            let below = layout.row_mut(&mut self.below, y);
            for n in PAD..PAD + width {
                right[n] = 0.5 * (here[n] + here[n + 1]);
                below[n] = if last { 0.0 } else { 0.5 * (here[n] + next[n]) };
            }
            // Nothing lies beyond the edges.
            right[PAD - 1] = 0.0;
            right[PAD + width - 1] = 0.0;
        }
    }

    /// The equations of each pixel, solved for its own flow.
    #[inline(always)]
    fn set_up(&mut self, layout: &Layout) {
        let width = layout.width;
        for y in layout.rows.start as isize..layout.rows.end as isize {
            let window = |plane, n| &layout.row(plane, y + n)[..];
            let mean: [&[f32]; 5] = std::array::from_fn(|n| window(&self.mean, n as isize - 2));
            let difference: [&[f32]; 3] = std::array::from_fn(|n| window(&self.difference, n as isize - 1));
            let (inside, right) = (layout.row(&self.inside, y), layout.row(&self.right, y));
            let (above, below) = (layout.row(&self.below, y - 1), layout.row(&self.below, y));
            let (flow_x, flow_y) = (layout.row(&self.x, y), layout.row(&self.y, y));
            let [xx, xy, yy] = self.inverse.each_mut().map(|plane| &mut layout.row_mut(plane, y)[..PAD + width]);
            let [c, d] = self.constant.each_mut().map(|plane| &mut layout.row_mut(plane, y)[..PAD + width]);
            for n in PAD..PAD + width {
                let ix = 0.5 * (mean[2][n + 1] - mean[2][n - 1]);
                let iy = 0.5 * (mean[3][n] - mean[1][n]);
                let ixx = 0.25 * (mean[2][n + 2] - 2.0 * mean[2][n] + mean[2][n - 2]);
                let iyy = 0.25 * (mean[4][n] - 2.0 * mean[2][n] + mean[0][n]);
                let ixy = 0.25 * ((mean[3][n + 1] - mean[3][n - 1]) - (mean[1][n + 1] - mean[1][n - 1]));
                let iz = difference[1][n];
                let ixz = 0.5 * (difference[1][n + 1] - difference[1][n - 1]);
                let iyz = 0.5 * (difference[2][n] - difference[0][n]);

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

                c[n] = r[0] + m[0] * flow_x[n] + m[1] * flow_y[n];
                d[n] = r[1] + m[1] * flow_x[n] + m[2] * flow_y[n];
                let around = right[n - 1] + right[n] + above[n] + below[n];
                let (a, b) = (m[0] + around, m[2] + around);
                let scale = 1.0 / (a * b - m[1] * m[1]);
                xx[n] = b * scale;
                xy[n] = -m[1] * scale;
                yy[n] = a * scale;
            }
        }
    }

    /// Half a sweep: the pixels of one colour of a chessboard, each by its equations and its neighbours' flow.
    #[inline(always)]
    fn relax(&mut self, layout: &Layout, colour: usize) {
        let width = layout.width;
        for y in layout.rows.clone() {
            let blend: [f32; 2] = if (y + colour).is_multiple_of(2) { [RELAXATION, 0.0] } else { [0.0, RELAXATION] };
            let y = y as isize;
            let right = layout.row(&self.right, y);
            let (weight_above, weight_below) = (layout.row(&self.below, y - 1), layout.row(&self.below, y));
            let [xx, xy, yy] = self.inverse.each_ref().map(|plane| &layout.row(plane, y)[..PAD + width]);
            let [c, d] = self.constant.each_ref().map(|plane| &layout.row(plane, y)[..PAD + width]);
            let [x_rows, y_rows] = [&mut self.x, &mut self.y].map(|plane| {
                let start = layout.start(y);
                let (above, rest) = plane.split_at_mut(start);
                let (here, below) = rest.split_at_mut(layout.stride());
                (&above[start - layout.stride()..], here, &below[..layout.stride()])
            });
            // Only the pixels of this colour change, and only those of the other are read: the old values serve.
            let old = self.smoothness[..2 * layout.stride()].split_at_mut(layout.stride());
            old.0.copy_from_slice(x_rows.1);
            old.1.copy_from_slice(y_rows.1);
            for n in PAD..PAD + width {
                let around = |old: &[f32], above: &[f32], below: &[f32]| {
                    (right[n - 1] * old[n - 1] + right[n] * old[n + 1])
                        + (weight_above[n] * above[n] + weight_below[n] * below[n])
                };
                let p = c[n] + around(old.0, x_rows.0, x_rows.2);
                let q = d[n] + around(old.1, y_rows.0, y_rows.2);
                let blend = blend[n % 2];
                x_rows.1[n] = old.0[n] + blend * (xx[n] * p + xy[n] * q - old.0[n]);
                y_rows.1[n] = old.1[n] + blend * (xy[n] * p + yy[n] * q - old.1[n]);
            }
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

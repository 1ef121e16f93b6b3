// SPDX-License-Identifier: MPL-2.0

//! Variational refinement (Brox, Bruhn, Papenberg and Weickert 2004) of a flow that is about right: the result is smooth
//! wherever the picture allows.
//!
//! The flow minimizes the sum over the pixels of
//!
//! ```text
//! P(brightness constancy^2) + GRADIENT * P(gradient constancy^2) + SMOOTHNESS * P(|grad u|^2 + |grad v|^2)
//! ```
//!
//! with P(s^2) = sqrt(s^2 + e^2). Both constancies are divided by the gradient of what should be constant, so that they
//! are distances in pixels (Zimmer, Bruhn and Weickert 2011). A round makes them linear and P quadratic around the flow
//! so far. That gives a system of linear equations, which successive over-relaxation nearly solves.

use std::ops::Range;

use super::{Flow, places::Places, pyramid::Plane};
use crate::processor::{LANES, Task, Vector};

/// Weights of the terms.
const BRIGHTNESS: f32 = 5.0;
const GRADIENT: f32 = 10.0;
const SMOOTHNESS: f32 = 5.0;
/// The square of a gradient, in levels a pixel, that counts as noise.
const NOISE: f32 = 1.0;
/// e^2 in P.
const EPSILON: f32 = 1e-4;
/// Half sweeps of the relaxation in a round, and its factor.
const HALF_SWEEPS: usize = 10;
const RELAXATION: f32 = 1.6;

/// Rows that a job computes beyond its own on either side. Half a sweep carries values one pixel further, so that the
/// rows which a job keeps are the same as with one job for all rows.
const MARGIN: usize = HALF_SWEEPS;
/// Rows, and pairs of columns, beyond the edges in the memory of a job, so that edges are no special case.
const PAD_ROWS: usize = 2;
const PAD_COLUMNS: usize = 1;

/// One round for some rows of a flow.
pub struct Refine<'a> {
    pub picture: &'a Plane,
    pub other: &'a Plane,
    pub flow: &'a Flow,
    pub rows: Range<usize>,
    /// The rows of the refined flow.
    pub x: &'a mut [f32],
    pub y: &'a mut [f32],
    pub memory: &'a mut Memory,
}

/// A plane in two parts, its even and its odd columns. In a row these are the two colours of the chessboard that half
/// sweeps follow.
type Columns = [Vec<f32>; 2];

/// The memory of a job, reused from round to round.
#[derive(Default)]
pub struct Memory {
    places: Places,
    /// A row of the other picture, warped.
    warped: Vec<f32>,
    mean: Columns,
    difference: Columns,
    /// 1 where the flow stays in the picture, else 0.
    inside: Columns,
    /// The flow, before and while it is refined.
    x: Columns,
    y: Columns,
    smoothness: Columns,
    /// Weights of the smoothness between a pixel and the next on the right, and the next below.
    right: Columns,
    below: Columns,
    /// The inverse of the matrix of a pixel: xx, xy, yy.
    inverse: [Columns; 3],
    /// The right side of its equations.
    constant: [Columns; 2],
}

/// Rows of the memory: `rows` of the picture and more on each side.
#[derive(Clone)]
struct Layout {
    width: usize,
    height: usize,
    rows: Range<usize>,
    /// Columns of each parity, rounded up to whole vectors. Those beyond the picture have no meaning, and a weight of 0 to
    /// all others.
    columns: usize,
}

impl Layout {
    /// For a job that computes these rows of a flow of this size.
    #[inline(always)]
    fn new((width, height): (usize, usize), rows: Range<usize>) -> Self {
        let rows = rows.start.saturating_sub(MARGIN)..(rows.end + MARGIN).min(height);
        Self { width, height, rows, columns: width.div_ceil(2).next_multiple_of(LANES) }
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.columns + 2 * PAD_COLUMNS
    }

    #[inline(always)]
    fn len(&self) -> usize {
        (self.rows.len() + 2 * PAD_ROWS) * self.stride()
    }

    /// The index at which the row of the picture begins, with its padding. `y` may be up to [`PAD_ROWS`] outside.
    #[inline(always)]
    fn start(&self, y: isize) -> usize {
        (y + PAD_ROWS as isize - self.rows.start as isize).cast_unsigned() * self.stride()
    }

    /// For the pixels in the even (0) or odd (1) columns of a row, the pixels so many columns further. All such slices have
    /// the same length, so that loops over them need no bounds checks and are vectorized.
    #[inline(always)]
    fn near<'a>(&self, plane: &'a Columns, y: isize, parity: usize, further: isize) -> &'a [f32] {
        let column = parity as isize + further;
        let start = self.start(y) + PAD_COLUMNS.wrapping_add_signed(column.div_euclid(2));
        &plane[column.rem_euclid(2).cast_unsigned()][start..][..self.columns]
    }

    /// For the pixels in these columns of a row, the pixels in the square of `SIDE` around each.
    #[inline(always)]
    fn around<'a, const SIDE: usize>(&self, plane: &'a Columns, y: isize, parity: usize) -> [[&'a [f32]; SIDE]; SIDE] {
        let mut around = [[&[][..]; SIDE]; SIDE];
        let offset = |n: usize| n as isize - (SIDE / 2) as isize;
        // Loops, because the compiler does not see the lengths through closures that make arrays.
        for (row, slices) in around.iter_mut().enumerate() {
            for (column, slice) in slices.iter_mut().enumerate() {
                *slice = self.near(plane, y + offset(row), parity, offset(column));
            }
        }
        around
    }

    /// The weights of a row towards left, right, above and below.
    #[inline(always)]
    fn smoothness<'a>(&self, right: &'a Columns, below: &'a Columns, y: isize, parity: usize) -> [&'a [f32]; 4] {
        [
            self.near(right, y, parity, -1),
            self.near(right, y, parity, 0),
            self.near(below, y - 1, parity, 0),
            self.near(below, y, parity, 0),
        ]
    }

    /// The pixels of a row in the even or odd columns of a plane, mutable.
    #[inline(always)]
    fn row_mut<'a>(&self, columns: &'a mut [f32], y: isize) -> &'a mut [f32] {
        let start = self.start(y) + PAD_COLUMNS;
        &mut columns[start..][..self.columns]
    }

    /// The pixels in these columns of a row, mutable, and those to the left, to the right, above and below.
    #[inline(always)]
    fn split<'a>(&self, plane: &'a mut Columns, y: isize, parity: usize) -> (&'a mut [f32], [&'a [f32]; 4]) {
        let [even, odd] = plane;
        let (own, other) = if parity == 0 { (even, &*odd) } else { (odd, &*even) };
        let start = self.start(y) + PAD_COLUMNS;
        let (above, rest) = own.split_at_mut(start);
        let (here, below) = rest.split_at_mut(self.columns);
        let beside = &other[start + parity - 1..];
        let around = [
            &beside[..self.columns],
            &beside[1..][..self.columns],
            &above[start - self.stride()..][..self.columns],
            &below[self.stride() - self.columns..][..self.columns],
        ];
        (here, around)
    }

    /// Sets a row. Its outermost values are repeated beyond its ends.
    #[inline(always)]
    fn set(&self, plane: &mut Columns, y: isize, row: &[f32]) {
        let start = self.start(y);
        let [even, odd] = plane.each_mut().map(|columns| &mut columns[start..][..self.stride()]);
        let pairs = row.as_chunks::<2>().0;
        for ((even, odd), pair) in even[PAD_COLUMNS..].iter_mut().zip(&mut odd[PAD_COLUMNS..]).zip(pairs) {
            [*even, *odd] = *pair;
        }
        let (first, last) = (row[0], row[row.len() - 1]);
        let end = PAD_COLUMNS + pairs.len();
        for columns in [even, odd] {
            columns[..PAD_COLUMNS].fill(first);
            columns[end..].fill(last);
        }
    }

    /// Reads a row, without the values beyond its ends.
    #[inline(always)]
    fn get(&self, plane: &Columns, y: isize, row: &mut [f32]) {
        let [even, odd] = [0, 1].map(|parity| self.near(plane, y, parity, 0));
        let (pairs, rest) = row.as_chunks_mut::<2>();
        for ((pair, even), odd) in pairs.iter_mut().zip(even).zip(odd) {
            *pair = [*even, *odd];
        }
        if let [last] = rest {
            *last = even[pairs.len()];
        }
    }
}

/// The memory, in bytes, that the jobs of a level of this size take, each with so many rows.
pub fn memory_for(size: (usize, usize), rows: usize) -> usize {
    let jobs = (0..size.1).step_by(rows.max(1)).map(|start| Layout::new(size, start..size.1.min(start + rows)));
    jobs.map(|layout| Memory::PLANES * 2 * layout.len() * size_of::<f32>()).sum()
}

impl Task for Refine<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (width, height) = (self.flow.width, self.flow.height);
        let layout = Layout::new((width, height), self.rows.clone());
        let (start, end) = (layout.rows.start as isize, layout.rows.end as isize);
        let memory = self.memory;
        memory.grow(&layout);
        for y in start - 2..start + 2 {
            memory.warp(&layout, self.picture, self.other, self.flow, y);
        }
        memory.smooth(&layout, start - 1);
        memory.smooth(&layout, start);
        memory.tie(&layout, start - 1);
        // All steps and half sweeps go down the rows together, each some rows behind the one before, so that a row is
        // still in the cache for the next. The results are the same as one after the other.
        for front in start..end + HALF_SWEEPS as isize {
            if front < end {
                memory.warp(&layout, self.picture, self.other, self.flow, front + 2);
                memory.smooth(&layout, front + 1);
                memory.tie(&layout, front);
                memory.set_up(&layout, front);
            }
            for half in 0..HALF_SWEEPS {
                let row = front - half as isize;
                if (start..end).contains(&row) {
                    memory.relax(&layout, row, half % 2);
                }
            }
        }
        let rows = self.x.chunks_exact_mut(width).zip(self.y.chunks_exact_mut(width));
        for (y, (x_row, y_row)) in self.rows.zip(rows) {
            layout.get(&memory.x, y as isize, x_row);
            layout.get(&memory.y, y as isize, y_row);
        }
    }
}

impl Memory {
    /// How many [`Columns`] there are.
    const PLANES: usize = 13;

    fn grow(&mut self, layout: &Layout) {
        let Self { mean, difference, inside, x, y, smoothness, right, below, inverse, constant, .. } = self;
        let single = [mean, difference, inside, x, y, smoothness, right, below];
        for columns in single.into_iter().chain(inverse).chain(constant).flatten() {
            // Old values need not be cleared: each is set before it is used.
            if columns.len() < layout.len() {
                columns.resize(layout.len(), 0.0);
            }
        }
        self.warped.resize(layout.width, 0.0);
    }

    /// Sets a row of the flow, and of the mean and the difference of the picture and the other one, warped by the flow.
    #[inline(always)]
    fn warp(&mut self, layout: &Layout, picture: &Plane, other: &Plane, flow: &Flow, row: isize) {
        let (width, height) = (layout.width, layout.height);
        let y = row.clamp(0, height as isize - 1).cast_unsigned();
        let (flow_x, flow_y) = (&flow.x[y * width..][..width], &flow.y[y * width..][..width]);
        layout.set(&mut self.x, row, flow_x);
        layout.set(&mut self.y, row, flow_y);

        let to =
            flow_x.iter().zip(flow_y).enumerate().map(|(x, (by_x, by_y))| (x as i32 as f32 + by_x, y as f32 + by_y));
        self.places.set((width, height), other.stride(), to.clone());
        let (right, bottom) = ((width - 1) as f32, (height - 1) as f32);
        for (inside, (x, y)) in self.warped.iter_mut().zip(to) {
            *inside = if (x >= 0.0) & (x <= right) & (y >= 0.0) & (y <= bottom) { 1.0 } else { 0.0 };
        }
        layout.set(&mut self.inside, row, &self.warped);
        self.places.look_up(other.rows_from(0, 0), &mut self.warped);
        let level = picture.row(y);
        self.warped.iter_mut().zip(level).for_each(|(warped, level)| *warped -= level);
        layout.set(&mut self.difference, row, &self.warped);
        self.warped.iter_mut().zip(level).for_each(|(difference, level)| *difference = level + 0.5 * *difference);
        layout.set(&mut self.mean, row, &self.warped);
    }

    /// The derivative of P for the smoothness of a row.
    #[inline(always)]
    fn smooth(&mut self, layout: &Layout, y: isize) {
        for parity in 0..2 {
            let around = [&self.x, &self.y].map(|plane| {
                [(-1, 0), (1, 0), (0, -1), (0, 1)].map(|(row, column)| layout.near(plane, y + row, parity, column))
            });
            smoothness_row(layout.row_mut(&mut self.smoothness[parity], y), &around);
        }
    }

    /// The weights of its smoothness, between neighbours.
    #[inline(always)]
    fn tie(&mut self, layout: &Layout, y: isize) {
        for parity in 0..2 {
            let [here, right, below] =
                [(0, 0), (0, 1), (1, 0)].map(|(row, column)| layout.near(&self.smoothness, y + row, parity, column));
            mean_row(layout.row_mut(&mut self.right[parity], y), here, right);
            let row = layout.row_mut(&mut self.below[parity], y);
            mean_row(row, here, below);
            // There is nothing beyond the edges.
            if y < 0 || y + 1 == layout.height as isize {
                row.fill(0.0);
            }
        }
        let start = layout.start(y) + PAD_COLUMNS;
        let last = layout.width - 1;
        self.right[1][start - 1] = 0.0;
        self.right[last % 2][start + last / 2] = 0.0;
    }

    /// Sets up the equations of the pixels of a row, solved for each pixel's own flow.
    #[inline(always)]
    fn set_up(&mut self, layout: &Layout, y: isize) {
        for parity in 0..2 {
            let equations = Equations {
                mean: layout.around(&self.mean, y, parity),
                difference: layout.around(&self.difference, y, parity),
                inside: layout.near(&self.inside, y, parity, 0),
                flow: [layout.near(&self.x, y, parity, 0), layout.near(&self.y, y, parity, 0)],
                smoothness: layout.smoothness(&self.right, &self.below, y, parity),
            };
            let [xx, xy, yy] = self.inverse.each_mut().map(|plane| layout.row_mut(&mut plane[parity], y));
            let [p, q] = self.constant.each_mut().map(|plane| layout.row_mut(&mut plane[parity], y));
            equations.solve(xx, xy, yy, p, q);
        }
    }

    /// Half a sweep of a row: updates the pixels of one colour of the chessboard from their equations and neighbours.
    #[inline(always)]
    fn relax(&mut self, layout: &Layout, y: isize, colour: usize) {
        let parity = (y.cast_unsigned() + colour) % 2;
        let (x, x_around) = layout.split(&mut self.x, y, parity);
        let (y_here, y_around) = layout.split(&mut self.y, y, parity);
        let ([xx, xy, yy], [p, q]) = (&self.inverse, &self.constant);
        let sweep = Sweep {
            inverse: [layout.near(xx, y, parity, 0), layout.near(xy, y, parity, 0), layout.near(yy, y, parity, 0)],
            constant: [layout.near(p, y, parity, 0), layout.near(q, y, parity, 0)],
            smoothness: layout.smoothness(&self.right, &self.below, y, parity),
            x: x_around,
            y: y_around,
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

/// The inputs of the equations of a row of pixels, in slices as long as the row. Outputs are arguments of
/// [`solve`](Self::solve): so the compiler knows that they overlap nothing else, and vectorizes.
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

            // The derivatives of P, with few divisions and roots.
            let norm = ix * ix + iy * iy + NOISE;
            let weight = inside[n] * BRIGHTNESS / (norm * (iz * iz + EPSILON * norm)).sqrt();
            let mut m = [weight * ix * ix, weight * ix * iy, weight * iy * iy];
            let mut r = [-weight * ix * iz, -weight * iy * iz];

            let (x_norm, y_norm) = (ixx * ixx + ixy * ixy + NOISE, ixy * ixy + iyy * iyy + NOISE);
            let norm = x_norm * y_norm;
            let squares = y_norm * ixz * ixz + x_norm * iyz * iyz;
            let weight = inside[n] * GRADIENT / (norm * (squares + EPSILON * norm)).sqrt();
            let (x_weight, y_weight) = (weight * y_norm, weight * x_norm);
            m[0] += x_weight * ixx * ixx + y_weight * ixy * ixy;
            m[1] += x_weight * ixx * ixy + y_weight * ixy * iyy;
            m[2] += x_weight * ixy * ixy + y_weight * iyy * iyy;
            r[0] -= x_weight * ixx * ixz + y_weight * ixy * iyz;
            r[1] -= x_weight * ixy * ixz + y_weight * iyy * iyz;

            let [flow_x, flow_y] = flow.map(|flow| flow[n]);
            p[n] = r[0] + m[0] * flow_x + m[1] * flow_y;
            q[n] = r[1] + m[1] * flow_x + m[2] * flow_y;
            // Pixels that were found to stand still do so, whatever the noise.
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

/// The inputs of half a sweep of a row, in slices as those of [`Equations`].
struct Sweep<'a> {
    inverse: [&'a [f32]; 3],
    constant: [&'a [f32]; 2],
    smoothness: [&'a [f32]; 4],
    /// The flow to the left, to the right, above and below.
    x: [&'a [f32]; 4],
    y: [&'a [f32]; 4],
}

impl Sweep<'_> {
    #[inline(always)]
    fn relax(&self, x: &mut [f32], y: &mut [f32]) {
        let Self { inverse: [xx, xy, yy], constant, .. } = self;
        for n in 0..x.len() {
            let (p, q) = (constant[0][n] + self.pull(&self.x, n), constant[1][n] + self.pull(&self.y, n));
            x[n] += RELAXATION * (xx[n] * p + xy[n] * q - x[n]);
            y[n] += RELAXATION * (xy[n] * p + yy[n] * q - y[n]);
        }
    }

    /// What a component of the neighbours' flow adds to the equations of a pixel.
    #[inline(always)]
    fn pull(&self, flow: &[&[f32]; 4], n: usize) -> f32 {
        let [left, right, above, below] = self.smoothness;
        (left[n] * flow[0][n] + right[n] * flow[1][n]) + (above[n] * flow[2][n] + below[n] * flow[3][n])
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Dense inverse search (Kroeger, Timofte, Dai and Van Gool 2016): gradient descent finds square patches of one picture
//! in the other. The patches overlap, and the flow of a pixel is a mean over them.

use std::ops::Range;

use super::{
    Flow,
    pyramid::{BORDER, Plane},
};
use crate::processor::{Lanes, Task, Vector};

/// Side of a patch in pixels.
const PATCH: usize = 8;
/// The distance from one patch to the next, in pixels.
const STEP: usize = 4;
/// The most steps of a descent.
const DESCENT: usize = 12;
/// A step shorter than this, in pixels, is the last.
const ARRIVED: f32 = 0.02;
/// A displacement shorter than this, in pixels, may be due to noise.
const STILL: f32 = 0.5;
/// It is taken for noise if without it the sum of squared differences is at most so many times as large. Interpolation
/// halfway between pixels smooths noise to five eighths, and the descent fits a little of it.
const STILL_RATIO: f32 = 1.75;
/// Added to the sums of squared gradients of a patch, in squared levels: about what the noise of a camera adds. So patches
/// without structure stay in their place.
const DAMPING: f32 = 256.0;

/// The share of a pixel in a patch.
const SHARE: f32 = 1.0 / (PATCH * PATCH) as f32;
/// How many rows apart the two rows are that share a [`Lanes`].
const HALF: usize = PATCH / 2;

/// The pixels of a patch: each [`Lanes`] has a row of the upper half and then the same row of the lower half.
type Values = [Lanes; HALF];

/// How many patches there are along a side of so many pixels.
pub fn patches_along(length: usize) -> usize {
    length.saturating_sub(PATCH).div_ceil(STEP) + 1
}

/// Where a patch begins. The last one ends with the side; on a side shorter than a patch the only one goes beyond it.
fn origin(number: usize, length: usize) -> usize {
    (number * STEP).min(length.saturating_sub(PATCH))
}

/// The memory, in bytes, that the search on a level of this size takes.
pub fn memory_for((width, height): (usize, usize)) -> usize {
    let found = 2 * patches_along(width) * patches_along(height) * size_of::<[f32; 2]>();
    found + 3 * (width + PATCH) * height * size_of::<f32>()
}

/// Finds a row of patches.
pub struct Search<'a> {
    /// The picture of the patches.
    pub picture: &'a Plane,
    /// The picture in which they are searched.
    pub other: &'a Plane,
    pub start: Start<'a>,
    /// Whether patches stay where they are if that may be noise; see [`Patch::may_stand_still`].
    pub settle: bool,
    /// The number of the row of patches.
    pub row: usize,
    /// The displacements at which its patches were found, in pixels.
    pub found: &'a mut [[f32; 2]],
}

/// Where the descent of a patch may start.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    /// At its own place.
    Still,
    /// At the displacement of the next coarser level, there or nearby, or at its own place.
    Coarser(&'a Flow),
    /// Where the patch or one of its neighbours was found.
    Neighbours(&'a [[f32; 2]]),
}

impl Task for Search<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { picture, other, start, settle, row, found } = self;
        let y = origin(row, picture.height());
        let columns = found.len();
        for (column, found) in found.iter_mut().enumerate() {
            let x = origin(column, picture.width());
            let patch = Patch::<V>::new(picture, x, y);
            let fit = match start {
                Start::Still => patch.descend(other, patch.fit(other, [0.0; 2])),
                Start::Coarser(flow) => {
                    let guess = |dx: isize, dy: isize| {
                        let near = |at: usize, offset: isize, length: usize| {
                            ((at + PATCH / 2) / 2).saturating_add_signed(offset).min(length - 1)
                        };
                        let at = near(y, dy, flow.height) * flow.width + near(x, dx, flow.width);
                        [2.0 * flow.x[at], 2.0 * flow.y[at]]
                    };
                    const FAR: isize = PATCH as isize / 2;
                    let guesses = [guess(0, 0), guess(-FAR, 0), guess(FAR, 0), guess(0, -FAR), guess(0, FAR), [0.0; 2]];
                    patch.descend(other, patch.best(other, &guesses))
                }
                Start::Neighbours(all) => {
                    let rows = all.len() / columns;
                    let guess = |row: usize, column: usize| all[row * columns + column];
                    let own = guess(row, column);
                    let guesses = [
                        own,
                        guess(row, column.saturating_sub(1)),
                        guess(row, (column + 1).min(columns - 1)),
                        guess(row.saturating_sub(1), column),
                        guess((row + 1).min(rows - 1), column),
                    ];
                    let best = patch.best(other, &guesses);
                    if best.displacement == own { best } else { patch.descend(other, best) }
                }
            };
            let fit = if settle { patch.settle(other, fit) } else { fit };
            *found = fit.displacement;
        }
    }
}

/// Rows of eight pixels, those of a patch's upper half and those of its lower half, as [`Values`] hold them.
#[inline(always)]
fn load<V: Vector>(upper: &[f32], lower: &[f32]) -> V {
    let mut lanes = Lanes::ZERO;
    lanes.0[..PATCH].copy_from_slice(&upper[..PATCH]);
    lanes.0[PATCH..].copy_from_slice(&lower[..PATCH]);
    V::load(&lanes)
}

/// The sum of the lanes of each vector. In `map` of an array it would be a function call without the instructions of the
/// kind, which takes many times as long.
#[inline(always)]
fn totals<V: Vector, const N: usize>(vectors: &[V; N]) -> [f32; N] {
    let mut totals = [0.0; N];
    for (total, vector) in totals.iter_mut().zip(vectors) {
        *total = vector.sum();
    }
    totals
}

struct Patch<V> {
    x: usize,
    y: usize,
    values: [V; HALF],
    /// The derivatives along x and y.
    slopes: [[V; HALF]; 2],
    /// The inverse of the sums of products of the derivatives about their means: xx, xy, yy.
    inverse: [f32; 3],
}

/// How a patch fits at a displacement.
#[derive(Clone, Copy)]
struct Fit {
    displacement: [f32; 2],
    /// The sum of squared differences about their mean.
    error: f32,
    /// Its negative slope for the displacement.
    slope: [f32; 2],
}

impl<V: Vector> Patch<V> {
    #[inline(always)]
    fn new(picture: &Plane, x: usize, y: usize) -> Self {
        let around = picture.rows_from(x as isize - 1, y as isize - 1);
        let row = |n: usize| &around[n * picture.stride()..][..PATCH + 2];
        let none = [V::splat(0.0); HALF];
        let mut patch = Self { x, y, values: none, slopes: [none; 2], inverse: [0.0; 3] };
        let mut sums = [V::splat(0.0); 5];
        let half = V::splat(0.5);
        for r in 0..HALF {
            let (above, here, below) = (row(r), row(r + 1), row(r + 2));
            let (lower_above, lower_here, lower_below) = (row(r + HALF), row(r + HALF + 1), row(r + HALF + 2));
            let left = load::<V>(here, lower_here);
            let dx = load::<V>(&here[2..], &lower_here[2..]).sub(left).mul(half);
            let above = load::<V>(&above[1..], &lower_above[1..]);
            let dy = load::<V>(&below[1..], &lower_below[1..]).sub(above).mul(half);
            patch.values[r] = load(&here[1..], &lower_here[1..]);
            patch.slopes[0][r] = dx;
            patch.slopes[1][r] = dy;
            sums[0] = sums[0].add(dx);
            sums[1] = sums[1].add(dy);
            sums[2] = dx.mul_add(dx, sums[2]);
            sums[3] = dx.mul_add(dy, sums[3]);
            sums[4] = dy.mul_add(dy, sums[4]);
        }
        let [x, y, xx, xy, yy] = totals(&sums);
        let (xx, xy, yy) = (xx - SHARE * x * x + DAMPING, xy - SHARE * x * y, yy - SHARE * y * y + DAMPING);
        // Not zero: the damping makes the matrix of the sums positive definite.
        let scale = 1.0 / (xx * yy - xy * xy);
        patch.inverse = [yy * scale, -xy * scale, xx * scale];
        // With derivatives of mean zero, the mean of the differences has no effect.
        for (slopes, sum) in patch.slopes.iter_mut().zip([x, y]) {
            let mean = V::splat(SHARE * sum);
            slopes.iter_mut().for_each(|slopes| *slopes = slopes.sub(mean));
        }
        patch
    }

    /// The differences between the other picture, displaced, and the patch.
    #[inline(always)]
    fn differences(&self, other: &Plane, displacement: [f32; 2]) -> [V; HALF] {
        const FIRST: f32 = 1.0 - BORDER as f32;
        const BEYOND: usize = BORDER - PATCH - 2;
        let x = (self.x as f32 + displacement[0]).clamp(FIRST, (other.width() + BEYOND) as f32);
        let y = (self.y as f32 + displacement[1]).clamp(FIRST, (other.height() + BEYOND) as f32);
        let (left, top) = (x.floor(), y.floor());
        let (right_share, lower_share) = (V::splat(x - left), V::splat(y - top));
        let (left_share, upper_share) = (V::splat(1.0 - (x - left)), V::splat(1.0 - (y - top)));
        let around = other.rows_from(left as isize, top as isize);
        let row = |n: usize| &around[n * other.stride()..][..PATCH + 1];
        let mut rows = [V::splat(0.0); HALF + 1];
        for (n, blended) in rows.iter_mut().enumerate() {
            let (upper, lower) = (row(n), row(n + HALF));
            let right = load::<V>(&upper[1..], &lower[1..]);
            *blended = right.mul_add(right_share, load::<V>(upper, lower).mul(left_share));
        }
        let mut differences = self.values;
        for (n, difference) in differences.iter_mut().enumerate() {
            *difference = rows[n + 1].mul_add(lower_share, rows[n].mul(upper_share)).sub(*difference);
        }
        differences
    }

    #[inline(always)]
    fn fit(&self, other: &Plane, displacement: [f32; 2]) -> Fit {
        let mut sums = [V::splat(0.0); 4];
        for (n, row) in self.differences(other, displacement).into_iter().enumerate() {
            sums[0] = sums[0].add(row);
            sums[1] = row.mul_add(row, sums[1]);
            sums[2] = row.mul_add(self.slopes[0][n], sums[2]);
            sums[3] = row.mul_add(self.slopes[1][n], sums[3]);
        }
        let [total, squares, x, y] = totals(&sums);
        Fit { displacement, error: squares - SHARE * total * total, slope: [x, y] }
    }

    /// The guess at which the patch fits best, the first of several.
    #[inline(always)]
    fn best<const N: usize>(&self, other: &Plane, guesses: &[[f32; 2]; N]) -> Fit {
        let mut best = self.fit(other, guesses[0]);
        for (n, &guess) in guesses.iter().enumerate().skip(1) {
            if guesses[..n].contains(&guess) {
                continue;
            }
            let fit = self.fit(other, guess);
            if fit.error < best.error {
                best = fit;
            }
        }
        best
    }

    /// Descends from `start` to where the patch fits. It is inverse compositional (Baker and Matthews 2004): the
    /// derivatives are those of the patch, the same in each step.
    #[inline(always)]
    fn descend(&self, other: &Plane, start: Fit) -> Fit {
        let [xx, xy, yy] = self.inverse;
        let mut best = start;
        for _ in 0..DESCENT {
            let Fit { displacement, slope, .. } = best;
            let step = [xx * slope[0] + xy * slope[1], xy * slope[0] + yy * slope[1]];
            let next = [displacement[0] - step[0], displacement[1] - step[1]];
            const REACH: f32 = PATCH as f32;
            let from = start.displacement;
            if (next[0] - from[0]).abs().max((next[1] - from[1]).abs()) > REACH {
                return start;
            }
            let fit = self.fit(other, next);
            if fit.error >= best.error {
                break;
            }
            best = fit;
            if step[0] * step[0] + step[1] * step[1] < ARRIVED * ARRIVED {
                break;
            }
        }
        best
    }

    /// Leaves the patch in its place if it may have been found elsewhere because of noise alone.
    #[inline(always)]
    fn settle(&self, other: &Plane, found: Fit) -> Fit {
        let [x, y] = found.displacement;
        if x * x + y * y < STILL * STILL {
            let still = self.fit(other, [0.0; 2]);
            if still.error <= STILL_RATIO * found.error {
                return still;
            }
        }
        found
    }

    /// How well each pixel fits: the inverse of its difference, at most 1 (Kroeger et al. 2016).
    #[inline(always)]
    fn weights(&self, other: &Plane, displacement: [f32; 2]) -> Values {
        let differences = self.differences(other, displacement);
        let total = differences.iter().fold(V::splat(0.0), |total, rows| total.add(*rows));
        let mean = V::splat(SHARE * total.sum());
        let mut weights = [Lanes::ZERO; HALF];
        for (rows, weights) in differences.into_iter().zip(&mut weights) {
            rows.sub(mean).store(weights);
            weights.0.iter_mut().for_each(|weight| *weight = 1.0 / weight.abs().max(1.0));
        }
        weights
    }
}

/// Makes rows of a flow from the displacements of patches: the mean over the patches that cover a pixel, weighted by how
/// well it fits.
pub struct Densify<'a> {
    pub picture: &'a Plane,
    pub other: &'a Plane,
    /// The displacements of all patches.
    pub found: &'a [[f32; 2]],
    pub rows: Range<usize>,
    pub x: &'a mut [f32],
    pub y: &'a mut [f32],
    /// Memory for three planes of the rows, each wider than the picture by a patch.
    pub sums: &'a mut Vec<f32>,
}

impl Task for Densify<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { picture, other, rows, sums, .. } = self;
        let (width, height) = (picture.width(), picture.height());
        let stride = width + PATCH;
        sums.clear();
        sums.resize(3 * stride * rows.len(), 0.0);
        let (weights, moments) = sums.split_at_mut(stride * rows.len());
        let (x_sums, y_sums) = moments.split_at_mut(stride * rows.len());
        for (row, found) in self.found.chunks_exact(patches_along(width)).enumerate() {
            let top = origin(row, height);
            if top + PATCH <= rows.start || rows.end <= top {
                continue;
            }
            for (column, displacement) in found.iter().enumerate() {
                let left = origin(column, width);
                let fits = Patch::<V>::new(picture, left, top).weights(other, *displacement);
                for (y, n) in (top..).zip(0..PATCH) {
                    if !rows.contains(&y) {
                        continue;
                    }
                    let fits = fits[n % HALF].0.as_chunks::<PATCH>().0[n / HALF];
                    let start = (y - rows.start) * stride + left;
                    let [dx, dy] = *displacement;
                    for (sums, factor) in [(&mut *weights, 1.0), (&mut *x_sums, dx), (&mut *y_sums, dy)] {
                        let sums = &mut sums[start..][..PATCH];
                        sums.iter_mut().zip(fits).for_each(|(sum, fit)| *sum += fit * factor);
                    }
                }
            }
        }
        for (to, sums) in [(self.x, x_sums), (self.y, y_sums)] {
            let sums = sums.chunks_exact(stride).zip(weights.chunks_exact(stride));
            for (to, (sums, weights)) in to.chunks_exact_mut(width).zip(sums) {
                to.iter_mut().zip(sums).zip(weights).for_each(|((to, sum), weight)| *to = sum / weight);
            }
        }
    }
}

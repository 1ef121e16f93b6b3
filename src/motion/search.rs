// SPDX-License-Identifier: MPL-2.0

//! Dense inverse search (Kroeger, Timofte, Dai and Van Gool 2016): square patches of one picture are looked for in
//! the other by gradient descent, and where they overlap they vote for the flow.

use std::ops::{Add, Mul, Range, Sub};

use super::{
    Flow,
    pyramid::{BORDER, Plane},
};
use crate::kernels::{Task, Vector};

/// Side of a patch in pixels.
const PATCH: usize = 8;
/// From one patch to the next, in pixels.
const STEP: usize = 4;
/// Steps of the descent at most.
const DESCENT: usize = 12;
/// A step shorter than this, in pixels, is the last.
const ARRIVED: f32 = 0.02;
/// A displacement shorter than this, in pixels, may be none at all.
const STILL: f32 = 0.5;
/// It is none if the sum of squared differences without it is below this many times that with it: noise is smoothed by
/// interpolation halfway between pixels to five eighths, and fitted by the descent a little on top.
const STILL_RATIO: f32 = 1.75;
/// Added to the sums of squared gradients of a patch, in squared levels: about what the noise of a camera adds. It
/// keeps patches without structure in their place.
const DAMPING: f32 = 256.0;

/// A row of a patch.
#[derive(Clone, Copy, Default)]
struct Row([f32; PATCH]);

type Values = [Row; PATCH];

impl Row {
    /// The first pixels of `levels`.
    #[inline(always)]
    fn load(levels: &[f32]) -> Self {
        let mut row = Self::default();
        row.0.copy_from_slice(&levels[..PATCH]);
        row
    }

    #[inline(always)]
    fn each(mut self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(value, other)| *value = operation(*value, other));
        self
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + b) + (c + d)) + ((e + f) + (g + h))
    }
}

impl Add for Row {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }
}

impl Sub for Row {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.each(other, |a, b| a - b)
    }
}

impl Mul for Row {
    type Output = Self;

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.each(other, |a, b| a * b)
    }
}

impl Mul<Row> for f32 {
    type Output = Row;

    #[inline(always)]
    fn mul(self, row: Row) -> Row {
        Row([self; PATCH]) * row
    }
}

/// Where a patch was found.
#[derive(Clone, Copy, Default)]
pub struct Match {
    /// How far from its place, in pixels.
    pub displacement: [f32; 2],
    /// How well each of its pixels fits there, 0 to 1.
    weights: Values,
}

/// Places of the patches along a side of so many pixels.
pub fn patches_along(length: usize) -> usize {
    length.saturating_sub(PATCH).div_ceil(STEP) + 1
}

/// Where a patch begins. The last ends with the side; on a side shorter than a patch the only one goes on beyond it.
fn origin(number: usize, length: usize) -> usize {
    (number * STEP).min(length.saturating_sub(PATCH))
}

/// Finds a row of patches.
pub struct Search<'a> {
    /// The picture whose patches are looked for.
    pub picture: &'a Plane,
    /// The picture they are looked for in.
    pub other: &'a Plane,
    pub start: Start<'a>,
    /// Whether patches stay where they are if that may be noise; see [`Patch::may_stand_still`].
    pub settle: bool,
    /// Number of the row.
    pub row: usize,
    pub matches: &'a mut [Match],
}

/// Where the descent of a patch may begin.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    /// Where it is.
    Still,
    /// Where the flow of the next smaller level says, or where the patch is.
    Coarser(&'a Flow),
    /// Where it or its neighbours were found.
    Neighbours(&'a [Match]),
}

impl Task for Search<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { picture, other, start, settle, row, matches } = self;
        let y = origin(row, picture.height());
        let columns = matches.len();
        for (column, found) in matches.iter_mut().enumerate() {
            let x = origin(column, picture.width());
            let patch = Patch::new(picture, x, y);
            let displacement = match start {
                Start::Still => patch.descend(other, [0.0; 2]),
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
                    let guess = |row: usize, column: usize| all[row * columns + column].displacement;
                    let own = guess(row, column);
                    let guesses = [
                        own,
                        guess(row, column.saturating_sub(1)),
                        guess(row, (column + 1).min(columns - 1)),
                        guess(row.saturating_sub(1), column),
                        guess((row + 1).min(rows - 1), column),
                    ];
                    let best = patch.best(other, &guesses);
                    if best == own { own } else { patch.descend(other, best) }
                }
            };
            let displacement =
                if settle && patch.may_stand_still(other, displacement) { [0.0; 2] } else { displacement };
            *found = Match { displacement, weights: patch.weights(other, displacement) };
        }
    }
}

struct Patch {
    x: usize,
    y: usize,
    values: Values,
    /// The derivatives along x and y.
    slopes: [Values; 2],
    /// The inverse of the sums of products of the derivatives about their means: xx, xy, yy.
    inverse: [f32; 3],
}

impl Patch {
    #[inline(always)]
    fn new(picture: &Plane, x: usize, y: usize) -> Self {
        let around = picture.rows_from(x as isize - 1, y as isize - 1);
        let row = |n: usize| &around[n * picture.stride()..][..PATCH + 2];
        let mut patch = Self { x, y, values: Default::default(), slopes: Default::default(), inverse: [0.0; 3] };
        let mut sums = [Row::default(); 5];
        for r in 0..PATCH {
            let dx = 0.5 * (Row::load(&row(r + 1)[2..]) - Row::load(row(r + 1)));
            let dy = 0.5 * (Row::load(&row(r + 2)[1..]) - Row::load(&row(r)[1..]));
            patch.values[r] = Row::load(&row(r + 1)[1..]);
            patch.slopes[0][r] = dx;
            patch.slopes[1][r] = dy;
            sums[0] = sums[0] + dx;
            sums[1] = sums[1] + dy;
            sums[2] = sums[2] + dx * dx;
            sums[3] = sums[3] + dx * dy;
            sums[4] = sums[4] + dy * dy;
        }
        let [x, y, xx, xy, yy] = sums.map(Row::sum);
        const SHARE: f32 = 1.0 / (PATCH * PATCH) as f32;
        let (xx, xy, yy) = (xx - SHARE * x * x + DAMPING, xy - SHARE * x * y, yy - SHARE * y * y + DAMPING);
        // Not zero, as the matrix of the sums is positive and the damping makes it definite.
        let scale = 1.0 / (xx * yy - xy * xy);
        patch.inverse = [yy * scale, -xy * scale, xx * scale];
        // Without their mean the derivatives do not see that of the difference they are multiplied by.
        for (slopes, sum) in patch.slopes.iter_mut().zip([x, y]) {
            slopes.iter_mut().for_each(|row| *row = *row - Row([SHARE * sum; PATCH]));
        }
        patch
    }

    /// The differences between the other picture, displaced, and the patch.
    #[inline(always)]
    fn differences(&self, other: &Plane, displacement: [f32; 2]) -> Values {
        const FIRST: f32 = 1.0 - BORDER as f32;
        const BEYOND: usize = BORDER - PATCH - 2;
        let x = (self.x as f32 + displacement[0]).clamp(FIRST, (other.width() + BEYOND) as f32);
        let y = (self.y as f32 + displacement[1]).clamp(FIRST, (other.height() + BEYOND) as f32);
        let (left, top) = (x.floor(), y.floor());
        let (right_share, lower_share) = (x - left, y - top);
        let weights = [
            (1.0 - lower_share) * (1.0 - right_share),
            (1.0 - lower_share) * right_share,
            lower_share * (1.0 - right_share),
            lower_share * right_share,
        ];
        let around = other.rows_from(left as isize, top as isize);
        let row = |n: usize| &around[n * other.stride()..][..PATCH + 1];
        let mut differences = Values::default();
        for (r, differences) in differences.iter_mut().enumerate() {
            let (upper, lower) = (row(r), row(r + 1));
            let value = (weights[0] * Row::load(upper) + weights[1] * Row::load(&upper[1..]))
                + (weights[2] * Row::load(lower) + weights[3] * Row::load(&lower[1..]));
            *differences = value - self.values[r];
        }
        differences
    }

    /// The sum of squared differences about their mean, and its negative slope for the displacement.
    #[inline(always)]
    fn compare(&self, other: &Plane, displacement: [f32; 2]) -> (f32, [f32; 2]) {
        let mut sums = [Row::default(); 4];
        for (r, row) in self.differences(other, displacement).into_iter().enumerate() {
            sums[0] = sums[0] + row;
            sums[1] = sums[1] + row * row;
            sums[2] = sums[2] + row * self.slopes[0][r];
            sums[3] = sums[3] + row * self.slopes[1][r];
        }
        let [total, squares, x, y] = sums.map(Row::sum);
        (squares - total * total / (PATCH * PATCH) as f32, [x, y])
    }

    /// The displacement at which the patch fits best; of several, the first.
    #[inline(always)]
    fn best<const N: usize>(&self, other: &Plane, guesses: &[[f32; 2]; N]) -> [f32; 2] {
        let mut best = guesses[0];
        let mut least = self.compare(other, best).0;
        for (n, &guess) in guesses.iter().enumerate().skip(1) {
            if guesses[..n].contains(&guess) {
                continue;
            }
            let error = self.compare(other, guess).0;
            if error < least {
                (best, least) = (guess, error);
            }
        }
        best
    }

    /// Follows the slope from `start` to where the patch fits. Inverse compositional (Baker and Matthews 2004): the
    /// derivatives are the patch's, and the same in each step.
    #[inline(always)]
    fn descend(&self, other: &Plane, start: [f32; 2]) -> [f32; 2] {
        let [xx, xy, yy] = self.inverse;
        let mut best = start;
        let (mut least, mut slope) = self.compare(other, start);
        for _ in 0..DESCENT {
            let step = [xx * slope[0] + xy * slope[1], xy * slope[0] + yy * slope[1]];
            let next = [best[0] - step[0], best[1] - step[1]];
            const REACH: f32 = PATCH as f32;
            if (next[0] - start[0]).abs().max((next[1] - start[1]).abs()) > REACH {
                return start;
            }
            let (error, next_slope) = self.compare(other, next);
            if error >= least {
                break;
            }
            (best, least, slope) = (next, error, next_slope);
            if step[0] * step[0] + step[1] * step[1] < ARRIVED * ARRIVED {
                break;
            }
        }
        best
    }

    /// Whether noise alone could be why the patch was found elsewhere than in its place.
    #[inline(always)]
    fn may_stand_still(&self, other: &Plane, displacement: [f32; 2]) -> bool {
        let [x, y] = displacement;
        x * x + y * y < STILL * STILL
            && self.compare(other, [0.0; 2]).0 <= STILL_RATIO * self.compare(other, displacement).0
    }

    /// The weights of Kroeger et al. (2016): the inverse of the difference, where that is above one level.
    #[inline(always)]
    fn weights(&self, other: &Plane, displacement: [f32; 2]) -> Values {
        let mut weights = self.differences(other, displacement);
        let total = weights.iter().fold(Row::default(), |total, &row| total + row);
        let mean = total.sum() / (PATCH * PATCH) as f32;
        for weight in weights.iter_mut().flat_map(|row| &mut row.0) {
            *weight = 1.0 / (*weight - mean).abs().max(1.0);
        }
        weights
    }
}

/// Makes some rows of a flow out of the matches: the mean of those that cover a pixel, weighted by how well it fits.
pub struct Densify<'a> {
    pub matches: &'a [Match],
    /// Width and height of the picture.
    pub size: (usize, usize),
    pub rows: Range<usize>,
    pub x: &'a mut [f32],
    pub y: &'a mut [f32],
    /// Memory for three rows, each by a patch wider than the picture.
    pub sums: &'a mut Vec<f32>,
}

impl Task for Densify<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (width, height) = self.size;
        let columns = patches_along(width);
        let length = width + PATCH;
        self.sums.clear();
        self.sums.resize(3 * length, 0.0);
        let rows = self.x.chunks_exact_mut(width).zip(self.y.chunks_exact_mut(width));
        for (y, (x_row, y_row)) in self.rows.zip(rows) {
            self.sums.fill(0.0);
            let (weights, moments) = self.sums.split_at_mut(length);
            let (x_sums, y_sums) = moments.split_at_mut(length);
            for (row, matches) in self.matches.chunks_exact(columns).enumerate() {
                let top = origin(row, height);
                if !(top..top + PATCH).contains(&y) {
                    continue;
                }
                for (column, found) in matches.iter().enumerate() {
                    let covered = origin(column, width)..origin(column, width) + PATCH;
                    let sums = weights[covered.clone()].iter_mut().zip(&mut x_sums[covered.clone()]);
                    let [dx, dy] = found.displacement;
                    for (((sum, x_sum), y_sum), weight) in sums.zip(&mut y_sums[covered]).zip(&found.weights[y - top].0)
                    {
                        *sum += weight;
                        *x_sum += weight * dx;
                        *y_sum += weight * dy;
                    }
                }
            }
            for (n, weight) in weights[..width].iter().enumerate() {
                x_row[n] = x_sums[n] / weight;
                y_row[n] = y_sums[n] / weight;
            }
        }
    }
}

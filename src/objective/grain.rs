// SPDX-License-Identifier: MPL-2.0

//! The grain of an image: the mean square, over all pixels and planes, of its finest detail, with colours from 0 to 1.
//! The detail is what the image has more than a copy that is blurred by the binomial filter 1 4 6 4 1 in both directions.
//!
//! The feature maps of a style are matched best with a grain of pixels over everything, which no painter made: the
//! deeper layers hardly see it, and the poolings hand gradients to single pixels. Total variation, which leaves edges
//! alone, counts grain too little.
//!
//! The blur is symmetric, with borders that mirror the image, so that the gradient is the detail of the detail.

use std::ops::Range;

use crate::image::Image;

/// The rows above and below that a blurred row depends on.
const REACH: usize = 2;
const LEVELS: f32 = 255.0;
/// Rows of an image whose grain is measured that are taken together.
const BAND: usize = 16;

/// The factor of a term in an image of this many values.
pub(super) fn share(values: usize) -> f32 {
    1.0 / (LEVELS * LEVELS * values as f32)
}

/// The grain of an image.
pub(crate) fn grain(image: &Image) -> f64 {
    let (width, height) = image.size();
    // In bands, which need little memory.
    let mut scratch = vec![0.0; scratch_rows(BAND) * width];
    let (mut sum, mut terms) = (0.0, vec![0.0; width]);
    for plane in image.planes().filter(|plane| !plane.is_empty()) {
        for start in (0..height).step_by(BAND) {
            let rows = start..height.min(start + BAND);
            let details = details(plane, (width, height), rows.clone(), &mut scratch);
            for y in rows {
                details.square(y, &mut terms);
                sum += terms.iter().map(|term| f64::from(*term)).sum::<f64>();
            }
        }
    }
    sum * f64::from(share(image.data().len().max(1)))
}

/// How many rows of scratch memory [`details`] needs for so many rows.
pub(super) const fn scratch_rows(rows: usize) -> usize {
    rows + 4 * REACH + 2 * (rows + 2 * REACH)
}

/// The details of some rows of a plane, and those of the rows around them.
pub(super) struct Details<'a> {
    size: (usize, usize),
    /// The number of the first of these rows.
    first: usize,
    /// The details, and the same blurred horizontally.
    sharp: &'a [f32],
    blurred: &'a [f32],
}

/// Computes the details of `rows` of a plane.
#[inline(always)]
pub(super) fn details<'a>(
    plane: &[f32],
    (width, height): (usize, usize),
    rows: Range<usize>,
    scratch: &'a mut [f32],
) -> Details<'a> {
    let wider = |reach| rows.start.saturating_sub(reach)..(rows.end + reach).min(height);
    let (read, own) = (wider(2 * REACH), wider(REACH));
    let row = |y: usize| &plane[y * width..][..width];
    let (soft, scratch) = scratch.split_at_mut(read.len() * width);
    let (sharp, scratch) = scratch.split_at_mut(own.len() * width);
    let blurred = &mut scratch[..own.len() * width];
    for (y, to) in read.clone().zip(soft.chunks_exact_mut(width)) {
        blur_row(row(y), to);
    }
    for ((y, sharp), blurred) in own.clone().zip(sharp.chunks_exact_mut(width)).zip(blurred.chunks_exact_mut(width)) {
        subtract(row(y), around(y, height, |y| &soft[(y - read.start) * width..][..width]), sharp);
        blur_row(sharp, blurred);
    }
    Details { size: (width, height), first: own.start, sharp, blurred }
}

impl Details<'_> {
    fn row<'a>(&self, rows: &'a [f32], y: usize) -> &'a [f32] {
        &rows[(y - self.first) * self.size.0..][..self.size.0]
    }

    /// Computes the terms of row `y`, one for each pixel.
    #[inline(always)]
    pub(super) fn square(&self, y: usize, terms: &mut [f32]) {
        terms.iter_mut().zip(self.row(self.sharp, y)).for_each(|(term, detail)| *term = detail * detail);
    }

    /// Adds `slope` times half of the derivative of the terms to row `y` of the gradient. `scratch` is as long.
    ///
    /// As the blur is symmetric, that is the detail of the detail.
    #[inline(always)]
    pub(super) fn add_gradient(&self, y: usize, slope: f32, gradient: &mut [f32], scratch: &mut [f32]) {
        subtract(self.row(self.sharp, y), around(y, self.size.1, |y| self.row(self.blurred, y)), scratch);
        gradient.iter_mut().zip(scratch).for_each(|(gradient, detail)| *gradient += slope * *detail);
    }
}

/// The rows from two above `y` to two below, mirrored at the borders.
#[inline(always)]
fn around<'a>(y: usize, height: usize, row: impl Fn(usize) -> &'a [f32]) -> [&'a [f32]; 5] {
    [0, 1, 2, 3, 4].map(|offset| row(mirrored(y + offset, height)))
}

/// The row or column that stands at this place, counted from [`REACH`] before the first one. Beyond the borders it is
/// one that is mirrored there.
fn mirrored(place: usize, count: usize) -> usize {
    let (first, last) = (REACH, REACH + count - 1);
    let inside = match place {
        place if place < first => 2 * first - 1 - place,
        place if place > last => 2 * last + 1 - place,
        place => place,
    };
    // A single row is mirrored to itself, however far.
    inside.clamp(first, last) - REACH
}

/// Blurs a row horizontally. Both slices are equally long.
#[inline(always)]
fn blur_row(row: &[f32], to: &mut [f32]) {
    let width = row.len();
    let ends = REACH.min(width)..width.saturating_sub(REACH).max(REACH.min(width));
    for (to, window) in to[ends.clone()].iter_mut().zip(row.windows(2 * REACH + 1)) {
        *to = blur([window[0], window[1], window[2], window[3], window[4]]);
    }
    for x in (0..ends.start).chain(ends.end..width) {
        to[x] = blur([0, 1, 2, 3, 4].map(|offset| row[mirrored(x + offset, width)]));
    }
}

/// Subtracts the vertical blur of five rows from a row. All slices are equally long.
#[inline(always)]
fn subtract(row: &[f32], [a, b, c, d, e]: [&[f32]; 5], to: &mut [f32]) {
    let outer = a.iter().zip(b).zip(d).zip(e);
    for (((to, value), c), (((a, b), d), e)) in to.iter_mut().zip(row).zip(c).zip(outer) {
        *to = value - blur([*a, *b, *c, *d, *e]);
    }
}

#[inline(always)]
fn blur([a, b, c, d, e]: [f32; 5]) -> f32 {
    0.375 * c + 0.25 * (b + d) + 0.0625 * (a + e)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [(usize, usize); 8] = [(7, 6), (1, 1), (1, 6), (6, 1), (2, 3), (3, 2), (12, 11), (3, 35)];

    fn image((width, height): (usize, usize)) -> Image {
        let values = (0..3 * width * height).map(|n| (n * 37 % 101) as f32);
        Image::from_planes(width, height, values.collect()).unwrap()
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        for size in SIZES {
            let plain = image(size);
            let pixels = size.0 * size.1;
            let mut gradient = vec![0.0; 3 * pixels];
            for (plane, gradient) in plain.planes().zip(gradient.chunks_exact_mut(pixels)) {
                // In bands, as in use.
                for start in (0..size.1).step_by(4) {
                    let rows = start..(start + 4).min(size.1);
                    let mut scratch = vec![7.0; scratch_rows(rows.len()) * size.0];
                    let details = details(plane, size, rows.clone(), &mut scratch);
                    for y in rows {
                        let gradient = &mut gradient[y * size.0..][..size.0];
                        details.add_gradient(y, 2.0 * share(3 * pixels), gradient, &mut vec![7.0; size.0]);
                    }
                }
            }
            for (at, gradient) in gradient.into_iter().enumerate() {
                let grain_at = |step: f32| {
                    let mut moved = plain.clone();
                    moved.data_mut()[at] += step;
                    grain(&moved)
                };
                let expected = (grain_at(1.0) - grain_at(-1.0)) / 2.0;
                assert!((f64::from(gradient) - expected).abs() < 1e-7, "{size:?} {at}: {gradient} {expected}");
            }
        }
    }

    #[test]
    fn it_is_all_of_a_chessboard_and_nothing_of_a_flat_image() {
        let chessboard = (0..3 * 96).map(|n| if (n + n / 12) % 2 == 0 { 255.0 } else { 0.0 });
        let chessboard = Image::from_planes(12, 8, chessboard.collect()).unwrap();
        assert!((grain(&chessboard) - 0.25).abs() < 0.02, "{}", grain(&chessboard));
        for size in SIZES {
            assert!(grain(&Image::filled(size.0, size.1, 80.0)) < 1e-12, "{size:?}");
        }
        assert_eq!(grain(&Image::filled(0, 4, 80.0)), 0.0);
    }
}

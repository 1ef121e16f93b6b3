// SPDX-License-Identifier: MPL-2.0

//! The gradient that the optimizer follows.

use crate::image::Image;

/// How much of the finest detail, a chessboard of pixels, is taken from the gradient.
const SMOOTHING: f32 = 0.7;

/// Takes 70% of the finest detail from a gradient, and less of coarser detail, by the binomial filter 1 2 1 in both
/// directions. `rows` is memory of the same size.
///
/// With the gradient as it is, specks of single pixels come before strokes. What the filter takes from them it does not
/// take entirely, and it is symmetric: so it is a gradient of the same loss in another metric, with the same minima
/// (Neuberger 2010, "Sobolev Gradients and Differential Equations").
///
/// # Panics
///
/// If the sizes differ.
pub fn smooth(gradient: &mut Image, rows: &mut Image) {
    let (width, height) = gradient.size();
    assert_eq!(rows.size(), (width, height), "images differ in size");
    let planes = gradient.data_mut().chunks_exact_mut(width * height);
    for (plane, rows) in planes.zip(rows.data_mut().chunks_exact_mut(width * height)) {
        for (row, to) in plane.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
            smooth_row(row, to);
        }
        for (y, to) in plane.chunks_exact_mut(width).enumerate() {
            let row = |y: usize| &rows[y * width..][..width];
            let (above, here, below) = (row(y.saturating_sub(1)), row(y), row((y + 1).min(height - 1)));
            for (((to, above), here), below) in to.iter_mut().zip(above).zip(here).zip(below) {
                *to += SMOOTHING * (0.5 * here + 0.25 * (above + below) - *to);
            }
        }
    }
}

/// Beyond the ends the outermost values go on.
fn smooth_row(row: &[f32], to: &mut [f32]) {
    let last = row.len() - 1;
    for (to, window) in to[1.min(last)..].iter_mut().zip(row.windows(3)) {
        *to = 0.5 * window[1] + 0.25 * (window[0] + window[2]);
    }
    to[0] = 0.75 * row[0] + 0.25 * row[1.min(last)];
    to[last] = 0.75 * row[last] + 0.25 * row[last.saturating_sub(1)];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smoothed(width: usize, height: usize, value: impl Fn(usize, usize) -> f32) -> Image {
        let values = (0..3 * width * height).map(|n| value(n % width, n / width % height)).collect();
        let mut image = Image::from_planes(width, height, values).unwrap();
        smooth(&mut image, &mut Image::filled(width, height, 7.0));
        image
    }

    #[test]
    fn even_gradients_stay_and_chessboards_fade() {
        for (width, height) in [(1, 1), (1, 5), (2, 1), (9, 6)] {
            assert!(smoothed(width, height, |_, _| 3.0).data().iter().all(|value| (value - 3.0).abs() < 1e-6));
        }
        let chessboard = smoothed(8, 8, |x, y| if (x + y) % 2 == 0 { 1.0 } else { -1.0 });
        assert!((chessboard.data()[3 * 8 + 3] - (1.0 - SMOOTHING)).abs() < 1e-6);
    }

    #[test]
    fn the_filter_is_symmetric() {
        let (width, height) = (5, 4);
        let response = |at: (usize, usize)| smoothed(width, height, |x, y| f32::from((x, y) == at));
        let places = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        for from in places() {
            for to in places() {
                let value = |image: Image, (x, y): (usize, usize)| image.data()[y * width + x];
                assert_eq!(value(response(from), to), value(response(to), from), "{from:?} {to:?}");
            }
        }
    }
}

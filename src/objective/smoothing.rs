// SPDX-License-Identifier: MPL-2.0

//! Smooths the gradient that the optimizer follows.
//!
//! The binomial filter 1 2 1 in both directions removes 70% of the finest detail, and less of coarser detail. Without
//! it, specks of single pixels appear before strokes do. The filter is symmetric and removes no detail entirely: the
//! result is a gradient of the same loss in another metric, with the same minima (Neuberger 2010, "Sobolev Gradients
//! and Differential Equations"). Beyond the borders the outermost values are repeated.

/// The share of the finest detail, a checkerboard of pixels, that is removed from the gradient.
const SMOOTHING: f32 = 0.7;

/// Filters a row horizontally. Both slices are equally long.
#[inline(always)]
pub(super) fn filter_row(row: &[f32], to: &mut [f32]) {
    let Some(last) = row.len().checked_sub(1) else { return };
    for (to, window) in to[1.min(last)..].iter_mut().zip(row.windows(3)) {
        *to = 0.5 * window[1] + 0.25 * (window[0] + window[2]);
    }
    to[0] = 0.75 * row[0] + 0.25 * row[1.min(last)];
    to[last] = 0.75 * row[last] + 0.25 * row[last.saturating_sub(1)];
}

/// Smooths a row, given what [`filter_row`] made of the row above, of the row itself and of the row below.
#[inline(always)]
pub(super) fn smooth_row(row: &mut [f32], [above, here, below]: [&[f32]; 3]) {
    for (((value, above), here), below) in row.iter_mut().zip(above).zip(here).zip(below) {
        *value += SMOOTHING * (0.5 * here + 0.25 * (above + below) - *value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A smoothed plane.
    fn smoothed(width: usize, height: usize, value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let mut plane: Vec<f32> = (0..width * height).map(|n| value(n % width, n / width)).collect();
        let mut filtered = vec![7.0; plane.len()];
        for (row, to) in plane.chunks(width).zip(filtered.chunks_mut(width)) {
            filter_row(row, to);
        }
        for (y, row) in plane.chunks_mut(width).enumerate() {
            let around = [y.saturating_sub(1), y, (y + 1).min(height - 1)];
            smooth_row(row, around.map(|y| &filtered[y * width..][..width]));
        }
        plane
    }

    #[test]
    fn even_gradients_stay_and_chessboards_fade() {
        for (width, height) in [(1, 1), (1, 5), (2, 1), (9, 6)] {
            assert!(smoothed(width, height, |_, _| 3.0).iter().all(|value| (value - 3.0).abs() < 1e-6));
        }
        let chessboard = smoothed(8, 8, |x, y| if (x + y) % 2 == 0 { 1.0 } else { -1.0 });
        assert!((chessboard[3 * 8 + 3] - (1.0 - SMOOTHING)).abs() < 1e-6);
    }

    #[test]
    fn the_filter_is_symmetric() {
        let (width, height) = (5, 4);
        let response = |at: (usize, usize)| smoothed(width, height, |x, y| f32::from((x, y) == at));
        let places = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        for from in places() {
            for to in places() {
                let value = |plane: Vec<f32>, (x, y): (usize, usize)| plane[y * width + x];
                assert_eq!(value(response(from), to), value(response(to), from), "{from:?} {to:?}");
            }
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

//! The total variation of an image (Rudin, Osher and Fatemi 1992): the mean, over all pixels and planes, of
//! `sqrt(dx^2 + dy^2 + knee^2) - knee` as a share of the 255 levels, where dx and dy are the differences to the right
//! and lower neighbour. The root makes small differences count by their square, so that the loss has a gradient
//! everywhere. The neighbour of a pixel at the border is the pixel itself.

/// Differences well below this, in levels, are smoothed away; those above keep their edge.
const KNEE: f32 = 4.0;
/// Scales the loss so that a weight of 1 counts about as much as the content loss on a noisy picture.
const LEVELS: f32 = 255.0;

/// The factor of a term in an image of this many values.
pub(super) fn share(values: usize) -> f32 {
    1.0 / (LEVELS * values as f32)
}

/// Computes the terms of a row, one for each pixel, and `slope` times their derivatives with respect to the right and
/// the lower neighbour. `below` is the next row, or the last row itself. All slices are equally long.
#[inline(always)]
pub(super) fn row_terms(
    row: &[f32],
    below: &[f32],
    slope: f32,
    to_right: &mut [f32],
    to_below: &mut [f32],
    terms: &mut [f32],
) {
    let Some(last) = row.len().checked_sub(1) else { return };
    let compute = |value: f32, right: f32, below: f32| {
        let (dx, dy) = (right - value, below - value);
        let root = (dx * dx + dy * dy + KNEE * KNEE).sqrt();
        (slope * dx / root, slope * dy / root, root - KNEE)
    };
    let pixels = row.iter().zip(&row[1..]).zip(below);
    let results = to_right.iter_mut().zip(&mut *to_below).zip(&mut *terms);
    for (((value, right), below), ((to_right, to_below), term)) in pixels.zip(results) {
        (*to_right, *to_below, *term) = compute(*value, *right, *below);
    }
    (to_right[last], to_below[last], terms[last]) = compute(row[last], row[last], below[last]);
}

/// Adds the gradient for a row of pixels, given the derivatives from [`row_terms`]: those of the row above with respect
/// to this row, and those of the row itself. All slices are equally long.
#[inline(always)]
pub(super) fn add_gradient(from_above: &[f32], to_right: &[f32], to_below: &[f32], gradient: &mut [f32]) {
    let (Some(value), Some(from_above_first)) = (gradient.first_mut(), from_above.first()) else { return };
    *value = *value + from_above_first - (to_right[0] + to_below[0]);
    let own = to_right[1..].iter().zip(&to_below[1..]);
    let others = from_above[1..].iter().zip(to_right);
    for ((value, (from_above, from_left)), (to_right, to_below)) in gradient[1..].iter_mut().zip(others).zip(own) {
        *value = *value + from_above + from_left - (to_right + to_below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loss of a plane and its gradient.
    fn total_variation(plane: &[f32], (width, height): (usize, usize), weight: f32) -> (f64, Vec<f32>) {
        let share = share(plane.len());
        let [mut to_right, mut to_below, mut terms, mut from_above] = [(); 4].map(|()| vec![0.0; width]);
        let (mut loss, mut gradient) = (0.0, vec![0.0; plane.len()]);
        for (y, gradient) in gradient.chunks_mut(width).enumerate() {
            let row = |y: usize| &plane[y * width..][..width];
            let (here, below) = (row(y), row((y + 1).min(height - 1)));
            row_terms(here, below, weight * share, &mut to_right, &mut to_below, &mut terms);
            add_gradient(&from_above, &to_right, &to_below, gradient);
            std::mem::swap(&mut from_above, &mut to_below);
            loss += terms.iter().map(|term| f64::from(*term)).sum::<f64>();
        }
        (loss * f64::from(share), gradient)
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        for size in [(5, 4), (1, 6), (6, 1), (1, 1)] {
            let plane: Vec<f32> = (0..size.0 * size.1).map(|n| ((n * 37) % 101) as f32 * 0.3).collect();
            let (_, gradient) = total_variation(&plane, size, 1000.0);
            for at in 0..plane.len() {
                let loss_at = |step: f32| {
                    let mut moved = plane.clone();
                    moved[at] += step;
                    total_variation(&moved, size, 0.0).0
                };
                let expected = 1000.0 * (loss_at(0.05) - loss_at(-0.05)) / 0.1;
                assert!(
                    (f64::from(gradient[at]) - expected).abs() < 6e-3,
                    "{size:?} {at}: {} {expected}",
                    gradient[at]
                );
            }
        }
    }

    #[test]
    fn flat_images_have_none() {
        assert_eq!(total_variation(&[80.0; 21], (7, 3), 1.0), (0.0, vec![0.0; 21]));
    }
}

// SPDX-License-Identifier: MPL-2.0

//! The temporal loss (Ruder, Dosovitskiy and Brox 2016): the mean, over all pixels and planes, of
//! `trust * (image - warped)^2`, with colours from 0 to 1.

use crate::image::Image;

const LEVELS: f32 = 255.0;

/// What the temporal loss compares an image with.
pub(super) struct TemporalTarget {
    /// The last stylized frame, moved to where things are now.
    pub(super) warped: Image,
    /// For each pixel, how far `warped` can be trusted: 1 fully, 0 not at all.
    pub(super) trust: Vec<f32>,
}

/// The factor of a term in an image of this many values.
pub(super) fn share(values: usize) -> f32 {
    1.0 / (LEVELS * LEVELS * values as f32)
}

/// Computes the terms of some pixels and adds `slope` times half of their derivative to `gradient`. All slices are
/// equally long.
#[inline(always)]
pub(super) fn add_gradient(
    image: &[f32],
    warped: &[f32],
    trust: &[f32],
    slope: f32,
    gradient: &mut [f32],
    terms: &mut [f32],
) {
    let pixels = image.iter().zip(warped).zip(trust);
    for ((((image, warped), trust), gradient), term) in pixels.zip(gradient).zip(terms) {
        let difference = image - warped;
        let pull = trust * difference;
        *term = pull * difference;
        *gradient += slope * pull;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loss and its gradient.
    fn temporal(image: &[f32], warped: &[f32], trust: &[f32], weight: f32) -> (f64, Vec<f32>) {
        let (share, mut gradient, mut terms) = (share(image.len()), vec![0.0; image.len()], vec![0.0; image.len()]);
        add_gradient(image, warped, trust, 2.0 * weight * share, &mut gradient, &mut terms);
        (terms.iter().map(|term| f64::from(term * share)).sum(), gradient)
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let values = |factor: usize| (0..12).map(|n| ((n * factor) % 97) as f32).collect::<Vec<_>>();
        let (image, warped) = (values(37), values(53));
        let trust: Vec<f32> = (0..12).map(|n| (n % 4) as f32 / 3.0).collect();
        let (_, gradient) = temporal(&image, &warped, &trust, 1000.0);
        for at in 0..image.len() {
            let loss_at = |step: f32| {
                let mut moved = image.clone();
                moved[at] += step;
                temporal(&moved, &warped, &trust, 0.0).0
            };
            let expected = 1000.0 * (loss_at(1.0) - loss_at(-1.0)) / 2.0;
            let actual = f64::from(gradient[at]);
            assert!((actual - expected).abs() < 1e-3 * expected.abs().max(0.1), "{at}: {actual} {expected}");
        }
    }

    #[test]
    fn what_stayed_or_is_not_trusted_costs_nothing() {
        for (warped, trust) in [(80.0, 1.0), (10.0, 0.0)] {
            assert_eq!(temporal(&[80.0; 20], &[warped; 20], &[trust; 20], 100.0), (0.0, vec![0.0; 20]));
        }
    }
}

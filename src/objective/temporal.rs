// SPDX-License-Identifier: MPL-2.0

use crate::image::Image;

const LEVELS: f32 = 255.0;

/// What an image shall look like if time changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct TemporalTarget {
    /// The last stylized frame, moved to where things are now.
    pub warped: Image,
    /// For each pixel, how far that holds: 1 fully, 0 not at all.
    pub trust: Vec<f32>,
}

/// The temporal loss (Ruder, Dosovitskiy and Brox 2016): the mean, over all pixels and planes, of
/// `trust * (image - warped)^2`, with colours from 0 to 1.
///
/// Adds `weight` times the gradient to `gradient`, which has the image's size, and returns the loss unweighted.
///
/// # Panics
///
/// If the sizes differ.
pub fn temporal(image: &Image, target: &TemporalTarget, weight: f64, gradient: &mut Image) -> f64 {
    let size = image.size();
    assert!(target.warped.size() == size && gradient.size() == size, "images differ in size");
    let pixels = target.trust.len();
    let share = 1.0 / (LEVELS * LEVELS * image.data().len() as f32);
    let slope = 2.0 * weight as f32 * share;
    let mut loss = 0.0;
    let planes = image.planes().zip(target.warped.planes()).zip(gradient.data_mut().chunks_exact_mut(pixels));
    for ((image, warped), gradient) in planes {
        let mut plane_loss = 0.0;
        for (((image, warped), gradient), trust) in image.iter().zip(warped).zip(gradient).zip(&target.trust) {
            let difference = image - warped;
            let pull = trust * difference;
            plane_loss += f64::from(pull * difference);
            *gradient += slope * pull;
        }
        loss += plane_loss;
    }
    loss * f64::from(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let (width, height) = (4, 3);
        let values = |factor: usize| (0..3 * width * height).map(|n| ((n * factor) % 97) as f32).collect();
        let image = Image::from_planes(width, height, values(37)).unwrap();
        let warped = Image::from_planes(width, height, values(53)).unwrap();
        let trust = (0..width * height).map(|n| (n % 4) as f32 / 3.0).collect();
        let target = TemporalTarget { warped, trust };
        let mut gradient = Image::filled(width, height, 0.0);
        temporal(&image, &target, 1000.0, &mut gradient);
        for at in 0..image.data().len() {
            let loss_at = |step: f32| {
                let mut moved = image.clone();
                moved.data_mut()[at] += step;
                temporal(&moved, &target, 0.0, &mut Image::filled(width, height, 0.0))
            };
            let expected = 1000.0 * (loss_at(1.0) - loss_at(-1.0)) / 2.0;
            let actual = f64::from(gradient.data()[at]);
            assert!((actual - expected).abs() < 1e-3 * expected.abs().max(0.1), "{at}: {actual} {expected}");
        }
    }

    #[test]
    fn what_stayed_or_is_not_trusted_costs_nothing() {
        let image = Image::filled(5, 4, 80.0);
        let mut gradient = Image::filled(5, 4, 0.0);
        let same = TemporalTarget { warped: image.clone(), trust: vec![1.0; 20] };
        let untrusted = TemporalTarget { warped: Image::filled(5, 4, 10.0), trust: vec![0.0; 20] };
        for target in [same, untrusted] {
            assert_eq!(temporal(&image, &target, 100.0, &mut gradient), 0.0);
            assert_eq!(gradient, Image::filled(5, 4, 0.0));
        }
    }
}

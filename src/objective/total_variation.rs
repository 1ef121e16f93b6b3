// SPDX-License-Identifier: MPL-2.0

use crate::image::Image;

/// Differences well below this, in levels, are smoothed away; those above keep their edge.
const KNEE: f32 = 4.0;
/// Scales the loss so that a weight of 1 counts about as much as the content loss on a noisy picture.
const LEVELS: f32 = 255.0;

/// The total variation of an image (Rudin, Osher and Fatemi 1992): the mean, over all pixels and planes, of
/// `sqrt(dx^2 + dy^2 + knee^2) - knee` as a share of the 255 levels, where dx and dy are the differences to the right
/// and lower neighbour. The root makes small differences count by their square, so that the loss has a gradient
/// everywhere.
///
/// Adds `weight` times the gradient to `gradient`, which has the image's size, and returns the loss unweighted.
pub fn total_variation(image: &Image, weight: f64, gradient: &mut Image) -> f64 {
    assert_eq!(image.size(), gradient.size(), "the gradient has the size of its image");
    let (width, height) = image.size();
    let share = 1.0 / (LEVELS * image.data().len() as f32);
    let slope = weight as f32 * share;
    let mut loss = 0.0;
    let gradients = gradient.data_mut().chunks_exact_mut(width * height);
    for (plane, gradient) in image.planes().zip(gradients) {
        for y in 0..height {
            let mut row_loss = 0.0;
            for x in 0..width {
                let at = y * width + x;
                // The neighbour of a pixel at the border is the pixel itself.
                let right = at + usize::from(x + 1 < width);
                let below = at + width * usize::from(y + 1 < height);
                let (dx, dy) = (plane[right] - plane[at], plane[below] - plane[at]);
                let root = (dx * dx + dy * dy + KNEE * KNEE).sqrt();
                row_loss += root - KNEE;
                let (dx, dy) = (slope * dx / root, slope * dy / root);
                gradient[right] += dx;
                gradient[below] += dy;
                gradient[at] -= dx + dy;
            }
            loss += f64::from(row_loss);
        }
    }
    loss * f64::from(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let (width, height) = (5, 4);
        let values = (0..3 * width * height).map(|n| ((n * 37) % 101) as f32 * 0.3).collect();
        let image = Image::from_planes(width, height, values).unwrap();
        let mut gradient = Image::filled(width, height, 0.0);
        total_variation(&image, 1000.0, &mut gradient);
        for at in 0..image.data().len() {
            let loss_at = |step: f32| {
                let mut moved = image.clone();
                moved.data_mut()[at] += step;
                total_variation(&moved, 0.0, &mut Image::filled(width, height, 0.0))
            };
            let expected = 1000.0 * (loss_at(0.05) - loss_at(-0.05)) / 0.1;
            assert!(
                (f64::from(gradient.data()[at]) - expected).abs() < 2e-3,
                "{at}: {} {expected}",
                gradient.data()[at]
            );
        }
    }

    #[test]
    fn flat_images_have_none() {
        let mut gradient = Image::filled(7, 3, 0.0);
        assert_eq!(total_variation(&Image::filled(7, 3, 80.0), 1.0, &mut gradient), 0.0);
        assert_eq!(gradient, Image::filled(7, 3, 0.0));
    }
}

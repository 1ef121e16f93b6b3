// SPDX-License-Identifier: MPL-2.0

//! Images in planes of floating point, which are optimized, and packed frames and pictures of 8-bit colour.

mod frame;
mod picture;
mod resize;

use std::borrow::Cow;

use crate::{Error, Result};

pub use frame::{Frame, PackedFormat};
pub use picture::Picture;
pub(crate) use resize::{Filter, Resizer};

/// An image in three planes: red, then green, then blue, each `height` rows of `width` values.
///
/// A value is a level of 8-bit colour, 0 to 255, as a real number. Residuals and gradients have the same type: there
/// values have the same unit but any size and sign.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    width: usize,
    height: usize,
    data: Vec<f32>,
}

impl Image {
    /// An image whose values are all the same.
    pub fn filled(width: usize, height: usize, value: f32) -> Self {
        Self { width, height, data: vec![value; 3 * width * height] }
    }

    /// An image from its planes.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] unless there are `3 * width * height` values.
    pub fn from_planes(width: usize, height: usize, data: Vec<f32>) -> Result<Self> {
        let expected = width.saturating_mul(height).saturating_mul(3);
        if data.len() != expected {
            return Err(Error::ImageSize { width, height, expected, actual: data.len() });
        }
        Ok(Self { width, height, data })
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// All values, plane after plane.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All values, plane after plane, mutable.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The red, green and blue plane.
    pub fn planes(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact((self.width * self.height).max(1))
    }

    /// The red, green and blue plane, mutable.
    pub(crate) fn planes_mut(&mut self) -> [&mut [f32]; 3] {
        let pixels = self.width * self.height;
        let (red, others) = self.data.split_at_mut(pixels);
        let (green, blue) = others.split_at_mut(pixels);
        [red, green, blue]
    }

    /// The residual: what has to be added to another image of the same size to get this one.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        assert_eq!(self.size(), other.size(), "images differ in size");
        let mut residual = self.clone();
        residual.data.iter_mut().zip(&other.data).for_each(|(value, other)| *value -= other);
        residual
    }

    /// An image of the same size with a share of this residual added, kept within 0 to 255.
    pub(crate) fn on(mut self, image: &Self, share: f32) -> Self {
        assert_eq!(self.size(), image.size(), "images differ in size");
        let values = self.data.iter_mut().zip(&image.data);
        values.for_each(|(value, image)| *value = (image + share * *value).clamp(0.0, 255.0));
        self
    }

    /// The image at another size: a larger one by cubic interpolation (Catmull and Rom 1974), a smaller one by the
    /// mean of the area that goes into each pixel.
    ///
    /// # Errors
    ///
    /// [`Error::Resize`] if either size is empty.
    pub fn resized(&self, width: usize, height: usize) -> Result<Self> {
        if self.size() == (width, height) {
            return Ok(self.clone());
        }
        resize_planes(self.size(), self.planes().map(Cow::Borrowed), (width, height))
    }
}

/// Resizes planes one after the other.
fn resize_planes<'a>(
    from: (usize, usize),
    planes: impl Iterator<Item = Cow<'a, [f32]>>,
    (width, height): (usize, usize),
) -> Result<Image> {
    if [from.0, from.1, width, height].contains(&0) {
        return Err(Error::Resize(format!("{}x{} to {width}x{height}: an image is empty", from.0, from.1)));
    }
    let filter = if width * height < from.0 * from.1 { Filter::Shrink } else { Filter::Enlarge };
    let mut resizer = Resizer::default();
    let mut image = Image::filled(width, height, 0.0);
    for (plane, to) in planes.zip(image.planes_mut()) {
        resizer.resize((&plane, from.0), 0.0..from.1 as f64, (to, width), filter)?;
    }
    Ok(image)
}

/// The size of an image whose long side is `long_side`, in the proportions of `size`; no side is shorter than 1.
pub(crate) fn fit((width, height): (usize, usize), long_side: usize) -> (usize, usize) {
    let scale = long_side as f64 / width.max(height) as f64;
    let side = |n: usize| ((n as f64 * scale).round() as usize).max(1);
    (side(width), side(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resizing_keeps_a_ramp() {
        let (width, height) = (32, 16);
        let ramp = |w: usize, h: usize, step: f32| -> Vec<f32> {
            (0..3 * w * h).map(|n| ((n % w) as f32 + 0.5) * step).collect()
        };
        let image = Image::from_planes(width, height, ramp(width, height, 4.0)).unwrap();
        let half = image.resized(16, 8).unwrap();
        for (value, expected) in half.data()[4..12].iter().zip(&ramp(16, 8, 8.0)[4..12]) {
            assert!((value - expected).abs() < 1e-3, "{value} {expected}");
        }
    }

    #[test]
    #[should_panic(expected = "images differ in size")]
    fn residuals_of_images_of_other_sizes_are_a_mistake() {
        // The number of values is the same.
        Image::filled(4, 2, 1.0).minus(&Image::filled(2, 4, 1.0));
    }

    #[test]
    fn nothing_is_made_of_empty_images() {
        for ((width, height), to) in [((4, 4), (0, 3)), ((4, 4), (3, 0)), ((0, 4), (3, 3))] {
            let message = Image::filled(width, height, 0.0).resized(to.0, to.1).unwrap_err().to_string();
            assert!(message.contains(&format!("{width}x{height} to {}x{}", to.0, to.1)), "{message}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        for (width, height) in [(2, 1), (1 << 62, 4), (usize::MAX, 0)] {
            let image = Image::from_planes(width, height, vec![0.0; 3]);
            assert!(matches!(image, Err(Error::ImageSize { actual: 3, .. })), "{width}x{height}");
        }
        assert_eq!(Image::filled(0, 4, 0.0).planes().count(), 0);
    }

    #[test]
    fn fit_keeps_proportions() {
        assert_eq!(fit((1920, 1080), 320), (320, 180));
        assert_eq!(fit((1080, 1920), 320), (180, 320));
        assert_eq!(fit((4000, 1), 16), (16, 1));
    }
}

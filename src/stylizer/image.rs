// SPDX-License-Identifier: MPL-2.0

//! Images as the optimization sees them, and the way there from packed video frames and back.

use fast_image_resize as fir;

use crate::{Error, Result};

/// An image in three planes: red, then green, then blue, each `height` rows of `width` values.
///
/// A value is a level of 8-bit colour, 0 to 255, as a real number. The same type carries what is added to or taken
/// from an image, such as a gradient, in the same unit and without that range.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    width: usize,
    height: usize,
    data: Vec<f32>,
}

/// Where the colours are in the pixels of a packed frame, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedFormat {
    /// From one pixel to the next.
    pub pixel_stride: usize,
    /// From the start of a pixel to its red, green and blue.
    pub offsets: [usize; 3],
}

impl PackedFormat {
    /// Three bytes a pixel: red, green, blue.
    pub const RGB: Self = Self { pixel_stride: 3, offsets: [0, 1, 2] };
}

impl Image {
    /// An image of one value.
    pub fn filled(width: usize, height: usize, value: f32) -> Self {
        Self { width, height, data: vec![value; 3 * width * height] }
    }

    /// An image from its planes.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] unless there are `3 * width * height` values.
    pub fn from_planes(width: usize, height: usize, data: Vec<f32>) -> Result<Self> {
        let expected = 3 * width * height;
        if data.len() != expected {
            return Err(Error::ImageSize { width, height, expected, actual: data.len() });
        }
        Ok(Self { width, height, data })
    }

    /// An image from a packed frame whose rows begin `stride` bytes apart.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] if `bytes` ends before the frame does.
    pub fn from_packed(bytes: &[u8], width: usize, height: usize, stride: usize, format: PackedFormat) -> Result<Self> {
        check_packed(bytes.len(), width, height, stride, format)?;
        let mut image = Self::filled(width, height, 0.0);
        for (plane, offset) in image.data.chunks_exact_mut(width * height).zip(format.offsets) {
            for (row, packed) in plane.chunks_exact_mut(width).zip(bytes.chunks(stride)) {
                let pixels = packed.chunks(format.pixel_stride);
                row.iter_mut().zip(pixels).for_each(|(value, pixel)| *value = f32::from(pixel[offset]));
            }
        }
        Ok(image)
    }

    /// Writes the image into a packed frame of its size, rounded and cut to 0..=255. Other bytes of a pixel, such as
    /// its alpha, and what lies between the rows stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] if `bytes` ends before the frame does.
    pub fn write_packed(&self, bytes: &mut [u8], stride: usize, format: PackedFormat) -> Result<()> {
        check_packed(bytes.len(), self.width, self.height, stride, format)?;
        for (plane, offset) in self.planes().zip(format.offsets) {
            for (row, packed) in plane.chunks_exact(self.width).zip(bytes.chunks_mut(stride)) {
                let pixels = packed.chunks_mut(format.pixel_stride);
                // The cast cuts off the fraction, and to the range of u8.
                row.iter().zip(pixels).for_each(|(value, pixel)| pixel[offset] = (value + 0.5) as u8);
            }
        }
        Ok(())
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

    /// All values, plane after plane, to be changed.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The red, green and blue plane.
    pub fn planes(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.width * self.height)
    }

    /// What is to be added to another image of the same size to get this one: the residual.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        let mut residual = self.clone();
        residual.data.iter_mut().zip(&other.data).for_each(|(value, other)| *value -= other);
        residual
    }

    /// A share of this residual on an image of the same size, kept within 0 to 255.
    pub(crate) fn on(mut self, image: &Self, share: f32) -> Self {
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
        let failed = |error: &dyn std::fmt::Display| {
            let (from_width, from_height) = self.size();
            Error::Resize(format!("{from_width}x{from_height} to {width}x{height}: {error}"))
        };
        if [self.width, self.height, width, height].contains(&0) {
            return Err(failed(&"there is nothing of an empty image"));
        }
        let side = |n: usize| u32::try_from(n).map_err(|error| failed(&error));
        let smaller = width * height < self.width * self.height;
        let filter = if smaller { fir::FilterType::Box } else { fir::FilterType::CatmullRom };
        let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(filter));
        let mut resizer = fir::Resizer::new();
        let mut image = Self::filled(width, height, 0.0);
        for (from, to) in self.planes().zip(image.data.chunks_exact_mut(width * height)) {
            let (from, to) = (bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to));
            let source = fir::images::ImageRef::new(side(self.width)?, side(self.height)?, from, fir::PixelType::F32)
                .map_err(|error| failed(&error))?;
            let mut target = fir::images::Image::from_slice_u8(side(width)?, side(height)?, to, fir::PixelType::F32)
                .map_err(|error| failed(&error))?;
            resizer.resize(&source, &mut target, &options).map_err(|error| failed(&error))?;
        }
        Ok(image)
    }
}

/// The size of an image whose long side is `long_side`, in the proportions of `size`; no side is shorter than 1.
pub(crate) fn fit((width, height): (usize, usize), long_side: usize) -> (usize, usize) {
    let scale = long_side as f64 / width.max(height) as f64;
    let side = |n: usize| ((n as f64 * scale).round() as usize).max(1);
    (side(width), side(height))
}

fn check_packed(actual: usize, width: usize, height: usize, stride: usize, format: PackedFormat) -> Result<()> {
    let row = width * format.pixel_stride;
    // The last row may end without padding.
    let expected = if height == 0 { 0 } else { stride * (height - 1) + row };
    if stride < row || actual < expected || width == 0 || height == 0 {
        return Err(Error::ImageSize { width, height, expected, actual });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_frames_round_trip_with_padding_and_alpha() {
        let format = PackedFormat { pixel_stride: 4, offsets: [3, 2, 1] };
        let (width, height, stride) = (5, 3, 27);
        let original: Vec<u8> = (0..stride * (height - 1) + 4 * width).map(|n| (n * 7 % 251) as u8).collect();
        let mut image = Image::from_packed(&original, width, height, stride, format).unwrap();
        assert_eq!(image.data()[width + 2], f32::from(original[stride + 2 * 4 + 3]));

        let mut written = original.clone();
        image.write_packed(&mut written, stride, format).unwrap();
        assert_eq!(written, original);

        image.data_mut().fill(300.0);
        image.write_packed(&mut written, stride, format).unwrap();
        for (n, (new, old)) in written.iter().zip(&original).enumerate() {
            let column = n % stride;
            let colour = column < 4 * width && column % 4 != 0;
            assert_eq!(*new, if colour { 255 } else { *old }, "byte {n}");
        }
    }

    #[test]
    fn short_frames_are_refused() {
        let bytes = [0; 3 * 4 * 4 - 1];
        assert!(Image::from_packed(&bytes, 4, 4, 12, PackedFormat::RGB).is_err());
        assert!(Image::from_packed(&bytes, 4, 3, 11, PackedFormat::RGB).is_err());
        assert!(Image::from_packed(&bytes, 0, 3, 12, PackedFormat::RGB).is_err());
    }

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
    fn nothing_is_made_of_empty_images() {
        for ((width, height), to) in [((4, 4), (0, 3)), ((4, 4), (3, 0)), ((0, 4), (3, 3))] {
            let message = Image::filled(width, height, 0.0).resized(to.0, to.1).unwrap_err().to_string();
            assert!(message.contains(&format!("{width}x{height} to {}x{}", to.0, to.1)), "{message}");
        }
    }

    #[test]
    fn fit_keeps_proportions() {
        assert_eq!(fit((1920, 1080), 320), (320, 180));
        assert_eq!(fit((1080, 1920), 320), (180, 320));
        assert_eq!(fit((4000, 1), 16), (16, 1));
    }
}

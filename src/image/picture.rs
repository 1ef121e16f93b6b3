// SPDX-License-Identifier: MPL-2.0

use std::borrow::Cow;

use super::{Image, resize_planes};
use crate::{Error, Result};

/// A picture of 8-bit colour, as style images are: the red, green and blue bytes of each pixel, in rows without padding.
///
/// It takes a quarter of the memory of an [`Image`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture from its pixels.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] if it is empty, or unless there are `3 * width * height` bytes.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        let expected = width.saturating_mul(height).saturating_mul(3);
        if pixels.len() != expected || expected == 0 {
            return Err(Error::ImageSize { width, height, expected, actual: pixels.len() });
        }
        Ok(Self { width, height, pixels })
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// The picture as an image of the same size.
    pub fn image(&self) -> Image {
        let data = (0..3).flat_map(|colour| self.plane(colour)).collect();
        Image { width: self.width, height: self.height, data }
    }

    /// The picture as an image of another size, resized as [`Image::resized`] does it.
    ///
    /// # Errors
    ///
    /// [`Error::Resize`] if the size is empty.
    pub fn resized(&self, width: usize, height: usize) -> Result<Image> {
        if self.size() == (width, height) {
            return Ok(self.image());
        }
        // One plane at a time, so that there is never a whole image of the old size.
        let planes = (0..3).map(|colour| Cow::Owned(self.plane(colour).collect()));
        resize_planes(self.size(), planes, (width, height))
    }

    fn plane(&self, colour: usize) -> impl Iterator<Item = f32> {
        self.pixels.as_chunks::<3>().0.iter().map(move |pixel| f32::from(pixel[colour]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> Picture {
        Picture::new(width, height, (0..3 * width * height).map(|n| (n * 7919 % 251) as u8).collect()).unwrap()
    }

    #[test]
    fn it_is_resized_like_its_image() {
        let picture = picture(23, 17);
        for (width, height) in [(23, 17), (9, 5), (40, 33), (1, 17)] {
            let expected = picture.image().resized(width, height).unwrap();
            assert!(picture.resized(width, height).unwrap() == expected, "{width}x{height}");
        }
        assert_eq!(picture.image().data()[23 * 17 + 1], f32::from(picture.pixels[4]));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for (width, height, len) in [(2, 1, 5), (2, 1, 7), (0, 1, 0), (1 << 62, 4, 3)] {
            let error = Picture::new(width, height, vec![0; len]).unwrap_err();
            assert!(matches!(error, Error::ImageSize { actual, .. } if actual == len), "{width}x{height}");
        }
        assert!(matches!(picture(2, 2).resized(0, 2), Err(Error::Resize(_))));
    }
}

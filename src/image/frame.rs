// SPDX-License-Identifier: MPL-2.0

use std::ops::Range;

use super::Image;
use crate::{Error, Result};

/// A borrowed packed video frame, which is painted in place.
///
/// ```
/// use gstneuralstyle::image::{Frame, PackedFormat};
///
/// # fn main() -> gstneuralstyle::Result<()> {
/// let mut pixels = vec![0; 3 * 640 * 480];
/// let frame = Frame::new(&mut pixels, (640, 480), 3 * 640, PackedFormat::RGB)?;
/// assert_eq!(frame.size(), (640, 480));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Frame<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) stride: usize,
    pub(crate) format: PackedFormat,
}

/// The bytes of a pixel: how many there are, and which of them are red, green and blue.
///
/// The constants are named by the order of the bytes in memory. X is padding and A is alpha: both stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedFormat {
    pub(crate) pixel_stride: usize,
    /// From the start of a pixel to its red, green and blue.
    pub(crate) offsets: [usize; 3],
}

impl PackedFormat {
    /// Red, green, blue.
    pub const RGB: Self = Self { pixel_stride: 3, offsets: [0, 1, 2] };
    /// Blue, green, red.
    pub const BGR: Self = Self { pixel_stride: 3, offsets: [2, 1, 0] };
    /// Red, green, blue, padding.
    pub const RGBX: Self = Self { pixel_stride: 4, offsets: [0, 1, 2] };
    /// Padding, red, green, blue.
    pub const XRGB: Self = Self { pixel_stride: 4, offsets: [1, 2, 3] };
    /// Blue, green, red, padding.
    pub const BGRX: Self = Self { pixel_stride: 4, offsets: [2, 1, 0] };
    /// Padding, blue, green, red.
    pub const XBGR: Self = Self { pixel_stride: 4, offsets: [3, 2, 1] };
    /// Red, green, blue, alpha.
    pub const RGBA: Self = Self::RGBX;
    /// Alpha, red, green, blue.
    pub const ARGB: Self = Self::XRGB;
    /// Blue, green, red, alpha.
    pub const BGRA: Self = Self::BGRX;
    /// Alpha, blue, green, red.
    pub const ABGR: Self = Self::XBGR;

    /// Pixels of `pixel_stride` bytes, 3 or 4, with red, green and blue at these offsets from the first of them.
    ///
    /// # Errors
    ///
    /// [`Error::PackedFormat`] if an offset is not inside of the pixel, or two are the same.
    pub fn new(pixel_stride: usize, offsets: [usize; 3]) -> Result<Self> {
        let [red, green, blue] = offsets;
        let are_inside = offsets.iter().all(|offset| *offset < pixel_stride);
        if !matches!(pixel_stride, 3 | 4) || !are_inside || red == green || green == blue || blue == red {
            return Err(Error::PackedFormat { pixel_stride, offsets });
        }
        Ok(Self { pixel_stride, offsets })
    }
}

impl<'a> Frame<'a> {
    /// A frame of this width and height in pixels, whose rows begin `stride` bytes apart. The last row may end without
    /// padding.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] if the frame is empty, if a row is longer than `stride`, or if `bytes` ends before the frame
    /// does.
    pub fn new(
        bytes: &'a mut [u8],
        (width, height): (usize, usize),
        stride: usize,
        format: PackedFormat,
    ) -> Result<Self> {
        let actual = bytes.len();
        let row = width.saturating_mul(format.pixel_stride);
        let expected = stride.saturating_mul(height.saturating_sub(1)).saturating_add(row);
        if stride < row || actual < expected || width == 0 || height == 0 {
            return Err(Error::ImageSize { width, height, expected, actual });
        }
        Ok(Self { bytes, width, height, stride, format })
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// The frame as an image.
    pub fn image(&self) -> Image {
        let mut image = Image::filled(self.width, self.height, 0.0);
        image.planes_mut().into_iter().enumerate().for_each(|(colour, plane)| self.read(colour, 0..self.height, plane));
        image
    }

    /// Reads rows of one colour.
    #[inline(always)]
    pub(crate) fn read(&self, colour: usize, rows: Range<usize>, values: &mut [f32]) {
        let offset = self.format.offsets[colour];
        let rows = self.bytes.chunks(self.stride).take(rows.end).skip(rows.start);
        for (packed, values) in rows.zip(values.chunks_exact_mut(self.width)) {
            match self.format.pixel_stride {
                3 => read_row::<3>(packed, offset, values),
                _ => read_row::<4>(packed, offset, values),
            }
        }
    }
}

#[inline(always)]
fn read_row<const N: usize>(packed: &[u8], offset: usize, values: &mut [f32]) {
    let pixels = packed.as_chunks::<N>().0;
    values.iter_mut().zip(pixels).for_each(|(value, pixel)| *value = f32::from(pixel[offset]));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a frame without any order, with padded rows.
    fn noise(height: usize, stride: usize) -> Vec<u8> {
        (0..stride * height).map(|n| (n * 7919 % 65537 % 251) as u8).collect()
    }

    #[test]
    fn colours_are_read_from_their_places() {
        let stride = 27;
        for format in [PackedFormat::ARGB, PackedFormat::BGRX, PackedFormat::RGB] {
            // The last row ends without padding.
            let mut bytes = noise(3, stride)[..2 * stride + 5 * format.pixel_stride].to_vec();
            let expected = bytes.clone();
            let image = Frame::new(&mut bytes, (5, 3), stride, format).unwrap().image();
            for (n, value) in image.data().iter().enumerate() {
                let (colour, row, column) = (n / 15, n / 5 % 3, n % 5);
                let byte = expected[row * stride + column * format.pixel_stride + format.offsets[colour]];
                assert_eq!(*value, f32::from(byte), "{format:?} {n}");
            }
        }
    }

    #[test]
    fn formats_are_named_by_the_order_of_their_bytes() {
        for (name, format) in [
            ("RGB", PackedFormat::RGB),
            ("BGR", PackedFormat::BGR),
            ("RGBX", PackedFormat::RGBX),
            ("XRGB", PackedFormat::XRGB),
            ("BGRX", PackedFormat::BGRX),
            ("XBGR", PackedFormat::XBGR),
            ("RGBA", PackedFormat::RGBA),
            ("ARGB", PackedFormat::ARGB),
            ("BGRA", PackedFormat::BGRA),
            ("ABGR", PackedFormat::ABGR),
        ] {
            let offsets = ['R', 'G', 'B'].map(|colour| name.find(colour).unwrap());
            assert_eq!(PackedFormat::new(name.len(), offsets).unwrap(), format, "{name}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut bytes = [0; 3 * 4 * 4 - 1];
        for (size, stride) in
            [((4, 4), 12), ((4, 3), 11), ((0, 3), 12), ((3, 0), 12), ((usize::MAX / 2, 1), usize::MAX)]
        {
            let message = Frame::new(&mut bytes, size, stride, PackedFormat::RGB).unwrap_err().to_string();
            assert!(message.contains(&format!("{}x{} pixels", size.0, size.1)), "{message}");
        }
        for (pixel_stride, offsets) in [(2, [0, 1, 0]), (5, [0, 1, 2]), (3, [1, 2, 3]), (4, [1, 2, 1])] {
            let message = PackedFormat::new(pixel_stride, offsets).unwrap_err().to_string();
            assert!(message.contains(&format!("{pixel_stride} bytes")), "{message}");
        }
    }
}

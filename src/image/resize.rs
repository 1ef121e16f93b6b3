// SPDX-License-Identifier: MPL-2.0

use std::ops::Range;

use fast_image_resize as fir;

use crate::{Error, Result};

/// How a plane is resampled.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Filter {
    /// Each pixel is the mean of the area that it covers.
    Shrink,
    /// Cubic interpolation (Catmull and Rom 1974).
    Enlarge,
}

/// Resizes planes. It reuses its memory.
#[derive(Default)]
pub(crate) struct Resizer(fir::Resizer);

impl Resizer {
    /// Resizes a range of rows of a plane to fill another plane. Planes come with their widths. The range may begin and
    /// end within a row, and the filter reads beyond it.
    ///
    /// # Errors
    ///
    /// [`Error::Resize`] if one of them is too large for the resizer, or if the range is not in the plane.
    ///
    /// # Panics
    ///
    /// If a width is 0.
    pub(crate) fn resize(
        &mut self,
        (from, from_width): (&[f32], usize),
        rows: Range<f64>,
        (to, to_width): (&mut [f32], usize),
        filter: Filter,
    ) -> Result<()> {
        let ((width, height), to_height) = ((from_width, from.len() / from_width), to.len() / to_width);
        let failed = |error: &dyn std::fmt::Display| {
            Error::Resize(format!("{width}x{height} to {to_width}x{to_height}: {error}"))
        };
        let side = |n: usize| u32::try_from(n).map_err(|error| failed(&error));
        let filter = match filter {
            Filter::Shrink => fir::FilterType::Box,
            Filter::Enlarge => fir::FilterType::CatmullRom,
        };
        let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(filter)).crop(
            0.0,
            rows.start,
            width as f64,
            rows.end - rows.start,
        );
        let (from, to) = (bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to));
        let source = fir::images::ImageRef::new(side(width)?, side(height)?, from, fir::PixelType::F32)
            .map_err(|error| failed(&error))?;
        let mut target = fir::images::Image::from_slice_u8(side(to_width)?, side(to_height)?, to, fir::PixelType::F32)
            .map_err(|error| failed(&error))?;
        self.0.resize(&source, &mut target, &options).map_err(|error| failed(&error))
    }
}

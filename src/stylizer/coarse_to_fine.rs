// SPDX-License-Identifier: MPL-2.0

//! First frames are painted coarse to fine.
//!
//! In a smaller image the receptive fields of the network cover a larger part of the picture, and an iteration takes a
//! fraction of the time. It gives broad strokes, which are then refined from size to size (Gatys, Ecker, Bethge,
//! Hertzmann and Shechtman 2017, section 7).

use std::iter;

use super::{Schedule, Stylizer, lock, style_target::StyleTarget};
use crate::{Result, image::Image, objective::LossLayers};

/// The least long side of the smallest image, in pixels.
pub(super) const COARSEST: usize = 64;

impl Stylizer {
    /// Paints the content at all smaller sizes, the smallest first, and returns the image to start from at its own size.
    /// `None` if there is no smaller size. The paint is that of the new style alone, even during a cross-fade.
    pub(super) fn paint_coarsely(&mut self, content: &Image) -> Result<Option<Image>> {
        let Some(style) = &self.style else { return Ok(None) };
        let sizes = smaller_sizes(content.size(), &self.settings.layers, style);
        let residual = self.paint_at(&sizes, content);
        // Also after an error: the next frame has another size.
        if let Some(style) = &self.style {
            style.install(lock(&self.objective).as_mut())?;
        }
        residual?.map(|residual| repaint(&residual, content)).transpose()
    }

    /// Paints the content at these sizes, from the last to the first, and returns the residual of the first.
    fn paint_at(&mut self, sizes: &[(usize, usize)], content: &Image) -> Result<Option<Image>> {
        let mut residual: Option<Image> = None;
        for &(width, height) in sizes.iter().rev() {
            let coarse_content = content.resized(width, height)?;
            let (image, schedule) = match residual {
                None => (coarse_content.clone(), Schedule::first(&self.settings)),
                Some(residual) => (repaint(&residual, &coarse_content)?, Schedule::refining(&self.settings)),
            };
            let long_side = width.max(height);
            let grain = match &mut self.style {
                Some(style) => style.aim_coarsely(lock(&self.objective).as_mut(), long_side)?,
                None => 0.0,
            };
            lock(&self.objective).set_content(&coarse_content)?;
            let optimized = self.optimize(image.into(), schedule, self.settings.loss_weights(long_side, grain))?;
            residual = Some(optimized.image.minus(&coarse_content));
        }
        Ok(residual)
    }
}

/// The content with a residual of another size added.
pub(super) fn repaint(residual: &Image, content: &Image) -> Result<Image> {
    Ok(residual.resized(content.width(), content.height())?.on(content, 1.0))
}

/// The smaller sizes, each half of the one before, at which content and style are large enough for the network.
fn smaller_sizes(size: (usize, usize), layers: &LossLayers, style: &StyleTarget) -> Vec<(usize, usize)> {
    let halves = iter::successors(Some(size), |(width, height)| Some((width / 2, height / 2))).skip(1);
    let is_enough = |size: &(usize, usize)| {
        let long_side = size.0.max(size.1);
        long_side >= COARSEST
            && size.0.min(size.1) > 0
            && layers.check_size("frame", *size).is_ok()
            && layers.check_size("style", style.size_for(long_side)).is_ok()
    };
    halves.take_while(is_enough).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{image::Picture, stylizer::Settings};

    #[test]
    fn sizes_are_halved_while_they_are_large_enough() {
        let sizes = |size, style: (usize, usize)| {
            let style =
                StyleTarget::new(Arc::new(Picture::new(style.0, style.1, vec![0; 3 * style.0 * style.1]).unwrap()));
            smaller_sizes(size, &Settings::default().layers, &style)
        };
        assert_eq!(sizes((320, 181), (640, 480)), [(160, 90), (80, 45)]);
        assert_eq!(sizes((90, 128), (640, 480)), [(45, 64)]);
        assert_eq!(sizes((127, 90), (640, 480)), []);
        assert_eq!(sizes((640, 30), (640, 480)), [(320, 15)]);
        assert_eq!(sizes((320, 181), (640, 40)), [(160, 90)]);
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Where the optimization of a frame begins.

use super::{Image, optimizer::Adam};
use crate::Result;

/// What every frame but the first starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WarmStart {
    /// The frame itself. No frame knows of another, so that the paint flickers.
    None,
    /// The last stylized frame. Paint stands still, even where things move.
    Previous,
    /// The frame, with the last frame's residual, which is the difference between stylized and content, added to it.
    /// New things appear at once, and keep the paint that was in their place.
    #[default]
    Residual,
}

/// What one frame leaves to the next.
pub(super) struct History {
    pub(super) content: Image,
    pub(super) stylized: Image,
    pub(super) optimizer: Adam,
}

impl History {
    /// The image to start from, given the new frame's content.
    pub(super) fn start(&self, warm_start: WarmStart, content: &Image) -> Image {
        match warm_start {
            WarmStart::None => content.clone(),
            WarmStart::Previous => self.stylized.clone(),
            WarmStart::Residual => {
                let mut start = content.clone();
                let residual = self.stylized.data().iter().zip(self.content.data());
                for (value, (stylized, content)) in start.data_mut().iter_mut().zip(residual) {
                    *value = (*value + stylized - content).clamp(0.0, 255.0);
                }
                start
            }
        }
    }

    /// The same history at another working size.
    pub(super) fn resized(&self, (width, height): (usize, usize)) -> Result<Self> {
        Ok(Self {
            content: self.content.resized(width, height)?,
            stylized: self.stylized.resized(width, height)?,
            optimizer: Adam::new(3 * width * height),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_is_what_it_says() {
        let history = History {
            content: Image::filled(2, 2, 100.0),
            stylized: Image::filled(2, 2, 130.0),
            optimizer: Adam::new(12),
        };
        let content = Image::filled(2, 2, 50.0);
        assert_eq!(history.start(WarmStart::None, &content), content);
        assert_eq!(history.start(WarmStart::Previous, &content), Image::filled(2, 2, 130.0));
        assert_eq!(history.start(WarmStart::Residual, &content), Image::filled(2, 2, 80.0));
        let bright = Image::filled(2, 2, 240.0);
        assert_eq!(history.start(WarmStart::Residual, &bright), Image::filled(2, 2, 255.0));
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Pictures of flow, trust and residual, for tuning.

use crate::{
    image::Image,
    motion::{Flow, Motion},
};

/// The least length of a flow that is drawn in full colour, in pixels, so that what stands still looks still.
const SHORTEST_REACH: f32 = 1.0;
/// The level of a residual of zero. Residuals are halved, so that all of them fit between 0 and 255.
const MIDDLE: f32 = 128.0;

/// What a frame shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DebugView {
    /// The painted frame.
    #[default]
    Painted,
    /// The optical flow, which points to where things were in the last frame. The hue is its direction: red to the right,
    /// green to the lower left, blue to the upper left. The saturation is its length, as a share of the longest in the
    /// frame or of one pixel, whichever is longer.
    Flow,
    /// The trust in the flow: white is full, black is none.
    Mask,
    /// The residual, which is painted frame minus frame: half of it, added to grey.
    Residual,
}

impl DebugView {
    pub(super) fn shows_motion(self) -> bool {
        matches!(self, Self::Flow | Self::Mask)
    }

    /// The picture at the working size; `None` for the painted frame itself. Without motion, as in a first frame, it is
    /// black.
    pub(super) fn picture(self, motion: Option<&Motion>, content: &Image, stylized: &Image) -> Option<Image> {
        let black = || Image::filled(content.width(), content.height(), 0.0);
        match self {
            Self::Painted => None,
            Self::Flow => Some(motion.map_or_else(black, |motion| flow(&motion.flow))),
            Self::Mask => Some(motion.map_or_else(black, mask)),
            Self::Residual => Some(residual(content, stylized)),
        }
    }
}

fn flow(flow: &Flow) -> Image {
    let vectors = || flow.x.iter().zip(&flow.y);
    let reach = vectors().map(|(x, y)| x.hypot(*y)).fold(SHORTEST_REACH, f32::max);
    let mut picture = Image::filled(flow.width, flow.height, 0.0);
    let pixels = flow.x.len();
    for (plane, values) in picture.data_mut().chunks_exact_mut(pixels).enumerate() {
        // The directions in which red, green and blue are strongest are a third of a turn apart.
        let (sin, cos) = (plane as f32 * std::f32::consts::TAU / 3.0).sin_cos();
        for (value, (x, y)) in values.iter_mut().zip(vectors()) {
            let length = x.hypot(*y);
            let towards = if length > 0.0 { (x * cos + y * sin) / length } else { 0.0 };
            *value = 255.0 * (1.0 - length / reach * (0.5 - 0.5 * towards));
        }
    }
    picture
}

fn mask(motion: &Motion) -> Image {
    let mut picture = Image::filled(motion.flow.width, motion.flow.height, 0.0);
    for plane in picture.data_mut().chunks_exact_mut(motion.trust.len()) {
        plane.iter_mut().zip(&motion.trust).for_each(|(value, trust)| *value = 255.0 * trust);
    }
    picture
}

fn residual(content: &Image, stylized: &Image) -> Image {
    let mut picture = stylized.clone();
    for (value, content) in picture.data_mut().iter_mut().zip(content.data()) {
        *value = MIDDLE + 0.5 * (*value - content);
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_shows_direction_and_length() {
        let mut still = Flow::zero(4, 1);
        let colours = |flow: &Flow| {
            let picture = super::flow(flow);
            let colour = |n: usize| [0, 4, 8].map(|plane| picture.data()[plane + n].round());
            [0, 1, 2, 3].map(colour)
        };
        assert_eq!(colours(&still), [[255.0; 3]; 4]);
        still.x = vec![0.0, 8.0, 4.0, -8.0];
        let [none, right, half, left] = colours(&still);
        assert_eq!(none, [255.0; 3]);
        assert_eq!(right, [255.0, 64.0, 64.0]);
        assert_eq!(half, [255.0, 159.0, 159.0]);
        assert_eq!(left, [0.0, 191.0, 191.0]);
        // A flow of a tenth of a pixel stays pale.
        still.x = vec![0.1; 4];
        assert!(colours(&still)[0].iter().all(|value| *value > 230.0));
    }

    #[test]
    fn mask_and_residual_are_what_they_say() {
        let (content, stylized) = (Image::filled(2, 1, 100.0), Image::filled(2, 1, 140.0));
        let motion = Motion { trust: vec![0.0, 1.0], flow: Flow::zero(2, 1), ..Motion::default() };
        let picture = |view: DebugView, motion| view.picture(motion, &content, &stylized);
        assert_eq!(picture(DebugView::Painted, Some(&motion)), None);
        let mask = picture(DebugView::Mask, Some(&motion)).unwrap();
        assert_eq!(mask.data(), [0.0, 255.0, 0.0, 255.0, 0.0, 255.0]);
        assert_eq!(picture(DebugView::Mask, None).unwrap(), Image::filled(2, 1, 0.0));
        assert_eq!(picture(DebugView::Residual, None).unwrap(), Image::filled(2, 1, 148.0));
    }
}

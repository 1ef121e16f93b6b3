// SPDX-License-Identifier: MPL-2.0

use std::ops::RangeInclusive;

use super::{DebugView, WarmStart};
use crate::{
    Error, Result,
    network::{Pooling, parse_layers},
    objective::{LossLayers, LossWeights},
};

/// The long side, in pixels, of images in which a grain like the style's counts as much as a total variation of 1.
const GRAIN_SIDE: f64 = 480.0;
/// The least grain of a style, 4 levels squared. Plain pictures have hardly any.
const LEAST_GRAIN: f64 = 16.0 / (255.0 * 255.0);

/// How frames are stylized. Each field, and each of `layers`, is the element's property of the same
/// name.
///
/// ```
/// let mut settings = gstneuralstyle::stylizer::Settings::default();
/// settings.iterations = 5;
/// settings.working_size = 320;
/// settings.check()?;
/// # Ok::<(), gstneuralstyle::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// How much the content loss counts. Range [`Settings::WEIGHTS`].
    pub content_weight: f64,
    /// How much the style loss counts. Range [`Settings::WEIGHTS`].
    pub style_weight: f64,
    /// How much the total variation counts, and the grain relative to the style's. Range [`Settings::WEIGHTS`].
    pub tv_weight: f64,
    /// How much the temporal loss counts, which needs [`WarmStart::Flow`]. Range [`Settings::WEIGHTS`].
    pub temporal_weight: f64,
    /// The length of an average step of the optimizer, in levels of 8-bit colour. Steps are longer for new paint and
    /// shorter for old paint. Range [`Settings::LEARNING_RATES`].
    pub learning_rate: f64,
    /// Iterations for each frame after the first. Range [`Settings::ITERATIONS`].
    pub iterations: u32,
    /// Iterations for the first frame of a scene, which has no stylized frame to start from: so many at each smaller
    /// size, for broad strokes, and then at its own. Range [`Settings::ITERATIONS`].
    pub first_iterations: u32,
    /// The long side, in pixels, of the image that is optimized. 0, or anything larger than the frame, is the size of the
    /// frame. One at which the deepest layer would see nothing of a narrow frame or style is raised. Range
    /// [`Settings::WORKING_SIZES`].
    pub working_size: u32,
    /// The size of the style picture relative to the image that is optimized, long side to long side, and so the size of
    /// the strokes. Range [`Settings::STYLE_SCALES`].
    pub style_scale: f64,
    /// The most memory, in bytes, that painting may take; 0 is what the machine has. See
    /// [`Stylizer::memory_for`](super::Stylizer::memory_for). A lower limit takes no memory back that is in use.
    pub memory_limit: u64,
    /// The share of the residual, stylized minus content, that is shown: 0 is the content, 1 the stylized frame.
    pub strength: f64,
    /// Which feature maps the losses compare.
    pub layers: LossLayers,
    /// What each frame after the first starts from.
    pub warm_start: WarmStart,
    /// The share of a frame's texture, 0 to 1, that must not be found in the frame before for the frame to begin a new
    /// scene; 1 is never. Unused with [`WarmStart::None`].
    pub scene_threshold: f64,
    /// Shows the flow, the trust or the residual instead of the painted frame.
    pub debug_view: DebugView,
}

impl Settings {
    /// The range of the weights of losses.
    pub const WEIGHTS: RangeInclusive<f64> = 0.0..=1e6;
    /// The range of learning rates.
    pub const LEARNING_RATES: RangeInclusive<f64> = 0.01..=100.0;
    /// The range of the numbers of iterations.
    pub const ITERATIONS: RangeInclusive<u32> = 1..=10_000;
    /// The range of working sizes, besides 0.
    pub const WORKING_SIZES: RangeInclusive<u32> = 16..=8192;
    /// The range of style scales.
    pub const STYLE_SCALES: RangeInclusive<f64> = 0.25..=4.0;

    /// The default content layer.
    pub const CONTENT_LAYERS: &str = "relu3_3";
    /// The default style layers.
    pub const STYLE_LAYERS: &str = "relu1_2,relu2_2,relu3_3,relu4_3";

    /// Checks every number.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for the first that is out of its range or not a number.
    pub fn check(&self) -> Result<()> {
        check("content-weight", self.content_weight, Self::WEIGHTS, "between 0 and 1000000")?;
        check("style-weight", self.style_weight, Self::WEIGHTS, "between 0 and 1000000")?;
        check("tv-weight", self.tv_weight, Self::WEIGHTS, "between 0 and 1000000")?;
        check("temporal-weight", self.temporal_weight, Self::WEIGHTS, "between 0 and 1000000")?;
        check("learning-rate", self.learning_rate, Self::LEARNING_RATES, "between 0.01 and 100")?;
        check("iterations", self.iterations, Self::ITERATIONS, "between 1 and 10000")?;
        check("first-iterations", self.first_iterations, Self::ITERATIONS, "between 1 and 10000")?;
        if self.working_size != 0 {
            check("working-size", self.working_size, Self::WORKING_SIZES, "0, 16 to 8192, or in the element -1")?;
        }
        check("style-scale", self.style_scale, Self::STYLE_SCALES, "between 0.25 and 4")?;
        check("scene-threshold", self.scene_threshold, 0.0..=1.0, "between 0 and 1")?;
        check("strength", self.strength, 0.0..=1.0, "between 0 and 1")
    }

    /// Whether the motion between frames has to be estimated.
    pub(super) fn need_motion(&self) -> bool {
        let needed = match self.warm_start {
            WarmStart::None => false,
            WarmStart::Previous | WarmStart::Residual => self.scene_threshold < 1.0,
            WarmStart::Flow => true,
        };
        needed || self.debug_view.shows_motion()
    }

    /// Whether frames of this novelty begin a new scene.
    pub(super) fn is_cut(&self, novelty: f32) -> bool {
        self.warm_start != WarmStart::None && f64::from(novelty) > self.scene_threshold
    }

    /// How different the loss is with other settings: from 0, the same, to 1.
    pub(super) fn distance(&self, other: &Self) -> f32 {
        if self.layers != other.layers || self.style_scale != other.style_scale {
            return 1.0;
        }
        let weights = |settings: &Self| {
            let Self { content_weight, style_weight, tv_weight, temporal_weight, .. } = settings;
            [*content_weight, *style_weight, *tv_weight, *temporal_weight]
        };
        let pairs = weights(self).into_iter().zip(weights(other)).filter(|(a, b)| a != b);
        pairs.map(|(a, b)| ((a - b).abs() / a.max(b)) as f32).fold(0.0, f32::max)
    }

    /// How much each loss counts in images with this long side, with a style of this [grain](crate::objective::Losses).
    ///
    /// The style picture is as large as the images, and grain is always of single pixels: the larger the images are, the
    /// less of the grain belongs to strokes, and the more it counts.
    pub(super) fn loss_weights(&self, long_side: usize, style_grain: f64) -> LossWeights {
        let grain = self.tv_weight * long_side as f64 / GRAIN_SIDE / style_grain.max(LEAST_GRAIN);
        LossWeights::new(self.content_weight, self.style_weight)
            .with_total_variation(self.tv_weight)
            .with_grain(grain)
            .with_temporal(self.temporal_weight)
    }
}

impl Default for Settings {
    fn default() -> Self {
        let layers = |list| parse_layers(list).expect("the default layers exist");
        Self {
            content_weight: 1.0,
            style_weight: 10.0,
            tv_weight: 2.0,
            temporal_weight: 30.0,
            learning_rate: 8.0,
            iterations: 3,
            first_iterations: 36,
            working_size: 0,
            style_scale: 1.0,
            memory_limit: 0,
            strength: 1.0,
            layers: LossLayers {
                content_layers: layers(Self::CONTENT_LAYERS),
                style_layers: layers(Self::STYLE_LAYERS),
                pooling: Pooling::default(),
            },
            warm_start: WarmStart::default(),
            scene_threshold: 0.77,
            debug_view: DebugView::default(),
        }
    }
}

fn check<T>(setting: &'static str, value: T, range: RangeInclusive<T>, expected: &'static str) -> Result<()>
where
    T: PartialOrd + ToString,
{
    // Not a number is in no range.
    if range.contains(&value) { Ok(()) } else { Err(Error::Setting { setting, value: value.to_string(), expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_how_much_of_a_weight_changes() {
        let with = |style_weight, tv_weight| Settings { style_weight, tv_weight, ..Settings::default() };
        let distance = |a: Settings, b: Settings| (a.distance(&b), b.distance(&a));
        assert_eq!(distance(with(10.0, 3.0), with(10.0, 3.0)), (0.0, 0.0));
        assert_eq!(distance(with(10.0, 4.0), with(8.0, 3.0)), (0.25, 0.25));
        assert_eq!(distance(with(0.0, 3.0), with(1e-3, 3.0)), (1.0, 1.0));
        assert_eq!(distance(with(0.0, 3.0), with(0.0, 3.0)), (0.0, 0.0));
        let layers = LossLayers { pooling: Pooling::Average, ..Settings::default().layers };
        let average = Settings { layers, iterations: 9, ..Settings::default() };
        assert_eq!(distance(with(10.0, 3.0), average), (1.0, 1.0));
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let message = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(Settings::default().check().is_ok());
        assert!(message(|s| s.style_weight = f64::NAN).starts_with("style-weight is NaN"));
        assert!(message(|s| s.content_weight = -1.0).starts_with("content-weight is -1"));
        assert!(message(|s| s.tv_weight = f64::INFINITY).starts_with("tv-weight is inf"));
        assert!(message(|s| s.temporal_weight = -1.0).starts_with("temporal-weight is -1"));
        assert!(message(|s| s.learning_rate = 0.0).starts_with("learning-rate is 0"));
        assert!(message(|s| s.iterations = 0).starts_with("iterations is 0"));
        assert!(message(|s| s.first_iterations = 10_001).starts_with("first-iterations is 10001"));
        assert!(message(|s| s.working_size = 15).starts_with("working-size is 15"));
        assert!(message(|s| s.style_scale = 4.1).starts_with("style-scale is 4.1"));
        assert!(message(|s| s.scene_threshold = -0.1).starts_with("scene-threshold is -0.1"));
        assert!(message(|s| s.strength = 1.01).starts_with("strength is 1.01"));
    }
}

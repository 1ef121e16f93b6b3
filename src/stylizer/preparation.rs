// SPDX-License-Identifier: MPL-2.0

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::style_target::StyleTarget;
use crate::{
    Error, Result,
    image::Image,
    network::Vgg,
    objective::{self, Device, LossLayers, LossWeights, Objective, StepLength},
    processor::Processor,
};

/// A style, layers or a working size other than those in use, to be prepared on any thread while the stylizer goes on
/// painting: that takes longer than a live frame has. See [`Stylizer::preparation`](super::Stylizer::preparation).
pub struct Preparation {
    pub(super) weights: Arc<Vgg>,
    pub(super) device: Device,
    pub(super) processor: Processor,
    pub(super) layers: LossLayers,
    /// Whether the stylizer has another network, whose objective cannot be used.
    pub(super) has_new_layers: bool,
    /// The setting of this name.
    pub(super) working_size: u32,
    /// The long side of the images that are to be optimized.
    pub(super) long_side: usize,
    /// The picture in use.
    pub(super) picture: Option<Arc<Image>>,
}

/// What came of a [`Preparation`]. See [`Stylizer::install`](super::Stylizer::install).
pub struct Prepared {
    pub(super) layers: LossLayers,
    /// That of a new network.
    pub(super) objective: Option<Box<dyn Objective>>,
    pub(super) working_size: u32,
    pub(super) style: StyleTarget,
}

impl Preparation {
    /// Computes what is wanted of another picture, or else of the one in use.
    ///
    /// # Errors
    ///
    /// [`Error::TooSmall`] if the picture is too narrow for the deepest layer, [`Error::NoStyle`] if there is none,
    /// [`Error::Threads`] if the system has none to give, or if the device runs out of memory.
    pub fn run(self, picture: Option<Image>) -> Result<Prepared> {
        let picture = picture.map(Arc::new).or(self.picture).ok_or(Error::NoStyle)?;
        // What is only used here shall not take turns with the frames.
        let processor = if self.has_new_layers { self.processor } else { self.processor.with_threads(1)? };
        let mut objective = objective::open(self.weights, self.layers.clone(), self.device, &processor)?;
        if self.has_new_layers {
            warm_up(objective.as_mut())?;
        }
        let mut style = StyleTarget::new(picture);
        style.prepare(objective.as_mut(), self.long_side)?;
        let objective = self.has_new_layers.then_some(objective);
        Ok(Prepared { layers: self.layers, objective, working_size: self.working_size, style })
    }
}

/// Does once and for all what the first iteration would have to do first, and returns how long one takes of an image of
/// [`WARM_UP_SIZE`]. The style must be set anew.
pub(super) fn warm_up(objective: &mut dyn Objective) -> Result<Duration> {
    let (width, height) = WARM_UP_SIZE;
    let blank = Image::filled(width, height, 128.0);
    let grams = objective.grams(&blank)?;
    objective.set_style(&grams)?;
    objective.set_content(&blank)?;
    let mut optimization = objective.optimize(blank.into())?;
    let mut step = || {
        let started = Instant::now();
        optimization.step(StepLength { base: 1.0, fresh: 0.0 }, &LossWeights::default())?;
        optimization.losses()?;
        Ok(started.elapsed())
    };
    step()?;
    step()
}

/// Width and height, in pixels, of the image that is evaluated to warm up.
pub const WARM_UP_SIZE: (usize, usize) = (128, 72);

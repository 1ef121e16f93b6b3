// SPDX-License-Identifier: MPL-2.0

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::super::{
    Interruption, Settings, Stylizer, lock, long_side,
    memory::available,
    style_target::{StyleTarget, style_size},
    working_size,
};
use crate::{
    Error, Result,
    image::{Image, Picture},
    network::Vgg,
    objective::{self, Device, LossWeights, Objective, StepLength},
    processor::Processor,
};

/// Width and height, in pixels, of the image that [`warm_up`](super::warm_up()) evaluates.
pub const WARM_UP_SIZE: (usize, usize) = (128, 72);

/// The work to do before another style, other layers or another working size can be used. It runs on any thread, while
/// the stylizer goes on painting.
pub struct Preparation {
    weights: Arc<Vgg>,
    device: Device,
    processor: Processor,
    /// Of these the layers, the working size and the scale of the style are prepared.
    settings: Settings,
    /// The stylizer has other layers or another pooling, whose objective cannot be used.
    has_new_layers: bool,
    /// Width and height of the frames.
    frame_size: (usize, usize),
    /// How many bytes the stylizer takes.
    memory: u64,
    /// The style in use.
    picture: Option<Arc<Picture>>,
    interruption: Interruption,
}

/// The result of a [`Preparation`].
pub struct Prepared {
    settings: Settings,
    /// For other layers or another pooling than in use.
    objective: Option<Box<dyn Objective>>,
    style: StyleTarget,
}

impl Preparation {
    /// What has to be computed before the stylizer can use another style, or the layers, pooling, working size and scale
    /// of the style of these settings. `None` before a first frame: [`Stylizer::set_style`] and [`Stylizer::set_settings`] are quick
    /// there.
    ///
    /// # Errors
    ///
    /// As for [`Stylizer::check`].
    pub fn new(stylizer: &Stylizer, settings: &Settings) -> Result<Option<Self>> {
        stylizer.check(settings)?;
        Ok(stylizer.frame_size.map(|frame_size| Self {
            weights: stylizer.weights.clone(),
            device: stylizer.device.clone(),
            processor: stylizer.aside.clone(),
            has_new_layers: settings.layers != stylizer.settings.layers,
            settings: settings.clone(),
            frame_size,
            memory: stylizer.memory,
            picture: stylizer.style.as_ref().map(|style| style.picture().clone()),
            interruption: Interruption::default(),
        }))
    }

    /// Interrupts the work between two of its parts, once it is set.
    pub fn interruption(&self) -> Interruption {
        self.interruption.clone()
    }

    /// Does the work, for another style if there is a picture, else for the one in use.
    ///
    /// # Errors
    ///
    /// [`Error::TooSmall`] if the picture is too narrow for the deepest layer, [`Error::NoStyle`] if there is none,
    /// [`Error::Memory`] if there is not enough for this beside the frames, [`Error::Threads`] if the system refuses a
    /// thread, [`Error::Interrupted`], [`Error::Tensor`] if the device fails.
    pub fn run(mut self, picture: Option<Picture>) -> Result<Prepared> {
        self.interruption.check()?;
        let picture = picture.map(Arc::new).or(self.picture.take()).ok_or(Error::NoStyle)?;
        let long_side = long_side(working_size(self.frame_size, &self.settings, picture.size()));
        self.check_memory(style_size(picture.size(), self.settings.style_scale, long_side))?;
        // An objective that is only used here gets a thread of its own, and the frames keep theirs.
        let processor = if self.has_new_layers { self.processor } else { self.processor.with_threads(1)? };
        let mut objective = objective::open(self.weights, self.settings.layers.clone(), &self.device, &processor)?;
        self.interruption.check()?;
        if self.has_new_layers {
            warm_up(objective.as_mut())?;
            self.interruption.check()?;
        }
        let mut style = StyleTarget::new(picture);
        style.prepare(objective.as_mut(), long_side, self.settings.style_scale)?;
        let objective = self.has_new_layers.then_some(objective);
        Ok(Prepared { settings: self.settings, objective, style })
    }

    /// Checks that there is enough memory for the Gram matrices of a style of this size, beside the frames.
    fn check_memory(&self, style: (usize, usize)) -> Result<()> {
        let Self { weights, settings, device, processor, memory, .. } = self;
        let Some(own) = objective::memory_for(weights, &settings.layers, device, processor, (0, 0), style) else {
            return Ok(());
        };
        let needed = memory.saturating_add(own as u64);
        let available = available(settings.memory_limit, *memory);
        if needed <= available {
            return Ok(());
        }
        let (width, height) = self.frame_size;
        Err(Error::Memory {
            what: "a style or layers prepared beside frames",
            width,
            height,
            working_size: style.0.max(style.1) as u32,
            needed,
            available,
            largest: None,
        })
    }
}

impl Prepared {
    /// Uses the style and its scale, the layers and pooling, and the working size from the next frame on, which starts from what was
    /// painted so far.
    ///
    /// Returns whether they can be used. They cannot if they were prepared for frames of another size, or if the
    /// stylizer got other layers or another pooling since.
    ///
    /// # Errors
    ///
    /// As for [`Stylizer::check`], or if the device runs out of memory. The stylizer then goes on as before.
    pub fn install(self, stylizer: &mut Stylizer) -> Result<bool> {
        let Self { settings: Settings { layers, working_size, style_scale, .. }, objective, mut style } = self;
        let has_new_layers = layers != stylizer.settings.layers;
        let settings = Settings { layers, working_size, style_scale, ..stylizer.settings.clone() };
        let size_for = |frame| super::super::working_size(frame, &settings, style.picture().size());
        let fits = stylizer.frame_size.map(|frame| long_side(size_for(frame))) == style.long_side();
        if !fits || has_new_layers && objective.is_none() {
            return Ok(false);
        }
        stylizer.check(&settings)?;
        match objective {
            Some(objective) => *lock(&stylizer.objective) = objective,
            None => style.install(lock(&stylizer.objective).as_mut())?,
        }
        if let Some(last) = stylizer.style.as_ref().filter(|_| !has_new_layers) {
            style.fade_from(last);
        }
        stylizer.costs = Default::default();
        stylizer.style_updates += 1;
        (stylizer.style, stylizer.settings) = (Some(style), settings);
        stylizer.freshen_paint(1.0);
        Ok(true)
    }
}

/// Warms up an objective, and returns how long an iteration takes of an image of [`WARM_UP_SIZE`]. Its style is another
/// one then.
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

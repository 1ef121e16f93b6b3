// SPDX-License-Identifier: MPL-2.0

//! One frame in, the same frame painted out.
//!
//! A [`Stylizer`] keeps what lives from one frame to the next: the last frame with its paint, the optimizer's moments,
//! the style's Gram matrices. [`Settings`] are the properties of the element, and [`live`] has what live streams need.

mod coarse_to_fine;
mod costs;
mod debug_view;
mod interruption;
pub mod live;
mod memory;
mod scaler;
mod schedule;
mod settings;
mod style_target;
mod warm_start;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use debug_view::DebugView;
pub use interruption::Interruption;
pub use settings::Settings;
pub use warm_start::WarmStart;

use crate::{
    Error, Result,
    image::{Frame, Image, Picture, fit},
    motion::{Motion, MotionEstimator, Warper},
    network::{Layer, Vgg},
    objective::{self, Adam, Device, Losses, Objective, Start},
    processor::Processor,
};
use costs::Costs;
use live::beside::Beside;
use scaler::{Placing, Scaler};
use schedule::Schedule;
use style_target::{StyleTarget, style_size};
use warm_start::{History, Painted};

/// Paints frames in the manner of a style image. Each frame starts from the painted one before it.
///
/// ```no_run
/// use gstneuralstyle::{
///     Processor, image::{Frame, PackedFormat}, network::Vgg, objective::Device, style, stylizer::{Settings, Stylizer},
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (weights, processor) = (Vgg::built_in()?, Processor::detect(0)?);
/// let mut stylizer = Stylizer::new(weights, Device::Cpu, processor, Settings::default())?;
/// stylizer.set_style(style::load("painting.jpg")?)?;
/// let mut photo = image::open("photo.jpg")?.into_rgb8();
/// let (width, height) = (photo.width() as usize, photo.height() as usize);
/// let mut frame = Frame::new(&mut photo, (width, height), 3 * width, PackedFormat::RGB)?;
/// let report = stylizer.stylize(&mut frame)?;
/// println!("{} iterations, loss {}", report.iterations, report.loss);
/// photo.save("painted.jpg")?;
/// # Ok(())
/// # }
/// ```
pub struct Stylizer {
    weights: Arc<Vgg>,
    device: Device,
    processor: Processor,
    settings: Settings,
    /// Its steps are computed by `aside`, whose threads can be paused while a frame is at work.
    objective: SharedObjective,
    aside: Processor,
    beside: Beside,
    style: Option<StyleTarget>,
    estimator: MotionEstimator,
    warper: Warper,
    scaler: Scaler,
    history: Option<History>,
    frame_size: Option<(usize, usize)>,
    interruption: Interruption,
    costs: Costs,
    /// How many bytes the frames take; 0 before the first one.
    memory: u64,
    frames: u64,
    scenes: u64,
    style_updates: u64,
}

/// The objective. While steps are taken beside the frames, their thread holds it.
type SharedObjective = Arc<Mutex<Box<dyn Objective>>>;

/// The result of an optimization.
struct Optimized {
    image: Image,
    optimizer: Adam,
    /// The losses before the last step.
    losses: Losses,
    /// How many steps were taken.
    iterations: u32,
}

/// What was done to a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The number of the frame, from 0.
    pub frame: u64,
    /// The number of its scene, from 0. A first frame begins a new scene.
    pub scene: u64,
    /// The long side, in pixels, of the image that was optimized.
    pub working_size: usize,
    /// How many steps were taken at the working size; with a limit of time, those that ended since the last frame, and for
    /// a first frame those at half of the size.
    pub iterations: u32,
    /// The losses before the last step, 0 if there was none.
    pub losses: Losses,
    /// Their weighted sum, which is what the optimization minimizes.
    pub loss: f64,
    /// How long the frame took.
    pub duration: Duration,
    /// How long it took apart from its iterations at the working size, from the content's feature maps before them, and
    /// from waiting for both.
    pub other_duration: Duration,
    /// How long one iteration takes, with the content's feature maps: the last one, or longer if some before it did.
    pub iteration_duration: Duration,
    /// How often the Gram matrices of the style were computed for the working size, since the stylizer was made.
    pub style_updates: u64,
}

impl Stylizer {
    /// A stylizer without a style and without history.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, the weights lack a layer, or the device cannot be used.
    pub fn new(weights: Arc<Vgg>, device: Device, processor: Processor, settings: Settings) -> Result<Self> {
        settings.check()?;
        let aside = processor.with_threads(processor.threads())?;
        let objective = objective::open(weights.clone(), settings.layers.clone(), &device, &aside)?;
        Ok(Self {
            estimator: MotionEstimator::new(processor.clone()),
            warper: Warper::new(processor.clone()),
            scaler: Scaler::new(processor.clone()),
            weights,
            device,
            processor,
            settings,
            objective: Arc::new(Mutex::new(objective)),
            aside,
            beside: Beside::default(),
            style: None,
            history: None,
            frame_size: None,
            interruption: Interruption::default(),
            costs: Costs::default(),
            memory: 0,
            frames: 0,
            scenes: 0,
            style_updates: 0,
        })
    }

    /// The settings in use.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Uses other settings from the next frame on, which starts from what was painted so far.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, if the weights lack a layer, if frame or style are too small for one
    /// ([`Error::TooSmall`]), or if there is not enough memory ([`Error::Memory`]). The settings then stay as they were.
    pub fn set_settings(&mut self, settings: Settings) -> Result<()> {
        self.check(&settings)?;
        if let (Some(style), Some(frame_size)) = (&self.style, self.frame_size) {
            let long_side = long_side(self.working_size(&settings, frame_size));
            settings.layers.check_size("style", style_size(style.picture().size(), settings.style_scale, long_side))?;
        }
        let has_new_layers = settings.layers != self.settings.layers;
        if has_new_layers || settings.style_scale != self.settings.style_scale {
            let size = self.frame_size.map(|frame_size| self.working_size(&settings, frame_size));
            let mut new = if has_new_layers {
                Some(objective::open(self.weights.clone(), settings.layers.clone(), &self.device, &self.aside)?)
            } else {
                None
            };
            let mut objective = lock(&self.objective);
            if let Some(style) = &mut self.style
                && let Some(long_side) = style.long_side()
            {
                let objective = new.as_mut().unwrap_or(&mut *objective).as_mut();
                style.prepare(objective, size.map_or(long_side, self::long_side), settings.style_scale)?;
                self.style_updates += 1;
            }
            if let Some(new) = new {
                *objective = new;
                // With other layers everything takes another time.
                self.costs = Costs::default();
            }
        }
        self.freshen_paint(settings.distance(&self.settings));
        self.settings = settings;
        Ok(())
    }

    /// Checks whether [`set_settings`](Self::set_settings) can use these settings, whatever the style.
    ///
    /// # Errors
    ///
    /// As there, apart from styles that are too small.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        settings.check()?;
        let layers = &settings.layers;
        layers.check(&self.weights)?;
        if let Some(frame_size) = self.frame_size {
            layers.check_size("frame", self.working_size(settings, frame_size))?;
            self.check_memory(settings, frame_size, self.picture_size())?;
        }
        Ok(())
    }

    /// Paints in the manner of another picture from the next frame on, which starts from what was painted so far.
    ///
    /// The picture is resized so that its long side is that of the images that are optimized, times
    /// [`Settings::style_scale`], and its Gram matrices are computed: here, or with the first frame, which decides that size.
    ///
    /// # Errors
    ///
    /// [`Error::TooSmall`] if the picture is too narrow for the deepest layer, [`Error::Memory`] if there is not enough
    /// memory for it. The style then stays what it was.
    pub fn set_style(&mut self, picture: Picture) -> Result<()> {
        let picture_size = picture.size();
        let mut style = StyleTarget::new(Arc::new(picture));
        if let Some(frame_size) = self.frame_size {
            self.check_memory(&self.settings, frame_size, picture_size)?;
            let size = working_size(frame_size, &self.settings, picture_size);
            style.prepare(lock(&self.objective).as_mut(), long_side(size), self.settings.style_scale)?;
            self.style_updates += 1;
            if let Some(last) = &self.style {
                style.fade_from(last);
            }
        }
        self.style = Some(style);
        self.freshen_paint(1.0);
        Ok(())
    }

    /// The size at which frames are optimized with these settings and the style in use.
    fn working_size(&self, settings: &Settings, frame_size: (usize, usize)) -> (usize, usize) {
        working_size(frame_size, settings, self.picture_size())
    }

    /// The memory, in bytes, that it takes at most to paint frames of this size with these settings and the style in use.
    /// `None` if it is not known, as on a GPU, which has a memory of its own.
    ///
    /// What stylizers share is not counted: the weights, and filters that are packed already. While a
    /// [preparation](live::Preparation) runs, it takes up to
    /// as much again, and checks that before.
    pub fn memory_for(&self, settings: &Settings, frame_size: (usize, usize)) -> Option<u64> {
        self.memory_with(settings, frame_size, self.picture_size())
    }

    /// Prepares for frames of this size. Without it the first frame does, and takes longer.
    ///
    /// # Errors
    ///
    /// As for [`stylize`](Self::stylize).
    pub fn prepare(&mut self, frame_size: (usize, usize)) -> Result<()> {
        let size = self.working_size(&self.settings, frame_size);
        self.settings.layers.check_size("frame", size)?;
        let style_size = self.style.as_ref().ok_or(Error::NoStyle)?.long_side();
        let long_side = size.0.max(size.1);
        if self.frame_size != Some(frame_size) || style_size != Some(long_side) {
            self.check_memory(&self.settings, frame_size, self.picture_size())?;
            if self.frame_size.replace(frame_size) != Some(frame_size) {
                self.history = None;
                self.beside.reset();
            }
            // At another size everything takes another time.
            self.costs = Costs::default();
        }
        if let Some(style) = self.style.as_mut().filter(|_| style_size != Some(long_side)) {
            style.prepare(lock(&self.objective).as_mut(), long_side, self.settings.style_scale)?;
            self.style_updates += 1;
        }
        Ok(())
    }

    /// Width and height of the style picture, 0 if there is none.
    fn picture_size(&self) -> (usize, usize) {
        self.style.as_ref().map_or((0, 0), |style| style.picture().size())
    }

    /// Raises the freshness of the paint after the loss changed: 0 leaves it, 1 makes all of it new.
    fn freshen_paint(&mut self, change: f32) {
        if let Some(history) = &mut self.history {
            history.optimizer.freshen(change);
        }
        self.beside.freshen(change);
    }

    /// Breaks off the painting of frames whenever this interruption is set.
    pub fn set_interruption(&mut self, interruption: Interruption) {
        self.interruption = interruption;
    }

    /// Forgets all earlier frames: the next one is a first one.
    pub fn reset(&mut self) {
        (self.history, self.frame_size) = (None, None);
        self.beside.reset();
    }

    /// Paints a frame in place.
    ///
    /// A frame of another size than the one before is a first one, and so is one after a scene cut: it and what follows
    /// are painted as if nothing had been before.
    ///
    /// # Errors
    ///
    /// [`Error::NoStyle`]; [`Error::TooSmall`] if frame or style are too small for the deepest layer; [`Error::Memory`];
    /// [`Error::Interrupted`], after which the next frame is a first one; [`Error::Tensor`] if the device fails. The
    /// frame then stays as it was.
    pub fn stylize(&mut self, frame: &mut Frame) -> Result<Report> {
        self.paint(frame)
    }

    fn paint(&mut self, frame: &mut Frame) -> Result<Report> {
        let started = Instant::now();
        self.finish_beside();
        self.prepare(frame.size())?;
        let size = self.working_size(&self.settings, frame.size());
        let content = self.scaler.content(frame, size)?;

        let history = match self.history.take() {
            Some(history) if history.painted.content.size() != size => Some(history.resized(size)?),
            history => history,
        };
        let motion = match &history {
            Some(history) if self.settings.need_motion() => {
                Some(self.estimator.between(&history.painted.content, &content))
            }
            _ => None,
        };
        let shown_motion = motion.filter(|_| self.settings.debug_view.shows_motion()).cloned();
        let is_cut = motion.is_some_and(|motion| self.settings.is_cut(motion.novelty));
        let (mut start, mut schedule) = match history {
            Some(history) if !is_cut => {
                let start = history.start(self.settings.warm_start, &content, motion, &mut self.warper);
                (start, Schedule::following(&self.settings))
            }
            _ => (Start::from(content.clone()), Schedule::first(&self.settings)),
        };
        if schedule.is_first()
            && let Some(painted) = self.paint_coarsely(&content)?
        {
            (start, schedule) = (painted.into(), Schedule::refining(&self.settings));
        }
        let prepared = Instant::now();
        lock(&self.objective).set_content(&content)?;
        self.costs.content_took(prepared.elapsed());
        let Optimized { image, optimizer, losses, iterations } = self.optimize(start, schedule)?;
        let optimized = Instant::now();
        self.show(frame, &content, &image, shown_motion.as_ref())?;
        self.history = Some(History { painted: Painted { content, stylized: image }, optimizer });
        self.scenes += u64::from(schedule.is_first());
        let other = started.elapsed() - (optimized - prepared);
        Ok(self.report(started, other, size, iterations, losses))
    }

    /// Puts paint on a frame: detail comes from the frame at its full size, paint from the working size.
    fn show(&mut self, frame: &mut Frame, content: &Image, image: &Image, motion: Option<&Motion>) -> Result<()> {
        let (picture, placing) = match self.settings.debug_view.picture(motion, content, image) {
            Some(picture) => (picture, Placing::Instead),
            None => (image.minus(content), Placing::Onto(self.settings.strength as f32)),
        };
        self.scaler.place(&picture, placing, frame)
    }

    /// Counts a frame, and reports on it.
    fn report(
        &mut self,
        started: Instant,
        other_duration: Duration,
        size: (usize, usize),
        iterations: u32,
        losses: Losses,
    ) -> Report {
        let frame = self.frames;
        self.frames += 1;
        // Only now it is certain that the memory is there.
        self.note_memory();
        Report {
            frame,
            scene: self.scenes.saturating_sub(1),
            working_size: long_side(size),
            iterations,
            losses,
            loss: losses.weighted(&self.settings.loss_weights()),
            duration: started.elapsed(),
            other_duration,
            iteration_duration: self.costs.one_iteration(),
            style_updates: self.style_updates,
        }
    }

    /// Takes all steps of the schedule.
    fn optimize(&mut self, start: Start, schedule: Schedule) -> Result<Optimized> {
        let weights = self.settings.loss_weights();
        let mut objective = lock(&self.objective);
        let mut optimization = objective.optimize(start)?;
        let began = Instant::now();
        for iteration in 0..schedule.iterations {
            self.interruption.check()?;
            optimization.step(schedule.step_length(iteration), &weights)?;
        }
        let losses = optimization.losses()?;
        self.costs.iteration_took(began.elapsed() / schedule.iterations);
        let (image, optimizer) = optimization.finish()?;
        Ok(Optimized { image, optimizer, losses, iterations: schedule.iterations })
    }
}

/// Waits for the objective.
fn lock(objective: &Mutex<Box<dyn Objective>>) -> MutexGuard<'_, Box<dyn Objective>> {
    objective.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The size at which frames are optimized, with a style picture of this size, 0 if there is none. The setting is raised
/// as far as the deepest layer needs it.
fn working_size(frame: (usize, usize), settings: &Settings, picture: (usize, usize)) -> (usize, usize) {
    let side = match settings.working_size as usize {
        0 => return frame,
        size => size.max(least_long_side(settings, frame, picture)),
    };
    if side >= long_side(frame) { frame } else { fit(frame, side) }
}

fn long_side((width, height): (usize, usize)) -> usize {
    width.max(height)
}

/// The long side, in pixels, of images for which neither a frame nor a style picture of these proportions is too small
/// for the deepest layer. It is 0 if there is no layer, and a picture of 0 pixels is none.
fn least_long_side(settings: &Settings, frame: (usize, usize), picture: (usize, usize)) -> usize {
    let shortest_side = settings.layers.deepest().map_or(0, Layer::shortest_side);
    let least = |size: (usize, usize)| match size.0.min(size.1) {
        0 => 0,
        short_side => shortest_side.saturating_mul(long_side(size)).div_ceil(short_side),
    };
    // The style's sides are rounded twice, which may take a pixel.
    let style = match settings.style_scale {
        1.0 => least(picture),
        scale => ((least(picture) + 1) as f64 / scale).ceil() as usize,
    };
    least(frame).max(style)
}

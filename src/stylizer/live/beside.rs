// SPDX-License-Identifier: MPL-2.0

//! Frames and paint each have their pace.
//!
//! A frame shows the paint that there is, moved along the motion since, and does not wait. Steps are taken beside the
//! frames, on threads that give way to them: for the newest frame, as long as there is no newer one, and at least one
//! step. What comes of them is moved along the motion since their frame.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{Painted, Report, Schedule, Stylizer, coarse_to_fine::COARSEST},
    painting::{Outcome, Painting, Request},
};
use crate::{
    Result,
    image::{Frame, Image},
    motion::{Motion, Warper},
    objective::Losses,
    processor::Processor,
};

/// The share of its time for which a frame waits for steps. The rest is for putting the paint on it.
const WAIT: f64 = 0.75;

/// What painting beside the frames keeps from one frame to the next.
#[derive(Default)]
pub(in super::super) struct Beside {
    painting: Option<Painting>,
    /// The content of the last frame.
    last: Option<Arc<Image>>,
    /// The frame whose paint is shown; `None` in a scene without paint.
    shown: Option<Painted>,
    /// The motion since the frame whose paint is shown, and since the one that is being painted, or was last.
    since_shown: Since,
    since_painted: Since,
    /// Whether the last frame was to be painted next.
    is_requested: bool,
    /// Whether that frame, or one before it, was a first one whose painting did not begin.
    is_first_pending: bool,
    /// Whether no painting shall begin.
    rests: bool,
}

/// The motion from a frame to the last one.
#[derive(Clone, Default)]
struct Since {
    /// The number of the frame.
    frame: u64,
    /// `None` if it is the last one, or nobody needs motion.
    motion: Option<Arc<Motion>>,
}

impl Since {
    /// Follows the motion to the next frame.
    fn follow(&mut self, motion: &Motion, processor: &Processor) {
        self.motion = Some(Arc::new(match &self.motion {
            Some(before) => before.then(motion, processor),
            None => motion.clone(),
        }));
    }
}

impl Beside {
    /// Forgets the frames, and breaks off the steps that are being taken.
    pub(in super::super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Takes note of a change of the loss, as [`Stylizer::freshen_paint`] does: the optimizer may be at work.
    pub(in super::super) fn freshen(&mut self, change: f32) {
        if let Some(painting) = &self.painting {
            let mut exchange = painting.exchange();
            exchange.change += change * (1.0 - exchange.change);
        }
    }

    /// Whether frames are painted in this way.
    pub(in super::super) fn has_begun(&self) -> bool {
        self.painting.is_some()
    }

    /// Whether steps are being taken, so that the objective cannot be used without waiting.
    pub(super) fn is_at_work(&self) -> bool {
        self.painting.as_ref().is_some_and(|painting| painting.exchange().is_at_work())
    }

    /// Lets no painting begin, or does again.
    pub(super) fn set_rest(&mut self, rests: bool) {
        self.rests = rests;
    }
}

impl Stylizer {
    /// Paints a frame of a live stream with the paint that there is, moved along with the picture. Steps are taken beside
    /// the frames, at most as many for a frame as [`stylize`](Self::stylize) takes, and the frames that follow show what
    /// comes of them. The picture depends on how fast the machine is.
    ///
    /// Only a first frame waits for steps, for at most `time`. They are taken at half of the size, and at its own if time
    /// is left. The frames that follow go on from there.
    ///
    /// # Errors
    ///
    /// As for [`stylize`](Self::stylize), also for the steps that were taken since the last frame.
    pub fn stylize_beside(&mut self, frame: &mut Frame, time: Duration) -> Result<Report> {
        self.paint_beside(frame, time, false)
    }

    /// Paints a frame in a given time: the same, but each frame waits for its steps for at most `time`. If there is not
    /// enough for one, it is taken beside the frames that follow.
    ///
    /// # Errors
    ///
    /// As for [`stylize_beside`](Self::stylize_beside).
    pub fn stylize_within(&mut self, frame: &mut Frame, time: Duration) -> Result<Report> {
        self.paint_beside(frame, time, true)
    }

    fn paint_beside(&mut self, frame: &mut Frame, time: Duration, waits: bool) -> Result<Report> {
        let started = Instant::now();
        self.interruption.check().inspect_err(|_| self.reset())?;
        self.prepare(frame.size())?;
        self.start_painting()?;
        let (mut iterations, mut losses) = self.fetch(true)?.unwrap_or_default();
        let aside = self.aside.clone();
        let pause = aside.pause();

        let size = self.working_size(&self.settings, frame.size());
        let content = Arc::new(self.scaler.content(frame, size)?);
        let (is_first, motion) = self.follow(&content);
        self.scenes += u64::from(is_first);
        let waits = (waits || is_first) && !self.beside.rests;
        let left = (started + time.mul_f64(WAIT)).saturating_duration_since(Instant::now());
        self.request(&content, is_first, if waits { left } else { Duration::MAX });
        let waiting = Instant::now();
        if waits {
            // Whoever waits for steps does not hold them up.
            drop(pause);
            if let Some(painting) = &self.beside.painting {
                let number = self.frames;
                painting.wait(left, |exchange| match &exchange.outcome {
                    Some(Ok(outcome)) => outcome.frame == number,
                    Some(Err(_)) => true,
                    None => false,
                });
            }
            if let Some((more, last)) = self.fetch(false)? {
                (iterations, losses) = (iterations + more, last);
            }
        }
        let waited = waiting.elapsed();
        let _pause = aside.pause();
        let Beside { shown, since_shown, .. } = &mut self.beside;
        if let Some(painted) = shown
            && painted.content.size() != size
        {
            *painted = painted.resized(size)?;
        }
        let image = match shown {
            Some(painted) if since_shown.frame == self.frames => painted.stylized.clone(),
            Some(painted) => {
                let motion = since_shown.motion.as_deref();
                painted.moved(self.settings.warm_start, &content, motion, &mut self.warper)
            }
            None => Image::clone(&content),
        };
        self.show(frame, &content, &image, motion.as_ref())?;
        self.beside.last = Some(content);
        Ok(self.report(started, started.elapsed() - waited, size, iterations, losses))
    }

    /// Starts the thread that paints, if there is none.
    fn start_painting(&mut self) -> Result<()> {
        if self.beside.painting.is_none() {
            self.aside.stand_back();
            let warper = Warper::new(self.aside.clone());
            let history = self.history.take();
            let painted = history.as_ref().map(|history| history.painted.clone());
            let painting = Painting::start(self.objective.clone(), history, warper, self.interruption.clone())?;
            self.beside.last = painted.as_ref().map(|painted| Arc::new(painted.content.clone()));
            let since = Since { frame: self.frames.saturating_sub(1), motion: None };
            (self.beside.since_shown, self.beside.since_painted) = (since.clone(), since);
            (self.beside.shown, self.beside.painting) = (painted, Some(painting));
            // It takes some more memory.
            if let Some(frame_size) = self.frame_size {
                self.check_memory(&self.settings, frame_size, self.picture_size()).inspect_err(|_| self.reset())?;
            }
        }
        Ok(())
    }

    /// Fetches what was painted since the last time. Returns how many steps were taken, with the losses before the last of
    /// them.
    ///
    /// A new frame takes back the request to paint the one before it if that did not begin.
    fn fetch(&mut self, is_new_frame: bool) -> Result<Option<(u32, Losses)>> {
        let beside = &mut self.beside;
        let Some(painting) = &mut beside.painting else { return Ok(None) };
        painting.check();
        let mut exchange = painting.exchange();
        let (outcome, before) = (exchange.outcome.take(), beside.since_painted.clone());
        if beside.is_requested && exchange.request.is_none() {
            beside.is_requested = false;
            let frame = self.frames.saturating_sub(u64::from(is_new_frame));
            beside.since_painted = Since { frame, motion: None };
        }
        if is_new_frame {
            beside.is_requested = false;
            beside.is_first_pending = exchange.request.take().is_some_and(|request| request.is_first);
            exchange.is_frame_here = true;
        }
        drop(exchange);
        match outcome {
            None => Ok(None),
            Some(Err(error)) => {
                self.reset();
                Err(error)
            }
            Some(Ok(Outcome { frame, painted, iterations, losses, costs })) => {
                // It may be that of a scene that is over.
                let since = [before, beside.since_painted.clone()].into_iter().find(|since| since.frame == frame);
                if let Some(since) = since {
                    (beside.shown, beside.since_shown) = (Some(painted), since);
                    self.costs = costs;
                }
                Ok(Some((iterations, losses)))
            }
        }
    }

    /// Follows the motion to a new frame. Returns whether it is a first one, and the motion if that is shown.
    fn follow(&mut self, content: &Image) -> (bool, Option<Motion>) {
        let beside = &mut self.beside;
        let Some(last) = &beside.last else { return (true, None) };
        if last.size() != content.size() {
            (beside.since_shown.motion, beside.since_painted.motion) = (None, None);
            return (false, None);
        }
        if !self.settings.need_motion() {
            return (false, None);
        }
        let motion = self.estimator.between(last, content);
        if self.settings.is_cut(motion.novelty) {
            return (true, None);
        }
        beside.since_shown.follow(motion, &self.processor);
        beside.since_painted.follow(motion, &self.processor);
        (false, self.settings.debug_view.shows_motion().then(|| motion.clone()))
    }

    /// Asks for steps for this frame, which may take so long.
    fn request(&mut self, content: &Arc<Image>, is_first: bool, time: Duration) {
        let weights = self.loss_weights(content.size());
        let beside = &mut self.beside;
        let Some(painting) = &beside.painting else { return };
        let mut exchange = painting.exchange();
        exchange.is_frame_here = false;
        if is_first {
            painting.interrupt();
            exchange.outcome = None;
            // No outcome of an earlier frame is shown.
            (beside.shown, beside.since_painted) = (None, Since { frame: self.frames, motion: None });
        }
        let is_first = is_first || beside.is_first_pending;
        // The painting must learn of a first frame in any case.
        if beside.rests && !is_first {
            return;
        }
        let schedule = if is_first { Schedule::first(&self.settings) } else { Schedule::following(&self.settings) };
        let half = (content.width() / 2, content.height() / 2);
        let can_sketch = half.0.max(half.1) >= COARSEST
            && half.0.min(half.1) > 0
            && self.settings.layers.check_size("frame", half).is_ok();
        beside.is_requested = true;
        exchange.request = Some(Request {
            frame: self.frames,
            content: content.clone(),
            motion: beside.since_painted.motion.clone(),
            is_first,
            sketch_size: can_sketch.then_some(half),
            warm_start: self.settings.warm_start,
            schedule,
            weights,
            time,
            costs: self.costs.clone(),
        });
        drop(exchange);
        painting.notify();
    }

    /// Ends painting beside the frames. The history is that of the frame that was painted last.
    pub(in super::super) fn finish_beside(&mut self) {
        if let Some(painting) = std::mem::take(&mut self.beside).painting {
            self.history = painting.finish();
        }
    }
}

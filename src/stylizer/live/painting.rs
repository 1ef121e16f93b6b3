// SPDX-License-Identifier: MPL-2.0

//! The thread that takes steps beside the frames.

use std::{
    panic,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use super::super::{
    Costs, History, Interruption, Optimized, Painted, Schedule, SharedObjective, WarmStart, coarse_to_fine::repaint,
    lock,
};
use crate::{
    Error, Result,
    image::Image,
    motion::{Motion, Warper},
    objective::{Adam, LossWeights, Losses, Start},
    processor::stand_back,
};

/// A frame to paint.
pub(super) struct Request {
    /// Its number, which is not that of its scene.
    pub(super) frame: u64,
    pub(super) content: Arc<Image>,
    /// The motion to it from the frame that is being painted, or was painted last.
    pub(super) motion: Option<Arc<Motion>>,
    /// Whether it is a first one. What was painted before is forgotten.
    pub(super) is_first: bool,
    /// The size of a sketch for a frame without history; `None` if the network sees nothing at a smaller size.
    pub(super) sketch_size: Option<(usize, usize)>,
    pub(super) warm_start: WarmStart,
    pub(super) schedule: Schedule,
    pub(super) weights: LossWeights,
    /// How long its steps may take. The first one is taken all the same.
    pub(super) time: Duration,
    pub(super) costs: Costs,
}

/// What came of a request.
pub(super) struct Outcome {
    /// The number of the frame.
    pub(super) frame: u64,
    pub(super) painted: Painted,
    /// How many steps were taken, also for frames whose outcome nobody fetched.
    pub(super) iterations: u32,
    /// The losses before the last step.
    pub(super) losses: Losses,
    pub(super) costs: Costs,
}

/// What frames and painting give each other.
#[derive(Default)]
pub(super) struct Exchange {
    /// The newest frame, until its painting begins.
    pub(super) request: Option<Request>,
    /// A frame has come that is going to be requested. The steps for the frame before end.
    pub(super) is_frame_here: bool,
    /// The newest outcome, until a frame fetches it.
    pub(super) outcome: Option<Result<Outcome>>,
    /// How much the loss changed since the last painting began, from 0 to 1.
    pub(super) change: f32,
    is_working: bool,
    is_closing: bool,
}

impl Exchange {
    /// Whether steps are being taken, or will be at once.
    pub(super) fn is_at_work(&self) -> bool {
        self.is_working || self.request.is_some()
    }
}

#[derive(Default)]
struct Shared {
    exchange: Mutex<Exchange>,
    changed: Condvar,
    /// Breaks off the steps that are being taken.
    interruption: Interruption,
}

/// A thread that takes steps. Dropping this interrupts it and waits for it.
pub(super) struct Painting {
    shared: Arc<Shared>,
    /// `None` only once it was joined.
    thread: Option<JoinHandle<Option<History>>>,
}

impl Painting {
    /// Starts the thread. `interruption` breaks off its steps as well.
    ///
    /// # Errors
    ///
    /// [`Error::Threads`] if the system refuses a thread. The history is lost then.
    pub(super) fn start(
        objective: SharedObjective,
        history: Option<History>,
        warper: Warper,
        interruption: Interruption,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut painter = Painter { shared: shared.clone(), objective, history, warper, interruption };
        let work = move || {
            stand_back();
            painter.work();
            painter.history
        };
        let thread = Builder::new().name("neuralstyle-paint".to_owned()).spawn(work).map_err(Error::Threads)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What is given and taken. Call [`notify`](Self::notify) after a change.
    pub(super) fn exchange(&self) -> MutexGuard<'_, Exchange> {
        self.shared.lock()
    }

    pub(super) fn notify(&self) {
        self.shared.changed.notify_all();
    }

    /// Breaks off the steps that are being taken, which nobody wants any more.
    pub(super) fn interrupt(&self) {
        self.shared.interruption.set(true);
    }

    /// Waits until a condition holds, but not longer than this.
    pub(super) fn wait(&self, patience: Duration, mut is_met: impl FnMut(&Exchange) -> bool) {
        let is_waiting = |exchange: &mut Exchange| !is_met(exchange) && !self.has_ended();
        drop(self.shared.changed.wait_timeout_while(self.exchange(), patience, is_waiting));
    }

    /// Passes on the panic that ended the thread, if one did.
    pub(super) fn check(&mut self) {
        if self.has_ended()
            && let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
        {
            panic::resume_unwind(panic);
        }
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the thread after the step that is being taken. Returns what it painted last.
    pub(super) fn finish(mut self) -> Option<History> {
        self.close();
        let thread = self.thread.take()?;
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    fn close(&self) {
        let mut exchange = self.exchange();
        exchange.is_closing = true;
        exchange.request = None;
        drop(exchange);
        self.notify();
    }
}

impl Drop for Painting {
    fn drop(&mut self) {
        self.close();
        self.interrupt();
        if let Some(thread) = self.thread.take() {
            // What it painted, or its panic, does not matter any more.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread has.
struct Painter {
    shared: Arc<Shared>,
    objective: SharedObjective,
    history: Option<History>,
    warper: Warper,
    interruption: Interruption,
}

impl Painter {
    fn work(&mut self) {
        let shared = self.shared.clone();
        let mut exchange = shared.lock();
        while !exchange.is_closing {
            let Some(request) = exchange.request.take() else {
                exchange = shared.changed.wait(exchange).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let change = std::mem::take(&mut exchange.change);
            exchange.is_working = true;
            // Whatever was interrupted is over.
            shared.interruption.set(false);
            drop(exchange);
            let outcome = self.paint(request, change);
            exchange = shared.lock();
            exchange.is_working = false;
            match outcome {
                // A frame that nobody wants any more.
                Err(Error::Interrupted) => self.history = None,
                Err(error) => {
                    self.history = None;
                    exchange.outcome = Some(Err(error));
                }
                Ok(mut outcome) => {
                    if let Some(Ok(last)) = &exchange.outcome {
                        outcome.iterations += last.iterations;
                    }
                    exchange.outcome = Some(Ok(outcome));
                }
            }
            shared.changed.notify_all();
        }
    }

    /// Paints a frame after a change of the loss.
    fn paint(&mut self, request: Request, change: f32) -> Result<Outcome> {
        let Request {
            frame,
            content,
            motion,
            is_first,
            sketch_size,
            warm_start,
            mut schedule,
            weights,
            time,
            mut costs,
        } = request;
        let began = Instant::now();
        let history = self.history.take().filter(|_| !is_first);
        let history = match history {
            Some(history) if history.painted.content.size() != content.size() => Some(history.resized(content.size())?),
            history => history,
        };
        let start = match history {
            Some(mut history) => {
                history.optimizer.freshen(change);
                history.start(warm_start, &content, motion.as_deref(), &mut self.warper)
            }
            None => match sketch_size {
                Some(size) => {
                    let (sketch, step_duration) = self.sketch(&content, size, schedule, &weights, time / 2)?;
                    // A step at twice the size takes four times as long.
                    if began.elapsed() + 4 * step_duration > time {
                        return Ok(self.outcome(frame, &content, sketch, costs));
                    }
                    schedule = schedule.refined();
                    Start::from(sketch.image)
                }
                None => Start::from(Image::clone(&content)),
            },
        };
        let optimized = self.optimize(&content, start, schedule, &weights, &mut costs, |costs| {
            !self.is_wanted() && costs.allow_iteration(began.elapsed(), time)
        })?;
        Ok(self.outcome(frame, &content, optimized, costs))
    }

    /// Keeps the result of an optimization as history.
    fn outcome(&mut self, frame: u64, content: &Image, optimized: Optimized, costs: Costs) -> Outcome {
        let Optimized { image, optimizer, losses, iterations } = optimized;
        let painted = Painted { content: content.clone(), stylized: image };
        self.history = Some(History { painted: painted.clone(), optimizer });
        Outcome { frame, painted, iterations, losses, costs }
    }

    /// Paints a first frame roughly at a smaller size, where a step takes a fraction of the time. The style keeps its size,
    /// so that strokes are broader.
    ///
    /// Returns the result at the size of the content, and how long a step took.
    fn sketch(
        &self,
        content: &Image,
        size: (usize, usize),
        schedule: Schedule,
        weights: &LossWeights,
        time: Duration,
    ) -> Result<(Optimized, Duration)> {
        let (began, mut costs) = (Instant::now(), Costs::default());
        let small = content.resized(size.0, size.1)?;
        let mut optimized =
            self.optimize(&small, Start::from(small.clone()), schedule, weights, &mut costs, |costs| {
                !self.is_wanted() && costs.allow_iteration(began.elapsed(), time)
            })?;
        optimized.image = repaint(&optimized.image.minus(&small), content)?;
        optimized.optimizer = Adam::new(content.width() * content.height());
        Ok((optimized, costs.one_iteration()))
    }

    /// Takes a step, and more of the schedule while they are allowed.
    fn optimize(
        &self,
        content: &Image,
        start: Start,
        schedule: Schedule,
        weights: &LossWeights,
        costs: &mut Costs,
        is_allowed: impl Fn(&Costs) -> bool,
    ) -> Result<Optimized> {
        let mut objective = lock(&self.objective);
        let began = Instant::now();
        objective.set_content(content)?;
        costs.content_took(began.elapsed());
        let mut optimization = objective.optimize(start)?;
        let mut iterations = 0;
        while iterations < schedule.iterations && (iterations == 0 || is_allowed(costs)) {
            self.interruption.check()?;
            self.shared.interruption.check()?;
            let began = Instant::now();
            optimization.step(schedule.step_length(iterations), weights)?;
            // Only a step that is waited for tells how long it takes.
            optimization.losses()?;
            costs.iteration_took(began.elapsed());
            iterations += 1;
        }
        let losses = optimization.losses()?;
        let (image, optimizer) = optimization.finish()?;
        Ok(Optimized { image, optimizer, losses, iterations })
    }

    /// Whether another frame is there, or the thread shall end.
    fn is_wanted(&self) -> bool {
        let exchange = self.shared.lock();
        exchange.is_frame_here || exchange.request.is_some() || exchange.is_closing
    }
}

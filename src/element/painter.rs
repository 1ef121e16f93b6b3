// SPDX-License-Identifier: MPL-2.0

//! What lives from start to stop: the stylizer, and how it follows the properties.

use std::{
    panic,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::properties::Properties;
use crate::{
    Error, Result,
    image::Frame,
    style,
    stylizer::{
        Interruption, Report, Settings, Stylizer,
        live::{self, Preparation, Prepared, SizeChooser},
    },
};

/// What comes of an error in a change.
const KEEPING_STYLE: &str = "Keeping the last style";
const KEEPING_SETTINGS: &str = "Keeping the last settings";

/// Where warnings go: what comes of an error, and the error.
pub type Warn<'a> = &'a dyn Fn(&str, &Error);

/// What a stylizer is to be ready for.
#[derive(Debug, Clone, Copy)]
pub struct Upcoming {
    /// Width and height of the frame.
    pub size: (usize, usize),
    /// When it is shown.
    pub running_time: Option<gst::ClockTime>,
    /// The time for a frame; `None` if it does not matter.
    pub budget: Option<Duration>,
}

/// A stylizer that follows the properties. Without a budget for frames, changes count from the next frame on, however
/// long that takes. With one, what takes longer than a frame is prepared on another thread.
pub struct Painter {
    stylizer: Stylizer,
    /// The name of the style that the stylizer has.
    style: String,
    /// The properties that were last looked at.
    seen: Properties,
    /// The style and the settings that the stylizer shall have: those of the properties, unless they cannot be used.
    wanted_style: String,
    wanted: Settings,
    job: Option<Job>,
    /// The running time at which the style began to change into another.
    transition: Option<gst::ClockTime>,
    /// How long an iteration took to warm up.
    iteration: Duration,
    chooser: Option<SizeChooser>,
    /// Width and height of the frames that the size is chosen for.
    frame_size: (usize, usize),
}

impl Painter {
    /// A painter with the style and the settings of the properties, whose painting can be broken off.
    pub fn new(properties: Properties, interruption: Interruption) -> Result<Self> {
        let mut stylizer = properties.stylizer()?;
        stylizer.set_interruption(interruption);
        let iteration = live::warm_up(&mut stylizer)?;
        Ok(Self {
            wanted: stylizer.settings().clone(),
            stylizer,
            style: properties.style.clone(),
            wanted_style: properties.style.clone(),
            seen: properties,
            job: None,
            transition: None,
            iteration,
            chooser: None,
            frame_size: (0, 0),
        })
    }

    /// Makes everything ready for frames like this one, which are the first of their kind.
    pub fn prepare(&mut self, upcoming: Upcoming) -> Result<()> {
        self.choose_size(upcoming);
        let working_size = self.wanted.working_size;
        self.stylizer.set_settings(Settings { working_size, ..self.stylizer.settings().clone() })?;
        self.stylizer.prepare(upcoming.size)
    }

    /// Forgets all earlier frames.
    pub fn reset(&mut self) -> Result<()> {
        self.stylizer.reset();
        match self.transition.take() {
            Some(_) => live::set_style_share(&mut self.stylizer, 1.0),
            None => Ok(()),
        }
    }

    /// Follows the properties before a frame. What cannot be used is left out, with a warning.
    pub fn follow(&mut self, properties: Properties, upcoming: Upcoming, warn: Warn) {
        if properties != self.seen {
            let last = std::mem::replace(&mut self.seen, properties);
            // What could not be used stays out until something else is asked for: one warning is enough.
            if !self.seen.has_preparation_of(&last) {
                match self.seen.settings().and_then(|settings| self.stylizer.check(&settings).map(|()| settings)) {
                    Ok(settings) => self.wanted = settings,
                    Err(error) => warn(KEEPING_SETTINGS, &error),
                }
            }
            self.wanted = self.seen.settings_with_preparation_of(&self.wanted);
            if self.seen.style_settings != last.style_settings {
                self.wanted_style.clone_from(&self.seen.style);
            }
        }
        self.choose_size(upcoming);
        if upcoming.budget.is_some() {
            self.change_beside(upcoming.running_time, warn);
        } else {
            self.change_at_once(upcoming.running_time, warn);
        }
        if let Some(start) = self.transition {
            let now = upcoming.running_time;
            let passed = now.map_or(gst::ClockTime::MAX, |time| time.saturating_sub(start)).mseconds() as f64;
            let share = (passed / f64::from(self.seen.style_transition)).min(1.0);
            if let Err(error) = live::set_style_share(&mut self.stylizer, share) {
                warn("Changing the style at once", &error);
            }
            self.transition.take_if(|_| share >= 1.0);
        }
    }

    /// Paints a frame, in a given time or in any.
    pub fn paint(&mut self, frame: &mut Frame, time: Option<Duration>) -> Result<Report> {
        match time {
            Some(time) => self.stylizer.stylize_within(frame, time),
            None => self.stylizer.stylize(frame),
        }
    }

    /// Learns from how long a frame took whether the working size fits the machine.
    pub fn observe(&mut self, report: &Report, budget: Duration) {
        // What is being prepared takes time from the frames.
        let is_settled = self.job.is_none() && self.wanted.working_size == self.stylizer.settings().working_size;
        let is_known = !report.iteration_duration.is_zero();
        if let Some(chooser) = self.chooser.as_mut().filter(|_| is_settled && is_known) {
            chooser.observe(report.working_size, report.iteration_duration, report.other_duration, budget);
        }
    }

    fn choose_size(&mut self, Upcoming { size, budget, .. }: Upcoming) {
        match budget.filter(|_| self.seen.fits_machine()) {
            Some(budget) => {
                // At another frame rate the size goes on from the one before.
                if std::mem::replace(&mut self.frame_size, size) != size {
                    self.chooser = None;
                }
                let new = || SizeChooser::new(self.iteration, budget, size);
                let chosen = self.chooser.get_or_insert_with(new).size();
                // Of a narrow frame or style too little would be left.
                self.wanted.working_size = chosen.max(self.stylizer.least_working_size(&self.wanted, size));
            }
            None => {
                self.chooser = None;
                if self.seen.fits_machine() {
                    self.wanted.working_size = 0;
                }
            }
        }
    }

    fn change_at_once(&mut self, running_time: Option<gst::ClockTime>, warn: Warn) {
        // No other begins before this one has ended.
        self.job.take_if(|job| job.is_finished());
        let mut settings = self.set_settings();
        if self.wanted_style != self.style {
            match style::load(&self.wanted_style).and_then(|picture| self.stylizer.set_style(picture)) {
                Ok(()) => self.begin_transition(self.wanted_style.clone(), running_time),
                Err(error) => self.keep_style(&error, warn),
            }
            if settings.is_err() {
                // The old style may have been too narrow for them.
                settings = self.set_settings();
            }
        }
        if let Err(error) = settings {
            self.keep_settings(&error, warn);
        }
    }

    fn set_settings(&mut self) -> Result<()> {
        if self.wanted == *self.stylizer.settings() { Ok(()) } else { self.stylizer.set_settings(self.wanted.clone()) }
    }

    /// Changes at once what can be changed within a frame, and the rest when it is prepared.
    fn change_beside(&mut self, running_time: Option<gst::ClockTime>, warn: Warn) {
        let finished = self.job.take_if(|job| job.is_finished());
        // A style that nobody wants any more is not shown.
        if let Some(job) = finished.filter(|job| job.style == self.wanted_style) {
            let style = job.style.clone();
            match job.finish().and_then(|prepared| prepared.install(&mut self.stylizer)) {
                Ok(true) if style != self.style => self.begin_transition(style, running_time),
                // What does not fit any more is prepared again.
                Ok(_) => {}
                Err(error) if style != self.style => self.keep_style(&error, warn),
                Err(error) => self.keep_settings(&error, warn),
            }
        }
        let quick = self.wanted.clone().with_preparation_of(self.stylizer.settings());
        if quick != *self.stylizer.settings()
            && let Err(error) = self.stylizer.set_settings(quick)
        {
            self.keep_settings(&error, warn);
        }
        if self.job.is_none() && (self.wanted_style != self.style || self.wanted != *self.stylizer.settings()) {
            match self.start_job() {
                Ok(true) => {}
                Ok(false) => self.change_at_once(running_time, warn),
                Err(error) => {
                    warn("Keeping the last style and settings", &error);
                    self.wanted_style.clone_from(&self.style);
                    self.wanted = self.stylizer.settings().clone();
                }
            }
        }
    }

    /// Begins to prepare what is wanted, unless there is nothing that takes long, as nothing was painted yet.
    fn start_job(&mut self) -> Result<bool> {
        let Some(preparation) = Preparation::new(&self.stylizer, &self.wanted)? else { return Ok(false) };
        let (style, is_new) = (self.wanted_style.clone(), self.wanted_style != self.style);
        self.job = Some(Job::start(style, is_new, preparation)?);
        Ok(true)
    }

    fn begin_transition(&mut self, style: String, running_time: Option<gst::ClockTime>) {
        self.style = style;
        self.transition = running_time.filter(|_| self.seen.style_transition > 0);
    }

    fn keep_style(&mut self, error: &Error, warn: Warn) {
        warn(KEEPING_STYLE, error);
        self.wanted_style.clone_from(&self.style);
    }

    fn keep_settings(&mut self, error: &Error, warn: Warn) {
        warn(KEEPING_SETTINGS, error);
        self.wanted = self.seen.settings_with_preparation_of(self.stylizer.settings());
    }
}

/// A style that is being loaded, or settings that are being prepared, on a thread of its own. That of a
/// painter that is dropped is left alone, and ends when it is done.
struct Job {
    style: String,
    thread: JoinHandle<Result<Prepared>>,
}

impl Job {
    fn start(style: String, is_new: bool, preparation: Preparation) -> Result<Self> {
        let name = style.clone();
        let work = move || preparation.run(is_new.then(|| style::load(&name)).transpose()?);
        let thread = thread::Builder::new().name("neuralstyle-load".to_owned()).spawn(work).map_err(Error::Threads)?;
        Ok(Self { style, thread })
    }

    fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    fn finish(self) -> Result<Prepared> {
        self.thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use gst::{glib, prelude::*};

    use super::*;

    const UPCOMING: Upcoming = Upcoming { size: (64, 48), running_time: None, budget: Some(Duration::from_millis(40)) };

    /// Lets a painter follow its properties, of which one is another now, and returns the warnings.
    fn follow(painter: &mut Painter, property: &str, value: impl ToValue) -> Vec<String> {
        follow_before(UPCOMING, painter, property, value)
    }

    /// The same before another frame.
    fn follow_before(upcoming: Upcoming, painter: &mut Painter, property: &str, value: impl ToValue) -> Vec<String> {
        let (warnings, mut properties) = (RefCell::new(Vec::new()), painter.seen.clone());
        properties.set(property, &value.to_value());
        painter.follow(properties, upcoming, &|consequence, error| {
            warnings.borrow_mut().push(format!("{consequence}: {error}"));
        });
        warnings.into_inner()
    }

    fn finish_job(painter: &Painter) {
        while !painter.job.as_ref().expect("a job").is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn painter() -> Painter {
        let mut painter = Painter::new(Properties::default(), Interruption::default()).unwrap();
        painter.prepare(UPCOMING).unwrap();
        painter
    }

    #[test]
    fn a_style_that_nobody_wants_any_more_is_not_shown() {
        let mut painter = painter();
        let first = painter.style.clone();
        assert_eq!(follow(&mut painter, "style", "glass"), [""; 0]);
        finish_job(&painter);
        assert_eq!(follow(&mut painter, "style", "woodcut"), [""; 0]);
        assert_eq!(painter.style, first);
        finish_job(&painter);
        assert_eq!(follow(&mut painter, "strength", 1.0), [""; 0]);
        assert_eq!(painter.style, "woodcut");
    }

    #[test]
    fn what_cannot_be_used_is_told_of_once() {
        let mut painter = painter();
        let first = painter.style.clone();
        assert_eq!(follow(&mut painter, "style", "/no/such/style"), [""; 0]);
        finish_job(&painter);
        let warnings = follow(&mut painter, "strength", 0.9);
        assert!(matches!(&warnings[..], [warning] if warning.contains("/no/such/style")), "{warnings:?}");
        for layers in ["relu9_9", "relu5_4"] {
            let warnings = follow(&mut painter, "style-layers", layers);
            assert!(matches!(&warnings[..], [warning] if warning.contains(layers)), "{warnings:?}");
        }
        // Everything else goes on.
        assert_eq!(follow(&mut painter, "strength", 0.5), [""; 0]);
        assert_eq!(painter.stylizer.settings().strength, 0.5);
        assert!(painter.job.is_none() && painter.style == first);
        assert_eq!(follow(&mut painter, "style", "/no/such/style"), [""; 0]);
        assert!(painter.job.is_some(), "it is not tried again");
    }

    #[test]
    fn what_a_narrow_style_leaves_nothing_of_is_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("narrow.png");
        image::RgbImage::new(320, 32).save(&path).unwrap();
        let narrow = path.to_str().unwrap();
        for budget in [None, UPCOMING.budget] {
            let upcoming = Upcoming { size: (320, 240), budget, ..UPCOMING };
            let mut painter = Painter::new(Properties::default(), Interruption::default()).unwrap();
            painter.prepare(upcoming).unwrap();
            let mut change = |property: &str, value: glib::Value| {
                let mut warnings = follow_before(upcoming, &mut painter, property, value);
                while painter.job.is_some() {
                    finish_job(&painter);
                    warnings.extend(follow_before(upcoming, &mut painter, "post-messages", true));
                }
                (warnings, painter.stylizer.settings().working_size, painter.style == narrow)
            };
            assert_eq!(change("style", narrow.to_value()), (vec![], 0, true));
            let (warnings, size, _) = change("working-size", 64.to_value());
            assert!(matches!(&warnings[..], [warning] if warning.contains("64x6")), "{warnings:?}");
            assert_eq!(size, 0);
            assert_eq!(change("strength", 0.5.to_value()), (vec![], 0, true));
        }
    }

    #[test]
    fn a_chosen_size_stays_at_another_frame_rate() {
        let mut painter = painter();
        let upcoming = Upcoming { size: (1280, 720), ..UPCOMING };
        painter.iteration = Duration::from_secs(1000);
        follow_before(upcoming, &mut painter, "working-size", -1);
        let mut size_after = |upcoming: Upcoming| {
            painter.prepare(upcoming).unwrap();
            painter.wanted.working_size
        };
        let least = size_after(upcoming);
        // There is time enough for a larger one, but only frames of another size begin anew.
        let slower = Upcoming { budget: Some(Duration::from_secs(1_000_000)), ..upcoming };
        assert_eq!(size_after(slower), least);
        assert!(size_after(Upcoming { size: (640, 360), ..slower }) > least);
    }

    #[test]
    fn a_chosen_size_leaves_something_for_the_layers() {
        let mut painter = painter();
        // The slowest machine, and a narrow frame.
        painter.iteration = Duration::from_secs(1000);
        let upcoming = Upcoming { size: (1600, 100), ..UPCOMING };
        for (property, value) in [("working-size", (-1).to_value()), ("content-layers", "relu1_1".to_value())] {
            follow_before(upcoming, &mut painter, property, value);
        }
        let change = |painter: &mut Painter, layers: &str| {
            assert_eq!(follow_before(upcoming, painter, "style-layers", layers), [""; 0]);
            while painter.job.is_some() {
                finish_job(painter);
                assert_eq!(follow_before(upcoming, painter, "strength", 1.0), [""; 0]);
            }
            painter.stylizer.settings().working_size
        };
        change(&mut painter, "relu1_1");
        painter.prepare(upcoming).unwrap();
        assert_eq!(change(&mut painter, "relu2_1"), 64);
        assert_eq!(change(&mut painter, "relu4_3"), 128);
    }
}

// SPDX-License-Identifier: MPL-2.0

//! What lives from start to stop: the stylizer, and how it follows the properties.

use std::time::Duration;

use super::{
    Network,
    job::Job,
    properties::{PreparedProperties, Properties},
};
use crate::{
    Error, Result,
    image::Frame,
    style,
    stylizer::{
        Interruption, Report, Settings, Stylizer,
        live::{self, Preparation, SizeChooser},
    },
};

/// The consequences of an error in a change.
const KEEPING_STYLE: &str = "Keeping the last style";
const KEEPING_SETTINGS: &str = "Keeping the last settings";
const KEEPING_ALL: &str = "Keeping the last style and settings";

/// Where warnings go: the consequence of an error, and the error.
pub type Warn<'a> = &'a dyn Fn(&str, &Error);

/// The frame that comes next.
#[derive(Debug, Clone, Copy)]
pub struct Upcoming {
    /// Width and height.
    pub size: (usize, usize),
    /// When it is shown.
    pub running_time: Option<gst::ClockTime>,
    /// The time for it; `None` if there is no limit.
    pub budget: Option<Duration>,
}

/// How long a frame may take.
#[derive(Debug, Clone, Copy)]
pub enum Time {
    /// As long as all its iterations take.
    Any,
    /// So long.
    Within(Duration),
    /// Not longer than without any iteration: these are beside the frames. A first frame may take so long.
    Beside(Duration),
}

/// A stylizer that follows the properties. Without a budget for frames, changes count from the next frame on, however
/// long that takes. With one, what takes longer than a frame is prepared on another thread.
pub struct Painter {
    network: Option<Network>,
    stylizer: Stylizer,
    /// The style that the stylizer has.
    style: String,
    /// The running time at which the cross-fade to it began.
    fade: Option<gst::ClockTime>,
    /// The properties at the last frame.
    properties: Properties,
    request: Request,
    sizes: Sizes,
    /// The working size of the last frame, if it was raised.
    raised: Option<usize>,
}

/// What the stylizer shall have of what needs preparation: what the properties ask for, apart from what is refused.
struct Request {
    style: String,
    /// Of these only what needs preparation counts.
    settings: Settings,
    /// Its preparation, or that of an earlier request, if there is one under way.
    job: Option<Job>,
}

impl Painter {
    /// A painter with the style and the settings of the properties, for a live source or another one, and a way to
    /// interrupt it.
    pub fn new(properties: Properties, is_live: bool, interruption: Interruption) -> Result<Self> {
        let network = properties.network(is_live);
        let mut stylizer = properties.stylizer(is_live)?;
        stylizer.set_interruption(interruption);
        let sizes = Sizes { iteration: live::warm_up(&mut stylizer)?, chooser: None, frame_size: (0, 0) };
        let style = properties.prepared.style.name.clone();
        let request = Request { style: style.clone(), settings: stylizer.settings().clone(), job: None };
        Ok(Self { network, stylizer, style, fade: None, properties, request, sizes, raised: None })
    }

    /// Whether it has the network for such a source.
    pub fn suits(&self, is_live: bool) -> bool {
        self.network == self.properties.network(is_live)
    }

    /// The network in use; `None` if it is from a file of the user's.
    pub fn network(&self) -> Option<Network> {
        self.network
    }

    /// Prepares for frames like this one, the first of their kind.
    pub fn prepare(&mut self, upcoming: Upcoming) -> Result<()> {
        self.choose_size(upcoming);
        let working_size = self.request.settings.working_size;
        self.stylizer.set_settings(Settings { working_size, ..self.stylizer.settings().clone() })?;
        self.stylizer.prepare(upcoming.size)
    }

    /// Forgets all earlier frames.
    pub fn reset(&mut self) -> Result<()> {
        self.stylizer.reset();
        match self.fade.take() {
            Some(_) => live::set_style_share(&mut self.stylizer, 1.0),
            None => Ok(()),
        }
    }

    /// Follows the properties before a frame. Values that cannot be used are refused with a warning.
    pub fn follow(&mut self, properties: Properties, upcoming: Upcoming, warn: Warn) {
        let last = std::mem::replace(&mut self.properties, properties);
        self.read_request(&last.prepared, warn);
        self.choose_size(upcoming);
        if upcoming.budget.is_none() {
            self.change_at_once(upcoming.running_time, warn);
        } else {
            self.change_quickly(warn);
            let is_due = self.fade.is_some() || self.request.job.as_ref().is_some_and(Job::is_finished);
            // It would wait for the steps that are being taken.
            let must_wait = is_due && live::is_at_work(&self.stylizer);
            live::rest(&mut self.stylizer, must_wait);
            if must_wait {
                return;
            }
            if let Some(job) = self.request.job.take_if(|job| job.is_finished()) {
                self.install(job, upcoming.running_time, warn);
            }
            self.prepare_changes(upcoming.running_time, warn);
        }
        self.fade(upcoming.running_time, warn);
    }

    /// Paints a frame.
    pub fn paint(&mut self, frame: &mut Frame, time: Time) -> Result<Report> {
        match time {
            Time::Any => self.stylizer.stylize(frame),
            Time::Within(time) => self.stylizer.stylize_within(frame, time),
            Time::Beside(time) => self.stylizer.stylize_beside(frame, time),
        }
    }

    /// The working size of a painted frame, if it had to be larger than the property says. Only once for each size.
    pub fn raised_size(&mut self, report: &Report) -> Option<usize> {
        let setting = self.stylizer.settings().working_size as usize;
        let is_raised = !self.properties.fits_machine() && setting > 0 && report.working_size > setting;
        let raised = is_raised.then_some(report.working_size);
        raised.filter(|_| std::mem::replace(&mut self.raised, raised) != raised)
    }

    /// Learns from how long a frame took whether the working size fits the machine.
    pub fn observe(&mut self, report: &Report, budget: Duration) {
        let is_settled =
            self.request.job.is_none() && self.request.settings.working_size == self.stylizer.settings().working_size;
        // A preparation takes time from the frames.
        if is_settled {
            self.sizes.observe(report, budget);
        }
    }

    /// Takes what changed in the properties into the request. What is refused is not tried again until it changes: one
    /// warning is enough.
    fn read_request(&mut self, last: &PreparedProperties, warn: Warn) {
        let PreparedProperties { style, objective } = &self.properties.prepared;
        if *style != last.style {
            self.request.style.clone_from(&style.name);
        }
        if *objective != last.objective {
            match self.properties.settings().and_then(|settings| self.stylizer.check(&settings).map(|()| settings)) {
                Ok(settings) => self.request.settings = settings,
                Err(error) => warn(KEEPING_SETTINGS, &error),
            }
        }
    }

    fn choose_size(&mut self, Upcoming { size, budget, .. }: Upcoming) {
        let budget = budget.filter(|_| self.properties.fits_machine());
        let chosen = self.sizes.choose(size, budget);
        if let Some(chosen) = chosen {
            // Little is left of a narrow frame or style.
            self.request.settings.working_size =
                chosen.max(live::least_working_size(&self.stylizer, &self.wanted(), size));
        } else if self.properties.fits_machine() {
            self.request.settings.working_size = 0;
        }
    }

    /// The settings that the stylizer shall have.
    fn wanted(&self) -> Settings {
        self.properties.settings_like(self.request.settings.clone())
    }

    fn change_at_once(&mut self, now: Option<gst::ClockTime>, warn: Warn) {
        self.request.job = None;
        let mut result = self.set_settings(self.wanted());
        if self.request.style != self.style {
            match style::load(&self.request.style).and_then(|picture| self.stylizer.set_style(picture)) {
                Ok(()) => self.begin_fade(self.request.style.clone(), now),
                Err(error) => self.refuse_style(&error, warn),
            }
            if result.is_err() {
                // The old style may have been too narrow for them.
                result = self.set_settings(self.wanted());
            }
        }
        if let Err(error) = result {
            self.refuse_settings(&error, warn);
        }
    }

    /// Changes what can be changed within a frame.
    fn change_quickly(&mut self, warn: Warn) {
        let quick = self.properties.settings_like(self.stylizer.settings().clone());
        if let Err(error) = self.set_settings(quick) {
            self.refuse_settings(&error, warn);
        }
    }

    /// Prepares what takes longer than a frame.
    fn prepare_changes(&mut self, now: Option<gst::ClockTime>, warn: Warn) {
        if self.request.job.is_none()
            && (self.request.style != self.style || self.wanted() != *self.stylizer.settings())
        {
            match Preparation::new(&self.stylizer, &self.wanted()) {
                Ok(Some(preparation)) => self.start_job(preparation, warn),
                // Nothing was painted yet, and nothing takes long.
                Ok(None) => self.change_at_once(now, warn),
                Err(error) => self.refuse_request(&error, warn),
            }
        }
    }

    fn start_job(&mut self, preparation: Preparation, warn: Warn) {
        let style = self.request.style.clone();
        let is_new = style != self.style;
        match Job::start(style, is_new, preparation) {
            Ok(job) => self.request.job = Some(job),
            Err(error) => self.refuse_request(&error, warn),
        }
    }

    /// Puts what a job prepared into use. A style that is not wanted any more is not shown.
    fn install(&mut self, job: Job, now: Option<gst::ClockTime>, warn: Warn) {
        if *job.style() != self.request.style {
            return;
        }
        let style = job.style().to_owned();
        let is_new = style != self.style;
        match job.finish().and_then(|prepared| prepared.install(&mut self.stylizer)) {
            Ok(true) if is_new => self.begin_fade(style, now),
            // If it does not fit any more, it is prepared again.
            Ok(_) => {}
            Err(error) if is_new => self.refuse_style(&error, warn),
            Err(error) => self.refuse_settings(&error, warn),
        }
    }

    fn set_settings(&mut self, settings: Settings) -> Result<()> {
        if settings == *self.stylizer.settings() { Ok(()) } else { self.stylizer.set_settings(settings) }
    }

    fn begin_fade(&mut self, style: String, now: Option<gst::ClockTime>) {
        self.style = style;
        self.fade = now.filter(|_| self.properties.style_transition > 0);
    }

    /// Goes on with the cross-fade.
    fn fade(&mut self, now: Option<gst::ClockTime>, warn: Warn) {
        let Some(start) = self.fade else { return };
        let passed = now.map_or(gst::ClockTime::MAX, |now| now.saturating_sub(start)).mseconds() as f64;
        let share = (passed / f64::from(self.properties.style_transition)).min(1.0);
        if let Err(error) = live::set_style_share(&mut self.stylizer, share) {
            warn("Changing the style at once", &error);
        }
        self.fade.take_if(|_| share >= 1.0);
    }

    fn refuse_style(&mut self, error: &Error, warn: Warn) {
        warn(KEEPING_STYLE, error);
        self.keep_style();
    }

    fn refuse_settings(&mut self, error: &Error, warn: Warn) {
        warn(KEEPING_SETTINGS, error);
        self.keep_settings();
    }

    fn refuse_request(&mut self, error: &Error, warn: Warn) {
        warn(KEEPING_ALL, error);
        self.keep_style();
        self.keep_settings();
    }

    fn keep_style(&mut self) {
        self.request.style.clone_from(&self.style);
    }

    fn keep_settings(&mut self) {
        self.request.settings = self.stylizer.settings().clone();
    }
}

/// Chooses the working size that fits the machine.
struct Sizes {
    /// How long an iteration took at the warm-up.
    iteration: Duration,
    chooser: Option<SizeChooser>,
    /// Width and height of the frames that the size is chosen for.
    frame_size: (usize, usize),
}

impl Sizes {
    /// The size for frames of this size with a budget; `None` without one.
    fn choose(&mut self, frame_size: (usize, usize), budget: Option<Duration>) -> Option<u32> {
        if budget.is_none() {
            self.chooser = None;
            return None;
        }
        // At another frame rate the choice goes on from the one before.
        if std::mem::replace(&mut self.frame_size, frame_size) != frame_size {
            self.chooser = None;
        }
        let new = || SizeChooser::new(self.iteration, frame_size);
        Some(self.chooser.get_or_insert_with(new).size())
    }

    fn observe(&mut self, report: &Report, budget: Duration) {
        if let Some(chooser) = self.chooser.as_mut().filter(|_| !report.iteration_duration.is_zero()) {
            chooser.observe(report.working_size, report.iteration_duration, report.other_duration, budget);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, thread, time::Instant};

    use gst::{glib, prelude::*};

    use super::*;
    use crate::element::properties::TABLE;
    use crate::image::PackedFormat;

    const UPCOMING: Upcoming = Upcoming { size: (64, 48), running_time: None, budget: Some(Duration::from_millis(40)) };

    /// Changes a property, lets the painter follow, and returns the warnings.
    fn follow(painter: &mut Painter, property: &str, value: impl ToValue) -> Vec<String> {
        follow_before(UPCOMING, painter, property, value)
    }

    /// The same before another frame.
    fn follow_before(upcoming: Upcoming, painter: &mut Painter, property: &str, value: impl ToValue) -> Vec<String> {
        let (warnings, mut properties) = (RefCell::new(Vec::new()), painter.properties.clone());
        set(&mut properties, property, &value.to_value());
        painter.follow(properties, upcoming, &|consequence, error| {
            warnings.borrow_mut().push(format!("{consequence}: {error}"));
        });
        warnings.into_inner()
    }

    fn set(properties: &mut Properties, name: &str, value: &glib::Value) {
        let property = TABLE.iter().find(|property| property.spec.name() == name).unwrap();
        (property.set)(properties, value);
    }

    fn finish_job(painter: &Painter) {
        let started = Instant::now();
        while !painter.request.job.as_ref().expect("a job").is_finished() {
            assert!(started.elapsed() < Duration::from_secs(60), "the job hangs");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a painter follow its properties until nothing is left to prepare, and returns the warnings.
    fn settle(painter: &mut Painter, upcoming: Upcoming) -> Vec<String> {
        let mut warnings = Vec::new();
        for _ in 0..10 {
            if painter.request.job.is_none() {
                return warnings;
            }
            finish_job(painter);
            warnings.extend(follow_before(upcoming, painter, "post-messages", true));
        }
        panic!("the preparations do not end");
    }

    fn painter() -> Painter {
        let mut painter = Painter::new(Properties::default(), false, Interruption::default()).unwrap();
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
        assert!(painter.request.job.is_none() && painter.style == first);
        assert_eq!(follow(&mut painter, "style", "/no/such/style"), [""; 0]);
        assert!(painter.request.job.is_some(), "it is not tried again");
    }

    #[test]
    fn another_style_scale_is_prepared() {
        let mut painter = painter();
        assert_eq!(follow(&mut painter, "style-scale", 2.0), [""; 0]);
        assert_eq!(painter.stylizer.settings().style_scale, 1.0);
        assert_eq!(settle(&mut painter, UPCOMING), [""; 0]);
        assert_eq!(painter.stylizer.settings().style_scale, 2.0);
        assert!(painter.request.job.is_none());
        let unlimited = Upcoming { budget: None, ..UPCOMING };
        assert_eq!(follow_before(unlimited, &mut painter, "style-scale", 0.5), [""; 0]);
        assert_eq!(painter.stylizer.settings().style_scale, 0.5);
    }

    #[test]
    fn a_narrow_style_raises_the_working_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("narrow.png");
        image::RgbImage::new(320, 32).save(&path).unwrap();
        let narrow = path.to_str().unwrap();
        for budget in [None, UPCOMING.budget] {
            let upcoming = Upcoming { size: (320, 240), budget, ..UPCOMING };
            let mut painter = Painter::new(Properties::default(), false, Interruption::default()).unwrap();
            painter.prepare(upcoming).unwrap();
            let mut change = |property: &str, value: glib::Value| {
                let mut warnings = follow_before(upcoming, &mut painter, property, value);
                warnings.extend(settle(&mut painter, upcoming));
                (warnings, painter.stylizer.settings().working_size, painter.style == narrow)
            };
            assert_eq!(change("style", narrow.to_value()), (vec![], 0, true));
            assert_eq!(change("working-size", 64.to_value()), (vec![], 64, true));
            let mut pixels = vec![0; 4 * 320 * 240];
            let mut frame = Frame::new(&mut pixels, (320, 240), 4 * 320, PackedFormat::RGBX).unwrap();
            let report = painter.paint(&mut frame, Time::Any).unwrap();
            // 80x8 pixels are enough for relu4_3.
            assert_eq!(report.working_size, 80);
            assert_eq!([0; 2].map(|_| painter.raised_size(&report)), [Some(80), None]);
        }
    }

    #[test]
    fn a_chosen_size_stays_at_another_frame_rate() {
        let mut painter = painter();
        let upcoming = Upcoming { size: (1280, 720), ..UPCOMING };
        painter.sizes.iteration = Duration::from_secs(1000);
        follow_before(upcoming, &mut painter, "working-size", -1);
        let size_after = |painter: &mut Painter, upcoming: Upcoming| {
            painter.prepare(upcoming).unwrap();
            painter.request.settings.working_size
        };
        assert_eq!(size_after(&mut painter, upcoming), 64);
        // The machine is fast enough for a larger one, but only frames of another size begin anew.
        painter.sizes.iteration = Duration::from_micros(1);
        let slower = Upcoming { budget: Some(Duration::from_secs(1)), ..upcoming };
        assert_eq!(size_after(&mut painter, slower), 64);
        assert_eq!(size_after(&mut painter, Upcoming { size: (640, 360), ..slower }), 640);
    }

    #[test]
    fn a_chosen_size_leaves_something_for_the_layers() {
        let mut painter = painter();
        // The slowest machine, and a narrow frame.
        painter.sizes.iteration = Duration::from_secs(1000);
        let upcoming = Upcoming { size: (1600, 100), ..UPCOMING };
        for (property, value) in [("working-size", (-1).to_value()), ("content-layers", "relu1_1".to_value())] {
            follow_before(upcoming, &mut painter, property, value);
        }
        let change = |painter: &mut Painter, layers: &str| {
            assert_eq!(follow_before(upcoming, painter, "style-layers", layers), [""; 0]);
            assert_eq!(settle(painter, upcoming), [""; 0]);
            painter.stylizer.settings().working_size
        };
        change(&mut painter, "relu1_1");
        painter.prepare(upcoming).unwrap();
        assert_eq!(change(&mut painter, "relu2_1"), 64);
        assert_eq!(change(&mut painter, "relu4_3"), 128);
    }
}

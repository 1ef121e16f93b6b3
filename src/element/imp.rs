// SPDX-License-Identifier: MPL-2.0

/**
 * SECTION:element-neuralstyle
 * @title: neuralstyle
 * @short_description: Paints video in the manner of any picture
 *
 * neuralstyle paints each frame in the manner of a style image. It optimizes the pixels of the frame by gradient
 * descent, until a neural network finds the content of the frame and the textures of the style image in them.
 *
 * ## Example launch line
 * |[<!-- language="plain" -->
 * gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! videoconvert ! deinterlace ! neuralstyle style=painting.jpg \
 *     working-size=320 ! videoconvert ! autovideosink sync=false
 * ]|
 * plays a film as if it were painted like the picture.
 */
use std::{
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gst::{glib, prelude::*, subclass::prelude::*};
use gst_base::{prelude::*, subclass::BaseTransformMode};
use gst_video::{VideoFormat, prelude::*, subclass::prelude::*};

use super::{
    Network,
    pace::Pace,
    painter::{Painter, Time, Upcoming},
    properties::{Properties, TABLE, stats_spec},
};
use crate::{
    Error, Result,
    image::{Frame, PackedFormat},
    stylizer::{Interruption, Report},
};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("neuralstyle", gst::DebugColorFlags::empty(), Some("Paints video like a picture"))
});

const FORMATS: [VideoFormat; 10] = [
    VideoFormat::Rgb,
    VideoFormat::Bgr,
    VideoFormat::Rgbx,
    VideoFormat::Xrgb,
    VideoFormat::Bgrx,
    VideoFormat::Xbgr,
    VideoFormat::Rgba,
    VideoFormat::Argb,
    VideoFormat::Bgra,
    VideoFormat::Abgr,
];
const SMALLEST_SIDE: i32 = 16;

#[derive(Default)]
pub struct NeuralStyle {
    properties: Mutex<Properties>,
    stats: Mutex<Option<Stats>>,
    pace: Mutex<Pace>,
    waiting: Mutex<Waiting>,
    /// Set while anything waits for the frame that is being painted.
    interruption: Interruption,
    /// Held for a whole frame. Lock it in serialized callbacks, start and stop only.
    painter: Mutex<Option<Painter>>,
    /// Whether a warning of interlaced video was posted since the start.
    warned_of_interlacing: AtomicBool,
}

/// What was done to the last frame, and with which network: `None` for weights of the user's.
type Stats = (Report, Option<Network>);

/// What waits for the frame that is being painted. The frame will not be shown, and is interrupted.
#[derive(Default)]
struct Waiting {
    flush: bool,
    stop: bool,
}

impl NeuralStyle {
    /// The properties as they are now.
    pub fn properties(&self) -> Properties {
        lock(&self.properties).clone()
    }

    fn warn(&self, consequence: &str, error: &Error) {
        gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{consequence}: {error}"));
    }

    /// Notes what waits for the current frame, and interrupts the frame while anything does.
    fn update_waiting(&self, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = lock(&self.waiting);
        change(&mut waiting);
        self.interruption.set(waiting.flush || waiting.stop);
    }

    /// Warns about interlaced video: negotiation fails upstream, with an error that does not mention it.
    fn warn_of_interlacing(&self, query: &gst::QueryRef) {
        let caps = match query.view() {
            gst::QueryView::AcceptCaps(query) => Some(query.caps_owned()),
            gst::QueryView::Caps(query) => query.filter_owned(),
            _ => None,
        };
        let is_interlaced = |structure: &gst::StructureRef| {
            structure.get::<&str>("interlace-mode").is_ok_and(|mode| mode != "progressive")
        };
        let is_refused = caps.is_some_and(|caps| caps.size() > 0 && caps.iter().all(is_interlaced));
        if is_refused && !self.warned_of_interlacing.swap(true, Ordering::Relaxed) {
            gst::element_imp_warning!(
                self,
                gst::StreamError::Format,
                ("neuralstyle does not take interlaced video: put the element deinterlace before it")
            );
        }
    }

    fn forget_history(&self, reason: &str) {
        if let Some(painter) = lock(&self.painter).as_mut() {
            gst::debug!(CAT, imp = self, "Starting over after {reason}");
            if let Err(error) = painter.reset() {
                self.warn("Keeping a mixture of styles", &error);
            }
        }
    }

    /// Posts a Latency message if the budget, which is the latency, changed.
    fn announce_latency(&self, last: Option<Duration>, new: Option<Duration>) {
        if last != new {
            gst::debug!(CAT, imp = self, "A frame may now take {new:?}");
            // Fails only without a bus, where nobody listens.
            let _ = self.obj().post_message(gst::message::Latency::builder().src(&*self.obj()).build());
        }
    }

    /// The latency up to here if the source is live.
    fn upstream_latency(&self) -> Option<gst::ClockTime> {
        let mut query = gst::query::Latency::new();
        let answered = self.obj().static_pad("sink").is_some_and(|pad| pad.peer_query(&mut query));
        let (is_live, min, _) = query.result();
        (answered && is_live).then_some(min)
    }

    fn running_time(&self, buffer: &gst::BufferRef) -> Option<gst::ClockTime> {
        let segment = self.obj().segment();
        segment.downcast_ref::<gst::ClockTime>()?.to_running_time(buffer.pts())
    }

    /// How much of the budget is left for the frame of this running time.
    fn time_left(&self, running_time: Option<gst::ClockTime>, budget: Duration) -> Duration {
        let now = self.obj().current_running_time();
        lock(&self.pace).time_left(running_time, now, budget)
    }

    fn stylize(&self, frame: &mut gst_video::VideoFrameRef<&mut gst::BufferRef>) -> Result<Stats> {
        let mut painter = lock(&self.painter);
        // Frames come between start and stop only.
        let painter = painter.as_mut().ok_or(Error::NoStyle)?;
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        let properties = self.properties();
        let running_time = self.running_time(frame.buffer());
        let budget = lock(&self.pace).budget(properties.frame_budget);
        let upcoming = Upcoming { size: (width, height), running_time, budget };
        painter.follow(properties, upcoming, &|consequence, error| self.warn(consequence, error));
        // Live sources and queues lose a frame now and then, which is no new scene.
        if budget.is_none() && frame.buffer().flags().contains(gst::BufferFlags::DISCONT) {
            painter.reset()?;
        }
        let stride = frame.plane_stride()[0] as usize;
        let info = frame.format_info();
        let offset = |colour: usize| info.poffset()[colour] as usize;
        let format = PackedFormat::new(info.pixel_stride()[0] as usize, [offset(0), offset(1), offset(2)])?;
        let time = match budget.map(|budget| self.time_left(running_time, budget)) {
            None => Time::Any,
            Some(left) if lock(&self.pace).is_live() => Time::Beside(left),
            Some(left) => Time::Within(left),
        };
        let pixels = frame.plane_data_mut(0).expect("packed formats have one plane");
        let report = painter.paint(&mut Frame::new(pixels, (width, height), stride, format)?, time)?;
        if let Some(size) = painter.raised_size(&report) {
            gst::element_imp_warning!(
                self,
                gst::LibraryError::Settings,
                ("working-size is raised to {size}: below that, the frame or the style is too small for the deepest layer")
            );
        }
        if let Some(budget) = budget {
            painter.observe(&report, budget);
        }
        Ok((report, painter.network()))
    }
}

#[glib::object_subclass]
impl ObjectSubclass for NeuralStyle {
    const NAME: &'static str = "GstNeuralStyle";
    type Type = super::NeuralStyle;
    type ParentType = gst_video::VideoFilter;
    type Interfaces = (gst::Preset,);
}

impl ObjectImpl for NeuralStyle {
    fn properties() -> &'static [glib::ParamSpec] {
        static SPECS: LazyLock<Vec<glib::ParamSpec>> =
            LazyLock::new(|| TABLE.iter().map(|property| property.spec.clone()).chain([stats_spec()]).collect());
        &SPECS
    }

    fn set_property(&self, id: usize, value: &glib::Value, _pspec: &glib::ParamSpec) {
        let mut properties = lock(&self.properties);
        let last = properties.frame_budget;
        // Ids begin with 1.
        (TABLE[id - 1].set)(&mut properties, value);
        let new = properties.frame_budget;
        drop(properties);
        let [last, new] = [last, new].map(|budget| lock(&self.pace).budget(budget));
        self.announce_latency(last, new);
    }

    fn property(&self, id: usize, _pspec: &glib::ParamSpec) -> glib::Value {
        match TABLE.get(id - 1) {
            Some(property) => (property.get)(&lock(&self.properties)),
            None => stats(*lock(&self.stats)).to_value(),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        // With QoS the base class drops late frames. Recorded frames are all painted, and late live ones get fewer
        // iterations.
        self.obj().set_qos(false);
    }
}

impl GstObjectImpl for NeuralStyle {}

impl ElementImpl for NeuralStyle {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Neural style transfer",
                "Filter/Effect/Video",
                "Paints video in the manner of any picture, by optimization",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::PausedToReady {
            self.update_waiting(|waiting| waiting.stop = true);
        }
        self.parent_change_state(transition)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let caps = gst_video::VideoCapsBuilder::new()
                .format_list(FORMATS)
                .width_range(SMALLEST_SIDE..)
                .height_range(SMALLEST_SIDE..)
                // The two fields of an interlaced frame are different moments, which motion estimation mixes up.
                .field("interlace-mode", "progressive")
                .build();
            [("sink", gst::PadDirection::Sink), ("src", gst::PadDirection::Src)]
                .into_iter()
                .map(|(name, direction)| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
                        .expect("the caps and names are right")
                })
                .collect()
        });
        &TEMPLATES
    }
}

impl PresetImpl for NeuralStyle {}

impl BaseTransformImpl for NeuralStyle {
    const MODE: BaseTransformMode = BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn before_transform(&self, buffer: &gst::BufferRef) {
        let segment = self.obj().segment();
        let segment = segment.downcast_ref::<gst::ClockTime>();
        if let Some(time) = segment.and_then(|segment| segment.to_stream_time(buffer.pts()))
            && let Err(error) = self.obj().sync_values(time)
        {
            gst::warning!(CAT, imp = self, "The controlled properties keep their values: {error}");
        }
        self.parent_before_transform(buffer);
    }

    fn transform_ip(&self, buffer: &mut gst::BufferRef) -> Result<gst::FlowSuccess, gst::FlowError> {
        // A painted frame is not a gap.
        buffer.unset_flags(gst::BufferFlags::GAP);
        self.parent_transform_ip(buffer)
    }

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        self.update_waiting(|waiting| *waiting = Waiting::default());
        self.warned_of_interlacing.store(false, Ordering::Relaxed);
        // Most sources tell already now.
        let is_live = self.upstream_latency().is_some();
        let painter = Painter::new(self.properties(), is_live, self.interruption.clone());
        let painter = painter.map_err(|error| error_message(&error))?;
        *lock(&self.painter) = Some(painter);
        *lock(&self.stats) = None;
        *lock(&self.pace) = Pace::default();
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.painter) = None;
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStart(_) => self.update_waiting(|waiting| waiting.flush = true),
            gst::EventView::FlushStop(_) => {
                self.update_waiting(|waiting| waiting.flush = false);
                self.forget_history("a flush");
                lock(&self.pace).flush();
            }
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        if let gst::EventView::Qos(qos) = event.view() {
            let (frame_budget, may_drop) = (self.properties().frame_budget, self.obj().is_qos());
            let mut pace = lock(&self.pace);
            if pace.budget(frame_budget).is_none() && !may_drop {
                // Not forwarded: elements upstream would drop late frames, and without a budget all are painted.
                return true;
            }
            let (_, _, behind, timestamp) = qos.get();
            pace.observe(timestamp, behind);
        }
        self.parent_src_event(event)
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        if direction == gst::PadDirection::Sink {
            self.warn_of_interlacing(query);
        }
        let answered = BaseTransformImplExt::parent_query(self, direction, query);
        if answered
            && direction == gst::PadDirection::Src
            && let gst::QueryViewMut::Latency(latency) = query.view_mut()
        {
            let (is_live, min, max) = latency.result();
            let frame_budget = self.properties().frame_budget;
            let mut pace = lock(&self.pace);
            // The pipeline asks again when a latency changes, as when a decoder knows how many frames it reorders.
            pace.upstream = is_live.then_some(min);
            if let Some(own) = pace.budget(frame_budget).filter(|_| is_live) {
                let own = gst::ClockTime::from_nseconds(u64::try_from(own.as_nanos()).unwrap_or(u64::MAX));
                latency.set(true, min.saturating_add(own), max.map(|max| max.saturating_add(own)));
            }
        }
        answered
    }
}

impl VideoFilterImpl for NeuralStyle {
    fn set_info(
        &self,
        incaps: &gst::Caps,
        in_info: &gst_video::VideoInfo,
        outcaps: &gst::Caps,
        out_info: &gst_video::VideoInfo,
    ) -> Result<(), gst::LoggableError> {
        let last = self.obj().static_pad("sink").and_then(|pad| pad.current_caps());
        let last = last.and_then(|caps| gst_video::VideoInfo::from_caps(&caps).ok());
        let picture = |info: &gst_video::VideoInfo| (info.format(), info.width(), info.height(), info.colorimetry());
        // At another frame rate it is still the same film.
        if last.is_some_and(|last| picture(&last) != picture(in_info)) {
            self.forget_history("new caps");
        }
        let upstream = self.upstream_latency();
        if let Some(painter) = lock(&self.painter).as_mut().filter(|painter| !painter.suits(upstream.is_some())) {
            *painter = Painter::new(self.properties(), upstream.is_some(), self.interruption.clone())
                .inspect_err(|error| self.post_error_message(error_message(error)))
                .map_err(|error| gst::loggable_error!(CAT, "{error}"))?;
        }
        let frame_budget = self.properties().frame_budget;
        let mut pace = lock(&self.pace);
        let last = pace.budget(frame_budget);
        pace.change(upstream, in_info.fps());
        let new = pace.budget(frame_budget);
        drop(pace);
        self.announce_latency(last, new);
        if let (Some(painter), Some(_)) = (lock(&self.painter).as_mut(), new) {
            let size = (in_info.width() as usize, in_info.height() as usize);
            // Not fatal: the first frame hits the same error and posts it.
            if let Err(error) = painter.prepare(Upcoming { size, running_time: None, budget: new }) {
                gst::debug!(CAT, imp = self, "Not prepared for the first frame: {error}");
            }
        }
        self.parent_set_info(incaps, in_info, outcaps, out_info)
    }

    fn transform_frame_ip(
        &self,
        frame: &mut gst_video::VideoFrameRef<&mut gst::BufferRef>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let frame_stats = self.stylize(frame).map_err(|error| match error {
            Error::Interrupted => gst::FlowError::Flushing,
            error => {
                self.post_error_message(error_message(&error));
                gst::FlowError::Error
            }
        })?;
        gst::trace!(CAT, imp = self, "{frame_stats:?}");
        *lock(&self.stats) = Some(frame_stats);
        if lock(&self.properties).post_messages {
            let message = gst::message::Element::builder(stats(Some(frame_stats))).src(&*self.obj()).build();
            // Fails only without a bus, where nobody listens.
            let _ = self.obj().post_message(message);
        }
        Ok(gst::FlowSuccess::Ok)
    }
}

/// Locks a mutex, poisoned or not: a panic elsewhere leaves none of these values half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stats(last: Option<Stats>) -> gst::Structure {
    let builder = gst::Structure::builder("neuralstyle");
    match last {
        None => builder.build(),
        Some((report, network)) => builder
            .field("network", network.map_or("weights", Network::nick))
            .field("frame", report.frame)
            .field("scene", report.scene)
            .field("working-size", report.working_size as u64)
            .field("iterations", report.iterations)
            .field("content", report.losses.content)
            .field("style", report.losses.style)
            .field("total-variation", report.losses.total_variation)
            .field("grain", report.losses.grain)
            .field("temporal", report.losses.temporal)
            .field("loss", report.loss)
            .field("milliseconds", report.duration.as_secs_f64() * 1e3)
            .field("style-updates", report.style_updates)
            .build(),
    }
}

fn error_message(error: &Error) -> gst::ErrorMessage {
    match error {
        Error::WeightsUnreadable { .. } | Error::StyleMissing { .. } => {
            gst::error_msg!(gst::ResourceError::NotFound, ("{error}"))
        }
        Error::WeightsDamaged { .. }
        | Error::WeightsTensor { .. }
        | Error::StyleUndecodable { .. }
        | Error::StyleTiny { .. } => {
            gst::error_msg!(gst::ResourceError::Read, ("{error}"))
        }
        Error::UnknownLayer { .. }
        | Error::LayerNotInWeights { .. }
        | Error::Setting { .. }
        | Error::TooSmall { .. }
        | Error::Memory { .. }
        | Error::Device { .. }
        | Error::Processor { .. } => gst::error_msg!(gst::LibraryError::Settings, ("{error}")),
        Error::ImageSize { .. }
        | Error::GramLayer { .. }
        | Error::GramSize { .. }
        | Error::PackedFormat { .. }
        | Error::NoStyle
        | Error::Interrupted
        | Error::Tensor(_)
        | Error::Resize(_)
        | Error::Threads(_)
        | Error::Gpu { .. } => {
            gst::error_msg!(gst::LibraryError::Failed, ("{error}"))
        }
    }
}

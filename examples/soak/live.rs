// SPDX-License-Identifier: MPL-2.0

//! A live source through the element: which frames are late, and which are lost.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use gst::{glib, prelude::*};
use gstneuralstyle::{element, style};
use serde_json::json;

use crate::{
    PATIENCE, Result,
    memory::{ENOUGH_CHANGES, Lows, check_growth, rss_mb},
};

#[derive(Args)]
pub struct Arguments {
    /// A video file to play in real time, again and again, instead of a ball on a test picture.
    #[arg(long)]
    clip: Option<PathBuf>,
    /// How long, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Width of the frames.
    #[arg(long, default_value_t = 1280)]
    width: u32,
    /// Height of the frames.
    #[arg(long, default_value_t = 720)]
    height: u32,
    /// Frames a second.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How often the style changes in a minute.
    #[arg(long, default_value_t = 0)]
    styles: u32,
    /// Set a property of the element.
    #[arg(long = "set", value_name = "PROPERTY=VALUE")]
    properties: Vec<String>,
}

/// Memory has settled after this time, or after half the run.
const MEMORY_SETTLES: Duration = Duration::from_secs(60);
/// How long to wait for a decoded frame before looking for errors.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(100);
/// The number of decoded frames of a clip that are kept.
const MOST_FRAMES: usize = 100;

/// What is measured at the pads of the element.
#[derive(Default)]
struct Seen {
    /// The number of frames that left the source.
    sent: u64,
    /// When the frames came that have not left the element yet.
    inside: VecDeque<(gst::ClockTime, Instant)>,
    delays: Vec<Duration>,
    /// How late each frame left, by the clock.
    ages: Vec<Duration>,
    iterations: Vec<u32>,
    working_sizes: Vec<u64>,
    /// How often the style was another one, since the start.
    style_changes: u64,
    out_of_order: u64,
    last: Option<gst::ClockTime>,
}

/// Plays for the time that is asked for.
pub fn run(arguments: &Arguments) -> Result<serde_json::Value> {
    let Arguments { width, height, rate, .. } = *arguments;
    let caps = format!("video/x-raw,format=BGRx,width={width},height={height},framerate={rate}/1");
    let source = match arguments.clip {
        Some(_) => format!("appsrc name=source is-live=true format=time max-buffers=2 caps={caps}"),
        None => format!("videotestsrc name=source is-live=true pattern=ball ! {caps}"),
    };
    let line = format!(
        "{source} ! identity name=sent ! queue leaky=downstream max-size-buffers=1 ! neuralstyle name=painter \
         ! queue max-size-buffers=1 ! fakesink name=sink sync=true"
    );
    let pipeline = gst::parse::launch(&line)?.downcast::<gst::Pipeline>().map_err(|_| "no pipeline")?;
    let by_name = |name: &str| pipeline.by_name(name).ok_or_else(|| format!("there is no element {name}"));
    let painter = by_name("painter")?;
    element::set_properties(&painter, &arguments.properties)?;
    let seen = watch(&painter, &by_name("sent")?)?;

    let frames = arguments.clip.as_deref().map(|clip| decode(clip, &caps)).transpose()?;
    let stop = Arc::new(AtomicBool::new(false));
    pipeline.set_state(gst::State::Playing)?;
    let pusher = match frames {
        Some(frames) => {
            let source = by_name("source")?.downcast::<gst_app::AppSrc>().map_err(|_| "no appsrc")?;
            let (stop, rate) = (stop.clone(), rate);
            Some(thread::spawn(move || push(&source, &frames, rate, &stop)))
        }
        None => None,
    };
    let watched = watch_bus(&pipeline, &painter, arguments, &seen);
    stop.store(true, Ordering::Relaxed);
    pipeline.set_state(gst::State::Null)?;
    if let Some(pusher) = pusher {
        pusher.join().map_err(|_| "the source panicked")?;
    }
    let Watched { settled_mb, last_mb, lows } = watched?;
    // While styles change, the last moment may be one in which a preparation takes memory.
    if arguments.styles == 0 { check_growth(settled_mb, last_mb) } else { lows.check() }?;

    let mut seen = std::mem::take(&mut *seen.lock().map_err(|_| "a probe panicked")?);
    let painted = seen.iterations.iter().filter(|&&iterations| iterations > 0).count();
    let out = seen.iterations.len();
    if out == 0 {
        return Err("no frame came out".into());
    }
    if seen.out_of_order > 0 {
        return Err(format!("{} frames came out of order", seen.out_of_order).into());
    }
    let first = [seen.delays[0], seen.ages[0]].map(milliseconds);
    Ok(json!({
        "source": arguments.clip.as_deref().map_or("ball".into(), Path::to_string_lossy),
        "size": format!("{width}x{height}"),
        "rate": rate,
        "set": arguments.properties,
        "seconds": arguments.seconds,
        "style_changes_a_minute": arguments.styles,
        "frames_sent": seen.sent,
        "frames_out": out,
        "frames_dropped": seen.sent.saturating_sub(out as u64),
        "share_painted": (painted as f64 / out as f64 * 1e4).round() / 1e4,
        "iterations_per_frame": (f64::from(seen.iterations.iter().sum::<u32>()) / out as f64 * 100.0).round() / 100.0,
        "first_delay_ms": first[0],
        "first_age_ms": first[1],
        "delay_ms_p50": percentile(&mut seen.delays, 0.5),
        "delay_ms_p99": percentile(&mut seen.delays, 0.99),
        "age_ms_p50": percentile(&mut seen.ages, 0.5),
        "age_ms_p99": percentile(&mut seen.ages, 0.99),
        "working_sizes": runs(&seen.working_sizes),
        "rss_settled_mb": settled_mb,
        "rss_last_mb": last_mb,
        "style_changes": seen.style_changes,
        "rss_growth_for_a_style_mb": lows.growth_for_a_change().map(|growth| (growth * 10.0).round() / 10.0),
    }))
}

/// Measures each frame where it leaves the source and at both pads of the element.
fn watch(painter: &gst::Element, sent: &gst::Element) -> Result<Arc<Mutex<Seen>>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let pad = |element: &gst::Element, name: &str| element.static_pad(name).ok_or("an element lacks a pad");
    let probe = |pad: gst::Pad, note: fn(&mut Seen, &gst::Element, gst::ClockTime)| {
        let (seen, painter) = (seen.clone(), painter.downgrade());
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let pts = info.buffer().and_then(|buffer| buffer.pts());
            if let (Some(pts), Some(painter), Ok(mut seen)) = (pts, painter.upgrade(), seen.lock()) {
                note(&mut seen, &painter, pts);
            }
            gst::PadProbeReturn::Ok
        });
    };
    probe(pad(sent, "src")?, |seen, _, _| seen.sent += 1);
    probe(pad(painter, "sink")?, |seen, _, pts| seen.inside.push_back((pts, Instant::now())));
    probe(pad(painter, "src")?, |seen, painter, pts| {
        while let Some((came, at)) = seen.inside.pop_front() {
            if came == pts {
                seen.delays.push(at.elapsed());
                break;
            }
        }
        // The segment begins at 0, so that times in the stream are running times.
        let now = painter.current_running_time().unwrap_or_default();
        seen.ages.push(now.saturating_sub(pts).into());
        let stats = painter.property::<gst::Structure>("stats");
        seen.iterations.push(stats.get("iterations").unwrap_or_default());
        seen.working_sizes.push(stats.get("working-size").unwrap_or_default());
        seen.style_changes = stats.get("style-updates").unwrap_or_default();
        seen.out_of_order += u64::from(seen.last.replace(pts).is_some_and(|last| last >= pts));
    });
    Ok(seen)
}

struct Watched {
    settled_mb: Option<u64>,
    last_mb: Option<u64>,
    lows: Lows,
}

/// Waits while the pipeline plays, on a busy machine longer: for the first frame, and for enough changes of the style.
fn watch_bus(
    pipeline: &gst::Pipeline,
    painter: &gst::Element,
    arguments: &Arguments,
    seen: &Mutex<Seen>,
) -> Result<Watched> {
    let bus = pipeline.bus().ok_or("the pipeline has no bus")?;
    let duration = Duration::from_secs(arguments.seconds);
    let names: Vec<_> = style::built_in_names().collect();
    let mut styles = names.iter().cycle().skip(1);
    let (started, mut changes) = (Instant::now(), 0);
    let settled = MEMORY_SETTLES.min(duration / 2);
    let asked_for = duration.as_secs_f64() * f64::from(arguments.styles) / 60.0;
    let least_changes = ENOUGH_CHANGES.min(asked_for as u64);
    let mut watched = Watched { settled_mb: None, last_mb: None, lows: Lows::default() };
    let seen = || seen.lock().map(|seen| (seen.iterations.len(), seen.style_changes)).unwrap_or_default();
    let lacks_something = || seen().0 == 0 || seen().1 < least_changes;
    while started.elapsed() < duration || (started.elapsed() < PATIENCE && lacks_something()) {
        if let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(100)) {
            match message.view() {
                gst::MessageView::Error(error) => return Err(error.error().to_string().into()),
                gst::MessageView::Eos(_) => return Err("the source ended".into()),
                gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
                _ => {}
            }
        }
        if started.elapsed().as_secs_f64() * f64::from(arguments.styles) / 60.0 >= f64::from(changes + 1) {
            changes += 1;
            painter.set_property("style", styles.next().copied());
        }
        if let Some(mb) = rss_mb() {
            watched.lows.note(seen().1, mb);
        }
        if watched.settled_mb.is_none() && started.elapsed() >= settled {
            watched.settled_mb = rss_mb();
        }
    }
    watched.last_mb = rss_mb();
    Ok(watched)
}

/// The first frames of a video file.
fn decode(clip: &Path, caps: &str) -> Result<Vec<gst::Buffer>> {
    let uri = glib::filename_to_uri(std::path::absolute(clip)?, None)?;
    let line = format!(
        "uridecodebin uri={uri} ! videoconvert ! videoscale ! videorate ! {caps} ! appsink name=sink sync=false"
    );
    let pipeline = gst::parse::launch(&line)?.downcast::<gst::Pipeline>().map_err(|_| "no pipeline")?;
    let sink = pipeline.by_name("sink").and_downcast::<gst_app::AppSink>().ok_or("no appsink")?;
    let bus = pipeline.bus().ok_or("the pipeline has no bus")?;
    // Errors are on the bus. That there is no video is a warning.
    let _ = pipeline.set_state(gst::State::Playing);
    let problem = || {
        bus.iter().find_map(|message| match message.view() {
            gst::MessageView::Error(error) => Some(error.error()),
            gst::MessageView::Warning(warning) => {
                Some(warning.error()).filter(|it| it.matches(gst::ParseError::DelayedLink))
            }
            _ => None,
        })
    };
    let (mut frames, mut reason) = (Vec::new(), None);
    while frames.len() < MOST_FRAMES && !sink.is_eos() && reason.is_none() {
        frames.extend(sink.try_pull_sample(TICK).and_then(|sample| sample.buffer_owned()));
        reason = problem();
    }
    pipeline.set_state(gst::State::Null)?;
    match reason {
        Some(reason) => Err(format!("{}: {reason}", clip.display()).into()),
        None if frames.is_empty() => Err(format!("{} has no frames", clip.display()).into()),
        None => Ok(frames),
    }
}

/// Sends the frames at their rate, as a camera would.
fn push(source: &gst_app::AppSrc, frames: &[gst::Buffer], rate: u32, stop: &AtomicBool) {
    let step = gst::ClockTime::SECOND / u64::from(rate);
    for (n, frame) in frames.iter().cycle().enumerate() {
        let pts = step * n as u64;
        while source.current_running_time().is_none_or(|now| now < pts) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let mut frame = frame.copy();
        {
            let frame = frame.make_mut();
            frame.set_pts(pts);
            frame.set_duration(step);
            frame.unset_flags(gst::BufferFlags::DISCONT);
        }
        if source.push_buffer(frame).is_err() {
            return;
        }
    }
}

/// Each value with the number of times that it came in a row.
fn runs(values: &[u64]) -> Vec<(u64, usize)> {
    values.chunk_by(PartialEq::eq).map(|run| (run[0], run.len())).collect()
}

/// A percentile of the times, in milliseconds.
fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let last = times.len() - 1;
    milliseconds(times[(last as f64 * share).round() as usize])
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

// SPDX-License-Identifier: MPL-2.0

//! Everything changes at random, from several threads.

use std::{
    process,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use gst::prelude::*;
use serde_json::json;

use crate::{
    PATIENCE, Result,
    memory::{check_growth, rss_mb},
};

#[derive(Args)]
pub struct Arguments {
    /// How long, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const LIVE: &str = "videotestsrc is-live=true pattern=ball ! capsfilter name=caps ! queue leaky=downstream";
const RECORDED: &str = "videotestsrc pattern=ball ! capsfilter name=caps ! queue";

/// The time between two changes of the style: 200 a minute.
const STYLE_LASTS: Duration = Duration::from_millis(300);
/// The time between two changes of another property.
const PROPERTY_LASTS: Duration = Duration::from_millis(20);
/// The longest time between two changes of state, position or caps.
const STATE_LASTS_MS: u64 = 1500;

const STYLES: [&str; 4] = ["nocturne", "woodcut", "glass", "/no/such/picture.png"];
/// Values of the properties, some of which cannot be used.
const VALUES: [(&str, &[&str]); 23] = [
    ("content-weight", &["0", "1", "20"]),
    ("style-weight", &["0", "10", "100"]),
    ("tv-weight", &["0", "3", "30"]),
    ("temporal-weight", &["0", "30", "300"]),
    ("learning-rate", &["0.01", "8", "100"]),
    ("iterations", &["1", "2", "5"]),
    ("first-iterations", &["1", "5", "10"]),
    ("style-scale", &["0.25", "1", "3"]),
    ("working-size", &["-1", "0", "15", "48", "64", "96", "8192"]),
    ("frame-budget", &["-1", "0", "1", "20000000", "100000000"]),
    ("style-transition", &["0", "100", "5000"]),
    ("scene-threshold", &["0", "0.5", "1"]),
    ("strength", &["0", "0.5", "1"]),
    ("content-layers", &["relu3_3", "relu2_1,relu3_1", "", "relu5_1", "nonsense"]),
    ("style-layers", &["relu1_2,relu2_2,relu3_3,relu4_3", "relu1_1", "", "relu9_9"]),
    ("pooling", &["max", "average"]),
    ("warm-start", &["none", "previous", "residual", "flow"]),
    ("post-messages", &["true", "false"]),
    ("debug-view", &["painted", "painted", "flow", "mask", "residual"]),
    // These are read at the next start.
    ("threads", &["0", "1", "3"]),
    ("precision", &["auto", "f32"]),
    ("device", &["cpu"]),
    ("qos", &["true", "false"]),
];
const CAPS: [&str; 4] = [
    "video/x-raw,format=RGB,width=160,height=90,framerate=25/1",
    "video/x-raw,format=BGRx,width=96,height=96,framerate=25/1",
    "video/x-raw,format=ARGB,width=90,height=161,framerate=50/1",
    "video/x-raw,format=RGB,width=161,height=91,framerate=10/1",
];

/// The values that cannot be used, with part of the message: a warning while it plays, an error at a start.
const UNUSABLE: [(&str, &str); 5] = [
    ("/no/such/picture.png", "no style /no/such/picture.png"),
    ("15", "working-size is 15"),
    ("relu5_1", "no layer relu5_1"),
    ("nonsense", "\"nonsense\" is not a layer"),
    ("relu9_9", "\"relu9_9\" is not a layer"),
];

/// What the threads share.
struct Stage {
    pipeline: gst::Pipeline,
    painter: gst::Element,
    caps: gst::Element,
    is_live: bool,
    ends: AtomicBool,
    slowest_property: Mutex<(Duration, String)>,
}

/// The numbers of changes.
#[derive(Default)]
struct Done {
    styles: u64,
    properties: u64,
    states: u64,
    seeks: u64,
    caps: u64,
}

/// Changes everything, the first half of the time behind a live source, the second behind a seekable one.
pub fn run(arguments: &Arguments) -> Result<serde_json::Value> {
    let mut summary = Vec::new();
    for (source, seed) in [(LIVE, arguments.seed), (RECORDED, arguments.seed + 1000)] {
        let (half, mut done) = (Duration::from_millis(500 * arguments.seconds), Done::default());
        let stage = Arc::new(stage(source)?);
        let threads = [spawn(&stage, seed, change_properties), spawn(&stage, seed + 1, change_states)];
        let watched = watch(&stage, half);
        stage.ends.store(true, Ordering::Relaxed);
        for thread in threads {
            let part = thread.join().map_err(|_| "a thread that changes things panicked")?;
            done.styles += part.styles;
            done.properties += part.properties;
            done.states += part.states;
            done.seeks += part.seeks;
            done.caps += part.caps;
        }
        stage.pipeline.set_state(gst::State::Null)?;
        let Watched { frames, warnings, refusals, early_mb, late_mb } =
            watched.map_err(|error| format!("{source}: {error}"))?;
        let slowest = stage.slowest_property.lock().map_err(|_| "a thread panicked")?.clone();
        check_growth(early_mb, late_mb).map_err(|error| format!("{source}: {error}"))?;
        summary.push(json!({
            "source": source,
            "seed": seed,
            "seconds": half.as_secs_f64(),
            "frames": frames,
            "styles": done.styles,
            "properties": done.properties,
            "states": done.states,
            "seeks": done.seeks,
            "caps": done.caps,
            "warnings": warnings,
            "refused_starts": refusals,
            "slowest_property_ms": (slowest.0.as_secs_f64() * 1e4).round() / 10.0,
            "rss_early_mb": early_mb,
            "rss_late_mb": late_mb,
        }));
    }
    Ok(json!(summary))
}

fn stage(source: &str) -> Result<Stage> {
    let line = format!("{source} max-size-buffers=2 ! neuralstyle name=painter ! fakesink sync=true qos=true");
    let pipeline = gst::parse::launch(&line)?.downcast::<gst::Pipeline>().map_err(|_| "no pipeline")?;
    let by_name = |name: &str| pipeline.by_name(name).ok_or_else(|| format!("there is no element {name}"));
    let stage = Stage {
        painter: by_name("painter")?,
        caps: by_name("caps")?,
        is_live: source == LIVE,
        ends: AtomicBool::new(false),
        slowest_property: Mutex::default(),
        pipeline,
    };
    stage.caps.set_property_from_str("caps", CAPS[0]);
    Ok(stage)
}

fn spawn(stage: &Arc<Stage>, seed: u64, change: fn(&Stage, &mut Chance) -> Done) -> thread::JoinHandle<Done> {
    let stage = stage.clone();
    thread::spawn(move || change(&stage, &mut Chance(seed)))
}

/// Sets and reads the properties until the end.
fn change_properties(stage: &Stage, chance: &mut Chance) -> Done {
    let mut done = Done::default();
    let mut style_since = Instant::now();
    while !stage.ends.load(Ordering::Relaxed) {
        let (name, value) = if style_since.elapsed() >= STYLE_LASTS {
            style_since = Instant::now();
            done.styles += 1;
            ("style", chance.one_of(&STYLES))
        } else {
            let (name, values) = chance.one_of(&VALUES);
            (name, chance.one_of(values))
        };
        let started = Instant::now();
        stage.painter.set_property_from_str(name, value);
        stage.painter.property_value(name);
        stage.painter.property_value("stats");
        let took = started.elapsed();
        done.properties += 1;
        if let Ok(mut slowest) = stage.slowest_property.lock()
            && slowest.0 < took
        {
            *slowest = (took, name.to_owned());
        }
        thread::sleep(PROPERTY_LASTS);
        if UNUSABLE.iter().any(|(unusable, _)| *unusable == value) {
            reset(&stage.painter, name);
        }
    }
    done
}

/// Changes the state, the caps and the position until the end. [`watch`] sees whether that goes well.
fn change_states(stage: &Stage, chance: &mut Chance) -> Done {
    let mut done = Done::default();
    while !stage.ends.load(Ordering::Relaxed) {
        match chance.below(4) {
            0 => {
                let state = chance.one_of(&[gst::State::Null, gst::State::Ready, gst::State::Paused]);
                let _ = stage.pipeline.set_state(state);
                thread::sleep(Duration::from_millis(chance.below(50)));
                let _ = stage.pipeline.set_state(gst::State::Playing);
                done.states += 2;
            }
            1 if !stage.is_live => {
                let position = gst::ClockTime::from_mseconds(chance.below(60_000));
                done.seeks += u64::from(stage.pipeline.seek_simple(gst::SeekFlags::FLUSH, position).is_ok());
            }
            _ => {
                stage.caps.set_property_from_str("caps", chance.one_of(&CAPS));
                done.caps += 1;
            }
        }
        thread::sleep(Duration::from_millis(chance.below(STATE_LASTS_MS)));
    }
    done
}

struct Watched {
    frames: u64,
    warnings: u64,
    /// How often the start failed because of a property that cannot be used.
    refusals: u64,
    early_mb: Option<u64>,
    late_mb: Option<u64>,
}

/// Plays, and checks that frames go on coming in order.
fn watch(stage: &Stage, duration: Duration) -> Result<Watched> {
    let (frames, disorder) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (count, older, last) = (frames.clone(), disorder.clone(), Mutex::new(None));
    let pad = stage.painter.static_pad("src").ok_or("the element has no src pad")?;
    pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let Ok(mut last) = last.lock() else { return gst::PadProbeReturn::Ok };
        if let Some(buffer) = info.buffer() {
            count.fetch_add(1, Ordering::Relaxed);
            older.fetch_add(u64::from(*last >= buffer.pts() && last.is_some()), Ordering::Relaxed);
            *last = buffer.pts();
        } else if info.event().is_some_and(|event| event.type_() == gst::EventType::Segment) {
            *last = None;
        }
        gst::PadProbeReturn::Ok
    });
    let bus = stage.pipeline.bus().ok_or("the pipeline has no bus")?;
    let started = Instant::now();
    let (mut seen, mut seen_at, mut warnings, mut refusals, mut memory) = (0, started, 0, 0, Vec::new());
    // If it fails because of a property, the error is on the bus.
    let _ = stage.pipeline.set_state(gst::State::Playing);
    while started.elapsed() < duration || seen == 0 {
        if let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(100)) {
            match message.view() {
                gst::MessageView::Error(error) => {
                    let text = error.error().to_string();
                    if !UNUSABLE.iter().any(|(_, reason)| text.contains(reason)) {
                        return Err(format!("{text} ({:?})", error.debug()).into());
                    }
                    // Until the next start the property has another value.
                    refusals += 1;
                    let _ = stage.pipeline.set_state(gst::State::Null);
                    let _ = stage.pipeline.set_state(gst::State::Playing);
                }
                gst::MessageView::Warning(_) => warnings += 1,
                _ => {}
            }
        }
        memory.push(rss_mb());
        let now = frames.load(Ordering::Relaxed);
        if now > seen {
            (seen, seen_at) = (now, Instant::now());
        } else if seen_at.elapsed() > PATIENCE {
            // No return: joining the other threads may hang too.
            eprintln!("no more frames after {now} frames and {:?}", started.elapsed());
            process::exit(1);
        }
    }
    let disorder = disorder.load(Ordering::Relaxed);
    if disorder > 0 {
        return Err(format!("{disorder} frames are older than the one before").into());
    }
    let quarter = memory.len() / 4;
    let most = |part: &[Option<u64>]| part.iter().copied().flatten().max();
    let (early_mb, late_mb) = (most(&memory[quarter..2 * quarter]), most(&memory[3 * quarter..]));
    Ok(Watched { frames: seen, warnings, refusals, early_mb, late_mb })
}

fn reset(element: &gst::Element, property: &str) {
    if let Some(spec) = element.find_property(property) {
        element.set_property_from_value(property, spec.default_value());
    }
}

/// Pseudorandom numbers (Marsaglia 2003, xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Paints a camera in real time, in a window or as another camera, and takes keys to change how.

use std::{
    error::Error,
    io, iter,
    path::Path,
    process::ExitCode,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, value_parser};
use gst::{glib, prelude::*};
use gst_video::NavigationEvent;
use gstneuralstyle::{element, style};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Paint a camera in real time.
///
/// Keys, in the window or followed by Enter in the terminal: n and p or right and left, another style; + and - or up and
/// down, more or less of the paint; q or Escape, quit.
#[derive(Parser)]
#[command(name = "webcam", version)]
struct Args {
    /// What to paint: the device of a camera, test for a test picture, or a video file
    #[arg(default_value = "/dev/video0")]
    source: String,
    /// Where to show it: window, pipewire for a camera that other programs can use, the device of a v4l2loopback
    /// camera, or the name of any GStreamer sink
    #[arg(long, default_value = "window")]
    to: String,
    /// Styles to choose from: pictures, or names of built-in styles
    #[arg(long = "style", value_name = "STYLE")]
    styles: Vec<String>,
    /// Size of the frames
    #[arg(long, value_parser = parse_size, default_value = "1280x720")]
    size: (u32, u32),
    /// Frames a second
    #[arg(long, default_value_t = 25, value_parser = value_parser!(u32).range(1..))]
    rate: u32,
    /// Stop after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Settings of the element neuralstyle, such as iterations=1; a wrong one lists all
    #[arg(last = true, value_name = "PROPERTY=VALUE")]
    properties: Vec<String>,
}

/// The time between two updates of the text in the picture.
const SECOND: Duration = Duration::from_secs(1);
/// The change of the strength with a key.
const STEP: f64 = 0.1;

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("webcam: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    gst::init()?;
    gstneuralstyle::plugin_register_static()?;
    let pipeline = gst::parse::launch(&describe(&args)?).map_err(|error| explain(&error))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| "no pipeline")?;
    let by_name = |name: &str| pipeline.by_name(name).ok_or_else(|| format!("there is no element {name}"));
    let painter = by_name("painter")?;
    element::set_properties(&painter, &args.properties)?;
    let mut studio = Studio::new(painter, by_name("text")?, args.styles);

    let (sender, keys) = mpsc::channel();
    read_window(&by_name("shown")?, sender.clone())?;
    thread::spawn(move || read_terminal(&sender));
    // Errors are on the bus.
    let _ = pipeline.set_state(gst::State::Playing);
    let ended = play(&pipeline, &mut studio, &keys, args.seconds.map(Duration::from_secs));
    pipeline.set_state(gst::State::Null)?;
    ended
}

/// The pipeline from source to sink.
fn describe(args: &Args) -> Result<String> {
    let ((width, height), rate) = (args.size, args.rate);
    let (source, budget) = match args.source.as_str() {
        "test" => ("videotestsrc is-live=true pattern=ball".to_owned(), -1),
        device if device.starts_with("/dev/") => (format!("v4l2src device={device} ! decodebin"), -1),
        file => {
            let uri = glib::filename_to_uri(std::path::absolute(Path::new(file))?, None)?;
            // A file is not a live source, but is shown in real time.
            (format!("uridecodebin uri={uri} ! videoconvert ! clocksync"), 1_000_000_000 / i64::from(rate))
        }
    };
    let sink = match args.to.as_str() {
        "window" => "autovideosink sync=false".to_owned(),
        "pipewire" => {
            "pipewiresink mode=provide stream-properties=\"props,media.class=Video/Source,media.role=Camera\""
                .to_owned()
        }
        device if device.starts_with("/dev/") => format!("video/x-raw,format=YUY2 ! v4l2sink device={device}"),
        sink => sink.to_owned(),
    };
    Ok(format!(
        "{source} ! videoconvert ! deinterlace ! videoscale ! videorate \
         ! video/x-raw,width={width},height={height},framerate={rate}/1,pixel-aspect-ratio=1/1 \
         ! queue leaky=downstream max-size-buffers=1 ! videoconvert \
         ! neuralstyle name=painter working-size=-1 frame-budget={budget} ! queue max-size-buffers=1 \
         ! textoverlay name=text valignment=top halignment=left ! videoconvert ! identity name=shown ! {sink}"
    ))
}

/// Adds to the error of a missing element which package has it, unless the build needs it anyway.
fn explain(error: &glib::Error) -> String {
    if error.matches(gst::ParseError::NoSuchElement) {
        format!(
            "{error}; Debian and Ubuntu have textoverlay in gstreamer1.0-x and pipewiresink in gstreamer1.0-pipewire"
        )
    } else {
        error.to_string()
    }
}

/// Plays until the end, until the time is over, or until a key quits.
fn play(
    pipeline: &gst::Pipeline,
    studio: &mut Studio,
    keys: &mpsc::Receiver<String>,
    duration: Option<Duration>,
) -> Result<()> {
    let bus = pipeline.bus().ok_or("the pipeline has no bus")?;
    let started = Instant::now();
    while duration.is_none_or(|duration| started.elapsed() < duration) {
        for key in keys.try_iter() {
            if !studio.press(&key) {
                return Ok(());
            }
        }
        studio.show_rate();
        let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(50)) else { continue };
        match message.view() {
            gst::MessageView::Eos(_) => return Ok(()),
            gst::MessageView::Error(error) => return Err(error.error().to_string().into()),
            gst::MessageView::Warning(warning) => eprintln!("Warning: {}", warning.error()),
            gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
            _ => {}
        }
    }
    Ok(())
}

/// What the keys control.
struct Studio {
    painter: gst::Element,
    text: gst::Element,
    styles: Vec<String>,
    /// The index in `styles` of the one that is shown.
    style: usize,
    /// The number of the last frame whose rate was shown, and when that was.
    last: Option<(u64, Instant)>,
}

impl Studio {
    fn new(painter: gst::Element, text: gst::Element, mut styles: Vec<String>) -> Self {
        if styles.is_empty() {
            let own: String = painter.property("style");
            let others = style::built_in_names().filter(|name| *name != own).map(str::to_owned).collect::<Vec<_>>();
            styles = iter::once(own).chain(others).collect();
        }
        painter.set_property("style", &styles[0]);
        Self { painter, text, styles, style: 0, last: None }
    }

    /// Handles a key. Returns whether to go on.
    fn press(&mut self, key: &str) -> bool {
        let count = self.styles.len();
        match key {
            "n" | "Right" => self.show_style((self.style + 1) % count),
            "p" | "Left" => self.show_style((self.style + count - 1) % count),
            "+" | "plus" | "Up" => self.strengthen(STEP),
            "-" | "minus" | "Down" => self.strengthen(-STEP),
            "q" | "Escape" => return false,
            _ => {}
        }
        true
    }

    fn show_style(&mut self, style: usize) {
        self.style = style;
        self.painter.set_property("style", &self.styles[style]);
    }

    fn strengthen(&self, step: f64) {
        let strength: f64 = self.painter.property("strength");
        self.painter.set_property("strength", (strength + step).clamp(0.0, 1.0));
    }

    /// Shows the frame rate in the picture, once a second.
    fn show_rate(&mut self) {
        let stats = self.painter.property::<gst::Structure>("stats");
        let (Ok(frame), Ok(working_size)) = (stats.get::<u64>("frame"), stats.get::<u64>("working-size")) else {
            return;
        };
        let Some((last, since)) = self.last else {
            self.last = Some((frame, Instant::now()));
            return;
        };
        if since.elapsed() >= SECOND {
            let rate = frame.saturating_sub(last) as f64 / since.elapsed().as_secs_f64();
            let strength = 100.0 * self.painter.property::<f64>("strength");
            let style = &self.styles[self.style];
            // The text is Pango markup.
            let style = glib::markup_escape_text(style);
            let text = format!("{rate:.1} frames/s at {working_size} pixels, {style}, {strength:.0} %");
            self.text.set_property("text", text);
            self.last = Some((frame, Instant::now()));
        }
    }
}

/// Sends the keys that are pressed in the window, which come as upstream events.
fn read_window(shown: &gst::Element, keys: mpsc::Sender<String>) -> Result<()> {
    let pad = shown.static_pad("src").ok_or("identity has no src pad")?;
    pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        if let Some(event) = info.event()
            && let Ok(NavigationEvent::KeyPress { key, .. }) = NavigationEvent::parse(event)
        {
            // Fails only at the end, when nobody receives any more.
            let _ = keys.send(key);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Sends each letter that is typed.
fn read_terminal(keys: &mpsc::Sender<String>) {
    for line in io::stdin().lines().map_while(Result::ok) {
        for key in line.chars() {
            if keys.send(key.to_string()).is_err() {
                return;
            }
        }
    }
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let parse = || {
        let (width, height) = text.split_once('x')?;
        Some((width.parse().ok()?, height.parse().ok()?))
    };
    let is_enough = |(width, height): &(u32, u32)| *width.min(height) >= 16;
    parse().filter(is_enough).ok_or_else(|| "a size looks like 1280x720, and is at least 16x16".to_owned())
}

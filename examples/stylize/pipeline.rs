// SPDX-License-Identifier: MPL-2.0

//! The GStreamer pipeline from file to file.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use gst::{MessageView, glib, prelude::*};
use gst_app::AppSrc;
use gst_pbutils::MissingPluginMessage;

use crate::{
    Result,
    film::{self, Film, Kind},
    input::Input,
    output::{Container, Format, Part},
    picture::Picture,
    progress::Progress,
};

/// How often to look whether there is something new to say.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(100);

/// What the element takes.
const SMALLEST_SIDE: i32 = 16;

/// The Debian packages of the elements in use.
const PACKAGES: [(&str, &[&str]); 5] = [
    ("gstreamer1.0-plugins-base", &["audioconvert", "audioresample", "opusenc", "videoconvert", "videoscale"]),
    (
        "gstreamer1.0-plugins-good",
        &["deinterlace", "jpegenc", "matroskamux", "mp4mux", "pngenc", "videoflip", "vp9enc", "webmmux"],
    ),
    ("gstreamer1.0-plugins-bad", &["fdkaacenc", "voaacenc"]),
    ("gstreamer1.0-plugins-ugly", &["x264enc"]),
    ("gstreamer1.0-libav", &["avenc_aac"]),
];

/// The user wants no more of it.
#[derive(Debug, thiserror::Error)]
#[error("interrupted, nothing is written")]
pub struct Interrupted;

/// Decodes a file, paints its video and encodes it again with its sound. Dropped, it stops.
pub struct Pipeline {
    pipeline: gst::Pipeline,
    element: gst::Element,
    /// The input, if it is no picture.
    film: Option<Film>,
    format: &'static Format,
    /// How many frames are painted.
    frames: Arc<AtomicU64>,
}

impl Pipeline {
    pub fn new(input: Input, format: &'static Format) -> Result<Self> {
        let mut description = format!(
            "queue name=video max-size-time=0 max-size-bytes=0 max-size-buffers=3 ! {} ! neuralstyle name=neuralstyle \
             ! videoconvert ! videoscale add-borders=true ! capsfilter name=format ! {} ",
            input.conversion(),
            format.video_encoder
        );
        if let Some(Container { muxer, .. }) = format.container {
            description += &format!("! queue ! {muxer} name=muxer ");
        }
        description += "! filesink name=file";
        let pipeline = launch(&description)?;
        let film = match input {
            Input::Picture(picture) => {
                decode_picture(&pipeline, picture, format)?;
                None
            }
            Input::Film(film) => {
                decode_film(&pipeline, &film, format)?;
                Some(film)
            }
        };

        let element = by_name(&pipeline, "neuralstyle");
        let frames = Arc::new(AtomicU64::new(0));
        let count = frames.clone();
        let pad = element.static_pad("src").ok_or("neuralstyle has no src pad")?;
        let filter = by_name(&pipeline, "format");
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
            if count.fetch_add(1, Ordering::Relaxed) == 0
                && let Some(caps) = pad.current_caps()
            {
                // Few containers allow another size later on.
                keep_size(&filter, &caps);
            }
            gst::PadProbeReturn::Ok
        });
        if format.container.is_none() {
            let count = Arc::new(AtomicU64::new(0));
            let pad = by_name(&pipeline, "video").static_pad("src").ok_or("the queue has no src pad")?;
            pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
                if count.fetch_add(1, Ordering::Relaxed) == 0 {
                    return gst::PadProbeReturn::Ok;
                }
                // One frame is enough for a picture.
                pad.push_event(gst::event::Eos::new());
                gst::PadProbeReturn::Drop
            });
        }
        Ok(Self { pipeline, element, film, format, frames })
    }

    /// The element neuralstyle.
    pub fn element(&self) -> &gst::Element {
        &self.element
    }

    /// Runs to the end, unless told to stop, and returns how many frames were painted.
    pub fn run(&self, part: &Part, stop: &AtomicBool) -> Result<u64> {
        by_name(&self.pipeline, "file").set_property("location", part.file());
        if let Some(muxer) = self.pipeline.by_name("muxer").filter(|muxer| muxer.has_property("faststart-file")) {
            // Not where the system has its temporary files: these can be in memory.
            muxer.set_property("faststart-file", part.scratch());
        }
        let bus = self.pipeline.bus().ok_or("the pipeline has no bus")?;
        let mut progress = Progress::new();
        // What went wrong is on the bus.
        let _ = self.pipeline.set_state(gst::State::Playing);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            if let Some(message) = bus.timed_pop(TICK) {
                match message.view() {
                    MessageView::Eos(_) => break,
                    MessageView::Error(error) => {
                        return Err(describe(&error.error(), error.debug()).into());
                    }
                    MessageView::Warning(warning) => {
                        progress.note(&format!("Warning: {}", describe(&warning.error(), warning.debug())));
                    }
                    MessageView::Element(_) => {
                        if let Ok(missing) = MissingPluginMessage::parse(&message) {
                            progress.note(&format!("Warning: GStreamer has no {}", missing.description()));
                        }
                    }
                    _ => {}
                }
            } else if self.film.as_ref().is_some_and(Film::has_given_up) {
                return Err("GStreamer finds no streams in the file".into());
            }
            let frames = self.frames.load(Ordering::Relaxed);
            if frames > 0
                && !progress.has_total()
                && let Some(total) = self.total()
            {
                progress.set_total(total);
            }
            progress.update(frames);
        }
        // Of a film that becomes a picture only the beginning is decoded.
        if self.format.container.is_some()
            && let Some(shortfall) = self.film.as_ref().and_then(Film::shortfall)
        {
            progress.note(&format!("Warning: {shortfall}"));
        }
        // Closes the file.
        self.pipeline.set_state(gst::State::Null)?;
        match self.frames.load(Ordering::Relaxed) {
            0 => Err("there are no frames in the input".into()),
            frames => Ok(frames),
        }
    }

    /// How many frames the input seems to have.
    fn total(&self) -> Option<u64> {
        self.format.container.as_ref()?;
        let duration = self.film.as_ref()?.duration()?;
        let caps = self.element.static_pad("src")?.current_caps()?;
        let rate = caps.structure(0)?.get::<gst::Fraction>("framerate").ok()?;
        let frames = duration.seconds_f64() * f64::from(rate.numer()) / f64::from(rate.denom());
        (frames >= 1.0).then_some(frames.round() as u64)
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Stopping cannot fail.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

fn launch(description: &str) -> Result<gst::Pipeline> {
    let mut context = gst::ParseContext::new();
    let element = gst::parse::launch_full(description, Some(&mut context), gst::ParseFlags::empty());
    let missing = context.missing_elements();
    if !missing.is_empty() {
        let missing: Vec<_> = missing.iter().map(|name| with_package(name)).collect();
        return Err(format!("GStreamer lacks {}", missing.join(", ")).into());
    }
    element?.downcast().map_err(|_| "the description is of no pipeline".into())
}

/// The name of an element, and where Debian has it.
fn with_package(element: &str) -> String {
    match PACKAGES.iter().find(|(_, elements)| elements.contains(&element)) {
        Some((package, _)) => format!("the element {element} (Debian package {package})"),
        None => format!("the element {element}"),
    }
}

fn audio_encoder(container: &Container) -> Result<&'static str> {
    let installed = |name: &&&str| gst::ElementFactory::find(name).is_some();
    container.audio_encoders.iter().find(installed).copied().ok_or_else(|| {
        let encoders: Vec<_> = container.audio_encoders.iter().map(|name| with_package(name)).collect();
        format!("GStreamer lacks {}", encoders.join(" or ")).into()
    })
}

fn by_name(pipeline: &gst::Pipeline, name: &str) -> gst::Element {
    pipeline.by_name(name).expect("the description has an element of this name")
}

/// Lets a picture be the video of the pipeline.
fn decode_picture(pipeline: &gst::Pipeline, picture: Picture, format: &Format) -> Result<()> {
    let caps = picture.caps()?;
    let source = AppSrc::builder().caps(&caps).format(gst::Format::Time).block(true).build();
    pipeline.add(&source)?;
    let pad = source.static_pad("src").ok_or("appsrc has no src pad")?;
    link_video(pipeline, &pad, format, caps.structure(0).ok_or("the picture has no size")?)?;
    picture.decode_into(source);
    Ok(())
}

/// Lets a film be the video and the sound of the pipeline, as soon as its streams are known.
fn decode_film(pipeline: &gst::Pipeline, film: &Film, format: &'static Format) -> Result<()> {
    let audio_encoder = format.container.as_ref().map(audio_encoder).transpose()?;
    let decoder = film.decoder();
    pipeline.add(decoder)?;
    let ends = film.ends().clone();
    let weak = pipeline.downgrade();
    decoder.connect_pad_added(move |decoder, pad| {
        if let Some(pipeline) = weak.upgrade() {
            film::correct_segment(decoder, pad);
            if let Some(kind) = link(&pipeline, pad, format, audio_encoder) {
                ends.watch(pad, kind);
            }
        }
    });
    let weak = pipeline.downgrade();
    decoder.connect_no_more_pads(move |decoder| {
        let video = weak.upgrade().and_then(|pipeline| by_name(&pipeline, "video").static_pad("sink"));
        if video.is_some_and(|pad| !pad.is_linked()) {
            gst::element_error!(decoder, gst::StreamError::WrongType, ("there is no video in the input"));
        }
    });
    Ok(())
}

/// Takes a decoded stream: the first video and all sound. Returns what it is if it is taken.
fn link(pipeline: &gst::Pipeline, pad: &gst::Pad, format: &Format, audio_encoder: Option<&str>) -> Option<Kind> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let stream = caps.structure(0)?;
    let (kind, linked) = match (stream.name().as_str(), audio_encoder) {
        ("video/x-raw", _) => (Kind::Video, link_video(pipeline, pad, format, stream)),
        ("audio/x-raw", Some(encoder)) => (Kind::Sound, link_audio(pipeline, pad, encoder)),
        _ => return None,
    };
    if let Err(error) = linked {
        gst::element_error!(pipeline, gst::StreamError::WrongType, ("{error}"));
    }
    pad.is_linked().then_some(kind)
}

fn link_video(pipeline: &gst::Pipeline, pad: &gst::Pad, format: &Format, stream: &gst::StructureRef) -> Result<()> {
    let sink = by_name(pipeline, "video").static_pad("sink").ok_or("the queue has no sink pad")?;
    if sink.is_linked() {
        return Ok(());
    }
    let (width, height) = (stream.get::<i32>("width")?, stream.get::<i32>("height")?);
    if width.min(height) < SMALLEST_SIDE {
        return Err(format!("the video is {width}x{height} pixels, at least {0}x{0} are wanted", SMALLEST_SIDE).into());
    }
    if format.even_only {
        // 4:2:0 is what every player can play. But H.264 has it for even sizes only, and 4:4:4 for all.
        let odd = width % 2 != 0 || height % 2 != 0;
        let caps = gst::Caps::builder("video/x-raw").field("format", if odd { "Y444" } else { "I420" }).build();
        by_name(pipeline, "format").set_property("caps", caps);
    }
    pad.link(&sink)?;
    Ok(())
}

/// Lets a filter pass frames of the size of these caps only, besides what it demands already.
fn keep_size(filter: &gst::Element, caps: &gst::CapsRef) {
    let Ok(info) = gst_video::VideoInfo::from_caps(caps) else { return };
    let mut kept = filter.property::<gst::Caps>("caps");
    if kept.is_any() {
        kept = gst::Caps::new_empty_simple("video/x-raw");
    }
    let writable = kept.make_mut();
    for (side, length) in [("width", info.width()), ("height", info.height())] {
        writable.set(side, i32::try_from(length).unwrap_or(i32::MAX));
    }
    writable.set("pixel-aspect-ratio", info.par());
    filter.set_property("caps", kept);
}

fn link_audio(pipeline: &gst::Pipeline, pad: &gst::Pad, encoder: &str) -> Result<()> {
    // All sound that comes while a frame is painted waits here. Were there a limit, the demuxer would wait with it, and
    // the next frame would never come.
    let description =
        format!("queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 ! audioconvert ! audioresample ! {encoder}");
    let branch = gst::parse::bin_from_description(&description, true)?;
    pipeline.add(&branch)?;
    branch.link(&by_name(pipeline, "muxer"))?;
    branch.sync_state_with_parent()?;
    let sink = branch.static_pad("sink").ok_or("the branch has no sink pad")?;
    pad.link(&sink)?;
    Ok(())
}

/// What an element has to say. The first line of the debug text is a place in its source.
fn describe(error: &glib::Error, debug: Option<glib::GString>) -> String {
    match debug.as_deref().and_then(|debug| debug.split_once('\n')) {
        Some((_, reason)) => format!("{} {reason}", error.message()),
        None => error.message().to_owned(),
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Where a test runs the program, with the files it makes and reads.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use gst::{glib, prelude::*};
use gst_pbutils::{Discoverer, DiscovererInfo};
use gst_video::{
    VideoColorMatrix, VideoColorPrimaries, VideoColorRange, VideoColorimetry, VideoFormat, VideoInfo,
    VideoTransferFunction,
};
use tempfile::TempDir;

use crate::states::set_state;

/// Settings with which it hardly matters how long the painting takes.
pub const FAST: [&str; 3] = ["working-size=48", "iterations=1", "first-iterations=1"];
/// What takes longer than this never ends.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A directory with an input, where a test runs the program.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        gst::init().unwrap();
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a file with a pipeline whose last element is put here.
    pub fn make(&self, name: &str, pipeline: &str) {
        run(&format!("{pipeline} ! filesink location={}", self.path(name).display()));
    }

    /// Makes a clip of 5 frames and half a second of sound.
    pub fn make_clip(&self, name: &str, width: u32, height: u32) {
        self.make(
            name,
            &format!(
                "audiotestsrc num-buffers=20 samplesperbuffer=1200 ! audio/x-raw,rate=48000,channels=2 ! opusenc \
                 ! queue ! mux. videotestsrc num-buffers=5 pattern=ball \
                 ! video/x-raw,width={width},height={height},framerate=10/1,pixel-aspect-ratio=2/1 \
                 ! videoconvert ! vp9enc ! queue ! matroskamux name=mux"
            ),
        );
    }

    pub fn start<T: AsRef<OsStr>>(&self, arguments: &[T], properties: &[&str]) -> Child {
        Command::new(program())
            .current_dir(self.0.path())
            .args(arguments)
            .arg("--")
            .args(properties)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn stylize<T: AsRef<OsStr>>(&self, arguments: &[T], properties: &[&str]) -> Output {
        wait(self.start(arguments, properties))
    }

    /// Checks that a run failed, said why, and left nothing but what was there before.
    pub fn assert_fails(&self, arguments: &[&str], properties: &[&str], reason: &str) {
        let before = self.files();
        let output = self.stylize(arguments, properties);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(reason), "{message}");
        assert!(!message.contains("panicked"), "{message}");
        assert_eq!(self.files(), before);
    }

    pub fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    pub fn discover(&self, name: &str) -> DiscovererInfo {
        let uri = glib::filename_to_uri(self.path(name), None).unwrap();
        Discoverer::new(gst::ClockTime::from_seconds(60)).unwrap().discover_uri(&uri).unwrap()
    }

    /// Makes a film of 64x48 pixels that shows grey frames, with a pipeline from raw video to the file.
    pub fn make_film(&self, name: &str, frames: &[Frame], range: VideoColorRange, pipeline: &str) {
        let colours = VideoColorimetry::new(
            range,
            VideoColorMatrix::Bt709,
            VideoTransferFunction::Bt709,
            VideoColorPrimaries::Bt709,
        );
        let info = VideoInfo::builder(VideoFormat::I420, 64, 48).fps(gst::Fraction::new(10, 1)).colorimetry(&colours);
        let caps = info.build().unwrap().to_caps().unwrap();
        let source = gst_app::AppSrc::builder().caps(&caps).format(gst::Format::Time).build();
        let description = format!("{pipeline} ! filesink location={}", self.path(name).display());
        let rest = gst::parse::bin_from_description(&description, true).unwrap();
        let film = gst::Pipeline::new();
        film.add_many([source.upcast_ref(), rest.upcast_ref::<gst::Element>()]).unwrap();
        source.link(&rest).unwrap();
        for (index, frame) in frames.iter().enumerate() {
            let next = frames.get(index + 1).map_or(frame.time + 100, |next| next.time);
            let mut pixels = vec![frame.luma(range); 64 * 48];
            pixels.resize(64 * 48 * 3 / 2, 128);
            let mut buffer = gst::Buffer::from_slice(pixels);
            let writable = buffer.get_mut().unwrap();
            writable.set_pts(gst::ClockTime::from_mseconds(frame.time));
            writable.set_duration(gst::ClockTime::from_mseconds(next - frame.time));
            source.push_buffer(buffer).unwrap();
        }
        source.end_of_stream().unwrap();
        run_to_end(&film, name);
    }

    /// Paints with strength 0, so that the frames stay as they are, and returns what the program says.
    pub fn pass_through(&self, input: &str, output: &str) -> String {
        let run = self.stylize(&[input, output], &[&FAST[..], &["strength=0"]].concat());
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "{input} to {output}: {said}");
        said
    }

    /// Decodes all frames of a video.
    pub fn frames(&self, name: &str) -> Vec<Frame> {
        let uri = glib::filename_to_uri(self.path(name), None).unwrap();
        let description =
            format!("uridecodebin uri={uri} ! videoconvert ! video/x-raw,format=I420 ! appsink name=sink sync=false");
        let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
        let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
        let frames = Arc::new(Mutex::new(Vec::new()));
        let seen = frames.clone();
        let look = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            seen.lock().unwrap().push(Frame::of(&sample));
            Ok(gst::FlowSuccess::Ok)
        };
        sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(look).build());
        run_to_end(&pipeline, name);
        let frames = frames.lock().unwrap();
        frames.clone()
    }

    /// Decodes all sound of a film, and returns how many milliseconds it lasts.
    pub fn length_of_sound(&self, name: &str) -> u64 {
        let uri = glib::filename_to_uri(self.path(name), None).unwrap();
        let description = format!("uridecodebin uri={uri} ! audioconvert ! fakesink name=sink sync=false");
        let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
        let length = Arc::new(AtomicU64::new(0));
        let sum = length.clone();
        let pad = pipeline.by_name("sink").unwrap().static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            sum.fetch_add(info.buffer().unwrap().duration().unwrap().nseconds(), Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
        run_to_end(&pipeline, name);
        gst::ClockTime::from_nseconds(length.load(Ordering::Relaxed)).mseconds()
    }

    /// Decodes all frames of a video.
    pub fn count_frames(&self, name: &str) -> usize {
        self.frames(name).len()
    }
}

/// What a frame of a film looks like, and when it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// In milliseconds, from the beginning of the film.
    pub time: u64,
    /// Of the middle, from 0 for black to 255 for white.
    pub level: u8,
    /// The largest difference between the middles of two rows that follow each other.
    pub comb: u8,
}

impl Frame {
    pub fn new(time: u64, level: u8) -> Self {
        Self { time, level, comb: 0 }
    }

    fn luma(self, range: VideoColorRange) -> u8 {
        match range {
            VideoColorRange::Range0_255 => self.level,
            _ => (16.0 + f64::from(self.level) * 219.0 / 255.0).round() as u8,
        }
    }

    fn of(sample: &gst::Sample) -> Self {
        let buffer = sample.buffer().unwrap();
        let segment = sample.segment().unwrap().downcast_ref::<gst::ClockTime>().unwrap();
        let time = segment.to_running_time(buffer.pts().unwrap()).unwrap();
        let info = VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        let pixels = buffer.map_readable().unwrap();
        let level = |row: u32| {
            let luma = pixels[(row as i32 * info.stride()[0]) as usize + info.width() as usize / 2];
            match info.colorimetry().range() {
                VideoColorRange::Range0_255 => luma,
                _ => ((f64::from(luma) - 16.0) * 255.0 / 219.0).round() as u8,
            }
        };
        let comb = (1..info.height()).map(|row| level(row).abs_diff(level(row - 1))).max().unwrap();
        let half_a_millisecond = gst::ClockTime::from_useconds(500);
        Self { time: (time + half_a_millisecond).mseconds(), level: level(info.height() / 2), comb }
    }
}

/// Checks that a film shows these frames: all of them, at their times within a millisecond, with their levels within 2.
#[track_caller]
pub fn assert_frames(found: &[Frame], expected: &[Frame]) {
    let is_same = |(found, expected): (&Frame, &Frame)| {
        found.time.abs_diff(expected.time) <= 1 && found.level.abs_diff(expected.level) <= 2
    };
    let same = found.len() == expected.len() && found.iter().zip(expected).all(is_same);
    assert!(same, "found {found:?}\nexpected {expected:?}");
}

/// The program. Cargo neither tells where a package's examples are nor builds this one, which has tests of its own,
/// when it builds the tests.
fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let profile = env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--features", "tools", "--example", "stylize", "--target-dir"]);
        build.arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
        profile.join("examples/stylize")
    });
    &PROGRAM
}

/// Waits for the end of the program, but not for ever.
pub fn wait(child: Child) -> Output {
    let id = child.id();
    let (send, received) = mpsc::channel();
    thread::spawn(move || send.send(child.wait_with_output()));
    received.recv_timeout(LIMIT).map(Result::unwrap).unwrap_or_else(|_| {
        let _ = Command::new("kill").args(["-s", "KILL", &id.to_string()]).status();
        panic!("the program does not end");
    })
}

fn run(description: &str) {
    let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
    run_to_end(&pipeline, description);
}

/// Runs a pipeline to its end.
fn run_to_end(pipeline: &gst::Pipeline, what: &str) {
    let bus = pipeline.bus().unwrap();
    set_state(pipeline, gst::State::Playing).unwrap();
    let limit = gst::ClockTime::try_from(LIMIT).unwrap();
    let last = bus.timed_pop_filtered(limit, &[gst::MessageType::Eos, gst::MessageType::Error]);
    let last = last.unwrap_or_else(|| panic!("no end of {what}"));
    set_state(pipeline, gst::State::Null).unwrap();
    assert_eq!(last.type_(), gst::MessageType::Eos, "{what}: {last:?}");
}

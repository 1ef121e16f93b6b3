// SPDX-License-Identifier: MPL-2.0

//! The program behind `stylize.sh`, from file to file.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use gst::{glib, prelude::*};
use gst_pbutils::{Discoverer, DiscovererInfo};
use tempfile::TempDir;

const FAST: [&str; 3] = ["working-size=48", "iterations=1", "first-iterations=1"];
/// The largest count, so that a run lasts until it is stopped.
const ENDLESS: [&str; 3] = ["working-size=0", "iterations=10000", "first-iterations=10000"];
const INTERRUPTED: i32 = 130;

/// A directory with an input, where a test runs the program.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        gst::init().unwrap();
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a file with a pipeline whose last element is put here.
    fn make(&self, name: &str, pipeline: &str) {
        run(&format!("{pipeline} ! filesink location={}", self.path(name).display()), None);
    }

    /// Makes a clip of 5 frames and half a second of sound.
    fn make_clip(&self, name: &str, width: u32, height: u32) {
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

    fn start<T: AsRef<OsStr>>(&self, arguments: &[T], properties: &[&str]) -> Child {
        Command::new(program())
            .current_dir(self.0.path())
            .args(arguments)
            .arg("--")
            .args(properties)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn stylize<T: AsRef<OsStr>>(&self, arguments: &[T], properties: &[&str]) -> Output {
        self.start(arguments, properties).wait_with_output().unwrap()
    }

    /// Checks that a run failed, said why, and left nothing but what was there before.
    fn assert_fails(&self, arguments: &[&str], properties: &[&str], reason: &str) {
        let before = self.files();
        let output = self.stylize(arguments, properties);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(reason), "{message}");
        assert!(!message.contains("panicked"), "{message}");
        assert_eq!(self.files(), before);
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn discover(&self, name: &str) -> DiscovererInfo {
        let uri = glib::filename_to_uri(self.path(name), None).unwrap();
        Discoverer::new(gst::ClockTime::from_seconds(60)).unwrap().discover_uri(&uri).unwrap()
    }

    /// Decodes all frames of a video.
    fn count_frames(&self, name: &str) -> u64 {
        let uri = glib::filename_to_uri(self.path(name), None).unwrap();
        let count = Arc::new(AtomicU64::new(0));
        run(&format!("uridecodebin uri={uri} ! video/x-raw ! fakesink name=sink"), Some(count.clone()));
        count.load(Ordering::Relaxed)
    }
}

fn program() -> PathBuf {
    // Cargo tells the places of a package's binaries, but not of its examples.
    let profile = env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
    let program = profile.join("examples/stylize");
    assert!(program.is_file(), "{} is not there: cargo build --example stylize", program.display());
    program
}

/// Runs a pipeline to its end, and counts what comes to the element `sink`.
fn run(description: &str, count: Option<Arc<AtomicU64>>) {
    let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
    if let Some(count) = count {
        let pad = pipeline.by_name("sink").unwrap().static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    }
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let last = bus.timed_pop_filtered(gst::ClockTime::NONE, &[gst::MessageType::Eos, gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(last.unwrap().type_(), gst::MessageType::Eos, "{description}");
}

/// Runs a clip through, and checks that all but the picture stays.
fn assert_kept(output: &str, width: u32, height: u32) {
    let place = Place::new();
    place.make_clip("clip.mkv", width, height);
    let run = place.stylize(&["clip.mkv", output], &FAST);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(place.files(), [place.path("clip.mkv"), place.path(output)]);

    let info = place.discover(output);
    let [video] = &info.video_streams()[..] else { panic!("not one video stream") };
    assert_eq!((video.width(), video.height()), (width, height));
    assert_eq!(video.framerate(), gst::Fraction::new(10, 1));
    assert_eq!(video.par(), gst::Fraction::new(2, 1));
    assert_eq!(place.count_frames(output), 5);
    let [audio] = &info.audio_streams()[..] else { panic!("not one audio stream") };
    assert_eq!((audio.sample_rate(), audio.channels()), (48000, 2));
    let duration = info.duration().unwrap();
    // Audio encoders add some milliseconds.
    assert!((500..600).contains(&duration.mseconds()), "{duration}");
}

#[test]
fn keeps_size_rate_and_sound_in_mp4() {
    assert_kept("painted.mp4", 64, 48);
}

#[test]
fn keeps_odd_sizes_in_mp4() {
    assert_kept("painted.mp4", 65, 49);
}

#[test]
fn keeps_size_rate_and_sound_in_webm() {
    assert_kept("painted.webm", 65, 48);
}

#[test]
fn keeps_size_rate_and_sound_in_mkv() {
    assert_kept("painted.mkv", 64, 48);
}

#[test]
fn paints_video_without_sound() {
    let place = Place::new();
    place.make("clip.mp4", "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48 ! x264enc ! mp4mux");
    let run = place.stylize(&["clip.mp4", "painted.mp4"], &FAST);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(place.count_frames("painted.mp4"), 3);
    assert!(place.discover("painted.mp4").audio_streams().is_empty());
}

#[test]
fn paints_video_upright() {
    let place = Place::new();
    place.make("clip.mp4", "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48 ! x264enc ! mp4mux");
    // What a telephone held upright writes: the matrix of the track header (tkhd) turns the frames by 90 degrees.
    let matrix: Vec<u8> =
        [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x4000_0000].into_iter().flat_map(i32::to_be_bytes).collect();
    let mut clip = fs::read(place.path("clip.mp4")).unwrap();
    let start = clip.windows(4).position(|window| window == b"tkhd").unwrap() + 44;
    clip[start..start + matrix.len()].copy_from_slice(&matrix);
    fs::write(place.path("clip.mp4"), clip).unwrap();

    let run = place.stylize(&["clip.mp4", "painted.mp4"], &FAST);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let info = place.discover("painted.mp4");
    let [video] = &info.video_streams()[..] else { panic!("not one video stream") };
    assert_eq!((video.width(), video.height()), (48, 64));
}

#[test]
fn paints_a_picture() {
    let place = Place::new();
    place.make("photo.png", "videotestsrc num-buffers=1 ! video/x-raw,width=65,height=49 ! videoconvert ! pngenc");
    for output in ["painted.png", "painted.jpg"] {
        let run = place.stylize(&["photo.png", output], &FAST);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let picture = image::open(place.path(output)).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (65, 49));
        assert_ne!(picture, image::open(place.path("photo.png")).unwrap().to_rgb8());
    }
}

#[test]
fn paints_photos_upright() {
    let place = Place::new();
    image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([4 * x as u8, 5 * y as u8, 99]))
        .save(place.path("photo.jpg"))
        .unwrap();
    // What a telephone held upright writes: an EXIF segment whose only tag (0x0112) turns the picture by 90 degrees (6).
    let orientation = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let mut photo = fs::read(place.path("photo.jpg")).unwrap();
    photo.splice(2..2, orientation.iter().copied());
    // Even if its end, a marker, is missing.
    photo.truncate(photo.len() - 2);
    fs::write(place.path("photo.jpg"), photo).unwrap();
    let run = place.stylize(&["photo.jpg", "painted.png"], &FAST);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(image::image_dimensions(place.path("painted.png")).unwrap(), (48, 64));
}

#[test]
fn paints_one_frame_for_a_picture() {
    let place = Place::new();
    place.make_clip("clip.mkv", 64, 48);
    let run = place.stylize(&["clip.mkv", "painted.png"], &FAST);
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("Painted 1 frame:"), "{said}");
}

#[test]
fn keeps_the_first_size_when_it_changes() {
    let place = Place::new();
    let mut whole = Vec::new();
    for (name, size) in [("small.ts", "width=64,height=48"), ("large.ts", "width=128,height=72")] {
        let source = format!("videotestsrc num-buffers=5 ! video/x-raw,framerate=10/1,{size}");
        place.make(name, &format!("{source} ! x264enc ! mpegtsmux"));
        whole.extend(fs::read(place.path(name)).unwrap());
    }
    fs::write(place.path("clip.ts"), whole).unwrap();
    let run = place.stylize(&["clip.ts", "painted.mkv"], &FAST);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(place.count_frames("painted.mkv"), 10);
    let info = place.discover("painted.mkv");
    let [video] = &info.video_streams()[..] else { panic!("not one video stream") };
    assert_eq!((video.width(), video.height(), video.par()), (64, 48, gst::Fraction::new(1, 1)));
}

#[test]
fn replaces_an_earlier_output_only_when_done() {
    let place = Place::new();
    place.make_clip("clip.mkv", 64, 48);
    fs::write(place.path("painted.mp4"), "earlier").unwrap();
    place.assert_fails(&["clip.mkv", "painted.mp4"], &["style=no/such/picture.png"], "no/such/picture.png");
    assert_eq!(fs::read(place.path("painted.mp4")).unwrap(), b"earlier");
    assert!(place.stylize(&["clip.mkv", "painted.mp4"], &FAST).status.success());
    assert_eq!(place.count_frames("painted.mp4"), 5);
}

#[test]
fn refuses_wrong_properties() {
    let place = Place::new();
    place.make_clip("clip.mkv", 64, 48);
    for (property, reason) in [
        ("colour=red", "there is no property \"colour\""),
        ("stats=1", "there is no property \"stats\""),
        ("iterations", "not of the form"),
        ("iterations=many", "a whole number from 1 to"),
        ("iterations=1.5", "a whole number from 1 to"),
        ("iterations=0", "a whole number from 1 to"),
        ("iterations=-1", "a whole number from 1 to"),
        ("frame-budget=-2", "a whole number from -1 to"),
        ("strength=1.01", "a number from 0 to 1"),
        ("strength=nan", "a number from 0 to 1"),
        ("pooling=least", "one of max, average"),
        ("post-messages=perhaps", "true or false"),
    ] {
        place.assert_fails(&["clip.mkv", "painted.mp4"], &[property], reason);
        place.assert_fails(&["clip.mkv", "painted.mp4"], &[property], "first-iterations");
    }
}

#[test]
fn refuses_wrong_files() {
    let place = Place::new();
    place.make_clip("clip.mkv", 64, 48);
    place.make("sound.ogg", "audiotestsrc num-buffers=5 ! opusenc ! oggmux");
    fs::write(place.path("text.mp4"), "This is no video.\n").unwrap();
    fs::write(place.path("empty.mp4"), "").unwrap();
    fs::write(place.path("moving.gif"), b"GIF89a").unwrap();
    place.assert_fails(&["moving.gif", "painted.mp4"], &FAST, "no end in a GIF");
    place.assert_fails(&["missing.mp4", "painted.mp4"], &FAST, "missing.mp4");
    place.assert_fails(&["text.mp4", "painted.mp4"], &FAST, "text.mp4");
    place.assert_fails(&["empty.mp4", "painted.mp4"], &FAST, "empty.mp4");
    place.assert_fails(&[".", "painted.mp4"], &FAST, "directory");
    place.assert_fails(&["sound.ogg", "painted.mp4"], &FAST, "no video");
    place.make("tiny.mkv", "videotestsrc num-buffers=3 ! video/x-raw,width=16,height=10 ! vp9enc ! matroskamux");
    place.assert_fails(&["tiny.mkv", "painted.mp4"], &FAST, "the video is 16x10 pixels");
    place.assert_fails(&["clip.mkv", "painted.avi"], &FAST, "mp4, mkv, webm");
    place.assert_fails(&["clip.mkv", "missing/painted.mp4"], &FAST, "no directory missing");
}

#[test]
fn refuses_to_replace_the_input() {
    let place = Place::new();
    place.make_clip("clip.mkv", 64, 48);
    let before = fs::read(place.path("clip.mkv")).unwrap();
    place.assert_fails(&["clip.mkv", "./clip.mkv"], &FAST, "both INPUT and OUTPUT");
    assert_eq!(fs::read(place.path("clip.mkv")).unwrap(), before);
}

fn terminate(child: &Child) {
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
}

fn wait_for(condition: impl Fn() -> bool) {
    while !condition() {
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn leaves_nothing_when_interrupted() {
    let place = Place::new();
    // So many frames that the run is interrupted long before its end.
    place.make("clip.mkv", "videotestsrc num-buffers=2000 ! video/x-raw,width=64,height=48 ! x264enc ! matroskamux");
    let child = place.start(&["clip.mkv", "painted.mp4"], &["iterations=20", "first-iterations=1"]);
    wait_for(|| place.files().len() > 1);
    terminate(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(INTERRUPTED));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    assert_eq!(place.files(), [place.path("clip.mkv")]);
}

#[test]
fn stops_at_once_while_a_frame_is_painted() {
    let place = Place::new();
    place.make_clip("clip.mkv", 320, 180);
    let child = place.start(&["clip.mkv", "painted.mp4"], &ENDLESS);
    wait_for(|| place.files().len() > 1);
    terminate(&child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(INTERRUPTED));
    assert_eq!(place.files(), [place.path("clip.mkv")]);
}

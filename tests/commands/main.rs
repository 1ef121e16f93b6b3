// SPDX-License-Identifier: MPL-2.0

//! The program behind `stylize.sh`, from file to file.

mod films;
mod pictures;
mod place;
#[path = "../states/mod.rs"]
mod states;

use std::{
    fs,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use place::{FAST, LIMIT, Place};

/// The largest count, so that a run lasts until it is stopped.
const ENDLESS: [&str; 3] = ["working-size=0", "iterations=10000", "first-iterations=10000"];
const INTERRUPTED: i32 = 130;

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
    fs::write(place.path("empty.gif"), b"GIF89a").unwrap();
    fs::write(place.path("photo.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
    place.assert_fails(&["empty.gif", "painted.mp4"], &FAST, "empty.gif");
    place.assert_fails(&["photo.heic", "painted.mp4"], &FAST, "convert them");
    // As a recording that was cut off: its header would come last.
    fs::write(place.path("cut_off.mp4"), b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x10mdat12345678").unwrap();
    place.assert_fails(&["cut_off.mp4", "painted.mp4"], &FAST, "cut_off.mp4");
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
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "nothing happens");
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
    let output = place::wait(child);
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
    assert_eq!(place::wait(child).status.code(), Some(INTERRUPTED));
    assert_eq!(place.files(), [place.path("clip.mkv")]);
}

// SPDX-License-Identifier: MPL-2.0

//! The element when it stops: nothing waits for long, and nothing is left. One test at a time, as threads are counted.

mod states;

use std::{
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use gst::prelude::*;

use states::set_state;

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn launch(line: &str) -> (gst::Pipeline, gst::Element) {
    let pipeline = gst::parse::launch(line).unwrap().downcast::<gst::Pipeline>().unwrap();
    let painter = pipeline.by_name("painter").unwrap();
    (pipeline, painter)
}

fn init() {
    gst::init().unwrap();
    gstneuralstyle::plugin_register_static().unwrap();
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waiting in vain until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_flush_does_not_undo_a_stop() {
    let _guard = ONE_AT_A_TIME.lock();
    init();
    // The frame would take minutes.
    let (pipeline, painter) = launch(
        "videotestsrc ! video/x-raw,format=RGB,width=160,height=120 ! neuralstyle name=painter first-iterations=10000 \
         ! fakesink",
    );
    let (begin, begun) = mpsc::channel();
    let src = painter.static_pad("src").unwrap();
    painter.static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |sink, _| {
        // The stop deactivates the src pad first, and waits for this lock. Then the flush ends, and the frame begins.
        let lock = src.stream_lock();
        let _ = begin.send(());
        wait_until("the stop begins", || src.pad_flags().contains(gst::PadFlags::FLUSHING));
        sink.send_event(gst::event::FlushStop::new(true));
        drop(lock);
        gst::PadProbeReturn::Ok
    });
    set_state(&pipeline, gst::State::Playing).unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    set_state(&pipeline, gst::State::Null).unwrap();
}

/// Linux tells what threads there are.
#[cfg(target_os = "linux")]
#[test]
fn no_preparation_outlives_a_stop() {
    let _guard = ONE_AT_A_TIME.lock();
    init();
    let directory = tempfile::tempdir().unwrap();
    let style = directory.path().join("large.png");
    // It takes long to load.
    let picture = image::RgbImage::from_fn(4000, 4000, |x, y| image::Rgb([x, y, x ^ y].map(|it| (it % 251) as u8)));
    picture.save(&style).unwrap();
    let preparations = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        // The system cuts names short.
        names.filter(|name| name.starts_with("neuralstyle-loa")).count()
    };
    let (pipeline, painter) = launch(
        "videotestsrc is-live=true ! video/x-raw,format=RGB,width=48,height=32,framerate=20/1 \
         ! neuralstyle name=painter first-iterations=2 ! fakesink sync=true",
    );
    set_state(&pipeline, gst::State::Playing).unwrap();
    wait_until("a frame is painted", || painter.property::<gst::Structure>("stats").n_fields() > 0);
    painter.set_property("style", style.to_str());
    wait_until("a preparation begins", || preparations() > 0);
    set_state(&pipeline, gst::State::Null).unwrap();
    assert_eq!(preparations(), 0);
}

#[test]
fn a_style_that_is_no_file_does_not_hold_up_a_stop() {
    let _guard = ONE_AT_A_TIME.lock();
    init();
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (pipeline, painter) = launch(
        "videotestsrc is-live=true ! video/x-raw,format=RGB,width=48,height=32,framerate=20/1 \
         ! neuralstyle name=painter first-iterations=2 ! fakesink sync=true",
    );
    set_state(&pipeline, gst::State::Playing).unwrap();
    wait_until("a frame is painted", || painter.property::<gst::Structure>("stats").n_fields() > 0);
    painter.set_property("style", pipe.to_str());
    let bus = pipeline.bus().unwrap();
    let warning = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Warning]);
    let text = match warning.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Warning(warning)) => warning.error().to_string(),
        _ => panic!("no warning"),
    };
    assert!(text.contains("regular file"), "{text}");
    set_state(&pipeline, gst::State::Null).unwrap();
}

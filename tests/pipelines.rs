// SPDX-License-Identifier: MPL-2.0

//! The element in whole pipelines: ends, seeks, restarts, and bad input.

mod states;

use std::{
    sync::{Once, mpsc},
    thread,
    time::Duration,
};

use gst::prelude::*;
use gstneuralstyle::processor::{self, Precision};

use states::set_state;

fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstneuralstyle::plugin_register_static().unwrap();
    });
}

/// Few and shallow: what an iteration does is tested elsewhere.
const QUICK: &str = "iterations=1 first-iterations=2 style-layers=relu1_1 content-layers=relu2_1";

/// A pipeline that says nothing for so long has no end.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(120);

/// Waits until a pipeline ends well, or not.
fn last_message(pipeline: &gst::Element) -> gst::MessageType {
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    pipeline.bus().unwrap().timed_pop_filtered(PATIENCE, &ends).expect("no end").type_()
}

/// Runs a pipeline to its end and returns the error it stopped with, if any, and the warnings on the way.
fn run(description: &str) -> (Option<String>, Vec<String>) {
    init();
    let pipeline = gst::parse::launch(description).unwrap();
    let bus = pipeline.bus().unwrap();
    // A failing change of state is on the bus too.
    let _ = set_state(&pipeline, gst::State::Playing);
    let mut warnings = Vec::new();
    let outcome = loop {
        let message = bus.timed_pop(PATIENCE).unwrap_or_else(|| panic!("no end of {description}"));
        match message.view() {
            gst::MessageView::Eos(_) => break None,
            gst::MessageView::Warning(warning) => warnings.push(warning.error().to_string()),
            gst::MessageView::Error(error) => break Some(error.error().to_string()),
            _ => (),
        }
    };
    set_state(&pipeline, gst::State::Null).unwrap();
    (outcome, warnings)
}

fn error_of(properties: &str) -> String {
    let source = "videotestsrc num-buffers=2 ! video/x-raw,format=RGB,width=32,height=24";
    let (error, _) = run(&format!("{source} ! neuralstyle iterations=1 first-iterations=1 {properties} ! fakesink"));
    error.unwrap_or_else(|| panic!("{properties} is accepted"))
}

#[test]
fn bad_input_stops_the_pipeline_with_its_own_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let text = file("text.png", b"this is no picture");
    let dot = directory.path().join("dot.png");
    image::RgbImage::new(1, 1).save(&dot).unwrap();
    let mut cases = vec![
        (format!("style={}/none.png", directory.path().display()), vec!["none.png", "nocturne"]),
        (format!("style={text}"), vec!["text.png", "PNG"]),
        (format!("style={}", dot.display()), vec!["dot.png", "1x1", "16x16"]),
        (format!("weights={}/none.safetensors", directory.path().display()), vec!["none.safetensors"]),
        (format!("weights={text}"), vec!["text.png", "safetensors"]),
        ("style-layers=relu1_1,relu7_7".to_owned(), vec!["\"relu7_7\""]),
        ("content-layers=relu5_1".to_owned(), vec!["content-layers", "relu5_1", "relu4_3"]),
        ("working-size=9".to_owned(), vec!["working-size is 9"]),
        ("device=tpu".to_owned(), vec!["\"tpu\"", "cpu"]),
    ];
    if processor::available().all(|kind| kind.precision() != Precision::Bf16) {
        cases.push(("precision=bf16".to_owned(), vec!["precision is bf16", "auto or f32", "AMX"]));
    }
    for (properties, mentioned) in cases {
        let error = error_of(&properties);
        assert!(mentioned.iter().all(|word| error.contains(word)), "{properties}: {error}");
    }
}

#[test]
fn a_working_size_too_small_for_the_frame_is_raised_with_a_warning() {
    // At 16x1 pixels relu4_3 would see nothing: it needs 8 rows.
    let (error, warnings) = run("videotestsrc num-buffers=3 ! video/x-raw,width=640,height=24 \
         ! neuralstyle working-size=16 iterations=1 first-iterations=1 ! fakesink");
    assert_eq!(error, None);
    assert!(matches!(&warnings[..], [warning] if warning.contains("raised to 214")), "{warnings:?}");
}

#[test]
fn frames_smaller_than_sixteen_pixels_are_not_negotiated() {
    init();
    for size in ["width=15,height=16", "width=16,height=15"] {
        let description = format!("videotestsrc ! capsfilter caps=video/x-raw,{size} ! neuralstyle ! fakesink");
        assert!(gst::parse::launch(&description).is_err(), "{size}");
    }
}

#[test]
fn odd_streams_reach_their_end() {
    for description in [
        // Caps that change in mid-stream.
        format!(
            "concat name=c ! neuralstyle {QUICK} ! fakesink \
             videotestsrc num-buffers=2 ! video/x-raw,format=RGB,width=32,height=24 ! c. \
             videotestsrc num-buffers=2 ! video/x-raw,format=RGBA,width=17,height=31 ! c."
        ),
        // The end before the first frame.
        format!("videotestsrc num-buffers=0 ! neuralstyle {QUICK} ! fakesink"),
        // A still.
        format!(
            "videotestsrc num-buffers=1 ! video/x-raw,format=BGR,width=16,height=16,framerate=0/1 \
             ! neuralstyle {QUICK} ! fakesink"
        ),
    ] {
        assert_eq!(run(&description), (None, vec![]), "{description}");
    }
}

#[test]
fn no_frame_is_lost_or_doubled() {
    init();
    let pipeline = gst::parse::launch(&format!(
        // The sink is in a hurry, and videoconvert would drop what it tells of as late.
        "videotestsrc num-buffers=12 pattern=ball ! video/x-raw,width=32,height=24,framerate=200/1 ! videoconvert \
         ! neuralstyle {QUICK} iterations=20 ! fakesink name=sink sync=true qos=true"
    ))
    .unwrap();
    let sink = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("sink").unwrap();
    let frames = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = frames.clone();
    sink.static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        seen.lock().unwrap().push(info.buffer().unwrap().pts().unwrap());
        gst::PadProbeReturn::Ok
    });
    set_state(&pipeline, gst::State::Playing).unwrap();
    assert_eq!(last_message(&pipeline), gst::MessageType::Eos);
    set_state(&pipeline, gst::State::Null).unwrap();
    let expected: Vec<_> = (0..12).map(|n| gst::ClockTime::from_mseconds(5 * n)).collect();
    assert_eq!(*frames.lock().unwrap(), expected);
}

#[test]
fn a_flush_and_a_stop_break_off_a_frame() {
    init();
    // It would take minutes.
    let source = "videotestsrc ! video/x-raw,width=160,height=120";
    let painter = "neuralstyle name=painter first-iterations=10000";
    let pipeline = gst::parse::launch(&format!("{source} ! {painter} ! fakesink")).unwrap();
    let painter = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("painter").unwrap();
    let (begin, begun) = mpsc::channel();
    painter.static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        begin.send(()).unwrap();
        gst::PadProbeReturn::Ok
    });
    let patience = Duration::from_secs(60);
    set_state(&pipeline, gst::State::Playing).unwrap();
    begun.recv_timeout(patience).unwrap();
    let (finish, finished) = mpsc::channel();
    thread::spawn(move || {
        pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO).unwrap();
        begun.recv_timeout(patience).unwrap();
        let errors = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
        set_state(&pipeline, gst::State::Null).unwrap();
        finish.send(errors.is_none()).unwrap();
    });
    assert_eq!(finished.recv_timeout(patience), Ok(true));
}

#[test]
fn it_can_be_sought_stopped_and_started_again() {
    init();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=20 ! video/x-raw,width=32,height=24,framerate=25/1 ! neuralstyle {QUICK} ! fakesink"
    ))
    .unwrap();
    set_state(&pipeline, gst::State::Paused).unwrap();
    assert_eq!(pipeline.state(PATIENCE).0, Ok(gst::StateChangeSuccess::Success));
    pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::from_mseconds(200)).unwrap();
    set_state(&pipeline, gst::State::Playing).unwrap();
    assert_eq!(last_message(&pipeline), gst::MessageType::Eos);
    for _ in 0..2 {
        set_state(&pipeline, gst::State::Null).unwrap();
        set_state(&pipeline, gst::State::Playing).unwrap();
        assert_eq!(last_message(&pipeline), gst::MessageType::Eos);
    }
    set_state(&pipeline, gst::State::Null).unwrap();
}

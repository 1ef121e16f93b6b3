// SPDX-License-Identifier: MPL-2.0

//! The element behind live sources.

mod states;

use std::time::{Duration, Instant};

use gst::prelude::*;

use states::set_state;

/// How long anything may take before it counts as hanging.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// Starts a pipeline, and returns it with the element message of the first frame.
fn play(source: &str, properties: &str) -> (gst::Pipeline, gst::Message) {
    play_frames("width=48,height=32,framerate=20/1", source, properties)
}

/// The same with other caps.
fn play_frames(frames: &str, source: &str, properties: &str) -> (gst::Pipeline, gst::Message) {
    gst::init().unwrap();
    gstneuralstyle::plugin_register_static().unwrap();
    let caps = format!("video/x-raw,format=RGB,{frames}");
    let line =
        format!("{source} ! {caps} ! neuralstyle name=painter post-messages=true {properties} ! fakesink sync=true");
    let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
    set_state(&pipeline, gst::State::Playing).unwrap();
    let first = wait(&pipeline, gst::MessageType::Element);
    (pipeline, first)
}

fn wait(pipeline: &gst::Pipeline, kind: gst::MessageType) -> gst::Message {
    let message = pipeline.bus().unwrap().timed_pop_filtered(PATIENCE, &[kind, gst::MessageType::Error]);
    let message = message.expect("the pipeline hangs");
    assert_eq!(message.type_(), kind, "{message:?}");
    message
}

/// Waits for an element message with the wanted number.
fn wait_for(pipeline: &gst::Pipeline, field: &str, wanted: impl Fn(u64) -> bool) {
    let started = Instant::now();
    while !wanted(number(&wait(pipeline, gst::MessageType::Element), field)) {
        assert!(started.elapsed() < PATIENCE.into(), "{field} does not change");
    }
}

/// Waits for an element message with a number above zero, of those that are 32 bits wide.
fn wait_for_some(pipeline: &gst::Pipeline, field: &str) {
    let started = Instant::now();
    while wait(pipeline, gst::MessageType::Element).structure().unwrap().get::<u32>(field).unwrap() == 0 {
        assert!(started.elapsed() < PATIENCE.into(), "{field} stays 0");
    }
}

fn number(message: &gst::Message, field: &str) -> u64 {
    message.structure().unwrap().get(field).unwrap()
}

/// Whether the pipeline is live, and its latency.
fn latency(pipeline: &gst::Pipeline) -> (bool, Duration) {
    let mut query = gst::query::Latency::new();
    assert!(pipeline.by_name("painter").unwrap().static_pad("src").unwrap().query(&mut query));
    let (live, min, _) = query.result();
    (live, min.into())
}

#[test]
fn live_sources_are_told_the_latency() {
    let (pipeline, _) = play("videotestsrc is-live=true", "first-iterations=2");
    let (live, with) = latency(&pipeline);
    assert!(live);
    let painter = pipeline.by_name("painter").unwrap();
    for (budget, own) in [(0_i64, 0), (20_000_000, 20), (-1, 50)] {
        while pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Latency]).is_some() {}
        painter.set_property("frame-budget", budget);
        wait(&pipeline, gst::MessageType::Latency);
        assert_eq!(latency(&pipeline).1 + Duration::from_millis(50), with + Duration::from_millis(own), "{budget}");
    }
    set_state(&pipeline, gst::State::Null).unwrap();
}

#[test]
fn a_live_picture_does_not_wait_for_the_first_iterations() {
    let (pipeline, first) = play("videotestsrc is-live=true", "first-iterations=10000");
    let field = |name| first.structure().unwrap().value(name).unwrap().to_owned();
    assert_eq!(field("frame").get::<u64>().unwrap(), 0);
    assert!(field("iterations").get::<u32>().unwrap() < 10_000);
    wait_for_some(&pipeline, "iterations");
    set_state(&pipeline, gst::State::Null).unwrap();
}

#[test]
fn recorded_frames_have_a_fixed_number_of_iterations() {
    let (pipeline, _) = play("videotestsrc num-buffers=4", "first-iterations=5 iterations=2");
    let mut upstream = gst::query::Latency::new();
    assert!(pipeline.by_name("painter").unwrap().static_pad("sink").unwrap().peer_query(&mut upstream));
    assert_eq!(latency(&pipeline), (false, upstream.result().1.into()));
    for _ in 0..3 {
        let message = wait(&pipeline, gst::MessageType::Element);
        assert_eq!(message.structure().unwrap().get::<u32>("iterations").unwrap(), 2);
    }
    wait(&pipeline, gst::MessageType::Eos);
    set_state(&pipeline, gst::State::Null).unwrap();
}

#[test]
fn live_styles_change_while_frames_go_on() {
    let (pipeline, _) = play("videotestsrc is-live=true", "first-iterations=2 style-transition=100");
    let painter = pipeline.by_name("painter").unwrap();
    painter.set_property("style", "glass");
    wait_for(&pipeline, "style-updates", |updates| updates == 2);
    painter.set_property("style", "/no/such/picture.png");
    let bus = pipeline.bus().unwrap();
    let message = bus.timed_pop_filtered(PATIENCE, &[gst::MessageType::Warning, gst::MessageType::Error]).unwrap();
    let gst::MessageView::Warning(warning) = message.view() else { panic!("{message:?}") };
    assert!(warning.error().message().contains("/no/such/picture.png"), "{message:?}");
    assert_eq!(number(&wait(&pipeline, gst::MessageType::Element), "style-updates"), 2);
    // The next style can be used all the same.
    painter.set_property("style", "woodcut");
    wait_for(&pipeline, "style-updates", |updates| updates == 3);
    set_state(&pipeline, gst::State::Null).unwrap();
}

#[test]
fn live_layers_and_sizes_change_while_frames_go_on() {
    let (pipeline, _) = play_frames("width=96,height=64,framerate=20/1", "videotestsrc is-live=true", "");
    let painter = pipeline.by_name("painter").unwrap();
    painter.set_property("working-size", 48);
    wait_for(&pipeline, "working-size", |size| size == 48);
    painter.set_property("style-layers", "relu1_1,relu2_1");
    painter.set_property("style", "glass");
    wait_for(&pipeline, "style-updates", |updates| updates == 3);
    set_state(&pipeline, gst::State::Null).unwrap();
}

#[test]
fn a_working_size_that_fits_the_machine_is_for_live_frames() {
    let frames = "width=320,height=180,framerate=100/1";
    let (pipeline, first) = play_frames(frames, "videotestsrc is-live=true", "working-size=-1 frame-budget=1");
    assert!((64..=320).contains(&number(&first, "working-size")));
    // No machine is fast enough for more.
    wait_for(&pipeline, "working-size", |size| size == 64);
    let caps = pipeline.by_name("painter").unwrap().static_pad("src").unwrap().current_caps().unwrap();
    let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
    assert_eq!((info.width(), info.height()), (320, 180));
    set_state(&pipeline, gst::State::Null).unwrap();

    let recorded = "working-size=-1 first-iterations=1 style-layers=relu1_1 content-layers=relu2_1";
    let (pipeline, first) = play_frames(frames, "videotestsrc num-buffers=1", recorded);
    assert_eq!(number(&first, "working-size"), 320);
    set_state(&pipeline, gst::State::Null).unwrap();
}

#[test]
fn live_sources_get_the_light_network_and_others_vgg16() {
    for (source, properties, network) in [
        ("videotestsrc is-live=true", "", "light"),
        ("videotestsrc is-live=true", "device=llvmpipe working-size=32 first-iterations=1", "light"),
        ("videotestsrc is-live=true", "network=vgg16", "vgg16"),
        ("videotestsrc num-buffers=1", "first-iterations=1", "vgg16"),
        ("videotestsrc num-buffers=1", "first-iterations=1 network=light", "light"),
        // Only its caps tell that it is live.
        ("videotestsrc is-live=true ! queue", "", "light"),
    ] {
        let (pipeline, first) = play(source, properties);
        assert_eq!(first.structure().unwrap().get::<&str>("network").unwrap(), network, "{source} {properties}");
        set_state(&pipeline, gst::State::Null).unwrap();
    }
}

#[test]
fn live_frames_go_on_after_a_pause_and_a_stop() {
    let (pipeline, _) = play("videotestsrc is-live=true", "first-iterations=2");
    for state in [gst::State::Paused, gst::State::Null] {
        set_state(&pipeline, state).unwrap();
        while pipeline.bus().unwrap().pop().is_some() {}
        set_state(&pipeline, gst::State::Playing).unwrap();
        wait_for(&pipeline, "frame", |frame| frame > 2);
    }
    set_state(&pipeline, gst::State::Null).unwrap();
}

// SPDX-License-Identifier: MPL-2.0

//! Frames that have to be painted in time, while styles change.

use std::{sync::Arc, time::Duration};

use gst::prelude::*;
use gstneuralstyle::{
    Processor,
    objective::Device,
    style,
    stylizer::{Image, Settings, Stylizer},
    vgg::Vgg,
};

/// How long anything may take before it counts as hanging.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(60);

fn stylizer() -> Stylizer {
    let settings = Settings { first_iterations: 5, iterations: 2, ..Settings::default() };
    let (weights, processor) = (Arc::new(Vgg::built_in().unwrap()), Processor::detect(2).unwrap());
    let mut stylizer = Stylizer::new(weights, Device::Cpu, processor, settings).unwrap();
    stylizer.set_style(style::load("glass").unwrap()).unwrap();
    stylizer
}

fn hills(x: f32) -> Image {
    let level = |n: usize| {
        let (x, y) = ((n % 48) as f32 - x, (n / 48 % 32) as f32);
        128.0 + 50.0 * (0.31 * x + 0.12 * y).sin() + 40.0 * (0.27 * y - 0.09 * x).cos()
    };
    Image::from_planes(48, 32, (0..3 * 48 * 32).map(level).collect()).unwrap()
}

#[test]
fn with_time_enough_nothing_changes() {
    let (mut free, mut timed) = (stylizer(), stylizer());
    for x in [0.0, 1.0, 2.0] {
        let (expected, report) = free.stylize(&hills(x)).unwrap();
        let (painted, timed) = timed.stylize_within(&hills(x), Duration::from_secs(1000)).unwrap();
        assert_eq!(timed.iterations, report.iterations);
        assert!(painted == expected, "frame {}", report.frame);
    }
}

#[test]
fn without_time_there_is_still_paint() {
    let mut stylizer = stylizer();
    let mut iterations = |frame: &Image, budget: Duration| {
        let (painted, report) = stylizer.stylize_within(frame, budget).unwrap();
        (painted, report.iterations)
    };
    // A first frame gets some, and so does any frame that has the least time.
    assert_eq!(iterations(&hills(0.0), Duration::ZERO).1, 1);
    let (first, count) = iterations(&hills(0.0), Duration::from_nanos(1));
    assert_eq!(count, 1);
    let (second, count) = iterations(&hills(0.0), Duration::ZERO);
    assert_eq!(count, 0);
    let gap = |a: &Image, b: &Image| a.data().iter().zip(b.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(gap(&first, &second) < 0.1, "{}", gap(&first, &second));
    assert!(gap(&first, &hills(0.0)) > 10.0);
    assert_eq!(iterations(&hills(1.0), Duration::from_secs(1000)).1, 2);
}

#[test]
fn a_style_crosses_into_the_next() {
    // What comes after a change of style that has come so far.
    let painted = |style: &str, share: f64| {
        let mut stylizer = stylizer();
        stylizer.stylize(&hills(0.0)).unwrap();
        stylizer.set_style(style::load(style).unwrap()).unwrap();
        stylizer.set_style_share(share).unwrap();
        stylizer.stylize(&hills(0.0)).unwrap().0
    };
    let (last, half, new) = (painted("glass", 1.0), painted("woodcut", 0.5), painted("woodcut", 1.0));
    assert!(painted("woodcut", 0.0) == last);
    assert!(half != last && half != new && new != last);

    // A change on the way begins where that has come to.
    let mut stylizer = stylizer();
    stylizer.stylize(&hills(0.0)).unwrap();
    for (name, share) in [("woodcut", 0.5), ("nocturne", 0.0)] {
        stylizer.set_style(style::load(name).unwrap()).unwrap();
        stylizer.set_style_share(share).unwrap();
    }
    assert!(stylizer.stylize(&hills(0.0)).unwrap().0 == half);
}

/// A pipeline with a sink that is called "sink", playing.
fn play(source: &str, properties: &str) -> gst::Pipeline {
    gst::init().unwrap();
    gstneuralstyle::plugin_register_static().unwrap();
    let caps = "video/x-raw,format=RGB,width=48,height=32,framerate=20/1";
    let line = format!(
        "{source} ! {caps} ! neuralstyle name=painter post-messages=true {properties} ! fakesink name=sink sync=true"
    );
    let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    wait(&pipeline, gst::MessageType::Element);
    pipeline
}

fn wait(pipeline: &gst::Pipeline, kind: gst::MessageType) -> gst::Message {
    let message = pipeline.bus().unwrap().timed_pop_filtered(PATIENCE, &[kind, gst::MessageType::Error]);
    let message = message.expect("the pipeline hangs");
    assert_eq!(message.type_(), kind, "{message:?}");
    message
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
    let pipeline = play("videotestsrc is-live=true", "first-iterations=2");
    let (live, with) = latency(&pipeline);
    assert!(live);
    let painter = pipeline.by_name("painter").unwrap();
    for (budget, own) in [(0_i64, 0), (20_000_000, 20), (-1, 50)] {
        while pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Latency]).is_some() {}
        painter.set_property("frame-budget", budget);
        wait(&pipeline, gst::MessageType::Latency);
        assert_eq!(latency(&pipeline).1 + Duration::from_millis(50), with + Duration::from_millis(own), "{budget}");
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_live_picture_does_not_wait_for_the_first_iterations() {
    let pipeline = play("videotestsrc is-live=true", "first-iterations=10000");
    let iterations = |message: &gst::Message| message.structure().unwrap().get::<u32>("iterations").unwrap();
    assert!(iterations(&wait(&pipeline, gst::MessageType::Element)) < 10_000);
    let stats = pipeline.by_name("painter").unwrap().property::<gst::Structure>("stats");
    assert!(stats.get::<u32>("iterations").unwrap() < 10_000);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn recorded_frames_have_a_fixed_number_of_iterations() {
    let pipeline = play("videotestsrc num-buffers=4", "first-iterations=5 iterations=2");
    let mut upstream = gst::query::Latency::new();
    assert!(pipeline.by_name("painter").unwrap().static_pad("sink").unwrap().peer_query(&mut upstream));
    assert_eq!(latency(&pipeline), (false, upstream.result().1.into()));
    for _ in 0..3 {
        let message = wait(&pipeline, gst::MessageType::Element);
        assert_eq!(message.structure().unwrap().get::<u32>("iterations").unwrap(), 2);
    }
    wait(&pipeline, gst::MessageType::Eos);
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn live_styles_change_while_frames_go_on() {
    let pipeline = play("videotestsrc is-live=true", "first-iterations=2 style-transition=100");
    let painter = pipeline.by_name("painter").unwrap();
    painter.set_property("style", "glass");
    let updates = |message: &gst::Message| message.structure().unwrap().get::<u64>("style-updates").unwrap();
    while updates(&wait(&pipeline, gst::MessageType::Element)) < 2 {}
    painter.set_property("style", "/no/such/picture.png");
    let bus = pipeline.bus().unwrap();
    let warning = bus.timed_pop_filtered(PATIENCE, &[gst::MessageType::Warning, gst::MessageType::Error]).unwrap();
    assert_eq!(warning.type_(), gst::MessageType::Warning, "{warning:?}");
    assert_eq!(updates(&wait(&pipeline, gst::MessageType::Element)), 2);
    pipeline.set_state(gst::State::Null).unwrap();
}

// SPDX-License-Identifier: MPL-2.0

//! The element frame by frame: formats, sizes, timestamps, history, and properties.

mod states;

use std::{
    process::Command,
    sync::{Once, mpsc},
    thread,
    time::{Duration, Instant},
};

use gst::prelude::*;
use gst_video::VideoFormat;
use gstneuralstyle::{
    element::{self, NeuralStyle},
    stylizer::Settings,
};

use states::set_state;

fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstneuralstyle::plugin_register_static().unwrap();
    });
}

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_CLOCK: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// Few iterations and shallow layers: what an iteration does is tested elsewhere. The harness is a live source: without a
/// budget the number of iterations is fixed all the same.
const QUICK: &str = "iterations=1 first-iterations=2 style-layers=relu1_1 content-layers=relu2_1 frame-budget=0";

fn harness(properties: &str) -> gst_check::Harness {
    init();
    let mut harness = gst_check::Harness::new_parse(&format!("neuralstyle {QUICK} {properties}"));
    harness.play();
    harness
}

fn element(harness: &gst_check::Harness) -> gst::Element {
    let bin = harness.element().unwrap();
    match bin.downcast::<gst::Bin>() {
        Ok(bin) => bin.children().into_iter().next().unwrap(),
        Err(element) => element,
    }
}

fn info(format: VideoFormat, width: u32, height: u32, fps: i32) -> gst_video::VideoInfo {
    gst_video::VideoInfo::builder(format, width, height).fps(gst::Fraction::new(fps, 1)).build().unwrap()
}

/// A frame in which neighbouring bytes differ, alpha included.
fn frame(info: &gst_video::VideoInfo, seed: usize) -> gst::Buffer {
    let bytes: Vec<u8> = (0..info.size()).map(|n| ((n * 31 + (n / 97) * 17 + seed * 5) % 256) as u8).collect();
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    let writable = buffer.get_mut().unwrap();
    writable.set_pts(gst::ClockTime::from_mseconds(40 * seed as u64));
    writable.set_duration(gst::ClockTime::from_mseconds(40));
    writable.set_offset(seed as u64);
    buffer
}

fn bytes(buffer: &gst::BufferRef) -> Vec<u8> {
    buffer.map_readable().unwrap().to_vec()
}

fn set_caps(harness: &mut gst_check::Harness, info: &gst_video::VideoInfo) {
    harness.set_src_caps(info.to_caps().unwrap());
}

fn iterations(harness: &gst_check::Harness) -> u32 {
    element(harness).property::<gst::Structure>("stats").get("iterations").unwrap()
}

#[test]
fn every_format_is_painted_and_alpha_stays() {
    let mut reference: Option<Vec<[u8; 3]>> = None;
    for (format, colours, alpha) in [
        (VideoFormat::Rgb, [0, 1, 2], None),
        (VideoFormat::Bgr, [2, 1, 0], None),
        (VideoFormat::Rgbx, [0, 1, 2], Some(3)),
        (VideoFormat::Xrgb, [1, 2, 3], Some(0)),
        (VideoFormat::Bgrx, [2, 1, 0], Some(3)),
        (VideoFormat::Xbgr, [3, 2, 1], Some(0)),
        (VideoFormat::Rgba, [0, 1, 2], Some(3)),
        (VideoFormat::Argb, [1, 2, 3], Some(0)),
        (VideoFormat::Bgra, [2, 1, 0], Some(3)),
        (VideoFormat::Abgr, [3, 2, 1], Some(0)),
    ] {
        let mut harness = harness("");
        // A width that is not a multiple of four: rows of three bytes a pixel are padded.
        let info = info(format, 19, 17, 25);
        set_caps(&mut harness, &info);
        let (stride, pixel) = (info.stride()[0] as usize, if alpha.is_some() { 4 } else { 3 });
        let mut buffer = frame(&info, 0);
        // The same picture in every format.
        let at = |x: usize, y: usize, byte: usize| y * stride + x * pixel + byte;
        {
            let mut map = buffer.get_mut().unwrap().map_writable().unwrap();
            for (x, y) in (0..17).flat_map(|y| (0..19).map(move |x| (x, y))) {
                for (colour, byte) in colours.into_iter().enumerate() {
                    map[at(x, y, byte)] = ((x * 13 + y * 7) * (colour + 1) % 256) as u8;
                }
            }
        }
        let before = bytes(&buffer);
        let after = bytes(&harness.push_and_pull(buffer).unwrap());
        assert_eq!(after.len(), before.len());
        let mut picture = Vec::new();
        for (x, y) in (0..17).flat_map(|y| (0..19).map(move |x| (x, y))) {
            picture.push(colours.map(|byte| after[at(x, y, byte)]));
            if let Some(byte) = alpha {
                assert_eq!(after[at(x, y, byte)], before[at(x, y, byte)], "{format:?} {x} {y}");
            }
        }
        for y in 0..16 {
            assert_eq!(after[at(19, y, 0)..at(0, y + 1, 0)], before[at(19, y, 0)..at(0, y + 1, 0)], "{format:?}");
        }
        assert_ne!(after, before, "{format:?}");
        assert_eq!(&picture, reference.get_or_insert_with(|| picture.clone()), "{format:?}");
    }
}

#[test]
fn rows_may_be_padded_by_a_video_meta() {
    let mut harness = harness("");
    let info = info(VideoFormat::Rgba, 20, 18, 25);
    set_caps(&mut harness, &info);
    let tight = bytes(&harness.push_and_pull(frame(&info, 0)).unwrap());

    let stride = 20 * 4 + 52;
    let source = bytes(&frame(&info, 0));
    let mut padded = vec![0xa5; stride * 18];
    for (row, target) in source.chunks(80).zip(padded.chunks_mut(stride)) {
        target[..80].copy_from_slice(row);
    }
    let mut buffer = gst::Buffer::from_mut_slice(padded);
    let writable = buffer.get_mut().unwrap();
    writable.set_flags(gst::BufferFlags::DISCONT);
    gst_video::VideoMeta::add_full(
        writable,
        gst_video::VideoFrameFlags::empty(),
        VideoFormat::Rgba,
        20,
        18,
        &[0],
        &[stride as i32],
    )
    .unwrap();
    let output = harness.push_and_pull(buffer).unwrap();
    let output = bytes(&output);
    for (row, expected) in output.chunks(stride).zip(tight.chunks(80)) {
        assert_eq!(&row[..80], expected);
        assert!(row[80..].iter().all(|&byte| byte == 0xa5));
    }
}

#[test]
fn timestamps_flags_and_metas_pass_through() {
    let mut harness = harness("");
    let info = info(VideoFormat::Bgrx, 16, 16, 25);
    set_caps(&mut harness, &info);
    let caps = gst::Caps::builder("timestamp/x-test").build();
    for seed in 0..4 {
        let mut buffer = frame(&info, seed);
        let writable = buffer.get_mut().unwrap();
        writable.set_flags(gst::BufferFlags::MARKER);
        gst::ReferenceTimestampMeta::add(writable, &caps, gst::ClockTime::from_seconds(seed as u64), None);
        let output = harness.push_and_pull(buffer).unwrap();
        assert_eq!(output.pts(), Some(gst::ClockTime::from_mseconds(40 * seed as u64)));
        assert_eq!(output.duration(), Some(gst::ClockTime::from_mseconds(40)));
        assert_eq!(output.offset(), seed as u64);
        assert!(output.flags().contains(gst::BufferFlags::MARKER));
        let meta = output.meta::<gst::ReferenceTimestampMeta>().unwrap();
        assert_eq!(meta.timestamp(), gst::ClockTime::from_seconds(seed as u64));
    }
}

#[test]
fn without_strength_frames_come_out_as_they_went_in() {
    let mut harness = harness("strength=0 working-size=16");
    let info = info(VideoFormat::Rgb, 33, 21, 25);
    set_caps(&mut harness, &info);
    for seed in 0..2 {
        let buffer = frame(&info, seed);
        let before = bytes(&buffer);
        let after = bytes(&harness.push_and_pull(buffer).unwrap());
        let stride = info.stride()[0] as usize;
        for (after, before) in after.chunks(stride).zip(before.chunks(stride)) {
            assert_eq!(after[..99], before[..99]);
        }
    }
}

#[test]
fn history_is_forgotten_at_breaks_only() {
    let mut harness = harness("");
    let first = info(VideoFormat::Rgbx, 24, 16, 25);
    set_caps(&mut harness, &first);
    let push = |harness: &mut gst_check::Harness, info: &gst_video::VideoInfo, flags| {
        let mut buffer = frame(info, 1);
        buffer.get_mut().unwrap().set_flags(flags);
        harness.push_and_pull(buffer).unwrap();
        iterations(harness)
    };
    let (none, discont) = (gst::BufferFlags::empty(), gst::BufferFlags::DISCONT);
    assert_eq!(push(&mut harness, &first, none), 2);
    assert_eq!(push(&mut harness, &first, none), 1);
    assert_eq!(push(&mut harness, &first, discont), 2);
    assert_eq!(push(&mut harness, &first, none), 1);

    // At another frame rate it is still the same film, even if the rate is unknown.
    for fps in [50, 0] {
        let other = info(VideoFormat::Rgbx, 24, 16, fps);
        set_caps(&mut harness, &other);
        assert_eq!(push(&mut harness, &other, none), 1);
    }
    // At another size or format it is not.
    let wider = info(VideoFormat::Rgbx, 32, 16, 25);
    set_caps(&mut harness, &wider);
    assert_eq!(push(&mut harness, &wider, none), 2);
    let swapped = info(VideoFormat::Bgrx, 32, 16, 25);
    set_caps(&mut harness, &swapped);
    assert_eq!(push(&mut harness, &swapped, none), 2);
    assert_eq!(push(&mut harness, &swapped, none), 1);

    harness.push_event(gst::event::FlushStart::new());
    harness.push_event(gst::event::FlushStop::new(true));
    harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    assert_eq!(push(&mut harness, &swapped, none), 2);
}

#[test]
fn a_live_film_goes_on_where_frames_were_lost() {
    let mut harness = harness("frame-budget=1000000000");
    let info = info(VideoFormat::Rgbx, 24, 16, 25);
    set_caps(&mut harness, &info);
    for seed in [1, 1, 5] {
        let mut buffer = frame(&info, seed);
        buffer.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
        // The same picture, although later.
        let picture = bytes(&frame(&info, 1));
        buffer.get_mut().unwrap().copy_from_slice(0, &picture).unwrap();
        harness.push_and_pull(buffer).unwrap();
        assert_eq!(element(&harness).property::<gst::Structure>("stats").get::<u64>("scene").unwrap(), 0);
    }
}

#[test]
fn gaps_and_doubles_are_painted() {
    let mut harness = harness("");
    let info = info(VideoFormat::Rgbx, 24, 16, 25);
    set_caps(&mut harness, &info);
    for flags in [gst::BufferFlags::empty(), gst::BufferFlags::GAP, gst::BufferFlags::empty()] {
        let mut buffer = frame(&info, 1);
        buffer.get_mut().unwrap().set_flags(flags);
        let before = bytes(&buffer);
        let output = harness.push_and_pull(buffer).unwrap();
        assert_eq!(output.pts(), Some(gst::ClockTime::from_mseconds(40)));
        assert!(!output.flags().contains(gst::BufferFlags::GAP));
        assert_ne!(bytes(&output), before);
    }
}

#[test]
fn properties_do_not_wait_for_a_frame() {
    // It would take minutes.
    let mut harness = harness("first-iterations=10000");
    let info = info(VideoFormat::Rgbx, 320, 240, 25);
    set_caps(&mut harness, &info);
    let element = element(&harness);
    let sink = element.static_pad("sink").unwrap();
    let (begin, begun) = mpsc::channel();
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        begin.send(()).unwrap();
        gst::PadProbeReturn::Ok
    });
    let painting = thread::spawn(move || harness.push(frame(&info, 1)));
    begun.recv_timeout(PATIENCE).unwrap();
    let (finish, finished) = mpsc::channel();
    thread::spawn(move || {
        // The painting begins at some time within this second, and goes on.
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(1) {
            for property in element.list_properties() {
                let value = element.property_value(property.name());
                if property.flags().contains(gst::glib::ParamFlags::WRITABLE) && property.name() != "parent" {
                    element.set_property_from_value(property.name(), &value);
                }
            }
        }
        finish.send(()).unwrap();
    });
    assert!(finished.recv_timeout(PATIENCE).is_ok(), "a property waits for the frame");
    assert!(!painting.is_finished());
    sink.send_event(gst::event::FlushStart::new());
    assert_eq!(painting.join().unwrap(), Err(gst::FlowError::Flushing));
}

#[test]
fn interlaced_video_is_refused_until_it_is_deinterlaced() {
    init();
    let interlaced = "video/x-raw,format=RGB,width=32,height=24,framerate=25/1,interlace-mode=interleaved";
    let mut harness = harness("");
    let bus = gst::Bus::new();
    element(&harness).set_bus(Some(&bus));
    harness.set_src_caps_str(interlaced);
    assert_eq!(harness.push(frame(&info(VideoFormat::Rgb, 32, 24, 25), 0)), Err(gst::FlowError::NotNegotiated));
    let warnings: Vec<_> = bus.iter_filtered(&[gst::MessageType::Warning]).collect();
    assert_eq!(warnings.len(), 1);
    let gst::MessageView::Warning(warning) = warnings[0].view() else { unreachable!() };
    assert!(warning.error().message().contains("deinterlace"), "{}", warning.error());

    let line = format!("videotestsrc num-buffers=3 ! {interlaced} ! deinterlace ! neuralstyle {QUICK} ! fakesink");
    let pipeline = gst::parse::launch(&line).unwrap();
    set_state(&pipeline, gst::State::Playing).unwrap();
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error, gst::MessageType::Warning];
    let message = pipeline.bus().unwrap().timed_pop_filtered(PATIENCE_CLOCK, &kinds).expect("the pipeline hangs");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    set_state(&pipeline, gst::State::Null).unwrap();
}

#[test]
fn caps_without_an_interlace_mode_are_progressive() {
    let mut harness = harness("");
    harness.set_src_caps_str("video/x-raw,format=RGB,width=32,height=24,framerate=25/1");
    harness.push_and_pull(frame(&info(VideoFormat::Rgb, 32, 24, 25), 0)).unwrap();
}

/// The tests above, in a process for each kind of processor: what forces one is read when the process starts.
#[test]
fn every_kind_of_processor_paints() {
    const TESTS: [&str; 3] = [
        "every_format_is_painted_and_alpha_stays",
        "painting_lowers_the_loss",
        "the_same_frames_come_out_of_any_number_of_threads",
    ];
    for kind in gstneuralstyle::processor::available() {
        let program = std::env::current_exe().unwrap();
        let run =
            Command::new(program).arg("--exact").args(TESTS).env("NEURALSTYLE_CPU", kind.name()).output().unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        assert!(text.contains("3 passed"), "{}: {text}{}", kind.name(), String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn a_network_is_chosen_by_its_name_and_weights_win_over_it() {
    init();
    // How much memory painting takes tells the networks apart.
    let memory = |assignments: &[&str]| {
        let element = gst::ElementFactory::make("neuralstyle").build().unwrap();
        let assignments: Vec<String> = assignments.iter().map(|text| text.to_string()).collect();
        element::set_properties(&element, &assignments).unwrap();
        let stylizer = element.downcast::<NeuralStyle>().unwrap().stylizer().unwrap();
        stylizer.memory_for(&Settings::default(), (64, 64)).unwrap()
    };
    let file = concat!("weights=", env!("CARGO_MANIFEST_DIR"), "/weights/vgg16-features.safetensors");
    let whole = memory(&[]);
    assert!(memory(&["network=light"]) < whole);
    assert_eq!(memory(&["network=vgg16"]), whole);
    assert_eq!(memory(&["network=light", file]), whole);
}

#[test]
fn settings_change_while_playing() {
    let mut harness = harness("");
    let info = info(VideoFormat::Rgb, 48, 32, 25);
    set_caps(&mut harness, &info);
    let still = |harness: &mut gst_check::Harness| bytes(&harness.push_and_pull(frame(&info, 1)).unwrap());
    still(&mut harness);
    let element = element(&harness);
    element.set_property("iterations", 3u32);
    still(&mut harness);
    assert_eq!(iterations(&harness), 3);

    let style_updates =
        |element: &gst::Element| element.property::<gst::Structure>("stats").get::<u64>("style-updates").unwrap();
    assert_eq!(style_updates(&element), 1);
    element.set_property("style", "glass");
    still(&mut harness);
    assert_eq!(style_updates(&element), 2);
    element.set_property("style-layers", "relu1_2,relu2_2");
    element.set_property("working-size", 32);
    still(&mut harness);
    // Once for both.
    assert_eq!(style_updates(&element), 3);
    still(&mut harness);
    assert_eq!(style_updates(&element), 3);
    element.set_property("strength", 0.0);
    assert_eq!(still(&mut harness), bytes(&frame(&info, 1)));
}

/// What changes between the second frame and the third shows in the third.
#[test]
fn pooling_and_warm_start_change_while_playing() {
    init();
    let info = info(VideoFormat::Rgb, 48, 32, 25);
    let painted = |property: &str, value: &str| {
        let mut harness = self::harness("style-layers=relu2_2");
        set_caps(&mut harness, &info);
        [0, 1, 2].map(|seed| {
            if seed == 2 {
                element(&harness).set_property_from_str(property, value);
            }
            bytes(&harness.push_and_pull(frame(&info, seed)).unwrap())
        })
    };
    let usual = painted("post-messages", "false");
    for (property, value) in [("pooling", "average"), ("warm-start", "previous"), ("warm-start", "none")] {
        let changed = painted(property, value);
        assert!(changed[..2] == usual[..2], "{property}");
        assert!(changed[2] != usual[2], "{property}={value} changes nothing");
    }
    // Without a warm start nothing is left of the frames before.
    let mut harness = harness("style-layers=relu2_2 warm-start=none");
    set_caps(&mut harness, &info);
    let frames = [0, 2].map(|seed| bytes(&harness.push_and_pull(frame(&info, seed)).unwrap()));
    assert!(frames[1] == painted("warm-start", "none")[2]);
}

#[test]
fn what_cannot_be_used_while_playing_leaves_the_last_good_and_warns() {
    for (property, value, mentioned) in [
        ("style", "/no/such/picture.png", "/no/such/picture.png"),
        ("style-layers", "relu1_1,relu9_9", "relu9_9"),
        ("content-layers", "relu5_1", "relu5_1"),
        ("working-size", "15", "working-size is 15"),
    ] {
        let mut harness = harness("");
        let bus = gst::Bus::new();
        let element = element(&harness);
        element.set_bus(Some(&bus));
        let info = info(VideoFormat::Rgb, 24, 16, 25);
        set_caps(&mut harness, &info);
        harness.push_and_pull(frame(&info, 0)).unwrap();
        element.set_property_from_str(property, value);
        for seed in 1..3 {
            harness.push_and_pull(frame(&info, seed)).unwrap();
        }
        assert_eq!(iterations(&harness), 1);
        let warnings: Vec<_> = bus.iter_filtered(&[gst::MessageType::Warning]).collect();
        assert_eq!(warnings.len(), 1, "{property}");
        let gst::MessageView::Warning(warning) = warnings[0].view() else { unreachable!() };
        assert!(warning.error().to_string().contains(mentioned), "{}", warning.error());
    }
}

#[test]
fn frames_that_need_more_memory_than_the_limit_are_refused() {
    let mut harness = harness("memory-limit=1000000");
    let (element, bus) = (element(&harness), gst::Bus::new());
    element.set_bus(Some(&bus));
    let info = info(VideoFormat::Rgb, 24, 16, 25);
    set_caps(&mut harness, &info);
    assert_eq!(harness.push(frame(&info, 0)), Err(gst::FlowError::Error));
    let message = bus.pop_filtered(&[gst::MessageType::Error]).unwrap();
    let gst::MessageView::Error(error) = message.view() else { unreachable!() };
    let message = error.error().to_string();
    assert!(message.contains("24x16") && message.contains("memory"), "{message}");
}

#[test]
fn numbers_out_of_range_do_not_get_in() {
    init();
    let element = gst::ElementFactory::make("neuralstyle").build().unwrap();
    let refused = |name: &str, value: gst::glib::Value| {
        let before: String = format!("{:?}", element.property_value(name));
        let set = std::panic::AssertUnwindSafe(|| element.set_property_from_value(name, &value));
        let panic = std::panic::catch_unwind(set).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains(name) && message.contains("out of range"), "{message}");
        assert_eq!(format!("{:?}", element.property_value(name)), before);
    };
    refused("style-weight", f64::NAN.to_value());
    refused("content-weight", (-1.0).to_value());
    refused("tv-weight", f64::INFINITY.to_value());
    refused("style-scale", 4.5.to_value());
    refused("strength", 1.5.to_value());
    refused("learning-rate", 0.0.to_value());
    refused("iterations", 0u32.to_value());
    refused("working-size", 100_000.to_value());
    refused("working-size", (-2).to_value());
}

#[test]
fn messages_are_posted_on_demand() {
    let mut harness = harness("");
    let bus = gst::Bus::new();
    let element = element(&harness);
    element.set_bus(Some(&bus));
    assert_eq!(element.property::<gst::Structure>("stats").n_fields(), 0);
    let info = info(VideoFormat::Rgb, 24, 16, 25);
    set_caps(&mut harness, &info);
    harness.push_and_pull(frame(&info, 0)).unwrap();
    assert!(bus.pop_filtered(&[gst::MessageType::Element]).is_none());
    element.set_property("post-messages", true);
    harness.push_and_pull(frame(&info, 1)).unwrap();
    let message = bus.pop_filtered(&[gst::MessageType::Element]).unwrap();
    let stats = message.structure().unwrap();
    assert_eq!(stats.name(), "neuralstyle");
    assert_eq!(stats.get::<u64>("frame").unwrap(), 1);
    assert_eq!(stats.get::<u32>("iterations").unwrap(), 1);
    let number = |field: &str| stats.get::<f64>(field).unwrap();
    assert!(number("content") >= 0.0 && number("style") > 0.0 && number("milliseconds") > 0.0);
    let others = number("content") + 10.0 * number("style") + 30.0 * number("temporal");
    // The grain counts as the total variation does, by how much depends on the style.
    let (variation, grain) = (number("total-variation"), number("grain"));
    assert!(variation > 0.0 && grain > 0.0 && number("loss") > others + 2.0 * variation + grain, "{stats}");
    element.set_property("tv-weight", 0.0);
    harness.push_and_pull(frame(&info, 2)).unwrap();
    let message = bus.pop_filtered(&[gst::MessageType::Element]).unwrap();
    let number = |field: &str| message.structure().unwrap().get::<f64>(field).unwrap();
    let others = number("content") + 10.0 * number("style") + 30.0 * number("temporal");
    assert!((number("loss") - others).abs() < 1e-6);
}

#[test]
fn painting_lowers_the_loss() {
    let mut harness = harness("post-messages=true first-iterations=30 iterations=30 learning-rate=4");
    let info = info(VideoFormat::Rgb, 48, 32, 25);
    set_caps(&mut harness, &info);
    let element = element(&harness);
    let mut losses = Vec::new();
    for _ in 0..2 {
        element.set_property("first-iterations", if losses.is_empty() { 1u32 } else { 30 });
        let mut buffer = frame(&info, 3);
        buffer.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
        harness.push_and_pull(buffer).unwrap();
        losses.push(element.property::<gst::Structure>("stats").get::<f64>("loss").unwrap());
    }
    assert!(losses[1] < 0.7 * losses[0], "{losses:?}");
}

#[test]
fn the_same_frames_come_out_of_any_number_of_threads() {
    let painted = |threads: u32| {
        let mut harness = harness(&format!("threads={threads} first-iterations=3"));
        let info = info(VideoFormat::Rgb, 45, 37, 25);
        set_caps(&mut harness, &info);
        let mut frames = (0..3).map(|seed| bytes(&harness.push_and_pull(frame(&info, seed)).unwrap()));
        frames.next_back().unwrap()
    };
    let one = painted(1);
    assert_eq!(one, painted(2));
    assert_eq!(one, painted(3));
}

#[test]
fn the_style_changes_with_the_time_of_the_stream() {
    let info = info(VideoFormat::Rgb, 32, 24, 25);
    // Three frames 40 ms apart, with another style from the second on.
    let painted = |style: &str| {
        let mut harness = harness("style=woodcut style-transition=40");
        set_caps(&mut harness, &info);
        [0, 1, 2].map(|seed| {
            if seed == 1 {
                element(&harness).set_property("style", style);
            }
            bytes(&harness.push_and_pull(frame(&info, seed)).unwrap())
        })
    };
    let (one, other) = (painted("nocturne"), painted("glass"));
    assert!(one[..2] == other[..2]);
    assert!(one[2] != other[2]);
}

#[test]
fn properties_follow_a_curve() {
    use gst_controller::prelude::*;
    let info = info(VideoFormat::Rgb, 32, 24, 25);
    let mut harness = harness("");
    set_caps(&mut harness, &info);
    let element = element(&harness);
    let curve = gst_controller::InterpolationControlSource::new();
    curve.set_mode(gst_controller::InterpolationMode::Linear);
    for (milliseconds, strength) in [(0, 0.0), (80, 1.0)] {
        assert!(curve.set(gst::ClockTime::from_mseconds(milliseconds), strength));
    }
    let binding = gst_controller::DirectControlBinding::new_absolute(&element, "strength", &curve);
    element.add_control_binding(&binding).unwrap();
    for (seed, strength) in [(0, 0.0), (1, 0.5), (2, 1.0)] {
        let content = frame(&info, seed);
        let painted = harness.push_and_pull(content.copy_deep().unwrap()).unwrap();
        assert!((element.property::<f64>("strength") - strength).abs() < 1e-6);
        assert_eq!(bytes(&painted) == bytes(&content), strength == 0.0);
    }
}

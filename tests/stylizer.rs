// SPDX-License-Identifier: MPL-2.0

//! The stylizer over many frames: scenes and their cuts, rest, too little time, and new styles.

use std::{
    iter, thread,
    time::{Duration, Instant},
};

use gstneuralstyle::{
    Error, Processor,
    image::{Frame, Image, PackedFormat, Picture},
    network::Vgg,
    objective::Device,
    style,
    stylizer::{DebugView, Interruption, Report, Settings, Stylizer, WarmStart, live},
};

const WIDTH: usize = 96;
const HEIGHT: usize = 64;

/// Hills that move to the right.
fn hills(turn: f32, frame: usize) -> Image {
    let level = |n: usize| {
        let (x, y) = ((n % WIDTH) as f32 - 1.5 * frame as f32, (n / WIDTH % HEIGHT) as f32);
        let (x, y) = (x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos());
        let bend = (0.05 * x + 0.07 * y).sin();
        128.0 + 50.0 * (0.23 * x + 2.0 * bend).sin() + 40.0 * (0.31 * y - 0.12 * x + bend).cos()
    };
    Image::from_planes(WIDTH, HEIGHT, (0..3 * WIDTH * HEIGHT).map(level).collect()).unwrap()
}

fn scene(turn: f32) -> Vec<Image> {
    (0..4).map(|frame| hills(turn, frame)).collect()
}

fn stylizer(style: &str, settings: Settings) -> Stylizer {
    let (weights, processor) = (Vgg::built_in().unwrap(), Processor::detect(2).unwrap());
    let mut stylizer = Stylizer::new(weights, Device::Cpu, processor, settings).unwrap();
    stylizer.set_style(style::load(style).unwrap()).unwrap();
    stylizer
}

/// Paints a frame, in a given time or in any.
fn paint(stylizer: &mut Stylizer, frame: &Image, budget: Option<Duration>) -> (Image, Report) {
    paint_with(frame, |frame| match budget {
        Some(budget) => stylizer.stylize_within(frame, budget),
        None => stylizer.stylize(frame),
    })
}

fn paint_with(frame: &Image, paint: impl FnOnce(&mut Frame) -> Result<Report, Error>) -> (Image, Report) {
    let (size, pixels) = (frame.size(), frame.width() * frame.height());
    let byte = |n: usize| frame.data()[n % 3 * pixels + n / 3].round() as u8;
    let mut bytes: Vec<u8> = (0..3 * pixels).map(byte).collect();
    let mut frame = Frame::new(&mut bytes, size, 3 * size.0, PackedFormat::RGB).unwrap();
    let report = paint(&mut frame).unwrap();
    (frame.image(), report)
}

/// Paints a frame of a live stream. Only a first one waits for steps.
fn paint_live(stylizer: &mut Stylizer, frame: &Image, time: Duration) -> (Image, Report) {
    paint_with(frame, |frame| stylizer.stylize_beside(frame, time))
}

/// The painted frames, and the scene of each.
fn stylize(film: &[Image], settings: Settings) -> (Vec<Image>, Vec<u64>) {
    let mut stylizer = stylizer("glass", settings.clone());
    let mut iterations = Vec::new();
    let painted = film.iter().map(|frame| {
        let (painted, report) = paint(&mut stylizer, frame, None);
        iterations.push(report.iterations);
        (painted, report.scene)
    });
    let (painted, scenes): (Vec<_>, Vec<_>) = painted.unzip();
    let first = |n: usize| n == 0 || scenes[n] != scenes[n - 1];
    assert!(
        iterations
            .iter()
            .enumerate()
            .all(|(n, &count)| count == if first(n) { settings.first_iterations } else { settings.iterations })
    );
    (painted, scenes)
}

/// The default settings with a change.
fn changed(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

/// Settings with a few iterations.
fn settings(warm_start: WarmStart) -> Settings {
    changed(|settings| {
        (settings.first_iterations, settings.iterations, settings.warm_start) = (4, 1, warm_start);
    })
}

#[test]
fn a_scene_is_painted_as_if_it_were_alone() {
    let (first, second) = (scene(0.0), scene(2.0));
    let film = [&first[..], &second[..], &first[..]].concat();
    for warm_start in [WarmStart::Previous, WarmStart::Residual, WarmStart::Flow] {
        let (painted, scenes) = stylize(&film, settings(warm_start));
        assert_eq!(scenes, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], "{warm_start:?}");
        for (n, alone) in [&first, &second, &first].into_iter().enumerate() {
            let same = painted[4 * n..][..4] == stylize(alone, settings(warm_start)).0;
            assert!(same, "scene {n}, {warm_start:?}");
        }
    }
}

#[test]
fn two_at_once_paint_as_each_alone() {
    let scenes = [scene(0.0), scene(2.0)];
    let alone = scenes.each_ref().map(|scene| stylize(scene, settings(WarmStart::Flow)));
    let together = thread::scope(|scope| {
        let threads = scenes.each_ref().map(|scene| scope.spawn(|| stylize(scene, settings(WarmStart::Flow))));
        threads.map(|thread| thread.join().unwrap())
    });
    assert!(together == alone);
}

#[test]
fn dissolves_are_no_cuts_and_threshold_1_finds_none() {
    let mut film = scene(0.0);
    for share in [0.2, 0.4, 0.6, 0.8, 1.0] {
        let mut mixed = hills(0.0, 4);
        let values = mixed.data_mut().iter_mut().zip(hills(2.0, 4).data().to_vec());
        values.for_each(|(value, other)| *value += share * (other - *value));
        film.push(mixed);
    }
    assert_eq!(stylize(&film, settings(WarmStart::Flow)).1, [0; 9]);
    let film = [scene(0.0), scene(2.0)].concat();
    let mut never = settings(WarmStart::Flow);
    never.scene_threshold = 1.0;
    assert_eq!(stylize(&film, never).1, [0; 8]);
}

#[test]
fn a_still_scene_comes_to_rest() {
    let (painted, _) = stylize(&vec![hills(0.5, 0); 60], changed(|settings| settings.first_iterations = 40));
    let step = |n: usize| {
        let difference = painted[n].data().iter().zip(painted[n - 1].data()).map(|(new, last)| (new - last).abs());
        difference.sum::<f32>() / painted[n].data().len() as f32
    };
    assert!(step(59) < 0.1, "{}", step(59));
    let mean = |n: usize| painted[n].data().iter().sum::<f32>() / painted[n].data().len() as f32;
    assert!((mean(59) - mean(50)).abs() < 0.5, "{} {}", mean(59), mean(50));
}

#[test]
fn an_interruption_leaves_the_frame_as_it_was() {
    let mut stylizer = stylizer("glass", Settings::default());
    let interruption = Interruption::default();
    stylizer.set_interruption(interruption.clone());
    let mut scene = |is_interrupted: bool| {
        interruption.set(is_interrupted);
        let mut bytes = vec![100; 3 * 64 * 48];
        let mut frame = Frame::new(&mut bytes, (64, 48), 3 * 64, PackedFormat::RGB).unwrap();
        let scene = stylizer.stylize(&mut frame).map(|report| report.scene);
        assert_eq!(bytes == [100; 3 * 64 * 48], is_interrupted);
        scene
    };
    assert!(matches!(scene(true), Err(Error::Interrupted)));
    assert!(matches!(scene(false), Ok(0)));
    assert!(matches!(scene(false), Ok(0)));
    assert!(matches!(scene(true), Err(Error::Interrupted)));
    assert!(matches!(scene(false), Ok(1)));
}

#[test]
fn old_paint_follows_a_new_style_and_new_weights() {
    let frame = hills(0.5, 0);
    let settings = |weight| changed(|settings| (settings.style_weight, settings.first_iterations) = (weight, 40));
    let loss_after = |stylizer: &mut Stylizer, frames: usize| {
        (0..frames).map(|_| paint(stylizer, &frame, None).1.loss).last().unwrap()
    };
    let mut stylizer = stylizer("glass", settings(10.0));
    loss_after(&mut stylizer, 40);
    for (style, weight) in [("woodcut", 10.0), ("woodcut", 30.0)] {
        let alone = loss_after(&mut self::stylizer(style, settings(weight)), 10);
        if weight == 10.0 {
            stylizer.set_style(style::load(style).unwrap()).unwrap();
        }
        stylizer.set_settings(settings(weight)).unwrap();
        let changed = loss_after(&mut stylizer, 30);
        assert!(changed < 1.25 * alone, "{style}, {weight}: {changed} {alone}");
    }
}

#[test]
fn old_paint_hardly_moves_for_weights_that_hardly_change() {
    let frame = hills(0.5, 0);
    let settings = |weight| changed(|settings| (settings.style_weight, settings.first_iterations) = (weight, 20));
    let moved = |weight| {
        let mut stylizer = stylizer("glass", settings(10.0));
        let last = (0..20).map(|_| paint(&mut stylizer, &frame, None).0).last().unwrap();
        stylizer.set_settings(settings(weight)).unwrap();
        let new = paint(&mut stylizer, &frame, None).0;
        let gaps = new.data().iter().zip(last.data()).map(|(new, last)| (new - last).abs());
        gaps.sum::<f32>() / new.data().len() as f32
    };
    let (none, little, much) = (moved(10.0), moved(10.1), moved(30.0));
    assert!(little < none + 0.2 * (much - none), "{none} {little} {much}");
}

#[test]
fn with_time_enough_nothing_changes() {
    let [mut free, mut timed] = [(); 2].map(|()| stylizer("glass", settings(WarmStart::Flow)));
    for frame in 0..3 {
        let (expected, report) = paint(&mut free, &hills(0.5, frame), None);
        let (painted, timed) = paint(&mut timed, &hills(0.5, frame), Some(Duration::from_secs(1000)));
        assert_eq!(timed.iterations, report.iterations);
        assert!(painted == expected, "frame {}", report.frame);
    }
}

/// Paints frames of a live stream until so many iterations were taken. Returns the last painted one.
fn paint_beside(stylizer: &mut Stylizer, film: impl Iterator<Item = Image>, iterations: u32) -> Image {
    let (started, mut taken) = (Instant::now(), 0);
    for frame in film {
        assert!(started.elapsed() < Duration::from_secs(60), "no steps are taken");
        let (painted, report) = paint_live(stylizer, &frame, Duration::ZERO);
        taken += report.iterations;
        if taken >= iterations {
            return painted;
        }
        thread::sleep(Duration::from_millis(1));
    }
    unreachable!("the film has no end")
}

fn largest_gap(a: &Image, b: &Image) -> f32 {
    a.data().iter().zip(b.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn steps_beside_the_frames_are_those_of_the_frames() {
    let frame = hills(0.5, 0);
    let settings = changed(|settings| (settings.iterations, settings.first_iterations) = (1, 1));
    let [mut recorded, mut beside] = [(); 2].map(|()| stylizer("glass", settings.clone()));
    let expected = (0..10).map(|_| paint(&mut recorded, &frame, None).1.loss).last().unwrap();
    paint_beside(&mut beside, iter::repeat_with(|| frame.clone()), 10);
    let loss = paint(&mut beside, &frame, None).1.loss;
    assert!(loss < 1.1 * expected, "{loss} {expected}");
}

#[test]
fn a_frame_does_not_wait_for_steps_and_shows_the_paint_there_is() {
    for warm_start in [WarmStart::None, WarmStart::Previous, WarmStart::Residual, WarmStart::Flow] {
        let mut stylizer = stylizer("glass", settings(warm_start));
        let frame = hills(0.5, 0);
        let painted = paint_beside(&mut stylizer, iter::repeat_with(|| frame.clone()), 3);
        assert!(largest_gap(&painted, &frame) > 10.0, "{warm_start:?}");
        // A step takes longer than this, and with it more than a level changes.
        let (next, report) = paint_live(&mut stylizer, &frame, Duration::ZERO);
        if report.iterations == 0 {
            assert!(largest_gap(&painted, &next) <= 1.0, "{warm_start:?}: {}", largest_gap(&painted, &next));
        }
    }
}

#[test]
fn paint_beside_the_frames_moves_with_them() {
    let film = |first: usize| (first..).map(|frame| hills(0.5, frame));
    let mut stylizer = stylizer("glass", settings(WarmStart::Flow));
    paint_beside(&mut stylizer, film(0), 8);
    // Wherever the film is now, another eight iterations have more of the style than the first eight.
    let losses = |stylizer: &mut Stylizer, first: usize| {
        let mut reports = film(first).map(|frame| {
            thread::sleep(Duration::from_millis(20));
            paint_live(stylizer, &frame, Duration::ZERO).1
        });
        reports.find(|report| report.iterations > 0).unwrap().loss
    };
    let late = losses(&mut stylizer, 8);
    stylizer.reset();
    let early = losses(&mut stylizer, 8);
    assert!(late < 0.9 * early, "{late} {early}");
}

#[test]
fn a_cut_begins_a_scene_whatever_is_being_painted() {
    let mut stylizer = stylizer("glass", settings(WarmStart::Flow));
    let film = [scene(0.0), scene(2.0), scene(0.0)].concat();
    let scenes: Vec<_> = film.iter().map(|frame| paint_live(&mut stylizer, frame, Duration::ZERO).1.scene).collect();
    assert_eq!(scenes, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    let (_, report) = paint_live(&mut stylizer, &hills(2.0, 0), Duration::from_secs(1000));
    assert!(report.scene == 3 && report.iterations > 0, "{report:?}");
}

#[test]
fn everything_may_change_while_steps_are_taken() {
    let mut stylizer = stylizer("glass", changed(|settings| settings.iterations = 1000));
    let settings = |change: fn(&mut Settings)| changed(change);
    for (n, settings) in [
        settings(|settings| settings.working_size = 48),
        settings(|settings| settings.layers.style_layers.truncate(2)),
        settings(|settings| settings.style_weight = 30.0),
        settings(|settings| settings.style_scale = 1.5),
    ]
    .into_iter()
    .enumerate()
    {
        paint_live(&mut stylizer, &hills(0.5, n), Duration::ZERO);
        stylizer.set_settings(settings).unwrap();
        paint_live(&mut stylizer, &hills(0.5, n), Duration::ZERO);
        stylizer.set_style(style::load("woodcut").unwrap()).unwrap();
    }
    let small = hills(0.5, 0).resized(WIDTH / 2, HEIGHT / 2).unwrap();
    for frame in [&small, &hills(0.5, 0), &hills(0.5, 1)] {
        paint_live(&mut stylizer, frame, Duration::ZERO);
    }
    // Recorded frames go on with what was painted live, and the other way round.
    assert!(paint(&mut stylizer, &hills(0.5, 2), None).1.iterations > 0);
    paint_beside(&mut stylizer, (3..).map(|frame| hills(0.5, frame)), 2);
}

#[test]
fn a_style_crosses_into_the_next() {
    // The frame after a change of style, with the cross-fade at this share.
    let painted = |style: &str, share: f64| {
        let mut stylizer = stylizer("glass", settings(WarmStart::Flow));
        paint(&mut stylizer, &hills(0.5, 0), None);
        stylizer.set_style(style::load(style).unwrap()).unwrap();
        live::set_style_share(&mut stylizer, share).unwrap();
        paint(&mut stylizer, &hills(0.5, 0), None).0
    };
    let (last, half, new) = (painted("glass", 1.0), painted("woodcut", 0.5), painted("woodcut", 1.0));
    assert!(painted("woodcut", 0.0) == last);
    assert!(half != last && half != new && new != last);

    // A change during a cross-fade starts from its current target.
    let mut stylizer = stylizer("glass", settings(WarmStart::Flow));
    paint(&mut stylizer, &hills(0.5, 0), None);
    for (name, share) in [("woodcut", 0.5), ("nocturne", 0.0)] {
        stylizer.set_style(style::load(name).unwrap()).unwrap();
        live::set_style_share(&mut stylizer, share).unwrap();
    }
    assert!(paint(&mut stylizer, &hills(0.5, 0), None).0 == half);
}

#[test]
fn the_style_picture_is_used_at_its_scale() {
    // A part of the style picture itself, at twice the size that the style has at scale 1.
    let level = |x: usize, y: usize| if x % 8 < 4 || y % 16 < 5 { 30 } else { 220 };
    let values = |width, height| (0..3 * width * height).map(move |n| level(n / 3 % width, n / 3 / width));
    let style = Picture::new(2 * WIDTH, 2 * WIDTH, values(2 * WIDTH, 2 * WIDTH).collect()).unwrap();
    let content = Picture::new(WIDTH, HEIGHT, values(WIDTH, HEIGHT).collect()).unwrap();
    let content = content.resized(WIDTH, HEIGHT).unwrap();
    let loss_at = |style_scale: f64| {
        let settings = changed(|settings| (settings.style_scale, settings.first_iterations) = (style_scale, 1));
        let mut stylizer = stylizer("glass", settings);
        stylizer.set_style(style.clone()).unwrap();
        paint(&mut stylizer, &content, None).1.losses.style
    };
    let [half, plain, double, more] = [0.5, 1.0, 2.0, 3.0].map(loss_at);
    assert!(5.0 * double < half.min(plain).min(more), "{half} {plain} {double} {more}");
}

#[test]
fn the_style_scale_may_change_between_frames() {
    let at_scale = |style_scale: f64| changed(|settings| settings.style_scale = style_scale);
    let mut stylizer = stylizer("glass", at_scale(1.0));
    stylizer.set_settings(at_scale(0.5)).unwrap();
    let changed_before = paint(&mut stylizer, &hills(0.5, 0), None);
    assert_eq!(changed_before.0, paint(&mut self::stylizer("glass", at_scale(0.5)), &hills(0.5, 0), None).0);
    for (scale, updates) in [(0.5, 0), (2.0, 1), (2.0, 0)] {
        let before = paint(&mut stylizer, &hills(0.5, 0), None).1.style_updates;
        stylizer.set_settings(at_scale(scale)).unwrap();
        assert_eq!(paint(&mut stylizer, &hills(0.5, 0), None).1.style_updates, before + updates, "{scale}");
    }
    // A quarter of this style is too small for the deepest layer. The working size is raised for it.
    stylizer.set_style(Picture::new(400, 50, vec![99; 3 * 400 * 50]).unwrap()).unwrap();
    assert!(matches!(stylizer.set_settings(at_scale(0.25)), Err(Error::TooSmall { what: "style", .. })));
    assert_eq!(stylizer.settings(), &at_scale(2.0));
    let small = changed(|settings| (settings.style_scale, settings.working_size) = (0.7, 32));
    stylizer.set_settings(small).unwrap();
    assert_eq!(paint(&mut stylizer, &hills(0.5, 1), None).1.working_size, 93);
}

#[test]
fn a_debug_view_changes_only_what_is_shown() {
    let [mut plain, mut debugged] = [(); 2].map(|()| stylizer("glass", settings(WarmStart::Flow)));
    let views = [DebugView::Painted, DebugView::Flow, DebugView::Mask, DebugView::Residual, DebugView::Painted];
    for (frame, debug_view) in views.into_iter().enumerate() {
        let mut settings = settings(WarmStart::Flow);
        settings.debug_view = debug_view;
        debugged.set_settings(settings).unwrap();
        let frame = hills(0.5, frame);
        let ((painted, _), (shown, _)) = (paint(&mut plain, &frame, None), paint(&mut debugged, &frame, None));
        assert_eq!(shown.size(), painted.size());
        assert_eq!(shown == painted, debug_view == DebugView::Painted, "{debug_view:?}");
    }
    // The motion is estimated for the view alone, too.
    let mut unused = settings(WarmStart::None);
    unused.debug_view = DebugView::Mask;
    let mut stylizer = stylizer("glass", unused);
    let masks = [0, 1].map(|frame| paint(&mut stylizer, &hills(0.5, frame), None).0);
    assert_eq!(masks[0], Image::filled(WIDTH, HEIGHT, 0.0));
    assert!(masks[1].data().iter().filter(|value| **value > 250.0).count() > masks[1].data().len() / 2);
}

#[test]
fn a_first_frame_is_painted_coarse_to_fine() {
    let photo = style::load("woodcut").unwrap().resized(144, 96).unwrap();
    let settings = changed(|settings| settings.first_iterations = 1);
    let [mut free, mut timed] = [(); 2].map(|()| stylizer("nocturne", settings.clone()));
    let (_, coarse_to_fine) = paint(&mut free, &photo, None);
    // With time enough it is the same, at fewer sizes.
    let (_, with_time) = paint(&mut timed, &photo, Some(Duration::from_secs(1000)));
    for report in [coarse_to_fine, with_time] {
        assert_eq!(report.iterations, 1);
        // The losses before the only step at the full size, which does not start from the content.
        assert!(report.losses.content > 0.01, "{report:?}");
    }
    // Without, it is only a sketch.
    timed.reset();
    let (painted, sketch) = paint(&mut timed, &photo, Some(Duration::from_millis(1)));
    assert!(sketch.losses.content < 1e-6, "{sketch:?}");
    assert!(sketch.iterations == 0 || largest_gap(&painted, &photo) > 10.0);
    // The Gram matrices for smaller sizes are kept for the next scene.
    free.reset();
    let again = paint(&mut free, &photo, None).1;
    assert_eq!((again.losses, again.style_updates), (coarse_to_fine.losses, coarse_to_fine.style_updates));
}

// SPDX-License-Identifier: MPL-2.0

//! The stylizer over many frames: scenes and their cuts, rest, too little time, and new styles.

use std::{thread, time::Duration};

use gstneuralstyle::{
    Error, Processor,
    image::{Frame, Image, PackedFormat},
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
    let (size, pixels) = (frame.size(), frame.width() * frame.height());
    let byte = |n: usize| frame.data()[n % 3 * pixels + n / 3].round() as u8;
    let mut bytes: Vec<u8> = (0..3 * pixels).map(byte).collect();
    let mut frame = Frame::new(&mut bytes, size, 3 * size.0, PackedFormat::RGB).unwrap();
    let report = match budget {
        Some(budget) => stylizer.stylize_within(&mut frame, budget),
        None => stylizer.stylize(&mut frame),
    };
    (frame.image(), report.unwrap())
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

#[test]
fn without_time_there_is_still_paint() {
    let mut stylizer = stylizer("glass", settings(WarmStart::Flow));
    let mut iterations = |frame: &Image, budget: Duration| {
        let (painted, report) = paint(&mut stylizer, frame, Some(budget));
        (painted, report.iterations)
    };
    // A first frame gets an iteration, and so does any frame with a budget above zero.
    assert_eq!(iterations(&hills(0.5, 0), Duration::ZERO).1, 1);
    let (first, count) = iterations(&hills(0.5, 0), Duration::from_nanos(1));
    assert_eq!(count, 1);
    let (second, count) = iterations(&hills(0.5, 0), Duration::ZERO);
    assert_eq!(count, 0);
    let gap = |a: &Image, b: &Image| a.data().iter().zip(b.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // The same, apart from rounding.
    assert!(gap(&first, &second) <= 1.0, "{}", gap(&first, &second));
    assert!(gap(&first, &hills(0.5, 0)) > 10.0);
    assert_eq!(iterations(&hills(0.5, 1), Duration::from_secs(1000)).1, 1);
}

#[test]
fn without_time_a_frame_that_starts_without_paint_gets_some() {
    let mut stylizer = stylizer("glass", settings(WarmStart::None));
    for _ in 0..2 {
        assert_eq!(paint(&mut stylizer, &hills(0.5, 0), Some(Duration::ZERO)).1.iterations, 1);
    }
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
    let (_, fine_only) = paint(&mut timed, &photo, Some(Duration::from_secs(1000)));
    assert_eq!((coarse_to_fine.iterations, fine_only.iterations), (1, 1));
    // The losses before the only step at the full size.
    let losses = [coarse_to_fine, fine_only].map(|report| report.losses.style);
    assert!(losses[0] < 0.98 * losses[1], "{losses:?}");
    assert!(fine_only.losses.content < 1e-6 && coarse_to_fine.losses.content > 0.01);
    // The Gram matrices for smaller sizes are kept for the next scene.
    free.reset();
    let again = paint(&mut free, &photo, None).1;
    assert_eq!((again.losses, again.style_updates), (coarse_to_fine.losses, coarse_to_fine.style_updates));
}

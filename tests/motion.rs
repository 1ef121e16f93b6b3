// SPDX-License-Identifier: MPL-2.0

//! The motion between pictures that were moved by a known amount.

use gstneuralstyle::{
    Processor,
    image::Image,
    motion::{Flow, Motion, MotionEstimator},
    processor::{self, Kind, Precision},
};

const WIDTH: usize = 160;
const HEIGHT: usize = 120;

fn estimator(kind: Kind, threads: usize) -> MotionEstimator {
    MotionEstimator::new(Processor::new(kind, threads).unwrap())
}

fn motion(last: &Image, new: &Image) -> Motion {
    estimator(processor::detect(Precision::Auto).unwrap(), 2).between(last, new).clone()
}

/// A surface of hills of many sizes, none of them repeated, between 0 and 255.
fn level(x: f32, y: f32) -> f32 {
    let hills = [(0.043, 0.031, 1.0), (-0.09, 0.12, 1.0), (0.27, 0.19, 0.6), (0.21, -0.43, 0.5), (-0.71, 0.37, 0.3)];
    let bend = 3.0 * (0.017 * x - 0.023 * y).sin();
    let sum: f32 = hills.iter().map(|(a, b, height)| height * (a * x + b * y + bend).sin()).sum();
    127.5 + 35.0 * sum
}

fn image((width, height): (usize, usize), level: impl Fn(f32, f32) -> f32) -> Image {
    let plane = (0..width * height).map(|n| level((n % width) as f32, (n / width) as f32));
    let plane: Vec<f32> = plane.collect();
    Image::from_planes(width, height, plane.repeat(3)).unwrap()
}

/// The same noise for the same seed, of about this standard deviation.
fn noisy(mut image: Image, seed: u32, deviation: f32) -> Image {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    for value in image.data_mut() {
        // The sum of twelve has a variance of 1.
        *value += deviation * (0..12).map(|_| uniform()).sum::<f32>();
    }
    image
}

/// Mean distance between a flow and the truth, over the pixels that are this far inside and stay there.
fn end_point_error(flow: &Flow, margin: f32, truth: impl Fn(f32, f32) -> (f32, f32)) -> f32 {
    let (right, bottom) = (flow.width as f32 - 1.0 - margin, flow.height as f32 - 1.0 - margin);
    let inside = |x: f32, y: f32| x >= margin && y >= margin && x <= right && y <= bottom;
    let (mut sum, mut count) = (0.0, 0);
    for n in 0..flow.x.len() {
        let (x, y) = ((n % flow.width) as f32, (n / flow.width) as f32);
        let (true_x, true_y) = truth(x, y);
        if inside(x, y) && inside(x + true_x, y + true_y) {
            sum += (flow.x[n] - true_x).hypot(flow.y[n] - true_y);
            count += 1;
        }
    }
    assert!(count > 0);
    sum / count as f32
}

fn longest(flow: &Flow) -> f32 {
    flow.x.iter().zip(&flow.y).map(|(x, y)| x.hypot(*y)).fold(0.0, f32::max)
}

#[test]
fn translations_are_found() {
    for (x, y) in [(0.3, 0.0), (1.0, -2.0), (-4.6, 3.1), (13.0, 6.5)] {
        let motion = motion(&image((WIDTH, HEIGHT), level), &image((WIDTH, HEIGHT), |i, j| level(i + x, j + y)));
        let error = end_point_error(&motion.flow, 0.0, |_, _| (x, y));
        assert!(error < 0.2, "({x}, {y}): {error}");
        let trusted = motion.trust.iter().sum::<f32>() / motion.trust.len() as f32;
        assert!(trusted > 0.75, "({x}, {y}): {trusted}");
    }
}

#[test]
fn rotation_and_zoom_are_found() {
    let (centre_x, centre_y) = (WIDTH as f32 / 2.0, HEIGHT as f32 / 2.0);
    for (angle, zoom) in [(0.05_f32, 1.0), (0.0, 1.06), (-0.03, 0.96)] {
        let place = |x: f32, y: f32| {
            let (x, y) = (zoom * (x - centre_x), zoom * (y - centre_y));
            (centre_x + x * angle.cos() - y * angle.sin(), centre_y + x * angle.sin() + y * angle.cos())
        };
        let new = image((WIDTH, HEIGHT), |x, y| {
            let (x, y) = place(x, y);
            level(x, y)
        });
        let motion = motion(&image((WIDTH, HEIGHT), level), &new);
        let error = end_point_error(&motion.flow, 0.0, |x, y| (place(x, y).0 - x, place(x, y).1 - y));
        assert!(error < 0.1, "angle {angle}, zoom {zoom}: {error}");
    }
}

#[test]
fn what_appears_is_not_trusted() {
    const SIDE: f32 = 40.0;
    const STEP: f32 = 8.0;
    // A square with a surface of its own moves to the right over one that stands still.
    let frame = |left: f32| {
        image((WIDTH, HEIGHT), |x, y| {
            let inside = (left..left + SIDE).contains(&x) && (40.0..40.0 + SIDE).contains(&y);
            if inside { level(300.0 - (y - 40.0), 2.0 * (x - left)) } else { level(x, y) }
        })
    };
    let motion = motion(&frame(50.0), &frame(50.0 + STEP));
    let trust = |columns: std::ops::Range<usize>| {
        let rows = motion.trust.chunks_exact(WIDTH).skip(46).take(28);
        rows.map(|row| row[columns.clone()].iter().sum::<f32>()).sum::<f32>() / (28 * columns.len()) as f32
    };
    let appeared = trust(51..57);
    assert!(appeared < 0.2, "{appeared}");
    let (square, still) = (trust(70..86), trust(120..150));
    assert!(square > 0.9 && still > 0.9, "{square} {still}");
    assert!(motion.trust.iter().all(|trust| (0.0..=1.0).contains(trust)));
}

#[test]
fn the_same_frame_has_not_moved() {
    let frame = image((WIDTH, HEIGHT), level);
    let motion = motion(&frame, &frame);
    assert_eq!(longest(&motion.flow), 0.0);
    assert!(motion.trust.iter().all(|trust| *trust > 0.9999));
}

#[test]
fn noise_does_not_move() {
    let frame = image((WIDTH, HEIGHT), level);
    let motion = motion(&noisy(frame.clone(), 1, 2.0), &noisy(frame, 2, 2.0));
    let error = end_point_error(&motion.flow, 0.0, |_, _| (0.0, 0.0));
    assert!(error < 0.02, "{error}");
}

#[test]
fn flat_areas_do_not_move() {
    let frame = image((WIDTH, HEIGHT), |_, _| 90.0);
    let motion = motion(&noisy(frame.clone(), 1, 2.0), &noisy(frame, 2, 2.0));
    let longest = longest(&motion.flow);
    assert!(longest < 1.0, "{longest}");
}

#[test]
fn fading_does_not_move() {
    let frame = image((WIDTH, HEIGHT), level);
    for (gain, offset) in [(1.0, 12.0), (0.95, 0.0)] {
        let motion = motion(&frame, &image((WIDTH, HEIGHT), |x, y| gain * level(x, y) + offset));
        let error = end_point_error(&motion.flow, 0.0, |_, _| (0.0, 0.0));
        assert!(error < 0.1, "gain {gain}, offset {offset}: {error}");
    }
}

#[test]
fn frames_of_all_sizes_have_motion() {
    for size in [(16, 16), (17, 23), (333, 17), (16, 201), (64, 1), (1, 40), (1, 1)] {
        let motion = motion(&image(size, level), &image(size, |x, y| level(x + 0.5, y)));
        assert_eq!((motion.flow.width, motion.flow.height), size);
        assert_eq!(motion.trust.len(), size.0 * size.1);
        assert!(motion.flow.x.iter().chain(&motion.flow.y).chain(&motion.trust).all(|value| value.is_finite()));
        if size.0.min(size.1) >= 16 {
            let error = end_point_error(&motion.flow, 1.0, |_, _| (0.5, 0.0));
            assert!(error < 0.2, "{size:?}: {error}");
        }
    }
}

#[test]
#[should_panic(expected = "the frames are empty")]
fn empty_frames_are_a_mistake() {
    motion(&Image::filled(0, 4, 0.0), &Image::filled(0, 4, 0.0));
}

#[test]
fn neither_threads_nor_earlier_frames_change_a_bit() {
    let frames = [0.0, 2.3, 5.0].map(|x| image((WIDTH, HEIGHT), |i, j| level(i + x, j - 0.4 * x)));
    for kind in processor::available() {
        let expected = estimator(kind, 1).between(&frames[1], &frames[2]).clone();
        assert!(longest(&expected.flow) > 2.0);
        for threads in [2, 3, 7] {
            let mut estimator = estimator(kind, threads);
            assert_eq!(*estimator.between(&frames[1], &frames[2]), expected, "{kind:?}, {threads} threads");
            // In a stream, and after frames of another size.
            let small = image((50, 40), level);
            estimator.between(&small, &small);
            estimator.between(&frames[0], &frames[1]);
            assert_eq!(*estimator.between(&frames[1], &frames[2]), expected, "{kind:?}, {threads} threads");
        }
    }
}

#[test]
fn only_another_scene_is_novel() {
    let frame = |level: &dyn Fn(f32, f32) -> f32| image((WIDTH, HEIGHT), level);
    let other = |x: f32, y: f32| level(400.0 - y, 1.3 * x);
    let novelty = |last: &Image, new: &Image| motion(last, new).novelty;
    let last = frame(&level);
    for (what, new) in [
        ("cut", frame(&other)),
        ("to a dark scene", frame(&|x, y| 0.25 * other(x, y))),
        ("to grey", frame(&|_, _| 128.0)),
    ] {
        let (there, back) = (novelty(&last, &new), novelty(&new, &last));
        assert!(there > 0.8 && back > 0.8, "{what}: {there} {back}");
    }
    for (what, new) in [
        ("still", frame(&level)),
        ("noise", noisy(frame(&level), 1, 4.0)),
        ("motion", frame(&|x, y| level(x + 9.0, y - 4.0))),
        ("flash", frame(&|x, y| level(x, y) + 60.0)),
        ("fade", frame(&|x, y| 0.7 * level(x, y))),
        ("dissolve", frame(&|x, y| 0.8 * level(x, y) + 0.2 * other(x, y))),
    ] {
        let novelty = novelty(&last, &new);
        assert!(novelty < 0.5, "{what}: {novelty}");
    }
    let black = frame(&|_, _| 0.0);
    assert!(novelty(&noisy(black.clone(), 1, 2.0), &noisy(black, 2, 2.0)) < 0.1);
    let tiny = image((17, 16), level);
    assert!(novelty(&tiny, &image((17, 16), other)) < 1e-6);
}

// SPDX-License-Identifier: MPL-2.0

//! The motion between two frames and what follows from it, at a usual working size.

use divan::Bencher;
use gstneuralstyle::{
    Processor,
    image::Image,
    motion::{Flow, MotionEstimator, Warper},
    processor::{self, Kind},
};

const WIDTH: usize = 320;
const HEIGHT: usize = 180;
/// Numbers of threads; 0 is one for each processor.
const THREADS: [usize; 2] = [1, 0];

fn main() {
    divan::main();
}

fn cases() -> impl Iterator<Item = (Kind, usize)> {
    processor::available().flat_map(|kind| THREADS.map(|threads| (kind, threads)))
}

/// Waves of several lengths, moved to the left by `shift` pixels.
fn frame(shift: f32) -> Image {
    let value = |n: usize| {
        let (x, y) = ((n % WIDTH) as f32 + shift, (n / WIDTH % HEIGHT) as f32);
        let waves = [(0.9, 0.3), (0.31, -0.45), (0.05, 0.11)];
        128.0 + waves.iter().map(|(a, b)| 40.0 * (a * x + b * y).sin()).sum::<f32>()
    };
    Image::from_planes(WIDTH, HEIGHT, (0..3 * WIDTH * HEIGHT).map(value).collect()).unwrap()
}

/// A frame of a stream: the frame before was seen as well.
#[divan::bench(args = cases())]
fn estimate(bencher: Bencher, (kind, threads): (Kind, usize)) {
    let mut estimator = MotionEstimator::new(Processor::new(kind, threads).unwrap());
    let mut frames = [frame(0.0), frame(3.3)];
    bencher.bench_local(|| {
        frames.reverse();
        estimator.between(&frames[0], &frames[1]).trust[0]
    });
}

/// A residual and two moments of three planes each.
#[divan::bench(args = cases())]
fn warp(bencher: Bencher, (kind, threads): (Kind, usize)) {
    let mut warper = Warper::new(Processor::new(kind, threads).unwrap());
    let mut flow = Flow::zero(WIDTH, HEIGHT);
    flow.x.fill(3.3);
    flow.y.fill(-0.4);
    let mut images = [frame(0.0), frame(5.0), frame(9.0)];
    bencher.bench_local(|| warper.warp(&flow, &mut images.each_mut().map(Image::data_mut)));
}

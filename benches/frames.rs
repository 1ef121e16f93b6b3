// SPDX-License-Identifier: MPL-2.0

//! Whole frames, with one iteration and without: the rest is the way to the working size and back, the motion and the
//! warm start.

use std::{fmt, time::Duration};

use divan::Bencher;
use gstneuralstyle::{
    Processor,
    image::{Frame, PackedFormat},
    network::Vgg,
    objective::Device,
    processor::{self, Kind},
    style,
    stylizer::{Settings, Stylizer},
};

const SIZES: [Size; 3] = [Size(320, 180, 0), Size(1280, 720, 256), Size(1280, 720, 64)];

/// Width and height of the frame, and the working size.
#[derive(Clone, Copy)]
struct Size(usize, usize, u32);

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}x{} at {}", self.0, self.1, self.2)
    }
}

fn main() {
    divan::main();
}

#[divan::bench(args = processor::available().collect::<Vec<_>>(), consts = [0, 1, 2])]
fn one_iteration<const SIZE: usize>(bencher: Bencher, kind: Kind) {
    paint(bencher, kind, SIZES[SIZE], Duration::from_nanos(1));
}

#[divan::bench(args = SIZES)]
fn without_iterations(bencher: Bencher, size: Size) {
    let best = processor::available().next().expect("there are portable kernels");
    paint(bencher, best, size, Duration::ZERO);
}

fn paint(bencher: Bencher, kind: Kind, Size(width, height, working_size): Size, budget: Duration) {
    let mut settings = Settings::default();
    settings.working_size = working_size;
    let processor = Processor::new(kind, 0).unwrap();
    let weights = Vgg::built_in().unwrap();
    let mut stylizer = Stylizer::new(weights, Device::Cpu, processor, settings).unwrap();
    stylizer.set_style(style::load("woodcut").unwrap()).unwrap();
    let mut film = [0, width / 160].map(|shift| pixels(width, height, shift)).into_iter().cycle();
    let mut paint = |mut pixels: Vec<u8>| {
        let mut frame = Frame::new(&mut pixels, (width, height), 4 * width, PackedFormat::RGBX).unwrap();
        stylizer.stylize_within(&mut frame, budget).unwrap()
    };
    paint(film.next().unwrap());
    bencher.with_inputs(|| film.next().unwrap()).bench_local_values(paint);
}

/// A frame that shows a part of a picture, some pixels further right.
fn pixels(width: usize, height: usize, shift: usize) -> Vec<u8> {
    let picture = style::load("nocturne").unwrap().resized(width + width / 160, height).unwrap();
    let rows = (0..height).map(|row| row * picture.width() + shift);
    let pixels = rows.flat_map(|start| start..start + width);
    let plane = picture.width() * height;
    pixels
        .flat_map(|pixel| [0, 1, 2].map(|colour| picture.data()[colour * plane + pixel] as u8).into_iter().chain([255]))
        .collect()
}

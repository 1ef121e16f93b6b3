// SPDX-License-Identifier: MPL-2.0

//! Each kernel against plain code. All numbers are small and whole, so that every sum is exact and results are equal to
//! the last bit. Where there are no tiles, plain code stands in for them, and what surrounds them is still tested.

use std::{array, sync::Arc};

use super::{
    Layout,
    detect::has_vectors,
    is_supported,
    lines::pair,
    tiles::{Product, SIDE, STEP, Steps, Tiles},
};
use crate::processor::{
    Engine, Kind, LANES, Lanes, Pool, Processor,
    kernels::{
        Amx, ContentTarget, Convolution, Direction, Epilogue, FirstConvolution, Float32, GramMatrix, Incoming, Kernels,
        Pooling, Shape,
    },
};

const SIZES: [(usize, usize); 10] =
    [(1, 1), (2, 2), (3, 1), (1, 5), (5, 4), (16, 16), (31, 3), (33, 9), (47, 50), (70, 2)];

/// Plain feature maps, `[channel][row][column]`.
#[derive(Clone, PartialEq, Debug)]
struct Maps {
    shape: Shape,
    numbers: Vec<f32>,
}

impl Maps {
    /// Whole numbers from -6 to 6.
    fn new(shape: Shape, seed: usize) -> Self {
        let number = |n: usize| ((n * 7919 + seed * 104_729 + n / 13 * 31) % 13) as f32 - 6.0;
        Self { shape, numbers: (0..shape.channels * shape.positions()).map(number).collect() }
    }

    fn zeros(shape: Shape) -> Self {
        Self { shape, numbers: vec![0.0; shape.channels * shape.positions()] }
    }

    fn map(mut self, function: impl Fn(f32) -> f32) -> Self {
        self.numbers.iter_mut().for_each(|number| *number = function(*number));
        self
    }

    fn at(&self, channel: usize, y: usize, x: usize) -> f32 {
        self.numbers[(channel * self.shape.height + y) * self.shape.width + x]
    }

    fn at_mut(&mut self, channel: usize, y: usize, x: usize) -> &mut f32 {
        &mut self.numbers[(channel * self.shape.height + y) * self.shape.width + x]
    }

    /// Every channel, row and column.
    fn places(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let Shape { channels, height, width } = self.shape;
        (0..channels * height * width).map(move |n| (n / width / height, n / width % height, n % width))
    }

    fn lines(&self) -> Vec<Lanes> {
        let layout = Layout::new(self.shape);
        let mut lines = vec![Lanes::ZERO; layout.lines()];
        for (channel, y, x) in self.places().filter(|(channel, ..)| channel.is_multiple_of(2)) {
            let line = &mut lines[layout.row(channel / 32, y)][x];
            line.0[channel % 32 / 2] = pair(self.at(channel, y, x), self.at(channel + 1, y, x));
        }
        lines
    }

    /// The feature maps in `lines`, whose border must be zero.
    fn read(shape: Shape, lines: &[Lanes]) -> Self {
        let layout = Layout::new(shape);
        let mut maps = Self::zeros(shape);
        let mut border = lines.to_vec();
        for (channel, y, x) in maps.places() {
            *maps.at_mut(channel, y, x) = number(&lines[layout.row(channel / 32, y)][x], channel % 32);
            border[layout.row(channel / 32, y)][x] = Lanes::ZERO;
        }
        assert!(border.iter().all(|line| *line == Lanes::ZERO), "the border of {shape:?} is not zero");
        maps
    }
}

/// The two numbers in a lane.
fn numbers(lane: f32) -> [f32; 2] {
    [lane.to_bits() << 16, lane.to_bits() & 0xffff_0000].map(f32::from_bits)
}

/// The number of a channel in a line.
fn number(line: &Lanes, channel: usize) -> f32 {
    numbers(line.0[channel / 2])[channel % 2]
}

fn rounded(value: f32) -> f32 {
    numbers(pair(value, 0.0))[0]
}

/// What tiles compute.
pub fn multiply(product: Product) {
    let Product { a, steps, b, sums, sums_pitch, fresh, .. } = product;
    for (row, column) in (0..SIDE * SIDE).map(|n| (n / SIDE, n % SIDE)) {
        let sum = &mut sums[row * sums_pitch + column / LANES].0[column % LANES];
        if fresh {
            *sum = 0.0;
        }
        for step in 0..steps.rows * steps.columns {
            let from = step / steps.columns * steps.pitch + step % steps.columns * steps.stride;
            for k in 0..LANES {
                let [even, odd] = numbers(a[from + row].0[k]);
                let [even_factor, odd_factor] = numbers(b[step * STEP + column / LANES * LANES + k].0[column % LANES]);
                *sum += even * even_factor + odd * odd_factor;
            }
        }
    }
}

/// `None` where there are neither tiles nor the vectors that go with them.
pub(crate) fn processor() -> Option<Processor> {
    if !has_vectors() {
        println!("not tested: no AVX-512 with bfloat16");
        return None;
    }
    if !is_supported() {
        println!("tested without AMX");
    }
    Some(Processor { kind: Kind::Amx, pool: Arc::new(Pool::new(2).unwrap()) })
}

fn engine() -> Option<Engine> {
    processor().map(Engine::new)
}

#[test]
fn tiles_equal_plain_sums() {
    if !is_supported() {
        return println!("not tested: no AMX");
    }
    let tiles = Tiles::configure();
    let lines = |count: usize, seed: usize| -> Vec<Lanes> {
        let number = |n: usize| ((n * 7919 + seed) % 17) as f32 - 8.0;
        (0..count)
            .map(|n| Lanes(array::from_fn(|k| pair(number(32 * n + 2 * k), number(32 * n + 2 * k + 1)))))
            .collect()
    };
    for steps in [
        Steps { rows: 1, pitch: 0, columns: 1, stride: 0 },
        Steps { rows: 1, pitch: 0, columns: 5, stride: 40 },
        Steps { rows: 3, pitch: 7, columns: 3, stride: 1 },
    ] {
        let (a, b) = (lines(200, 1), lines(steps.rows * steps.columns * STEP, 2));
        for (sums_pitch, fresh) in [(2, true), (2, false), (6, false)] {
            let mut sums = vec![Lanes([3.0; LANES]); SIDE * sums_pitch];
            let mut expected = sums.clone();
            tiles.multiply(Product { a: &a, steps, b: &b, next: &b, sums: &mut sums, sums_pitch, fresh });
            multiply(Product { a: &a, steps, b: &b, next: &b, sums: &mut expected, sums_pitch, fresh });
            assert!(sums == expected);
        }
    }
}

fn convolution(inputs: usize, outputs: usize) -> Convolution {
    let weight = |n: usize| ((n * 4099 + n / 7) % 5) as f32 - 2.0;
    Convolution {
        inputs,
        outputs,
        weight: (0..9 * inputs * outputs).map(weight).collect(),
        bias: (0..outputs).map(|n| (n % 7) as f32 * 20.0 - 60.0).collect(),
    }
}

/// The sums of a convolution, or of its gradient.
fn convolved(convolution: &Convolution, direction: Direction, input: &Maps) -> Maps {
    let Shape { height, width, .. } = input.shape;
    let channels = match direction {
        Direction::Forward => convolution.outputs,
        Direction::Backward => convolution.inputs,
    };
    let mut output = Maps::zeros(Shape { channels, ..input.shape });
    for (to, y, x) in output.places() {
        for (tap, from) in (0..9).flat_map(|tap| (0..input.shape.channels).map(move |from| (tap, from))) {
            let (dy, dx) = (tap / 3, tap % 3);
            let weight = match direction {
                Direction::Forward => convolution.weight[(to * convolution.inputs + from) * 9 + tap],
                Direction::Backward => convolution.weight[(from * convolution.inputs + to) * 9 + 8 - tap],
            };
            if (1..=height).contains(&(y + dy)) && (1..=width).contains(&(x + dx)) {
                *output.at_mut(to, y, x) += weight * input.at(from, y + dy - 1, x + dx - 1);
            }
        }
    }
    output
}

#[test]
fn convolutions_equal_plain_sums_both_ways() {
    let Some(mut engine) = engine() else { return };
    for (n, (width, height)) in SIZES.into_iter().enumerate() {
        let (inputs, outputs) = [(32, 64), (64, 32), (96, 32)][n % 3];
        let convolution = convolution(inputs, outputs);
        let input = Maps::new(Shape { channels: inputs, height, width }, n);
        let shape = Shape { channels: outputs, ..input.shape };
        let filters = Amx::pack(&mut engine, &convolution, Direction::Forward);
        let mut output = vec![Lanes([f32::NAN; LANES]); Amx::lanes(shape)];
        let mut masks = vec![0; Amx::masks(shape)];
        let epilogue = Epilogue::Relu { bias: &convolution.bias, positive: Some(&mut masks) };
        Amx::convolve(&mut engine, input.shape, &input.lines(), &filters, epilogue, &mut output);
        let mut expected = convolved(&convolution, Direction::Forward, &input);
        for (channel, y, x) in expected.places() {
            let value = expected.at_mut(channel, y, x);
            *value = rounded((*value + convolution.bias[channel]).max(0.0));
        }
        assert!(expected.numbers.contains(&0.0) && expected.numbers.iter().any(|value| *value > 0.0));
        assert_eq!(Maps::read(shape, &output), expected, "{shape:?}");
        for (line, masks) in output.iter().zip(masks.chunks_exact(2)) {
            for channel in 0..32 {
                assert_eq!(number(line, channel) > 0.0, masks[channel / 16] >> (channel % 16) & 1 == 1);
            }
        }

        let gradient = Maps::new(shape, n + 1);
        let filters = Amx::pack(&mut engine, &convolution, Direction::Backward);
        let expected = convolved(&convolution, Direction::Backward, &gradient).map(rounded);
        let mut plain = vec![Lanes([f32::NAN; LANES]); Amx::lanes(input.shape)];
        Amx::convolve(&mut engine, shape, &gradient.lines(), &filters, Epilogue::Plain, &mut plain);
        assert_eq!(Maps::read(input.shape, &plain), expected, "{shape:?}");
        let masks: Vec<u16> = (0..Amx::masks(input.shape)).map(|n| (n * 40_503) as u16).collect();
        Amx::convolve(&mut engine, shape, &gradient.lines(), &filters, Epilogue::Masked(&masks), &mut plain);
        let layout = Layout::new(input.shape);
        let masked = Maps::read(input.shape, &plain);
        for (channel, y, x) in masked.places() {
            let at = layout.row(channel / 32, y).start + x;
            let mask = masks[2 * at + channel % 32 / 16] >> (channel % 16) & 1;
            assert_eq!(masked.at(channel, y, x), if mask == 1 { expected.at(channel, y, x) } else { 0.0 });
        }
    }
}

#[test]
fn first_convolution_equals_that_in_float32() {
    let Some(mut engine) = engine() else { return };
    let mut plain = Engine::new(Processor::new(Kind::Avx512, 1).unwrap());
    let convolution = convolution(3, 64);
    let mean = [1.5, -20.0, 100.25];
    let [ours, theirs] = [&engine, &plain].map(|engine| FirstConvolution::new(engine, &convolution, mean));
    for (n, (width, height)) in SIZES.into_iter().enumerate() {
        let shape = Shape { channels: 64, height, width };
        let image: Vec<f32> = (0..3 * width * height).map(|k| ((k * 7919 + n) % 1021) as f32 * 0.25).collect();
        let mut expected = vec![Lanes::ZERO; shape.lanes()];
        Float32::convolve_image(&mut plain, (width, height), &image, &theirs, None, &mut expected);
        let mut lines = vec![Lanes([f32::NAN; LANES]); Amx::lanes(shape)];
        let mut masks = vec![0; Amx::masks(shape)];
        Amx::convolve_image(&mut engine, (width, height), &image, &ours, Some(&mut masks), &mut lines);
        let maps = Maps::read(shape, &lines);
        for (channel, y, x) in maps.places() {
            let value = expected[(channel / LANES * height + y) * width + x].0[channel % LANES];
            assert_eq!(maps.at(channel, y, x), rounded(value));
        }
        for (line, masks) in lines.iter().zip(masks.chunks_exact(2)) {
            for channel in 0..32 {
                assert_eq!(number(line, channel) > 0.0, masks[channel / 16] >> (channel % 16) & 1 == 1);
            }
        }

        let gradient = Maps::new(shape, n);
        let mut numbers = vec![Lanes::ZERO; shape.lanes()];
        for (channel, y, x) in gradient.places() {
            numbers[(channel / LANES * height + y) * width + x].0[channel % LANES] = gradient.at(channel, y, x);
        }
        let (mut image, mut expected) = (image.clone(), image);
        Float32::image_gradient(&mut plain, shape, &numbers, &theirs, &mut expected);
        Amx::image_gradient(&mut engine, shape, &gradient.lines(), &ours, &mut image);
        assert_eq!(image, expected, "{shape:?}");
    }
}

#[test]
fn pooling_takes_the_maximum_or_the_mean() {
    let Some(mut engine) = engine() else { return };
    for (n, (width, height)) in SIZES.into_iter().enumerate().filter(|(_, (width, height))| width.min(height) > &1) {
        let maps = Maps::new(Shape { channels: 64, height, width }, n);
        let pooled = maps.shape.pooled();
        for pooling in [Pooling::Max, Pooling::Average] {
            let mut output = vec![Lanes([f32::NAN; LANES]); Amx::lanes(pooled)];
            Amx::pool(&mut engine, maps.shape, pooling, &maps.lines(), &mut output);
            let output = Maps::read(pooled, &output);
            for (channel, y, x) in output.places() {
                let window: [f32; 4] = array::from_fn(|k| maps.at(channel, 2 * y + k / 2, 2 * x + k % 2));
                let expected = match pooling {
                    Pooling::Max => window.into_iter().fold(f32::MIN, f32::max),
                    Pooling::Average => window.iter().sum::<f32>() / 4.0,
                };
                assert_eq!(output.at(channel, y, x), expected, "{pooling:?} {:?}", maps.shape);
            }
        }
    }
}

#[test]
fn gram_matrices_and_their_differences_equal_plain_sums() {
    let Some(mut engine) = engine() else { return };
    for (n, (width, height)) in SIZES.into_iter().chain([(90, 70)]).enumerate() {
        let maps = Maps::new(Shape { channels: [32, 64, 96, 160][n % 4], height, width }, n);
        let channels = maps.shape.channels;
        let mut gram = GramMatrix::new(maps.shape);
        Amx::compute_gram(&mut engine, &mut gram, &maps.lines());
        let values: Vec<f32> = gram.values().iter().flat_map(|lanes| lanes.0).collect();
        let scale = 1.0 / (maps.shape.positions() * channels) as f32;
        let maps_of: Vec<&[f32]> = maps.numbers.chunks_exact(maps.shape.positions()).collect();
        for (k, value) in values.iter().enumerate() {
            let (a, b) = (maps_of[k / channels], maps_of[k % channels]);
            let sum: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert_eq!(*value, sum * scale, "{:?} {k}", maps.shape);
        }

        let target: Vec<Lanes> = (0..gram.values().len()).map(|k| Lanes([k as f32 * 0.01; LANES])).collect();
        let (squares, packed) = Amx::gram_difference(&mut engine, &mut gram, &target, 3.0);
        let mut expected_squares = 0.0;
        for (k, value) in values.iter().enumerate() {
            let difference = value - target[k / LANES].0[0];
            expected_squares += f64::from(difference).powi(2);
            let (input, output) = (k / channels, k % channels);
            let step = output / 32 * (channels / 32) + input / 32;
            let line = &packed[step * 32 + output % 32 / 16 * 16 + input % 32 / 2];
            assert_eq!(number(line, output % 16 * 2 + input % 2), rounded(difference * 3.0), "{k}");
        }
        assert!((squares / expected_squares - 1.0).abs() < 1e-5, "{squares} {expected_squares}");
    }
}

#[test]
fn gradient_at_a_layer_is_the_sum_of_its_terms() {
    let Some(mut engine) = engine() else { return };
    for (n, (width, height)) in SIZES.into_iter().chain([(67, 5), (130, 2)]).enumerate() {
        let shape = Shape { channels: [32, 64, 96][n % 3], height, width };
        let (maps, target) = (Maps::new(shape, n).map(|value| value.max(0.0)), Maps::new(shape, n + 1));
        let (direct, pooled) = (Maps::new(shape, n + 2), Maps::new(shape.pooled(), n + 3));
        let slope = |k: usize, c: usize| ((k * 5 + c * 3) % 7) as f32 - 3.0;
        let metric = |k: usize, c: usize| ((k + c) % 5) as f32 - 2.0;
        let packed = |matrix: &dyn Fn(usize, usize) -> f32| {
            let mut lines = vec![Lanes::ZERO; (shape.channels / 32).pow(2) * 32];
            for (k, lane) in lines.iter_mut().flat_map(|line| &mut line.0).enumerate() {
                let (step, tile, row, column) = (k / 512, k / 256 % 2, k / 16 % 16, k % 16);
                let input = step % (shape.channels / 32) * 32 + 2 * row;
                let output = step / (shape.channels / 32) * 32 + 16 * tile + column;
                *lane = pair(matrix(input, output), matrix(input + 1, output));
            }
            lines
        };
        let (style, packed_metric) = (packed(&slope), packed(&metric));
        let rows = |n: usize| {
            Lanes(array::from_fn(|lane| metric(n * LANES / shape.channels, n * LANES % shape.channels + lane)))
        };
        let rows: Vec<Lanes> = (0..shape.channels * shape.blocks()).map(rows).collect();
        assert_eq!(Amx::pack_metric(&mut engine, shape.channels, &rows), packed_metric);
        let (target_lines, direct_lines, pooled_lines) = (target.lines(), direct.lines(), pooled.lines());
        let incomings = [
            Incoming::Nothing,
            Incoming::Direct(&direct_lines),
            Incoming::Pooled(Pooling::Max, &pooled_lines),
            Incoming::Pooled(Pooling::Average, &pooled_lines),
        ];
        for (k, incoming) in incomings.into_iter().enumerate().filter(|(k, _)| *k < 2 || width.min(height) > 1) {
            let (has_style, has_content, has_metric) = (k != 3, k != 1, (k + n) % 2 == 0);
            let mut lines = maps.lines();
            let metric_lines = has_metric.then_some(&packed_metric[..]);
            let content = ContentTarget { features: &target_lines, slope: 0.5, metric: metric_lines };
            let (style, content) = (has_style.then_some(&style[..]), has_content.then_some(content));
            let squares = Amx::gradient_at(&mut engine, shape, &mut lines, style, content, incoming, &mut Vec::new());

            let mut expected_squares = 0.0;
            let mut expected = Maps::zeros(shape);
            for (channel, y, x) in maps.places() {
                let value = maps.at(channel, y, x);
                let difference = |k: usize| maps.at(k, y, x) - target.at(k, y, x);
                let in_metric = match has_metric {
                    true => (0..shape.channels).map(|k| metric(k, channel) * difference(k)).sum(),
                    false => difference(channel),
                };
                let mut gradient = 0.0;
                if has_content {
                    expected_squares += f64::from(difference(channel) * in_metric);
                    gradient += 0.5 * in_metric;
                }
                if has_style {
                    gradient += (0..shape.channels).map(|k| slope(k, channel) * maps.at(k, y, x)).sum::<f32>();
                }
                let in_window = y / 2 < shape.height / 2 && x / 2 < shape.width / 2;
                gradient += match incoming {
                    Incoming::Direct(_) => direct.at(channel, y, x),
                    Incoming::Pooled(pooling, _) if in_window => {
                        let window: [f32; 4] =
                            array::from_fn(|n| maps.at(channel, y / 2 * 2 + n / 2, x / 2 * 2 + n % 2));
                        let first = (0..4).rev().max_by(|a, b| window[*a].total_cmp(&window[*b]));
                        let incoming = pooled.at(channel, y / 2, x / 2);
                        match pooling {
                            Pooling::Average => incoming / 4.0,
                            Pooling::Max if first == Some(y % 2 * 2 + x % 2) => incoming,
                            Pooling::Max => 0.0,
                        }
                    }
                    _ => 0.0,
                };
                *expected.at_mut(channel, y, x) = if value > 0.0 { rounded(gradient) } else { 0.0 };
            }
            assert_eq!(Maps::read(shape, &lines), expected, "{shape:?} {k}");
            assert_eq!(squares, expected_squares);
        }
        let expected: f64 = maps.numbers.iter().map(|value| f64::from(*value).powi(2)).sum();
        assert_eq!(Amx::squared_norm(&mut engine, shape, &maps.lines(), &mut Vec::new()), expected);
    }
}

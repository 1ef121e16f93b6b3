// SPDX-License-Identifier: MPL-2.0

//! Each kernel of float32 against plain loops over plain planes, for every kind of instructions that this machine has.
//! Those of bfloat16, whose feature maps lie elsewhere, are tested beside their code.

use gstneuralstyle::{
    Processor,
    network::Pooling,
    processor::{
        self, Engine, Kind, LANES, Lanes, Precision,
        kernels::{
            ContentTarget, Convolution, Direction, Epilogue, FirstConvolution, Float32, GramMatrix, Incoming, Kernels,
            Shape,
        },
    },
};

/// Sizes below, at and above those of tiles, windows and bands, and what is left over next to them.
const SIZES: [(usize, usize); 12] =
    [(1, 1), (2, 1), (1, 3), (2, 2), (3, 2), (4, 4), (5, 5), (7, 4), (16, 16), (17, 9), (37, 6), (50, 23)];

/// What float32 and the transforms leave of exactness.
const EXACT: f64 = 2e-6;

/// The next of a sequence of numbers from -1 to 1 without order; multiples of 1/512, which half precision has.
fn random(state: &mut u32) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    (*state >> 22) as f32 / 512.0 - 1.0
}

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    (0..count).map(|_| random(&mut state)).collect()
}

fn shape(channels: usize, (width, height): (usize, usize)) -> Shape {
    Shape { channels, height, width }
}

/// Planes as the kernels have them.
fn to_lanes(shape: Shape, planes: &[f32]) -> Vec<Lanes> {
    let at = |block: usize, position: usize, lane: usize| (block * LANES + lane) * shape.positions() + position;
    let lanes = |n: usize| (n / shape.positions(), n % shape.positions());
    (0..shape.lanes())
        .map(lanes)
        .map(|(block, position)| Lanes(std::array::from_fn(|lane| planes[at(block, position, lane)])))
        .collect()
}

fn to_planes(shape: Shape, lanes: &[Lanes]) -> Vec<f32> {
    let at = |channel: usize, position: usize| channel / LANES * shape.positions() + position;
    (0..shape.channels * shape.positions())
        .map(|n| (n / shape.positions(), n % shape.positions()))
        .map(|(channel, position)| lanes[at(channel, position)].0[channel % LANES])
        .collect()
}

fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let squares = actual.iter().zip(expected).map(|(a, e)| (f64::from(*a) - e).powi(2)).sum::<f64>();
    let norm = expected.iter().map(|e| e * e).sum::<f64>();
    let error = (squares / norm.max(1e-300)).sqrt();
    assert!(error <= tolerance, "{what}: error {error:.1e}");
}

fn kinds() -> impl Iterator<Item = Kind> {
    processor::available().filter(|kind| kind.precision() == Precision::F32)
}

/// Calls `check` with every kind of instructions and every size.
fn for_each(mut check: impl FnMut(&mut Engine, (usize, usize), &str)) {
    for kind in kinds() {
        let mut engine = engine(kind);
        for size in SIZES {
            check(&mut engine, size, &format!("{kind:?} {size:?}"));
        }
    }
}

fn engine(kind: Kind) -> Engine {
    Engine::new(Processor::new(kind, 2).unwrap())
}

fn convolution(inputs: usize, outputs: usize, seed: u32) -> Convolution {
    let (weight, bias) = (numbers(9 * inputs * outputs, seed), numbers(outputs, seed + 1));
    Convolution { inputs, outputs, weight, bias }
}

/// The sums of a convolution, without bias and ReLU.
fn convolve(convolution: &Convolution, (width, height): (usize, usize), input: &[f32]) -> Vec<f64> {
    let mut output = vec![0.0; convolution.outputs * width * height];
    each_product(convolution, (width, height), |from, to, weight| output[to] += f64::from(input[from] * weight));
    output
}

/// The gradient for the input of a convolution.
fn convolve_back(convolution: &Convolution, (width, height): (usize, usize), gradient: &[f32]) -> Vec<f64> {
    let mut input = vec![0.0; convolution.inputs * width * height];
    each_product(convolution, (width, height), |from, to, weight| input[from] += f64::from(gradient[to] * weight));
    input
}

/// Calls `take` for each product of a convolution: the place of its input, that of its output, and its weight.
fn each_product(convolution: &Convolution, (width, height): (usize, usize), mut take: impl FnMut(usize, usize, f32)) {
    for (n, weight) in convolution.weight.iter().enumerate() {
        let (output, input, dy, dx) = (n / 9 / convolution.inputs, n / 9 % convolution.inputs, n % 9 / 3, n % 3);
        for y in (0..height).filter(|y| (1..=height).contains(&(y + dy))) {
            for x in (0..width).filter(|x| (1..=width).contains(&(x + dx))) {
                let from = (input * height + y + dy - 1) * width + x + dx - 1;
                take(from, (output * height + y) * width + x, *weight);
            }
        }
    }
}

#[test]
fn convolution_forward_is_that_of_plain_loops() {
    for_each(|engine, size, what| {
        for (inputs, outputs) in [(16, 32), (80, 64), (32, 96), (96, 160)] {
            let convolution = convolution(inputs, outputs, 1);
            let (input_shape, output_shape) = (shape(inputs, size), shape(outputs, size));
            let input = numbers(inputs * input_shape.positions(), 3);
            let mut expected = convolve(&convolution, size, &input);
            for (plane, bias) in expected.chunks_exact_mut(output_shape.positions()).zip(&convolution.bias) {
                plane.iter_mut().for_each(|value| *value = (*value + f64::from(*bias)).max(0.0));
            }
            let filters = Float32::pack(engine, &convolution, Direction::Forward);
            let mut output = vec![Lanes([f32::NAN; LANES]); output_shape.lanes()];
            let mut positive = vec![0; output.len()];
            let epilogue = Epilogue::Relu { bias: &convolution.bias, positive: Some(&mut positive) };
            let input = to_lanes(input_shape, &input);
            Float32::convolve(engine, input_shape, &input, &filters, epilogue, &mut output);
            assert_close(&to_planes(output_shape, &output), &expected, EXACT, what);
            for (bits, lanes) in positive.iter().zip(&output) {
                assert!((0..LANES).all(|lane| (bits >> lane & 1 == 1) == (lanes.0[lane] > 0.0)), "{what}");
            }
        }
    });
}

#[test]
fn convolution_backward_is_that_of_plain_loops() {
    for_each(|engine, size, what| {
        for (inputs, outputs) in [(32, 16), (64, 80), (96, 32), (160, 96)] {
            let convolution = convolution(inputs, outputs, 4);
            let (input_shape, output_shape) = (shape(inputs, size), shape(outputs, size));
            let gradient = numbers(outputs * output_shape.positions(), 5);
            let mut expected = convolve_back(&convolution, size, &gradient);
            let filters = Float32::pack(engine, &convolution, Direction::Backward);
            let gradient = to_lanes(output_shape, &gradient);
            let mut input = vec![Lanes([f32::NAN; LANES]); input_shape.lanes()];
            Float32::convolve(engine, output_shape, &gradient, &filters, Epilogue::Plain, &mut input);
            assert_close(&to_planes(input_shape, &input), &expected, EXACT, what);

            let mask = numbers(expected.len(), 6);
            let above = |lanes: &Lanes| (0..LANES).map(|lane| u16::from(lanes.0[lane] > 0.0) << lane).sum();
            let bits: Vec<u16> = to_lanes(input_shape, &mask).iter().map(above).collect();
            expected.iter_mut().zip(&mask).filter(|(_, mask)| **mask <= 0.0).for_each(|(value, _)| *value = 0.0);
            Float32::convolve(engine, output_shape, &gradient, &filters, Epilogue::Masked(&bits), &mut input);
            assert_close(&to_planes(input_shape, &input), &expected, EXACT, what);
        }
    });
}

#[test]
fn weights_of_any_size_are_right_to_three_digits() {
    let size = (9, 7);
    for kind in kinds() {
        for scale in [1e-30_f32, 1e-6, 0.37, 1e6] {
            let mut convolution = convolution(32, 32, 7);
            convolution.weight.iter_mut().for_each(|weight| *weight = (*weight + 3e-5) * scale);
            let input = numbers(32 * size.0 * size.1, 8);
            let expected = convolve(&convolution, size, &input);
            let mut engine = engine(kind);
            let filters = Float32::pack(&mut engine, &convolution, Direction::Forward);
            let shape = shape(32, size);
            let mut output = vec![Lanes::ZERO; shape.lanes()];
            let input = to_lanes(shape, &input);
            Float32::convolve(&mut engine, shape, &input, &filters, Epilogue::Plain, &mut output);
            assert_close(&to_planes(shape, &output), &expected, 5e-4, &format!("{kind:?} {scale}"));
        }
    }
}

/// The places of the four values of a window, in reading order, for each place of what is pooled.
fn windows(shape: Shape) -> impl Iterator<Item = [usize; 4]> {
    let pooled = shape.pooled();
    (0..pooled.channels * pooled.positions()).map(move |n| {
        let (plane, y, x) = (n / pooled.positions(), n % pooled.positions() / pooled.width, n % pooled.width);
        let start = plane * shape.positions() + 2 * y * shape.width + 2 * x;
        [start, start + 1, start + shape.width, start + shape.width + 1]
    })
}

/// Features that are zero half of the time and often equal.
fn features(shape: Shape, seed: u32) -> Vec<f32> {
    numbers(shape.channels * shape.positions(), seed).iter().map(|value| (value * 4.0).ceil().max(0.0)).collect()
}

#[test]
fn pooling_is_that_of_plain_loops_both_ways() {
    for_each(|engine, size, what| {
        let shape = shape(48, size);
        let values = features(shape, 9);
        let input = to_lanes(shape, &values);
        let gradient = numbers(shape.channels * shape.pooled().positions(), 10);
        for pooling in [Pooling::Max, Pooling::Average] {
            let (mut expected, mut expected_back) = (Vec::new(), vec![0.0; values.len()]);
            for (window, gradient) in windows(shape).zip(&gradient) {
                let inside = window.map(|at| values[at]);
                let largest = inside.iter().fold(0.0, |largest: f32, value| largest.max(*value));
                match pooling {
                    Pooling::Average => {
                        expected.push(f64::from(inside.iter().sum::<f32>() / 4.0));
                        window.iter().for_each(|at| expected_back[*at] = f64::from(gradient / 4.0));
                    }
                    _ => {
                        expected.push(f64::from(largest));
                        let first = inside.iter().position(|value| *value == largest).unwrap();
                        expected_back[window[first]] = f64::from(*gradient);
                    }
                }
            }
            expected_back.iter_mut().zip(&values).filter(|(_, v)| **v == 0.0).for_each(|(gradient, _)| *gradient = 0.0);

            let mut output = vec![Lanes([f32::NAN; LANES]); shape.pooled().lanes()];
            Float32::pool(engine, shape, pooling, &input, &mut output);
            assert_close(&to_planes(shape.pooled(), &output), &expected, 0.0, what);
            let (mut back, mut squares) = (input.clone(), Vec::new());
            let incoming = to_lanes(shape.pooled(), &gradient);
            let incoming = Incoming::Pooled(pooling, &incoming);
            Float32::gradient_at(engine, shape, &mut back, None, None, incoming, &mut squares);
            assert_close(&to_planes(shape, &back), &expected_back, 0.0, what);
        }
    });
}

#[test]
fn gram_matrices_and_their_gradient_are_those_of_plain_loops() {
    const SLOPE: f32 = 0.3;
    for_each(|engine, size, what| {
        for channels in [32, 96, 160] {
            let shape = shape(channels, size);
            let values = features(shape, 11);
            let plane = |channel: usize| &values[channel * shape.positions()..][..shape.positions()];
            let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let scale = (shape.positions() * channels) as f64;
            let expected: Vec<f64> =
                (0..channels * channels).map(|n| product(plane(n / channels), plane(n % channels)) / scale).collect();
            let input = to_lanes(shape, &values);
            let mut gram = GramMatrix::new(shape);
            Float32::compute_gram(engine, &mut gram, &input);
            let actual: Vec<f32> = gram.values().iter().flat_map(|lanes| lanes.0).collect();
            assert_close(&actual, &expected, EXACT, what);

            // The gradient is for the Gram matrix, the content and what comes from below at once.
            let target: Vec<f32> = (0..channels * channels)
                .map(|n| 0.1 * ((n / channels + 1) as f32 * (n % channels + 1) as f32).sin())
                .collect();
            let content = numbers(values.len(), 12);
            let incoming = numbers(values.len(), 13);
            let difference: Vec<f64> = expected.iter().zip(&target).map(|(g, t)| g - f64::from(*t)).collect();
            let mut expected_gradient = vec![0.0; values.len()];
            for (n, gradient) in expected_gradient.iter_mut().enumerate().filter(|(n, _)| values[*n] > 0.0) {
                let (channel, position) = (n / shape.positions(), n % shape.positions());
                let row = &difference[channel * channels..][..channels];
                let style: f64 = row.iter().enumerate().map(|(other, d)| d * f64::from(plane(other)[position])).sum();
                let content = f64::from(values[n] - content[n]);
                *gradient = f64::from(SLOPE) * style + 0.25 * content + f64::from(incoming[n]);
            }
            let target: Vec<Lanes> = target.as_chunks().0.iter().map(|lanes| Lanes(*lanes)).collect();
            let (distance, style) = Float32::gram_difference(engine, &mut gram, &target, SLOPE);
            assert_close(&[distance as f32], &[difference.iter().map(|d| d * d).sum()], EXACT, what);
            let (lanes, incoming) = (to_lanes(shape, &content), to_lanes(shape, &incoming));
            let target = ContentTarget { features: &lanes, slope: 0.25, metric: None };
            let (mut gradient, mut squares) = (input, Vec::new());
            let incoming = Incoming::Direct(&incoming);
            let distance =
                Float32::gradient_at(engine, shape, &mut gradient, Some(style), Some(target), incoming, &mut squares);
            assert_close(&to_planes(shape, &gradient), &expected_gradient, EXACT, what);
            let expected = values.iter().zip(&content).map(|(v, c)| f64::from(v - c).powi(2)).sum();
            assert_close(&[distance as f32], &[expected], EXACT, what);
        }
    });
}

#[test]
fn distances_in_a_metric_are_those_of_plain_loops() {
    const SLOPE: f32 = 0.25;
    for_each(|engine, size, what| {
        for channels in [32, 96] {
            let shape = shape(channels, size);
            let positions = shape.positions();
            let symmetric = |seed: f32| {
                let value = move |n: usize| {
                    let (a, b) = (n / channels, n % channels);
                    (seed * ((a * b) as f32 + (a + b) as f32)).sin() + if a == b { 2.0 } else { 0.0 }
                };
                (0..channels * channels).map(value).collect::<Vec<f32>>()
            };
            let to_rows = |values: &[f32]| values.as_chunks().0.iter().map(|lanes| Lanes(*lanes)).collect::<Vec<_>>();
            let (metric, matrix, target) = (symmetric(0.3), symmetric(0.7), symmetric(1.1));
            let product = |one: &[f64], other: &[f64]| -> Vec<f64> {
                let sum = |n: usize| {
                    (0..channels).map(|k| one[n / channels * channels + k] * other[k * channels + n % channels]).sum()
                };
                (0..channels * channels).map(sum).collect()
            };
            let double = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
            let difference: Vec<f64> = matrix.iter().zip(&target).map(|(g, t)| f64::from(*g) - f64::from(*t)).collect();
            let expected = product(&double(&metric), &product(&difference, &double(&metric)));
            let mut gram = GramMatrix::from_values(channels, to_rows(&matrix));
            let distance = gram.difference_in_metric(engine, &to_rows(&target), &to_rows(&metric));
            let actual: Vec<f32> = gram.values().iter().flat_map(|lanes| lanes.0).collect();
            assert_close(&actual, &expected, EXACT, what);
            let expected = expected.iter().zip(&difference).map(|(one, other)| one * other).sum();
            assert_close(&[distance as f32], &[expected], EXACT, what);

            let (values, content) = (features(shape, 18), numbers(channels * positions, 19));
            let difference: Vec<f64> = values.iter().zip(&content).map(|(v, c)| f64::from(v - c)).collect();
            let in_metric = |maps: &[f64], n: usize| -> f64 {
                let row = &metric[n / positions * channels..][..channels];
                row.iter().enumerate().map(|(k, m)| f64::from(*m) * maps[k * positions + n % positions]).sum()
            };
            let gradient = |n: usize| match values[n] > 0.0 {
                true => f64::from(SLOPE) * in_metric(&difference, n),
                false => 0.0,
            };
            let expected: Vec<f64> = (0..values.len()).map(gradient).collect();
            let (lanes, packed) =
                (to_lanes(shape, &content), Float32::pack_metric(engine, channels, &to_rows(&metric)));
            let target = ContentTarget { features: &lanes, slope: SLOPE, metric: Some(&packed) };
            let mut back = to_lanes(shape, &values);
            let distance =
                Float32::gradient_at(engine, shape, &mut back, None, Some(target), Incoming::Nothing, &mut Vec::new());
            assert_close(&to_planes(shape, &back), &expected, EXACT, what);
            let expected = (0..values.len()).map(|n| difference[n] * in_metric(&difference, n)).sum();
            assert_close(&[distance as f32], &[expected], EXACT, what);

            let mut gram = GramMatrix::new(shape);
            Float32::compute_gram(engine, &mut gram, &to_lanes(shape, &values));
            let values = double(&values);
            let expected = (0..values.len()).map(|n| values[n] * in_metric(&values, n)).sum();
            assert_close(&[gram.squared_norm_in_metric(&to_rows(&metric)) as f32], &[expected], EXACT, what);
        }
    });
}

#[test]
fn squared_norm_is_that_of_plain_loops() {
    for_each(|engine, size, what| {
        let shape = shape(32, size);
        let values = features(shape, 14);
        let norm = Float32::squared_norm(engine, shape, &to_lanes(shape, &values), &mut Vec::new());
        let expected = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        assert_close(&[norm as f32], &[expected], EXACT, what);
    });
}

#[test]
fn first_convolution_is_that_of_plain_loops_both_ways() {
    const MEAN: [f32; 3] = [0.5, 0.25, -0.125];
    let mut channels = [32, 64, 96, 160].into_iter().cycle();
    for_each(|engine, size, what| {
        let channels = channels.next().unwrap();
        let convolution = convolution(3, channels, 15);
        let first = FirstConvolution::new(engine, &convolution, MEAN);
        let shape = shape(channels, size);
        let image = numbers(3 * shape.positions(), 16);
        let mean = |n: usize| MEAN[n / shape.positions()];
        let centred: Vec<f32> = image.iter().enumerate().map(|(n, value)| value - mean(n)).collect();
        let mut expected = convolve(&convolution, size, &centred);
        for (plane, bias) in expected.chunks_exact_mut(shape.positions()).zip(&convolution.bias) {
            plane.iter_mut().for_each(|value| *value = (*value + f64::from(*bias)).max(0.0));
        }
        let mut output = vec![Lanes([f32::NAN; LANES]); shape.lanes()];
        let mut positive = vec![0; output.len()];
        Float32::convolve_image(engine, size, &image, &first, Some(&mut positive), &mut output);
        assert_close(&to_planes(shape, &output), &expected, EXACT, what);
        for (bits, lanes) in positive.iter().zip(&output) {
            assert!((0..LANES).all(|lane| (bits >> lane & 1 == 1) == (lanes.0[lane] > 0.0)), "{what}");
        }

        let gradient = numbers(channels * shape.positions(), 17);
        let mut back = vec![f32::NAN; image.len()];
        Float32::image_gradient(engine, shape, &to_lanes(shape, &gradient), &first, &mut back);
        assert_close(&back, &convolve_back(&convolution, size, &gradient), EXACT, what);
    });
}

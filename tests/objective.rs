// SPDX-License-Identifier: MPL-2.0

//! The objective's value against the definition of its losses, and its gradient against finite differences.

use std::sync::Arc;

use gstneuralstyle::{
    Error, Processor,
    image::Image,
    network::{Pooling, Vgg, parse_layers},
    objective::{self, Device, LossLayers, LossWeights, Losses, Objective, ReferenceObjective},
};

const WEIGHTS: LossWeights = LossWeights::new(1.0, 10.0);

fn layers(content: &str, style: &str, pooling: Pooling) -> LossLayers {
    let layers = |list| parse_layers(list).unwrap();
    LossLayers::new(layers(content), layers(style), pooling)
}

fn default_network(pooling: Pooling) -> LossLayers {
    layers("relu3_3", "relu1_2,relu2_2,relu3_3,relu4_3", pooling)
}

fn objective(weights: Arc<Vgg>, layers: LossLayers) -> ReferenceObjective {
    ReferenceObjective::in_double_precision(weights, layers, Processor::detect(1).unwrap()).unwrap()
}

/// A picture of smooth waves and some noise.
fn picture(width: usize, height: usize, seed: u32) -> Image {
    let mut state = seed;
    let mut noise = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as f32 / 4.0
    };
    let phase = seed as f32;
    let value = |n: usize| {
        let (x, y) = ((n % width) as f32, (n / width) as f32);
        110.0 + 60.0 * (0.35 * x + 0.2 * y + phase).sin()
    };
    let values = (0..3 * width * height).map(|n| (value(n) + noise()).round()).collect();
    Image::from_planes(width, height, values).unwrap()
}

/// An objective with a content and a style, the image to evaluate it at, and the gradient there.
fn problem(
    weights: Arc<Vgg>,
    layers: LossLayers,
    width: usize,
    height: usize,
) -> (ReferenceObjective, Image, Image, Losses) {
    let mut objective = objective(weights, layers);
    let grams = objective.grams(&picture(40, 33, 7)).unwrap();
    objective.set_style(&grams).unwrap();
    objective.set_content(&picture(width, height, 1)).unwrap();
    let image = picture(width, height, 2);
    let mut gradient = Image::filled(width, height, f32::NAN);
    let losses = objective.evaluate(&image, &WEIGHTS, &mut gradient).unwrap();
    (objective, image, gradient, losses)
}

fn check_gradient(layers: LossLayers, width: usize, height: usize) {
    check_gradient_with(Vgg::built_in().unwrap(), layers, width, height);
}

fn check_gradient_with(weights: Arc<Vgg>, layers: LossLayers, width: usize, height: usize) {
    // Small enough that hardly a ReLU or maximum changes sides, exact in binary.
    const STEP: f32 = 1.0 / 256.0;
    let (mut objective, image, gradient, _) = problem(weights, layers, width, height);
    let mut loss_at = |at: usize, step: f32| {
        let mut moved = image.clone();
        moved.data_mut()[at] += step;
        let losses = objective.evaluate(&moved, &WEIGHTS, &mut Image::filled(width, height, 0.0)).unwrap();
        WEIGHTS.content * losses.content + WEIGHTS.style * losses.style
    };
    let largest = gradient.data().iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    assert!(largest > 0.0);
    let (mut error, mut norm) = (0.0, 0.0);
    // Pixels all over the image, its corners and last row and column among them.
    let plane = width * height;
    let spread = (0..24).map(|n| (n * 7919) % (3 * plane));
    for at in spread.chain([0, width - 1, plane - width, plane - 1, 3 * plane - 1, 2 * plane + width]) {
        let expected = (loss_at(at, STEP) - loss_at(at, -STEP)) / f64::from(2.0 * STEP);
        error += (f64::from(gradient.data()[at]) - expected).powi(2);
        norm += expected.powi(2);
    }
    let relative = (error / norm).sqrt();
    assert!(relative < 2e-3, "{width}x{height}: relative error {relative}");
}

#[test]
fn gradient_with_max_pooling() {
    check_gradient(default_network(Pooling::Max), 16, 16);
}

#[test]
fn gradient_with_max_pooling_on_odd_sizes() {
    check_gradient(default_network(Pooling::Max), 19, 27);
    check_gradient(default_network(Pooling::Max), 17, 22);
}

#[test]
fn gradient_with_average_pooling_on_odd_sizes() {
    check_gradient(default_network(Pooling::Average), 27, 19);
}

#[test]
fn gradient_with_other_layers() {
    check_gradient(layers("relu1_1,relu4_2", "relu2_1", Pooling::Max), 21, 16);
    check_gradient(layers("relu2_2", "", Pooling::Max), 16, 21);
    check_gradient(layers("", "relu1_1,relu3_1", Pooling::Max), 18, 18);
}

#[test]
fn gradient_in_the_metrics_of_the_light_network() {
    let light = || Vgg::light().unwrap();
    check_gradient_with(light(), default_network(Pooling::Max), 20, 17);
    check_gradient_with(light(), layers("relu2_1,relu3_2", "relu2_1,relu4_1", Pooling::Average), 16, 22);
}

/// What PyTorch says, by `weights/light_network.py reference weights/vgg16-light.safetensors`.
#[test]
fn light_losses_and_gradients_are_those_of_pytorch() {
    const SIZE: (usize, usize) = (32, 24);
    let picture = |k: usize| {
        let value = |n: usize| {
            let (x, y, plane) = (n % SIZE.0, n / SIZE.0 % SIZE.1, n / (SIZE.0 * SIZE.1));
            ((x * (7 + k) + y * (13 + 2 * k) + x * y / 4 + 60 * plane + 40 * k) % 256) as f32
        };
        Image::from_planes(SIZE.0, SIZE.1, (0..3 * SIZE.0 * SIZE.1).map(value).collect()).unwrap()
    };
    let mut objective = objective(Vgg::light().unwrap(), default_network(Pooling::Max));
    let grams = objective.grams(&picture(2)).unwrap();
    objective.set_style(&grams).unwrap();
    objective.set_content(&picture(1)).unwrap();
    let is_close = |value: f64, expected: f64| (value - expected).abs() < 1e-3 * expected.abs();
    for (content, style, loss, norm, at_5_9) in [
        (1.0, 0.0, 0.255516946, 2.36878506e-4, [3.110364e-6, 5.280910e-6, 4.213325e-6]),
        (0.0, 1.0, 0.106682122, 7.85881246e-4, [1.889403e-6, -5.420820e-6, 1.737767e-6]),
    ] {
        let weights = LossWeights::new(content, style);
        let mut gradient = Image::filled(SIZE.0, SIZE.1, f32::NAN);
        let losses = objective.evaluate(&picture(0), &weights, &mut gradient).unwrap();
        assert!(is_close(losses.weighted(&weights), loss), "{losses:?}");
        let squares: f64 = gradient.data().iter().map(|value| f64::from(*value).powi(2)).sum();
        assert!(is_close(squares.sqrt(), norm), "{} {norm}", squares.sqrt());
        for (plane, expected) in at_5_9.into_iter().enumerate() {
            let value = gradient.data()[(plane * SIZE.1 + 5) * SIZE.0 + 9];
            assert!(is_close(value.into(), expected), "{value} {expected}");
        }
    }
}

#[test]
fn losses_follow_their_definition() {
    let (mut objective, image, ..) = problem(Vgg::built_in().unwrap(), layers("", "relu2_2", Pooling::Max), 20, 18);
    let style = objective.grams(&picture(40, 33, 7)).unwrap();
    let own = objective.grams(&image).unwrap();
    let distance: f64 = style[0].values.iter().zip(&own[0].values).map(|(s, x)| f64::from(x - s).powi(2)).sum();
    let losses = objective.evaluate(&image, &WEIGHTS, &mut Image::filled(20, 18, 0.0)).unwrap();
    let expected = distance / style[0].squared_norm();
    assert!((losses.style - expected).abs() < 1e-4 * expected, "{} {expected}", losses.style);
    assert_eq!(losses.content, 0.0);

    // At the content itself nothing is to be gained, one step beside it there is.
    let (mut objective, content, ..) =
        problem(Vgg::built_in().unwrap(), layers("relu1_1,relu2_1", "", Pooling::Max), 20, 18);
    objective.set_content(&content).unwrap();
    let mut gradient = Image::filled(20, 18, f32::NAN);
    assert_eq!(objective.evaluate(&content, &WEIGHTS, &mut gradient).unwrap().content, 0.0);
    assert_eq!(gradient, Image::filled(20, 18, 0.0));
    objective.set_content(&image).unwrap();
    assert!(objective.evaluate(&picture(20, 18, 5), &WEIGHTS, &mut gradient).unwrap().content > 0.01);
}

#[test]
fn gram_matrices_are_symmetric_and_of_the_right_scale() {
    let mut objective = objective(Vgg::built_in().unwrap(), default_network(Pooling::Max));
    let grams = objective.grams(&picture(64, 48, 3)).unwrap();
    assert_eq!(grams.len(), 4);
    for (gram, side) in grams.iter().zip([64, 128, 256, 512]) {
        assert_eq!(gram.values.len(), side * side);
        for (row, column) in [(0, 1), (3, 17), (side - 1, 5)] {
            let (one, other) = (gram.values[row * side + column], gram.values[column * side + row]);
            assert!((one - other).abs() <= 1e-5 * one.abs().max(1e-3));
        }
    }
    // The same picture twice as large in each direction, by repetition, has nearly the same statistics, where
    // they do not depend on the zeros around it as much as in the deep layers of a small picture.
    let small = picture(64, 48, 3);
    let mut tiled = Image::filled(128, 96, 0.0);
    for plane in 0..3 {
        for y in 0..96 {
            for x in 0..128 {
                tiled.data_mut()[(plane * 96 + y) * 128 + x] = small.data()[(plane * 48 + y % 48) * 64 + x % 64];
            }
        }
    }
    let of_tiled = objective.grams(&tiled).unwrap();
    for (one, other) in grams.iter().zip(&of_tiled).take(2) {
        let ratio = other.squared_norm() / one.squared_norm();
        assert!((0.7..1.4).contains(&ratio), "{}: {ratio}", one.layer);
    }
}

#[test]
fn images_too_small_for_the_network_are_refused() {
    let mut objective = objective(Vgg::built_in().unwrap(), default_network(Pooling::Max));
    let message = objective.set_content(&picture(40, 7, 1)).unwrap_err().to_string();
    assert!(message.contains("40x7") && message.contains("relu4_3") && message.contains("8x8"), "{message}");
    assert!(objective.grams(&picture(3, 40, 1)).is_err());
}

#[test]
fn gram_matrices_that_do_not_fit_are_refused() {
    let (weights, layers) = (Vgg::built_in().unwrap(), layers("", "relu1_1", Pooling::Max));
    let processor = Processor::detect(1).unwrap();
    let mut objectives: [Box<dyn Objective>; 2] = [
        Box::new(objective(weights.clone(), layers.clone())),
        objective::open(weights.clone(), layers, &Device::Cpu, &processor).unwrap(),
    ];
    let of_other_layer =
        objective(weights, self::layers("", "relu2_1", Pooling::Max)).grams(&picture(16, 16, 1)).unwrap();
    for objective in &mut objectives {
        let mut grams = objective.grams(&picture(16, 16, 1)).unwrap();
        objective.set_style(&grams).unwrap();
        let error = objective.set_style(&of_other_layer).unwrap_err();
        assert!(matches!(error, Error::GramLayer { .. }), "{error}");
        assert_eq!(error.to_string(), "a Gram matrix is of relu2_1, but the style layers are relu1_1");
        grams[0].values.pop();
        let error = objective.set_style(&grams).unwrap_err();
        assert!(matches!(error, Error::GramSize { expected: 4096, actual: 4095, .. }), "{error}");
    }
}

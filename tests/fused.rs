// SPDX-License-Identifier: MPL-2.0

//! The fused objective against the reference, on every kind of kernels that this machine has.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use candle_core::Tensor;
use gstneuralstyle::{
    Processor,
    image::Image,
    network::{Pooling, Vgg, parse_layers},
    objective::{self, Device, LossLayers, LossWeights, Losses, Objective, ReferenceObjective},
    processor::{self, Precision},
};

static VGG: LazyLock<Arc<Vgg>> = LazyLock::new(|| Vgg::built_in().unwrap());

const WEIGHTS: LossWeights = LossWeights::new(1.0, 10.0);

/// Smooth waves of colour with noise on them.
fn picture((width, height): (usize, usize), seed: u32) -> Image {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let values = (0..3 * width * height).map(|n| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let (x, y) = ((n % width) as f32, (n / width) as f32);
        let wave = (x * 0.11 * seed as f32).sin() * 50.0 + (y * 0.07).cos() * 50.0;
        (128.0 + wave + (state >> 24) as f32 * 0.2).clamp(0.0, 255.0)
    });
    Image::from_planes(width, height, values.collect()).unwrap()
}

fn layers(content: &str, style: &str, pooling: Pooling) -> LossLayers {
    LossLayers::new(parse_layers(content).unwrap(), parse_layers(style).unwrap(), pooling)
}

fn open(layers: LossLayers, processor: Processor) -> Box<dyn Objective> {
    objective::open(VGG.clone(), layers, &Device::Cpu, &processor).unwrap()
}

fn evaluate(objective: &mut dyn Objective, size: (usize, usize)) -> (Losses, Image) {
    let grams = objective.grams(&picture((size.1 + 3, size.0 + 5), 7)).unwrap();
    objective.set_style(&grams).unwrap();
    objective.set_content(&picture(size, 2)).unwrap();
    let mut gradient = Image::filled(size.0, size.1, f32::NAN);
    let losses = objective.evaluate(&picture(size, 3), &WEIGHTS, &mut gradient).unwrap();
    (losses, gradient)
}

fn distance(a: &Image, b: &Image) -> f64 {
    let squares = a.data().iter().zip(b.data()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let norm = b.data().iter().map(|b| f64::from(*b).powi(2)).sum::<f64>();
    (squares / norm.max(1e-30)).sqrt()
}

/// The cosine of the angle between two gradients.
fn cosine(a: &Image, b: &Image) -> f64 {
    let product = |a: &Image, b: &Image| a.data().iter().zip(b.data()).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

/// Weights that nobody trained, with the convolutions `conv<block>_<number>` of these numbers of channels.
fn made_up(blocks: &[&[usize]]) -> Arc<Vgg> {
    let (mut tensors, mut inputs, mut state) = (HashMap::new(), 3, 1_u32);
    let mut tensor = |shape: &[usize], scale: f32| {
        let values = (0..shape.iter().product()).map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            // Half precision, in which filters are packed, has these numbers.
            ((state >> 22) as f32 / 512.0 - 1.0) * scale.log2().round().exp2()
        });
        Tensor::from_vec(values.collect::<Vec<f32>>(), shape, &candle_core::Device::Cpu).unwrap()
    };
    for (block, channels) in blocks.iter().enumerate() {
        for (number, &outputs) in channels.iter().enumerate() {
            let name = format!("conv{}_{}", block + 1, number + 1);
            // He et al. 2015: feature maps keep their scale from layer to layer.
            let weight = tensor(&[outputs, inputs, 3, 3], (6.0 / (9 * inputs) as f32).sqrt());
            tensors.insert(format!("{name}.weight"), weight);
            tensors.insert(format!("{name}.bias"), tensor(&[outputs], 5.0));
            inputs = outputs;
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    Vgg::from_file(path).unwrap()
}

fn check(size: (usize, usize), layers: &LossLayers) {
    check_weights(&VGG, size, layers);
}

fn check_weights(weights: &Arc<Vgg>, size: (usize, usize), layers: &LossLayers) {
    let processor = Processor::detect(1).unwrap();
    let mut reference = ReferenceObjective::new(weights.clone(), layers.clone(), processor).unwrap();
    let (expected, expected_gradient) = evaluate(&mut reference, size);
    for kind in processor::available() {
        let mut fused =
            objective::open(weights.clone(), layers.clone(), &Device::Cpu, &Processor::new(kind, 2).unwrap()).unwrap();
        let (losses, gradient) = evaluate(fused.as_mut(), size);
        let (error, cosine) = (distance(&gradient, &expected_gradient), cosine(&gradient, &expected_gradient));
        let off = |value: f64, expected: f64| (value - expected).abs() / expected.max(1e-12);
        let (content, style) = (off(losses.content, expected.content), off(losses.style, expected.style));
        let found = format!(
            "{size:?} {kind:?} {layers:?}: off by {error:.1e} in the gradient (cosine {cosine:.5}), {content:.1e} in the \
             content loss, {style:.1e} in the style loss"
        );
        println!("{found}");
        let is_close = match kind.precision() {
            Precision::Bf16 => cosine > 0.995 && content < 0.02 && style < 0.02,
            _ => error < 1e-3 && content < 1e-4 && style < 1e-4,
        };
        assert!(is_close, "{found}");
    }
}

#[test]
fn equals_the_reference_at_many_sizes() {
    for (n, size) in [(16, 16), (17, 31), (33, 18), (50, 47), (23, 64), (130, 70), (8, 100)].into_iter().enumerate() {
        let pooling = if n % 2 == 0 { Pooling::Max } else { Pooling::Average };
        check(size, &layers("relu3_3", "relu1_2, relu2_2, relu3_3, relu4_3", pooling));
    }
}

#[test]
fn equals_the_reference_with_many_layers() {
    for (content, style) in [
        ("relu1_1", ""),
        ("", "relu1_1"),
        ("relu1_1, relu1_2", "relu1_1"),
        ("relu2_1", "relu1_1, relu2_1"),
        ("relu4_2", ""),
        ("", "relu1_1, relu2_1, relu3_1, relu4_1"),
        ("relu1_2, relu4_3", "relu3_2"),
        ("relu2_2", "relu2_2, relu3_1, relu3_2, relu3_3"),
    ] {
        for pooling in [Pooling::Max, Pooling::Average] {
            check((45, 38), &layers(content, style, pooling));
        }
    }
}

#[test]
fn equals_the_reference_with_all_layers_of_vgg19() {
    let weights = made_up(&[&[32, 32], &[32, 64], &[64; 4], &[96; 4], &[64, 96, 64, 96]]);
    assert_eq!(weights.layers().len(), 16);
    for (content, style) in [
        ("relu5_4", "relu1_1, relu5_4"),
        ("relu4_4", "relu1_2, relu2_2, relu3_4, relu4_4, relu5_1"),
        ("relu5_2", "relu3_4, relu5_3"),
    ] {
        for pooling in [Pooling::Max, Pooling::Average] {
            check_weights(&weights, (37, 50), &layers(content, style, pooling));
        }
    }
}

#[test]
fn equals_the_reference_with_any_number_of_channels() {
    for first in [32, 96, 160] {
        let weights = made_up(&[&[first, 160], &[96, 32], &[224, 96]]);
        check_weights(&weights, (33, 26), &layers("relu1_1, relu3_1", "relu1_2, relu2_1, relu3_2", Pooling::Max));
        check_weights(&weights, (18, 40), &layers("relu2_2", "relu1_1, relu2_2", Pooling::Average));
    }
}

#[test]
fn equals_the_reference_with_the_metrics_of_the_light_network() {
    let light = Vgg::light().unwrap();
    for (size, content, style, pooling) in [
        ((64, 48), "relu3_3", "relu1_2, relu2_2, relu3_3, relu4_3", Pooling::Max),
        ((33, 18), "relu3_3", "relu1_2, relu2_2, relu3_3, relu4_3", Pooling::Average),
        ((45, 39), "relu3_2, relu4_2", "relu1_1, relu2_1, relu4_1", Pooling::Max),
        ((17, 31), "relu1_1, relu2_2", "relu2_2, relu3_1", Pooling::Max),
        ((40, 23), "relu4_3", "", Pooling::Max),
    ] {
        check_weights(&light, size, &layers(content, style, pooling));
    }
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let layers = layers("relu3_3", "relu1_2, relu2_2, relu3_3, relu4_3", Pooling::Max);
    for (weights, kind) in [VGG.clone(), Vgg::light().unwrap()]
        .iter()
        .flat_map(|weights| processor::available().map(move |kind| (weights, kind)))
    {
        let results = [1, 2, 3].map(|threads| {
            let processor = Processor::new(kind, threads).unwrap();
            let mut fused = objective::open(weights.clone(), layers.clone(), &Device::Cpu, &processor).unwrap();
            evaluate(fused.as_mut(), (131, 75))
        });
        assert!(results[0] == results[1] && results[0] == results[2], "{kind:?}");
    }
}

#[test]
fn no_layers_no_gradient() {
    let mut fused = open(layers("", "", Pooling::Max), Processor::detect(1).unwrap());
    let (losses, gradient) = evaluate(fused.as_mut(), (20, 20));
    assert_eq!(losses, Losses::default());
    assert!(gradient.data().iter().all(|value| *value == 0.0));
}

#[test]
fn content_may_change_its_size() {
    let layers = layers("relu3_3", "relu1_2, relu4_3", Pooling::Max);
    let mut fused = open(layers.clone(), Processor::detect(2).unwrap());
    let first = evaluate(fused.as_mut(), (40, 40));
    evaluate(fused.as_mut(), (64, 24));
    assert_eq!(evaluate(fused.as_mut(), (40, 40)), first);
    let mut gradient = Image::filled(64, 24, 0.0);
    assert!(fused.evaluate(&picture((64, 24), 1), &WEIGHTS, &mut gradient).is_err());
}

// SPDX-License-Identifier: MPL-2.0

//! The objective on a graphics card, or on a driver that computes on the processor like one: those of Debian are in the
//! package mesa-vulkan-drivers.

use std::sync::{Arc, LazyLock};

use gstneuralstyle::{
    Error, Processor,
    gpu::{AdapterChoice, Gpu, adapters},
    image::{Frame, Image, PackedFormat},
    network::{Pooling, Vgg, parse_layers},
    objective::{
        self, Device, GpuObjective, LossLayers, LossWeights, Losses, Objective, ReferenceObjective, Start, StepLength,
    },
    processor::Precision,
    style,
    stylizer::{Settings, Stylizer},
};

static VGG: LazyLock<Arc<Vgg>> = LazyLock::new(|| Vgg::built_in().unwrap());

/// The networks, with their names for messages.
static NETWORKS: LazyLock<[(&str, Arc<Vgg>); 2]> =
    LazyLock::new(|| [("vgg16", VGG.clone()), ("light", Vgg::light().unwrap())]);

static GPU: LazyLock<Arc<Gpu>> = LazyLock::new(|| {
    let gpu = Gpu::open(&AdapterChoice::Number(0)).unwrap_or_else(|error| {
        panic!("{error}; these tests take a driver such as that of mesa-vulkan-drivers, which needs no graphics card")
    });
    println!("on {}", gpu.name());
    gpu
});

const WEIGHTS: LossWeights = LossWeights::new(1.0, 10.0).with_total_variation(0.5).with_grain(30.0).with_temporal(20.0);

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

fn default_layers(pooling: Pooling) -> LossLayers {
    layers("relu3_3", "relu1_2, relu2_2, relu3_3, relu4_3", pooling)
}

fn gpu_objective(weights: &Arc<Vgg>, layers: &LossLayers) -> GpuObjective {
    GpuObjective::new(weights, layers.clone(), &GPU).unwrap()
}

fn evaluate(objective: &mut dyn Objective, size: (usize, usize)) -> (Losses, Image) {
    let grams = objective.grams(&picture((size.1 + 3, size.0 + 5), 7)).unwrap();
    objective.set_style(&grams).unwrap();
    objective.set_content(&picture(size, 2)).unwrap();
    let mut gradient = Image::filled(size.0, size.1, f32::NAN);
    let losses = objective.evaluate(&picture(size, 3), &WEIGHTS, &mut gradient).unwrap();
    (losses, gradient)
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let norm = b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>();
    (squares / norm.max(1e-30)).sqrt()
}

fn off(value: f64, expected: f64) -> f64 {
    (value - expected).abs() / expected.max(1e-12)
}

/// How far off a gradient may be: features in f16 flip a ReLU or a maximum here and there.
fn tolerance() -> f64 {
    if GPU.has_matrix_units() { 0.1 } else { 1e-3 }
}

fn check(size: (usize, usize), layers: &LossLayers) {
    for (name, weights) in &*NETWORKS {
        check_network(name, weights, size, layers);
    }
}

fn check_network(name: &str, weights: &Arc<Vgg>, size: (usize, usize), layers: &LossLayers) {
    let processor = Processor::detect(1).unwrap();
    let mut reference = ReferenceObjective::new(weights.clone(), layers.clone(), processor).unwrap();
    let (expected, expected_gradient) = evaluate(&mut reference, size);
    let (losses, gradient) = evaluate(&mut gpu_objective(weights, layers), size);
    let error = distance(gradient.data(), expected_gradient.data());
    let (content, style) = (off(losses.content, expected.content), off(losses.style, expected.style));
    let found = format!(
        "{name} {size:?} {layers:?}: off by {error:.1e} in the gradient, {content:.1e} in the content loss, {style:.1e} in \
         the style loss"
    );
    println!("{found}");
    assert!(error < tolerance() && content < tolerance() && style < tolerance(), "{found}");
}

#[test]
fn equals_the_reference_at_many_sizes() {
    for (n, size) in [(16, 16), (17, 31), (33, 18), (50, 29), (8, 70)].into_iter().enumerate() {
        let layers = default_layers(if n % 2 == 0 { Pooling::Max } else { Pooling::Average });
        check(size, &layers);
    }
}

#[test]
fn equals_the_reference_with_many_layers() {
    for (n, (content, style)) in [
        ("relu1_1", ""),
        ("", "relu1_1"),
        ("relu1_1, relu1_2", "relu1_1"),
        ("relu2_1", "relu1_1, relu2_1"),
        ("relu4_2", ""),
        ("relu1_2, relu4_3", "relu3_2"),
        ("relu2_2", "relu2_2, relu3_1, relu3_2, relu3_3"),
    ]
    .into_iter()
    .enumerate()
    {
        let layers = layers(content, style, if n % 2 == 0 { Pooling::Max } else { Pooling::Average });
        check((21, 18), &layers);
    }
}

#[test]
fn the_same_input_gives_the_same_bits() {
    for (name, weights) in &*NETWORKS {
        let mut objective = gpu_objective(weights, &default_layers(Pooling::Max));
        let first = evaluate(&mut objective, (40, 24));
        evaluate(&mut objective, (24, 33));
        assert!(evaluate(&mut objective, (40, 24)) == first, "{name}");
        assert!(evaluate(&mut gpu_objective(weights, &default_layers(Pooling::Max)), (40, 24)) == first, "{name}");
        let mut gradient = Image::filled(24, 33, 0.0);
        assert!(objective.evaluate(&picture((24, 33), 1), &WEIGHTS, &mut gradient).is_err());
    }
}

#[test]
fn no_layers_no_gradient() {
    let (losses, gradient) = evaluate(&mut gpu_objective(&VGG, &layers("", "", Pooling::Max)), (20, 20));
    assert_eq!(losses, Losses::default());
    assert!(gradient.data().iter().all(|value| *value == 0.0));
}

/// Some steps from an image whose left half is held by the temporal loss. Returns the image and the losses before the
/// last step.
fn optimize(objective: &mut dyn Objective, size: (usize, usize)) -> (Image, Losses) {
    evaluate(objective, size);
    let trust = (0..size.0 * size.1).map(|n| f32::from(n % size.0 < size.0 / 2)).collect();
    let mut start = Start::from(picture(size, 3));
    start.trust = Some(trust);
    let mut optimization = objective.optimize(start).unwrap();
    assert_eq!(optimization.losses().unwrap(), Losses::default());
    for _ in 0..3 {
        optimization.step(StepLength::new(1.0, 4.0), &WEIGHTS).unwrap();
    }
    let losses = optimization.losses().unwrap();
    let (image, optimizer) = optimization.finish().unwrap();
    // It goes on where it was, in one part or in two.
    let mut start = Start::from(image);
    start.optimizer = optimizer;
    let mut optimization = objective.optimize(start).unwrap();
    optimization.step(StepLength::new(1.0, 4.0), &WEIGHTS).unwrap();
    (optimization.finish().unwrap().0, losses)
}

#[test]
fn steps_are_those_of_the_processor() {
    let size = (37, 22);
    let [vgg16, light] = &*NETWORKS;
    for ((name, weights), layers) in [
        (vgg16, default_layers(Pooling::Average)),
        (light, default_layers(Pooling::Max)),
        (vgg16, layers("", "", Pooling::Max)),
    ] {
        let processor = Processor::with_precision(2, Precision::F32).unwrap();
        let mut fused = objective::open(weights.clone(), layers.clone(), &Device::Cpu, &processor).unwrap();
        let (expected, expected_losses) = optimize(fused.as_mut(), size);
        let (image, losses) = optimize(&mut gpu_objective(weights, &layers), size);
        let difference = image.data().iter().zip(expected.data()).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
        let mean = difference / image.data().len() as f64;
        // Adam takes whole steps where the gradient is next to nothing, whichever way that points.
        assert!(mean < 0.05, "{name} {layers:?}: the images differ by {mean} levels");
        for (value, expected) in [
            (losses.content, expected_losses.content),
            (losses.style, expected_losses.style),
            (losses.total_variation, expected_losses.total_variation),
            (losses.grain, expected_losses.grain),
            (losses.temporal, expected_losses.temporal),
        ] {
            assert!(off(value, expected) < 0.02, "{name} {layers:?}: {losses:?} {expected_losses:?}");
        }
    }
}

#[test]
fn frames_are_painted_as_on_the_processor() {
    let size = (48, 32);
    let mut settings = Settings::default();
    (settings.iterations, settings.first_iterations) = (1, 3);
    let paint = |device: Device| {
        let processor = Processor::with_precision(2, Precision::F32).unwrap();
        let mut stylizer = Stylizer::new(VGG.clone(), device, processor, settings.clone()).unwrap();
        stylizer.set_style(style::load("woodcut").unwrap()).unwrap();
        let mut frames = Vec::new();
        for _ in 0..2 {
            let values = picture(size, 2);
            let mut pixels: Vec<u8> = (0..size.0 * size.1)
                .flat_map(|n| [0, 1, 2].map(|p| values.data()[p * size.0 * size.1 + n] as u8))
                .collect();
            let mut frame = Frame::new(&mut pixels, size, 3 * size.0, PackedFormat::RGB).unwrap();
            let report = stylizer.stylize(&mut frame).unwrap();
            assert!(report.loss.is_finite() && report.loss > 0.0);
            frames.extend(pixels);
        }
        frames
    };
    let (cpu, gpu) = (paint(Device::Cpu), paint(Device::Gpu(AdapterChoice::Number(0))));
    let difference: f64 = cpu.iter().zip(&gpu).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
    assert!(difference / (cpu.len() as f64) < 1.0, "{}", difference / cpu.len() as f64);
}

#[test]
fn adapters_are_found_by_name_and_number() {
    let adapter = &adapters()[0];
    let part = adapter.name().split_whitespace().next().unwrap().to_uppercase();
    for choice in [AdapterChoice::Named(part), AdapterChoice::Number(0)] {
        // Opened once, shared from then on.
        assert!(Arc::ptr_eq(&Gpu::open(&choice).unwrap(), &GPU));
    }
    for choice in [AdapterChoice::Named("no such card".to_owned()), AdapterChoice::Number(99)] {
        let error = Gpu::open(&choice).unwrap_err();
        assert!(matches!(error, Error::Device { .. }), "{error}");
        assert!(error.to_string().contains(adapter.name()), "{error}");
    }
    if adapter.is_software() {
        assert!(Gpu::open(&AdapterChoice::First).is_err(), "a software adapter is only taken by name or number");
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut objective = gpu_objective(&VGG, &layers("relu1_1", "", Pooling::Max));
    // Its feature maps would take 4 GB at once, more than adapters bind.
    let error = objective.set_content(&Image::filled(4_000, 4_000, 0.0)).unwrap_err();
    assert!(matches!(error, Error::Gpu { .. }), "{error}");
    evaluate(&mut objective, (20, 20));
}

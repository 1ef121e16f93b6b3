// SPDX-License-Identifier: MPL-2.0

//! Each kernel at the shapes that an image of 256x256 has in VGG, and one iteration at that size.

use std::sync::{Arc, LazyLock};

use divan::{Bencher, counter::ItemsCount};
use gstneuralstyle::{
    Processor,
    image::Image,
    network::{Layer, Pooling, Vgg, parse_layers},
    objective::{FusedObjective, LossLayers, LossWeights, Objective},
    processor::{
        self, Engine, Kind, LANES, Lanes,
        kernels::{
            self, ContentTarget, Convolution, Direction, Epilogue, Filters, FirstConvolution, GramMatrix, Incoming,
            Shape,
        },
    },
};

const SIDE: usize = 256;
const LAYERS: [&str; 5] = ["relu1_2", "relu2_2", "relu3_3", "relu4_1", "relu4_3"];
const GRAM_LAYERS: [&str; 4] = ["relu1_2", "relu2_2", "relu3_3", "relu4_3"];

static VGG: LazyLock<Arc<Vgg>> = LazyLock::new(|| Arc::new(Vgg::built_in().unwrap()));

fn main() {
    divan::main();
}

fn kinds() -> Vec<Kind> {
    processor::available().collect()
}

fn each(layers: &[&'static str]) -> Vec<(Kind, &'static str)> {
    kinds().into_iter().flat_map(|kind| layers.iter().map(move |layer| (kind, *layer))).collect()
}

fn convolution(layer: &str) -> &'static Convolution {
    VGG.up_to(layer.parse().ok()).last().unwrap().1
}

fn shape(layer: &str, channels: usize) -> Shape {
    let side = SIDE >> layer.parse::<Layer>().unwrap().poolings();
    Shape { channels, height: side, width: side }
}

/// Feature maps, of half as many numbers with the same bits each if the kind is one of bfloat16.
fn features(kind: Kind, shape: Shape) -> Vec<Lanes> {
    let value = |n: usize| ((n * 7919) % 251) as f32 - 100.0;
    (0..kind.lanes(shape)).map(|n| Lanes(std::array::from_fn(|lane| value(16 * n + lane).max(0.0)))).collect()
}

fn image(seed: usize) -> Image {
    let values = (0..3 * SIDE * SIDE).map(|n| ((n * 7919 * seed + n / SIDE * 31) % 256) as f32);
    Image::from_planes(SIDE, SIDE, values.collect()).unwrap()
}

#[divan::bench(args = each(&LAYERS))]
fn convolve(bencher: Bencher, (kind, layer): (Kind, &str)) {
    let convolution = convolution(layer);
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let filters = Filters::new(&mut engine, convolution, Direction::Forward);
    let (inputs, outputs) = (shape(layer, convolution.inputs), shape(layer, convolution.outputs));
    let (input, mut output) = (features(kind, inputs), features(kind, outputs));
    let products = inputs.channels * outputs.channels * 9 * outputs.positions();
    bencher.counter(ItemsCount::new(products)).bench_local(|| {
        let epilogue = Epilogue::Relu { bias: &convolution.bias, positive: None };
        kernels::convolve(&mut engine, inputs, &input, &filters, epilogue, &mut output);
    });
}

#[divan::bench(args = each(&LAYERS))]
fn convolve_back(bencher: Bencher, (kind, layer): (Kind, &str)) {
    let convolution = convolution(layer);
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let filters = Filters::new(&mut engine, convolution, Direction::Backward);
    let (inputs, outputs) = (shape(layer, convolution.inputs), shape(layer, convolution.outputs));
    let (mut input, output) = (features(kind, inputs), features(kind, outputs));
    let mask = vec![0x5555; kind.masks(inputs)];
    let products = inputs.channels * outputs.channels * 9 * outputs.positions();
    bencher.counter(ItemsCount::new(products)).bench_local(|| {
        kernels::convolve(&mut engine, outputs, &output, &filters, Epilogue::Masked(&mask), &mut input);
    });
}

#[divan::bench(args = each(&LAYERS))]
fn pack_filters(bencher: Bencher, (kind, layer): (Kind, &str)) {
    let convolution = convolution(layer);
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    bencher.bench_local(|| Filters::new(&mut engine, convolution, Direction::Backward));
}

#[divan::bench(args = kinds())]
fn first_convolution(bencher: Bencher, kind: Kind) {
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let first = FirstConvolution::new(&engine, convolution("relu1_1"), VGG.mean());
    let (image, mut output) = (image(1), features(kind, shape("relu1_1", 64)));
    bencher.bench_local(|| first.forward(&mut engine, (SIDE, SIDE), image.data(), None, &mut output));
}

#[divan::bench(args = kinds())]
fn first_convolution_gradient(bencher: Bencher, kind: Kind) {
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let first = FirstConvolution::new(&engine, convolution("relu1_1"), VGG.mean());
    let shape = shape("relu1_1", 64);
    let (mut image, gradient) = (image(1), features(kind, shape));
    bencher.bench_local(|| first.backward(&mut engine, shape, &gradient, image.data_mut()));
}

#[divan::bench(args = kinds())]
fn pool(bencher: Bencher, kind: Kind) {
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let shape = shape("relu1_2", 64);
    let (input, mut output) = (features(kind, shape), features(kind, shape.pooled()));
    bencher.bench_local(|| kernels::pool(&mut engine, shape, Pooling::Max, &input, &mut output));
}

#[divan::bench(args = each(&GRAM_LAYERS))]
fn gram(bencher: Bencher, (kind, layer): (Kind, &str)) {
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let shape = shape(layer, convolution(layer).outputs);
    let features = features(kind, shape);
    let mut gram = GramMatrix::new(shape);
    bencher.bench_local(|| gram.compute(&mut engine, &features));
}

#[divan::bench(args = each(&GRAM_LAYERS))]
fn loss_gradient(bencher: Bencher, (kind, layer): (Kind, &str)) {
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let shape = shape(layer, convolution(layer).outputs);
    let target = features(kind, shape);
    let incoming = features(kind, shape.pooled());
    let mut gram = GramMatrix::new(shape);
    let style = gram.difference(&mut engine, &vec![Lanes::ZERO; shape.channels * shape.blocks()], 0.0).1.to_vec();
    let (mut maps, mut squares) = (features(kind, shape), Vec::new());
    bencher.bench_local(|| {
        let content = ContentTarget { features: &target, slope: 0.0 };
        let incoming = Incoming::Pooled(Pooling::Max, &incoming);
        kernels::gradient_at(&mut engine, shape, &mut maps, Some(&style), Some(content), incoming, &mut squares)
    });
}

/// How many threads there are, if they have AMX.
#[cfg(target_arch = "x86_64")]
fn threads_with_amx() -> Vec<usize> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    kinds().contains(&Kind::Amx).then_some(threads).into_iter().collect()
}

/// What AMX can do at best: products of what is in the first-level cache, on all threads.
#[cfg(target_arch = "x86_64")]
#[divan::bench(args = threads_with_amx())]
fn amx_peak(bencher: Bencher, threads: usize) {
    use kernels::amx::tiles::{Product, SIDE, STEP, Steps, Tiles};
    const PRODUCTS: usize = 20_000;
    const STEPS: usize = 16;
    let multiply = || {
        let tiles = Tiles::configure();
        let (a, b, mut sums) = ([Lanes::ZERO; 2 * LANES], [Lanes::ZERO; STEPS * STEP], [Lanes::ZERO; 2 * SIDE]);
        let steps = Steps { rows: 1, pitch: 0, columns: STEPS, stride: 0 };
        for _ in 0..PRODUCTS {
            tiles.multiply(Product { a: &a, steps, b: &b, next: &b, sums: &mut sums, sums_pitch: 2, fresh: true });
        }
    };
    bencher.counter(ItemsCount::new(threads * PRODUCTS * STEPS * SIDE * SIDE * SIDE)).bench_local(|| {
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(multiply))));
    });
}

#[divan::bench(args = kinds())]
fn iteration(bencher: Bencher, kind: Kind) {
    let layers = LossLayers {
        content_layers: parse_layers("relu3_3").unwrap(),
        style_layers: parse_layers("relu1_2, relu2_2, relu3_3, relu4_3").unwrap(),
        pooling: Pooling::Max,
    };
    let mut objective = FusedObjective::new(VGG.clone(), layers, Processor::new(kind, 0).unwrap()).unwrap();
    let grams = objective.grams(&image(3)).unwrap();
    objective.set_style(&grams).unwrap();
    objective.set_content(&image(5)).unwrap();
    let (image, mut gradient) = (image(1), image(1));
    let weights = LossWeights { content: 1.0, style: 10.0, ..LossWeights::default() };
    bencher.bench_local(|| objective.evaluate(&image, &weights, &mut gradient).unwrap());
}

// SPDX-License-Identifier: MPL-2.0

//! Each kernel at the shapes that an image of 256x256 has in VGG, and one iteration at that size.

use std::sync::{Arc, LazyLock};

use divan::{Bencher, counter::ItemsCount};
use gstneuralstyle::{
    Processor,
    image::Image,
    network::{Layer, Pooling, Vgg},
    objective::{self, Device, LossWeights, StepLength},
    processor::{
        self, Engine, Kind, LANES, Lanes,
        kernels::{
            ContentTarget, Convolution, Direction, Epilogue, FirstConvolution, Float32, GramMatrix, Incoming, Kernels,
            Shape,
        },
    },
    stylizer::Settings,
};

/// Calls a function with the backend of a kind of instructions.
macro_rules! with_kernels {
    ($function:ident($bencher:expr, $kind:expr $(, $layer:expr)?)) => {
        match $kind {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => $function::<processor::kernels::Amx>($bencher, $kind $(, $layer)?),
            kind => $function::<Float32>($bencher, kind $(, $layer)?),
        }
    };
}

const SIDE: usize = 256;
const LAYERS: [&str; 5] = ["relu1_2", "relu2_2", "relu3_3", "relu4_1", "relu4_3"];
const GRAM_LAYERS: [&str; 4] = ["relu1_2", "relu2_2", "relu3_3", "relu4_3"];

static VGG: LazyLock<Arc<Vgg>> = LazyLock::new(|| Vgg::built_in().unwrap());

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

/// Feature maps; in bfloat16 the same bits are twice as many numbers.
fn features<K: Kernels>(shape: Shape) -> Vec<Lanes> {
    let value = |n: usize| ((n * 7919) % 251) as f32 - 100.0;
    (0..K::lanes(shape)).map(|n| Lanes(std::array::from_fn(|lane| value(16 * n + lane).max(0.0)))).collect()
}

fn image(seed: usize) -> Image {
    let values = (0..3 * SIDE * SIDE).map(|n| ((n * 7919 * seed + n / SIDE * 31) % 256) as f32);
    Image::from_planes(SIDE, SIDE, values.collect()).unwrap()
}

#[divan::bench(args = each(&LAYERS))]
fn convolve(bencher: Bencher, (kind, layer): (Kind, &str)) {
    with_kernels!(convolve_with(bencher, kind, layer));
}

fn convolve_with<K: Kernels>(bencher: Bencher, kind: Kind, layer: &str) {
    let convolution = convolution(layer);
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let filters = K::pack(&mut engine, convolution, Direction::Forward);
    let (inputs, outputs) = (shape(layer, convolution.inputs), shape(layer, convolution.outputs));
    let (input, mut output) = (features::<K>(inputs), features::<K>(outputs));
    let products = inputs.channels * outputs.channels * 9 * outputs.positions();
    bencher.counter(ItemsCount::new(products)).bench_local(|| {
        let epilogue = Epilogue::Relu { bias: &convolution.bias, positive: None };
        K::convolve(&mut engine, inputs, &input, &filters, epilogue, &mut output);
    });
}

#[divan::bench(args = each(&LAYERS))]
fn convolve_back(bencher: Bencher, (kind, layer): (Kind, &str)) {
    with_kernels!(convolve_back_with(bencher, kind, layer));
}

fn convolve_back_with<K: Kernels>(bencher: Bencher, kind: Kind, layer: &str) {
    let convolution = convolution(layer);
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let filters = K::pack(&mut engine, convolution, Direction::Backward);
    let (inputs, outputs) = (shape(layer, convolution.inputs), shape(layer, convolution.outputs));
    let (mut input, output) = (features::<K>(inputs), features::<K>(outputs));
    let mask = vec![0x5555; K::masks(inputs)];
    let products = inputs.channels * outputs.channels * 9 * outputs.positions();
    bencher.counter(ItemsCount::new(products)).bench_local(|| {
        K::convolve(&mut engine, outputs, &output, &filters, Epilogue::Masked(&mask), &mut input);
    });
}

#[divan::bench(args = each(&LAYERS))]
fn pack_filters(bencher: Bencher, (kind, layer): (Kind, &str)) {
    with_kernels!(pack_filters_with(bencher, kind, layer));
}

fn pack_filters_with<K: Kernels>(bencher: Bencher, kind: Kind, layer: &str) {
    let convolution = convolution(layer);
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    bencher.bench_local(|| K::pack(&mut engine, convolution, Direction::Backward));
}

#[divan::bench(args = kinds())]
fn first_convolution(bencher: Bencher, kind: Kind) {
    with_kernels!(first_convolution_with(bencher, kind));
}

fn first_convolution_with<K: Kernels>(bencher: Bencher, kind: Kind) {
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let first = FirstConvolution::new(&engine, convolution("relu1_1"), VGG.mean());
    let (image, mut output) = (image(1), features::<K>(shape("relu1_1", 64)));
    bencher.bench_local(|| K::convolve_image(&mut engine, (SIDE, SIDE), image.data(), &first, None, &mut output));
}

#[divan::bench(args = kinds())]
fn first_convolution_gradient(bencher: Bencher, kind: Kind) {
    with_kernels!(first_convolution_gradient_with(bencher, kind));
}

fn first_convolution_gradient_with<K: Kernels>(bencher: Bencher, kind: Kind) {
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let first = FirstConvolution::new(&engine, convolution("relu1_1"), VGG.mean());
    let shape = shape("relu1_1", 64);
    let (mut image, gradient) = (image(1), features::<K>(shape));
    bencher.bench_local(|| K::image_gradient(&mut engine, shape, &gradient, &first, image.data_mut()));
}

#[divan::bench(args = kinds())]
fn pool(bencher: Bencher, kind: Kind) {
    with_kernels!(pool_with(bencher, kind));
}

fn pool_with<K: Kernels>(bencher: Bencher, kind: Kind) {
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let shape = shape("relu1_2", 64);
    let (input, mut output) = (features::<K>(shape), features::<K>(shape.pooled()));
    bencher.bench_local(|| K::pool(&mut engine, shape, Pooling::Max, &input, &mut output));
}

#[divan::bench(args = each(&GRAM_LAYERS))]
fn gram(bencher: Bencher, (kind, layer): (Kind, &str)) {
    with_kernels!(gram_with(bencher, kind, layer));
}

fn gram_with<K: Kernels>(bencher: Bencher, kind: Kind, layer: &str) {
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let shape = shape(layer, convolution(layer).outputs);
    let features = features::<K>(shape);
    let mut gram = GramMatrix::new(shape);
    bencher.bench_local(|| K::compute_gram(&mut engine, &mut gram, &features));
}

#[divan::bench(args = each(&GRAM_LAYERS))]
fn loss_gradient(bencher: Bencher, (kind, layer): (Kind, &str)) {
    with_kernels!(loss_gradient_with(bencher, kind, layer));
}

fn loss_gradient_with<K: Kernels>(bencher: Bencher, kind: Kind, layer: &str) {
    let mut engine = Engine::new(Processor::new(kind, 0).unwrap());
    let shape = shape(layer, convolution(layer).outputs);
    let target = features::<K>(shape);
    let incoming = features::<K>(shape.pooled());
    let mut gram = GramMatrix::new(shape);
    let none = vec![Lanes::ZERO; shape.channels * shape.blocks()];
    let style = K::gram_difference(&mut engine, &mut gram, &none, 0.0).1.to_vec();
    let (mut maps, mut squares) = (features::<K>(shape), Vec::new());
    bencher.bench_local(|| {
        let content = ContentTarget { features: &target, slope: 0.0, metric: None };
        let incoming = Incoming::Pooled(Pooling::Max, &incoming);
        K::gradient_at(&mut engine, shape, &mut maps, Some(&style), Some(content), incoming, &mut squares)
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
    use processor::kernels::amx::tiles::{Product, SIDE, STEP, Steps, Tiles};
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
    let layers = Settings::default().layers;
    let processor = Processor::new(kind, 0).unwrap();
    let mut objective = objective::open(VGG.clone(), layers, &Device::Cpu, &processor).unwrap();
    let grams = objective.grams(&image(3)).unwrap();
    objective.set_style(&grams).unwrap();
    objective.set_content(&image(5)).unwrap();
    let weights = LossWeights::new(1.0, 10.0).with_total_variation(3.0);
    let mut optimization = objective.optimize(image(1).into()).unwrap();
    bencher.bench_local(|| optimization.step(StepLength::new(8.0, 0.0), &weights).unwrap());
}

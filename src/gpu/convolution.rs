// SPDX-License-Identifier: MPL-2.0

//! The convolutions: the first from the three planes of an image, the others by Winograd or by matrix units.

use half::f16;

use super::{
    Gpu, Recorder, Shape,
    buffers::spread,
    features::THREADS,
    opened::Kernel,
    tuning::{Tiling, UnitTiling},
};
use crate::{
    Result,
    processor::kernels::{Convolution, Pooling},
};

const FIRST: &str = include_str!("kernels/first.wgsl");
pub(super) const MATMUL: &str = include_str!("kernels/matmul.wgsl");
pub(super) const UNITS: &str = include_str!("kernels/units.wgsl");
const WINOGRAD: &str = include_str!("kernels/winograd.wgsl");

/// The taps of a 3x3 filter.
const TAPS: usize = 9;
/// Values of the first convolution's input that a position of its output depends on.
const FIRST_TAPS: usize = 27;
/// The points of Winograd's F(4x4, 3x3).
const POINTS: usize = 36;
/// Pixels in a row that a thread of the first convolution computes.
const RUN: u32 = 8;
/// The patch of an image whose gradient a workgroup computes.
const PATCH: (u32, u32) = (16, 8);

/// The filters of a convolution in both directions, and its biases.
#[derive(Debug)]
pub(crate) struct Filters {
    /// `[outputs]`
    biases: wgpu::Buffer,
    forward: wgpu::Buffer,
    backward: wgpu::Buffer,
    inputs: u32,
    outputs: u32,
}

/// The same of the first convolution.
#[derive(Debug)]
pub(crate) struct FirstFilters {
    biases: wgpu::Buffer,
    forward: wgpu::Buffer,
    backward: wgpu::Buffer,
    mean: [f32; 3],
    outputs: u32,
}

/// What is done with the sums of a convolution.
pub(crate) enum Epilogue<'a> {
    /// The biases are added and what is below zero becomes zero. If there is a buffer, the result is also pooled.
    Relu { pooled: Option<(&'a wgpu::Buffer, Pooling)> },
    /// They are a gradient, which becomes zero where these activations are zero.
    EndAtRelu(&'a wgpu::Buffer),
    /// They are a gradient to which others will be added.
    Plain,
}

/// Memory for the matrices of Winograd's points, of the input and of the output.
#[derive(Debug)]
pub(crate) struct Scratch {
    inputs: wgpu::Buffer,
    products: wgpu::Buffer,
}

/// The direction in which a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    /// From the gradient of its output to that of its input.
    Backward,
}

impl Filters {
    /// Packs the filters for matrix units or for Winograd. The biases are multiplied by `scale`.
    pub(crate) fn new(gpu: &Gpu, convolution: &Convolution, scale: f32, by_units: bool) -> Self {
        let Convolution { inputs, outputs, weight, .. } = convolution;
        let turned = turned(convolution);
        let pack = |weight: &[f32], inputs: usize, outputs: usize| match by_units {
            true => gpu.filled(&by_taps(weight, inputs, outputs)),
            false => gpu.filled(&at_points(weight, inputs, outputs)),
        };
        Self {
            biases: scaled(gpu, &convolution.bias, scale),
            forward: pack(weight, *inputs, *outputs),
            backward: pack(&turned, *outputs, *inputs),
            inputs: *inputs as u32,
            outputs: *outputs as u32,
        }
    }
}

impl FirstFilters {
    /// Packs the filters. They and the biases are multiplied by `scale`.
    pub(crate) fn new(gpu: &Gpu, convolution: &Convolution, mean: [f32; 3], scale: f32) -> Self {
        let Convolution { outputs, weight, .. } = convolution;
        // Forward [27][outputs], backward [outputs / 4][27][4].
        let mut forward = vec![0.0; weight.len()];
        let mut backward = forward.clone();
        for (output, taps) in weight.chunks_exact(FIRST_TAPS).enumerate() {
            for (tap, value) in taps.iter().enumerate() {
                forward[tap * outputs + output] = scale * value;
                backward[(output / 4 * FIRST_TAPS + tap) * 4 + output % 4] = scale * value;
            }
        }
        Self {
            biases: scaled(gpu, &convolution.bias, scale),
            forward: gpu.filled(&forward),
            backward: gpu.filled(&backward),
            mean,
            outputs: *outputs as u32,
        }
    }

    fn uniform(&self, gpu: &Gpu, (width, height): (u32, u32)) -> wgpu::Buffer {
        let [red, green, blue] = self.mean.map(f32::to_bits);
        gpu.uniform([red, green, blue, width, height, self.outputs / 4, 1.0f32.to_bits(), 0])
    }
}

impl Scratch {
    /// Memory for these convolutions: as much as keeps the matrices in a card's cache, and at least what a row of tiles
    /// needs.
    pub(crate) fn new(gpu: &Gpu, shapes: &[Shape]) -> Self {
        /// Bytes that most cards' second-level caches hold beside the rest.
        const CACHED: u64 = 24 << 20;
        let bytes = |tiles: u64, channels: u32| (POINTS * size_of::<f32>()) as u64 * tiles * u64::from(channels);
        let rows = Tiling::MOST_ROWS;
        let least = shapes.iter().map(|shape| bytes(rows, shape.channels)).max().unwrap_or(0);
        let all = shapes.iter().map(|shape| bytes(tiles(*shape).next_multiple_of(rows), shape.channels)).max();
        let size = CACHED.max(least).min(all.unwrap_or(0)).min(gpu.limits.max_storage_buffer_binding_size);
        Self { inputs: gpu.memory(size), products: gpu.memory(size) }
    }

    /// How many tiles fit, with so many channels before and after.
    fn tiles(&self, inputs: u32, outputs: u32) -> u64 {
        let bytes = |channels: u32| (POINTS * size_of::<f32>()) as u64 * u64::from(channels);
        (self.inputs.size() / bytes(inputs)).min(self.products.size() / bytes(outputs))
    }
}

/// Tiles of 4x4 positions.
fn tiles(shape: Shape) -> u64 {
    u64::from(shape.width.div_ceil(4)) * u64::from(shape.height.div_ceil(4))
}

impl Recorder<'_> {
    /// From an image to the features of the first layer.
    pub(crate) fn first_forward(
        &mut self,
        shape: Shape,
        filters: &FirstFilters,
        [image, features]: [&wgpu::Buffer; 2],
    ) -> Result<()> {
        let uniform = filters.uniform(self.gpu, (shape.width, shape.height));
        let runs = u64::from(shape.width.div_ceil(RUN)) * u64::from(shape.height);
        let threads = runs * u64::from(shape.channels / 4);
        let variant = self.storage.variant().flag("FORWARD", true);
        let kernel = Kernel { template: FIRST, entry: "forward" };
        let buffers = [&uniform, image, &filters.forward, &filters.biases, features];
        self.pass("forward first", kernel, &variant, &buffers, spread(threads.div_ceil(THREADS)))
    }

    /// From the gradient of the features of the first layer, which ends at its ReLU, to that of the image. Returns the
    /// uniform, whose seventh number multiplies the result.
    pub(crate) fn first_backward(
        &mut self,
        shape: Shape,
        filters: &FirstFilters,
        [gradients, image_gradient]: [&wgpu::Buffer; 2],
    ) -> Result<wgpu::Buffer> {
        let uniform = filters.uniform(self.gpu, (shape.width, shape.height));
        let variant = self.storage.variant().flag("BACKWARD", true);
        let kernel = Kernel { template: FIRST, entry: "backward" };
        let buffers = [&uniform, gradients, &filters.backward, image_gradient];
        let groups = [shape.width.div_ceil(PATCH.0), shape.height.div_ceil(PATCH.1), 1];
        self.pass("backward first", kernel, &variant, &buffers, groups)?;
        Ok(uniform)
    }

    /// A convolution of features of `shape`, with the fastest tiling that is known or found.
    pub(crate) fn convolve(
        &mut self,
        label: &str,
        shape: Shape,
        (filters, direction): (&Filters, Direction),
        [input, output]: [&wgpu::Buffer; 2],
        epilogue: &Epilogue,
        scratch: Option<&Scratch>,
    ) -> Result<()> {
        let (outputs, packed) = match direction {
            Direction::Forward => (filters.outputs, &filters.forward),
            Direction::Backward => (filters.inputs, &filters.backward),
        };
        let job = Job { shape, outputs, input, filters: packed, biases: &filters.biases, output, epilogue };
        let gpu = self.gpu;
        match scratch {
            Some(scratch) => {
                let tilings = Tiling::fitting(gpu, outputs);
                let storage = self.storage;
                let tiling = gpu.tuning.choose(gpu, ("winograd", shape, outputs), &tilings, |tiling| {
                    let mut trial = Recorder::new(gpu, storage);
                    trial.winograd("", &job, tiling, scratch)?;
                    Ok(trial.passes)
                })?;
                self.winograd(label, &job, tiling, scratch)
            }
            None => {
                let tilings = UnitTiling::fitting(gpu, outputs, 3);
                let storage = self.storage;
                let tiling = gpu.tuning.choose(gpu, ("units", shape, outputs), &tilings, |tiling| {
                    let mut trial = Recorder::new(gpu, storage);
                    trial.units("", &Job { epilogue: &Epilogue::Plain, ..job }, tiling)?;
                    Ok(trial.passes)
                })?;
                self.units(label, &job, tiling)?;
                match epilogue {
                    Epilogue::Relu { pooled: Some((pooled, pooling)) } => {
                        let shape = Shape { channels: outputs, ..shape };
                        self.pool(&format!("{label} pool"), shape, *pooling, [output, pooled])
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// By Winograd, in strips of tiles for which the scratch memory is large enough.
    fn winograd(&mut self, label: &str, job: &Job, tiling: Tiling, scratch: &Scratch) -> Result<()> {
        let Job { shape, outputs, .. } = *job;
        let (all, rows) = (tiles(shape), u64::from(tiling.rows));
        let most = (scratch.tiles(shape.channels, outputs) / rows * rows).max(rows);
        let each = all.div_ceil(all.div_ceil(most)).next_multiple_of(rows);
        let mut first = 0;
        while first < all {
            let tiles = each.min(all - first);
            self.strip(label, job, tiling, scratch, (first, tiles))?;
            first += tiles;
        }
        Ok(())
    }

    fn strip(
        &mut self,
        label: &str,
        job: &Job,
        tiling: Tiling,
        scratch: &Scratch,
        (first, tiles): (u64, u64),
    ) -> Result<()> {
        let Job { shape, outputs, .. } = *job;
        let step = tiles.next_multiple_of(u64::from(tiling.rows)) as u32;
        let place = |channels: u32| {
            let across = shape.width.div_ceil(4);
            [shape.width, shape.height, channels / 4, across, first as u32, tiles as u32, step, 0]
        };
        let groups = |channels: u32| spread((tiles * u64::from(channels / 4)).div_ceil(THREADS));
        let storage = self.storage;
        let variant =
            |flag| storage.variant().with_type("Lanes", "vec4<f32>").with_type("Point", "vec4<f32>").flag(flag, true);

        let kernel = Kernel { template: WINOGRAD, entry: "input" };
        let buffers = [&self.gpu.uniform(place(shape.channels)), job.input, &scratch.inputs];
        self.pass(&format!("{label} input"), kernel, &variant("INPUT"), &buffers, groups(shape.channels))?;

        let inner = shape.channels / 4;
        let sizes = [inner, outputs / 4, step * inner, shape.channels * outputs / 4, step * outputs / 4, 0, 0, 0];
        let product =
            tiling.variant().with_type("A", "vec4<f32>").with_type("B", "vec4<f32>").with_type("C", "vec4<f32>");
        let kernel = Kernel { template: MATMUL, entry: "multiply" };
        let buffers = [&self.gpu.uniform(sizes), &scratch.inputs, job.filters, &scratch.products];
        let product_groups = [outputs / tiling.columns, step / tiling.rows, POINTS as u32];
        self.pass(&format!("{label} multiply"), kernel, &product, &buffers, product_groups)?;

        let kernel = Kernel { template: WINOGRAD, entry: "output" };
        let uniform = self.gpu.uniform(place(outputs));
        let mut buffers = vec![&uniform, &scratch.products, job.output];
        let variant = match job.epilogue {
            Epilogue::Relu { pooled } => {
                buffers.push(job.biases);
                buffers.extend(pooled.iter().map(|(pooled, _)| *pooled));
                let is_average = pooled.is_some_and(|(_, pooling)| pooling == Pooling::Average);
                variant("OUTPUT").flag("RELU", true).flag("POOL", pooled.is_some()).flag("AVERAGE", is_average)
            }
            Epilogue::EndAtRelu(activations) => {
                buffers.push(activations);
                variant("OUTPUT").flag("MASK", true)
            }
            Epilogue::Plain => variant("OUTPUT"),
        };
        self.pass(&format!("{label} output"), kernel, &variant, &buffers, groups(outputs))
    }

    /// By matrix units.
    fn units(&mut self, label: &str, job: &Job, tiling: UnitTiling) -> Result<()> {
        let uniform = unit_uniform(self.gpu, job.shape, job.outputs);
        let mut buffers = vec![&uniform, job.input, job.filters, job.output];
        let variant = tiling.variant(3, self.gpu.has_matrix_units());
        let variant = match job.epilogue {
            Epilogue::Relu { .. } => {
                buffers.push(job.biases);
                variant.flag("RELU", true)
            }
            Epilogue::EndAtRelu(activations) => {
                buffers.push(activations);
                variant.flag("MASK", true)
            }
            Epilogue::Plain => variant,
        };
        let kernel = Kernel { template: UNITS, entry: "convolve" };
        self.pass(label, kernel, &variant, &buffers, tiling.groups(job.shape, job.outputs))
    }
}

/// A convolution by either way.
#[derive(Clone, Copy)]
struct Job<'a> {
    shape: Shape,
    outputs: u32,
    input: &'a wgpu::Buffer,
    filters: &'a wgpu::Buffer,
    biases: &'a wgpu::Buffer,
    output: &'a wgpu::Buffer,
    epilogue: &'a Epilogue<'a>,
}

pub(super) fn unit_uniform(gpu: &Gpu, shape: Shape, outputs: u32) -> wgpu::Buffer {
    let scale = 1.0f32.to_bits();
    gpu.uniform([shape.width, shape.height, shape.channels / 4, outputs / 4, scale, shape.width.div_ceil(16), 0, 0])
}

fn scaled(gpu: &Gpu, values: &[f32], scale: f32) -> wgpu::Buffer {
    let values: Vec<f32> = values.iter().map(|value| scale * value).collect();
    gpu.filled(&values)
}

/// The weights of the convolution that takes the gradient of the output to that of the input, `[inputs][outputs][3][3]`.
fn turned(convolution: &Convolution) -> Vec<f32> {
    let Convolution { inputs, outputs, weight, .. } = convolution;
    let mut turned = vec![0.0; weight.len()];
    for (n, value) in weight.iter().enumerate() {
        let (output, input, tap) = (n / TAPS / inputs, n / TAPS % inputs, n % TAPS);
        turned[(input * outputs + output) * TAPS + TAPS - 1 - tap] = *value;
    }
    turned
}

/// Filters by taps, `[9][inputs][outputs]`.
fn by_taps(weight: &[f32], inputs: usize, outputs: usize) -> Vec<u16> {
    let mut filters = vec![0; weight.len()];
    for (n, value) in weight.iter().enumerate() {
        let (output, input, tap) = (n / TAPS / inputs, n / TAPS % inputs, n % TAPS);
        filters[(tap * inputs + input) * outputs + output] = f16::from_f32(*value).to_bits();
    }
    filters
}

/// Filters at the points of Winograd's F(4x4, 3x3), `G w G^T` (Lavin and Gray 2016), `[36][inputs][outputs]`.
fn at_points(weight: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    const G: [[f64; 3]; 6] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    let mut filters = vec![0.0; POINTS * inputs * outputs];
    for (n, taps) in weight.chunks_exact(TAPS).enumerate() {
        let (output, input) = (n / inputs, n % inputs);
        let taps: [f64; TAPS] = std::array::from_fn(|tap| f64::from(taps[tap]));
        let rows = G.map(|g| std::array::from_fn(|x| g[0] * taps[x] + g[1] * taps[3 + x] + g[2] * taps[6 + x]));
        for (row, values) in rows.iter().enumerate() {
            let values: &[f64; 3] = values;
            for (column, g) in G.iter().enumerate() {
                let value = g[0] * values[0] + g[1] * values[1] + g[2] * values[2];
                filters[((6 * row + column) * inputs + input) * outputs + output] = value as f32;
            }
        }
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{
        AdapterChoice, Storage,
        testing::{features, half, noise, read},
        translation,
    };

    /// The sums of a convolution, by plain loops.
    fn expected(input: &[f32], shape: Shape, weight: &[f32], outputs: usize) -> Vec<f64> {
        let (width, height, channels) = (shape.width as usize, shape.height as usize, shape.channels as usize);
        let mut sums = Vec::new();
        for (y, x, output) in (0..height)
            .flat_map(|y| (0..width).map(move |x| (y, x)))
            .flat_map(|(y, x)| (0..outputs).map(move |output| (y, x, output)))
        {
            let mut sum = 0.0;
            for tap in 0..TAPS {
                let (y, x) = ((y + tap / 3).wrapping_sub(1), (x + tap % 3).wrapping_sub(1));
                if y < height && x < width {
                    let values = &input[(y * width + x) * channels..][..channels];
                    for (n, value) in values.iter().enumerate() {
                        sum += f64::from(*value) * f64::from(weight[(output * channels + n) * TAPS + tap]);
                    }
                }
            }
            sums.push(sum);
        }
        sums
    }

    /// Both directions against plain loops, at a size that is no multiple of anything.
    fn check(by_units: bool, storage: Storage, tolerance: f64) {
        let gpu = Gpu::open(&AdapterChoice::Number(0)).unwrap();
        let shape = Shape { width: 19, height: 6, channels: 32 };
        let output_shape = Shape { channels: 64, ..shape };
        let rounded = |values: Vec<f32>| if storage == Storage::F16 { half(&values) } else { values };
        let weight: Vec<f32> = rounded(noise(1, 64 * 32 * TAPS).iter().map(|value| 0.1 * value).collect());
        let convolution = Convolution { inputs: 32, outputs: 64, weight, bias: noise(2, 64) };
        let filters = Filters::new(&gpu, &convolution, 1.0, by_units);
        let scratch = (!by_units).then(|| Scratch::new(&gpu, &[shape, output_shape]));
        let (input, gradient) =
            (rounded(noise(3, shape.values() as usize)), rounded(noise(4, output_shape.values() as usize)));
        let input_buffer = features(&gpu, shape, storage, &input);
        let gradient_buffer = features(&gpu, output_shape, storage, &gradient);
        let [output, pooled] = [output_shape, output_shape.pooled()].map(|shape| gpu.features(shape, storage));
        let back = gpu.features(shape, storage);
        let mut recorder = Recorder::new(&gpu, storage);
        let relu = Epilogue::Relu { pooled: Some((&pooled, Pooling::Max)) };
        recorder
            .convolve("there", shape, (&filters, Direction::Forward), [&input_buffer, &output], &relu, scratch.as_ref())
            .unwrap();
        let end = Epilogue::EndAtRelu(&input_buffer);
        let buffers = [&gradient_buffer, &back];
        recorder
            .convolve("back", output_shape, (&filters, Direction::Backward), buffers, &end, scratch.as_ref())
            .unwrap();
        gpu.submit(&recorder.passes, &[]).unwrap();

        let close = |actual: &[f32], expected: &[f64]| {
            let error = actual.iter().zip(expected).map(|(a, e)| (f64::from(*a) - e).powi(2)).sum::<f64>();
            let norm = expected.iter().map(|e| e * e).sum::<f64>();
            assert!(
                norm > 0.0 && (error / norm).sqrt() < tolerance,
                "{by_units} {storage:?}: {}",
                (error / norm).sqrt()
            );
        };
        let sums = expected(&input, shape, &convolution.weight, 64);
        let biased = sums.chunks(64).flat_map(|sums| sums.iter().zip(&convolution.bias));
        let wanted: Vec<f64> = biased.map(|(sum, bias)| (sum + f64::from(*bias)).max(0.0)).collect();
        close(&read(&gpu, output_shape, storage, &output), &wanted);
        let at = |x: usize, y: usize, channel: usize| wanted[(y * 19 + x) * 64 + channel];
        let windows = (0..3).flat_map(|y| (0..9).flat_map(move |x| (0..64).map(move |channel| (x, y, channel))));
        let largest = windows.map(|(x, y, channel)| {
            let (x, y) = (2 * x, 2 * y);
            at(x, y, channel).max(at(x + 1, y, channel)).max(at(x, y + 1, channel)).max(at(x + 1, y + 1, channel))
        });
        close(&read(&gpu, output_shape.pooled(), storage, &pooled), &largest.collect::<Vec<_>>());
        let mut gradients = expected(&gradient, output_shape, &turned(&convolution), 32);
        for (gradient, value) in gradients.iter_mut().zip(&input) {
            *gradient = if *value > 0.0 { *gradient } else { 0.0 };
        }
        close(&read(&gpu, shape, storage, &back), &gradients);
    }

    #[test]
    fn kernels_for_matrix_units_are_translated_for_vulkan() {
        for tiling in UnitTiling::ALL {
            for flag in ["RELU", "MASK"] {
                let variant = tiling.variant(3, true).flag(flag, true);
                translation::check_vulkan(&variant.fill(UNITS).unwrap());
            }
        }
    }

    #[test]
    fn winograd_equals_plain_loops() {
        check(false, Storage::F32, 1e-5);
    }

    #[test]
    fn matrix_units_equal_plain_loops() {
        check(true, Storage::F16, 1e-3);
    }
}

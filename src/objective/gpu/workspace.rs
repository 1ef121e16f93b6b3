// SPDX-License-Identifier: MPL-2.0

//! The passes over images of one size, with the memory that they need.

use super::{
    super::{
        SMALLEST_NORM,
        step::{Step, end},
    },
    Target,
    network::Network,
};
use crate::{
    Result,
    gpu::{
        Direction, Epilogue, Gpu, GramCut, InMetric, Pass, PixelBuffers, Product, Recorder, Scratch, Shape, Terms,
        content_sums,
    },
    network::Pooling,
    objective::LossWeights,
};

/// The scale of gradients in f16, for each pixel of the image. With it most are around 1.
const GRADIENT_SCALE: f64 = 64.0;
/// The scale of differences of Gram matrices in f16, relative to the norm of their target.
const DIFFERENCE_SCALE: f64 = 64.0;

/// The numbers that are read back for each step: the squared norm of the content, the squared distance from it, and
/// that from the style.
const NORM: usize = 0;
const CONTENT: usize = 1;
const STYLE: usize = 2;
const NUMBERS: usize = 3;
/// Total variation, grain and temporal loss.
const TERMS: usize = 3;

/// Offsets in a uniform, in bytes.
const CONTENT_SLOPE: u64 = 4;
const UNIT_SCALE: u64 = 16;
const FIRST_SCALE: u64 = 24;

/// Everything for images of one size.
pub(super) struct Workspace {
    pub(super) size: (usize, usize),
    pub(super) pixels: PixelBuffers,
    /// [`NUMBERS`] for each step, then [`TERMS`] for the image's own losses.
    pub(super) numbers: wgpu::Buffer,
    layers: Vec<LayerBuffers>,
    first_uniform: Option<wgpu::Buffer>,
    pixel_uniform: wgpu::Buffer,
    step_uniform: wgpu::Buffer,
    pixel_sums: [u32; TERMS],
    content: Vec<Pass>,
    pub(super) evaluation: Vec<Pass>,
    pub(super) step: Vec<Pass>,
}

/// What belongs to a step.
struct LayerBuffers {
    shape: Shape,
    features: wgpu::Buffer,
    /// The pooled features of the step before, if a pooling stands before it.
    pooled: Option<wgpu::Buffer>,
    content: Option<ContentBuffers>,
    style: Option<StyleBuffers>,
}

struct ContentBuffers {
    wanted: wgpu::Buffer,
    sums: u32,
    uniform: Option<wgpu::Buffer>,
}

struct StyleBuffers {
    cut: GramCut,
    wanted: wgpu::Buffer,
    difference: wgpu::Buffer,
    /// For the difference in a metric.
    metric_scratch: Option<[wgpu::Buffer; 2]>,
    sums: u32,
    uniform: wgpu::Buffer,
    /// Of the gradient by matrix units.
    unit_uniform: Option<wgpu::Buffer>,
}

/// The shapes of the outputs of steps, for an image of `size`.
fn shapes(steps: &[Step], size: (usize, usize)) -> Vec<Shape> {
    let shape = |step: &Step| {
        let (width, height) = step.output_size(size);
        Shape { width: width as u32, height: height as u32, channels: step.channels as u32 }
    };
    steps.iter().map(shape).collect()
}

/// Hands out places for sums, one after the other.
#[derive(Default)]
struct Places(u32);

impl Places {
    fn take(&mut self, count: u32) -> u32 {
        let place = self.0;
        self.0 += count;
        place
    }
}

impl Workspace {
    pub(super) fn new(network: &Network, steps: &[Step], pooling: Pooling, size: (usize, usize)) -> Result<Self> {
        let gpu = &*network.gpu;
        let mut places = Places::default();
        let mut layers = gpu.checked(|| layers(network, steps, size, &mut places))?;
        let pixels = gpu.checked(|| PixelBuffers::new(gpu, (size.0 as u32, size.1 as u32)))?;
        let pixel_sums = [(); TERMS].map(|()| places.take(pixels.sums()));
        let storage = network.storage();
        let largest = layers.iter().map(|layer| layer.features.size()).max().unwrap_or(0);
        let (turns, sums, numbers, parts, scratch) = gpu.checked(|| {
            let scratch = scratch(network, &layers);
            let turns = [(); 2].map(|()| gpu.memory(largest));
            let parts = layers.iter().flat_map(|layer| &layer.style).map(|style| style.cut.part_bytes()).max();
            let numbers = gpu.memory(4 * (NUMBERS * layers.len() + TERMS) as u64);
            (turns, gpu.memory(4 * u64::from(places.0)), numbers, gpu.memory(parts.unwrap_or(0)), scratch)
        })?;
        let plan = Plan { network, steps, pooling, pixels: &pixels, sums: &sums, numbers: &numbers, parts: &parts };
        let content = plan.content(&layers, &turns[0], scratch.as_ref())?;
        let (evaluation, first_uniform) = plan.evaluation(&mut layers, &turns, scratch.as_ref())?;
        let pixel_uniform = gpu.uniform([0u32; 8]);
        let step_uniform = gpu.uniform([0u32; 4]);
        let mut recorder = Recorder::new(gpu, storage);
        recorder.terms(&pixels, !evaluation.is_empty(), [&pixel_uniform, &sums])?;
        recorder.take_step(&pixels, [&pixel_uniform, &step_uniform])?;
        let place = (NUMBERS * layers.len()) as u32;
        let lists = [0, 1, 2].map(|n| [pixel_sums[n], pixels.sums(), place + n as u32]);
        recorder.sum("sums of terms", &lists, [&sums, &numbers])?;
        let step = recorder.passes;
        Ok(Self {
            size,
            pixels,
            numbers,
            layers,
            first_uniform,
            pixel_uniform,
            step_uniform,
            pixel_sums,
            content,
            evaluation,
            step,
        })
    }

    /// Makes the features of the image the target of the content loss.
    pub(super) fn take_content(&self, gpu: &Gpu) -> Result<()> {
        let contents = self.layers.iter().filter_map(|layer| Some((&layer.features, &layer.content.as_ref()?.wanted)));
        gpu.submit(&self.content, &contents.collect::<Vec<_>>()).map(|_| ())
    }

    /// Makes these the targets of the style loss. Steps without a target have no style loss.
    pub(super) fn write_style(&self, gpu: &Gpu, targets: &[Option<Target>]) {
        for (layer, target) in self.layers.iter().zip(targets) {
            if let (Some(style), Some(target)) = (&layer.style, target) {
                gpu.write(&style.wanted, 0, &target.values);
            }
        }
    }

    /// Sets how much each loss counts in the gradient.
    pub(super) fn write_weights(
        &self,
        network: &Network,
        targets: &[Option<Target>],
        has_content: bool,
        weights: &LossWeights,
    ) {
        let gpu = &*network.gpu;
        let pixels = (self.size.0 * self.size.1) as f64;
        let feature_scale = network.feature_scale();
        let gradient_scale = match network.by_units {
            true => GRADIENT_SCALE * pixels / weights.content.max(weights.style).max(SMALLEST_NORM),
            false => 1.0,
        };
        let contents = self.layers.iter().filter(|layer| layer.content.is_some()).count() as f64;
        let content_weight = if has_content { weights.content } else { 0.0 };
        let styles = targets.iter().flatten().count() as f64;
        for (layer, target) in self.layers.iter().zip(targets) {
            if let Some(uniform) = layer.content.as_ref().and_then(|content| content.uniform.as_ref()) {
                let slope = gradient_scale * 2.0 * content_weight / contents;
                gpu.write(uniform, CONTENT_SLOPE, &[slope as f32]);
            }
            if let Some(StyleBuffers { cut, uniform, unit_uniform, sums, .. }) = &layer.style {
                let norm = target.as_ref().map_or(f64::INFINITY, |target| target.squared_norm);
                // d/dF |F F^T / n - G|^2 = 4 / n (F F^T / n - G) F, n = positions * channels
                let slope = gradient_scale * 4.0 * weights.style / (styles.max(1.0) * norm * cut.values());
                let slope = slope / (feature_scale * feature_scale);
                let slope = match unit_uniform {
                    Some(unit_uniform) if norm.is_finite() => {
                        gpu.write(unit_uniform, UNIT_SCALE, &[(slope * norm.sqrt() / DIFFERENCE_SCALE) as f32]);
                        DIFFERENCE_SCALE / norm.sqrt()
                    }
                    _ => slope,
                };
                gpu.write(uniform, 0, &cut.uniform(1.0 / (feature_scale * feature_scale), slope, *sums));
            }
        }
        if let Some(uniform) = &self.first_uniform {
            gpu.write(uniform, FIRST_SCALE, &[(1.0 / gradient_scale) as f32]);
        }
    }

    /// Sets the length of the next step, in levels, and the correction of the moments.
    pub(super) fn write_step(&self, gpu: &Gpu, slopes: [f32; TERMS], step: [f32; 3]) {
        let terms = Terms { slopes, sums: self.pixel_sums };
        gpu.write(&self.pixel_uniform, 0, &self.pixels.uniform(terms));
        gpu.write(&self.step_uniform, 0, &step);
    }

    /// The content and the style loss, and the sums of the image's own losses.
    pub(super) fn losses(
        &self,
        numbers: &[f32],
        targets: &[Option<Target>],
        has_content: bool,
    ) -> ([f64; 2], [f64; TERMS]) {
        let contents = self.layers.iter().filter(|layer| layer.content.is_some()).count() as f64;
        let styles = targets.iter().flatten().count() as f64;
        let (steps, terms) = numbers.split_at(NUMBERS * self.layers.len());
        let (mut content, mut style) = (0.0, 0.0);
        for ((layer, target), numbers) in self.layers.iter().zip(targets).zip(steps.chunks_exact(NUMBERS)) {
            if layer.content.is_some() && has_content {
                content += f64::from(numbers[CONTENT]) / (contents * f64::from(numbers[NORM]).max(SMALLEST_NORM));
            }
            if let (Some(_), Some(target)) = (&layer.style, target) {
                style += f64::from(numbers[STYLE]) / (styles * target.squared_norm);
            }
        }
        ([content, style], [0, 1, 2].map(|n| f64::from(terms[n])))
    }

    /// How many numbers are read back.
    pub(super) fn count(&self) -> usize {
        NUMBERS * self.layers.len() + TERMS
    }
}

/// The Gram matrices of a picture at the steps that have a style loss.
pub(super) fn grams(
    network: &Network,
    steps: &[Step],
    pooling: Pooling,
    size: (usize, usize),
    picture: &[f32],
) -> Result<Vec<Vec<f32>>> {
    let gpu = &*network.gpu;
    let layers = gpu.checked(|| layers(network, steps, size, &mut Places::default()))?;
    let (pixels, numbers, scratch) = gpu.checked(|| {
        let pixels = PixelBuffers::new(gpu, (size.0 as u32, size.1 as u32));
        (pixels, gpu.memory(0), scratch(network, &layers))
    })?;
    gpu.write(&pixels.image, 0, picture);
    let mut differences = Vec::new();
    let plan = Plan { network, steps, pooling, pixels: &pixels, sums: &numbers, numbers: &numbers, parts: &numbers };
    let mut recorder = Recorder::new(gpu, network.storage());
    plan.forward(&mut recorder, &layers, end(steps, |step| step.has_style), scratch.as_ref())?;
    let scale = 1.0 / (network.feature_scale() * network.feature_scale());
    for layer in &layers {
        let Some(StyleBuffers { cut, wanted, difference, .. }) = &layer.style else { continue };
        // The target is still zero: the difference is the matrix.
        let (parts, sums) =
            gpu.checked(|| (gpu.memory(cut.part_bytes()), gpu.memory(4 * u64::from(cut.sums(false)))))?;
        let uniform = gpu.uniform(cut.uniform(scale, 1.0, 0));
        let buffers = [&uniform, &layer.features, &parts, wanted, difference, &sums];
        recorder.gram("gram", cut, [network.by_units, false], buffers, None)?;
        differences.push((difference, (cut.bytes() / 4) as usize));
    }
    gpu.submit(&recorder.passes, &[])?;
    gpu.read(&differences)
}

/// Memory for the features of all steps and the targets of the losses.
fn layers(network: &Network, steps: &[Step], size: (usize, usize), places: &mut Places) -> Vec<LayerBuffers> {
    let (gpu, storage) = (&*network.gpu, network.storage());
    let shapes = shapes(steps, size);
    let layer = |(n, step): (usize, &Step)| {
        let shape = shapes[n];
        let content = step.has_content.then(|| ContentBuffers {
            wanted: gpu.features(shape, storage),
            sums: places.take(content_sums(shape)),
            uniform: None,
        });
        let style = step.has_style.then(|| {
            let cut = GramCut::new(shape);
            let sums = places.take(cut.sums(step.has_metric));
            let uniform = gpu.uniform(cut.uniform(1.0, 0.0, sums));
            let matrix = || gpu.memory(cut.bytes());
            let metric_scratch = step.has_metric.then(|| [matrix(), matrix()]);
            let (wanted, difference) = (matrix(), matrix());
            StyleBuffers { cut, wanted, difference, metric_scratch, sums, uniform, unit_uniform: None }
        });
        let pooled = step.pooled.then(|| gpu.features(shapes[n - 1].pooled(), storage));
        LayerBuffers { shape, features: gpu.features(shape, storage), pooled, content, style }
    };
    steps.iter().enumerate().map(layer).collect()
}

/// Scratch memory, if Winograd needs it.
fn scratch(network: &Network, layers: &[LayerBuffers]) -> Option<Scratch> {
    let shapes: Vec<Shape> = layers.iter().map(|layer| layer.shape).collect();
    (!network.by_units).then(|| Scratch::new(&network.gpu, &shapes))
}

/// What passes are made from.
struct Plan<'a> {
    network: &'a Network,
    steps: &'a [Step],
    pooling: Pooling,
    pixels: &'a PixelBuffers,
    /// Parts of sums.
    sums: &'a wgpu::Buffer,
    numbers: &'a wgpu::Buffer,
    /// Parts of Gram matrices.
    parts: &'a wgpu::Buffer,
}

impl Plan<'_> {
    /// Computes the features of the image in the first `end` steps.
    fn forward(
        &self,
        recorder: &mut Recorder,
        layers: &[LayerBuffers],
        end: usize,
        scratch: Option<&Scratch>,
    ) -> Result<()> {
        for (n, layer) in layers.iter().enumerate().take(end) {
            let Some(before) = n.checked_sub(1) else {
                if let Some(first) = &self.network.first {
                    recorder.first_forward(layer.shape, first, [&self.pixels.image, &layer.features])?;
                }
                continue;
            };
            let next = layers[..end].get(n + 1).and_then(|next| next.pooled.as_ref());
            let epilogue = Epilogue::Relu { pooled: next.map(|pooled| (pooled, self.pooling)) };
            let (input, shape) = self.input(layers, n);
            let filters = (&self.network.others[before], Direction::Forward);
            let label = format!("forward {}", self.steps[n].layer);
            recorder.convolve(&label, shape, filters, [input, &layer.features], &epilogue, scratch)?;
        }
        Ok(())
    }

    /// The input of a step but the first.
    fn input<'b>(&self, layers: &'b [LayerBuffers], n: usize) -> (&'b wgpu::Buffer, Shape) {
        let before = &layers[n - 1];
        match &layers[n].pooled {
            Some(pooled) => (pooled, before.shape.pooled()),
            None => (&before.features, before.shape),
        }
    }

    /// The features of the content and their norms. `products` has room for features in a metric.
    fn content(
        &self,
        layers: &[LayerBuffers],
        products: &wgpu::Buffer,
        scratch: Option<&Scratch>,
    ) -> Result<Vec<Pass>> {
        let mut recorder = Recorder::new(&self.network.gpu, self.network.storage());
        self.forward(&mut recorder, layers, end(self.steps, |step| step.has_content), scratch)?;
        let mut lists = Vec::new();
        for (n, layer) in layers.iter().enumerate() {
            let Some(content) = &layer.content else { continue };
            let metric = self.network.metrics[n].as_ref();
            if let Some(metric) = metric {
                let buffers = [&layer.features, &metric.factor, products];
                recorder.multiply("metric", layer.shape, Product::Metric { subtrahend: None }, buffers)?;
            }
            let buffers = [&layer.features, self.sums];
            recorder.norm("norm", layer.shape, content.sums, buffers, metric.map(|_| products))?;
            lists.push([content.sums, content_sums(layer.shape), (NUMBERS * n + NORM) as u32]);
        }
        recorder.sum("norms", &lists, [self.sums, self.numbers])?;
        Ok(recorder.passes)
    }

    /// The losses and their gradient for the image. Returns the uniform of the last pass back to it, too.
    fn evaluation(
        &self,
        layers: &mut [LayerBuffers],
        turns: &[wgpu::Buffer; 2],
        scratch: Option<&Scratch>,
    ) -> Result<(Vec<Pass>, Option<wgpu::Buffer>)> {
        let gpu = &*self.network.gpu;
        let end = end(self.steps, Step::has_loss);
        let mut recorder = Recorder::new(gpu, self.network.storage());
        self.forward(&mut recorder, layers, end, scratch)?;
        let mut lists = Vec::new();
        let mut first_uniform = None;
        // Which of the two buffers the gradient of the step's output is in, or will be.
        let mut turn = 0;
        for n in (0..end).rev() {
            let name = self.steps[n].layer;
            let is_last = n + 1 == end;
            if !is_last && self.steps[n + 1].pooled {
                let ends_at_relu = !self.steps[n].has_loss();
                let buffers = [&layers[n].features, &turns[turn], &turns[1 - turn]];
                let (label, shape) = (format!("unpool {name}"), layers[n].shape);
                recorder.unpool(&label, shape, self.pooling, ends_at_relu, buffers)?;
                turn = 1 - turn;
            }
            self.losses(&mut recorder, layers, n, ([&turns[turn], &turns[1 - turn]], !is_last), &mut lists)?;
            let Some(before) = n.checked_sub(1) else {
                if let Some(first) = &self.network.first {
                    let buffers = [&turns[turn], &self.pixels.gradient];
                    first_uniform = Some(recorder.first_backward(layers[0].shape, first, buffers)?);
                }
                break;
            };
            let ends_at_relu = !self.steps[n].pooled && !self.steps[before].has_loss();
            let epilogue = if ends_at_relu { Epilogue::EndAtRelu(&layers[before].features) } else { Epilogue::Plain };
            let filters = (&self.network.others[before], Direction::Backward);
            let (label, shape) = (format!("backward {name}"), layers[n].shape);
            let buffers = [&turns[turn], &turns[1 - turn]];
            recorder.convolve(&label, shape, filters, buffers, &epilogue, scratch)?;
            turn = 1 - turn;
        }
        recorder.sum("sums", &lists, [self.sums, self.numbers])?;
        Ok((recorder.passes, first_uniform))
    }

    /// The losses at a step. Their gradients go to `gradient`, or are added to it if it `has_values`; the last pass
    /// masks it by the ReLU. `products` has room for features in a metric.
    fn losses(
        &self,
        recorder: &mut Recorder,
        layers: &mut [LayerBuffers],
        n: usize,
        ([gradient, products], mut has_values): ([&wgpu::Buffer; 2], bool),
        lists: &mut Vec<[u32; 3]>,
    ) -> Result<()> {
        let (name, metric) = (self.steps[n].layer, self.network.metrics[n].as_ref());
        let LayerBuffers { shape, features, content, style, .. } = &mut layers[n];
        let place = |number: usize| (NUMBERS * n + number) as u32;
        if let Some(content) = content {
            if let Some(metric) = metric {
                let product = Product::Metric { subtrahend: Some(&content.wanted) };
                let buffers = [&*features, &metric.factor, products];
                recorder.multiply(&format!("content {name} in metric"), *shape, product, buffers)?;
            }
            let buffers = [&*features, self.sums, &content.wanted, gradient, self.numbers];
            let places = [place(NORM), content.sums];
            let label = format!("content {name}");
            let flags = [has_values, style.is_none()];
            let uniform = recorder.content(&label, *shape, places, flags, buffers, metric.map(|_| products))?;
            content.uniform = Some(uniform);
            lists.push([content.sums, content_sums(*shape), place(CONTENT)]);
            has_values = true;
        }
        if let Some(StyleBuffers { cut, wanted, difference, metric_scratch, sums, uniform, unit_uniform }) = style {
            let in_metric = metric.zip(metric_scratch.as_ref());
            let in_metric =
                in_metric.map(|(metric, scratch)| InMetric { metric: &metric.matrix, scratch: scratch.each_ref() });
            let buffers = [&*uniform, features, self.parts, wanted, difference, self.sums];
            recorder.gram(&format!("gram {name}"), cut, [self.network.by_units; 2], buffers, in_metric)?;
            let (label, product) = (format!("style {name}"), Product::Style { adds: has_values });
            *unit_uniform = recorder.multiply(&label, *shape, product, [&*features, difference, gradient])?;
            lists.push([*sums, cut.sums(metric.is_some()), place(STYLE)]);
        }
        Ok(())
    }
}

// SPDX-License-Identifier: MPL-2.0

//! The objective on the processor: forward pass, losses and gradient, in memory that is allocated once for each size of
//! image.

use std::{ops::Range, sync::Arc};

use super::{
    Gram, LossLayers, LossWeights, Losses, Objective, Optimization, SMALLEST_NORM, Start,
    cpu_optimization::CpuOptimization,
    packed::PackedNetwork,
    step::{self, Step},
};
use crate::{
    Error, Result,
    image::Image,
    network::Vgg,
    processor::{
        Engine, Lanes, Processor,
        kernels::{ContentTarget, Direction, Epilogue, GramMatrix, Incoming, Kernels, Shape},
    },
};

/// The approximate scratch memory of the kernels in each thread, in bytes.
const SCRATCH: usize = 5 << 20;

/// The objective, computed by one backend of kernels on the processor. See [`Objective`].
pub(super) struct FusedObjective<K: Kernels> {
    weights: Arc<Vgg>,
    layers: LossLayers,
    engine: Engine,
    packed: Arc<PackedNetwork<K>>,
    steps: Vec<Step>,
    /// The metric of each step, if the weights have one.
    metrics: Vec<Option<Metric>>,
    /// As many zeros as the largest metric has values.
    zeros: Vec<Lanes>,
    workspace: Workspace,
    /// The targets of the style loss, for each step.
    style: Vec<Option<Target>>,
    /// The targets of the content loss, for each step.
    content: Vec<Option<Target>>,
    content_size: Option<(usize, usize)>,
    /// Scratch memory for the terms of a loss.
    squares: Vec<f64>,
}

/// The metric of a layer; see [`Vgg::metric`].
struct Metric {
    /// `[row][column]`
    values: Vec<Lanes>,
    /// The same, packed for products with feature maps.
    packed: Vec<Lanes>,
}

/// The feature maps or the Gram matrix that the image is compared with at a layer.
struct Target {
    values: Vec<Lanes>,
    squared_norm: f64,
}

/// Memory for images of one size.
#[derive(Default)]
struct Workspace {
    size: (usize, usize),
    /// Of the output of each step.
    shapes: Vec<Shape>,
    places: Vec<Places>,
    /// Feature maps, later their gradients.
    memory: Vec<Lanes>,
    /// Where the outputs of the steps that are not kept are above zero.
    positive: Vec<Vec<u16>>,
    grams: Vec<Option<GramMatrix>>,
}

/// Where in the memory the input and the output of a step are, and later the gradient for its input.
struct Places {
    input: Range<usize>,
    output: Range<usize>,
    gradient: Range<usize>,
}

/// Opens the objective with this backend.
pub(super) fn open<K: Kernels>(
    weights: Arc<Vgg>,
    layers: LossLayers,
    processor: Processor,
) -> Result<Box<dyn Objective>> {
    Ok(Box::new(FusedObjective::<K>::new(weights, layers, processor)?))
}

impl<K: Kernels> FusedObjective<K> {
    /// The objective with these weights.
    ///
    /// # Errors
    ///
    /// If the weights lack a layer of the network.
    pub(super) fn new(weights: Arc<Vgg>, layers: LossLayers, processor: Processor) -> Result<Self> {
        layers.check(&weights)?;
        let mut engine = Engine::new(processor);
        let packed = PackedNetwork::of(&weights, engine.kind());
        let steps = Step::all(&weights, &layers);
        packed.pack(&weights, &mut engine, steps.len());
        let metrics: Vec<Option<Metric>> =
            steps.iter().map(|step| Some(Metric::new::<K>(&mut engine, step, weights.metric(step.layer)?))).collect();
        let largest = metrics.iter().flatten().map(|metric| metric.values.len()).max().unwrap_or(0);
        let zeros = vec![Lanes::ZERO; largest];
        let none = || steps.iter().map(|_| None).collect();
        let (style, content) = (none(), none());
        let (workspace, content_size, squares) = (Workspace::default(), None, Vec::new());
        Ok(Self {
            weights,
            layers,
            engine,
            packed,
            steps,
            metrics,
            zeros,
            workspace,
            style,
            content,
            content_size,
            squares,
        })
    }

    /// Allocates the workspace for images of `size`.
    fn lay_out(&mut self, size: (usize, usize)) {
        if self.workspace.size == size {
            return;
        }
        // Free the old memory before the new is allocated.
        self.workspace = Workspace::default();
        self.workspace = Workspace::new::<K>(size, &self.steps);
    }

    /// Computes the feature maps of `image` in the first `end` steps.
    fn forward(&mut self, image: &Image, end: usize) {
        self.lay_out(image.size());
        let Self { engine, packed, steps, workspace, weights, .. } = self;
        let Workspace { shapes, places, memory, positive, .. } = workspace;
        for (n, step) in steps.iter().enumerate().take(end) {
            let Places { input, output, .. } = &places[n];
            let positive = (!step.is_kept()).then_some(&mut positive[n][..]);
            let Some(before) = n.checked_sub(1) else {
                let first = packed.first(weights, engine);
                K::convolve_image(engine, image.size(), image.data(), first, positive, &mut memory[output.clone()]);
                continue;
            };
            if step.pooled {
                let (features, pooled) = read_and_write(memory, &places[before].output, input);
                K::pool(engine, shapes[before], self.layers.pooling, features, pooled);
            }
            let epilogue = Epilogue::Relu { bias: &weights.convolutions()[n].bias, positive };
            let filters = packed.filters(weights, engine, n, Direction::Forward);
            let (input, output) = read_and_write(memory, input, output);
            K::convolve(engine, step.input(shapes[before]), input, filters, epilogue, output);
        }
    }

    /// Computes the losses at the first `end` steps and their gradient for the image.
    fn backward(&mut self, end: usize, loss_weights: &LossWeights, gradient: &mut Image) -> Losses {
        let Self { engine, packed, steps, metrics, zeros, workspace, squares, .. } = self;
        let Workspace { shapes, places, memory, positive, grams, .. } = workspace;
        let count = |targets: &[Option<Target>]| targets.iter().flatten().count() as f64;
        let (contents, styles) = (count(&self.content), count(&self.style));
        let mut losses = Losses::default();
        for (n, step) in steps.iter().enumerate().take(end).rev() {
            let shape = shapes[n];
            let Places { output, gradient: input, .. } = &places[n];
            if step.is_kept() {
                let style = match (&self.style[n], &mut grams[n]) {
                    (Some(target), Some(gram)) => {
                        K::compute_gram(engine, gram, &memory[output.clone()]);
                        let share = 1.0 / (styles * target.squared_norm);
                        // d/dF |F F^T / n - G|^2 = 4 / n (F F^T / n - G) F, n = positions * channels
                        let slope = 4.0 * share * loss_weights.style / (shape.positions() * shape.channels) as f64;
                        let (distance, difference) = match &metrics[n] {
                            None => K::gram_difference(engine, gram, &target.values, slope as f32),
                            // <M D, D M> has the same gradient, with M D M in place of the difference D.
                            Some(metric) => {
                                let distance = gram.difference_in_metric(engine, &target.values, &metric.values);
                                let zeros = &zeros[..metric.values.len()];
                                (distance, K::gram_difference(engine, gram, zeros, slope as f32).1)
                            }
                        };
                        losses.style += share * distance;
                        Some(difference)
                    }
                    _ => None,
                };
                let share = self.content[n].as_ref().map_or(0.0, |target| 1.0 / (contents * target.squared_norm));
                let content = self.content[n].as_ref().map(|target| ContentTarget {
                    features: &target.values,
                    // d/dF <M (F - C), F - C> = 2 M (F - C), where M is a metric or one.
                    slope: (2.0 * share * loss_weights.content) as f32,
                    metric: metrics[n].as_ref().map(|metric| &metric.packed[..]),
                });
                let (incoming, features) = match steps[..end].get(n + 1) {
                    None => (Incoming::Nothing, &mut memory[output.clone()]),
                    Some(next) => {
                        let (incoming, features) = read_and_write(memory, &places[n + 1].gradient, output);
                        match next.pooled {
                            true => (Incoming::Pooled(self.layers.pooling, incoming), features),
                            false => (Incoming::Direct(incoming), features),
                        }
                    }
                };
                losses.content += share * K::gradient_at(engine, shape, features, style, content, incoming, squares);
            }
            let Some(before) = n.checked_sub(1) else {
                let first = packed.first(&self.weights, engine);
                K::image_gradient(engine, shape, &memory[output.clone()], first, gradient.data_mut());
                break;
            };
            let epilogue = match steps[before].is_kept() {
                true => Epilogue::Plain,
                false => Epilogue::Masked(&positive[before]),
            };
            let filters = packed.filters(&self.weights, engine, n, Direction::Backward);
            let (output, input) = read_and_write(memory, output, input);
            K::convolve(engine, shape, output, filters, epilogue, input);
        }
        losses
    }
}

impl Step {
    /// Whether its output is kept until its gradient replaces it: a loss or the gradient of a pooling needs it. Of other
    /// outputs it is enough to know where they are above zero.
    fn is_kept(&self) -> bool {
        self.has_loss() || self.is_pooled_next
    }

    /// Whether the Gram matrix of its output is needed: for the style loss, or for the norm of the content in a metric.
    fn has_gram(&self) -> bool {
        self.has_style || self.has_content && self.has_metric
    }

    /// The shape of its output for images of `size`.
    fn output(&self, size: (usize, usize)) -> Shape {
        let (width, height) = self.output_size(size);
        Shape { channels: self.channels, height, width }
    }

    /// The shape of its input, which is that of the step before or of its pooling.
    fn input(&self, before: Shape) -> Shape {
        if self.pooled { before.pooled() } else { before }
    }
}

impl Metric {
    fn new<K: Kernels>(engine: &mut Engine, step: &Step, metric: &[f32]) -> Self {
        let values = lanes(metric);
        let packed = K::pack_metric(engine, step.channels, &values);
        Self { values, packed }
    }

    /// The memory, in bytes, of a metric for this many channels.
    fn memory_for(channels: usize) -> usize {
        2 * channels * channels * size_of::<f32>()
    }
}

impl Workspace {
    fn new<K: Kernels>(size: (usize, usize), steps: &[Step]) -> Self {
        let shapes: Vec<Shape> = steps.iter().map(|step| step.output(size)).collect();
        let each = || steps.iter().zip(&shapes);
        let positive = each().map(|(step, shape)| vec![0; if step.is_kept() { 0 } else { K::masks(*shape) }]).collect();
        let grams = each().map(|(step, shape)| step.has_gram().then(|| GramMatrix::new(*shape))).collect();
        let (places, len) = places::<K>(steps, &shapes);
        Self { size, shapes, places, memory: vec![Lanes::ZERO; len], positive, grams }
    }
}

/// The most memory, in bytes, that an objective takes for images of the size `image` and styles of the size `style`.
/// Filters that are already packed are not counted, since all objectives share them.
pub(super) fn memory_for<K: Kernels>(
    weights: &Vgg,
    layers: &LossLayers,
    processor: &Processor,
    image: (usize, usize),
    style: (usize, usize),
) -> usize {
    let steps = Step::all(weights, layers);
    let workspace = |size| {
        let shapes: Vec<Shape> = steps.iter().map(|step| step.output(size)).collect();
        let each = || steps.iter().zip(&shapes);
        let positive = each().filter(|(step, _)| !step.is_kept()).map(|(_, shape)| K::masks(*shape) * size_of::<u16>());
        places::<K>(&steps, &shapes).1 * size_of::<Lanes>() + positive.sum::<usize>()
    };
    let sum = |is_wanted: &dyn Fn(&Step) -> bool, bytes: &dyn Fn(&Step) -> usize| -> usize {
        steps.iter().filter(|step| is_wanted(step)).map(bytes).sum()
    };
    let content = sum(&|step| step.has_content, &|step| K::lanes(step.output(image)) * size_of::<Lanes>());
    let styles = sum(&|step| step.has_style, &|step| step.channels.pow(2) * size_of::<f32>());
    let metrics = sum(&|step| step.has_metric, &|step| Metric::memory_for(step.channels));
    let filters = PackedNetwork::<K>::of(weights, processor.kind()).missing_bytes(weights, steps.len());
    let of_size =
        |size| workspace(size) + sum(&|step| step.has_gram(), &|step| GramMatrix::memory_for(step.output(size)));
    of_size(image).max(of_size(style)) + content + styles + metrics + filters + processor.threads() * SCRATCH
}

/// Assigns places in a memory to the feature maps of all steps. Returns the length of the memory too.
///
/// Outputs that are kept lie at the front, one after the other. Those that only the next step needs alternate between
/// the two ends of the rest, such that the last one before a kept output is at the far end and does not overlap it. So
/// the first and largest feature maps share their memory with all deeper ones.
fn places<K: Kernels>(steps: &[Step], shapes: &[Shape]) -> (Vec<Places>, usize) {
    let input_len = |n: usize| n.checked_sub(1).map_or(0, |before| K::lanes(steps[n].input(shapes[before])));
    // Where the kept outputs before each step end, and last where all kept outputs end.
    let mut fronts = vec![0];
    for (n, step) in steps.iter().enumerate() {
        fronts.push(fronts[n] + if step.is_kept() { K::lanes(shapes[n]) } else { 0 });
    }
    let len = (0..steps.len()).map(|n| fronts[n] + input_len(n) + K::lanes(shapes[n])).max().unwrap_or(0);
    let passing = |n: usize| {
        let to_kept = steps[n..].iter().position(|step| step.is_kept()).unwrap_or(0);
        let start = if to_kept.is_multiple_of(2) { len - input_len(n) } else { fronts[n] };
        start..start + input_len(n)
    };
    let output = |n: usize| if steps[n].is_kept() { fronts[n]..fronts[n + 1] } else { passing(n + 1) };
    let place = |n: usize| {
        let before = n.checked_sub(1).filter(|before| steps[*before].is_kept() && !steps[n].pooled);
        Places { input: before.map_or_else(|| passing(n), output), output: output(n), gradient: passing(n) }
    };
    ((0..steps.len()).map(place).collect(), len)
}

/// The values of a square matrix, `[row][column]`, whose side is a multiple of [`LANES`].
fn lanes(values: &[f32]) -> Vec<Lanes> {
    values.as_chunks().0.iter().map(|chunk| Lanes(*chunk)).collect()
}

/// Two parts of the memory that do not overlap.
fn read_and_write<'a>(
    memory: &'a mut [Lanes],
    read: &Range<usize>,
    write: &Range<usize>,
) -> (&'a [Lanes], &'a mut [Lanes]) {
    if read.end <= write.start {
        let (front, back) = memory.split_at_mut(write.start);
        (&front[read.clone()], &mut back[..write.len()])
    } else {
        let (front, back) = memory.split_at_mut(read.start);
        (&back[..read.len()], &mut front[write.clone()])
    }
}

impl<K: Kernels> Objective for FusedObjective<K> {
    fn kernel(&self) -> &'static str {
        self.engine.kind().name()
    }

    fn threads(&self) -> usize {
        self.engine.threads()
    }

    fn grams(&mut self, picture: &Image) -> Result<Vec<Gram>> {
        self.layers.check_size("style", picture.size())?;
        self.forward(picture, step::end(&self.steps, |step| step.has_style));
        let Self { engine, steps, workspace, .. } = self;
        let mut result = Vec::new();
        for ((step, places), gram) in steps.iter().zip(&workspace.places).zip(&mut workspace.grams) {
            if let Some(gram) = gram
                && step.has_style
            {
                K::compute_gram(engine, gram, &workspace.memory[places.output.clone()]);
                let values = gram.values().iter().flat_map(|lanes| lanes.0).collect();
                result.push(Gram { layer: step.layer, values });
            }
        }
        Ok(result)
    }

    fn set_style(&mut self, grams: &[Gram]) -> Result<()> {
        let mut targets: Vec<Option<Target>> = self.steps.iter().map(|_| None).collect();
        for gram in grams {
            let n = self.layers.check_gram(&self.weights, gram)?;
            let values = lanes(&gram.values);
            let channels = self.steps[n].channels;
            let squared_norm = match &self.metrics[n] {
                None => gram.squared_norm(),
                Some(metric) => {
                    let mut gram = GramMatrix::from_values(channels, values.clone());
                    gram.difference_in_metric(&mut self.engine, &self.zeros[..values.len()], &metric.values)
                }
            };
            targets[n] = Some(Target { values, squared_norm: squared_norm.max(SMALLEST_NORM) });
        }
        self.style = targets;
        Ok(())
    }

    fn set_content(&mut self, content: &Image) -> Result<()> {
        self.layers.check_size("frame", content.size())?;
        self.content_size = Some(content.size());
        self.forward(content, step::end(&self.steps, |step| step.has_content));
        let Self { engine, steps, metrics, workspace, squares, .. } = self;
        for (n, target) in self.content.iter_mut().enumerate() {
            if steps[n].has_content {
                let features = &workspace.memory[workspace.places[n].output.clone()];
                let squared_norm = match (&metrics[n], &mut workspace.grams[n]) {
                    (Some(metric), Some(gram)) => {
                        K::compute_gram(engine, gram, features);
                        gram.squared_norm_in_metric(&metric.values)
                    }
                    _ => K::squared_norm(engine, workspace.shapes[n], features, squares),
                };
                let target = target.get_or_insert_with(|| Target { values: Vec::new(), squared_norm });
                target.squared_norm = squared_norm.max(SMALLEST_NORM);
                features.clone_into(&mut target.values);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, image: &Image, weights: &LossWeights, gradient: &mut Image) -> Result<Losses> {
        let (width, height) = gradient.size();
        let size = self.content_size.unwrap_or((width, height));
        if image.size() != (width, height) || size != (width, height) {
            let (expected, actual) = (3 * size.0 * size.1, image.data().len());
            return Err(Error::ImageSize { width: size.0, height: size.1, expected, actual });
        }
        self.layers.check_size("frame", size)?;
        let end =
            self.content.iter().zip(&self.style).rposition(|(content, style)| content.is_some() || style.is_some());
        let end = end.map_or(0, |last| last + 1);
        if end == 0 {
            gradient.data_mut().fill(0.0);
            return Ok(Losses::default());
        }
        self.forward(image, end);
        Ok(self.backward(end, weights, gradient))
    }

    fn optimize(&mut self, start: Start) -> Result<Box<dyn Optimization + '_>> {
        let processor = self.engine.processor().clone();
        Ok(Box::new(CpuOptimization::new(self, &processor, start)?))
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::{
        network::{Pooling, parse_layers},
        objective::ReferenceObjective,
        processor::kernels::amx::{Amx, tests},
    };

    fn picture((width, height): (usize, usize), seed: usize) -> Image {
        let value = |n: usize| {
            let (x, y) = ((n % width) as f32, (n / width) as f32);
            128.0
                + 70.0 * (0.3 * x + seed as f32).sin()
                + 40.0 * (0.2 * y).cos()
                + ((n * 7919 + seed) % 31) as f32 * 0.5
        };
        Image::from_planes(width, height, (0..3 * width * height).map(value).collect()).unwrap()
    }

    /// Without AMX, plain code stands in for its tiles. The other kinds are tested in `tests/fused.rs`.
    #[test]
    fn bfloat16_is_near_the_reference() {
        let Some(processor) = tests::processor() else { return };
        for (weights, size, pooling) in [
            (Vgg::built_in().unwrap(), (16, 16), Pooling::Max),
            (Vgg::built_in().unwrap(), (21, 18), Pooling::Average),
            (Vgg::light().unwrap(), (24, 32), Pooling::Max),
        ] {
            let layers = LossLayers {
                content_layers: parse_layers("relu3_3").unwrap(),
                style_layers: parse_layers("relu1_2, relu2_2, relu3_3, relu4_3").unwrap(),
                pooling,
            };
            let evaluate = |objective: &mut dyn Objective| {
                let grams = objective.grams(&picture((24, 17), 1)).unwrap();
                objective.set_style(&grams).unwrap();
                objective.set_content(&picture(size, 2)).unwrap();
                let weights = LossWeights { content: 1.0, style: 10.0, ..LossWeights::default() };
                let mut gradient = Image::filled(size.0, size.1, f32::NAN);
                let losses = objective.evaluate(&picture(size, 3), &weights, &mut gradient).unwrap();
                (losses, gradient)
            };
            let mut fused = FusedObjective::<Amx>::new(weights.clone(), layers.clone(), processor.clone()).unwrap();
            let (losses, gradient) = evaluate(&mut fused);
            let mut reference = ReferenceObjective::new(weights.clone(), layers, processor.clone()).unwrap();
            let (expected, expected_gradient) = evaluate(&mut reference);
            let product = |a: &Image, b: &Image| -> f64 {
                a.data().iter().zip(b.data()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let cosine = product(&gradient, &expected_gradient)
                / (product(&gradient, &gradient) * product(&expected_gradient, &expected_gradient)).sqrt();
            assert!(cosine > 0.995, "{size:?}: cosine {cosine}");
            let off = |value: f64, expected: f64| (value - expected).abs() / expected;
            assert!(off(losses.content, expected.content) < 0.02, "{losses:?} {expected:?}");
            assert!(off(losses.style, expected.style) < 0.02, "{losses:?} {expected:?}");
        }
    }
}

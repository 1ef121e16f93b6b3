// SPDX-License-Identifier: MPL-2.0

//! The objective on the processor: forward, losses and gradient in one go, in memory that is laid out once for each
//! size of image.

use std::{ops::Range, sync::Arc};

use super::{
    Gram, LossLayers, LossWeights, Losses, Objective, Optimization, SMALLEST_NORM, Start,
    cpu_optimization::CpuOptimization,
};
use crate::{
    Error, Result,
    image::Image,
    network::{self, Convolution, Layer, Vgg},
    processor::{
        Engine, Kind, LANES, Lanes, Parts, Processor,
        kernels::{self, ContentTarget, Direction, Epilogue, Filters, FirstConvolution, GramMatrix, Incoming, Shape},
    },
};

/// About what the kernels need in each thread, in bytes.
const SCRATCH: usize = 5 << 20;

/// The objective by the fastest kernels that the processor has. See [`Objective`].
pub struct FusedObjective {
    weights: Arc<Vgg>,
    layers: LossLayers,
    engine: Engine,
    first: Option<FirstConvolution>,
    steps: Vec<Step>,
    /// Of each convolution but the first, forward and backward.
    filters: Vec<[Filters; 2]>,
    workspace: Workspace,
    /// For each step.
    style: Vec<Option<Target>>,
    /// For each step.
    content: Vec<Option<Target>>,
    content_size: Option<(usize, usize)>,
    /// Memory for the summands of a loss.
    squares: Vec<f64>,
}

/// A convolution, with what is around it.
#[derive(Debug, Clone, Copy)]
struct Step {
    layer: Layer,
    /// Of its output.
    channels: usize,
    /// A pooling stands before it.
    pooled: bool,
    /// Its output stays until its gradient takes its place: a loss looks at it, or a pooling whose gradient depends
    /// on it. Of others it is enough to know where they are above zero.
    kept: bool,
}

/// Feature maps or a Gram matrix that the image shall have at a layer.
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

/// Where in the memory a step finds its input, puts its output, and later the gradient for its input.
struct Places {
    input: Range<usize>,
    output: Range<usize>,
    gradient: Range<usize>,
}

impl FusedObjective {
    /// The objective with these weights.
    ///
    /// # Errors
    ///
    /// If the weights lack a layer of the network.
    pub fn new(weights: Arc<Vgg>, layers: LossLayers, processor: Processor) -> Result<Self> {
        layers.check(&weights)?;
        let mut engine = Engine::new(processor);
        let convolutions: Vec<_> = weights.up_to(layers.deepest()).collect();
        let first = convolutions.first().map(|(_, first)| FirstConvolution::new(&engine, first, weights.mean()));
        let mut pack = |(_, convolution): &(Layer, &Convolution)| {
            [Direction::Forward, Direction::Backward].map(|direction| Filters::new(&mut engine, convolution, direction))
        };
        let filters = convolutions.iter().skip(1).map(&mut pack).collect();
        let steps = Step::all(&weights, &layers);
        let none = || steps.iter().map(|_| None).collect();
        let (style, content) = (none(), none());
        let (workspace, content_size, squares) = (Workspace::default(), None, Vec::new());
        Ok(Self { weights, layers, engine, first, steps, filters, workspace, style, content, content_size, squares })
    }

    /// Makes the workspace one for images of `size`.
    fn lay_out(&mut self, size: (usize, usize)) {
        if self.workspace.size == size {
            return;
        }
        // The old one goes before the new one comes.
        self.workspace = Workspace::default();
        self.workspace = Workspace::new(size, self.engine.kind(), &self.steps, &self.layers);
    }

    /// Takes `image` through the first `end` steps.
    fn forward(&mut self, image: &Image, end: usize) {
        self.lay_out(image.size());
        let Self { engine, first, steps, filters, workspace, weights, .. } = self;
        let Workspace { shapes, places, memory, positive, .. } = workspace;
        for (n, step) in steps.iter().enumerate().take(end) {
            let Places { input, output, .. } = &places[n];
            let positive = (!step.kept).then(|| Parts::new(&mut positive[n]));
            let Some(before) = n.checked_sub(1) else {
                if let Some(first) = first {
                    first.forward(engine, image.size(), image.data(), positive, &mut memory[output.clone()]);
                }
                continue;
            };
            if step.pooled {
                let (features, pooled) = read_and_write(memory, &places[before].output, input);
                kernels::pool(engine, shapes[before], self.layers.pooling, features, pooled);
            }
            let epilogue = Epilogue::Relu { bias: &weights.convolutions()[n].bias, positive };
            let [filters, _] = &filters[before];
            let (input, output) = read_and_write(memory, input, output);
            kernels::convolve(engine, step.input(shapes[before]), input, filters, epilogue, output);
        }
    }

    /// Takes the gradients of the losses at the first `end` steps back to the image.
    fn backward(&mut self, end: usize, weights: &LossWeights, gradient: &mut Image) -> Losses {
        let Self { engine, first, steps, filters, workspace, squares, .. } = self;
        let Workspace { shapes, places, memory, positive, grams, .. } = workspace;
        let count = |targets: &[Option<Target>]| targets.iter().flatten().count() as f64;
        let (contents, styles) = (count(&self.content), count(&self.style));
        let mut losses = Losses::default();
        for (n, step) in steps.iter().enumerate().take(end).rev() {
            let shape = shapes[n];
            let Places { output, gradient: input, .. } = &places[n];
            if step.kept {
                let style = match (&self.style[n], &mut grams[n]) {
                    (Some(target), Some(gram)) => {
                        gram.compute(engine, &memory[output.clone()]);
                        let share = 1.0 / (styles * target.squared_norm);
                        // d/dF |F F^T / n - G|^2 = 4 / n (F F^T / n - G) F, n = positions * channels
                        let slope = 4.0 * share * weights.style / (shape.positions() * shape.channels) as f64;
                        let (distance, difference) = gram.difference(engine, &target.values, slope as f32);
                        losses.style += share * distance;
                        Some(difference)
                    }
                    _ => None,
                };
                let share = self.content[n].as_ref().map_or(0.0, |target| 1.0 / (contents * target.squared_norm));
                let content = self.content[n].as_ref().map(|target| ContentTarget {
                    features: &target.values,
                    slope: (2.0 * share * weights.content) as f32,
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
                losses.content +=
                    share * kernels::gradient_at(engine, shape, features, style, content, incoming, squares);
            }
            let Some(before) = n.checked_sub(1) else {
                if let Some(first) = first {
                    first.backward(engine, shape, &memory[output.clone()], gradient.data_mut());
                }
                break;
            };
            let epilogue = match steps[before].kept {
                true => Epilogue::Plain,
                false => Epilogue::Masked(&positive[before]),
            };
            let [_, filters] = &filters[before];
            let (output, input) = read_and_write(memory, output, input);
            kernels::convolve(engine, shape, output, filters, epilogue, input);
        }
        losses
    }

    /// How many steps it takes to pass the last that `is_wanted`.
    fn end(&self, is_wanted: impl Fn(usize) -> bool) -> usize {
        (0..self.steps.len()).rev().find(|&n| is_wanted(n)).map_or(0, |last| last + 1)
    }
}

impl Step {
    /// Those up to the deepest layer of the losses.
    fn all(weights: &Vgg, layers: &LossLayers) -> Vec<Self> {
        let mut steps: Vec<Self> = Vec::new();
        for (layer, convolution) in weights.up_to(layers.deepest()) {
            let pooled = steps.last().is_some_and(|before| before.layer.poolings() < layer.poolings());
            if let Some(before) = steps.last_mut() {
                before.kept |= pooled;
            }
            let kept = layers.content_layers.contains(&layer) || layers.style_layers.contains(&layer);
            steps.push(Self { layer, channels: convolution.outputs, pooled, kept });
        }
        steps
    }

    /// The shape of its output for images of `size`.
    fn output(&self, size: (usize, usize)) -> Shape {
        let poolings = self.layer.poolings();
        Shape { channels: self.channels, height: size.1 >> poolings, width: size.0 >> poolings }
    }

    /// The shape of its input, which is that of the step before or of its pooling.
    fn input(&self, before: Shape) -> Shape {
        if self.pooled { before.pooled() } else { before }
    }
}

impl Workspace {
    fn new(size: (usize, usize), kind: Kind, steps: &[Step], layers: &LossLayers) -> Self {
        let shapes: Vec<Shape> = steps.iter().map(|step| step.output(size)).collect();
        let each = || steps.iter().zip(&shapes);
        let positive = each().map(|(step, shape)| vec![0; if step.kept { 0 } else { kind.masks(*shape) }]).collect();
        let has_style = |step: &Step| layers.style_layers.contains(&step.layer);
        let grams = each().map(|(step, shape)| has_style(step).then(|| GramMatrix::new(*shape))).collect();
        let (places, len) = places(kind, steps, &shapes);
        Self { size, shapes, places, memory: vec![Lanes::ZERO; len], positive, grams }
    }
}

/// The memory, in bytes, that an objective takes at most for images of the one size and styles of the other.
pub(super) fn memory_for(
    weights: &Vgg,
    layers: &LossLayers,
    processor: &Processor,
    image: (usize, usize),
    style: (usize, usize),
) -> usize {
    let (kind, steps) = (processor.kind(), Step::all(weights, layers));
    let workspace = |size| {
        let shapes: Vec<Shape> = steps.iter().map(|step| step.output(size)).collect();
        let each = || steps.iter().zip(&shapes);
        let positive = each().filter(|(step, _)| !step.kept).map(|(_, shape)| kind.masks(*shape) * size_of::<u16>());
        places(kind, &steps, &shapes).1 * size_of::<Lanes>() + positive.sum::<usize>()
    };
    let sum = |wanted: &[Layer], bytes: &dyn Fn(&Step) -> usize| -> usize {
        steps.iter().filter(|step| wanted.contains(&step.layer)).map(bytes).sum()
    };
    let content = sum(&layers.content_layers, &|step| kind.lanes(step.output(image)) * size_of::<Lanes>());
    let styles = sum(&layers.style_layers, &|step| step.channels.pow(2) * size_of::<f32>());
    // In 16 bits, in both directions.
    let filters =
        weights.up_to(layers.deepest()).map(|(_, convolution)| 2 * convolution.weight.len() * size_of::<u16>());
    let of_size = |size| workspace(size) + sum(&layers.style_layers, &|step| GramMatrix::memory_for(step.output(size)));
    of_size(image).max(of_size(style)) + content + styles + filters.sum::<usize>() + processor.threads() * SCRATCH
}

/// Lays out the feature maps of all steps in a memory, and tells its length.
///
/// Outputs that are kept lie at the front, one behind the other. What lives from one step to the next only takes turns
/// at the two ends of the rest, so that the last before an output that is kept is at the far end, out of its way. So an
/// image's first and largest feature maps share their place with all that is deeper.
fn places(kind: Kind, steps: &[Step], shapes: &[Shape]) -> (Vec<Places>, usize) {
    let input_len = |n: usize| n.checked_sub(1).map_or(0, |before| kind.lanes(steps[n].input(shapes[before])));
    // Up to where the outputs are kept that come before each step, and at the end those of all.
    let mut fronts = vec![0];
    for (n, step) in steps.iter().enumerate() {
        fronts.push(fronts[n] + if step.kept { kind.lanes(shapes[n]) } else { 0 });
    }
    let len = (0..steps.len()).map(|n| fronts[n] + input_len(n) + kind.lanes(shapes[n])).max().unwrap_or(0);
    let passing = |n: usize| {
        let to_kept = steps[n..].iter().position(|step| step.kept).unwrap_or(0);
        let start = if to_kept.is_multiple_of(2) { len - input_len(n) } else { fronts[n] };
        start..start + input_len(n)
    };
    let output = |n: usize| if steps[n].kept { fronts[n]..fronts[n + 1] } else { passing(n + 1) };
    let place = |n: usize| {
        let before = n.checked_sub(1).filter(|before| steps[*before].kept && !steps[n].pooled);
        Places { input: before.map_or_else(|| passing(n), output), output: output(n), gradient: passing(n) }
    };
    ((0..steps.len()).map(place).collect(), len)
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

impl Objective for FusedObjective {
    fn kernel(&self) -> &'static str {
        self.engine.kind().name()
    }

    fn threads(&self) -> usize {
        self.engine.threads()
    }

    fn grams(&mut self, picture: &Image) -> Result<Vec<Gram>> {
        self.layers.check_size("style", picture.size())?;
        self.forward(picture, self.end(|n| self.layers.style_layers.contains(&self.steps[n].layer)));
        let Self { engine, steps, workspace, .. } = self;
        let mut result = Vec::new();
        for ((step, places), gram) in steps.iter().zip(&workspace.places).zip(&mut workspace.grams) {
            if let Some(gram) = gram {
                gram.compute(engine, &workspace.memory[places.output.clone()]);
                let values = gram.values().iter().flat_map(|lanes| lanes.0).collect();
                result.push(Gram { layer: step.layer, values });
            }
        }
        Ok(result)
    }

    fn set_style(&mut self, grams: &[Gram]) -> Result<()> {
        let mut targets: Vec<Option<Target>> = self.steps.iter().map(|_| None).collect();
        for gram in grams {
            let wanted = |step: &Step| step.layer == gram.layer && self.layers.style_layers.contains(&step.layer);
            let Some(n) = self.steps.iter().position(wanted) else {
                return Err(Error::LayerNotInWeights {
                    setting: "style-layers",
                    layer: gram.layer.to_string(),
                    available: network::join(&self.layers.style_layers),
                });
            };
            let (blocks, _) = gram.values.as_chunks::<LANES>();
            let values: Vec<Lanes> = blocks.iter().map(|block| Lanes(*block)).collect();
            let channels = self.steps[n].channels;
            if gram.values.len() != channels * channels {
                let problem = format!("the Gram matrix of {} has {} values", gram.layer, gram.values.len());
                return Err(candle_core::Error::Msg(problem).into());
            }
            targets[n] = Some(Target { values, squared_norm: gram.squared_norm().max(SMALLEST_NORM) });
        }
        self.style = targets;
        Ok(())
    }

    fn set_content(&mut self, content: &Image) -> Result<()> {
        self.layers.check_size("frame", content.size())?;
        self.content_size = Some(content.size());
        self.forward(content, self.end(|n| self.layers.content_layers.contains(&self.steps[n].layer)));
        let Self { engine, steps, workspace, squares, .. } = self;
        for (n, target) in self.content.iter_mut().enumerate() {
            if self.layers.content_layers.contains(&steps[n].layer) {
                let features = &workspace.memory[workspace.places[n].output.clone()];
                let squared_norm = kernels::squared_norm(engine, workspace.shapes[n], features, squares);
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
        let end = self.end(|n| self.content[n].is_some() || self.style[n].is_some());
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

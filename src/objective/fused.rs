// SPDX-License-Identifier: MPL-2.0

//! The objective on the processor: forward, losses and gradient in one go, in memory that is laid out once for each
//! size of image.

use std::{mem, sync::Arc};

use super::{Gram, LossWeights, Losses, Network, Objective, Precision, SMALLEST_NORM};
use crate::{
    Error, Result,
    kernels::{
        self, ContentTarget, Direction, Engine, Epilogue, Filters, FirstConvolution, GramMatrix, Incoming, Kind, LANES,
        Lanes, Parts, Processor, Shape,
    },
    stylizer::Image,
    vgg::{Layer, Vgg},
};

/// In larger images the transformed filters of float32 make way for feature maps: making them anew takes little of the
/// time that such an image takes.
const PIXELS_WITH_FILTERS: usize = 1024 * 576;

/// The objective by the fastest kernels that the processor has. See [`Objective`].
pub struct FusedObjective {
    weights: Arc<Vgg>,
    network: Network,
    engine: Engine,
    first: Option<FirstConvolution>,
    steps: Vec<Step>,
    filters: Filters,
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
    /// Outputs, later their gradients, of the steps that are kept; others are empty.
    kept: Vec<Vec<Lanes>>,
    /// Where the outputs of the other steps are above zero.
    positive: Vec<Vec<u16>>,
    grams: Vec<Option<GramMatrix>>,
    arena: Arena,
}

/// Memory for what lives from one step to the next only. What a step reads is at one end, what it writes at the
/// other.
#[derive(Default)]
struct Arena {
    memory: Vec<Lanes>,
    at_end: bool,
}

impl Arena {
    /// What was written last, `len` long.
    fn last(&self, len: usize) -> &[Lanes] {
        if self.at_end { &self.memory[self.memory.len() - len..] } else { &self.memory[..len] }
    }

    /// What was written last, `len` long, and place for `next`, which then is the last.
    fn step(&mut self, len: usize, next: usize) -> (&[Lanes], &mut [Lanes]) {
        self.at_end = !self.at_end;
        if self.at_end {
            let middle = self.memory.len() - next;
            let (last, next) = self.memory.split_at_mut(middle);
            (&last[..len], next)
        } else {
            let (next, last) = self.memory.split_at_mut(next);
            let start = last.len() - len;
            (&last[start..], next)
        }
    }
}

impl FusedObjective {
    /// The objective with these weights.
    ///
    /// # Errors
    ///
    /// If the weights lack a layer of the network.
    pub fn new(weights: Arc<Vgg>, network: Network, processor: Processor) -> Result<Self> {
        network.check(&weights)?;
        let engine = Engine::new(processor);
        let convolutions = network.deepest().map_or(&[][..], |deepest| weights.convolutions_up_to(deepest));
        let first = convolutions.first().map(|first| FirstConvolution::new(&engine, first, weights.mean()));
        let mut steps: Vec<Step> = Vec::new();
        for convolution in convolutions {
            let layer = convolution.layer;
            let pooled = steps.last().is_some_and(|before| before.layer.poolings() < layer.poolings());
            if let Some(before) = steps.last_mut() {
                before.kept |= pooled;
            }
            let kept = network.content_layers.contains(&layer) || network.style_layers.contains(&layer);
            steps.push(Step { layer, pooled, kept });
        }
        let none = || steps.iter().map(|_| None).collect();
        let (style, content, filters) = (none(), none(), Filters::new(steps.len(), true));
        let (workspace, content_size, squares) = (Workspace::default(), None, Vec::new());
        Ok(Self { weights, network, engine, first, steps, filters, workspace, style, content, content_size, squares })
    }

    /// Makes the workspace one for images of `size`.
    fn lay_out(&mut self, size: (usize, usize)) {
        if self.workspace.size == size {
            return;
        }
        // The old one goes before the new one comes.
        self.workspace = Workspace::default();
        let are_small = self.engine.kind().precision() == Precision::Bf16;
        let keep = are_small || size.0 * size.1 <= PIXELS_WITH_FILTERS;
        if keep != self.filters.keeps_all() {
            self.filters = Filters::new(self.steps.len(), keep);
        }
        self.workspace = Workspace::new(size, self.engine.kind(), &self.steps, &self.network);
    }

    /// Takes `image` through the first `end` steps.
    fn forward(&mut self, image: &Image, end: usize) {
        self.lay_out(image.size());
        let Self { engine, first, steps, filters, workspace, weights, .. } = self;
        let Workspace { shapes, kept, positive, arena, .. } = workspace;
        let kind = engine.kind();
        for (n, step) in steps.iter().enumerate().take(end) {
            let shape = shapes[n];
            let mut own = mem::take(&mut kept[n]);
            let positive = (!step.kept).then(|| Parts::new(&mut positive[n]));
            let Some(before) = n.checked_sub(1) else {
                let output = if step.kept { &mut own } else { arena.step(0, kind.lanes(shape)).1 };
                if let Some(first) = first {
                    first.forward(engine, image.size(), image.data(), positive, output);
                }
                kept[n] = own;
                continue;
            };
            let input_shape = step.input(shapes[before]);
            if step.pooled {
                let (_, output) = arena.step(0, kind.lanes(input_shape));
                kernels::pool(engine, shapes[before], self.network.pooling, &kept[before], output);
            }
            let in_arena = step.pooled || !steps[before].kept;
            let (input, output) = match (in_arena, step.kept) {
                (true, true) => (arena.last(kind.lanes(input_shape)), &mut own[..]),
                (true, false) => arena.step(kind.lanes(input_shape), kind.lanes(shape)),
                (false, true) => (&kept[before][..], &mut own[..]),
                (false, false) => (&kept[before][..], arena.step(0, kind.lanes(shape)).1),
            };
            let convolution = &weights.convolutions()[n];
            let epilogue = Epilogue::Relu { bias: &convolution.bias, positive };
            let filters = filters.get(engine, n, convolution, Direction::Forward);
            kernels::convolve(engine, input_shape, input, filters, epilogue, output);
            kept[n] = own;
        }
    }

    /// Takes the gradients of the losses at the first `end` steps back to the image.
    fn backward(&mut self, end: usize, weights: LossWeights, gradient: &mut Image) -> Losses {
        let Self { engine, first, steps, filters, workspace, weights: vgg, squares, .. } = self;
        let Workspace { shapes, kept, positive, grams, arena, .. } = workspace;
        let kind = engine.kind();
        let count = |targets: &[Option<Target>]| targets.iter().flatten().count() as f64;
        let (contents, styles) = (count(&self.content), count(&self.style));
        let mut losses = Losses::default();
        for (n, step) in steps.iter().enumerate().take(end).rev() {
            let shape = shapes[n];
            if step.kept {
                let features = &mut kept[n];
                let style = match (&self.style[n], &mut grams[n]) {
                    (Some(target), Some(gram)) => {
                        gram.compute(engine, features);
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
                let incoming = match steps[..end].get(n + 1) {
                    None => Incoming::Nothing,
                    Some(next) if next.pooled => {
                        Incoming::Pooled(self.network.pooling, arena.last(kind.lanes(shape.pooled())))
                    }
                    Some(_) => Incoming::Direct(arena.last(kind.lanes(shape))),
                };
                losses.content +=
                    share * kernels::gradient_at(engine, shape, features, style, content, incoming, squares);
            }
            let Some(before) = n.checked_sub(1) else {
                let output = if step.kept { &kept[n] } else { arena.last(kind.lanes(shape)) };
                if let Some(first) = first {
                    first.backward(engine, shape, output, gradient.data_mut());
                }
                break;
            };
            let input_len = kind.lanes(step.input(shapes[before]));
            let (output, input) = if step.kept {
                (&kept[n][..], arena.step(0, input_len).1)
            } else {
                arena.step(kind.lanes(shape), input_len)
            };
            let epilogue = match steps[before].kept {
                true => Epilogue::Plain,
                false => Epilogue::Masked(&positive[before]),
            };
            let filters = filters.get(engine, n, &vgg.convolutions()[n], Direction::Backward);
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
    /// The shape of its input, which is that of the step before or of its pooling.
    fn input(&self, before: Shape) -> Shape {
        if self.pooled { before.pooled() } else { before }
    }
}

impl Workspace {
    fn new(size: (usize, usize), kind: Kind, steps: &[Step], network: &Network) -> Self {
        let shape = |step: &Step| {
            let poolings = step.layer.poolings();
            Shape { channels: step.layer.channels(), height: size.1 >> poolings, width: size.0 >> poolings }
        };
        let shapes: Vec<Shape> = steps.iter().map(shape).collect();
        let each = || steps.iter().zip(&shapes);
        let kept =
            each().map(|(step, shape)| vec![Lanes::ZERO; if step.kept { kind.lanes(*shape) } else { 0 }]).collect();
        let positive = each().map(|(step, shape)| vec![0; if step.kept { 0 } else { kind.masks(*shape) }]).collect();
        let has_style = |step: &Step| network.style_layers.contains(&step.layer);
        let grams = each().map(|(step, shape)| has_style(step).then(|| GramMatrix::new(*shape))).collect();
        let read_and_written = (0..steps.len()).map(|n| {
            let read = n.checked_sub(1).map_or(0, |before| kind.lanes(steps[n].input(shapes[before])));
            read + if steps[n].kept { 0 } else { kind.lanes(shapes[n]) }
        });
        let memory = vec![Lanes::ZERO; read_and_written.max().unwrap_or(0)];
        Self { size, kept, positive, grams, arena: Arena { memory, at_end: false }, shapes }
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
        self.network.check_size("style", picture.size())?;
        self.forward(picture, self.end(|n| self.network.style_layers.contains(&self.steps[n].layer)));
        let Self { engine, steps, workspace, .. } = self;
        let mut result = Vec::new();
        for ((step, features), gram) in steps.iter().zip(&workspace.kept).zip(&mut workspace.grams) {
            if let Some(gram) = gram {
                gram.compute(engine, features);
                let values = gram.values().iter().flat_map(|lanes| lanes.0).collect();
                result.push(Gram { layer: step.layer, values });
            }
        }
        Ok(result)
    }

    fn set_style(&mut self, grams: &[Gram]) -> Result<()> {
        let mut targets: Vec<Option<Target>> = self.steps.iter().map(|_| None).collect();
        for gram in grams {
            let wanted = |step: &Step| step.layer == gram.layer && self.network.style_layers.contains(&step.layer);
            let Some(n) = self.steps.iter().position(wanted) else {
                let available = self.network.style_layers.clone();
                return Err(Error::LayerNotInWeights { setting: "style-layers", layer: gram.layer, available });
            };
            let (blocks, _) = gram.values.as_chunks::<LANES>();
            let values: Vec<Lanes> = blocks.iter().map(|block| Lanes(*block)).collect();
            let channels = gram.layer.channels();
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
        self.network.check_size("frame", content.size())?;
        self.content_size = Some(content.size());
        self.forward(content, self.end(|n| self.network.content_layers.contains(&self.steps[n].layer)));
        let Self { engine, steps, workspace, squares, .. } = self;
        for (n, target) in self.content.iter_mut().enumerate() {
            if self.network.content_layers.contains(&steps[n].layer) {
                let features = &workspace.kept[n];
                let squared_norm = kernels::squared_norm(engine, workspace.shapes[n], features, squares);
                let target = target.get_or_insert_with(|| Target { values: Vec::new(), squared_norm });
                target.squared_norm = squared_norm.max(SMALLEST_NORM);
                target.values.clone_from(features);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, image: &Image, weights: LossWeights, gradient: &mut Image) -> Result<Losses> {
        let (width, height) = gradient.size();
        let size = self.content_size.unwrap_or((width, height));
        if image.size() != (width, height) || size != (width, height) {
            let (expected, actual) = (3 * size.0 * size.1, image.data().len());
            return Err(Error::ImageSize { width: size.0, height: size.1, expected, actual });
        }
        self.network.check_size("frame", size)?;
        let end = self.end(|n| self.content[n].is_some() || self.style[n].is_some());
        if end == 0 {
            gradient.data_mut().fill(0.0);
            return Ok(Losses::default());
        }
        self.forward(image, end);
        Ok(self.backward(end, weights, gradient))
    }
}

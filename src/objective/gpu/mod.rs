// SPDX-License-Identifier: MPL-2.0

//! The objective on a graphics card. Image, gradient and optimizer stay there from the first step of a frame to the
//! last; each step is one submission, and only the losses are read back, on demand.

mod metric;
mod network;
mod workspace;

use std::sync::Arc;

use super::{
    Adam, Gram, LossLayers, LossWeights, Losses, Objective, Optimization, SMALLEST_NORM, Start, StepLength, grain,
    step::Step, temporal, total_variation,
};
use crate::{
    Error, Result,
    gpu::{Gpu, Submission},
    image::Image,
    network::Vgg,
};
use network::Network;
use workspace::Workspace;

/// The objective on a graphics card. See [`Objective`].
///
/// Feature maps are f16 on cards with matrix units for f16 and sums in float32, and float32 on all others.
pub struct GpuObjective {
    weights: Arc<Vgg>,
    network: Arc<Network>,
    layers: LossLayers,
    steps: Vec<Step>,
    /// For each step.
    style: Vec<Option<Target>>,
    content_size: Option<(usize, usize)>,
    workspace: Option<Workspace>,
}

/// The Gram matrix that the image is compared with at a layer.
struct Target {
    values: Vec<f32>,
    /// In the metric of the layer, if there is one.
    squared_norm: f64,
}

impl GpuObjective {
    /// The objective with these weights on an opened card.
    ///
    /// # Errors
    ///
    /// If the weights lack a layer, if the card has no kernel for their channels, or if its memory is full.
    pub fn new(weights: &Arc<Vgg>, layers: LossLayers, gpu: &Arc<Gpu>) -> Result<Self> {
        layers.check(weights)?;
        let steps = Step::all(weights, &layers);
        let network = Network::pack(gpu, weights, layers.deepest())?;
        let style = steps.iter().map(|_| None).collect();
        Ok(Self { weights: weights.clone(), network, layers, steps, style, content_size: None, workspace: None })
    }

    fn gpu(&self) -> &Gpu {
        &self.network.gpu
    }

    /// The workspace for images of `size`.
    fn lay_out(&mut self, size: (usize, usize)) -> Result<&Workspace> {
        if self.workspace.as_ref().is_none_or(|workspace| workspace.size != size) {
            // Free the old memory before the new is allocated.
            self.workspace = None;
            let workspace = Workspace::new(&self.network, &self.steps, self.layers.pooling, size)?;
            workspace.write_style(self.gpu(), &self.style);
            self.workspace = Some(workspace);
        }
        self.workspace.as_ref().ok_or_else(|| Error::Gpu {
            adapter: self.network.gpu.name().to_owned(),
            problem: "it has no workspace".to_owned(),
        })
    }

    /// Checks that an image of this size can be evaluated.
    fn check_size(&self, size: (usize, usize)) -> Result<()> {
        let (width, height) = self.content_size.unwrap_or(size);
        if size != (width, height) {
            let (expected, actual) = (3 * width * height, 3 * size.0 * size.1);
            return Err(Error::ImageSize { width, height, expected, actual });
        }
        self.layers.check_size("frame", size)
    }

    /// See [`Objective::optimize`].
    fn begin(&mut self, start: Start) -> Result<GpuOptimization<'_>> {
        start.check()?;
        let Start { image, optimizer, trust } = start;
        self.check_size(image.size())?;
        self.lay_out(image.size())?;
        let Self { network, style, content_size, workspace: Some(workspace), .. } = self else {
            return Err(Error::NoStyle);
        };
        let (gpu, pixels) = (&*network.gpu, &workspace.pixels);
        gpu.write(&pixels.image, 0, image.data());
        gpu.write(&pixels.first_moment, 0, &optimizer.first_moment);
        gpu.write(&pixels.second_moment, 0, &optimizer.second_moment);
        gpu.write(&pixels.freshness, 0, &optimizer.freshness);
        if let Some(trust) = &trust {
            gpu.write(&pixels.trust, 0, trust);
            gpu.submit([], &[(&pixels.image, &pixels.warped)])?;
        }
        Ok(GpuOptimization {
            network,
            style,
            has_content: content_size.is_some(),
            workspace,
            image,
            optimizer,
            has_target: trust.is_some(),
            last: None,
        })
    }
}

impl Objective for GpuObjective {
    fn kernel(&self) -> &'static str {
        if self.network.by_units { "GPU, f16" } else { "GPU, f32" }
    }

    fn threads(&self) -> usize {
        1
    }

    fn grams(&mut self, picture: &Image) -> Result<Vec<Gram>> {
        self.layers.check_size("style", picture.size())?;
        let matrices =
            workspace::grams(&self.network, &self.steps, self.layers.pooling, picture.size(), picture.data())?;
        let styled = self.steps.iter().filter(|step| step.has_style);
        Ok(styled.zip(matrices).map(|(step, values)| Gram { layer: step.layer, values }).collect())
    }

    fn set_style(&mut self, grams: &[Gram]) -> Result<()> {
        let mut targets: Vec<Option<Target>> = self.steps.iter().map(|_| None).collect();
        for gram in grams {
            let n = self.layers.check_gram(&self.weights, gram)?;
            let squared_norm = match &self.network.metrics[n] {
                Some(metric) => metric.squared_norm(&gram.values),
                None => gram.squared_norm(),
            };
            targets[n] = Some(Target { values: gram.values.clone(), squared_norm: squared_norm.max(SMALLEST_NORM) });
        }
        self.style = targets;
        if let Some(workspace) = &self.workspace {
            workspace.write_style(self.gpu(), &self.style);
        }
        Ok(())
    }

    fn set_content(&mut self, content: &Image) -> Result<()> {
        self.layers.check_size("frame", content.size())?;
        self.content_size = Some(content.size());
        let network = self.network.clone();
        let workspace = self.lay_out(content.size())?;
        network.gpu.write(&workspace.pixels.image, 0, content.data());
        workspace.take_content(&network.gpu)
    }

    fn evaluate(&mut self, image: &Image, weights: &LossWeights, gradient: &mut Image) -> Result<Losses> {
        self.check_size(image.size())?;
        self.check_size(gradient.size())?;
        if !self.steps.iter().any(Step::has_loss) {
            gradient.data_mut().fill(0.0);
            return Ok(Losses::default());
        }
        self.lay_out(image.size())?;
        let Self { network, style, content_size, workspace: Some(workspace), .. } = self else {
            return Ok(Losses::default());
        };
        let (gpu, has_content) = (&*network.gpu, content_size.is_some());
        workspace.write_weights(network, style, has_content, weights);
        gpu.write(&workspace.pixels.image, 0, image.data());
        gpu.submit(&workspace.evaluation, &[])?;
        let values = gradient.data().len();
        let buffers = [(&workspace.pixels.gradient, values), (&workspace.numbers, workspace.count())];
        let read: Vec<Vec<f32>> = gpu.read(&buffers)?;
        gradient.data_mut().copy_from_slice(&read[0]);
        let ([content, style], _) = workspace.losses(&read[1], style, has_content);
        Ok(Losses { content, style, ..Losses::default() })
    }

    fn optimize(&mut self, start: Start) -> Result<Box<dyn Optimization + '_>> {
        Ok(Box::new(self.begin(start)?))
    }
}

/// An [`Optimization`] on a graphics card.
struct GpuOptimization<'a> {
    network: &'a Network,
    style: &'a [Option<Target>],
    has_content: bool,
    workspace: &'a Workspace,
    /// The image and the state of the optimizer at the start.
    image: Image,
    optimizer: Adam,
    /// There is a temporal loss.
    has_target: bool,
    /// The last step.
    last: Option<Submission>,
}

impl Optimization for GpuOptimization<'_> {
    fn step(&mut self, length: StepLength, weights: &LossWeights) -> Result<()> {
        let Self { network, style, workspace, .. } = self;
        let gpu = &*network.gpu;
        let values = self.image.data().len();
        let temporal = if self.has_target { weights.temporal } else { 0.0 };
        let slopes = [
            weights.total_variation as f32 * total_variation::share(values),
            2.0 * weights.grain as f32 * grain::share(values),
            2.0 * temporal as f32 * temporal::share(values),
        ];
        workspace.write_weights(network, style, self.has_content, weights);
        workspace.write_step(gpu, slopes, [length.base, length.fresh, self.optimizer.begin_step()]);
        let step = gpu.submit(workspace.evaluation.iter().chain(&workspace.step), &[])?;
        // Two steps in flight keep the card busy. With more, an interrupted frame would have to wait for all of them.
        self.last.replace(step).map_or(Ok(()), |before| gpu.wait_for(before))
    }

    fn losses(&mut self) -> Result<Losses> {
        if self.last.is_none() {
            return Ok(Losses::default());
        }
        let Self { network, style, workspace, .. } = self;
        let read: Vec<Vec<f32>> = network.gpu.read(&[(&workspace.numbers, workspace.count())])?;
        let ([content, style], [variation, grain, temporal]) = workspace.losses(&read[0], style, self.has_content);
        let values = self.image.data().len();
        let temporal = if self.has_target { temporal * f64::from(temporal::share(values)) } else { 0.0 };
        let (variation, grain) =
            (variation * f64::from(total_variation::share(values)), grain * f64::from(grain::share(values)));
        Ok(Losses { content, style, total_variation: variation, grain, temporal })
    }

    fn finish(self: Box<Self>) -> Result<(Image, Adam)> {
        let Self { network, workspace, mut image, mut optimizer, last, .. } = *self;
        if last.is_some() {
            let (pixels, values) = (&workspace.pixels, image.data().len());
            let read: Vec<Vec<f32>> = network.gpu.read(&[
                (&pixels.image, values),
                (&pixels.first_moment, values),
                (&pixels.second_moment, values),
                (&pixels.freshness, values / 3),
            ])?;
            image.data_mut().copy_from_slice(&read[0]);
            optimizer.first_moment.copy_from_slice(&read[1]);
            optimizer.second_moment.copy_from_slice(&read[2]);
            optimizer.freshness.copy_from_slice(&read[3]);
        }
        Ok((image, optimizer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gpu::{AdapterChoice, translation},
        network::{Pooling, parse_layers},
    };

    #[test]
    fn kernels_are_translated_for_all_systems() {
        let gpu = Gpu::open(&AdapterChoice::Number(0)).unwrap();
        let networks = [Vgg::built_in().unwrap(), Vgg::light().unwrap()];
        for (weights, pooling) in
            networks.iter().flat_map(|weights| [Pooling::Max, Pooling::Average].map(|pooling| (weights, pooling)))
        {
            for (content, style) in [("relu3_3", "relu1_2, relu2_2, relu3_3, relu4_3"), ("relu1_1", "")] {
                let (content_layers, style_layers) = (parse_layers(content).unwrap(), parse_layers(style).unwrap());
                let layers = LossLayers { content_layers, style_layers, pooling };
                let mut objective = GpuObjective::new(weights, layers, &gpu).unwrap();
                let picture = Image::filled(16, 16, 90.0);
                objective.grams(&picture).unwrap();
                objective.set_content(&picture).unwrap();
            }
        }
        let sources = gpu.sources();
        assert!(sources.len() > 15, "only {} kernels were made", sources.len());
        for source in sources.iter().filter(|source| !source.contains("wgpu_cooperative_matrix")) {
            translation::check(source);
        }
    }

    #[test]
    fn no_more_than_two_steps_are_in_flight() {
        let gpu = Gpu::open(&AdapterChoice::Number(0)).unwrap();
        let layers = LossLayers::new(Vec::new(), parse_layers("relu2_2").unwrap(), Pooling::Max);
        let mut objective = GpuObjective::new(&Vgg::built_in().unwrap(), layers, &gpu).unwrap();
        let picture = Image::filled(96, 96, 90.0);
        let grams = objective.grams(&picture).unwrap();
        objective.set_style(&grams).unwrap();
        objective.set_content(&picture).unwrap();
        let mut optimization = objective.begin(picture.into()).unwrap();
        for _ in 0..6 {
            let before = optimization.last.clone();
            optimization.step(StepLength::new(1.0, 0.0), &LossWeights::new(0.0, 1.0)).unwrap();
            assert!(before.is_none_or(|before| gpu.is_done(before)), "a third step is in flight");
        }
    }
}

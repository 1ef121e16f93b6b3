// SPDX-License-Identifier: MPL-2.0

//! The losses that the optimization of an image minimizes, and the optimization itself.

mod adam;
mod cpu_optimization;
mod device;
mod fused;
#[cfg(feature = "gpu")]
mod gpu;
mod grain;
mod packed;
mod reference;
mod smoothing;
mod step;
mod temporal;
mod total_variation;

use std::sync::Arc;

#[cfg(feature = "gpu")]
use crate::gpu::Gpu;
#[cfg(target_arch = "x86_64")]
use crate::processor::{Kind, kernels::Amx};
use crate::{
    Error, Result,
    image::Image,
    network::{self, Layer, Pooling, Vgg},
    processor::{Processor, kernels::Float32},
};

pub(crate) use adam::Memory;
pub use adam::{Adam, StepLength};
pub use device::Device;
#[cfg(feature = "gpu")]
pub use gpu::GpuObjective;
pub(crate) use grain::grain;
pub use reference::ReferenceObjective;

/// Keeps the losses finite if a target is all zeros, as the features of a black image may be.
const SMALLEST_NORM: f64 = 1e-20;

/// The layers whose feature maps are compared, and the pooling between them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LossLayers {
    /// The layers of the content loss.
    pub content_layers: Vec<Layer>,
    /// The layers of the style loss.
    pub style_layers: Vec<Layer>,
    /// The pooling between the blocks.
    pub pooling: Pooling,
}

impl LossLayers {
    /// The losses compare these layers, with this pooling between the blocks.
    pub fn new(content_layers: Vec<Layer>, style_layers: Vec<Layer>, pooling: Pooling) -> Self {
        Self { content_layers, style_layers, pooling }
    }

    /// The deepest layer of both losses; `None` if there is no layer at all.
    pub fn deepest(&self) -> Option<Layer> {
        self.content_layers.iter().chain(&self.style_layers).max().copied()
    }

    /// Checks that `weights` have every layer.
    ///
    /// # Errors
    ///
    /// [`Error::LayerNotInWeights`] for the first that is not there.
    pub fn check(&self, weights: &Vgg) -> Result<()> {
        weights.check_layers("content-layers", &self.content_layers)?;
        weights.check_layers("style-layers", &self.style_layers)
    }

    /// Checks that a Gram matrix is of one of the style layers, and as large as the weights make it. Returns the number of
    /// its convolution, from 0.
    ///
    /// # Errors
    ///
    /// [`Error::GramLayer`] or [`Error::GramSize`].
    fn check_gram(&self, weights: &Vgg, gram: &Gram) -> Result<usize> {
        let layer = gram.layer.to_string();
        let is_wanted = |own: &Layer| *own == gram.layer && self.style_layers.contains(own);
        let Some(n) = weights.layers().iter().position(is_wanted) else {
            return Err(Error::GramLayer { layer, available: network::join(&self.style_layers) });
        };
        let (expected, actual) = (weights.convolutions()[n].outputs.pow(2), gram.values.len());
        if actual == expected { Ok(n) } else { Err(Error::GramSize { layer, expected, actual }) }
    }

    /// Checks that an image of `size` still has a position at the deepest layer.
    ///
    /// # Errors
    ///
    /// [`Error::TooSmall`], which calls the image `what`.
    pub fn check_size(&self, what: &'static str, (width, height): (usize, usize)) -> Result<()> {
        match self.deepest() {
            Some(layer) if width.min(height) < layer.shortest_side() => {
                let (layer, needed) = (layer.to_string(), layer.shortest_side());
                Err(Error::TooSmall { what, width, height, layer, needed })
            }
            _ => Ok(()),
        }
    }
}

/// A Gram matrix, `G = F F^T / (positions * channels)`, of the feature maps F of one layer, `[channels][positions]`.
///
/// It tells which features occur together, regardless of where in the picture (Gatys, Ecker and Bethge 2015, equation
/// 3, here divided by the size of F so that images of all sizes can be compared).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Gram {
    /// The layer of the feature maps.
    pub layer: Layer,
    /// The matrix, `[channels][channels]`, symmetric.
    pub values: Vec<f32>,
}

impl Gram {
    /// The sum of the squares of all values, by which the distance from this matrix is measured.
    pub fn squared_norm(&self) -> f64 {
        self.values.iter().map(|&value| f64::from(value).powi(2)).sum()
    }
}

/// How much each loss counts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct LossWeights {
    /// Of the content loss.
    pub content: f64,
    /// Of the style loss.
    pub style: f64,
    /// Of the total variation.
    pub total_variation: f64,
    /// Of the grain.
    pub grain: f64,
    /// Of the temporal loss.
    pub temporal: f64,
}

impl LossWeights {
    /// These weights of the content and of the style loss. The other losses do not count.
    pub const fn new(content: f64, style: f64) -> Self {
        Self { content, style, total_variation: 0.0, grain: 0.0, temporal: 0.0 }
    }

    /// The same with this weight of the total variation.
    pub const fn with_total_variation(self, total_variation: f64) -> Self {
        Self { total_variation, ..self }
    }

    /// The same with this weight of the grain.
    pub const fn with_grain(self, grain: f64) -> Self {
        Self { grain, ..self }
    }

    /// The same with this weight of the temporal loss.
    pub const fn with_temporal(self, temporal: f64) -> Self {
        Self { temporal, ..self }
    }
}

/// The losses at an image, not yet weighted.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Losses {
    /// `|F(x) - F(c)|^2 / |F(c)|^2`, in the [metric](Vgg::metric) if there is one, the mean over the content layers. It
    /// has no unit.
    pub content: f64,
    /// `|G(x) - G(s)|^2 / |G(s)|^2`, in the [metric](Vgg::metric) if there is one, the mean over the style layers. It has
    /// no unit.
    pub style: f64,
    /// The mean, over all pixels and planes, of `sqrt(dx^2 + dy^2 + 16) - 4` as a share of 255 levels, where dx and dy
    /// are the differences, in levels, to the right and lower neighbour (Rudin, Osher and Fatemi 1992).
    pub total_variation: f64,
    /// The mean, over all pixels and planes, of the square of the finest detail, with colours from 0 to 1. The detail is
    /// what the image has more than when it is blurred by 1 4 6 4 1 in both directions.
    pub grain: f64,
    /// The mean, over all pixels and planes, of `trust * (image - warped)^2`, with colours from 0 to 1, where warped is
    /// the image of the [`Start`] (Ruder, Dosovitskiy and Brox 2016).
    pub temporal: f64,
}

impl Losses {
    /// The weighted sum, which is what the optimization minimizes.
    pub fn weighted(&self, weights: &LossWeights) -> f64 {
        weights.content * self.content
            + weights.style * self.style
            + weights.total_variation * self.total_variation
            + weights.grain * self.grain
            + weights.temporal * self.temporal
    }
}

/// Where the optimization of an image starts. [From an image](Self::from) there is no paint yet and no temporal loss.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Start {
    /// The image, of the content's size.
    pub image: Image,
    /// What the optimizer knows from earlier steps, moved along with the image.
    pub optimizer: Adam,
    /// For each pixel, how strongly the temporal loss holds it to its value at the start: 1 fully, 0 not at all. `None`
    /// is no temporal loss.
    pub trust: Option<Vec<f32>>,
}

impl From<Image> for Start {
    /// Nothing is painted yet on this image.
    fn from(image: Image) -> Self {
        let optimizer = Adam::new(image.width() * image.height());
        Self { image, optimizer, trust: None }
    }
}

impl Start {
    /// Checks that all parts have the size of the image.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] if one is not.
    pub(crate) fn check(&self) -> Result<()> {
        let (width, height) = self.image.size();
        let counts = [Some(self.optimizer.freshness.len()), self.trust.as_ref().map(Vec::len)];
        match counts.into_iter().flatten().find(|count| *count != width * height) {
            Some(actual) => Err(Error::ImageSize { width, height, expected: width * height, actual }),
            None => Ok(()),
        }
    }
}

/// The perceptual losses of Gatys, Ecker and Bethge (2015), "A Neural Algorithm of Artistic Style", each divided by
/// the size of its target:
///
/// ```text
/// content = mean over content layers of |F(x) - F(c)|^2 / |F(c)|^2
/// style   = mean over style layers of   |G(x) - G(s)|^2 / |G(s)|^2
/// ```
///
/// for the generated image x, the content c and the style s, with F and G the feature maps and Gram matrices of VGG.
/// The first is equation 1 of the paper and the second equation 5, up to a constant factor; since both are ratios
/// here, the same weights serve every style, picture and size.
///
/// Where the weights have a [metric](Vgg::metric) M for a layer, `<M d, d>` takes the place of the square of a
/// difference of feature maps, and `<M D, D M>` that of a difference of Gram matrices, in the norms of the targets as
/// well.
///
/// Images may be of any size, from the shortest side that the deepest layer needs. Memory is allocated anew when the
/// size changes.
pub trait Objective: Send {
    /// The Gram matrices of a picture at the style layers, in the order of the layers.
    fn grams(&mut self, picture: &Image) -> Result<Vec<Gram>>;

    /// Makes these Gram matrices the target of the style loss.
    fn set_style(&mut self, grams: &[Gram]) -> Result<()>;

    /// Makes the feature maps of `content` the target of the content loss.
    fn set_content(&mut self, content: &Image) -> Result<()>;

    /// The name of the kernels that compute it.
    fn kernel(&self) -> &'static str;

    /// How many threads compute it.
    fn threads(&self) -> usize;

    /// The content and the style loss at `image`, which has the size of the content. The gradient of their weighted sum
    /// goes to `gradient`.
    fn evaluate(&mut self, image: &Image, weights: &LossWeights, gradient: &mut Image) -> Result<Losses>;

    /// Begins to optimize an image of the size of the content: copies it and the state of the optimizer to the device
    /// that computes the steps.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] if the parts of `start` differ in size, or if the device runs out of memory.
    fn optimize(&mut self, start: Start) -> Result<Box<dyn Optimization + '_>>;
}

/// The optimization of an image. Image, gradient and optimizer state stay on the objective's device from the
/// [start](Objective::optimize) until [`finish`](Self::finish).
pub trait Optimization {
    /// Takes a step of Adam against the smoothed gradient of all losses.
    ///
    /// A device may still be at work when this returns; [`losses`](Self::losses) and [`finish`](Self::finish) wait for
    /// it.
    fn step(&mut self, length: StepLength, weights: &LossWeights) -> Result<()>;

    /// The losses before the last step, 0 if there was none.
    fn losses(&mut self) -> Result<Losses>;

    /// The image and the state of the optimizer after the last step.
    fn finish(self: Box<Self>) -> Result<(Image, Adam)>;
}

/// Calls a function with the backend for this processor's kind of instructions.
macro_rules! with_kernels {
    ($processor:expr, $($function:ident)::+($($argument:expr),*)) => {
        match $processor.kind() {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => $($function)::+::<Amx>($($argument),*),
            _ => $($function)::+::<Float32>($($argument),*),
        }
    };
}

/// Opens the fastest objective on this device. One on the processor uses the threads of `processor`.
///
/// # Errors
///
/// If the weights lack a layer, or the device cannot be used.
pub fn open(
    weights: Arc<Vgg>,
    layers: LossLayers,
    device: &Device,
    processor: &Processor,
) -> Result<Box<dyn Objective>> {
    match device {
        Device::Cpu => with_kernels!(processor, fused::open(weights, layers, processor.clone())),
        #[cfg(feature = "gpu")]
        Device::Gpu(choice) => Ok(Box::new(GpuObjective::new(&weights, layers, &Gpu::open(choice)?)?)),
    }
}

/// The most memory, in bytes, that an objective [opened](open) with these arguments takes for images of the size
/// `image` and styles of the size `style`. `None` if that is not known: a graphics card has memory of its own.
pub(crate) fn memory_for(
    weights: &Vgg,
    layers: &LossLayers,
    device: &Device,
    processor: &Processor,
    image: (usize, usize),
    style: (usize, usize),
) -> Option<usize> {
    (*device == Device::Cpu)
        .then(|| with_kernels!(processor, fused::memory_for(weights, layers, processor, image, style)))
}

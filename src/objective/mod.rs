// SPDX-License-Identifier: MPL-2.0

//! What the optimization minimizes: how far an image is from the content and from the style, and in which direction
//! it gets nearer.

mod fused;
mod reference;
mod temporal;
mod total_variation;

use std::{str::FromStr, sync::Arc};

use candle_core::DType;

use crate::{
    Error, Result,
    image::Image,
    network::{Layer, Pooling, Vgg},
    processor::Processor,
};

pub use fused::FusedObjective;
pub use reference::ReferenceObjective;
pub use temporal::{TemporalTarget, temporal};
pub use total_variation::total_variation;

/// A target of all zeros, such as the features of a black image may be, would make a ratio infinite.
const SMALLEST_NORM: f64 = 1e-20;

/// Which feature maps are compared, and how they come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossLayers {
    /// Layers at which the image shall have the feature maps of the content.
    pub content_layers: Vec<Layer>,
    /// Layers at which the image shall have the Gram matrices of the style.
    pub style_layers: Vec<Layer>,
    /// The pooling between the blocks.
    pub pooling: Pooling,
}

impl LossLayers {
    /// The deepest layer that either loss looks at; `None` if there is no layer at all.
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

    /// Checks that at every layer something is left of an image of `size`.
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
/// It tells which features occur together, wherever in the picture that is (Gatys, Ecker and Bethge 2015, equation
/// 3, here divided by the size of F so that images of all sizes can be compared).
#[derive(Debug, Clone, PartialEq)]
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossWeights {
    /// Of the content loss.
    pub content: f64,
    /// Of the style loss.
    pub style: f64,
}

/// The losses at an image, not yet weighted. Both are ratios and have no unit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Losses {
    /// `|F(x) - F(c)|^2 / |F(c)|^2`, the mean over the content layers.
    pub content: f64,
    /// `|G(x) - G(s)|^2 / |G(s)|^2`, the mean over the style layers.
    pub style: f64,
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
/// Images may be of any size, from the shortest side that the deepest layer needs. Memory is laid out anew when the
/// size changes.
pub trait Objective: Send {
    /// The Gram matrices of a picture at the style layers, in the order of the layers.
    fn grams(&mut self, picture: &Image) -> Result<Vec<Gram>>;

    /// Makes these Gram matrices the target of the style loss.
    fn set_style(&mut self, grams: &[Gram]) -> Result<()>;

    /// Makes the feature maps of `content` the target of the content loss.
    fn set_content(&mut self, content: &Image) -> Result<()>;

    /// What computes it, for people who compare speeds.
    fn kernel(&self) -> &'static str;

    /// How many threads compute it.
    fn threads(&self) -> usize;

    /// The losses at `image`, which has the size of the content. Their weighted sum's gradient goes to `gradient`.
    fn evaluate(&mut self, image: &Image, weights: LossWeights, gradient: &mut Image) -> Result<Losses>;
}

/// The fastest objective there is on this device. One on the processor shares its threads.
///
/// # Errors
///
/// If the weights lack a layer of the network, or the device cannot be used.
pub fn open(
    weights: Arc<Vgg>,
    layers: LossLayers,
    device: Device,
    processor: &Processor,
) -> Result<Box<dyn Objective>> {
    Ok(match device {
        Device::Cpu => Box::new(FusedObjective::new(weights, layers, processor.clone())?),
        device => Box::new(ReferenceObjective::new(weights, layers, &device.open()?, DType::F32)?),
    })
}

/// Where the objective is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number; needs the crate's `cuda` feature.
    Cuda(usize),
    /// The Apple GPU of this number; needs the crate's `metal` feature.
    Metal(usize),
}

impl Device {
    /// The device in candle.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if this build or this machine does not have it.
    pub fn open(self) -> Result<candle_core::Device> {
        let (kind, number, is_built, device) = match self {
            Self::Cpu => return Ok(candle_core::Device::Cpu),
            Self::Cuda(number) => ("cuda", number, cfg!(feature = "cuda"), candle_core::Device::new_cuda(number)),
            Self::Metal(number) => ("metal", number, cfg!(feature = "metal"), candle_core::Device::new_metal(number)),
        };
        device.map_err(|error| Error::Device {
            name: format!("{kind}:{number}"),
            problem: if is_built { error.to_string() } else { format!("it takes a build with --features {kind}") },
        })
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `cpu`, or `cuda` or `metal` with an optional number, as in `cuda:1`.
    fn from_str(name: &str) -> Result<Self> {
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        match (kind, number.parse()) {
            ("cpu", _) if name == "cpu" => Ok(Self::Cpu),
            ("cuda", Ok(number)) => Ok(Self::Cuda(number)),
            ("metal", Ok(number)) => Ok(Self::Metal(number)),
            _ => Err(Error::Device {
                name: name.to_owned(),
                problem: "devices are cpu, cuda, cuda:<number>, metal and metal:<number>".to_owned(),
            }),
        }
    }
}

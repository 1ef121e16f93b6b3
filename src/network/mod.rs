// SPDX-License-Identifier: MPL-2.0

//! The convolutions of VGG16 and VGG19 (Simonyan and Zisserman 2014) and their weights, and networks of the same form
//! with fewer channels that stand in for them.

mod weights;

use std::{
    any::Any,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{Error, Result};

pub use crate::processor::kernels::{Convolution, Pooling};

/// A layer of VGG: the output of one convolution after its ReLU, for example `relu3_3`.
///
/// Layers are ordered by depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layer {
    block: u8,
    convolution: u8,
}

impl Layer {
    /// The layer `relu{block}_{convolution}`, both counted from 1; `None` if neither VGG16 nor VGG19 has it.
    pub fn new(block: u8, convolution: u8) -> Option<Self> {
        let deepest = [2, 2, 4, 4, 4].get(usize::from(block).checked_sub(1)?)?;
        (1..=*deepest).contains(&convolution).then_some(Self { block, convolution })
    }

    /// How many poolings, each of which halves the size, lie between the image and this layer.
    pub fn poolings(self) -> usize {
        usize::from(self.block) - 1
    }

    /// The shortest side, in pixels, of an image that still has a position at this layer.
    pub fn shortest_side(self) -> usize {
        1 << self.poolings()
    }
}

impl fmt::Debug for Vgg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vgg").field("layers", &join(&self.layers)).field("mean", &self.mean).finish_non_exhaustive()
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "relu{}_{}", self.block, self.convolution)
    }
}

impl FromStr for Layer {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let parse = || {
            let (block, convolution) = name.strip_prefix("relu")?.split_once('_')?;
            Self::new(block.parse().ok()?, convolution.parse().ok()?)
        };
        parse().ok_or_else(|| Error::UnknownLayer { name: name.to_owned() })
    }
}

/// Reads a list of layers such as `relu1_2, relu3_3`. Order and repetitions do not matter: the result is sorted.
///
/// An empty list has no layers, which turns a loss off.
///
/// # Errors
///
/// [`Error::UnknownLayer`] with the first name that is not a layer.
pub fn parse_layers(list: &str) -> Result<Vec<Layer>> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut layers = names.map(str::parse).collect::<Result<Vec<Layer>>>()?;
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

/// The convolutions of a VGG network, from the image on, as far as the weights go.
///
/// Whatever convention the weights were trained with, here the network takes red, green and blue planes of 0 to 255
/// from which [`mean`](Self::mean) was subtracted. A 2x2 pooling stands between two blocks.
pub struct Vgg {
    layers: Vec<Layer>,
    convolutions: Vec<Convolution>,
    /// Of each layer, if the weights have them.
    metrics: Vec<Option<Vec<f32>>>,
    mean: [f32; 3],
    /// What was derived from these weights, by name.
    derived: Mutex<Vec<Derived>>,
}

type Derived = (&'static str, Arc<dyn Any + Send + Sync>);

impl Vgg {
    /// The convolutions, in the order an image passes them.
    pub fn convolutions(&self) -> &[Convolution] {
        &self.convolutions
    }

    /// The layers and their convolutions up to `deepest`, which is the last of them.
    pub fn up_to(&self, deepest: Option<Layer>) -> impl Iterator<Item = (Layer, &Convolution)> {
        let all = self.layers.iter().copied().zip(&self.convolutions);
        all.take_while(move |(layer, _)| Some(*layer) <= deepest)
    }

    /// How many channels the feature maps at a layer have; `None` if the weights do not have that layer.
    pub fn channels(&self, layer: Layer) -> Option<usize> {
        let n = self.layers.iter().position(|own| *own == layer)?;
        Some(self.convolutions[n].outputs)
    }

    /// The metric of a layer, `[channels][channels]`, a symmetric matrix: the losses compare the feature maps there by
    /// it. `None` if the weights have none, as those of VGG itself.
    ///
    /// Feature maps f that stand in for those of another network, F, come with a metric M = E'E such that E f is close
    /// to F. Then `<M d, d>` stands for the square of a difference of feature maps, and `<M D, D M>` for that of a
    /// difference of Gram matrices.
    pub fn metric(&self, layer: Layer) -> Option<&[f32]> {
        let n = self.layers.iter().position(|own| *own == layer)?;
        self.metrics[n].as_deref()
    }

    /// The mean of the red, green and blue plane, which is subtracted from the image.
    pub fn mean(&self) -> [f32; 3] {
        self.mean
    }

    /// The layers these weights have, shallow ones first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// What `make` derives from these weights under a name, such as filters packed for some kernels. It is made once,
    /// shared by all who use these weights, and kept as long as they are.
    pub(crate) fn derived<T: Any + Send + Sync>(&self, name: &'static str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        let known = derived.iter().filter(|(own_name, _)| *own_name == name);
        if let Some(known) = known.filter_map(|(_, known)| known.clone().downcast().ok()).next() {
            return known;
        }
        let new = Arc::new(make());
        derived.push((name, new.clone()));
        new
    }

    pub(crate) fn check_layers(&self, setting: &'static str, layers: &[Layer]) -> Result<()> {
        match layers.iter().find(|layer| !self.layers.contains(layer)) {
            Some(layer) => {
                Err(Error::LayerNotInWeights { setting, layer: layer.to_string(), available: join(&self.layers) })
            }
            None => Ok(()),
        }
    }
}

/// The names of layers as a list.
pub(crate) fn join(layers: &[Layer]) -> String {
    let names: Vec<String> = layers.iter().map(Layer::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_sorted_and_unique() {
        let layers = parse_layers(" relu3_3,relu1_2 , relu3_3,").unwrap();
        assert_eq!(layers.iter().map(Layer::to_string).collect::<Vec<_>>(), ["relu1_2", "relu3_3"]);
        assert_eq!(layers[1].shortest_side(), 4);
    }

    #[test]
    fn unknown_layers_are_named() {
        for name in ["relu3_5", "relu0_1", "relu6_1", "relu1_3", "conv1_1", "relu1", "relu1_", "relu1_1x", "relu256_1"]
        {
            let message = parse_layers(&format!("relu1_1,{name}")).unwrap_err().to_string();
            assert!(message.contains(&format!("\"{name}\"")), "{message}");
        }
    }
}

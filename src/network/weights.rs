// SPDX-License-Identifier: MPL-2.0

//! Reading VGG weights from safetensors: a built-in file, or one of the user's.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use candle_core::{DType, Device, safetensors::SliceSafetensors};

use super::{Convolution, Layer, Vgg};
use crate::{Error, Result};

/// VGG16 up to conv4_3; `weights/README.md` says where this and the light network come from.
static BUILT_IN: &[u8] = include_bytes!("../../weights/vgg16-features.safetensors");
/// A network with half of its channels, and metrics.
static LIGHT: &[u8] = include_bytes!("../../weights/vgg16-light.safetensors");

/// The kernels need a multiple of this many channels.
const CHANNELS: usize = 32;

/// How far from symmetric a metric may be, as a share of its largest value.
const ASYMMETRY: f32 = 1e-4;

/// Per channel mean, red first, of the Caffe release, whose input is BGR of 0 to 255.
const CAFFE_MEAN: [f32; 3] = [123.68, 116.779, 103.939];
/// Mean and standard deviation of torchvision's input, which is RGB of 0 to 1.
const TORCHVISION_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const TORCHVISION_DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// The two ways in which VGG weights name their tensors. Each goes with its own convention for the input.
#[derive(Clone, Copy, PartialEq)]
enum Naming {
    /// `conv3_1.weight`
    Caffe,
    /// `features.10.weight`
    Torchvision,
}

/// The file, and what is needed to find and check a tensor in it.
struct Source<'a> {
    origin: String,
    tensors: SliceSafetensors<'a>,
    names: Vec<String>,
    naming: Naming,
    /// Convolutions of each block of the network.
    depths: [u8; 5],
}

/// Identifies weights in memory.
#[derive(PartialEq)]
enum Identity {
    BuiltIn,
    Light,
    /// Length and hash of the file.
    File(usize, u64),
}

/// All weights in use. Opening the same weights again returns these, with whatever is [derived](Vgg::derived) from
/// them.
static IN_USE: Mutex<Vec<(Identity, Weak<Vgg>)>> = Mutex::new(Vec::new());

impl Vgg {
    /// The built-in weights: VGG16 up to `relu4_3`. They are read once and shared while they are in use.
    ///
    /// # Errors
    ///
    /// Only if the library was built with a damaged weights file.
    pub fn built_in() -> Result<Arc<Self>> {
        Self::shared(Identity::BuiltIn, "the built-in weights".to_owned(), BUILT_IN)
    }

    /// The built-in light network, which stands in for VGG16 up to `relu4_3` at about a third of its time. It has a
    /// [`metric`](Self::metric) for every layer. It is read once and shared while it is in use.
    ///
    /// # Errors
    ///
    /// Only if the library was built with a damaged weights file.
    pub fn light() -> Result<Arc<Self>> {
        Self::shared(Identity::Light, "the built-in light weights".to_owned(), LIGHT)
    }

    /// Weights from a safetensors file that holds the convolutions of VGG16 or VGG19, all or the first few. Files of
    /// the same content share their weights while they are in use.
    ///
    /// Tensors named `conv1_1.weight` are taken to be of the Caffe release (input BGR, 0 to 255, minus the mean),
    /// tensors named `features.0.weight` of torchvision (input RGB, 0 to 1, normalized). A tensor named `relu1_1.metric`
    /// is the [`metric`](Self::metric) of that layer. Other tensors are ignored.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is damaged, if a tensor is missing, mis-shaped or not finite, or if a metric is not
    /// symmetric. The message names the file and the tensor.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        let path = path.as_ref();
        let bytes = read(path).map_err(|source| Error::WeightsUnreadable { path: path.to_owned(), source })?;
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Self::shared(Identity::File(bytes.len(), hasher.finish()), path.display().to_string(), &bytes)
    }

    /// The weights in `bytes`, or those in use that are the same.
    fn shared(identity: Identity, origin: String, bytes: &[u8]) -> Result<Arc<Self>> {
        // Others that want the same weights wait here instead of reading them as well.
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|(_, weights)| weights.strong_count() > 0);
        if let Some(weights) =
            in_use.iter().find(|(own, _)| *own == identity).and_then(|(_, weights)| weights.upgrade())
        {
            return Ok(weights);
        }
        let weights = Arc::new(Source::open(origin, bytes)?.read()?);
        in_use.push((identity, Arc::downgrade(&weights)));
        Ok(weights)
    }
}

/// Reads a regular file. Others, such as a named pipe, could block for ever.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    fs::read(path)
}

impl<'a> Source<'a> {
    fn open(origin: String, bytes: &'a [u8]) -> Result<Self> {
        let tensors = SliceSafetensors::new(bytes)
            .map_err(|source| Error::WeightsDamaged { origin: origin.clone(), source: source.into() })?;
        let names: Vec<String> = tensors.tensors().into_iter().map(|(name, _)| name).collect();
        let has = |name: &str| names.iter().any(|n| n == name);

        let naming = if has("features.0.weight") { Naming::Torchvision } else { Naming::Caffe };
        // VGG19 has a fourth convolution in the third block, VGG16 has not.
        let fourth = match naming {
            Naming::Caffe => "conv3_4.weight",
            Naming::Torchvision => "features.16.weight",
        };
        let depths = if has(fourth) { [2, 2, 4, 4, 4] } else { [2, 2, 3, 3, 3] };
        Ok(Self { origin, tensors, names, naming, depths })
    }

    fn read(self) -> Result<Vgg> {
        let (mut layers, mut convolutions): (Vec<Layer>, Vec<Convolution>) = (Vec::new(), Vec::new());
        let (mut metrics, mut gap) = (Vec::new(), None);
        let mut position = 0;
        for (block, depth) in (1u8..).zip(self.depths) {
            for index in 1..=depth {
                let prefix = match self.naming {
                    Naming::Caffe => format!("conv{block}_{index}"),
                    Naming::Torchvision => format!("features.{position}"),
                };
                // A convolution is two of torchvision's modules, itself and its ReLU; a pooling is one.
                position += if index == depth { 3 } else { 2 };
                let tensor = format!("{prefix}.weight");
                if !self.names.contains(&tensor) {
                    gap.get_or_insert(tensor);
                    continue;
                }
                if let Some(missing) = gap {
                    return Err(self.fault(&missing, format!("is missing, though {tensor} is there")));
                }
                let inputs = convolutions.last().map_or(3, |c| c.outputs);
                let (shape, weight) = self.tensor(&tensor)?;
                let outputs = match shape[..] {
                    [outputs, i, 3, 3] if i == inputs && outputs > 0 && outputs.is_multiple_of(CHANNELS) => outputs,
                    _ => {
                        let problem = format!(
                            "has shape {shape:?}, [outputs, {inputs}, 3, 3] is wanted, with outputs a multiple of {CHANNELS}"
                        );
                        return Err(self.fault(&tensor, problem));
                    }
                };
                let tensor = format!("{prefix}.bias");
                let (shape, bias) = self.tensor(&tensor)?;
                if shape != [outputs] {
                    return Err(self.fault(&tensor, format!("has shape {shape:?}, [{outputs}] is wanted")));
                }
                let layer = Layer { block, convolution: index };
                metrics.push(self.metric(layer, outputs)?);
                layers.push(layer);
                convolutions.push(Convolution { inputs, outputs, weight, bias });
            }
        }
        match convolutions.first_mut() {
            Some(first) => {
                let mean = self.naming.rewrite_for_rgb(&mut first.weight);
                Ok(Vgg { layers, convolutions, metrics, mean, derived: Mutex::default() })
            }
            None => Err(self.fault("conv1_1.weight", "is missing, and so is features.0.weight".to_owned())),
        }
    }

    /// The metric of a layer, if there is one.
    fn metric(&self, layer: Layer, channels: usize) -> Result<Option<Vec<f32>>> {
        let tensor = format!("{layer}.metric");
        if !self.names.contains(&tensor) {
            return Ok(None);
        }
        let (shape, values) = self.tensor(&tensor)?;
        if shape != [channels, channels] {
            return Err(self.fault(&tensor, format!("has shape {shape:?}, [{channels}, {channels}] is wanted")));
        }
        let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let mirrored = |n: usize| n % channels * channels + n / channels;
        match (0..values.len()).find(|&n| (values[n] - values[mirrored(n)]).abs() > ASYMMETRY * largest) {
            Some(n) => {
                let (row, column) = (n / channels, n % channels);
                Err(self.fault(&tensor, format!("is not symmetric: see row {row}, column {column}, from 0")))
            }
            None => Ok(Some(values)),
        }
    }

    /// Shape and values of a tensor.
    fn tensor(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        if !self.names.iter().any(|n| n == name) {
            return Err(self.fault(name, "is missing".to_owned()));
        }
        let read = || {
            let tensor = self.tensors.load(name, &Device::Cpu)?.to_dtype(DType::F32)?;
            Ok((tensor.dims().to_vec(), tensor.flatten_all()?.to_vec1::<f32>()?))
        };
        let (shape, values) =
            read().map_err(|error: candle_core::Error| self.fault(name, format!("cannot be read: {error}")))?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(self.fault(name, format!("value {at} is {}, not a finite number", values[at]))),
            None => Ok((shape, values)),
        }
    }

    fn fault(&self, tensor: &str, problem: String) -> Error {
        Error::WeightsTensor { origin: self.origin.clone(), tensor: tensor.to_owned(), problem }
    }
}

impl Naming {
    /// Rewrites the weights of the first convolution so that they take red, green and blue of 0 to 255 minus the
    /// returned mean. The mean cannot go into the biases: the zero padding stands for the mean, not for black.
    fn rewrite_for_rgb(self, weight: &mut [f32]) -> [f32; 3] {
        const TAPS: usize = 9;
        match self {
            Self::Caffe => {
                for filter in weight.chunks_exact_mut(3 * TAPS) {
                    let (blue, rest) = filter.split_at_mut(TAPS);
                    blue.swap_with_slice(&mut rest[TAPS..]);
                }
                CAFFE_MEAN
            }
            Self::Torchvision => {
                for (plane, taps) in weight.chunks_exact_mut(TAPS).enumerate() {
                    let scale = 1.0 / (255.0 * TORCHVISION_DEVIATION[plane % 3]);
                    taps.iter_mut().for_each(|w| *w *= scale);
                }
                TORCHVISION_MEAN.map(|mean| 255.0 * mean)
            }
        }
    }
}

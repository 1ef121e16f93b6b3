// SPDX-License-Identifier: MPL-2.0

//! The objective in candle's tensor operations, on the processor.
//!
//! The gradient is written out, layer by layer, instead of being left to candle's automatic differentiation: that
//! computes the gradients of all weights as well, and its max-pooling passes on only a part of the gradient. Other
//! implementations of the objective are tested against this one.

use std::sync::Arc;

use candle_core::{D, DType, Device, Result as TensorResult, Shape, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module};

use super::{
    Gram, LossLayers, LossWeights, Losses, Objective, Optimization, SMALLEST_NORM, Start,
    cpu_optimization::CpuOptimization,
};
use crate::{
    Error, Result,
    image::Image,
    network::{Convolution, Layer, Pooling, Vgg},
    processor::Processor,
};

/// The objective, computed by tensor operations. See [`Objective`].
pub struct ReferenceObjective {
    weights: Arc<Vgg>,
    layers: LossLayers,
    stages: Vec<Stage>,
    /// The metrics of the layers that have one; see [`Vgg::metric`].
    metrics: Vec<(Layer, Tensor)>,
    mean: Tensor,
    dtype: DType,
    processor: Processor,
    style: Vec<Target>,
    content: Vec<Target>,
}

/// A stage of VGG.
enum Stage {
    Convolution {
        layer: Layer,
        forward: Conv2d,
        /// Computes the gradient of the input from that of the output: the same convolution with each kernel rotated by
        /// 180 degrees, and with inputs and outputs swapped.
        backward: Conv2d,
    },
    Pooling(Pooling),
}

/// The feature maps or the Gram matrix that the image is compared with at a layer.
struct Target {
    layer: Layer,
    value: Tensor,
    squared_norm: f64,
}

impl ReferenceObjective {
    /// The objective with these weights, computed in float32. The processor computes the rest of an
    /// [optimization](Objective::optimize).
    ///
    /// # Errors
    ///
    /// If the weights lack a layer of the network.
    pub fn new(weights: Arc<Vgg>, layers: LossLayers, processor: Processor) -> Result<Self> {
        layers.check(&weights)?;
        Self::with_numbers(DType::F32, weights, layers, processor).map_err(tensor_error)
    }

    /// The same in double precision, to check gradients with.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn in_double_precision(weights: Arc<Vgg>, layers: LossLayers, processor: Processor) -> Result<Self> {
        layers.check(&weights)?;
        Self::with_numbers(DType::F64, weights, layers, processor).map_err(tensor_error)
    }

    fn with_numbers(dtype: DType, weights: Arc<Vgg>, layers: LossLayers, processor: Processor) -> TensorResult<Self> {
        let mut stages = Vec::new();
        let mut metrics = Vec::new();
        let mut poolings = 0;
        for (layer, convolution) in weights.up_to(layers.deepest()) {
            if layer.poolings() > poolings {
                stages.push(Stage::Pooling(layers.pooling));
                poolings += 1;
            }
            stages.push(Stage::convolution(layer, convolution, dtype)?);
            if let Some(metric) = weights.metric(layer) {
                let shape = (convolution.outputs, convolution.outputs);
                metrics.push((layer, tensor(metric, shape, dtype)?));
            }
        }
        let mean = tensor(&weights.mean(), (1, 3, 1, 1), dtype)?;
        let (style, content) = (Vec::new(), Vec::new());
        Ok(Self { weights, layers, stages, metrics, mean, dtype, processor, style, content })
    }

    /// The input of the first stage and then the output of each, up to the last of `layers`.
    fn activations(&self, image: &Image, layers: &[Layer]) -> TensorResult<Vec<Tensor>> {
        let (width, height) = image.size();
        let pixels = tensor(image.data(), (1, 3, height, width), self.dtype)?;
        let mut activations = vec![pixels.broadcast_sub(&self.mean)?];
        let end = self.stages.iter().rposition(|stage| stage.layer().is_some_and(|layer| layers.contains(&layer)));
        for stage in &self.stages[..end.map_or(0, |last| last + 1)] {
            let next = stage.forward(&activations[activations.len() - 1])?;
            activations.push(next);
        }
        Ok(activations)
    }

    fn features(&self, image: &Image, layers: &[Layer]) -> TensorResult<Vec<(Layer, Tensor)>> {
        let outputs = self.activations(image, layers)?.into_iter().skip(1);
        let of_layers = self.stages.iter().zip(outputs).filter_map(|(stage, output)| Some((stage.layer()?, output)));
        Ok(of_layers.filter(|(layer, _)| layers.contains(layer)).collect())
    }

    fn metric(&self, layer: Layer) -> Option<&Tensor> {
        self.metrics.iter().find(|(own, _)| *own == layer).map(|(_, metric)| metric)
    }

    /// M D M for a difference D of Gram matrices at a layer, which is D itself if the layer has no metric M.
    fn gram_in_metric(&self, layer: Layer, gram: &Tensor) -> TensorResult<Tensor> {
        match self.metric(layer) {
            Some(metric) => metric.matmul(gram)?.matmul(metric),
            None => Ok(gram.clone()),
        }
    }

    /// M d for a difference d of feature maps at a layer, which is d itself if the layer has no metric M.
    fn features_in_metric(&self, layer: Layer, features: &Tensor) -> TensorResult<Tensor> {
        let Some(metric) = self.metric(layer) else { return Ok(features.clone()) };
        let (_, channels, height, width) = features.dims4()?;
        let flat = features.reshape((channels, height * width))?;
        metric.matmul(&flat)?.reshape(features.shape())
    }

    /// Adds the losses at one layer to `losses` and returns the gradient for its feature maps.
    fn losses_at(
        &self,
        layer: Layer,
        features: &Tensor,
        weights: &LossWeights,
        losses: &mut Losses,
    ) -> TensorResult<Option<Tensor>> {
        let mut gradient = None;
        if let Some(target) = self.content.iter().find(|target| target.layer == layer) {
            let difference = (features - &target.value)?;
            let share = 1.0 / (self.content.len() as f64 * target.squared_norm);
            let in_metric = self.features_in_metric(layer, &difference)?;
            losses.content += share * inner_product(&difference, &in_metric)?;
            gradient = Some((in_metric * (2.0 * share * weights.content))?);
        }
        if let Some(target) = self.style.iter().find(|target| target.layer == layer) {
            let difference = (gram(features)? - &target.value)?;
            let share = 1.0 / (self.style.len() as f64 * target.squared_norm);
            let in_metric = self.gram_in_metric(layer, &difference)?;
            losses.style += share * inner_product(&difference, &in_metric)?;
            let (_, channels, height, width) = features.dims4()?;
            // d/dF |F F^T / n - G|^2 = 4 / n (F F^T / n - G) F, n = positions * channels, and in a metric M
            // d/dF <M D, D M> = 4 / n M D M F, D = F F^T / n - G
            let slope = 4.0 * share * weights.style / features.elem_count() as f64;
            let flat = features.reshape((channels, height * width))?;
            let style = (in_metric.matmul(&flat)? * slope)?.reshape(features.shape())?;
            gradient = Some(add(gradient, style)?);
        }
        Ok(gradient)
    }

    fn style_target(&self, gram: &Gram) -> TensorResult<Target> {
        let side = gram.values.len().isqrt();
        let value = tensor(&gram.values, (side, side), self.dtype)?;
        let squared_norm = match self.metric(gram.layer) {
            Some(_) => inner_product(&value, &self.gram_in_metric(gram.layer, &value)?)?,
            None => gram.squared_norm(),
        };
        Ok(Target { layer: gram.layer, value, squared_norm: squared_norm.max(SMALLEST_NORM) })
    }

    fn content_targets(&self, content: &Image) -> TensorResult<Vec<Target>> {
        let target = |(layer, value): (Layer, Tensor)| -> TensorResult<Target> {
            let squared_norm = inner_product(&value, &self.features_in_metric(layer, &value)?)?;
            Ok(Target { layer, value, squared_norm: squared_norm.max(SMALLEST_NORM) })
        };
        self.features(content, &self.layers.content_layers)?.into_iter().map(target).collect()
    }

    /// See [`Objective::evaluate`].
    fn losses_and_gradient(&self, image: &Image, weights: &LossWeights, gradient: &mut Image) -> TensorResult<Losses> {
        let mut losses = Losses::default();
        let layers: Vec<Layer> = self.content.iter().chain(&self.style).map(|target| target.layer).collect();
        let activations = self.activations(image, &layers)?;
        let mut flowing: Option<Tensor> = None;
        for (stage, around) in self.stages.iter().zip(activations.windows(2)).rev() {
            let (input, output) = (&around[0], &around[1]);
            if let Some(layer) = stage.layer()
                && let Some(own) = self.losses_at(layer, output, weights, &mut losses)?
            {
                flowing = Some(add(flowing, own)?);
            }
            flowing = flowing.map(|outer| stage.backward(input, output, &outer)).transpose()?;
        }
        match flowing {
            Some(flowing) => {
                let values = flowing.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                gradient.data_mut().copy_from_slice(&values);
            }
            None => gradient.data_mut().fill(0.0),
        }
        Ok(losses)
    }
}

impl Objective for ReferenceObjective {
    fn grams(&mut self, picture: &Image) -> Result<Vec<Gram>> {
        self.layers.check_size("style", picture.size())?;
        let gram = |(layer, features): (Layer, Tensor)| -> TensorResult<Gram> {
            let values = gram(&features)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            Ok(Gram { layer, values })
        };
        let features = self.features(picture, &self.layers.style_layers);
        features.and_then(|features| features.into_iter().map(gram).collect()).map_err(tensor_error)
    }

    fn set_style(&mut self, grams: &[Gram]) -> Result<()> {
        for gram in grams {
            self.layers.check_gram(&self.weights, gram)?;
        }
        let targets = grams.iter().map(|gram| self.style_target(gram)).collect::<TensorResult<_>>();
        self.style = targets.map_err(tensor_error)?;
        Ok(())
    }

    fn set_content(&mut self, content: &Image) -> Result<()> {
        self.layers.check_size("frame", content.size())?;
        self.content = self.content_targets(content).map_err(tensor_error)?;
        Ok(())
    }

    fn kernel(&self) -> &'static str {
        "candle"
    }

    fn threads(&self) -> usize {
        candle_core::utils::get_num_threads()
    }

    fn evaluate(&mut self, image: &Image, weights: &LossWeights, gradient: &mut Image) -> Result<Losses> {
        let (width, height) = gradient.size();
        if image.size() != (width, height) {
            let (expected, actual) = (image.data().len(), gradient.data().len());
            return Err(Error::ImageSize { width, height, expected, actual });
        }
        self.losses_and_gradient(image, weights, gradient).map_err(tensor_error)
    }

    fn optimize(&mut self, start: Start) -> Result<Box<dyn Optimization + '_>> {
        let processor = self.processor.clone();
        Ok(Box::new(CpuOptimization::new(self, &processor, start)?))
    }
}

impl Stage {
    fn convolution(layer: Layer, convolution: &Convolution, dtype: DType) -> TensorResult<Self> {
        let shape = (convolution.outputs, convolution.inputs, 3, 3);
        let weight = tensor(&convolution.weight, shape, dtype)?;
        let bias = tensor(&convolution.bias, convolution.outputs, dtype)?;
        let turned = weight.flip(&[2, 3])?.transpose(0, 1)?.contiguous()?;
        let config = Conv2dConfig { padding: 1, ..Default::default() };
        Ok(Self::Convolution {
            layer,
            forward: Conv2d::new(weight, Some(bias), config),
            backward: Conv2d::new(turned, None, config),
        })
    }

    fn layer(&self) -> Option<Layer> {
        match self {
            Self::Convolution { layer, .. } => Some(*layer),
            Self::Pooling(_) => None,
        }
    }

    fn forward(&self, input: &Tensor) -> TensorResult<Tensor> {
        match self {
            Self::Convolution { forward, .. } => forward.forward(input)?.relu(),
            Self::Pooling(Pooling::Max) => input.max_pool2d(2),
            Self::Pooling(Pooling::Average) => input.avg_pool2d(2),
        }
    }

    /// The gradient for the input, from that for the output.
    fn backward(&self, input: &Tensor, output: &Tensor, gradient: &Tensor) -> TensorResult<Tensor> {
        match self {
            Self::Convolution { backward, .. } => {
                let mask = output.gt(0.0)?.to_dtype(gradient.dtype())?;
                backward.forward(&(gradient * mask)?)
            }
            Self::Pooling(Pooling::Max) => max_pooling_backward(input, output, gradient),
            Self::Pooling(Pooling::Average) => {
                let quarter = (gradient * 0.25)?;
                unpool(&[quarter.clone(), quarter.clone(), quarter.clone(), quarter], input)
            }
        }
    }
}

/// Gives the gradient of each maximum to the pixel that it was taken from: the first in reading order, if several of
/// the four have it.
fn max_pooling_backward(input: &Tensor, output: &Tensor, gradient: &Tensor) -> TensorResult<Tensor> {
    let (batch, channels, height, width) = output.dims4()?;
    let covered = input.narrow(2, 0, 2 * height)?.narrow(3, 0, 2 * width)?.contiguous()?;
    let windows = covered.reshape(&[batch, channels, height, 2, width, 2])?;
    let mut unclaimed = gradient.clone();
    let mut parts = Vec::with_capacity(4);
    for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let pixels = windows.narrow(3, row, 1)?.narrow(5, column, 1)?.contiguous()?.reshape(output.shape())?;
        let is_maximum = pixels.eq(output)?.to_dtype(gradient.dtype())?;
        let part = (&unclaimed * is_maximum)?;
        unclaimed = (unclaimed - &part)?;
        parts.push(part);
    }
    unpool(&parts, input)
}

/// Interleaves four tensors, for the upper left, upper right, lower left and lower right pixel of each window. A last
/// row or column that no window covers becomes zero.
fn unpool(parts: &[Tensor], input: &Tensor) -> TensorResult<Tensor> {
    let (batch, channels, height, width) = input.dims4()?;
    let (_, _, half_height, half_width) = parts[0].dims4()?;
    let row = |left: &Tensor, right: &Tensor| -> TensorResult<Tensor> {
        let pairs = Tensor::stack(&[left, right], D::Minus1)?;
        pairs.reshape((batch, channels, half_height, 2 * half_width))
    };
    let rows = Tensor::stack(&[row(&parts[0], &parts[1])?, row(&parts[2], &parts[3])?], 3)?;
    let whole = rows.reshape((batch, channels, 2 * half_height, 2 * half_width))?;
    let padded = whole.pad_with_zeros(2, 0, height - 2 * half_height)?;
    padded.pad_with_zeros(3, 0, width - 2 * half_width)
}

fn gram(features: &Tensor) -> TensorResult<Tensor> {
    let (_, channels, height, width) = features.dims4()?;
    let flat = features.reshape((channels, height * width))?;
    flat.matmul(&flat.t()?)? / features.elem_count() as f64
}

/// The sum of the element-wise products.
fn inner_product(one: &Tensor, other: &Tensor) -> TensorResult<f64> {
    // Summed along rows first: one long float32 sum would lose the small values.
    let rows = (one * other)?.sum(D::Minus1)?.to_dtype(DType::F64)?;
    rows.sum_all()?.to_scalar()
}

fn add(sum: Option<Tensor>, term: Tensor) -> TensorResult<Tensor> {
    match sum {
        Some(sum) => sum + term,
        None => Ok(term),
    }
}

/// A tensor of these numbers.
fn tensor(values: &[f32], shape: impl Into<Shape>, dtype: DType) -> TensorResult<Tensor> {
    Tensor::from_slice(values, shape.into(), &Device::Cpu)?.to_dtype(dtype)
}

fn tensor_error(error: candle_core::Error) -> Error {
    Error::Tensor(error.into())
}

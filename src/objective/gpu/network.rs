// SPDX-License-Identifier: MPL-2.0

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::metric::Metric;
use crate::{
    Error, Result,
    gpu::{Filters, FirstFilters, Gpu, Storage},
    network::{Convolution, Layer, Vgg},
};

/// Channels must be a multiple of this.
const CHANNELS: usize = 32;
/// The scale of features in f16: those of VGG reach tens of thousands, and the largest number in f16 is 65504.
const FEATURE_SCALE: f32 = 1.0 / 16.0;

/// The networks in use that were packed from the same weights, so that the preparation of a style and the painting
/// share their filters. Unlike those on the processor, they are freed with the last objective: a card has little
/// memory, and may be lost and opened again.
type Packed = Mutex<Vec<Weak<Network>>>;

/// The filters of a network, packed for a card.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) gpu: Arc<Gpu>,
    deepest: Option<Layer>,
    pub(super) first: Option<FirstFilters>,
    /// Of each convolution but the first.
    pub(super) others: Vec<Filters>,
    /// Of each layer, if the weights have one.
    pub(super) metrics: Vec<Option<Metric>>,
    /// Matrix units compute it.
    pub(super) by_units: bool,
}

impl Network {
    /// The convolutions up to `deepest`, by matrix units in f16 if the card has them.
    ///
    /// # Errors
    ///
    /// If the number of channels of a layer does not suit the kernels, or the card's memory is full.
    pub(super) fn pack(gpu: &Arc<Gpu>, weights: &Vgg, deepest: Option<Layer>) -> Result<Arc<Self>> {
        let by_units = gpu.has_matrix_units();
        let packed = weights.derived("gpu", Packed::default);
        let mut packed = packed.lock().unwrap_or_else(PoisonError::into_inner);
        packed.retain(|network| network.strong_count() > 0);
        let fits = |network: &Arc<Self>| Arc::ptr_eq(&network.gpu, gpu) && network.deepest == deepest;
        if let Some(network) = packed.iter().filter_map(Weak::upgrade).find(fits) {
            return Ok(network);
        }
        let network = Arc::new(Self::new(gpu.clone(), weights, deepest, by_units)?);
        packed.push(Arc::downgrade(&network));
        Ok(network)
    }

    fn new(gpu: Arc<Gpu>, weights: &Vgg, deepest: Option<Layer>, by_units: bool) -> Result<Self> {
        if let Some((layer, convolution)) =
            weights.up_to(deepest).find(|(_, convolution)| !convolution.outputs.is_multiple_of(CHANNELS))
        {
            let problem = format!("{layer} has {} channels, not a multiple of {CHANNELS}", convolution.outputs);
            return Err(Error::Gpu { adapter: gpu.name().to_owned(), problem });
        }
        let scale = if by_units { FEATURE_SCALE } else { 1.0 };
        let mut convolutions = weights.up_to(deepest).map(|(_, convolution)| convolution);
        let metric = |(layer, convolution): (Layer, &Convolution)| {
            Some(Metric::new(&gpu, convolution.outputs, weights.metric(layer)?, by_units))
        };
        let (first, others, metrics) = gpu.checked(|| {
            let first = convolutions.next().map(|first| FirstFilters::new(&gpu, first, weights.mean(), scale));
            let others = convolutions.map(|convolution| Filters::new(&gpu, convolution, scale, by_units)).collect();
            (first, others, weights.up_to(deepest).map(metric).collect())
        })?;
        Ok(Self { gpu, deepest, first, others, metrics, by_units })
    }

    /// How features are stored.
    pub(super) fn storage(&self) -> Storage {
        if self.by_units { Storage::F16 } else { Storage::F32 }
    }

    /// The scale of stored features.
    pub(super) fn feature_scale(&self) -> f64 {
        if self.by_units { f64::from(FEATURE_SCALE) } else { 1.0 }
    }
}

// SPDX-License-Identifier: MPL-2.0

use super::LossLayers;
use crate::network::{Layer, Vgg};

/// A convolution with its ReLU, and the pooling before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) layer: Layer,
    /// Of its output.
    pub(super) channels: usize,
    /// A pooling stands before it.
    pub(super) pooled: bool,
    /// A pooling stands after it.
    pub(super) is_pooled_next: bool,
    pub(super) has_content: bool,
    pub(super) has_style: bool,
    /// The weights have a metric for its layer.
    pub(super) has_metric: bool,
}

impl Step {
    /// Those up to the deepest layer of the losses.
    pub(super) fn all(weights: &Vgg, layers: &LossLayers) -> Vec<Self> {
        let mut steps: Vec<Self> = Vec::new();
        for (layer, convolution) in weights.up_to(layers.deepest()) {
            let pooled = steps.last().is_some_and(|before| before.layer.poolings() < layer.poolings());
            if let Some(before) = steps.last_mut() {
                before.is_pooled_next = pooled;
            }
            steps.push(Self {
                layer,
                channels: convolution.outputs,
                pooled,
                is_pooled_next: false,
                has_content: layers.content_layers.contains(&layer),
                has_style: layers.style_layers.contains(&layer),
                has_metric: weights.metric(layer).is_some(),
            });
        }
        steps
    }

    /// Width and height of its output for images of this size.
    pub(super) fn output_size(&self, (width, height): (usize, usize)) -> (usize, usize) {
        let poolings = self.layer.poolings();
        (width >> poolings, height >> poolings)
    }

    pub(super) fn has_loss(&self) -> bool {
        self.has_content || self.has_style
    }
}

/// The number of steps up to and with the last that `is_wanted`.
pub(super) fn end(steps: &[Step], is_wanted: impl Fn(&Step) -> bool) -> usize {
    steps.iter().rposition(is_wanted).map_or(0, |last| last + 1)
}

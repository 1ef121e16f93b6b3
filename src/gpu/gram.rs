// SPDX-License-Identifier: MPL-2.0

//! Gram matrices and their distance from their targets.

use super::{Recorder, Shape, opened::Kernel, variant::Variant};
use crate::Result;

const GRAM: &str = include_str!("kernels/gram.wgsl");
const GRAM_BY_UNITS: &str = include_str!("kernels/gram_units.wgsl");
const METRIC: &str = include_str!("kernels/metric.wgsl");

/// How many workgroups a Gram matrix is divided among if it can be, to keep a large card busy.
const GROUPS: u32 = 1024;
/// A part of a sum has at least the first number of positions, and a multiple of the second.
const LEAST_POSITIONS: u32 = 128;
const POSITIONS: u32 = 32;
/// Values that a workgroup folds.
const FOLDED: u32 = 64;
/// The rows and columns of a product with a metric that a workgroup computes.
const METRIC_TILE: [u32; 2] = [16, 32];

/// How the Gram matrix of feature maps is cut: into blocks, of which those below the diagonal are mirrored, and each
/// of their sums into parts of the positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GramCut {
    positions: u32,
    channels: u32,
    /// Channels of a block.
    side: u32,
    /// Blocks side by side.
    across: u32,
    parts: u32,
    positions_of_part: u32,
}

impl GramCut {
    pub(crate) fn new(shape: Shape) -> Self {
        let Shape { channels, .. } = shape;
        let side = if channels.is_multiple_of(64) { 64 } else { 32 };
        let across = channels / side;
        let positions = shape.positions() as u32;
        let wanted = (GROUPS / (across * (across + 1) / 2)).max(1);
        let positions_of_part = positions.div_ceil(wanted).next_multiple_of(POSITIONS).max(LEAST_POSITIONS);
        let parts = positions.div_ceil(positions_of_part);
        Self { positions, channels, side, across, parts, positions_of_part }
    }

    /// Blocks on and above the diagonal.
    fn blocks(&self) -> u32 {
        self.across * (self.across + 1) / 2
    }

    /// The positions times the channels.
    pub(crate) fn values(&self) -> f64 {
        f64::from(self.positions) * f64::from(self.channels)
    }

    /// Bytes of the matrix.
    pub(crate) fn bytes(&self) -> u64 {
        4 * u64::from(self.channels).pow(2)
    }

    /// Bytes of all parts.
    pub(crate) fn part_bytes(&self) -> u64 {
        4 * u64::from(self.parts) * u64::from(self.blocks()) * u64::from(self.side).pow(2)
    }

    /// How many sums the distance from another matrix leaves.
    pub(crate) fn sums(&self, has_metric: bool) -> u32 {
        if has_metric {
            let [across, down, _] = self.metric_groups();
            return across * down;
        }
        self.blocks() * self.side * self.side / FOLDED
    }

    /// Workgroups of a product with a metric.
    fn metric_groups(&self) -> [u32; 3] {
        let [rows, columns] = METRIC_TILE;
        [self.channels / columns, self.channels / rows, 1]
    }

    /// The parameters of the kernels. The matrix of the features as they are stored is multiplied by `scale`, and its
    /// difference from the target by `slope`; the sums of the squared differences go to `sums` and what follows.
    pub(crate) fn uniform(&self, scale: f64, slope: f64, sums: u32) -> [u32; 8] {
        let scale = ((scale / self.values()) as f32).to_bits();
        let slope = (slope as f32).to_bits();
        [self.positions, self.channels / 4, self.across, self.parts, self.positions_of_part, scale, slope, sums]
    }
}

/// A metric, and memory for two matrices of its size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InMetric<'a> {
    pub(crate) metric: &'a wgpu::Buffer,
    pub(crate) scratch: [&'a wgpu::Buffer; 2],
}

impl Recorder<'_> {
    /// The Gram matrix of features, its difference from `wanted`, and the parts of its squared distance. In a metric M it
    /// is M D M that takes the place of the difference D, and `<M D, D M>` that of the squared distance. The difference is
    /// in f16 if it `feeds_units`.
    pub(crate) fn gram(
        &mut self,
        label: &str,
        cut: &GramCut,
        [by_units, feeds_units]: [bool; 2],
        [uniform, features, parts, wanted, difference, squares]: [&wgpu::Buffer; 6],
        metric: Option<InMetric>,
    ) -> Result<()> {
        let (template, variant) = match by_units {
            true => (GRAM_BY_UNITS, cut.by_units()),
            false => (GRAM, cut.sized(self.storage.variant()).flag("PARTS", true)),
        };
        let kernel = Kernel { template, entry: "multiply" };
        self.pass(label, kernel, &variant, &[uniform, features, parts], [cut.blocks(), cut.parts, 1])?;

        let label = format!("{label} fold");
        let Some(InMetric { metric, scratch: [plain, product] }) = metric else {
            let variant = difference_in(feeds_units).flag("SQUARES", true);
            return self.fold(&label, cut, variant, &[uniform, parts, wanted, difference, squares]);
        };
        self.fold(&label, cut, difference_in(false).flag("UNSCALED", true), &[uniform, parts, wanted, plain])?;
        let kernel = Kernel { template: METRIC, entry: "multiply" };
        let (label, groups) = (format!("{label} in metric"), cut.metric_groups());
        self.pass(&label, kernel, &difference_in(false), &[uniform, metric, plain, product], groups)?;
        let variant = difference_in(feeds_units).flag("LAST", true);
        self.pass(&label, kernel, &variant, &[uniform, product, metric, difference, plain, squares], groups)
    }

    fn fold(&mut self, label: &str, cut: &GramCut, variant: Variant, buffers: &[&wgpu::Buffer]) -> Result<()> {
        let kernel = Kernel { template: GRAM, entry: "fold" };
        let groups = [cut.blocks(), cut.side * cut.side / FOLDED, 1];
        self.pass(label, kernel, &cut.sized(variant).flag("FOLD", true), buffers, groups)
    }
}

/// Differences in f16, for matrix units, or in float32.
fn difference_in(f16: bool) -> Variant {
    let (vector, value) = if f16 { ("vec4<f16>", "f16") } else { ("vec4<f32>", "f32") };
    Variant::default().with_type("Difference", vector).with_type("Part", value).flag("HALF", f16)
}

impl GramCut {
    fn by_units(&self) -> Variant {
        let variant = Variant::default().extension("f16").extension("wgpu_cooperative_matrix");
        variant.number("BLOCKS", self.side / 32)
    }

    fn sized(&self, variant: Variant) -> Variant {
        variant.number("SUB", self.side / 8).number("SUB4", self.side / 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::translation;

    #[test]
    fn the_kernel_for_matrix_units_is_translated_for_vulkan() {
        for channels in [32, 64] {
            let cut = GramCut::new(Shape { width: 20, height: 10, channels });
            translation::check_vulkan(&cut.by_units().fill(GRAM_BY_UNITS).unwrap());
        }
    }
}

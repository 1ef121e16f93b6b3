// SPDX-License-Identifier: MPL-2.0

//! Feature maps on the card: their layout, pooling, the content loss, and sums.

use super::{Gpu, Recorder, buffers::spread, opened::Kernel, variant::Variant};
use crate::{Result, processor::kernels::Pooling};

const POOLING: &str = include_str!("kernels/pooling.wgsl");
const CONTENT: &str = include_str!("kernels/content.wgsl");
const SUM: &str = include_str!("kernels/sum.wgsl");

/// Threads of a workgroup.
pub(super) const THREADS: u64 = 64;
/// Groups of four values that a thread of the content loss takes.
const EACH: u64 = 8;
/// Matrix products may touch this many positions beyond the last.
const SPARE_POSITIONS: u64 = 256;

/// The number format in which feature maps are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Storage {
    F32,
    F16,
}

impl Storage {
    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    pub(super) fn vec4(self) -> &'static str {
        match self {
            Self::F32 => "vec4<f32>",
            Self::F16 => "vec4<f16>",
        }
    }

    pub(super) fn variant(self) -> Variant {
        Variant::default().with_type("Stored", self.vec4())
    }
}

/// The size of feature maps, `[height][width][channels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) channels: u32,
}

impl Shape {
    pub(crate) fn positions(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    pub(crate) fn values(self) -> u64 {
        self.positions() * u64::from(self.channels)
    }

    pub(crate) fn pooled(self) -> Self {
        Self { width: self.width / 2, height: self.height / 2, ..self }
    }

    /// Workgroups whose threads have four values each.
    fn groups_of_fours(self) -> [u32; 3] {
        spread((self.values() / 4).div_ceil(THREADS))
    }
}

impl Gpu {
    /// Memory for feature maps.
    pub(crate) fn features(&self, shape: Shape, storage: Storage) -> wgpu::Buffer {
        self.memory((shape.positions() + SPARE_POSITIONS) * u64::from(shape.channels) * storage.bytes())
    }
}

/// Workgroups of the content loss, each of which leaves a sum.
fn content_groups(shape: Shape) -> [u32; 3] {
    spread((shape.values() / 4).div_ceil(THREADS * EACH))
}

/// How many sums the content loss of feature maps leaves.
pub(crate) fn content_sums(shape: Shape) -> u32 {
    let [across, down, _] = content_groups(shape);
    across * down
}

impl Recorder<'_> {
    pub(super) fn pool(
        &mut self,
        label: &str,
        shape: Shape,
        pooling: Pooling,
        buffers: [&wgpu::Buffer; 2],
    ) -> Result<()> {
        let uniform = self.gpu.uniform([shape.width, shape.height, shape.channels / 4, 0]);
        let variant = self.storage.variant().flag("FORWARD", true).flag("AVERAGE", pooling == Pooling::Average);
        let kernel = Kernel { template: POOLING, entry: "forward" };
        let [features, pooled] = buffers;
        self.pass(label, kernel, &variant, &[&uniform, features, pooled], shape.pooled().groups_of_fours())
    }

    /// Computes the gradient of features of `shape` from that of the pooled features. If it `ends_at_relu`, it is zero
    /// where the features are zero.
    pub(crate) fn unpool(
        &mut self,
        label: &str,
        shape: Shape,
        pooling: Pooling,
        ends_at_relu: bool,
        [features, gradients, unpooled]: [&wgpu::Buffer; 3],
    ) -> Result<()> {
        let uniform = self.gpu.uniform([shape.width, shape.height, shape.channels / 4, 0]);
        let variant = self.storage.variant().flag("AVERAGE", pooling == Pooling::Average).flag("MASK", ends_at_relu);
        let kernel = Kernel { template: POOLING, entry: "backward" };
        let windows = Shape { width: shape.width.div_ceil(2), height: shape.height.div_ceil(2), ..shape };
        self.pass(label, kernel, &variant, &[&uniform, features, gradients, unpooled], windows.groups_of_fours())
    }

    /// The squared distance of features from their target, in parts from `sums` on, and its gradient. In a metric the
    /// `products` of the difference with it were computed before. Returns the uniform, whose second number is the
    /// gradient's slope times the squared norm of the target, which is the number at `norm`.
    pub(crate) fn content(
        &mut self,
        label: &str,
        shape: Shape,
        [norm, sums]: [u32; 2],
        [adds, ends_at_relu]: [bool; 2],
        [features, parts, wanted, gradients, numbers]: [&wgpu::Buffer; 5],
        products: Option<&wgpu::Buffer>,
    ) -> Result<wgpu::Buffer> {
        let uniform = self.gpu.uniform([(shape.values() / 4) as u32, 0, sums, norm]);
        let variant = self.storage.variant().flag("GRADIENT", true).flag("ADD", adds).flag("MASK", ends_at_relu);
        let kernel = Kernel { template: CONTENT, entry: "content" };
        let mut buffers = vec![&uniform, features, parts, wanted, gradients, numbers];
        buffers.extend(products);
        self.pass(label, kernel, &variant.flag("METRIC", products.is_some()), &buffers, content_groups(shape))?;
        Ok(uniform)
    }

    /// The squared norm of features, in parts from `sums` on. In a metric their `products` with it were computed before.
    pub(crate) fn norm(
        &mut self,
        label: &str,
        shape: Shape,
        sums: u32,
        [features, parts]: [&wgpu::Buffer; 2],
        products: Option<&wgpu::Buffer>,
    ) -> Result<()> {
        let uniform = self.gpu.uniform([(shape.values() / 4) as u32, 0, sums, 0]);
        let kernel = Kernel { template: CONTENT, entry: "content" };
        let mut buffers = vec![&uniform, features, parts];
        buffers.extend(products);
        let variant = self.storage.variant().flag("METRIC", products.is_some());
        self.pass(label, kernel, &variant, &buffers, content_groups(shape))
    }

    /// Sums up lists of parts: of each its beginning, its length, and the place of the sum.
    pub(crate) fn sum(&mut self, label: &str, lists: &[[u32; 3]], [parts, sums]: [&wgpu::Buffer; 2]) -> Result<()> {
        if lists.is_empty() {
            return Ok(());
        }
        let padded: Vec<[u32; 4]> = lists.iter().map(|&[first, count, place]| [first, count, place, 0]).collect();
        let kernel = Kernel { template: SUM, entry: "sum" };
        let buffers = [&self.gpu.filled(&padded), parts, sums];
        self.pass(label, kernel, &Variant::default(), &buffers, [lists.len() as u32, 1, 1])
    }
}

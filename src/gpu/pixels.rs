// SPDX-License-Identifier: MPL-2.0

//! Passes over the pixels of the image: its own losses, and the step of the optimizer.

use super::{Gpu, Recorder, buffers::spread, features::THREADS, opened::Kernel, variant::Variant};
use crate::Result;

const PIXELS: &str = include_str!("kernels/pixels.wgsl");

/// An image with its gradient, its temporal target and the optimizer's state, each in planes.
#[derive(Debug)]
pub(crate) struct PixelBuffers {
    pub(crate) image: wgpu::Buffer,
    pub(crate) gradient: wgpu::Buffer,
    detail: wgpu::Buffer,
    pub(crate) warped: wgpu::Buffer,
    pub(crate) trust: wgpu::Buffer,
    pub(crate) first_moment: wgpu::Buffer,
    pub(crate) second_moment: wgpu::Buffer,
    pub(crate) freshness: wgpu::Buffer,
    size: (u32, u32),
}

/// How much the image's own losses count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The slopes of total variation, grain and temporal loss.
    pub(crate) slopes: [f32; 3],
    /// Where the parts of their sums go.
    pub(crate) sums: [u32; 3],
}

impl PixelBuffers {
    pub(crate) fn new(gpu: &Gpu, (width, height): (u32, u32)) -> Self {
        let pixels = u64::from(width) * u64::from(height);
        let (plane, planes) = (|| gpu.memory(4 * pixels), || gpu.memory(12 * pixels));
        Self {
            image: planes(),
            gradient: planes(),
            detail: planes(),
            warped: planes(),
            trust: plane(),
            first_moment: planes(),
            second_moment: planes(),
            freshness: plane(),
            size: (width, height),
        }
    }

    fn groups(&self) -> [u32; 3] {
        spread((u64::from(self.size.0) * u64::from(self.size.1)).div_ceil(THREADS))
    }

    /// How many sums each of the image's own losses leaves.
    pub(crate) fn sums(&self) -> u32 {
        let [across, down, _] = self.groups();
        across * down
    }

    /// The parameters of the kernels.
    pub(crate) fn uniform(&self, terms: Terms) -> [u32; 8] {
        let ([a, b, c], [d, e, f]) = (terms.slopes.map(f32::to_bits), terms.sums);
        [self.size.0, self.size.1, a, b, c, d, e, f]
    }
}

impl Recorder<'_> {
    /// The gradients of total variation, grain and temporal loss, added to that of other losses or alone.
    pub(crate) fn terms(
        &mut self,
        pixels: &PixelBuffers,
        adds: bool,
        [uniform, sums]: [&wgpu::Buffer; 2],
    ) -> Result<()> {
        let PixelBuffers { image, gradient, detail, warped, trust, .. } = pixels;
        let kernel = Kernel { template: PIXELS, entry: "take_detail" };
        let variant = Variant::default().flag("DETAIL", true);
        self.pass("detail", kernel, &variant, &[uniform, image, detail], pixels.groups())?;
        let kernel = Kernel { template: PIXELS, entry: "terms" };
        let buffers = [uniform, image, gradient, warped, trust, detail, sums];
        self.pass("terms", kernel, &Variant::default().flag("TERMS", true).flag("ADD", adds), &buffers, pixels.groups())
    }

    /// Smooths the gradient and takes a step of Adam against it.
    pub(crate) fn take_step(&mut self, pixels: &PixelBuffers, [uniform, step]: [&wgpu::Buffer; 2]) -> Result<()> {
        let kernel = Kernel { template: PIXELS, entry: "take_step" };
        let PixelBuffers { image, gradient, first_moment, second_moment, freshness, .. } = pixels;
        let buffers = [uniform, step, image, gradient, first_moment, second_moment, freshness];
        self.pass("step", kernel, &Variant::default().flag("STEP", true), &buffers, pixels.groups())
    }
}

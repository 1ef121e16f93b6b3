// SPDX-License-Identifier: MPL-2.0

//! Graphics cards of any maker, by wgpu: Vulkan, Metal and Direct3D 12. Nothing is loaded until it is asked for.
//!
//! The kernels are written in WGSL, in `kernels/`. Feature maps lie as `[height][width][channels]`, with a multiple of
//! 32 channels, in float32, or in f16 where the card has matrix units for it; sums are float32. Each sum is taken in an
//! order of its own that does not depend on how the work is cut, so that a card gives the same bits for the same input.

mod adapter;
mod buffers;
mod convolution;
mod features;
mod gram;
mod opened;
mod pixels;
mod product;
#[cfg(test)]
mod testing;
mod tuning;
mod variant;

pub use adapter::{Adapter, AdapterChoice, adapters};
pub use opened::Gpu;

pub(crate) use buffers::{Pass, Recorder};
pub(crate) use convolution::{Direction, Epilogue, Filters, FirstFilters, Scratch};
pub(crate) use features::{Shape, Storage, content_sums};
pub(crate) use gram::{GramCut, InMetric};
pub(crate) use opened::Submission;
pub(crate) use pixels::{PixelBuffers, Terms};
pub(crate) use product::Product;

#[cfg(test)]
pub(crate) mod translation {
    //! Translates kernels to what the drivers of other systems get.

    use naga::{
        back::{hlsl, msl, spv},
        front::wgsl,
        valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
    };

    fn parse(source: &str) -> (naga::Module, ModuleInfo) {
        let module = wgsl::parse_str(source).unwrap_or_else(|error| panic!("{}", error.emit_to_string(source)));
        let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module);
        (module, info.unwrap_or_else(|error| panic!("{}", error.emit_to_string(source))))
    }

    /// Checks that a kernel can be translated for Vulkan.
    pub(crate) fn check_vulkan(source: &str) {
        let (module, info) = parse(source);
        spv::write_vec(&module, &info, &spv::Options { lang_version: (1, 6), ..Default::default() }, None).unwrap();
    }

    /// Checks that a kernel can be translated for Vulkan, Metal and Direct3D 12.
    pub(crate) fn check(source: &str) {
        check_vulkan(source);
        let (module, info) = parse(source);
        let options = msl::Options { lang_version: (3, 0), fake_missing_bindings: true, ..Default::default() };
        msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).unwrap();
        let shader_model = hlsl::ShaderModel::V6_2;
        let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..Default::default() };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default()).write(&module, &info, None).unwrap();
    }
}

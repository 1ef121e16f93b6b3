// SPDX-License-Identifier: MPL-2.0

//! 3x3 convolution with padding 1, by whichever algorithm is the best for the kind of kernels.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{
    Engine, Kind, Lanes, Shape,
    winograd::{self, Direction, Epilogue},
};
use crate::vgg::Convolution;

/// How many [`Lanes`] the packed filters of a convolution take, either way.
pub fn filters_len(kind: Kind, convolution: &Convolution) -> usize {
    match kind {
        #[cfg(target_arch = "x86_64")]
        Kind::Amx => amx::filters_len(convolution),
        _ => winograd::transformed_len(convolution),
    }
}

/// Makes the filters of a convolution what [`convolve`] wants.
pub fn pack_filters(engine: &mut Engine, convolution: &Convolution, direction: Direction, filters: &mut [Lanes]) {
    match engine.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Amx => amx::pack_filters(engine, convolution, direction, filters),
        _ => winograd::transform_filters(engine, convolution, direction, filters),
    }
}

/// Convolves `input`, of shape `shape`, with packed filters to all channels of `output`.
pub fn convolve(
    engine: &mut Engine,
    shape: Shape,
    input: &[Lanes],
    filters: &[Lanes],
    epilogue: Epilogue,
    output: &mut [Lanes],
) {
    match engine.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Amx => amx::convolve(engine, shape, input, filters, epilogue, output),
        _ => winograd::convolve(engine, shape, input, filters, epilogue, output),
    }
}

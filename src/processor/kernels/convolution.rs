// SPDX-License-Identifier: MPL-2.0

//! 3x3 convolution with padding 1, by whichever algorithm is the best for the kind of kernels.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{
    Shape,
    filters::{Direction, HalfFilters},
    winograd::{self, Epilogue},
};
#[cfg(target_arch = "x86_64")]
use crate::processor::Kind;
use crate::processor::{Engine, Lanes};

/// One 3x3 convolution with padding 1, stride 1 and a ReLU after it.
#[derive(Debug, Clone)]
pub struct Convolution {
    /// Channels of its input.
    pub inputs: usize,
    /// Channels of its output.
    pub outputs: usize,
    /// Weights, `[outputs][inputs][3][3]`.
    pub weight: Vec<f32>,
    /// Biases, `[outputs]`.
    pub bias: Vec<f32>,
}

/// The filters of a convolution in one direction, packed for a kind of kernels.
pub enum Filters {
    /// For float32.
    Half(HalfFilters),
    /// For bfloat16.
    #[cfg(target_arch = "x86_64")]
    Bf16(Vec<Lanes>),
}

impl Filters {
    /// Packs the filters of `convolution`, whose channels are multiples of 32.
    pub fn new(engine: &mut Engine, convolution: &Convolution, direction: Direction) -> Self {
        match engine.kind() {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => Self::Bf16(amx::pack_filters(engine, convolution, direction)),
            _ => Self::Half(HalfFilters::new(engine, convolution, direction)),
        }
    }
}

/// Convolves `input`, of shape `shape`, with filters that were packed for this engine.
pub fn convolve(
    engine: &mut Engine,
    shape: Shape,
    input: &[Lanes],
    filters: &Filters,
    epilogue: Epilogue,
    output: &mut [Lanes],
) {
    match filters {
        Filters::Half(filters) => winograd::convolve(engine, shape, input, filters, epilogue, output),
        #[cfg(target_arch = "x86_64")]
        Filters::Bf16(filters) => amx::convolve(engine, shape, input, filters, epilogue, output),
    }
}

// SPDX-License-Identifier: MPL-2.0

//! The filters of a convolution in half precision, for the kernels of float32.

use half::{f16, slice::HalfFloatSliceExt};

use crate::processor::{
    Engine, LANES, Parts,
    kernels::{Convolution, Direction},
    vector::HalfLanes,
};

/// Weights of a filter for one channel.
pub const TAPS: usize = 9;

/// The filters of a convolution in one direction.
///
/// For small images, reading the weights takes longer than computing with them. So they are stored in 16 bits: exact
/// for weights that were published in that format, with a relative error of 2^-11 for others.
pub struct HalfFilters {
    /// Channels of the input.
    pub(super) inputs: usize,
    /// Channels of the output.
    pub(super) outputs: usize,
    /// The scale of the packed weights: a power of two with which the largest are just in range.
    pub(super) unit: f32,
    /// `[panel of outputs][input][block of outputs][tap]`
    pub(super) packed: Vec<HalfLanes>,
}

impl HalfFilters {
    /// Packs the filters of `convolution`, whose channels are multiples of 32.
    pub fn new(engine: &mut Engine, convolution: &Convolution, direction: Direction) -> Self {
        let (inputs, outputs) = match direction {
            Direction::Forward => (convolution.inputs, convolution.outputs),
            Direction::Backward => (convolution.outputs, convolution.inputs),
        };
        let panel = engine.kind().panel();
        assert!(inputs.is_multiple_of(LANES) && outputs.is_multiple_of(panel * LANES));
        let largest = convolution.weight.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        let unit = unit(largest);
        let mut packed = vec![HalfLanes::default(); TAPS * inputs * outputs / LANES];
        let parts = Parts::new(&mut packed);
        engine.for_each(outputs / LANES, 0, |block, _| {
            for input in 0..inputs {
                let start = ((block / panel * inputs + input) * panel + block % panel) * TAPS;
                // SAFETY: no other job has this block.
                let mut taps = unsafe { parts.part(start..start + TAPS) };
                for (tap, lanes) in taps.iter_mut().enumerate() {
                    let weights: [f32; LANES] = std::array::from_fn(|lane| {
                        let output = block * LANES + lane;
                        // Backward, inputs and outputs are swapped and the kernel is rotated by 180 degrees.
                        let (filter, tap) = match direction {
                            Direction::Forward => (output * inputs + input, tap),
                            Direction::Backward => (input * outputs + output, TAPS - 1 - tap),
                        };
                        convolution.weight[TAPS * filter + tap] / unit
                    });
                    lanes.0.convert_from_f32_slice(&weights);
                }
            }
        });
        Self { inputs, outputs, unit, packed }
    }
}

/// The power of two by which to divide numbers, given the largest.
fn unit(largest: f32) -> f32 {
    // One bit of room: rounding may reach the next power.
    let exponent = (largest / f16::MAX.to_f32()).log2().ceil() + 1.0;
    exponent.clamp(-100.0, 100.0).exp2()
}

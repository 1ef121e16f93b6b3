// SPDX-License-Identifier: MPL-2.0

//! Feature maps for tests of kernels.

use half::f16;

use super::{Gpu, Shape, Storage};

/// Numbers that look random, of -1 to 1.
pub(super) fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// The numbers, rounded to f16.
pub(super) fn half(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| f16::from_f32(*value).to_f32()).collect()
}

/// Feature maps with these values.
pub(super) fn features(gpu: &Gpu, shape: Shape, storage: Storage, values: &[f32]) -> wgpu::Buffer {
    let buffer = gpu.features(shape, storage);
    match storage {
        Storage::F32 => gpu.write(&buffer, 0, values),
        Storage::F16 => gpu.write(&buffer, 0, &values.iter().map(|v| f16::from_f32(*v).to_bits()).collect::<Vec<_>>()),
    }
    buffer
}

/// The values of feature maps.
pub(super) fn read(gpu: &Gpu, shape: Shape, storage: Storage, buffer: &wgpu::Buffer) -> Vec<f32> {
    let count = shape.values() as usize;
    match storage {
        Storage::F32 => gpu.read(&[(buffer, count)]).unwrap().remove(0),
        Storage::F16 => {
            let bits: Vec<Vec<u16>> = gpu.read(&[(buffer, count)]).unwrap();
            bits[0].iter().map(|bits| f16::from_bits(*bits).to_f32()).collect()
        }
    }
}

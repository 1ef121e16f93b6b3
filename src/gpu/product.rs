// SPDX-License-Identifier: MPL-2.0

//! Products of feature maps with a matrix of `[channels][channels]`: the gradient of the style loss, and metrics.

use half::f16;

use super::{
    Gpu, Recorder, Shape, Storage,
    convolution::{MATMUL, UNITS, unit_uniform},
    opened::Kernel,
    tuning::{Tiling, UnitTiling},
    variant::Variant,
};
use crate::Result;

/// What feature maps are multiplied for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Product<'a> {
    /// The gradient of the style loss, by the differences of the Gram matrices. It ends at the ReLU.
    Style {
        /// It is added to what is there.
        adds: bool,
    },
    /// The features in a metric, or their differences from these.
    Metric { subtrahend: Option<&'a wgpu::Buffer> },
}

impl<'a> Product<'a> {
    /// The name by which tilings are remembered, on plain units and on matrix units.
    fn names(self) -> [&'static str; 2] {
        match self {
            Self::Style { .. } => ["style", "style by units"],
            Self::Metric { .. } => ["metric", "metric by units"],
        }
    }

    /// The kernel of this product, and the buffer that it has besides.
    fn complete(self, variant: Variant) -> (Variant, Option<&'a wgpu::Buffer>) {
        match self {
            Self::Style { adds } => (variant.flag("STYLE", true).flag("ADD", adds), None),
            Self::Metric { subtrahend } => (variant.flag("DIFFERENCE", subtrahend.is_some()), subtrahend),
        }
    }
}

impl Gpu {
    /// A matrix by which feature maps are multiplied, in f16 for matrix units.
    pub(crate) fn factor(&self, matrix: &[f32], by_units: bool) -> wgpu::Buffer {
        match by_units {
            true => self.filled(&matrix.iter().map(|value| f16::from_f32(*value).to_bits()).collect::<Vec<_>>()),
            false => self.filled(matrix),
        }
    }
}

impl Recorder<'_> {
    /// The product of features of `shape` with a symmetric matrix, with the fastest tiling that is known or found. By
    /// matrix units the matrix is in f16, and the fifth number of the uniform that is returned scales the result.
    pub(crate) fn multiply(
        &mut self,
        label: &str,
        shape: Shape,
        product: Product,
        buffers: [&wgpu::Buffer; 3],
    ) -> Result<Option<wgpu::Buffer>> {
        let (gpu, storage) = (self.gpu, self.storage);
        let [name, name_by_units] = product.names();
        // What trials leave in the output does no harm: it is computed anew.
        match storage {
            Storage::F16 => {
                let tilings = UnitTiling::fitting(gpu, shape.channels, 1);
                let tiling = gpu.tuning.choose(gpu, (name_by_units, shape, shape.channels), &tilings, |tiling| {
                    let mut trial = Recorder::new(gpu, storage);
                    trial.multiply_by_units("", shape, product, tiling, buffers)?;
                    Ok(trial.passes)
                })?;
                self.multiply_by_units(label, shape, product, tiling, buffers).map(Some)
            }
            Storage::F32 => {
                let tilings = Tiling::fitting(gpu, shape.channels);
                let tiling = gpu.tuning.choose(gpu, (name, shape, shape.channels), &tilings, |tiling| {
                    let mut trial = Recorder::new(gpu, storage);
                    trial.multiply_plainly("", shape, product, tiling, buffers)?;
                    Ok(trial.passes)
                })?;
                self.multiply_plainly(label, shape, product, tiling, buffers).map(|()| None)
            }
        }
    }

    fn multiply_by_units(
        &mut self,
        label: &str,
        shape: Shape,
        product: Product,
        tiling: UnitTiling,
        [features, matrix, output]: [&wgpu::Buffer; 3],
    ) -> Result<wgpu::Buffer> {
        let uniform = unit_uniform(self.gpu, shape, shape.channels);
        let (variant, subtrahend) = product.complete(tiling.variant(1, self.gpu.has_matrix_units()));
        let mut buffers = vec![&uniform, features, matrix, output];
        buffers.extend(subtrahend);
        let kernel = Kernel { template: UNITS, entry: "convolve" };
        self.pass(label, kernel, &variant, &buffers, tiling.groups(shape, shape.channels))?;
        Ok(uniform)
    }

    fn multiply_plainly(
        &mut self,
        label: &str,
        shape: Shape,
        product: Product,
        tiling: Tiling,
        [features, matrix, output]: [&wgpu::Buffer; 3],
    ) -> Result<()> {
        let uniform = self.gpu.uniform([shape.channels / 4, shape.channels / 4, 0, 0, 0, 0, 0, 0]);
        let stored = self.storage.vec4();
        let variant = tiling.variant().with_type("A", stored).with_type("B", "vec4<f32>").with_type("C", stored);
        let (variant, subtrahend) = product.complete(variant);
        let mut buffers = vec![&uniform, features, matrix, output];
        buffers.extend(subtrahend);
        let kernel = Kernel { template: MATMUL, entry: "multiply" };
        let rows = shape.positions().div_ceil(u64::from(tiling.rows)) as u32;
        self.pass(label, kernel, &variant, &buffers, [shape.channels / tiling.columns, rows, 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{
        AdapterChoice,
        testing::{features, half, noise, read},
        translation,
    };

    /// All products against plain loops, at a size that is no multiple of anything.
    fn check(storage: Storage, tolerance: f64) {
        let gpu = Gpu::open(&AdapterChoice::Number(0)).unwrap();
        let shape = Shape { width: 19, height: 7, channels: 96 };
        let count = shape.values() as usize;
        let fill = |seed: u32| {
            let values = half(&noise(seed, count));
            (features(&gpu, shape, storage, &values), values)
        };
        let (input, values) = fill(1);
        let (other, others) = fill(2);
        let mut matrix = half(&noise(3, 96 * 96));
        for (row, column) in (0..96).flat_map(|row| (0..row).map(move |column| (row, column))) {
            matrix[row * 96 + column] = matrix[column * 96 + row];
        }
        let factor = gpu.factor(&matrix, storage == Storage::F16);
        for product in [
            Product::Style { adds: false },
            Product::Style { adds: true },
            Product::Metric { subtrahend: None },
            Product::Metric { subtrahend: Some(&other) },
        ] {
            let (output, before) = fill(4);
            let mut recorder = Recorder::new(&gpu, storage);
            recorder.multiply("", shape, product, [&input, &factor, &output]).unwrap();
            gpu.submit(&recorder.passes, &[]).unwrap();
            let (mut error, mut norm) = (0.0, 0.0);
            for (n, found) in read(&gpu, shape, storage, &output).iter().enumerate() {
                let (position, channel) = (n / 96, n % 96);
                let factor = |k: usize| {
                    let at = position * 96 + k;
                    let is_difference = matches!(product, Product::Metric { subtrahend: Some(_) });
                    f64::from(values[at] - if is_difference { others[at] } else { 0.0 })
                };
                let sum: f64 = (0..96).map(|k| factor(k) * f64::from(matrix[k * 96 + channel])).sum();
                let expected = match product {
                    Product::Style { .. } if values[n] <= 0.0 => 0.0,
                    Product::Style { adds: true } => sum + f64::from(before[n]),
                    _ => sum,
                };
                error += (f64::from(*found) - expected).powi(2);
                norm += expected.powi(2);
            }
            assert!((error / norm).sqrt() < tolerance, "{product:?} in {storage:?}: {}", (error / norm).sqrt());
        }
    }

    #[test]
    fn plain_units_equal_plain_loops() {
        check(Storage::F32, 1e-6);
    }

    #[test]
    fn matrix_units_equal_plain_loops() {
        check(Storage::F16, 1e-3);
    }

    #[test]
    fn the_kernels_for_matrix_units_are_translated_for_vulkan() {
        for tiling in UnitTiling::ALL {
            for flags in [&["STYLE"][..], &["STYLE", "ADD"], &["DIFFERENCE"], &[]] {
                let variant = flags.iter().fold(tiling.variant(1, true), |variant, flag| variant.flag(flag, true));
                translation::check_vulkan(&variant.fill(UNITS).unwrap());
            }
        }
    }
}

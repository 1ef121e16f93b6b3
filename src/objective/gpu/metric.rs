// SPDX-License-Identifier: MPL-2.0

use crate::gpu::Gpu;

/// The metric of a layer; see [`Vgg::metric`](crate::network::Vgg::metric).
///
/// Losses are ratios, so that only its proportions count. It is scaled such that no product with it is longer than the
/// other factor, which keeps products in the range of f16.
#[derive(Debug)]
pub(super) struct Metric {
    /// `[channels][channels]`
    values: Vec<f32>,
    /// The same on the card, for Gram matrices.
    pub(super) matrix: wgpu::Buffer,
    /// The same, for feature maps.
    pub(super) factor: wgpu::Buffer,
}

impl Metric {
    pub(super) fn new(gpu: &Gpu, channels: usize, metric: &[f32], by_units: bool) -> Self {
        // No eigenvalue is larger than this (Gershgorin 1931).
        let row_sums = metric.chunks_exact(channels).map(|row| row.iter().map(|value| value.abs()).sum::<f32>());
        let largest = row_sums.fold(f32::MIN_POSITIVE, f32::max);
        let values: Vec<f32> = metric.iter().map(|value| value / largest).collect();
        let (matrix, factor) = (gpu.filled(&values), gpu.factor(&values, by_units));
        Self { values, matrix, factor }
    }

    /// `<M T, T M>` for a symmetric matrix T, `[channels][channels]`.
    pub(super) fn squared_norm(&self, matrix: &[f32]) -> f64 {
        let channels = matrix.len().isqrt();
        let mut product = vec![0.0; matrix.len()];
        for (sums, factors) in product.chunks_exact_mut(channels).zip(self.values.chunks_exact(channels)) {
            for (factor, row) in factors.iter().zip(matrix.chunks_exact(channels)) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
            }
        }
        // T M is M T with rows and columns swapped.
        let at = |row: usize, column: usize| f64::from(product[row * channels + column]);
        (0..channels)
            .flat_map(|row| (0..channels).map(move |column| (row, column)))
            .map(|(row, column)| at(row, column) * at(column, row))
            .sum()
    }
}

// SPDX-License-Identifier: MPL-2.0

//! 2x2 pooling.

use super::{
    layout::Layout,
    lines::{narrow, widen},
};
use crate::processor::{
    Engine, Kind, Lanes, Parts, Vector,
    avx512::Avx512,
    kernels::{Pooling, Shape},
};

/// Pools `input`, of shape `shape`. A last odd row or column is left out.
pub fn pool(engine: &mut Engine, shape: Shape, pooling: Pooling, input: &[Lanes], output: &mut [Lanes]) {
    let (from, to) = (Layout::new(shape), Layout::new(shape.pooled()));
    assert_eq!(input.len(), from.lines());
    assert_eq!(output.len(), to.lines());
    assert_eq!(engine.kind(), Kind::Amx);
    let height = shape.pooled().height;
    let output = Parts::new(output);
    engine.for_each(to.blocks() * height, 0, |job, _| {
        let (block, row) = (job / height, job % height);
        let (upper, lower) = (&input[from.row(block, 2 * row)], &input[from.row(block, 2 * row + 1)]);
        let (own, inside) = (to.row_with_border(block, row), to.row(block, row));
        // SAFETY: no other job has this row.
        let mut lines = unsafe { output.part(own.clone()) };
        lines.fill(Lanes::ZERO);
        // SAFETY: this kind of kernels is supported.
        unsafe { pool_row(pooling, upper, lower, &mut lines[inside.start - own.start..][..inside.len()]) };
    });
}

#[target_feature(enable = "avx512bf16")]
fn pool_row(pooling: Pooling, upper: &[Lanes], lower: &[Lanes], output: &mut [Lanes]) {
    let windows = upper.chunks_exact(2).zip(lower.chunks_exact(2));
    for ((upper, lower), output) in windows.zip(output) {
        let window = [widen(&upper[0]), widen(&upper[1]), widen(&lower[0]), widen(&lower[1])];
        let mut values = [Avx512::splat(0.0); 2];
        for (half, value) in values.iter_mut().enumerate() {
            *value = pooling.forward([window[0][half], window[1][half], window[2][half], window[3][half]]);
        }
        narrow(values, output);
    }
}

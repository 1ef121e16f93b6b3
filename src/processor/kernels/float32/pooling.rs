// SPDX-License-Identifier: MPL-2.0

//! 2x2 pooling. Its gradient is in [`gradient`](super::gradient), where the feature maps before a pooling get theirs.

use crate::processor::{
    Engine, Lanes, Parts, Task, Vector,
    kernels::{Pooling, Shape},
};

/// Pools `input`, of shape `shape`.
pub(super) fn pool(engine: &mut Engine, shape: Shape, pooling: Pooling, input: &[Lanes], output: &mut [Lanes]) {
    let pooled = shape.pooled();
    assert_eq!(input.len(), shape.lanes());
    assert_eq!(output.len(), pooled.lanes());
    if output.is_empty() {
        return;
    }
    let kind = engine.kind();
    let output = Parts::new(output);
    engine.for_each(shape.blocks(), 0, |block, _| {
        let input = &input[block * shape.positions()..][..shape.positions()];
        // SAFETY: no other job has this block.
        let mut output = unsafe { output.part(block * pooled.positions()..(block + 1) * pooled.positions()) };
        kind.run(Job { width: shape.width, pooling, input, output: &mut output });
    });
}

struct Job<'a> {
    width: usize,
    pooling: Pooling,
    input: &'a [Lanes],
    output: &'a mut [Lanes],
}

impl Task for Job<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let half = self.width / 2;
        let pairs = self.input.chunks_exact(2 * self.width);
        for (rows, output) in pairs.zip(self.output.chunks_exact_mut(half)) {
            let (upper, lower) = rows.split_at(self.width);
            let windows = upper.chunks_exact(2).zip(lower.chunks_exact(2));
            for ((upper, lower), output) in windows.zip(output) {
                let window = [V::load(&upper[0]), V::load(&upper[1]), V::load(&lower[0]), V::load(&lower[1])];
                self.pooling.forward(window).store(output);
            }
        }
    }
}

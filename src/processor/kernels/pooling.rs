// SPDX-License-Identifier: MPL-2.0

//! 2x2 pooling. Its gradient is in [`loss`](super::loss), where the feature maps before a pooling get theirs.

use super::Shape;
#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "x86_64")]
use crate::processor::Kind;
use crate::processor::{Engine, Lanes, Parts, Task, Vector};

/// How VGG halves its feature maps between two blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The largest of four values, as the network was trained.
    #[default]
    Max,
    /// Their mean, which Gatys, Ecker and Bethge (2015) found to give smoother pictures.
    Average,
}

/// Pools `input`, of shape `shape`. A last odd row or column is left out.
pub fn pool(engine: &mut Engine, shape: Shape, pooling: Pooling, input: &[Lanes], output: &mut [Lanes]) {
    #[cfg(target_arch = "x86_64")]
    if engine.kind() == Kind::Amx {
        return amx::pool(engine, shape, pooling, input, output);
    }
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
        let output = unsafe { output.part(block * pooled.positions()..(block + 1) * pooled.positions()) };
        kind.run(Job { width: shape.width, pooling, input, output });
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
                let [a, b] = [V::load(&upper[0]), V::load(&upper[1])];
                let [c, d] = [V::load(&lower[0]), V::load(&lower[1])];
                let value = match self.pooling {
                    Pooling::Max => a.max(b).max(c.max(d)),
                    Pooling::Average => a.add(b).add(c.add(d)).mul(V::splat(0.25)),
                };
                value.store(output);
            }
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

use crate::processor::Vector;

/// How VGG halves its feature maps between two blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Pooling {
    /// The largest of four values, as the network was trained.
    #[default]
    Max,
    /// Their mean, which Gatys, Ecker and Bethge (2015) found to give smoother pictures.
    Average,
}

impl Pooling {
    /// Pools a window.
    #[inline(always)]
    pub(super) fn forward<V: Vector>(self, [a, b, c, d]: [V; 4]) -> V {
        match self {
            Self::Max => a.max(b).max(c.max(d)),
            Self::Average => a.add(b).add(c.add(d)).mul(V::splat(0.25)),
        }
    }

    /// Divides the gradient of a pooled value among the four of its window: that of a maximum goes to the first in
    /// reading order that has it.
    #[inline(always)]
    pub(super) fn backward<V: Vector>(self, window: [V; 4], gradient: V) -> [V; 4] {
        match self {
            Self::Average => [gradient.mul(V::splat(0.25)); 4],
            Self::Max => {
                let maximum = window[0].max(window[1]).max(window[2].max(window[3]));
                let mut parts = [gradient; 4];
                let mut unclaimed = u16::MAX;
                for (part, value) in parts.iter_mut().zip(window) {
                    let claimed = value.equals(maximum) & unclaimed;
                    unclaimed &= !claimed;
                    *part = gradient.keep(claimed);
                }
                parts
            }
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

use std::sync::{Arc, OnceLock};

use crate::{
    network::Vgg,
    processor::{
        Engine, Kind,
        kernels::{Direction, FirstConvolution, Kernels},
    },
};

/// The filters of a network, packed for one backend and one kind of instructions. They are packed when they are first
/// needed, and shared by all objectives with the same weights: another style, size or choice of layers repacks nothing.
pub(super) struct PackedNetwork<K: Kernels> {
    first: OnceLock<FirstConvolution>,
    /// Of each convolution, forward and backward; those of the first one stay empty.
    filters: Vec<[OnceLock<K::Filters>; 2]>,
}

impl<K: Kernels> PackedNetwork<K> {
    /// The packed filters of these weights for a kind of instructions.
    pub(super) fn of(weights: &Vgg, kind: Kind) -> Arc<Self> {
        weights.derived(kind.name(), || Self {
            first: OnceLock::new(),
            filters: weights.convolutions().iter().map(|_| [OnceLock::new(), OnceLock::new()]).collect(),
        })
    }

    /// Packs the first `count` convolutions in both directions.
    pub(super) fn pack(&self, weights: &Vgg, engine: &mut Engine, count: usize) {
        if count > 0 {
            self.first(weights, engine);
        }
        for n in 1..count {
            self.filters(weights, engine, n, Direction::Forward);
            self.filters(weights, engine, n, Direction::Backward);
        }
    }

    /// The memory, in bytes, for those filters of the first `count` convolutions that are not packed yet.
    pub(super) fn missing_bytes(&self, weights: &Vgg, count: usize) -> usize {
        let layers = self.filters.iter().zip(weights.convolutions()).take(count).skip(1);
        let missing = layers.map(|(filters, convolution)| {
            filters.iter().filter(|filters| filters.get().is_none()).count() * convolution.weight.len()
        });
        missing.sum::<usize>() * size_of::<u16>()
    }

    /// The first convolution. The weights are those of [`of`](Self::of).
    pub(super) fn first(&self, weights: &Vgg, engine: &Engine) -> &FirstConvolution {
        self.first.get_or_init(|| FirstConvolution::new(engine, &weights.convolutions()[0], weights.mean()))
    }

    /// The filters of convolution `n`, counted from 0, which is not the [first](Self::first). The weights are those of
    /// [`of`](Self::of).
    pub(super) fn filters(&self, weights: &Vgg, engine: &mut Engine, n: usize, direction: Direction) -> &K::Filters {
        let [forward, backward] = &self.filters[n];
        let filters = match direction {
            Direction::Forward => forward,
            Direction::Backward => backward,
        };
        filters.get_or_init(|| K::pack(engine, &weights.convolutions()[n], direction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::{Processor, kernels::Float32};

    #[test]
    fn filters_are_packed_once_for_all_objectives() {
        let weights = Vgg::built_in().unwrap();
        let engine = || Engine::new(Processor::new(Kind::Portable, 1).unwrap());
        let (mut one, mut other) = (engine(), engine());
        let packed = PackedNetwork::<Float32>::of(&weights, Kind::Portable);
        packed.pack(&weights, &mut one, 3);
        assert_eq!(packed.missing_bytes(&weights, 3), 0);
        assert_eq!(packed.missing_bytes(&weights, 4), 2 * 2 * 128 * 128 * 9);
        let same = PackedNetwork::<Float32>::of(&weights, Kind::Portable);
        for n in 1..3 {
            for direction in [Direction::Forward, Direction::Backward] {
                let filters = packed.filters(&weights, &mut one, n, direction);
                assert!(std::ptr::eq(filters, same.filters(&weights, &mut other, n, direction)));
            }
        }
        assert!(std::ptr::eq(packed.first(&weights, &one), same.first(&weights, &other)));
        assert!(packed.filters[3].iter().all(|filters| filters.get().is_none()), "more than was wanted");
    }
}

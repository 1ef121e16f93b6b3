// SPDX-License-Identifier: MPL-2.0

//! The packed filters of all convolutions.

use super::{Direction, Engine, Lanes, filters_len, pack_filters};
use crate::vgg::Convolution;

/// Packed filters, which take in each direction four times the memory of the weights, or half of it in bfloat16.
pub struct Filters {
    /// Whether those of all convolutions stay, or only those that were last asked for.
    keep: bool,
    /// For each convolution, forward and backward; empty until they are asked for.
    packed: Vec<[Vec<Lanes>; 2]>,
    last: Vec<Lanes>,
}

impl Filters {
    /// Filters of so many convolutions.
    pub fn new(convolutions: usize, keep: bool) -> Self {
        let packed = if keep { vec![Default::default(); convolutions] } else { Vec::new() };
        Self { keep, packed, last: Vec::new() }
    }

    /// Whether the filters of all convolutions stay.
    pub fn keeps_all(&self) -> bool {
        self.keep
    }

    /// The filters of `convolution`, which has this number.
    pub fn get(
        &mut self,
        engine: &mut Engine,
        number: usize,
        convolution: &Convolution,
        direction: Direction,
    ) -> &[Lanes] {
        let len = filters_len(engine.kind(), convolution);
        if self.keep {
            let filters = &mut self.packed[number][direction as usize];
            if filters.is_empty() {
                filters.resize(len, Lanes::ZERO);
                pack_filters(engine, convolution, direction, filters);
            }
            return filters;
        }
        if self.last.len() < len {
            self.last.resize(len, Lanes::ZERO);
        }
        let filters = &mut self.last[..len];
        pack_filters(engine, convolution, direction, filters);
        filters
    }
}

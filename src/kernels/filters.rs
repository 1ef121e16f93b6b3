// SPDX-License-Identifier: MPL-2.0

//! The transformed filters of all convolutions.

use super::{Direction, Engine, Lanes, transform_filters, transformed_len};
use crate::vgg::Convolution;

/// Transformed filters, which take four times the memory of the weights in each direction.
pub struct Filters {
    /// Whether those of all convolutions stay, or only those that were last asked for.
    keep: bool,
    /// For each convolution, forward and backward; empty until they are asked for.
    transformed: Vec<[Vec<Lanes>; 2]>,
    last: Vec<Lanes>,
}

impl Filters {
    /// Filters of so many convolutions.
    pub fn new(convolutions: usize, keep: bool) -> Self {
        let transformed = if keep { vec![Default::default(); convolutions] } else { Vec::new() };
        Self { keep, transformed, last: Vec::new() }
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
        let len = transformed_len(convolution);
        if self.keep {
            let filters = &mut self.transformed[number][direction as usize];
            if filters.is_empty() {
                filters.resize(len, Lanes::ZERO);
                transform_filters(engine, convolution, direction, filters);
            }
            return filters;
        }
        if self.last.len() < len {
            self.last.resize(len, Lanes::ZERO);
        }
        let filters = &mut self.last[..len];
        transform_filters(engine, convolution, direction, filters);
        filters
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Vectors of sixteen numbers: how they lie in memory, and the operations that every kernel is made of.

use half::f16;

/// Numbers in one [`Lanes`].
pub const LANES: usize = 16;

/// Sixteen channels at one position, on a cache line of their own.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C, align(64))]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// Sixteen zeros.
    pub const ZERO: Self = Self([0.0; LANES]);
}

/// Sixteen numbers in half precision: half the memory, and 11 significant bits instead of 24.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C, align(32))]
pub struct HalfLanes(pub [f16; LANES]);

/// The numbers in a slice of [`Lanes`].
pub fn numbers(lanes: &mut [Lanes]) -> &mut [f32] {
    // SAFETY: `Lanes` is an array of sixteen f32 without padding, and the borrow is handed on.
    unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len() * LANES) }
}

/// Sixteen numbers in registers.
///
/// The methods may use instructions that not every processor has. Only [`Kind::run`](super::Kind::run) calls them, for
/// kinds that were detected.
pub trait Vector: Copy {
    /// Rows of a tile of a matrix product: as many as the registers hold with [`COLUMNS`](Self::COLUMNS).
    const ROWS: usize;
    /// Columns of a tile of a matrix product, in [`Lanes`].
    const COLUMNS: usize;

    fn load(from: &Lanes) -> Self;
    /// The numbers in float32. Denormal ones may become zero.
    fn widen(from: &HalfLanes) -> Self;
    fn store(self, to: &mut Lanes);
    fn splat(value: f32) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self * factor + term`.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// The sum of all lanes.
    fn sum(self) -> f32;
    /// One bit for each lane, set where `self` is above `other`.
    fn above(self, other: Self) -> u16;
    /// One bit for each lane, set where `self` equals `other`.
    fn equals(self, other: Self) -> u16;
    /// The lanes whose bit is set, zero elsewhere.
    fn keep(self, bits: u16) -> Self;

    /// `c = a b`; see [`Product`](super::matrix::Product).
    ///
    /// # Safety
    ///
    /// The pointers of `product` must be good for what it says they point to.
    unsafe fn multiply(product: &super::matrix::Product);
}

/// Work written once for all kinds of vectors.
///
/// `run` and all that it calls must be `inline(always)`: only code that is inlined into the entry point of a kind is
/// compiled for its instructions.
pub trait Task {
    fn run<V: Vector>(self);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::available;

    /// The lanes to sum and where the sum goes.
    struct Sum<'a>(&'a Lanes, &'a mut f32);

    impl Task for Sum<'_> {
        #[inline(always)]
        fn run<V: Vector>(self) {
            *self.1 = V::load(self.0).sum();
        }
    }

    #[test]
    fn a_sum_has_every_lane_once() {
        // Powers of two: each lane leaves a bit of its own.
        let lanes = Lanes(std::array::from_fn(|lane| (1 << lane) as f32));
        for kind in available() {
            let mut sum = 0.0;
            kind.run(Sum(&lanes, &mut sum));
            assert_eq!(sum, f32::from(u16::MAX), "{kind:?}");
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Plain Rust, which the compiler vectorizes with instructions that every processor of the target has.

use std::array;

use super::{
    matrix::{self, Product},
    vector::{HalfLanes, LANES, Lanes, Task, Vector},
};

#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

/// Runs `task` without any special instructions.
pub fn run(task: impl Task) {
    task.run::<Portable>();
}

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Self(array::from_fn(|lane| operation(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    fn compare(self, other: Self, relation: impl Fn(&f32, &f32) -> bool) -> u16 {
        let bits = self.0.iter().zip(&other.0).enumerate();
        bits.fold(0, |bits, (lane, (a, b))| bits | u16::from(relation(a, b)) << lane)
    }
}

impl Vector for Portable {
    const ROWS: usize = 2;
    const COLUMNS: usize = 1;

    #[inline(always)]
    fn load(from: &Lanes) -> Self {
        Self(from.0)
    }

    #[inline(always)]
    fn widen(from: &HalfLanes) -> Self {
        // Sign, exponent and fraction at their places in the longer format, whose exponent has a bias that is 112
        // larger.
        let rebase = f32::from_bits((127 + 112) << 23);
        let widen = |bits: u32| f32::from_bits((bits & 0x8000) << 16 | (bits & 0x7fff) << 13) * rebase;
        Self(array::from_fn(|lane| widen(u32::from(from.0[lane].to_bits()))))
    }

    #[inline(always)]
    fn store(self, to: &mut Lanes) {
        to.0 = self.0;
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // Without a fused instruction, `f32::mul_add` is a slow function call.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            Self(array::from_fn(|lane| self.0[lane].mul_add(factor.0[lane], term.0[lane])))
        } else {
            self.mul(factor).add(term)
        }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let four: [f32; 4] = array::from_fn(|n| (self.0[n] + self.0[n + 8]) + (self.0[n + 4] + self.0[n + 12]));
        (four[0] + four[2]) + (four[1] + four[3])
    }

    #[inline(always)]
    fn above(self, other: Self) -> u16 {
        self.compare(other, |a, b| a > b)
    }

    #[inline(always)]
    fn equals(self, other: Self) -> u16 {
        self.compare(other, |a, b| a == b)
    }

    #[inline(always)]
    fn keep(self, bits: u16) -> Self {
        Self(array::from_fn(|lane| if bits >> lane & 1 == 1 { self.0[lane] } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn multiply(product: &Product) {
        // SAFETY: the caller vouches for the pointers.
        unsafe { matrix::multiply::<Self, { Self::ROWS }, { Self::COLUMNS }>(product) }
    }
}

// SPDX-License-Identifier: MPL-2.0

//! AVX-512: sixteen numbers are one register, and there are 32 of them.

use std::arch::x86_64::*;

use super::{
    matrix::{self, Product},
    vector::{HalfLanes, Lanes, Task, Vector},
};

#[derive(Clone, Copy)]
pub struct Avx512(pub __m512);

/// Runs `task` with AVX-512.
///
/// # Safety
///
/// The processor must have AVX-512F and FMA.
#[target_feature(enable = "avx512f,fma")]
pub unsafe fn run(task: impl Task) {
    task.run::<Avx512>();
}

// SAFETY of all blocks below: the instructions exist, since `run` is the only way here and asks for them; `Lanes`
// are sixteen numbers on a multiple of 64 bytes.
impl Vector for Avx512 {
    const ROWS: usize = 12;
    const COLUMNS: usize = 2;

    #[inline(always)]
    fn load(from: &Lanes) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_load_ps(from.0.as_ptr()) })
    }

    #[inline(always)]
    fn widen(from: &HalfLanes) -> Self {
        // SAFETY: see above; they are as many, on a multiple of 32 bytes.
        Self(unsafe { _mm512_cvtph_ps(_mm256_load_si256(from.0.as_ptr().cast())) })
    }

    #[inline(always)]
    fn store(self, to: &mut Lanes) {
        // SAFETY: see above.
        unsafe { _mm512_store_ps(to.0.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn above(self, other: Self) -> u16 {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn equals(self, other: Self) -> u16 {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn keep(self, bits: u16) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_maskz_mov_ps(bits, self.0) })
    }

    #[inline(always)]
    unsafe fn multiply(product: &Product) {
        // SAFETY: the caller vouches for the pointers.
        unsafe { matrix::multiply::<Self, { Self::ROWS }, { Self::COLUMNS }>(product) }
    }
}

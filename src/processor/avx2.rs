// SPDX-License-Identifier: MPL-2.0

//! AVX2 with FMA and F16C: sixteen numbers are two registers, and there are 16 of them.

use std::arch::x86_64::*;

use super::{
    matrix::{self, Product},
    vector::{HalfLanes, Lanes, Task, Vector},
};

#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

/// Runs `task` with AVX2, FMA and F16C.
///
/// # Safety
///
/// The processor must have all three.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn run(task: impl Task) {
    task.run::<Avx2>();
}

/// All ones in the lanes whose bit is set.
#[inline(always)]
fn spread(bits: u16) -> (__m256, __m256) {
    // SAFETY: as for the methods of `Avx2`.
    unsafe {
        let all = _mm256_set1_epi32(i32::from(bits));
        let low = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let high = _mm256_slli_epi32::<8>(low);
        let select = |bit| _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, bit), bit));
        (select(low), select(high))
    }
}

// SAFETY of all blocks below: the instructions exist, since `run` is the only way here and asks for them; `Lanes`
// are sixteen numbers on a multiple of 64 bytes.
impl Vector for Avx2 {
    const ROWS: usize = 6;
    const COLUMNS: usize = 1;

    #[inline(always)]
    fn load(from: &Lanes) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_load_ps(from.0.as_ptr()), _mm256_load_ps(from.0.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn widen(from: &HalfLanes) -> Self {
        // SAFETY: see above; they are as many, on a multiple of 32 bytes.
        unsafe {
            let start = from.0.as_ptr().cast::<__m128i>();
            Self(_mm256_cvtph_ps(_mm_load_si128(start)), _mm256_cvtph_ps(_mm_load_si128(start.add(1))))
        }
    }

    #[inline(always)]
    fn store(self, to: &mut Lanes) {
        // SAFETY: see above.
        unsafe {
            _mm256_store_ps(to.0.as_mut_ptr(), self.0);
            _mm256_store_ps(to.0.as_mut_ptr().add(8), self.1);
        }
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see above.
        let all = unsafe { _mm256_set1_ps(value) };
        Self(all, all)
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, term.0), _mm256_fmadd_ps(self.1, factor.1, term.1)) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn above(self, other: Self) -> u16 {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self.1, other.1));
            (low | high << 8) as u16
        }
    }

    #[inline(always)]
    fn equals(self, other: Self) -> u16 {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.1, other.1));
            (low | high << 8) as u16
        }
    }

    #[inline(always)]
    fn keep(self, bits: u16) -> Self {
        let (low, high) = spread(bits);
        // SAFETY: see above.
        unsafe { Self(_mm256_and_ps(self.0, low), _mm256_and_ps(self.1, high)) }
    }

    #[inline(always)]
    unsafe fn multiply(product: &Product) {
        // SAFETY: the caller vouches for the pointers.
        unsafe { matrix::multiply::<Self, { Self::ROWS }, { Self::COLUMNS }>(product) }
    }
}

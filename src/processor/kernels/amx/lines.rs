// SPDX-License-Identifier: MPL-2.0

//! Numbers in bfloat16. A line is a [`Lanes`] with 32 of them: each lane holds the bits of two, the first in the lower
//! half.

use std::{arch::x86_64::*, ops::Range};

use super::layout::Layout;
use crate::processor::{Lanes, Parts, Vector, avx512::Avx512, kernels::Shape};

/// Two numbers, rounded to bfloat16, in one lane.
pub fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(u32::from(round(first)) | u32::from(round(second)) << 16)
}

/// The upper half of the bits, rounded to the nearest, or to even.
fn round(number: f32) -> u16 {
    let bits = number.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The bits of a line.
#[target_feature(enable = "avx512bf16")]
pub fn load(line: &Lanes) -> __m512i {
    // SAFETY: a line is 64 bytes on a multiple of 64.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
}

#[target_feature(enable = "avx512bf16")]
pub fn store(bits: __m512i, line: &mut Lanes) {
    // SAFETY: as for `load`.
    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), bits) }
}

/// The numbers of all lanes, counted from 0.
#[target_feature(enable = "avx512bf16")]
pub fn lanes() -> __m512i {
    _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

/// From number `FIRST` on, sixteen numbers of `even`, each before the one of `odd` at its place.
#[target_feature(enable = "avx512bf16")]
pub fn interleave<const FIRST: i16>(even: __m512i, odd: __m512i) -> __m512i {
    const {
        assert!(FIRST == 0 || FIRST == 16);
    }
    // Numbers of `odd` are counted from 32 on.
    let pairs = _mm512_or_si512(lanes(), _mm512_slli_epi32::<16>(_mm512_add_epi32(lanes(), _mm512_set1_epi32(32))));
    let order = _mm512_add_epi16(pairs, _mm512_set1_epi16(FIRST));
    _mm512_permutex2var_epi16(even, order, odd)
}

/// The numbers of a line: the first and the last sixteen.
#[target_feature(enable = "avx512bf16")]
pub fn widen(line: &Lanes) -> [Avx512; 2] {
    let numbers = load(line);
    let half = |half| Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))));
    [half(_mm512_castsi512_si256(numbers)), half(_mm512_extracti64x4_epi64::<1>(numbers))]
}

/// The bits of a line of these numbers, rounded to nearest even.
#[target_feature(enable = "avx512bf16")]
pub fn rounded(numbers: [Avx512; 2]) -> __m512i {
    let [first, last] = numbers;
    // SAFETY: both types are 64 bytes, of which all values are valid.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(last.0, first.0)) }
}

/// Writes a line of these numbers, rounded to nearest even.
#[target_feature(enable = "avx512bf16")]
pub fn narrow(numbers: [Avx512; 2], line: &mut Lanes) {
    store(rounded(numbers), line);
}

/// One bit for each number above zero.
#[target_feature(enable = "avx512bf16")]
pub fn above_zero(numbers: [Avx512; 2]) -> [u16; 2] {
    let zero = Avx512::splat(0.0);
    [numbers[0].above(zero), numbers[1].above(zero)]
}

/// Writes a row of all channels, given in float32 as `[block of sixteen][column]`, with its border, and the masks that
/// tell where it is above zero.
///
/// # Safety
///
/// No other thread may have this row.
#[target_feature(enable = "avx512bf16")]
pub unsafe fn narrow_row(
    shape: Shape,
    row: usize,
    numbers: &[Lanes],
    positive: Option<&Parts<u16>>,
    output: &Parts<Lanes>,
) {
    let layout = Layout::new(shape);
    for (block, numbers) in numbers.chunks_exact(2 * shape.width).enumerate() {
        let (first, last) = numbers.split_at(shape.width);
        let (own, inside) = (layout.row_with_border(block, row), layout.row(block, row));
        // SAFETY: no other thread has this row.
        let mut lines = unsafe { output.part(own.clone()) };
        lines.fill(Lanes::ZERO);
        for (n, line) in lines[inside.start - own.start..][..inside.len()].iter_mut().enumerate() {
            let numbers = [Avx512::load(&first[n]), Avx512::load(&last[n])];
            narrow(numbers, line);
            if let Some(positive) = positive {
                let at = 2 * (inside.start + n);
                // SAFETY: as for the lines.
                unsafe { positive.part(at..at + 2) }.copy_from_slice(&above_zero(numbers));
            }
        }
    }
}

/// Reads rows of all channels into float32, `[block of sixteen][row][column]`.
#[target_feature(enable = "avx512bf16")]
pub fn widen_rows(shape: Shape, rows: Range<usize>, lines: &[Lanes], numbers: &mut [Lanes]) {
    let layout = Layout::new(shape);
    let len = rows.len() * shape.width;
    for (block, numbers) in numbers.chunks_exact_mut(2 * len).take(layout.blocks()).enumerate() {
        let (first, last) = numbers.split_at_mut(len);
        for (row, (first, last)) in rows.clone().zip(first.chunks_mut(shape.width).zip(last.chunks_mut(shape.width))) {
            for ((line, first), last) in lines[layout.row(block, row)].iter().zip(first).zip(last) {
                let numbers = widen(line);
                numbers[0].store(first);
                numbers[1].store(last);
            }
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Gram matrices. They are sums over positions, so that pairs of positions must lie together in a tile.

use std::{arch::x86_64::*, ops::Range};

use super::{
    layout::Layout,
    lines::{interleave, lanes, load, rounded, store},
    tiles::{Product, SIDE, STEP, Steps, Tiles},
};
use crate::processor::{
    Engine, Kind, LANES, Lanes, Parts, Vector,
    avx512::Avx512,
    kernels::{GramMatrix, Shape, sum},
};

/// Groups of 32 positions that are packed at a time.
const GROUPS: usize = 8;
/// The largest number of rows of the matrix, that is channels, in a job.
const ROWS: usize = 64;

pub fn compute(engine: &mut Engine, gram: &mut GramMatrix, features: &[Lanes]) {
    let shape = gram.shape();
    assert_eq!(features.len(), Layout::new(shape).lines());
    assert_eq!(engine.kind(), Kind::Amx);
    // Lines that `sums` packs feature maps into.
    let scratch = (shape.channels + ROWS) / SIDE * GROUPS * STEP;
    gram.compute(engine, scratch, |chunk, rows, scratch, to| {
        // SAFETY: this kind of kernels is supported.
        unsafe { sums(shape, features, chunk, rows, scratch, to) };
    });
}

pub fn difference<'g>(
    engine: &mut Engine,
    gram: &'g mut GramMatrix,
    target: &[Lanes],
    slope: f32,
) -> (f64, &'g [Lanes]) {
    let shape = gram.shape();
    assert_eq!(engine.kind(), Kind::Amx);
    let distance = gram.subtract(engine, target, |block, values, difference| {
        // SAFETY: this kind of kernels is supported, and no other job has this block.
        unsafe { subtract(shape, values, target, slope, block, difference) }
    });
    // In bfloat16 it takes half as much.
    (distance, &gram.difference()[..shape.channels * shape.blocks() / 2])
}

/// Multiplies the channels `rows`, in blocks of sixteen, with all channels from the first of them on, and sums over the
/// positions of one of `chunks` parts. `sums` has these rows, `[row][column]`.
#[target_feature(enable = "avx512bf16")]
fn sums(
    shape: Shape,
    features: &[Lanes],
    (chunk, chunks): (usize, usize),
    rows: Range<usize>,
    scratch: &mut [Lanes],
    sums: &mut [Lanes],
) {
    let layout = Layout::new(shape);
    let tiles = Tiles::configure();
    let groups = layout.run() / SIDE;
    let groups = chunk * groups / chunks..(chunk + 1) * groups / chunks;
    let (rows, pitch) = (rows.start / 2..rows.end / 2, 2 * layout.blocks());
    let (right, left) = scratch.split_at_mut(layout.blocks() * GROUPS * STEP);
    let packed = |block: usize| block * GROUPS * STEP..(block + 1) * GROUPS * STEP;
    if groups.is_empty() {
        sums.fill(Lanes::ZERO);
    }
    for start in groups.clone().step_by(GROUPS) {
        let count = GROUPS.min(groups.end - start);
        for block in rows.start..layout.blocks() {
            let position = block * layout.block() + layout.origin() + start * SIDE;
            pack_right(&features[position..][..count * SIDE], &mut right[packed(block)]);
        }
        for row in rows.clone() {
            transpose_tiles(&right[packed(row)][..count * STEP], &mut left[packed(row - rows.start)]);
        }
        for row in rows.clone() {
            for column in row..layout.blocks() {
                tiles.multiply(Product {
                    a: &left[packed(row - rows.start)],
                    steps: Steps { rows: 1, pitch: 0, columns: count, stride: STEP },
                    b: &right[packed(column)],
                    next: &right[packed((column + 1).min(layout.blocks() - 1))],
                    sums: &mut sums[(row - rows.start) * SIDE * pitch + 2 * column..],
                    sums_pitch: pitch,
                    fresh: start == groups.start,
                });
            }
        }
    }
}

/// Packs all channels of a block: for each group of 32 positions a tile of the first sixteen channels and one of the
/// others, whose lines have of each channel a pair of positions.
#[target_feature(enable = "avx512bf16")]
fn pack_right(lines: &[Lanes], packed: &mut [Lanes]) {
    for (positions, packed) in lines.chunks_exact(SIDE).zip(packed.chunks_exact_mut(STEP)) {
        let (first_tile, last_tile) = packed.split_at_mut(LANES);
        for ((pair, first), last) in positions.chunks_exact(2).zip(first_tile).zip(last_tile) {
            let [even, odd] = [load(&pair[0]), load(&pair[1])];
            store(interleave::<0>(even, odd), first);
            store(interleave::<16>(even, odd), last);
        }
    }
}

/// Transposes each tile, so that a line has of one channel all pairs of positions.
#[target_feature(enable = "avx512bf16")]
fn transpose_tiles(tiles: &[Lanes], transposed: &mut [Lanes]) {
    for (tile, transposed) in tiles.chunks_exact(LANES).zip(transposed.chunks_exact_mut(LANES)) {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (row, line) in rows.iter_mut().zip(tile) {
            *row = load(line);
        }
        exchange_squares::<8>(&mut rows);
        exchange_squares::<4>(&mut rows);
        exchange_squares::<2>(&mut rows);
        exchange_squares::<1>(&mut rows);
        for (row, line) in rows.iter().zip(transposed) {
            store(*row, line);
        }
    }
}

/// Exchanges in each square of twice that size the upper right square of this size with the lower left one.
#[target_feature(enable = "avx512bf16")]
fn exchange_squares<const SIZE: usize>(rows: &mut [__m512i; LANES]) {
    let lanes = lanes();
    let left = _mm512_testn_epi32_mask(lanes, _mm512_set1_epi32(SIZE as i32));
    let add = |number: usize| _mm512_add_epi32(lanes, _mm512_set1_epi32(number as i32));
    // Lanes of the second row are numbered from 16 on.
    let upper = _mm512_mask_mov_epi32(add(LANES - SIZE), left, lanes);
    let lower = _mm512_mask_mov_epi32(add(LANES), left, add(SIZE));
    for n in (0..LANES).filter(|n| n & SIZE == 0) {
        let (first, second) = (rows[n], rows[n + SIZE]);
        rows[n] = _mm512_permutex2var_epi32(first, upper, second);
        rows[n + SIZE] = _mm512_permutex2var_epi32(first, lower, second);
    }
}

/// Writes the difference of the Gram matrix from a target, of one block of sixteen rows, times a slope: packed as
/// filters from all channels to all. Returns the sum of the squares of the difference itself.
///
/// # Safety
///
/// No other thread may have the same block.
#[target_feature(enable = "avx512bf16")]
unsafe fn subtract(
    shape: Shape,
    values: &[Lanes],
    target: &[Lanes],
    slope: f32,
    block: usize,
    difference: &Parts<Lanes>,
) -> f64 {
    let blocks = shape.blocks();
    let slope = Avx512::splat(slope);
    let mut sum_of_squares = 0.0;
    for row in (block * LANES..(block + 1) * LANES).step_by(2) {
        let mut squares = Avx512::splat(0.0);
        for column in 0..blocks {
            let mut rows = [slope; 2];
            for (n, row) in (row..).zip(&mut rows) {
                let at = n * blocks + column;
                let difference = Avx512::load(&values[at]).sub(Avx512::load(&target[at]));
                squares = difference.mul_add(difference, squares);
                *row = difference.mul(slope);
            }
            // As filters: 32 outputs, of these 32 inputs, of these the tile, and of it the pair of inputs.
            let place = ((column / 2 * (blocks / 2) + row / SIDE) * 2 + column % 2) * LANES + row % SIDE / 2;
            // SAFETY: no other thread has this row.
            let mut line = unsafe { difference.part(place..place + 1) };
            let both = rounded(rows);
            store(interleave::<0>(both, _mm512_alignr_epi64::<4>(both, both)), &mut line[0]);
        }
        sum_of_squares += sum(squares);
    }
    sum_of_squares
}

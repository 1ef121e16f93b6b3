// SPDX-License-Identifier: MPL-2.0

//! Gram matrices. The positions are what is summed over, so that pairs of them must lie together in a tile.

use std::{arch::x86_64::*, ops::Range};

use super::{
    layout::Layout,
    lines::pair,
    tiles::{Product, SIDE, STEP, Steps, Tiles},
};
use crate::kernels::{
    LANES, Lanes, Parts, Shape,
    gram::sum,
    vector::{Task, Vector},
};

/// Groups of 32 positions that are packed at a time.
const GROUPS: usize = 8;
/// Most channels that a job has rows of.
const ROWS: usize = 64;

/// Lines that [`sums`] packs feature maps of this shape into.
pub fn sums_scratch(shape: Shape) -> usize {
    (shape.channels + ROWS) / SIDE * GROUPS * STEP
}

/// Sums the products of some channels, `rows` in blocks of sixteen, with all from the same on, over the positions of
/// one of `chunks` parts. `sums` has the rows, `[row][column]`.
#[target_feature(enable = "avx512bf16")]
pub fn sums(
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
                    next: &[],
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
    const SECOND: i16 = 32;
    let mut order = [[0; 2 * LANES]; 2];
    for (tile, order) in (0..).zip(&mut order) {
        for (channel, pair) in (0..).zip(order.as_chunks_mut::<2>().0) {
            *pair = [16 * tile + channel, SECOND + 16 * tile + channel];
        }
    }
    // SAFETY: each array has 64 bytes.
    let order = order.map(|order| unsafe { _mm512_loadu_si512(order.as_ptr().cast()) });
    for (positions, packed) in lines.chunks_exact(SIDE).zip(packed.chunks_exact_mut(STEP)) {
        for (n, pair) in positions.chunks_exact(2).enumerate() {
            // SAFETY: a line is 64 bytes on a multiple of 64.
            unsafe {
                let first = _mm512_load_si512(pair[0].0.as_ptr().cast());
                let second = _mm512_load_si512(pair[1].0.as_ptr().cast());
                for (tile, order) in order.iter().enumerate() {
                    let line = packed[tile * LANES + n].0.as_mut_ptr();
                    _mm512_store_si512(line.cast(), _mm512_permutex2var_epi16(first, *order, second));
                }
            }
        }
    }
}

/// Transposes each tile, so that a line has of one channel all pairs of positions.
#[target_feature(enable = "avx512bf16")]
fn transpose_tiles(tiles: &[Lanes], transposed: &mut [Lanes]) {
    for (tile, transposed) in tiles.chunks_exact(LANES).zip(transposed.chunks_exact_mut(LANES)) {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (row, line) in rows.iter_mut().zip(tile) {
            // SAFETY: a line is 64 bytes on a multiple of 64.
            *row = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
        }
        // Squares off the diagonal change places: of half the size first, in the end of one number.
        for size in [8, 4, 2, 1] {
            let [upper, lower] = exchange(size);
            for n in (0..LANES).filter(|n| n & size == 0) {
                let (above, below) = (rows[n], rows[n + size]);
                rows[n] = _mm512_permutex2var_epi32(above, upper, below);
                rows[n + size] = _mm512_permutex2var_epi32(above, lower, below);
            }
        }
        for (row, line) in rows.iter().zip(transposed) {
            // SAFETY: as above.
            unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), *row) };
        }
    }
}

/// From which lanes of two rows, so far apart as the squares are large, each row comes that has the squares exchanged.
#[target_feature(enable = "avx512bf16")]
fn exchange(size: usize) -> [__m512i; 2] {
    let (size, mut lanes) = (size as i32, [[0; LANES]; 2]);
    let [upper, lower] = &mut lanes;
    for ((lane, upper), lower) in (0..).zip(upper).zip(lower) {
        let in_left = lane & size == 0;
        *upper = if in_left { lane } else { LANES as i32 + lane - size };
        *lower = if in_left { lane + size } else { LANES as i32 + lane };
    }
    // SAFETY: each array has 64 bytes.
    lanes.map(|lanes| unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) })
}

/// The difference of the Gram matrix from a target, of one block of sixteen rows, times a slope: packed as filters from
/// all channels to all.
pub struct PairedDifference<'a> {
    pub shape: Shape,
    pub values: &'a [Lanes],
    pub target: &'a [Lanes],
    pub slope: f32,
    pub block: usize,
    pub difference: Parts<'a, Lanes>,
    pub squares: &'a mut f64,
}

impl Task for PairedDifference<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let blocks = self.shape.blocks();
        let slope = V::splat(self.slope);
        *self.squares = 0.0;
        for row in (self.block * LANES..(self.block + 1) * LANES).step_by(2) {
            let mut squares = V::splat(0.0);
            for column in 0..blocks {
                let mut rows = [Lanes::ZERO; 2];
                for (n, row) in (row..).zip(&mut rows) {
                    let at = n * blocks + column;
                    let difference = V::load(&self.values[at]).sub(V::load(&self.target[at]));
                    squares = difference.mul_add(difference, squares);
                    difference.mul(slope).store(row);
                }
                // As filters: 32 outputs, of these 32 inputs, of these the tile, and of it the pair of inputs.
                let place = ((column / 2 * (blocks / 2) + row / SIDE) * 2 + column % 2) * LANES + row % SIDE / 2;
                // SAFETY: no other job has this row.
                let line = unsafe { &mut self.difference.part(place..place + 1)[0] };
                for (n, lane) in line.0.iter_mut().enumerate() {
                    *lane = pair(rows[0].0[n], rows[1].0[n]);
                }
            }
            *self.squares += sum(squares);
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Detects AMX.

use std::{arch::x86_64::__cpuid_count, sync::OnceLock};

use super::{
    lines::pair,
    tiles::{Product, SIDE, STEP, Steps, Tiles},
};
use crate::processor::Lanes;

/// Whether the processor has AMX, the system permits its use, and a product comes out right. Checked once.
pub fn is_supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| has_vectors() && has_tiles() && is_permitted() && multiplies())
}

/// Whether the processor has the vector instructions that are used besides tiles.
pub fn has_vectors() -> bool {
    is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("fma")
}

/// Whether the processor has tiles of bfloat16. The standard library has no names for these features yet.
fn has_tiles() -> bool {
    const FEATURES_LEAF: u32 = 7;
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    // Processors with AVX-512 have this leaf.
    __cpuid_count(FEATURES_LEAF, 0).edx & (BF16 | TILE) == BF16 | TILE
}

/// Asks Linux for the right to use tiles, for all threads of the process. Without it they raise SIGILL.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: this call takes two numbers and changes nothing but the permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// There is no known way to ask other systems.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Whether a small product comes out right.
fn multiplies() -> bool {
    // Whole numbers, of which every product and sum is exact.
    let a = |row: usize, k: usize| (row + 3 * k) as f32 % 13.0 - 6.0;
    let b = |k: usize, column: usize| (5 * k + column) as f32 % 11.0 - 5.0;
    let (mut left, mut right) = ([Lanes::ZERO; SIDE], [Lanes::ZERO; STEP]);
    for (row, line) in left.iter_mut().enumerate() {
        for (k, lane) in line.0.iter_mut().enumerate() {
            *lane = pair(a(row, 2 * k), a(row, 2 * k + 1));
        }
    }
    for (n, line) in right.iter_mut().enumerate() {
        let (tile, k) = (n / 16, n % 16);
        for (column, lane) in line.0.iter_mut().enumerate() {
            *lane = pair(b(2 * k, 16 * tile + column), b(2 * k + 1, 16 * tile + column));
        }
    }
    let mut sums = [Lanes::ZERO; 2 * SIDE];
    let steps = Steps { rows: 1, pitch: 0, columns: 1, stride: 0 };
    // SAFETY: the processor has the instructions, and the system permits them.
    let tiles = unsafe { Tiles::configure_unchecked() };
    tiles.multiply(Product { a: &left, steps, b: &right, next: &right, sums: &mut sums, sums_pitch: 2, fresh: true });
    (0..SIDE * SIDE).all(|n| {
        let (row, column) = (n / SIDE, n % SIDE);
        let expected: f32 = (0..SIDE).map(|k| a(row, k) * b(k, column)).sum();
        sums[2 * row + column / 16].0[column % 16] == expected
    })
}

// SPDX-License-Identifier: MPL-2.0

//! How products are divided among workgroups and threads, and which way is the fastest.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Gpu, Pass, Shape, variant::Variant};
use crate::Result;

/// How often each way is measured.
const ROUNDS: usize = 3;

/// A matrix product on plain units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Of a workgroup.
    pub(super) rows: u32,
    pub(super) columns: u32,
    /// Of the inner dimension, at a time.
    depth: u32,
    /// Of a thread.
    thread_rows: u32,
    thread_columns: u32,
}

impl Tiling {
    pub(super) const MOST_ROWS: u64 = 128;

    /// The first that fits is used where nothing is measured.
    const ALL: [Self; 4] = [
        Self::new([64, 64], 16, [8, 4]),
        Self::new([64, 32], 16, [8, 4]),
        Self::new([64, 128], 16, [8, 8]),
        Self::new([128, 64], 16, [8, 8]),
    ];

    const fn new([rows, columns]: [u32; 2], depth: u32, [thread_rows, thread_columns]: [u32; 2]) -> Self {
        Self { rows, columns, depth, thread_rows, thread_columns }
    }

    /// Those for so many outputs.
    pub(super) fn fitting(gpu: &Gpu, outputs: u32) -> Vec<Self> {
        let memory = gpu.limits.max_compute_workgroup_storage_size;
        let fits = |tiling: &Self| {
            outputs.is_multiple_of(tiling.columns) && 4 * tiling.depth * (tiling.rows + tiling.columns) <= memory
        };
        Self::ALL.into_iter().filter(fits).collect()
    }

    pub(super) fn variant(self) -> Variant {
        let threads = self.rows / self.thread_rows * (self.columns / self.thread_columns);
        Variant::default()
            .number("ROWS", self.rows)
            .number("COLUMNS", self.columns)
            .number("DEPTH", self.depth)
            .number("THREAD_ROWS", self.thread_rows)
            .number("THREAD_COLUMNS", self.thread_columns)
            .number("THREAD_COLUMNS4", self.thread_columns / 4)
            .number("DEPTH_BY_4", self.depth / 4)
            .number("A_LOADS", self.rows * self.depth / 4 / threads)
            .number("B_LOADS", self.columns * self.depth / 4 / threads)
    }
}

/// A convolution by matrix units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnitTiling {
    /// Rows of 16 pixels that a workgroup has.
    height: u32,
    /// Output channels that it has.
    columns: u32,
    /// Rows and blocks of 16 channels that a subgroup has.
    rows_each: u32,
    blocks_each: u32,
    /// The next inputs are loaded while the units compute.
    prefetch: bool,
}

impl UnitTiling {
    /// Inputs at a time.
    const SLICE: u32 = 16;
    const SUBGROUP: u32 = 32;

    /// The first that fits is used where nothing is measured.
    pub(super) const ALL: [Self; 5] = [
        Self::new([16, 64], [4, 2], true),
        Self::new([8, 64], [2, 2], true),
        Self::new([8, 32], [4, 1], true),
        Self::new([4, 64], [2, 2], true),
        // The tests replace matrix units by plain products, and these compile fastest with this one.
        Self::new([2, 32], [1, 1], false),
    ];

    const fn new([height, columns]: [u32; 2], [rows_each, blocks_each]: [u32; 2], prefetch: bool) -> Self {
        Self { height, columns, rows_each, blocks_each, prefetch }
    }

    /// Those for so many outputs and filters of `side` x `side` taps.
    pub(super) fn fitting(gpu: &Gpu, outputs: u32, side: u32) -> Vec<Self> {
        let memory = gpu.limits.max_compute_workgroup_storage_size;
        let fits = |tiling: &Self| outputs.is_multiple_of(tiling.columns) && tiling.memory(side) <= memory;
        let mut fitting: Vec<Self> = Self::ALL.into_iter().filter(fits).collect();
        if !gpu.has_matrix_units() {
            fitting.reverse();
        }
        fitting
    }

    fn threads(self) -> u32 {
        Self::SUBGROUP * (self.height / self.rows_each) * (self.columns / 16 / self.blocks_each)
    }

    /// Pixels of a patch with what is around it.
    fn around(self, side: u32) -> u32 {
        (15 + side) * (self.height + side - 1)
    }

    /// Bytes of workgroup memory.
    fn memory(self, side: u32) -> u32 {
        let inputs = self.around(side) * (Self::SLICE / 4 + 2) * 8;
        let filters = side * side * Self::SLICE * (self.columns / 4 + 2) * 8;
        inputs + filters + self.threads() / Self::SUBGROUP * 1024
    }

    pub(super) fn groups(self, shape: Shape, outputs: u32) -> [u32; 3] {
        [outputs / self.columns, shape.width.div_ceil(16) * shape.height.div_ceil(self.height), 1]
    }

    /// For filters of `side` x `side` taps. Without matrix units plain products take their place, for the tests.
    pub(super) fn variant(self, side: u32, has_matrix_units: bool) -> Variant {
        let variant = Variant::default().extension("f16").flag("UNITS", has_matrix_units);
        let variant = if has_matrix_units { variant.extension("wgpu_cooperative_matrix") } else { variant };
        variant
            .flag("PREFETCH", self.prefetch)
            .number("SIDE", side)
            .number("SLICE", Self::SLICE)
            .number("HEIGHT", self.height)
            .number("COLUMNS", self.columns)
            .number("ROWS_EACH", self.rows_each)
            .number("BLOCKS_EACH", self.blocks_each)
            .number("A_LOADS", (self.around(side) * Self::SLICE / 4).div_ceil(self.threads()))
            .number("B_LOADS", side * side * Self::SLICE * self.columns / 4 / self.threads())
    }
}

/// What is computed, at which shape, and for how many outputs.
type Key = (&'static str, Shape, u32);

/// The fastest ways found so far. All ways give the same bits, as each sum is taken in the same order.
#[derive(Debug, Default)]
pub(super) struct Tuning {
    chosen: Mutex<BTreeMap<Key, usize>>,
}

impl Tuning {
    /// The fastest of some ways, measured when it is asked for first. A software adapter takes the first.
    pub(super) fn choose<T: Copy>(
        &self,
        gpu: &Gpu,
        key: Key,
        ways: &[T],
        passes: impl Fn(T) -> Result<Vec<Pass>>,
    ) -> Result<T> {
        let Some(first) = ways.first() else {
            let (what, Shape { channels, .. }, outputs) = key;
            return Err(gpu.error(format!("it has no kernel for {what} from {channels} to {outputs} channels")));
        };
        if ways.len() == 1 || gpu.is_software() {
            return Ok(*first);
        }
        let chosen = || self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = chosen().get(&key).and_then(|number| ways.get(*number)) {
            return Ok(*way);
        }
        let trials: Vec<Vec<Pass>> = ways.iter().map(|way| passes(*way)).collect::<Result<_>>()?;
        let mut times = vec![Duration::MAX; ways.len()];
        // They take turns, so that a change of the card's clock favours none.
        for round in 0..=ROUNDS {
            for (trial, time) in trials.iter().zip(&mut times) {
                gpu.wait()?;
                let started = Instant::now();
                gpu.submit(trial.iter().chain(trial), &[])?;
                gpu.wait()?;
                // The first round warms up and does not count.
                if round > 0 {
                    *time = started.elapsed().min(*time);
                }
            }
        }
        let best = (0..ways.len()).min_by_key(|way| times[*way]).unwrap_or(0);
        chosen().insert(key, best);
        Ok(ways[best])
    }
}

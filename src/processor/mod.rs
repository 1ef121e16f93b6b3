// SPDX-License-Identifier: MPL-2.0

//! The processor: which instructions it has, the threads that compute, vectors, and the kernels made of them.
//!
//! The arithmetic is written once, over a `Vector` of sixteen numbers. A [`Kind`] is an implementation of that vector,
//! compiled for its instructions and chosen at run time.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod detect;
#[doc(hidden)]
pub mod kernels;
mod matrix;
mod parts;
mod portable;
mod threads;
mod vector;

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{Error, Result};

#[doc(hidden)]
pub use detect::{available, detect};
pub(crate) use parts::{Part, Parts};
use threads::Pool;
pub(crate) use threads::{Pause, stand_back};
#[doc(hidden)]
pub use vector::{LANES, Lanes};
pub(crate) use vector::{Task, Vector, numbers};

/// The number format of feature maps. The image, its gradient and the losses are always float32 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Precision {
    /// The fastest there is: [`Bf16`](Self::Bf16) with AMX, else [`F32`](Self::F32).
    #[default]
    Auto,
    /// 32-bit floating point.
    F32,
    /// bfloat16, which is float32 without its last 16 bits, with sums in float32. Needs a processor with AMX.
    Bf16,
}

impl Precision {
    /// Its name as a setting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// The instructions that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// AMX in bfloat16, and AVX-512 for everything but matrix products.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 in float32.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and F16C in float32.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain code in float32, for every processor of the target.
    Portable,
}

impl Kind {
    /// All kinds of this build, the best first.
    const ALL: &[Self] = &[
        #[cfg(target_arch = "x86_64")]
        Self::Amx,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        Self::Portable,
    ];

    /// The name by which `NEURALSTYLE_CPU` asks for it.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// The number format of its feature maps.
    pub fn precision(self) -> Precision {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    fn is_supported(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => kernels::amx::is_supported(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            Self::Portable => true,
        }
    }

    /// Blocks of columns in a panel of a packed matrix.
    pub(crate) fn panel(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512 => avx512::Avx512::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::COLUMNS,
            Self::Portable => portable::Portable::COLUMNS,
        }
    }

    /// Runs a task with the instructions of this kind.
    #[inline]
    pub(crate) fn run(self, task: impl Task) {
        match self {
            // SAFETY: a `Processor` is made for supported kinds only.
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512 => unsafe { avx512::run(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::run(task) },
            Self::Portable => portable::run(task),
        }
    }
}

/// The threads and instructions that everything is computed with. Clones share the threads.
#[derive(Clone)]
pub struct Processor {
    kind: Kind,
    pool: Arc<Pool>,
}

impl Processor {
    /// How many threads there can be, besides 0.
    pub const THREADS: RangeInclusive<usize> = 1..=1024;

    /// A processor with this many threads, 0 being as many as run at a time, and the best instructions there are.
    ///
    /// # Errors
    ///
    /// [`Error::Processor`] if `NEURALSTYLE_CPU` asks for instructions that cannot be had, [`Error::Setting`] if the
    /// number is not in the range of [`THREADS`](Self::THREADS), or [`Error::Threads`] if the system has no more
    /// threads to give.
    pub fn detect(threads: usize) -> Result<Self> {
        Self::with_precision(threads, Precision::Auto)
    }

    /// A processor with the best instructions that compute feature maps in this precision.
    ///
    /// # Errors
    ///
    /// Those of [`detect`](Self::detect), and [`Error::Setting`] if there are no such instructions.
    pub fn with_precision(threads: usize, precision: Precision) -> Result<Self> {
        Self::new(detect(precision)?, threads)
    }

    /// A processor with the instructions of one of the [available] kinds.
    ///
    /// # Errors
    ///
    /// Those of [`detect`](Self::detect) for the number of threads.
    ///
    /// # Panics
    ///
    /// If the processor does not have these instructions.
    #[doc(hidden)]
    pub fn new(kind: Kind, threads: usize) -> Result<Self> {
        assert!(kind.is_supported(), "this processor does not have {}", kind.name());
        if threads != 0 && !Self::THREADS.contains(&threads) {
            return Err(Error::Setting {
                setting: "threads",
                value: threads.to_string(),
                expected: "between 0 and 1024",
            });
        }
        Ok(Self { kind, pool: Arc::new(Pool::new(threads).map_err(Error::Threads)?) })
    }

    /// A processor with the same instructions and other threads.
    ///
    /// # Errors
    ///
    /// Those of [`detect`](Self::detect) for the number of threads.
    pub fn with_threads(&self, threads: usize) -> Result<Self> {
        Self::new(self.kind, threads)
    }

    /// Makes its threads leave the cores to other threads when these have work, for good.
    pub(crate) fn stand_back(&self) {
        self.pool.stand_back();
    }

    /// Holds its threads until the pause is dropped: each ends the job that it is at and does not begin another. Whoever calls for jobs waits as well.
    pub(crate) fn pause(&self) -> Pause<'_> {
        self.pool.pause()
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The kind of instructions.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The name of the instructions, as in `NEURALSTYLE_CPU`.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// The number format of feature maps.
    pub fn precision(&self) -> Precision {
        self.kind.precision()
    }

    /// Runs a task in this thread.
    pub(crate) fn run(&self, task: impl Task) {
        self.kind.run(task);
    }

    /// Runs all of the tasks and waits for the last.
    pub(crate) fn run_tasks<T: Task + Send>(&self, tasks: impl Iterator<Item = T>) {
        self.pool.run_tasks(self.kind, tasks);
    }
}

/// A processor with memory for each of its threads.
pub struct Engine {
    processor: Processor,
    scratch: Vec<Mutex<Vec<Lanes>>>,
}

impl Engine {
    /// An engine that computes with these threads and instructions.
    pub fn new(processor: Processor) -> Self {
        let scratch = (0..processor.threads()).map(|_| Mutex::default()).collect();
        Self { processor, scratch }
    }

    /// The kind of instructions.
    pub fn kind(&self) -> Kind {
        self.processor.kind
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.processor.threads()
    }

    /// The threads and instructions.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// Calls `job` on all threads, once for each number below `count`, with memory of `scratch` lanes whose content is
    /// undefined.
    pub(crate) fn for_each(&mut self, count: usize, scratch: usize, job: impl Fn(usize, &mut [Lanes]) + Sync) {
        for memory in &mut self.scratch {
            let memory = memory.get_mut().unwrap_or_else(PoisonError::into_inner);
            if memory.len() < scratch {
                memory.resize(scratch, Lanes::ZERO);
            }
        }
        let memories = &self.scratch;
        self.processor.pool.run(count, &|worker, number| {
            let mut memory = memories[worker].lock().unwrap_or_else(PoisonError::into_inner);
            job(number, &mut memory[..scratch]);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_out_of_range_are_refused() {
        for threads in [1025, usize::MAX] {
            let Err(error) = Processor::detect(threads) else { panic!("{threads} threads") };
            assert_eq!(error.to_string(), format!("threads is {threads}: it must be between 0 and 1024"));
        }
        assert_eq!(Processor::detect(3).unwrap().threads(), 3);
    }
}

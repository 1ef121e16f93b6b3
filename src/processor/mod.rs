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
mod portable;
mod threads;
mod vector;

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Result};

#[doc(hidden)]
pub use detect::{available, detect};
#[doc(hidden)]
pub use threads::Parts;
use threads::Pool;
#[doc(hidden)]
pub use vector::{LANES, Lanes};
pub(crate) use vector::{Task, Vector, numbers};

/// What the processor computes feature maps in. The image, its gradient and the losses are always float32 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// The fastest there is: [`Bf16`](Self::Bf16) with AMX, else [`F32`](Self::F32).
    #[default]
    Auto,
    /// 32-bit floating point.
    F32,
    /// bfloat16, float32 with its last 16 bits rounded away, with sums in float32. Needs a processor with AMX.
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

/// A family of instructions that the kernels can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// AMX in bfloat16, with AVX-512 for what is no product of matrices.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 in float32.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and F16C in float32.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor of the target has, in float32.
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

    /// What the feature maps are made of.
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

    /// Does the work with the instructions of this kind.
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

/// The threads and the instructions that everything is computed with. Clones share the threads.
#[derive(Clone)]
pub struct Processor {
    kind: Kind,
    pool: Arc<Pool>,
}

impl Processor {
    /// So many threads, 0 being as many as run at a time, that use the best instructions there are.
    ///
    /// # Errors
    ///
    /// If `NEURALSTYLE_CPU` asks for instructions that cannot be had, or the system has no more threads to give.
    pub fn detect(threads: usize) -> Result<Self> {
        Self::with_precision(threads, Precision::Auto)
    }

    /// The same with the best instructions that compute feature maps in this precision.
    ///
    /// # Errors
    ///
    /// Those of [`detect`](Self::detect), and [`Error::Setting`] if there are no such instructions.
    pub fn with_precision(threads: usize, precision: Precision) -> Result<Self> {
        Self::new(detect(precision)?, threads)
    }

    /// The same with instructions of one of the [available] kinds.
    ///
    /// # Errors
    ///
    /// If the system has no more threads to give.
    ///
    /// # Panics
    ///
    /// If the processor does not have these instructions.
    #[doc(hidden)]
    pub fn new(kind: Kind, threads: usize) -> Result<Self> {
        assert!(kind.is_supported(), "this processor does not have {}", kind.name());
        Ok(Self { kind, pool: Arc::new(Pool::new(threads).map_err(Error::Threads)?) })
    }

    /// The same instructions with other threads.
    ///
    /// # Errors
    ///
    /// If the system has no more threads to give.
    pub fn with_threads(&self, threads: usize) -> Result<Self> {
        Self::new(self.kind, threads)
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The kind of instructions.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// What the instructions are called.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// What feature maps are made of.
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

    /// Calls `job` with each number up to `count` and with memory for itself, of `scratch` lanes and undefined
    /// content.
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

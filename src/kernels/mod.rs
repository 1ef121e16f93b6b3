// SPDX-License-Identifier: MPL-2.0

//! What VGG, its losses and their gradients are made of, on the processor: convolution, pooling, Gram matrices.
//!
//! Feature maps lie in blocks of sixteen channels: `[block][row][column]`, one [`Lanes`] for each position. The
//! arithmetic is written once, over a `Vector` of sixteen numbers; a [`Kind`] is an implementation
//! of that vector, compiled for its instructions and chosen at run time. Only AMX is another world, with bfloat16
//! feature maps in a layout of their own: all its kernels are in `amx`. All unsafe code of the crate is in here.

#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod convolution;
mod detect;
mod filters;
mod first;
mod gram;
mod loss;
mod matrix;
mod pooling;
mod portable;
mod threads;
mod vector;
mod winograd;

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Result, objective::Precision};

pub use convolution::{Filters, convolve};
pub use detect::{available, detect};
pub use filters::Direction;
pub use first::FirstConvolution;
pub use gram::GramMatrix;
pub use loss::{ContentTarget, Incoming, gradient_at, squared_norm};
pub use pooling::pool;
pub use threads::Parts;
use threads::Pool;
pub use vector::{LANES, Lanes};
pub(crate) use vector::{Task, Vector};
pub use winograd::Epilogue;

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

    /// How many [`Lanes`] feature maps of this shape take.
    pub fn lanes(self, shape: Shape) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => amx::Layout::new(shape).lines(),
            _ => shape.lanes(),
        }
    }

    /// How many masks of sixteen bits tell of each number of these feature maps if it is above zero.
    pub fn masks(self, shape: Shape) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => 2 * self.lanes(shape),
            _ => self.lanes(shape),
        }
    }

    fn is_supported(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => amx::is_supported(),
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
    fn panel(self) -> usize {
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
    fn run(self, task: impl Task) {
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

/// Channels, height and width of feature maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// A multiple of sixteen.
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Shape {
    /// Blocks of sixteen channels.
    pub fn blocks(self) -> usize {
        self.channels / LANES
    }

    /// Pixels of one channel.
    pub fn positions(self) -> usize {
        self.height * self.width
    }

    /// [`Lanes`] of the feature maps.
    pub fn lanes(self) -> usize {
        self.blocks() * self.positions()
    }

    /// The shape after a pooling.
    pub fn pooled(self) -> Self {
        Self { height: self.height / 2, width: self.width / 2, ..self }
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

    /// Calls `job` with each number up to `count` and with memory for itself, of `scratch` lanes and undefined
    /// content.
    fn for_each(&mut self, count: usize, scratch: usize, job: impl Fn(usize, &mut [Lanes]) + Sync) {
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

// SPDX-License-Identifier: MPL-2.0

//! What VGG, its losses and their gradients are made of, on the processor: convolution, pooling, Gram matrices.
//!
//! Feature maps lie in blocks of sixteen channels: `[block][row][column]`, one [`Lanes`](super::Lanes) for each
//! position. Only AMX is another world, with bfloat16 feature maps in a layout of their own: all its kernels are in
//! `amx`.

#[cfg(target_arch = "x86_64")]
pub mod amx;
mod convolution;
mod filters;
mod first;
mod gram;
mod loss;
mod pooling;
mod winograd;

use super::{Kind, LANES};

pub use convolution::{Convolution, Filters, convolve};
pub use filters::Direction;
pub use first::FirstConvolution;
pub use gram::GramMatrix;
pub use loss::{ContentTarget, Incoming, gradient_at, squared_norm};
pub use pooling::{Pooling, pool};
pub use winograd::Epilogue;

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

impl Kind {
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
}

// SPDX-License-Identifier: MPL-2.0

//! AMX: feature maps in bfloat16, whose products are summed in float32 by tiles of 16 rows of 64 bytes.
//!
//! The image itself, its gradient and all losses stay in float32.

mod convolution;
mod detect;
mod gradient;
mod gram;
mod layout;
mod lines;
mod pooling;
#[cfg(test)]
mod tests;
pub mod tiles;

pub(super) use convolution::{convolve, pack_filters};
pub(crate) use detect::is_supported;
pub(super) use gradient::{gradient_at, squared_norm};
pub(super) use gram::{difference, sums, sums_scratch};
pub(super) use layout::Layout;
pub(super) use lines::{narrow_row, widen_rows};
pub(super) use pooling::pool;

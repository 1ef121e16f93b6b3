// SPDX-License-Identifier: MPL-2.0
mod error;
#[doc(hidden)]
pub mod kernels;
pub mod objective;
pub mod style;
pub mod stylizer;
pub mod vgg;
pub use error::{Error, Result};

// SPDX-License-Identifier: MPL-2.0

//! Paints live and recorded video in the manner of any picture, by optimization and without training.
//!
//! This is the GStreamer plugin `neuralstyle` with its one element of the same name, and a library for Rust programs:
//! [`stylizer::Stylizer`] takes frames and gives them back painted. The element is behind the feature `plugin`, which is
//! on by default: without default features the library builds without GStreamer.
//!
//! For each frame it minimizes, over the pixels x of the generated image,
//!
//! ```text
//! content-weight * |F(x) - F(c)|^2 / |F(c)|^2
//! + style-weight * mean over layers of |G(x) - G(s)|^2 / |G(s)|^2
//! + tv-weight * total variation of x
//! + temporal-weight * mean of trust * (x - warped)^2
//! ```
//!
//! where c is the frame, s the style image and warped the last painted frame, moved by the optical flow to where things
//! are now and trusted where that is known; F are feature maps of VGG16 and G their Gram matrices. Each frame
//! starts from the painted one before it, so that a few steps are enough.

#[cfg(feature = "plugin")]
pub mod element;
mod error;
pub mod image;
pub mod motion;
pub mod network;
pub mod objective;
pub mod processor;
pub mod style;
pub mod stylizer;

#[cfg(feature = "plugin")]
pub use element::plugin_register_static;
pub use error::{Error, Result};
pub use processor::Processor;

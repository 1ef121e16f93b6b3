// SPDX-License-Identifier: MPL-2.0

//! Paints live and recorded video in the manner of any picture, by optimization and without training.
//!
//! This crate is the GStreamer plugin `neuralstyle` with its one element of the same name, and a library for Rust
//! programs: a [`Stylizer`](stylizer::Stylizer) paints frames where they lie. Two features are on by
//! default: `plugin` has the element, and without it the library builds without GStreamer; `gpu` has the objective on
//! graphics cards.
//!
//! ```no_run
//! use gstneuralstyle::{
//!     Processor, image::{Frame, PackedFormat}, network::Vgg, objective::Device, style, stylizer::{Settings, Stylizer},
//! };
//!
//! # fn main() -> gstneuralstyle::Result<()> {
//! let mut settings = Settings::default();
//! settings.working_size = 320;
//! let (weights, processor) = (Vgg::built_in()?, Processor::detect(0)?);
//! let mut stylizer = Stylizer::new(weights, Device::Cpu, processor, settings)?;
//! stylizer.set_style(style::load("painting.jpg")?)?;
//!
//! let (width, height) = (1280, 720);
//! let mut pixels = vec![0; 4 * width * height];
//! for _ in 0..100 {
//!     // Here the pixels of the next frame of a film would come in.
//!     let mut frame = Frame::new(&mut pixels, (width, height), 4 * width, PackedFormat::RGBA)?;
//!     let report = stylizer.stylize(&mut frame)?;
//!     println!("frame {}: {} iterations, loss {:.3}", report.frame, report.iterations, report.loss);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Method
//! For each frame it minimizes, over the pixels x of the generated image,
//!
//! ```text
//! content-weight * |F(x) - F(c)|^2 / |F(c)|^2
//! + style-weight * mean over layers of |G(x) - G(s)|^2 / |G(s)|^2
//! + tv-weight * total variation of x
//! + temporal-weight * mean of trust * (x - warped)^2
//! ```
//!
//! where c is the frame and s the style image. F are feature maps of VGG16 and G their Gram matrices. "warped" is the
//! last painted frame, moved by the optical flow to where things are now, and trust tells for each pixel how far that
//! flow can be relied on. The optimization of a frame starts from the painted frame before it (warm start), so that a
//! few iterations are enough.
//!
//! # Modules
//! Data goes one way: frame, motion, warm start, iterations, composition, frame. So do imports: a module uses those
//! below it, never one above.
//!
//! ```text
//! element      GStreamer: the properties, the time there is for a frame, the buffers
//!    |
//! style        style images from files, and the built-in ones
//!    |
//! stylizer     one frame in, the same frame painted out, and what lives from one frame to the next
//!    |
//! motion       optical flow, how far to trust it, scene cuts, warping
//!    |
//! objective    the losses, their gradient and the optimization: fused kernels, graphics cards, and a reference
//!              in candle
//!    |
//! network      the layers of VGG and their weights
//!    |
//! gpu          graphics cards, and the kernels for them
//!    |
//! processor    which instructions there are, threads, vectors, and the kernels made of them
//!    |
//! image        images in planes, packed frames, resizing
//!    |
//! error        everything that can go wrong
//! ```

#[cfg(feature = "plugin")]
pub mod element;
mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
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

// SPDX-License-Identifier: MPL-2.0

//! Bfloat16 feature maps, on AMX: products are summed in float32, in tiles of 16 rows of 64 bytes.
//!
//! Feature maps have a layout of their own: see `layout.rs`.

mod convolution;
mod detect;
mod first;
mod gradient;
mod gram;
mod layout;
mod lines;
mod pooling;
#[cfg(test)]
pub(crate) mod tests;
pub mod tiles;

use super::{
    ContentTarget, Convolution, Direction, Epilogue, FirstConvolution, GramMatrix, Incoming, Kernels, Pooling, Shape,
};
use crate::processor::{Engine, Lanes};

pub(crate) use detect::is_supported;
use layout::Layout;

/// The backend of this module. Its engines are of [`Kind::Amx`](crate::processor::Kind::Amx).
pub struct Amx;

impl Kernels for Amx {
    type Filters = Vec<Lanes>;

    fn lanes(shape: Shape) -> usize {
        Layout::new(shape).lines()
    }

    fn masks(shape: Shape) -> usize {
        2 * Self::lanes(shape)
    }

    fn pack(engine: &mut Engine, convolution: &Convolution, direction: Direction) -> Self::Filters {
        convolution::pack_filters(engine, convolution, direction)
    }

    fn convolve(
        engine: &mut Engine,
        shape: Shape,
        input: &[Lanes],
        filters: &Self::Filters,
        epilogue: Epilogue,
        output: &mut [Lanes],
    ) {
        convolution::convolve(engine, shape, input, filters, epilogue, output);
    }

    fn convolve_image(
        engine: &mut Engine,
        size: (usize, usize),
        image: &[f32],
        first: &FirstConvolution,
        positive: Option<&mut [u16]>,
        output: &mut [Lanes],
    ) {
        first::convolve_image(engine, size, image, first, positive, output);
    }

    fn image_gradient(
        engine: &mut Engine,
        shape: Shape,
        gradient: &[Lanes],
        first: &FirstConvolution,
        image: &mut [f32],
    ) {
        first::image_gradient(engine, shape, gradient, first, image);
    }

    fn pool(engine: &mut Engine, shape: Shape, pooling: Pooling, input: &[Lanes], output: &mut [Lanes]) {
        pooling::pool(engine, shape, pooling, input, output);
    }

    fn compute_gram(engine: &mut Engine, gram: &mut GramMatrix, features: &[Lanes]) {
        gram::compute(engine, gram, features);
    }

    fn gram_difference<'g>(
        engine: &mut Engine,
        gram: &'g mut GramMatrix,
        target: &[Lanes],
        slope: f32,
    ) -> (f64, &'g [Lanes]) {
        gram::difference(engine, gram, target, slope)
    }

    fn gradient_at(
        engine: &mut Engine,
        shape: Shape,
        features: &mut [Lanes],
        style: Option<&[Lanes]>,
        content: Option<ContentTarget>,
        incoming: Incoming,
        squares: &mut Vec<f64>,
    ) -> f64 {
        gradient::gradient_at(engine, shape, features, style, content, incoming, squares)
    }

    fn squared_norm(engine: &mut Engine, shape: Shape, features: &[Lanes], squares: &mut Vec<f64>) -> f64 {
        gradient::squared_norm(engine, shape, features, squares)
    }
}

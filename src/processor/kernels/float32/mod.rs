// SPDX-License-Identifier: MPL-2.0

//! Float32 feature maps, on any kind of vectors: convolutions by Winograd's algorithm, filters in half precision.
//!
//! Feature maps lie in blocks of sixteen channels: `[block][row][column]`, one [`Lanes`] for each position.

mod filters;
mod first;
mod gradient;
mod gram;
mod pooling;
mod winograd;

use super::{
    ContentTarget, Convolution, Direction, Epilogue, FirstConvolution, GramMatrix, Incoming, Kernels, Pooling, Shape,
};
use crate::processor::{Engine, Lanes};

/// The backend of this module.
pub struct Float32;

impl Kernels for Float32 {
    type Filters = filters::HalfFilters;

    fn lanes(shape: Shape) -> usize {
        shape.lanes()
    }

    fn masks(shape: Shape) -> usize {
        shape.lanes()
    }

    fn pack(engine: &mut Engine, convolution: &Convolution, direction: Direction) -> Self::Filters {
        Self::Filters::new(engine, convolution, direction)
    }

    fn convolve(
        engine: &mut Engine,
        shape: Shape,
        input: &[Lanes],
        filters: &Self::Filters,
        epilogue: Epilogue,
        output: &mut [Lanes],
    ) {
        winograd::convolve(engine, shape, input, filters, epilogue, output);
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

// SPDX-License-Identifier: MPL-2.0

//! The convolution of the image, in float32, with its output rounded to bfloat16.

use super::{
    layout::Layout,
    lines::{narrow_row, widen_rows},
};
use crate::processor::{
    Engine, Kind, Lanes, Parts,
    kernels::{
        FirstConvolution, Shape,
        first::{BAND, Backward, Forward, PLANES, backward_scratch, forward_scratch, rows_around},
    },
};

pub fn convolve_image(
    engine: &mut Engine,
    size: (usize, usize),
    image: &[f32],
    first: &FirstConvolution,
    positive: Option<&mut [u16]>,
    output: &mut [Lanes],
) {
    let shape = first.shape(size);
    let layout = Layout::new(shape);
    assert_eq!(image.len(), PLANES * shape.positions());
    assert_eq!(output.len(), layout.lines());
    assert!(positive.as_ref().is_none_or(|positive| positive.len() == 2 * layout.lines()));
    let kind = engine.kind();
    assert_eq!(kind, Kind::Amx);
    let (output, positive) = (Parts::new(output), positive.map(Parts::new));
    let padded_len = forward_scratch(shape.width);
    engine.for_each(shape.height, padded_len + shape.blocks() * shape.width, |row, scratch| {
        let (padded, numbers) = scratch.split_at_mut(padded_len);
        let in_float32 = &Parts::new(numbers);
        kind.run(Forward {
            first,
            size,
            image,
            row,
            padded,
            output: in_float32,
            positive: None,
            start: 0,
            step: shape.width,
        });
        // SAFETY: this kind of kernels is supported, and no other job has this row.
        unsafe { narrow_row(shape, row, numbers, positive.as_ref(), &output) };
    });
}

pub fn image_gradient(
    engine: &mut Engine,
    shape: Shape,
    gradient: &[Lanes],
    first: &FirstConvolution,
    image: &mut [f32],
) {
    let size = (shape.width, shape.height);
    assert_eq!(first.shape(size), shape);
    assert_eq!(image.len(), PLANES * shape.positions());
    assert_eq!(gradient.len(), Layout::new(shape).lines());
    let kind = engine.kind();
    assert_eq!(kind, Kind::Amx);
    let image = &Parts::new(image);
    let products_len = backward_scratch(shape.width);
    let scratch = products_len + (BAND + 2) * shape.blocks() * shape.width;
    engine.for_each(shape.height.div_ceil(BAND), scratch, |band, scratch| {
        let (products, numbers) = scratch.split_at_mut(products_len);
        let rows = rows_around(band, shape.height);
        let step = rows.len() * shape.width;
        // SAFETY: this kind of kernels is supported.
        unsafe { widen_rows(shape, rows, gradient, numbers) };
        kind.run(Backward { first, size, band, gradient: numbers, step, products, image });
    });
}

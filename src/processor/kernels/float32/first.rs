// SPDX-License-Identifier: MPL-2.0

use crate::processor::{
    Engine, Lanes, Parts,
    kernels::{
        FirstConvolution, Shape,
        first::{BAND, Backward, Forward, PLANES, backward_scratch, forward_scratch, rows_around},
    },
};

pub(super) fn convolve_image(
    engine: &mut Engine,
    size: (usize, usize),
    image: &[f32],
    first: &FirstConvolution,
    positive: Option<&mut [u16]>,
    output: &mut [Lanes],
) {
    let shape = first.shape(size);
    let step = shape.positions();
    assert_eq!(image.len(), PLANES * shape.positions());
    assert_eq!(output.len(), shape.lanes());
    assert!(positive.as_ref().is_none_or(|positive| positive.len() == shape.lanes()));
    let kind = engine.kind();
    let (output, positive) = (Parts::new(output), positive.map(Parts::new));
    let (output, positive) = (&output, positive.as_ref());
    engine.for_each(shape.height, forward_scratch(shape.width), |row, padded| {
        kind.run(Forward { first, size, image, row, padded, output, positive, start: row * shape.width, step });
    });
}

pub(super) fn image_gradient(
    engine: &mut Engine,
    shape: Shape,
    gradient: &[Lanes],
    first: &FirstConvolution,
    image: &mut [f32],
) {
    let (size, step) = ((shape.width, shape.height), shape.positions());
    assert_eq!(first.shape(size), shape);
    assert_eq!(image.len(), PLANES * shape.positions());
    assert_eq!(gradient.len(), shape.lanes());
    let kind = engine.kind();
    let image = &Parts::new(image);
    engine.for_each(shape.height.div_ceil(BAND), backward_scratch(shape.width), |band, products| {
        let gradient = &gradient[rows_around(band, shape.height).start * shape.width..];
        kind.run(Backward { first, size, band, gradient, step, products, image });
    });
}

// SPDX-License-Identifier: MPL-2.0

//! The convolution of the image itself, whose three channels are too few for the algorithms of the others. All backends
//! compute it in float32: in bfloat16, a pixel would be off by up to half a level.

use std::ops::Range;

use super::{Convolution, Shape};
use crate::processor::{Engine, LANES, Lanes, Parts, Task, Vector, matrix::Product, numbers};

pub(super) const PLANES: usize = 3;
const TAPS: usize = 9;
/// Blocks of the products of a gradient with all taps of all planes.
const TAP_BLOCKS: usize = (PLANES * TAPS).div_ceil(LANES);
/// Rows of the image for which a job computes the gradient.
pub(super) const BAND: usize = 8;

/// The first convolution of VGG, packed for one kind of vectors.
pub struct FirstConvolution {
    outputs: usize,
    mean: [f32; PLANES],
    bias: Vec<f32>,
    /// `[panel][plane and tap][block]`
    forward: Vec<Lanes>,
    /// `[panel][output][block]`, whose columns are plane and tap.
    backward: Vec<Lanes>,
}

impl FirstConvolution {
    /// Packs `convolution` for `engine`. `mean` is subtracted from the image before.
    pub fn new(engine: &Engine, convolution: &Convolution, mean: [f32; PLANES]) -> Self {
        let outputs = convolution.outputs;
        let panel = engine.kind().panel();
        let mut forward = vec![Lanes::ZERO; PLANES * TAPS * outputs / LANES];
        let mut backward = vec![Lanes::ZERO; outputs * TAP_BLOCKS];
        let place = |row: usize, rows: usize, block: usize| (block / panel * rows + row) * panel + block % panel;
        for (output, filter) in convolution.weight.chunks_exact(PLANES * TAPS).enumerate() {
            for (tap, &weight) in filter.iter().enumerate() {
                forward[place(tap, PLANES * TAPS, output / LANES)].0[output % LANES] = weight;
                backward[place(output, outputs, tap / LANES)].0[tap % LANES] = weight;
            }
        }
        Self { outputs, mean, bias: convolution.bias.clone(), forward, backward }
    }

    /// The shape of its output for an image of this width and height.
    pub(super) fn shape(&self, (width, height): (usize, usize)) -> Shape {
        Shape { channels: self.outputs, height, width }
    }
}

/// [`Lanes`] of scratch memory for [`Forward`].
pub(super) fn forward_scratch(width: usize) -> usize {
    (PLANES * 3 * row_pitch(width)).div_ceil(LANES)
}

/// [`Lanes`] of scratch memory for [`Backward`].
pub(super) fn backward_scratch(width: usize) -> usize {
    TAP_BLOCKS * (BAND + 2) * width
}

/// The rows of the gradient that a band of the image depends on: the band, and a row on either side.
pub(super) fn rows_around(band: usize, height: usize) -> Range<usize> {
    (band * BAND).saturating_sub(1)..height.min((band + 1) * BAND + 1)
}

/// Numbers from one row of the padded image to the next. They include what the last tile reads beyond the end.
fn row_pitch(width: usize) -> usize {
    width + 32
}

/// Computes a row of the output: the bias is added and negative results become zero.
pub(super) struct Forward<'a> {
    pub(super) first: &'a FirstConvolution,
    pub(super) size: (usize, usize),
    /// All planes.
    pub(super) image: &'a [f32],
    pub(super) row: usize,
    /// Memory of [`forward_scratch`]: of each plane the three rows around this one, minus the mean, with zeros around
    /// the image.
    pub(super) padded: &'a mut [Lanes],
    /// No other job writes to this row of it.
    pub(super) output: &'a Parts<'a, Lanes>,
    /// One bit for each number of the output.
    pub(super) positive: Option<&'a Parts<'a, u16>>,
    /// Where the row begins in the first block of the output.
    pub(super) start: usize,
    /// From a block of the output to the next.
    pub(super) step: usize,
}

impl Task for Forward<'_> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        self.pad();
        for panel in 0..self.first.outputs / LANES / V::COLUMNS {
            if V::COLUMNS == 2 { self.row::<V, 12, 2>(panel) } else { self.row::<V, 4, 1>(panel) }
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn pad(&mut self) {
        let (width, height) = self.size;
        for (n, target) in numbers(self.padded).chunks_exact_mut(row_pitch(width)).take(PLANES * 3).enumerate() {
            let (plane, y) = (n / 3, self.row + n % 3);
            target.fill(0.0);
            if (1..=height).contains(&y) {
                let source = &self.image[(plane * height + y - 1) * width..][..width];
                let mean = self.first.mean[plane];
                target[1..].iter_mut().zip(source).for_each(|(value, pixel)| *value = pixel - mean);
            }
        }
    }

    /// The row of `COLUMNS` blocks of the output, `ROWS` positions at a time.
    #[inline(always)]
    fn row<V: Vector, const ROWS: usize, const COLUMNS: usize>(&mut self, panel: usize) {
        let (width, _) = self.size;
        let padded = numbers(self.padded);
        let weights = &self.first.forward[panel * PLANES * TAPS * COLUMNS..][..PLANES * TAPS * COLUMNS];
        let zero = V::splat(0.0);
        let mut bias = [zero; COLUMNS];
        for (n, bias) in bias.iter_mut().enumerate() {
            let mut lanes = Lanes::ZERO;
            lanes.0.copy_from_slice(&self.first.bias[(panel * COLUMNS + n) * LANES..][..LANES]);
            *bias = V::load(&lanes);
        }
        for left in (0..width).step_by(ROWS) {
            let mut sums = [bias; ROWS];
            for (row, weights) in weights.chunks_exact(3 * COLUMNS).enumerate() {
                let pixels = &padded[row * row_pitch(width) + left..][..ROWS + 2];
                for (tap, weights) in weights.chunks_exact(COLUMNS).enumerate() {
                    let mut columns = [zero; COLUMNS];
                    for (column, weight) in columns.iter_mut().zip(weights) {
                        *column = V::load(weight);
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let pixel = V::splat(pixels[r + tap]);
                        for (sum, column) in sums.iter_mut().zip(&columns) {
                            *sum = pixel.mul_add(*column, *sum);
                        }
                    }
                }
            }
            let visible = ROWS.min(width - left);
            for n in 0..COLUMNS {
                let start = (panel * COLUMNS + n) * self.step + self.start + left;
                // SAFETY: no other job has this row.
                let mut outputs = unsafe { self.output.part(start..start + visible) };
                for (output, sums) in outputs.iter_mut().zip(&sums) {
                    sums[n].max(zero).store(output);
                }
                if let Some(positive) = self.positive {
                    // SAFETY: as for the outputs.
                    let mut bits = unsafe { positive.part(start..start + visible) };
                    for (bits, sums) in bits.iter_mut().zip(&sums) {
                        *bits = sums[n].above(zero);
                    }
                }
            }
        }
    }
}

/// Computes a band of the gradient for the image.
pub(super) struct Backward<'a> {
    pub(super) first: &'a FirstConvolution,
    pub(super) size: (usize, usize),
    pub(super) band: usize,
    /// The gradient for the output in the first block, from the first of the [`rows_around`] the band on.
    pub(super) gradient: &'a [Lanes],
    /// From a block of the gradient to the next.
    pub(super) step: usize,
    /// Memory of [`backward_scratch`]: the products of the gradient at each position of these rows with all taps.
    pub(super) products: &'a mut [Lanes],
    /// All planes. No other job writes to this band of it.
    pub(super) image: &'a Parts<'a, f32>,
}

impl Task for Backward<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (width, height) = self.size;
        let band = self.band * BAND..height.min((self.band + 1) * BAND);
        let around = rows_around(self.band, height);
        let (rows, blocks) = (around.len() * width, self.first.outputs / LANES);
        assert!(self.gradient.len() >= (blocks - 1) * self.step + rows);
        let products = &mut self.products[..TAP_BLOCKS * rows];
        let product = Product {
            a: self.gradient.as_ptr(),
            a_step: self.step,
            rows,
            depth: blocks,
            b: self.first.backward.as_ptr(),
            c: products.as_mut_ptr(),
            c_step: rows,
            columns: TAP_BLOCKS,
            add: false,
        };
        // SAFETY: the rows are inside each block of the gradient, by the assertion, and the products are as many.
        unsafe { V::multiply(&product) };

        for plane in 0..PLANES {
            for y in band.clone() {
                let start = (plane * height + y) * width;
                // SAFETY: no other job has this row.
                let mut image = unsafe { self.image.part(start..start + width) };
                image.fill(0.0);
                for tap in 0..TAPS {
                    // The output at y + 1 - dy was computed from this row with tap dy.
                    let (dy, dx) = (tap / 3, tap % 3);
                    if !around.contains(&(y + 1).wrapping_sub(dy)) {
                        continue;
                    }
                    let number = plane * TAPS + tap;
                    let row = number / LANES * rows + (y + 1 - dy - around.start) * width;
                    let (to, from) = (dx.saturating_sub(1), 1_usize.saturating_sub(dx));
                    let products = &products[row + from..row + width - to];
                    for (pixel, product) in image[to..].iter_mut().zip(products) {
                        *pixel += product.0[number % LANES];
                    }
                }
            }
        }
    }
}

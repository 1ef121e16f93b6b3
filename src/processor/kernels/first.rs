// SPDX-License-Identifier: MPL-2.0

//! The convolution of the image itself, whose three channels are too few for the ways of the others. It is computed in
//! float32 by all kinds: in bfloat16, a pixel would be off by up to half a level.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{Convolution, Shape};
use crate::processor::{Engine, Kind, LANES, Lanes, Parts, Precision, Task, Vector, matrix::Product, vector::numbers};

const PLANES: usize = 3;
const TAPS: usize = 9;
/// Blocks of the products of a gradient with all taps of all planes.
const TAP_BLOCKS: usize = (PLANES * TAPS).div_ceil(LANES);
/// Rows of the image for which a job computes the gradient.
const BAND: usize = 8;

/// The first convolution of VGG, ready for one kind of kernels.
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

    /// Convolves the planes of an image, with the bias added and what is negative made zero. One bit for each number
    /// tells if it is above zero.
    pub fn forward(
        &self,
        engine: &mut Engine,
        (width, height): (usize, usize),
        image: &[f32],
        positive: Option<Parts<u16>>,
        output: &mut [Lanes],
    ) {
        let shape = Shape { channels: self.outputs, height, width };
        assert_eq!(image.len(), PLANES * shape.positions());
        let kind = engine.kind();
        assert_eq!(output.len(), kind.lanes(shape));
        assert!(positive.is_none_or(|positive| positive.has_length(kind.masks(shape))));
        let output = Parts::new(output);
        let padded_len = (PLANES * 3 * row_pitch(width)).div_ceil(LANES);
        engine.for_each(height, padded_len + sums_len(kind, shape, 1), |row, scratch| {
            let (padded, _sums) = scratch.split_at_mut(padded_len);
            let (start, step, padded) = (row * width, shape.positions(), numbers(padded));
            let task = Forward { first: self, shape, image, positive, output, start, step, row, padded };
            match kind {
                #[cfg(target_arch = "x86_64")]
                Kind::Amx => {
                    let row_of_sums = Parts::new(&mut *_sums);
                    kind.run(Forward { positive: None, output: row_of_sums, start: 0, step: width, ..task });
                    // SAFETY: this kind is supported.
                    unsafe { amx::narrow_row(shape, row, _sums, positive, output) };
                }
                _ => kind.run(task),
            }
        });
    }

    /// The gradient for the planes of the image, from that for the output, which is zero where the output is.
    pub fn backward(&self, engine: &mut Engine, shape: Shape, gradient: &[Lanes], image: &mut [f32]) {
        let kind = engine.kind();
        assert_eq!(image.len(), PLANES * shape.positions());
        assert_eq!(gradient.len(), kind.lanes(shape));
        let image = Parts::new(image);
        let products_len = TAP_BLOCKS * (BAND + 2) * shape.width;
        let scratch = products_len + sums_len(kind, shape, BAND + 2);
        engine.for_each(shape.height.div_ceil(BAND), scratch, |band, scratch| {
            let (products, _sums) = scratch.split_at_mut(products_len);
            let around = (band * BAND).saturating_sub(1)..shape.height.min((band + 1) * BAND + 1);
            let (gradient, step) = match kind {
                #[cfg(target_arch = "x86_64")]
                Kind::Amx => {
                    // SAFETY: this kind is supported.
                    unsafe { amx::widen_rows(shape, around.clone(), gradient, _sums) };
                    (&*_sums, around.len() * shape.width)
                }
                _ => (&gradient[around.start * shape.width..], shape.positions()),
            };
            kind.run(Backward { shape, first: self, gradient, step, image, band, around, products });
        });
    }
}

/// [`Lanes`] for so many rows of feature maps in float32, if the feature maps themselves are something else.
fn sums_len(kind: Kind, shape: Shape, rows: usize) -> usize {
    if kind.precision() == Precision::F32 { 0 } else { rows * shape.blocks() * shape.width }
}

/// Numbers from one row of the padded image to the next: what the last tile reads beyond the end is there.
fn row_pitch(width: usize) -> usize {
    width + 32
}

struct Forward<'a> {
    first: &'a FirstConvolution,
    shape: Shape,
    image: &'a [f32],
    positive: Option<Parts<'a, u16>>,
    output: Parts<'a, Lanes>,
    /// Where the row begins in the first block of the output, and how far it is from a block to the next.
    start: usize,
    step: usize,
    row: usize,
    /// Of each plane the three rows around this one, minus the mean, with zeros around the image.
    padded: &'a mut [f32],
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
        let Shape { height, width, .. } = self.shape;
        for (n, target) in self.padded.chunks_exact_mut(row_pitch(width)).take(PLANES * 3).enumerate() {
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
    fn row<V: Vector, const ROWS: usize, const COLUMNS: usize>(&self, panel: usize) {
        let Shape { width, .. } = self.shape;
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
                let pixels = &self.padded[row * row_pitch(width) + left..][..ROWS + 2];
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
                let outputs = unsafe { self.output.part(start..start + visible) };
                for (output, sums) in outputs.iter_mut().zip(&sums) {
                    sums[n].max(zero).store(output);
                }
                if let Some(positive) = self.positive {
                    // SAFETY: as for the outputs.
                    let bits = unsafe { positive.part(start..start + visible) };
                    for (bits, sums) in bits.iter_mut().zip(&sums) {
                        *bits = sums[n].above(zero);
                    }
                }
            }
        }
    }
}

struct Backward<'a> {
    first: &'a FirstConvolution,
    shape: Shape,
    /// The rows `around` of the first block.
    gradient: &'a [Lanes],
    /// How far it is to the next.
    step: usize,
    image: Parts<'a, f32>,
    band: usize,
    /// The band, and a row on either side.
    around: Range<usize>,
    /// Those of the gradient at each position of these rows with all taps.
    products: &'a mut [Lanes],
}

impl Task for Backward<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Shape { height, width, .. } = self.shape;
        let band = self.band * BAND..height.min((self.band + 1) * BAND);
        let around = self.around;
        let rows = around.len() * width;
        let products = &mut self.products[..TAP_BLOCKS * rows];
        let product = Product {
            a: self.gradient.as_ptr(),
            a_step: self.step,
            rows,
            depth: self.shape.blocks(),
            b: self.first.backward.as_ptr(),
            c: products.as_mut_ptr(),
            c_step: rows,
            columns: TAP_BLOCKS,
            add: false,
        };
        // SAFETY: the rows are inside each block of the gradient, which has them all, and the products are just as many.
        unsafe { V::multiply(&product) };

        for plane in 0..PLANES {
            for y in band.clone() {
                let start = (plane * height + y) * width;
                // SAFETY: no other job has this row.
                let image = unsafe { self.image.part(start..start + width) };
                image.fill(0.0);
                for tap in 0..TAPS {
                    // The output at y + 1 - dy saw this row under tap dy.
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

// SPDX-License-Identifier: MPL-2.0

//! The gradient at feature maps that a loss looks at or that are pooled.

use std::ops::Range;

use super::{
    layout::Layout,
    lines::{narrow, widen},
    tiles::{FETCHED, Product, SIDE, STEP, Steps, Tiles},
};
use crate::processor::{
    Engine, Kind, Lanes, Parts, Vector,
    avx512::Avx512,
    kernels::{ContentTarget, Incoming, Shape, sum},
};

/// Columns for which a job computes the gradient of the Gram matrix at a time; even, so that no window is divided. With
/// two rows they make four groups of positions.
const STRETCH: usize = 2 * SIDE;
/// Positions of that.
const POSITIONS: usize = 2 * STRETCH;

pub fn gradient_at(
    engine: &mut Engine,
    shape: Shape,
    features: &mut [Lanes],
    style: Option<&[Lanes]>,
    content: Option<ContentTarget>,
    incoming: Incoming,
    squares: &mut Vec<f64>,
) -> f64 {
    let layout = Layout::new(shape);
    assert_eq!(features.len(), layout.lines());
    assert!(style.is_none_or(|style| style.len() == layout.blocks() * layout.blocks() * STEP));
    assert!(content.is_none_or(|content| content.features.len() == layout.lines()));
    match incoming {
        Incoming::Nothing => {}
        Incoming::Direct(gradient) => assert_eq!(gradient.len(), layout.lines()),
        Incoming::Pooled(_, gradient) => assert_eq!(gradient.len(), Layout::new(shape.pooled()).lines()),
    }
    assert_eq!(engine.kind(), Kind::Amx);
    let pairs = shape.height.div_ceil(2);
    squares.clear();
    squares.resize(pairs, 0.0);
    let features = &Parts::new(features);
    let parts = Parts::new(squares);
    let scratch = if style.is_some() { 3 * layout.blocks() * POSITIONS } else { 0 };
    engine.for_each(pairs, scratch, |pair, scratch| {
        let rows = 2 * pair..shape.height.min(2 * pair + 2);
        let job = Job { shape, layout, features, style, content, incoming, rows };
        // SAFETY: this kind of kernels is supported. No other job has this number.
        unsafe { parts.part(pair..pair + 1)[0] = job.run(scratch) };
    });
    squares.iter().sum()
}

struct Job<'a> {
    shape: Shape,
    layout: Layout,
    features: &'a Parts<'a, Lanes>,
    style: Option<&'a [Lanes]>,
    content: Option<ContentTarget<'a>>,
    incoming: Incoming<'a>,
    /// Two rows, or a last odd one.
    rows: Range<usize>,
}

impl Job<'_> {
    /// Returns the squared distance from the content.
    #[target_feature(enable = "avx512bf16")]
    fn run(&self, scratch: &mut [Lanes]) -> f64 {
        let mut squares = Avx512::splat(0.0);
        for left in (0..self.shape.width).step_by(STRETCH) {
            let columns = left..self.shape.width.min(left + STRETCH);
            let style = self.style.map(|style| self.style_gradient(style, columns.clone(), scratch));
            for block in 0..self.layout.blocks() {
                squares = self.finish(block, columns.clone(), style, squares);
            }
        }
        sum(squares)
    }

    /// The product of the slope of the Gram matrix with the feature maps at these columns of all rows of the job:
    /// `[block][row and column]`, two lines of sixteen numbers for each.
    #[target_feature(enable = "avx512bf16")]
    fn style_gradient<'s>(&self, style: &[Lanes], columns: Range<usize>, scratch: &'s mut [Lanes]) -> &'s [Lanes] {
        let (layout, width) = (self.layout, columns.len());
        let (features, products) = scratch.split_at_mut(layout.blocks() * POSITIONS);
        for (block, features) in features.chunks_exact_mut(POSITIONS).enumerate() {
            for (row, target) in self.rows.clone().zip(features.chunks_exact_mut(width)) {
                let start = layout.row(block, row).start + columns.start;
                // SAFETY: no other job has this row.
                target.copy_from_slice(&unsafe { self.features.part(start..start + width) });
            }
        }
        let tiles = Tiles::configure();
        let steps = Steps { rows: 1, pitch: 0, columns: layout.blocks(), stride: POSITIONS };
        let panels = style.chunks_exact(layout.blocks() * STEP);
        for (panel, (b, products)) in panels.zip(products.chunks_exact_mut(2 * POSITIONS)).enumerate() {
            let next = &style[(panel + 1) % layout.blocks() * layout.blocks() * STEP..];
            let groups = (0..self.rows.len() * width).step_by(SIDE);
            for (n, (position, sums)) in groups.zip(products.chunks_exact_mut(2 * SIDE)).enumerate() {
                let (a, next) = (&features[position..], &next[n * FETCHED..]);
                tiles.multiply(Product { a, steps, b, next, sums, sums_pitch: 2, fresh: true });
            }
        }
        products
    }

    /// Adds up the terms of one block, window by window, and adds to the squared distance from the content.
    #[target_feature(enable = "avx512bf16")]
    fn finish(&self, block: usize, columns: Range<usize>, style: Option<&[Lanes]>, mut squares: Avx512) -> Avx512 {
        let layout = self.layout;
        let zero = Avx512::splat(0.0);
        let style = style.map(|style| &style[block * 2 * POSITIONS..][..2 * POSITIONS]);
        let start = |row: usize| layout.row(block, row).start + columns.start;
        let starts = [start(self.rows.start), start(self.rows.end - 1)];
        let lengths = [columns.len(), if self.rows.len() == 2 { columns.len() } else { 0 }];
        // SAFETY: no other job has these rows.
        let [mut upper, mut lower] = unsafe { [0, 1].map(|n| self.features.part(starts[n]..starts[n] + lengths[n])) };
        let rows: [&mut [Lanes]; 2] = [&mut upper, &mut lower];
        for left in (0..columns.len()).step_by(2) {
            let within = |n: usize| left + n % 2 < lengths[n / 2];
            let at = |n: usize| starts[n / 2] + left + n % 2;
            let mut window = [[zero; 2]; 4];
            for n in (0..4).filter(|n| within(*n)) {
                window[n] = widen(&rows[n / 2][left + n % 2]);
            }
            let mut gradient = [[zero; 2]; 4];
            match self.incoming {
                Incoming::Nothing => {}
                Incoming::Direct(incoming) => {
                    for n in (0..4).filter(|n| within(*n)) {
                        gradient[n] = widen(&incoming[at(n)]);
                    }
                }
                Incoming::Pooled(pooling, incoming) if within(3) => {
                    let pooled = Layout::new(self.shape.pooled());
                    let row = &incoming[pooled.row(block, self.rows.start / 2)];
                    let incoming = widen(&row[(columns.start + left) / 2]);
                    for half in 0..2 {
                        let parts = pooling.backward(window.map(|values| values[half]), incoming[half]);
                        for (gradient, part) in gradient.iter_mut().zip(parts) {
                            gradient[half] = part;
                        }
                    }
                }
                // No window covers a last odd row or column.
                Incoming::Pooled(..) => {}
            }
            for n in (0..4).filter(|n| within(*n)) {
                let mut values = gradient[n];
                let target = self.content.map(|content| (widen(&content.features[at(n)]), content.slope));
                for (half, value) in values.iter_mut().enumerate() {
                    if let Some(style) = style {
                        let position = n / 2 * columns.len() + left + n % 2;
                        *value = value.add(Avx512::load(&style[2 * position + half]));
                    }
                    if let Some((target, slope)) = target {
                        let difference = window[n][half].sub(target[half]);
                        squares = difference.mul_add(difference, squares);
                        *value = difference.mul_add(Avx512::splat(slope), *value);
                    }
                    *value = value.keep(window[n][half].above(zero));
                }
                narrow(values, &mut rows[n / 2][left + n % 2]);
            }
        }
        squares
    }
}

pub fn squared_norm(engine: &mut Engine, shape: Shape, features: &[Lanes], squares: &mut Vec<f64>) -> f64 {
    let layout = Layout::new(shape);
    assert_eq!(features.len(), layout.lines());
    assert_eq!(engine.kind(), Kind::Amx);
    squares.clear();
    squares.resize(layout.blocks() * shape.height, 0.0);
    let parts = Parts::new(squares);
    engine.for_each(layout.blocks() * shape.height, 0, |number, _| {
        let row = &features[layout.row(number / shape.height, number % shape.height)];
        // SAFETY: this kind of kernels is supported. No other job has this number.
        unsafe { parts.part(number..number + 1)[0] = squares_of(row) };
    });
    squares.iter().sum()
}

#[target_feature(enable = "avx512bf16")]
fn squares_of(lines: &[Lanes]) -> f64 {
    let mut squares = Avx512::splat(0.0);
    for line in lines {
        for numbers in widen(line) {
            squares = numbers.mul_add(numbers, squares);
        }
    }
    sum(squares)
}

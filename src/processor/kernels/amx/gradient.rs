// SPDX-License-Identifier: MPL-2.0

//! The gradient at feature maps that have a loss or are pooled.

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

/// Columns for which a job multiplies feature maps with a matrix at a time; even, so that no window is divided. With
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
    let metric = content.and_then(|content| content.metric);
    assert!(metric.is_none_or(|metric| metric.len() == layout.blocks() * layout.blocks() * STEP));
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
    // What is multiplied, and two lines for each line of it with the product, in float32.
    let scratch = match (style, metric) {
        (_, Some(_)) => 5 * layout.blocks() * POSITIONS,
        (Some(_), None) => 3 * layout.blocks() * POSITIONS,
        (None, None) => 0,
    };
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

impl<'a> Job<'a> {
    /// The metric of the content loss.
    fn metric(&self) -> Option<&'a [Lanes]> {
        self.content?.metric
    }

    /// Returns the squared distance from the content.
    #[target_feature(enable = "avx512bf16")]
    fn run(&self, scratch: &mut [Lanes]) -> f64 {
        let mut squares = Avx512::splat(0.0);
        for left in (0..self.shape.width).step_by(STRETCH) {
            let columns = left..self.shape.width.min(left + STRETCH);
            let (features, products) = scratch.split_at_mut(scratch.len().min(self.layout.blocks() * POSITIONS));
            let (style, metric) = products.split_at_mut(products.len().min(2 * self.layout.blocks() * POSITIONS));
            if let Some(matrix) = self.style {
                self.copy(columns.clone(), features);
                self.multiply(matrix, columns.len(), features, style);
            }
            if let (Some(content), Some(matrix)) = (self.content, self.metric()) {
                self.subtract(content.features, columns.clone(), features);
                self.multiply(matrix, columns.len(), features, metric);
            }
            for block in 0..self.layout.blocks() {
                let (style, metric) = (self.style.map(|_| &style[..]), self.metric().map(|_| &metric[..]));
                squares = self.finish(block, columns.clone(), style, metric, squares);
            }
        }
        sum(squares)
    }

    /// Copies the feature maps at these columns of all rows of the job: `[block][row and column]`.
    fn copy(&self, columns: Range<usize>, copies: &mut [Lanes]) {
        for (block, copies) in copies.chunks_exact_mut(POSITIONS).enumerate() {
            for (row, copies) in self.rows.clone().zip(copies.chunks_exact_mut(columns.len())) {
                let start = self.layout.row(block, row).start + columns.start;
                // SAFETY: no other job has this row.
                copies.copy_from_slice(&unsafe { self.features.part(start..start + columns.len()) });
            }
        }
    }

    /// As [`copy`](Self::copy), but the difference of the feature maps from the content.
    #[target_feature(enable = "avx512bf16")]
    fn subtract(&self, content: &[Lanes], columns: Range<usize>, differences: &mut [Lanes]) {
        for (block, differences) in differences.chunks_exact_mut(POSITIONS).enumerate() {
            for (row, differences) in self.rows.clone().zip(differences.chunks_exact_mut(columns.len())) {
                let start = self.layout.row(block, row).start + columns.start;
                let places = start..start + columns.len();
                // SAFETY: no other job has this row.
                let features = unsafe { self.features.part(places.clone()) };
                for ((difference, value), content) in differences.iter_mut().zip(features.iter()).zip(&content[places])
                {
                    let (value, content) = (widen(value), widen(content));
                    narrow([value[0].sub(content[0]), value[1].sub(content[1])], difference);
                }
            }
        }
    }

    /// The product of a matrix with feature maps, of which this many columns of all rows of the job were copied:
    /// `[block][row and column]`, two lines of sixteen numbers for each.
    #[target_feature(enable = "avx512bf16")]
    fn multiply(&self, matrix: &[Lanes], columns: usize, copies: &[Lanes], products: &mut [Lanes]) {
        let blocks = self.layout.blocks();
        let tiles = Tiles::configure();
        let steps = Steps { rows: 1, pitch: 0, columns: blocks, stride: POSITIONS };
        let panels = matrix.chunks_exact(blocks * STEP);
        for (panel, (b, products)) in panels.zip(products.chunks_exact_mut(2 * POSITIONS)).enumerate() {
            let next = &matrix[(panel + 1) % blocks * blocks * STEP..];
            let groups = (0..self.rows.len() * columns).step_by(SIDE);
            for (n, (position, sums)) in groups.zip(products.chunks_exact_mut(2 * SIDE)).enumerate() {
                let (a, next) = (&copies[position..], &next[n * FETCHED..]);
                tiles.multiply(Product { a, steps, b, next, sums, sums_pitch: 2, fresh: true });
            }
        }
    }

    /// Adds up the terms of one block, window by window, and adds to the squared distance from the content. `style` and
    /// `metric` are the products with these matrices.
    #[target_feature(enable = "avx512bf16")]
    fn finish(
        &self,
        block: usize,
        columns: Range<usize>,
        style: Option<&[Lanes]>,
        metric: Option<&[Lanes]>,
        mut squares: Avx512,
    ) -> Avx512 {
        let layout = self.layout;
        let zero = Avx512::splat(0.0);
        let [style, metric] = [style, metric].map(|products| products.map(|it| &it[block * 2 * POSITIONS..]));
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
                let position = n / 2 * columns.len() + left + n % 2;
                for (half, value) in values.iter_mut().enumerate() {
                    if let Some(style) = style {
                        *value = value.add(Avx512::load(&style[2 * position + half]));
                    }
                    if let Some((target, slope)) = target {
                        let difference = window[n][half].sub(target[half]);
                        let in_metric = metric.map_or(difference, |it| Avx512::load(&it[2 * position + half]));
                        squares = difference.mul_add(in_metric, squares);
                        *value = in_metric.mul_add(Avx512::splat(slope), *value);
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

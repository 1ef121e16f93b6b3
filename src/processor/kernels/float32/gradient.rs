// SPDX-License-Identifier: MPL-2.0

//! The gradient at feature maps that have a loss or are pooled: that of the losses plus what comes back from deeper
//! layers, masked by the ReLU.

use std::ops::Range;

use crate::processor::{
    Engine, Lanes, Parts, Task, Vector,
    kernels::{ContentTarget, Incoming, Shape, sum},
    matrix::Product,
};

/// Columns for which a job multiplies feature maps with a matrix at a time; even, so that no window is divided.
const STRETCH: usize = 36;

pub(super) fn gradient_at(
    engine: &mut Engine,
    shape: Shape,
    features: &mut [Lanes],
    style: Option<&[Lanes]>,
    content: Option<ContentTarget>,
    incoming: Incoming,
    squares: &mut Vec<f64>,
) -> f64 {
    assert_eq!(features.len(), shape.lanes());
    assert!(style.is_none_or(|style| style.len() == shape.channels * shape.blocks()));
    assert!(content.is_none_or(|content| content.features.len() == shape.lanes()));
    let metric = content.and_then(|content| content.metric);
    assert!(metric.is_none_or(|metric| metric.len() == shape.channels * shape.blocks()));
    match incoming {
        Incoming::Nothing => {}
        Incoming::Direct(gradient) => assert_eq!(gradient.len(), shape.lanes()),
        Incoming::Pooled(_, gradient) => assert_eq!(gradient.len(), shape.pooled().lanes()),
    }
    let kind = engine.kind();
    let pairs = shape.height.div_ceil(2);
    squares.clear();
    squares.resize(pairs, 0.0);
    let features = &Parts::new(features);
    let parts = Parts::new(squares);
    // Products of two rows, and in a metric those of their difference from the content, and of one row the difference.
    let scratch = if metric.is_some() { 5 } else { 2 } * shape.blocks() * STRETCH;
    engine.for_each(pairs, scratch, |pair, scratch| {
        // SAFETY: no other job has this number.
        let mut squares = unsafe { parts.part(pair..pair + 1) };
        let rows = 2 * pair..shape.height.min(2 * pair + 2);
        kind.run(Job { shape, features, style, content, incoming, rows, scratch, squares: &mut squares[0] });
    });
    squares.iter().sum()
}

struct Job<'a> {
    shape: Shape,
    features: &'a Parts<'a, Lanes>,
    style: Option<&'a [Lanes]>,
    content: Option<ContentTarget<'a>>,
    incoming: Incoming<'a>,
    /// Two rows, or a last odd one.
    rows: Range<usize>,
    scratch: &'a mut [Lanes],
    squares: &'a mut f64,
}

impl Task for Job<'_> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        for left in (0..self.shape.width).step_by(STRETCH) {
            let columns = left..self.shape.width.min(left + STRETCH);
            if let Some(style) = self.style {
                for row in self.rows.clone() {
                    self.style_gradient::<V>(style, row, columns.clone());
                }
            }
            if let Some(content) = self.content
                && let Some(metric) = content.metric
            {
                for row in self.rows.clone() {
                    self.content_gradient::<V>(content.features, metric, row, columns.clone());
                }
            }
            for block in 0..self.shape.blocks() {
                self.finish::<V>(block, columns.clone());
            }
        }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn style_gradient<V: Vector>(&mut self, style: &[Lanes], row: usize, columns: Range<usize>) {
        let blocks = self.shape.blocks();
        let product = Product {
            a: self.features.as_ptr().wrapping_add(row * self.shape.width + columns.start),
            a_step: self.shape.positions(),
            rows: columns.len(),
            depth: blocks,
            b: style.as_ptr(),
            c: self.scratch[(row - self.rows.start) * blocks * STRETCH..][..blocks * STRETCH].as_mut_ptr(),
            c_step: STRETCH,
            columns: blocks,
            add: false,
        };
        // SAFETY: the columns of this row are inside each block of the feature maps, and no other job writes to them.
        unsafe { V::multiply(&product) };
    }

    /// The product of a metric with the difference from the content.
    #[inline(always)]
    fn content_gradient<V: Vector>(&mut self, content: &[Lanes], metric: &[Lanes], row: usize, columns: Range<usize>) {
        let blocks = self.shape.blocks();
        let (products, difference) = self.scratch[2 * blocks * STRETCH..].split_at_mut(2 * blocks * STRETCH);
        for (block, difference) in difference.chunks_exact_mut(STRETCH).enumerate() {
            let start = block * self.shape.positions() + row * self.shape.width + columns.start;
            let places = start..start + columns.len();
            // SAFETY: no other job has this row.
            let features = unsafe { self.features.part(places.clone()) };
            for ((difference, value), content) in difference.iter_mut().zip(features.iter()).zip(&content[places]) {
                V::load(value).sub(V::load(content)).store(difference);
            }
        }
        let product = Product {
            a: difference.as_ptr(),
            a_step: STRETCH,
            rows: columns.len(),
            depth: blocks,
            b: metric.as_ptr(),
            c: products[(row - self.rows.start) * blocks * STRETCH..][..blocks * STRETCH].as_mut_ptr(),
            c_step: STRETCH,
            columns: blocks,
            add: false,
        };
        // SAFETY: both parts of the scratch have a stretch for each block, and the metric a row for each channel.
        unsafe { V::multiply(&product) };
    }

    /// Adds up the terms of one block, window by window.
    #[inline(always)]
    fn finish<V: Vector>(&mut self, block: usize, columns: Range<usize>) {
        let zero = V::splat(0.0);
        let mut squares = zero;
        let start = |row: usize| block * self.shape.positions() + row * self.shape.width + columns.start;
        let starts = [start(self.rows.start), start(self.rows.end - 1)];
        let lengths = [columns.len(), if self.rows.len() == 2 { columns.len() } else { 0 }];
        // SAFETY: no other job has these rows.
        let [mut upper, mut lower] = unsafe { [0, 1].map(|n| self.features.part(starts[n]..starts[n] + lengths[n])) };
        let rows: [&mut [Lanes]; 2] = [&mut upper, &mut lower];
        for left in (0..columns.len()).step_by(2) {
            let within = |n: usize| left + n % 2 < lengths[n / 2];
            let at = |n: usize| starts[n / 2] + left + n % 2;
            let mut window = [zero; 4];
            for (n, value) in window.iter_mut().enumerate().filter(|(n, _)| within(*n)) {
                *value = V::load(&rows[n / 2][left + n % 2]);
            }
            let mut gradient = [zero; 4];
            match self.incoming {
                Incoming::Nothing => {}
                Incoming::Direct(incoming) => {
                    for (n, gradient) in gradient.iter_mut().enumerate().filter(|(n, _)| within(*n)) {
                        *gradient = V::load(&incoming[at(n)]);
                    }
                }
                Incoming::Pooled(pooling, incoming) if within(3) => {
                    let pooled = self.shape.pooled();
                    let row = block * pooled.positions() + self.rows.start / 2 * pooled.width;
                    gradient = pooling.backward(window, V::load(&incoming[row + (columns.start + left) / 2]));
                }
                // No window covers a last odd row or column.
                Incoming::Pooled(..) => {}
            }
            let product = |n: usize| (n / 2 * self.shape.blocks() + block) * STRETCH + left + n % 2;
            for n in (0..4).filter(|n| within(*n)) {
                let mut value = gradient[n];
                if self.style.is_some() {
                    value = value.add(V::load(&self.scratch[product(n)]));
                }
                if let Some(content) = self.content {
                    let difference = window[n].sub(V::load(&content.features[at(n)]));
                    let in_metric = match content.metric {
                        Some(_) => V::load(&self.scratch[2 * self.shape.blocks() * STRETCH + product(n)]),
                        None => difference,
                    };
                    squares = difference.mul_add(in_metric, squares);
                    value = in_metric.mul_add(V::splat(content.slope), value);
                }
                value.keep(window[n].above(zero)).store(&mut rows[n / 2][left + n % 2]);
            }
        }
        *self.squares += sum(squares);
    }
}

pub(super) fn squared_norm(engine: &mut Engine, shape: Shape, features: &[Lanes], squares: &mut Vec<f64>) -> f64 {
    assert_eq!(features.len(), shape.lanes());
    let kind = engine.kind();
    let rows = shape.blocks() * shape.height;
    squares.clear();
    squares.resize(rows, 0.0);
    let parts = Parts::new(squares);
    engine.for_each(rows, 0, |row, _| {
        // SAFETY: no other job has this number.
        let mut squares = unsafe { parts.part(row..row + 1) };
        kind.run(Squares { row: &features[row * shape.width..][..shape.width], squares: &mut squares[0] });
    });
    squares.iter().sum()
}

struct Squares<'a> {
    row: &'a [Lanes],
    squares: &'a mut f64,
}

impl Task for Squares<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let mut squares = V::splat(0.0);
        for lanes in self.row {
            let value = V::load(lanes);
            squares = value.mul_add(value, squares);
        }
        *self.squares = sum(squares);
    }
}

// SPDX-License-Identifier: MPL-2.0

//! The gradient at feature maps that are looked at or pooled: what the losses there want, and what comes back from
//! deeper layers, behind the ReLU.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{Pooling, Shape, gram::sum};
#[cfg(target_arch = "x86_64")]
use crate::processor::Kind;
use crate::processor::{Engine, Lanes, Parts, Task, Vector, matrix::Product};

/// Columns for which a job computes the gradient of the Gram matrix at a time; even, so that no window is torn.
const STRETCH: usize = 36;

/// Feature maps that the image shall have.
#[derive(Clone, Copy)]
pub struct ContentTarget<'a> {
    /// Of the same shape.
    pub features: &'a [Lanes],
    /// By which the difference from them is multiplied to give the gradient.
    pub slope: f32,
}

/// The gradient that comes back from deeper layers.
#[derive(Clone, Copy)]
pub enum Incoming<'a> {
    /// There are none.
    Nothing,
    /// It has the same shape.
    Direct(&'a [Lanes]),
    /// It is for what a pooling made of the feature maps.
    Pooled(Pooling, &'a [Lanes]),
}

/// How many squares [`gradient_at`] needs memory for.
pub fn jobs_at(shape: Shape) -> usize {
    shape.height.div_ceil(2)
}

/// Replaces feature maps by the gradient for them: where they are zero, zero, and elsewhere the sum of all terms.
///
/// `style` is the slope of the Gram matrix, packed; see [`GramMatrix::difference`](super::GramMatrix::difference).
/// Returns the squared distance from the content. `squares` is memory for its summands.
pub fn gradient_at(
    engine: &mut Engine,
    shape: Shape,
    features: &mut [Lanes],
    style: Option<&[Lanes]>,
    content: Option<ContentTarget>,
    incoming: Incoming,
    squares: &mut Vec<f64>,
) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if engine.kind() == Kind::Amx {
        return amx::gradient_at(engine, shape, features, style, content, incoming, squares);
    }
    assert_eq!(features.len(), shape.lanes());
    assert!(style.is_none_or(|style| style.len() == shape.channels * shape.blocks()));
    assert!(content.is_none_or(|content| content.features.len() == shape.lanes()));
    match incoming {
        Incoming::Nothing => {}
        Incoming::Direct(gradient) => assert_eq!(gradient.len(), shape.lanes()),
        Incoming::Pooled(_, gradient) => assert_eq!(gradient.len(), shape.pooled().lanes()),
    }
    let kind = engine.kind();
    let pairs = jobs_at(shape);
    squares.clear();
    squares.resize(pairs, 0.0);
    let features = Parts::new(features);
    let parts = Parts::new(squares);
    engine.for_each(pairs, 2 * shape.blocks() * STRETCH, |pair, scratch| {
        // SAFETY: no other job has this number.
        let squares = unsafe { &mut parts.part(pair..pair + 1)[0] };
        let rows = 2 * pair..shape.height.min(2 * pair + 2);
        kind.run(Job { shape, features, style, content, incoming, rows, scratch, squares });
    });
    squares.iter().sum()
}

struct Job<'a> {
    shape: Shape,
    features: Parts<'a, Lanes>,
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

    /// Puts the terms of one block together, window by window.
    #[inline(always)]
    fn finish<V: Vector>(&mut self, block: usize, columns: Range<usize>) {
        let Shape { width, .. } = self.shape;
        let zero = V::splat(0.0);
        let mut squares = zero;
        for left in columns.clone().step_by(2) {
            let within = |n: usize| self.rows.start + n / 2 < self.rows.end && left + n % 2 < width;
            let at = |n: usize| block * self.shape.positions() + (self.rows.start + n / 2) * width + left + n % 2;
            let mut window = [zero; 4];
            for (n, value) in window.iter_mut().enumerate().filter(|(n, _)| within(*n)) {
                // SAFETY: no other job has these rows.
                *value = V::load(unsafe { &self.features.part(at(n)..at(n) + 1)[0] });
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
                    let at = block * pooled.positions() + self.rows.start / 2 * pooled.width + left / 2;
                    gradient = unpool(pooling, window, V::load(&incoming[at]));
                }
                // No window covers a last odd row or column.
                Incoming::Pooled(..) => {}
            }
            for n in (0..4).filter(|n| within(*n)) {
                let mut value = gradient[n];
                if self.style.is_some() {
                    let row = n / 2 * self.shape.blocks() + block;
                    value = value.add(V::load(&self.scratch[row * STRETCH + left - columns.start + n % 2]));
                }
                if let Some(content) = self.content {
                    let difference = window[n].sub(V::load(&content.features[at(n)]));
                    squares = difference.mul_add(difference, squares);
                    value = difference.mul_add(V::splat(content.slope), value);
                }
                // SAFETY: no other job has these rows.
                let place = unsafe { &mut self.features.part(at(n)..at(n) + 1)[0] };
                value.keep(window[n].above(zero)).store(place);
            }
        }
        *self.squares += sum(squares);
    }
}

/// Hands the gradient of a pooled value to the four it was made from: of a maximum, to the first in reading order
/// that has it.
#[inline(always)]
pub fn unpool<V: Vector>(pooling: Pooling, window: [V; 4], gradient: V) -> [V; 4] {
    match pooling {
        Pooling::Average => [gradient.mul(V::splat(0.25)); 4],
        Pooling::Max => {
            let maximum = window[0].max(window[1]).max(window[2].max(window[3]));
            let mut parts = [gradient; 4];
            let mut unclaimed = u16::MAX;
            for (part, value) in parts.iter_mut().zip(window) {
                let claimed = value.equals(maximum) & unclaimed;
                unclaimed &= !claimed;
                *part = gradient.keep(claimed);
            }
            parts
        }
    }
}

/// The sum of the squares of feature maps. `squares` is memory for its summands.
pub fn squared_norm(engine: &mut Engine, shape: Shape, features: &[Lanes], squares: &mut Vec<f64>) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if engine.kind() == Kind::Amx {
        return amx::squared_norm(engine, shape, features, squares);
    }
    assert_eq!(features.len(), shape.lanes());
    let kind = engine.kind();
    let rows = shape.blocks() * shape.height;
    squares.clear();
    squares.resize(rows, 0.0);
    let parts = Parts::new(squares);
    engine.for_each(rows, 0, |row, _| {
        // SAFETY: no other job has this number.
        let squares = unsafe { &mut parts.part(row..row + 1)[0] };
        kind.run(Squares { row: &features[row * shape.width..][..shape.width], squares });
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

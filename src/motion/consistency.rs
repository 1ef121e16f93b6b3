// SPDX-License-Identifier: MPL-2.0

//! Which pixels' flow to trust: where the flow back and the flow forth agree.

use super::{Flow, pyramid::halves};
use crate::{
    Processor,
    kernels::{Task, Vector},
};

/// Two flows agree where the square of their sum is below this share of the sum of their squares, plus this many
/// squared pixels (Sundaram, Brox and Keutzer 2010).
const SHARE: f32 = 0.01;
const TOLERANCE: f32 = 0.5;

/// What [`check`] computes with, to be used again.
#[derive(Default)]
pub struct Memory {
    agrees: Vec<f32>,
    eroded: Vec<f32>,
}

/// Fills `trust`, a value for each pixel of `flow`, from it and the flow of the other direction, which may be of half
/// the size: 0 where they disagree or the flow leaves the frame and on the pixels next to these, then growing to 1 over
/// two more pixels.
pub fn check(processor: &Processor, flow: &Flow, other: &Flow, memory: &mut Memory, trust: &mut Vec<f32>) {
    let width = flow.width;
    let Memory { agrees, eroded } = memory;
    for plane in [&mut *agrees, &mut *eroded, &mut *trust] {
        plane.resize(width * flow.height, 0.0);
    }
    let rows = flow.height.div_ceil(processor.threads());
    let bands = agrees.chunks_mut(rows * width).enumerate();
    processor.run_tasks(bands.map(|(n, agrees)| Agree { flow, other, first_row: n * rows, agrees }));
    let bands = eroded.chunks_mut(rows * width).enumerate();
    processor.run_tasks(bands.map(|(n, to)| Erode(Window { from: agrees, width, first_row: n * rows, to })));
    let bands = trust.chunks_mut(rows * width).enumerate();
    processor.run_tasks(bands.map(|(n, to)| Blur(Window { from: eroded, width, first_row: n * rows, to })));
}

/// 1 where the flows agree, else 0.
struct Agree<'a> {
    flow: &'a Flow,
    other: &'a Flow,
    first_row: usize,
    agrees: &'a mut [f32],
}

impl Task for Agree<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { flow, other, first_row, agrees } = self;
        let (width, height) = (flow.width, flow.height);
        let (right, bottom) = ((width - 1) as f32, (height - 1) as f32);
        let half = (other.width, other.height) != (width, height);
        debug_assert!(!half || (other.width, other.height) == halves((width, height)));
        for (n, agrees) in agrees.iter_mut().enumerate() {
            let at = first_row * width + n;
            let (there_x, there_y) = (flow.x[at], flow.y[at]);
            let (x, y) = ((at % width) as f32 + there_x, (at / width) as f32 + there_y);
            let (x_in, y_in) = (x.clamp(0.0, right), y.clamp(0.0, bottom));
            let (back_x, back_y) = if half {
                let (back_x, back_y) = other.at(0.5 * x_in - 0.25, 0.5 * y_in - 0.25);
                (2.0 * back_x, 2.0 * back_y)
            } else {
                other.at(x_in, y_in)
            };
            let (gap_x, gap_y) = (there_x + back_x, there_y + back_y);
            let squares = there_x * there_x + there_y * there_y + back_x * back_x + back_y * back_y;
            let agree = gap_x * gap_x + gap_y * gap_y < SHARE * squares + TOLERANCE;
            *agrees = if agree && x == x_in && y == y_in { 1.0 } else { 0.0 };
        }
    }
}

/// Rows made from the 3x3 pixels around each. Beyond the edges the outermost pixels go on.
struct Window<'a> {
    from: &'a [f32],
    width: usize,
    first_row: usize,
    to: &'a mut [f32],
}

impl Window<'_> {
    #[inline(always)]
    fn run(self, of_three: impl Fn(f32, f32, f32) -> f32) {
        let Self { from, width, first_row, to } = self;
        let last_row = from.len() / width - 1;
        for (n, to) in to.chunks_exact_mut(width).enumerate() {
            let y = first_row + n;
            let [above, here, below] =
                [y.saturating_sub(1), y, (y + 1).min(last_row)].map(|y| &from[y * width..][..width]);
            let column = |x: usize| of_three(above[x], here[x], below[x]);
            for (x, to) in to.iter_mut().enumerate() {
                *to = of_three(column(x.saturating_sub(1)), column(x), column((x + 1).min(width - 1)));
            }
        }
    }
}

struct Erode<'a>(Window<'a>);

impl Task for Erode<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        self.0.run(|a, b, c| a.min(b).min(c));
    }
}

struct Blur<'a>(Window<'a>);

impl Task for Blur<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        self.0.run(|a, b, c| (a + b + c) * (1.0 / 3.0));
    }
}

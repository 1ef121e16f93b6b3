// SPDX-License-Identifier: MPL-2.0

//! The forward-backward check: the flow is trusted where those of both directions agree.

use std::ops::Range;

use super::{
    Flow,
    places::{Places, between_levels},
};
use crate::processor::{Processor, Task, Vector};

/// Two flows agree where the square of their sum is below this share of the sum of their squares, plus this many
/// squared pixels (Sundaram, Brox and Keutzer 2010).
const SHARE: f32 = 0.01;
const TOLERANCE: f32 = 0.5;

/// Fills `trust`, a value for each pixel of `flow`, from `flow` and the flow of the other direction, which may be so many
/// levels coarser. It is 0 where they disagree, where the flow leaves the frame, and on the pixels next to these. Over
/// two more pixels it rises to 1.
pub fn check(processor: &Processor, flow: &Flow, (other, levels): (&Flow, usize), trust: &mut Vec<f32>) {
    let (width, height) = (flow.width, flow.height);
    trust.resize(width * height, 0.0);
    let rows = height.div_ceil(processor.threads());
    let bands = trust.chunks_mut(rows * width).enumerate();
    processor.run_tasks(bands.map(|(n, trust)| Check {
        flow,
        other,
        levels,
        rows: n * rows..height.min((n + 1) * rows),
        trust,
    }));
}

/// Some rows of the trust.
struct Check<'a> {
    flow: &'a Flow,
    other: &'a Flow,
    levels: usize,
    rows: Range<usize>,
    trust: &'a mut [f32],
}

impl Task for Check<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (width, height) = (self.flow.width, self.flow.height);
        let around = |rows: &Range<usize>| rows.start.saturating_sub(1)..height.min(rows.end + 1);
        let eroded_rows = around(&self.rows);
        let agree_rows = around(&eroded_rows);
        let mut agrees = vec![0.0; width * agree_rows.len()];
        let mut eroded = vec![0.0; width * eroded_rows.len()];
        self.agree(&mut agrees, agree_rows.clone());
        combine(width, (&agrees, agree_rows), (&mut eroded, eroded_rows.clone()), |a, b, c| a.min(b).min(c));
        combine(width, (&eroded, eroded_rows), (self.trust, self.rows), |a, b, c| (a + b + c) * (1.0 / 3.0));
    }
}

impl Check<'_> {
    /// 1 where the flows agree, else 0.
    #[inline(always)]
    fn agree(&self, agrees: &mut [f32], rows: Range<usize>) {
        let Self { flow, other, levels, .. } = *self;
        let (width, height) = (flow.width, flow.height);
        let (right, bottom) = ((width - 1) as f32, (height - 1) as f32);
        let to_other = between_levels(levels);
        let scale = (1 << levels) as f32;
        let mut places = Places::default();
        let (mut back_x, mut back_y) = (vec![0.0; width], vec![0.0; width]);
        for (row, agrees) in rows.zip(agrees.chunks_exact_mut(width)) {
            let (there_x, there_y) = (&flow.x[row * width..][..width], &flow.y[row * width..][..width]);
            let there = there_x.iter().zip(there_y);
            let to = there.clone().enumerate().map(|(x, (by_x, by_y))| (x as i32 as f32 + by_x, row as f32 + by_y));
            let to_coarse = to.clone().map(|(x, y)| (to_other(x), to_other(y)));
            places.set((other.width, other.height), other.width, to_coarse);
            places.look_up(&other.x, &mut back_x);
            places.look_up(&other.y, &mut back_y);
            let back = back_x.iter().zip(&back_y);
            for ((agrees, (x, y)), ((there_x, there_y), (back_x, back_y))) in
                agrees.iter_mut().zip(to).zip(there.zip(back))
            {
                let (back_x, back_y) = (scale * back_x, scale * back_y);
                let (gap_x, gap_y) = (there_x + back_x, there_y + back_y);
                let squares = there_x * there_x + there_y * there_y + back_x * back_x + back_y * back_y;
                let agree = gap_x * gap_x + gap_y * gap_y < SHARE * squares + TOLERANCE;
                let inside = (x >= 0.0) & (x <= right) & (y >= 0.0) & (y <= bottom);
                *agrees = if agree & inside { 1.0 } else { 0.0 };
            }
        }
    }
}

/// Fills rows from the 3x3 pixels around each pixel. Beyond the edges the outermost pixels are repeated.
#[inline(always)]
fn combine(
    width: usize,
    (from, from_rows): (&[f32], Range<usize>),
    (to, rows): (&mut [f32], Range<usize>),
    of_three: impl Fn(f32, f32, f32) -> f32,
) {
    let mut columns = vec![0.0; width + 2];
    for (y, to) in rows.zip(to.chunks_exact_mut(width)) {
        let row = |y: usize| &from[(y.clamp(from_rows.start, from_rows.end - 1) - from_rows.start) * width..][..width];
        let (above, here, below) = (row(y.saturating_sub(1)), row(y), row(y + 1));
        let inner = &mut columns[1..][..width];
        for (((column, above), here), below) in inner.iter_mut().zip(above).zip(here).zip(below) {
            *column = of_three(*above, *here, *below);
        }
        columns[0] = columns[1];
        columns[width + 1] = columns[width];
        let (left, right) = (&columns[..width], &columns[2..][..width]);
        for (((to, left), here), right) in to.iter_mut().zip(left).zip(&columns[1..]).zip(right) {
            *to = of_three(*left, *here, *right);
        }
    }
}

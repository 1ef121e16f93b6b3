// SPDX-License-Identifier: MPL-2.0

//! The motion over several frames, from that between each and the next.

use super::{Flow, Motion};
use crate::processor::{Processor, Task, Vector};

impl Motion {
    /// The motion from the frame where this one began to the frame where `next` ends. This one ends where `next` begins.
    ///
    /// Between pixels it is interpolated linearly: a cubic spline overshoots where things move past each other.
    ///
    /// # Panics
    ///
    /// If the frames differ in size.
    pub(crate) fn then(&self, next: &Self, processor: &Processor) -> Self {
        let (width, height) = (next.flow.width, next.flow.height);
        assert_eq!((self.flow.width, self.flow.height), (width, height), "frames differ in size");
        let mut motion = next.clone();
        motion.novelty = self.novelty.max(next.novelty);
        let Motion { flow: Flow { x, y, .. }, trust, change, .. } = &mut motion;
        let band = height.div_ceil(processor.threads()) * width;
        let bands = x.chunks_mut(band).zip(y.chunks_mut(band)).zip(trust.chunks_mut(band)).zip(change.chunks_mut(band));
        processor.run_tasks(bands.enumerate().map(|(n, (((x, y), trust), change))| Chain {
            first: self,
            start: n * band,
            x,
            y,
            trust,
            change,
        }));
        motion
    }
}

/// Puts the first motion before some rows of the second.
struct Chain<'a> {
    first: &'a Motion,
    /// The index of the first pixel of these rows.
    start: usize,
    x: &'a mut [f32],
    y: &'a mut [f32],
    trust: &'a mut [f32],
    change: &'a mut [f32],
}

impl Task for Chain<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { first: Motion { flow, trust: first_trust, change: first_change, .. }, start, x, y, trust, change } =
            self;
        let (width, height) = (flow.width, flow.height);
        let (right, bottom) = ((width - 1) as f32, (height - 1) as f32);
        for n in 0..x.len() {
            let (i, j) = ((start + n) % width, (start + n) / width);
            let (at_x, at_y) = ((i as f32 + x[n]).clamp(0.0, right), (j as f32 + y[n]).clamp(0.0, bottom));
            let (left, top) = (at_x as usize, at_y as usize);
            let (along, down) = (at_x - left as f32, at_y - top as f32);
            let corner = top * width + left;
            let to_right = usize::from(left + 1 < width);
            let below = if top + 1 < height { width } else { 0 };
            let between = |values: &[f32]| {
                let row = |at: usize| values[at] + along * (values[at + to_right] - values[at]);
                row(corner) + down * (row(corner + below) - row(corner))
            };
            x[n] += between(&flow.x);
            y[n] += between(&flow.y);
            trust[n] *= between(first_trust);
            // The noise of each frame does not add up.
            change[n] = change[n].max(between(first_change));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A motion of the same displacement everywhere.
    fn motion((x, y): (f32, f32), trust: f32, change: f32) -> Motion {
        let (width, height) = (9, 7);
        let all = |value| vec![value; width * height];
        let flow = Flow { width, height, x: all(x), y: all(y) };
        Motion { flow, trust: all(trust), change: all(change), novelty: trust }
    }

    #[test]
    fn displacements_add_up_and_doubts_multiply() {
        let processor = Processor::detect(2).unwrap();
        let whole = motion((1.5, -1.0), 0.5, 3.0).then(&motion((0.25, 2.0), 0.25, 1.0), &processor);
        assert_eq!(whole, Motion { novelty: 0.5, ..motion((1.75, 1.0), 0.125, 3.0) });
    }

    #[test]
    fn the_first_motion_is_that_of_the_place_where_the_pixel_was() {
        let mut first = motion((0.0, 0.0), 1.0, 0.0);
        // Only the third column moves.
        (0..7).for_each(|row| first.flow.x[row * 9 + 2] = 4.0);
        for threads in [1, 3] {
            let whole = first.then(&motion((-1.5, 0.0), 1.0, 0.0), &Processor::detect(threads).unwrap());
            // From its left neighbour at 2.5, half of the way.
            assert_eq!(whole.flow.x[..6], [-1.5, -1.5, -1.5, 0.5, 0.5, -1.5]);
            assert!(whole.flow.y.iter().all(|y| *y == 0.0));
        }
    }
}

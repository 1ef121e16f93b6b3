// SPDX-License-Identifier: MPL-2.0

use std::time::Duration;

use super::WARM_UP_SIZE;
use crate::image::fit;

/// The sizes to choose from, each with about one and a half times the pixels of the one before.
const LADDER: [u32; 12] = [64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024];
/// How many times as long as an iteration a frame with one iteration takes, before any was measured: the rest is the
/// content's feature maps, the motion, and resizing.
const FRAME: f64 = 2.0;

/// The share of its budget that a frame with one iteration should take at the chosen size.
const AIM: f64 = 0.7;
/// Above this share another size is chosen.
const TOO_MUCH: f64 = 1.0;
/// How many frames are looked at together, and how many of them may take longer than the share that counts.
const WINDOW: usize = 50;
const OUTLIERS: usize = 5;
/// How many windows in a row have to allow a larger size before it is chosen, at first and at most. The number doubles
/// each time a larger size proves too large, so that the size does not go up and down.
const PATIENCE: u32 = 2;
const MOST_PATIENCE: u32 = 64;

/// Chooses the working size for frames with a budget: the largest at which one iteration fits well into it.
///
/// It changes rarely, because the size of the strokes changes with it.
#[derive(Debug)]
pub struct SizeChooser {
    /// The index of the chosen size in [`LADDER`].
    rung: usize,
    /// The index of the smallest size that is at least the frame's.
    top: usize,
    /// The shares of its budget that one iteration and everything else took, for each frame of the window.
    shares: Vec<(f64, f64)>,
    /// How many windows in a row allowed a larger size.
    calm: u32,
    patience: u32,
    /// Whether the last change was to a larger size.
    has_grown: bool,
}

impl SizeChooser {
    /// Chooses a size for frames of `frame_size` pixels with a budget, from the time that one iteration takes of an image
    /// of [`WARM_UP_SIZE`], which [`warm_up`](super::warm_up) returns.
    pub fn new(iteration: Duration, budget: Duration, frame_size: (usize, usize)) -> Self {
        let pixels = |(width, height)| (width * height) as f64;
        let share = FRAME * iteration.as_secs_f64() / budget.as_secs_f64();
        let rung = largest(AIM, |side| share * pixels(fit(frame_size, side as usize)) / pixels(WARM_UP_SIZE));
        let long_side = frame_size.0.max(frame_size.1);
        let top = LADDER.iter().position(|&side| side as usize >= long_side).unwrap_or(LADDER.len() - 1);
        Self { rung: rung.min(top), top, shares: Vec::new(), calm: 0, patience: PATIENCE, has_grown: false }
    }

    /// The chosen working size, from 64 to 1024 pixels on the long side.
    pub fn size(&self) -> u32 {
        LADDER[self.rung]
    }

    /// Learns from a frame that was optimized at `size` how long an iteration and everything else took. Returns whether
    /// it chose another size.
    ///
    /// They are [`working_size`](crate::stylizer::Report::working_size),
    /// [`iteration_duration`](crate::stylizer::Report::iteration_duration) and
    /// [`other_duration`](crate::stylizer::Report::other_duration) of the frame's report.
    pub fn observe(&mut self, size: usize, iteration: Duration, rest: Duration, budget: Duration) -> bool {
        let share = |duration: Duration| duration.as_secs_f64() / budget.as_secs_f64();
        self.shares.push((share(iteration), share(rest)));
        if self.shares.len() < WINDOW {
            return false;
        }
        self.shares.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
        let (iteration, rest) = self.shares[WINDOW - 1 - OUTLIERS];
        self.shares.clear();
        let last = self.rung;
        // Most of the rest depends on the size of the frame, which does not change. If it leaves little time, iterations
        // may take half of what is left.
        let aim = AIM.max(0.5 * (rest + TOO_MUCH));
        let possible = largest(aim, |side| rest + iteration * (f64::from(side) / size as f64).powi(2)).min(self.top);
        if iteration + rest > TOO_MUCH {
            // Without time even for the rest, a smaller size may help or not.
            let smaller = last.saturating_sub(1);
            self.rung = if rest < TOO_MUCH { possible.min(smaller) } else { smaller };
            if std::mem::take(&mut self.has_grown) {
                self.patience = (2 * self.patience).min(MOST_PATIENCE);
            }
            self.calm = 0;
        } else if possible > last {
            self.calm += 1;
            if self.calm >= self.patience {
                // One step at a time: a part of the rest grows with the size.
                (self.rung, self.calm, self.has_grown) = (last + 1, 0, true);
            }
        } else {
            self.calm = 0;
        }
        self.rung != last
    }
}

/// The index of the largest size in [`LADDER`] whose share of the budget is at most `aim`.
fn largest(aim: f64, share: impl Fn(u32) -> f64) -> usize {
    LADDER.iter().rposition(|&side| share(side) <= aim).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_millis(40);

    /// How often the size changes while a machine takes so many microseconds for an iteration of 1000 pixels, and for
    /// everything else so many for these and so many for the frame.
    fn watch(chooser: &mut SizeChooser, each: u64, (rest_each, fixed): (u64, u64), frames: usize) -> usize {
        let changes = (0..frames).filter(|_| {
            let size = u64::from(chooser.size());
            let of_pixels = |each| Duration::from_micros(each * size * size * 9 / 16 / 1000);
            let rest = of_pixels(rest_each) + Duration::from_micros(fixed);
            chooser.observe(size as usize, of_pixels(each), rest, BUDGET)
        });
        changes.count()
    }

    fn chooser(iteration: u64) -> SizeChooser {
        SizeChooser::new(Duration::from_micros(iteration), BUDGET, (1280, 720))
    }

    #[test]
    fn the_first_size_is_that_of_the_machine() {
        for (iteration, size) in [(1_000, 384), (5_000, 192), (10_000, 128), (14_000, 128), (100_000, 64)] {
            assert_eq!(chooser(iteration).size(), size, "{iteration}");
        }
        let upright = SizeChooser::new(Duration::from_millis(5), BUDGET, (720, 1280));
        assert_eq!(upright.size(), 192);
        let mut small = SizeChooser::new(Duration::from_millis(1), BUDGET, (200, 100));
        assert_eq!(small.size(), 256);
        assert_eq!(watch(&mut small, 1, (0, 0), 20 * WINDOW), 0);
    }

    #[test]
    fn the_size_comes_to_what_holds_the_rate_and_stays() {
        for (guess, each, rest_each, fixed) in [
            (1_000, 1_000, 0, 5_000),
            (100_000, 1_000, 0, 5_000),
            (10_000, 300, 0, 20_000),
            // Where the rest is most, and grows with the size.
            (10_000, 30, 100, 4_000),
            (10_000, 50, 100, 10_000),
            // Where the frame alone leaves little time.
            (10_000, 700, 0, 30_000),
            (100_000, 700, 0, 34_000),
        ] {
            let mut chooser = chooser(guess);
            watch(&mut chooser, each, (rest_each, fixed), 100 * WINDOW);
            let size = u64::from(chooser.size());
            let share = |size: u64| (fixed + (each + rest_each) * size * size * 9 / 16 / 1000) as f64 / 40_000.0;
            assert!(share(size) <= TOO_MUCH, "{guess}: {size}");
            assert!(share(2 * size) > AIM, "{guess}: {size}");
            assert_eq!(watch(&mut chooser, each, (rest_each, fixed), 100 * WINDOW), 0, "{guess} {each} {fixed}");
        }
    }

    #[test]
    fn a_busy_machine_gets_a_smaller_size_and_then_a_larger_one_again() {
        let mut chooser = chooser(5_000);
        assert_eq!(chooser.size(), 192);
        assert_eq!(watch(&mut chooser, 1_000, (0, 2_000), 10 * WINDOW), 0);
        watch(&mut chooser, 3_000, (0, 6_000), 10 * WINDOW);
        assert!(chooser.size() < 192);
        watch(&mut chooser, 1_000, (0, 2_000), 20 * WINDOW);
        assert_eq!(chooser.size(), 192);
    }

    #[test]
    fn without_time_for_iterations_the_size_is_the_smallest() {
        let mut chooser = chooser(10_000);
        watch(&mut chooser, 100, (0, 41_000), 20 * WINDOW);
        assert_eq!(chooser.size(), 64);
    }

    #[test]
    fn some_slow_frames_change_nothing() {
        let mut chooser = chooser(5_000);
        for frame in 0..10 * WINDOW {
            let milliseconds = if frame % 12 == 0 { 200 } else { 25 };
            assert!(!chooser.observe(192, Duration::from_millis(milliseconds), Duration::ZERO, BUDGET));
        }
    }

    #[test]
    fn a_size_that_proved_too_large_is_tried_less_and_less() {
        // Whatever is small is fast and whatever is larger is slow: no model foretells it.
        let mut chooser = chooser(5_000);
        let mut changes = 0;
        for _ in 0..1000 * WINDOW {
            let milliseconds = if chooser.size() > 160 { 60 } else { 10 };
            let iteration = Duration::from_millis(milliseconds);
            changes += usize::from(chooser.observe(chooser.size() as usize, iteration, Duration::ZERO, BUDGET));
        }
        assert!(changes < 50, "{changes}");
    }
}

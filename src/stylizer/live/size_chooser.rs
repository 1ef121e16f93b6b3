// SPDX-License-Identifier: MPL-2.0

use std::time::Duration;

use super::WARM_UP_SIZE;
use crate::image::fit;

/// The sizes to choose from, each with about one and a half times the pixels of the one before.
const LADDER: [u32; 12] = [64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024];
/// How many times as long as at the warm-up an iteration takes beside frames, before any was measured: the content's
/// feature maps belong to it, and it gives way to the frames.
const BESIDE: f64 = 2.0;

/// The least size at which strokes are told from blur.
const PAINTED: u32 = 256;
/// The longest time, in seconds, that an iteration should take up to that size, so that new things are painted within a
/// second, and above it, where more iterations are worth more than more pixels until each frame has one.
const LONGEST: f64 = 0.25;
const LONGEST_ABOVE: f64 = 0.04;
/// The longest share of its budget that a frame should take without iterations.
const LARGEST_SHARE: f64 = 0.7;
/// When these are exceeded by this factor another size is chosen.
const TOO_MUCH: f64 = 1.4;
/// How many frames are looked at together, and how many of them may take longer than the time that counts.
const WINDOW: usize = 50;
const OUTLIERS: usize = 5;
/// How many windows in a row have to allow a larger size before it is chosen, at first and at most. The number doubles
/// each time a larger size proves too large, so that the size does not go up and down.
const PATIENCE: u32 = 2;
const MOST_PATIENCE: u32 = 64;

/// Chooses the working size for frames of a live source: one at which the picture looks painted if the machine takes a
/// few iterations a second of it, then the largest at which each frame has one.
///
/// It changes rarely, because the size of the strokes changes with it.
#[derive(Debug)]
pub struct SizeChooser {
    /// The index of the chosen size in [`LADDER`].
    rung: usize,
    /// The index of the smallest size that is at least the frame's.
    top: usize,
    /// How long, in seconds, an iteration and everything else took, for each frame of the window.
    iterations: Vec<f64>,
    rests: Vec<f64>,
    /// How many windows in a row allowed a larger size.
    calm: u32,
    patience: u32,
    /// Whether the last change was to a larger size.
    has_grown: bool,
}

impl SizeChooser {
    /// Chooses a size for frames of `frame_size` pixels, from the time that one iteration takes of an image of
    /// [`WARM_UP_SIZE`], which [`warm_up`](super::warm_up) returns.
    pub fn new(iteration: Duration, frame_size: (usize, usize)) -> Self {
        let pixels = |(width, height)| (width * height) as f64;
        let seconds = BESIDE * iteration.as_secs_f64() / pixels(WARM_UP_SIZE);
        let rung = largest(1.0, |side| seconds * pixels(fit(frame_size, side as usize)));
        let long_side = frame_size.0.max(frame_size.1);
        let top = LADDER.iter().position(|&side| side as usize >= long_side).unwrap_or(LADDER.len() - 1);
        let (iterations, rests) = (Vec::new(), Vec::new());
        Self { rung: rung.min(top), top, iterations, rests, calm: 0, patience: PATIENCE, has_grown: false }
    }

    /// The chosen working size, from 64 to 1024 pixels on the long side.
    pub fn size(&self) -> u32 {
        LADDER[self.rung]
    }

    /// Learns from a frame that was optimized at `size` how long an iteration and everything else took, of which the
    /// latter has a `budget`. Returns whether it chose another size.
    ///
    /// They are [`working_size`](crate::stylizer::Report::working_size),
    /// [`iteration_duration`](crate::stylizer::Report::iteration_duration) and
    /// [`other_duration`](crate::stylizer::Report::other_duration) of the frame's report.
    pub fn observe(&mut self, size: usize, iteration: Duration, rest: Duration, budget: Duration) -> bool {
        self.iterations.push(iteration.as_secs_f64());
        self.rests.push(rest.as_secs_f64() / budget.as_secs_f64());
        if self.rests.len() < WINDOW {
            return false;
        }
        let [iteration, rest] = [&mut self.iterations, &mut self.rests].map(|values| {
            values.sort_by(f64::total_cmp);
            let slow = values[WINDOW - 1 - OUTLIERS];
            values.clear();
            slow
        });
        let last = self.rung;
        let possible = |factor| {
            let seconds = |side| iteration * (f64::from(side) / size as f64).powi(2);
            if rest > factor * LARGEST_SHARE { 0 } else { largest(factor, seconds).min(self.top) }
        };
        if possible(TOO_MUCH) < last {
            self.rung = if rest > TOO_MUCH * LARGEST_SHARE { last - 1 } else { possible(1.0).min(last - 1) };
            if std::mem::take(&mut self.has_grown) {
                self.patience = (2 * self.patience).min(MOST_PATIENCE);
            }
            self.calm = 0;
        } else if possible(1.0) > last {
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

/// The index of the largest size in [`LADDER`] at which an iteration exceeds its longest time by at most this factor.
fn largest(factor: f64, seconds: impl Fn(u32) -> f64) -> usize {
    let longest = |side| if side <= PAINTED { LONGEST } else { LONGEST_ABOVE };
    LADDER.iter().rposition(|&side| seconds(side) <= factor * longest(side)).unwrap_or(0)
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
        SizeChooser::new(Duration::from_micros(iteration), (1280, 720))
    }

    #[test]
    fn the_first_size_is_that_of_the_machine() {
        for (iteration, size) in
            [(1_000, 512), (3_000, 320), (5_000, 256), (31_000, 256), (40_000, 192), (1_000_000, 64)]
        {
            assert_eq!(chooser(iteration).size(), size, "{iteration}");
        }
        let upright = SizeChooser::new(Duration::from_millis(5), (720, 1280));
        assert_eq!(upright.size(), 256);
        let mut small = SizeChooser::new(Duration::from_millis(1), (200, 100));
        assert_eq!(small.size(), 256);
        assert_eq!(watch(&mut small, 1, (0, 0), 20 * WINDOW), 0);
    }

    #[test]
    fn the_size_comes_to_what_the_machine_can_do_and_stays() {
        for (guess, each, rest_each, fixed, size) in [
            (1_000, 1_000, 0, 5_000, 256),
            (100_000, 1_000, 0, 5_000, 256),
            (5_000, 300, 0, 20_000, 384),
            (5_000, 10_000, 0, 5_000, 192),
            // Where the rest is most, and grows with the size.
            (10_000, 30, 400, 4_000, 384),
            // Where the frame alone takes too long.
            (10_000, 700, 0, 50_000, 64),
        ] {
            let mut chooser = chooser(guess);
            watch(&mut chooser, each, (rest_each, fixed), 100 * WINDOW);
            assert_eq!(chooser.size(), size, "{guess} {each} {rest_each} {fixed}");
            assert_eq!(watch(&mut chooser, each, (rest_each, fixed), 100 * WINDOW), 0, "{guess} {each} {fixed}");
        }
    }

    #[test]
    fn a_busy_machine_gets_a_smaller_size_and_then_a_larger_one_again() {
        let mut chooser = chooser(2_000);
        assert_eq!(chooser.size(), 384);
        assert_eq!(watch(&mut chooser, 400, (0, 2_000), 10 * WINDOW), 0);
        watch(&mut chooser, 3_000, (0, 6_000), 10 * WINDOW);
        assert_eq!(chooser.size(), 256);
        watch(&mut chooser, 400, (0, 2_000), 20 * WINDOW);
        assert_eq!(chooser.size(), 384);
    }

    #[test]
    fn some_slow_frames_change_nothing() {
        let mut chooser = chooser(5_000);
        for frame in 0..10 * WINDOW {
            let milliseconds = if frame % 12 == 0 { 2000 } else { 45 };
            let duration = Duration::from_millis(milliseconds);
            assert!(!chooser.observe(256, duration, duration / 2, BUDGET));
        }
    }

    #[test]
    fn a_size_that_proved_too_large_is_tried_less_and_less() {
        // Whatever is small is fast and whatever is larger is slow: no model foretells it.
        let mut chooser = chooser(5_000);
        let mut changes = 0;
        for _ in 0..1000 * WINDOW {
            let milliseconds = if chooser.size() > 320 { 90 } else { 10 };
            let iteration = Duration::from_millis(milliseconds);
            changes += usize::from(chooser.observe(chooser.size() as usize, iteration, Duration::ZERO, BUDGET));
        }
        assert!(changes < 50, "{changes}");
    }
}

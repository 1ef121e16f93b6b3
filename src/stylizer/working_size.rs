// SPDX-License-Identifier: MPL-2.0

use std::time::Duration;

use super::{WARM_UP_SIZE, image};

/// The sizes to choose from, each with about one and a half times the pixels of the one before.
const LADDER: [u32; 12] = [64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024];
/// What a frame with one iteration takes, in iterations, as long as nobody has seen one: the rest is a look at the
/// content and at the motion, and the way between the working size and that of the frame.
const FRAME: f64 = 2.0;

/// The share of its budget that a frame with one iteration shall take at a size that is chosen.
const AIM: f64 = 0.7;
/// A share that is too much: another size is chosen.
const TOO_MUCH: f64 = 1.0;
/// How many frames are looked at together. So many of them may take longer than is told.
const WINDOW: usize = 50;
const OUTLIERS: usize = 5;
/// How many windows in a row have to allow a larger size, first and at most. Each time that it proved too large it
/// takes twice as many, so that the size does not go up and down.
const PATIENCE: u32 = 2;
const MOST_PATIENCE: u32 = 64;

/// Chooses the working size, which is the largest at which one iteration fits well into a frame's budget. It changes
/// rarely, as the strokes do so with it.
#[derive(Debug)]
pub struct SizeChooser {
    /// The place of the size on the ladder.
    rung: usize,
    /// The lowest place, which leaves something of the frame for the deepest layer, and the highest, which is that of
    /// the frame.
    bottom: usize,
    top: usize,
    /// Of each frame, the shares of its budget that one iteration takes, and everything else.
    shares: Vec<(f64, f64)>,
    /// How many windows in a row allowed a larger size.
    calm: u32,
    patience: u32,
    /// Whether the last change was to a larger size.
    has_grown: bool,
}

impl SizeChooser {
    /// Chooses a size for frames of `frame_size` with a budget, given how long an iteration takes of an image of
    /// [`WARM_UP_SIZE`], and the shortest side that an image may have.
    pub fn new(iteration: Duration, budget: Duration, frame_size: (usize, usize), shortest_side: usize) -> Self {
        let pixels = |(width, height)| (width * height) as f64;
        let share = FRAME * iteration.as_secs_f64() / budget.as_secs_f64();
        let rung = largest(|side| share * pixels(image::fit(frame_size, side)) / pixels(WARM_UP_SIZE));
        let first = |is_enough: &dyn Fn(usize) -> bool| {
            LADDER.iter().position(|&side| is_enough(side as usize)).unwrap_or(LADDER.len() - 1)
        };
        let (width, height) = frame_size;
        let top = first(&|side| side >= width.max(height));
        let bottom = first(&|side| side * width.min(height) >= shortest_side * width.max(height)).min(top);
        let rung = rung.clamp(bottom, top);
        Self { rung, bottom, top, shares: Vec::new(), calm: 0, patience: PATIENCE, has_grown: false }
    }

    /// The working size.
    pub fn size(&self) -> u32 {
        LADDER[self.rung]
    }

    /// Learns how long an iteration takes of a frame of this size, and everything else. Tells whether the size is another
    /// now.
    pub fn observe(&mut self, iteration: Duration, rest: Duration, budget: Duration) -> bool {
        let share = |duration: Duration| duration.as_secs_f64() / budget.as_secs_f64();
        self.shares.push((share(iteration), share(rest)));
        if self.shares.len() < WINDOW {
            return false;
        }
        self.shares.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
        let (iteration, rest) = self.shares[WINDOW - 1 - OUTLIERS];
        self.shares.clear();
        let (last, share) = (self.rung, iteration + rest);
        let size = f64::from(self.size());
        // Most of the rest goes into the frame as it comes, whose size is always the same.
        let share_at = |side| rest + iteration * (side as f64 / size).powi(2);
        let possible = largest(share_at).clamp(self.bottom, self.top);
        if share > TOO_MUCH {
            self.rung = possible.min(last.saturating_sub(1)).max(self.bottom);
            if std::mem::take(&mut self.has_grown) {
                self.patience = (2 * self.patience).min(MOST_PATIENCE);
            }
            self.calm = 0;
        } else if possible > last {
            self.calm += 1;
            if self.calm >= self.patience {
                (self.rung, self.calm, self.has_grown) = (possible, 0, true);
            }
        } else {
            self.calm = 0;
        }
        self.rung != last
    }
}

/// The largest size on the ladder that takes no more of the budget than it shall, given the share that each takes.
fn largest(share: impl Fn(usize) -> f64) -> usize {
    LADDER.iter().rposition(|&side| share(side as usize) <= AIM).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_millis(40);

    /// How often the size changes while a machine takes so many microseconds for an iteration of 1000 pixels and for
    /// everything else.
    fn watch(chooser: &mut SizeChooser, each: u64, fixed: u64, frames: usize) -> usize {
        let changes = (0..frames).filter(|_| {
            let size = u64::from(chooser.size());
            let iteration = Duration::from_micros(each * size * size * 9 / 16 / 1000);
            chooser.observe(iteration, Duration::from_micros(fixed), BUDGET)
        });
        changes.count()
    }

    fn chooser(iteration: u64) -> SizeChooser {
        SizeChooser::new(Duration::from_micros(iteration), BUDGET, (1280, 720), 8)
    }

    #[test]
    fn the_first_size_is_that_of_the_machine() {
        for (iteration, size) in [(1_000, 384), (5_000, 192), (10_000, 128), (14_000, 128), (100_000, 64)] {
            assert_eq!(chooser(iteration).size(), size, "{iteration}");
        }
        let upright = SizeChooser::new(Duration::from_millis(5), BUDGET, (720, 1280), 8);
        assert_eq!(upright.size(), 192);
        let mut small = SizeChooser::new(Duration::from_millis(1), BUDGET, (200, 100), 8);
        assert_eq!(small.size(), 256);
        assert_eq!(watch(&mut small, 1, 0, 20 * WINDOW), 0);
        let mut flat = SizeChooser::new(Duration::from_secs(1), BUDGET, (1600, 100), 8);
        assert_eq!(flat.size(), 128);
        assert_eq!(watch(&mut flat, 1_000_000, 0, 20 * WINDOW), 0);
    }

    #[test]
    fn the_size_comes_to_what_holds_the_rate_and_stays() {
        for (guess, each, fixed) in [(1_000, 1_000, 5_000), (100_000, 1_000, 5_000), (10_000, 300, 20_000)] {
            let mut chooser = chooser(guess);
            watch(&mut chooser, each, fixed, 20 * WINDOW);
            let size = u64::from(chooser.size());
            let share = |size: u64| (fixed + each * size * size * 9 / 16 / 1000) as f64 / 40_000.0;
            assert!(share(size) <= TOO_MUCH, "{guess}: {size}");
            assert!(share(2 * size) > AIM, "{guess}: {size}");
            assert_eq!(watch(&mut chooser, each, fixed, 100 * WINDOW), 0, "{guess}");
        }
    }

    #[test]
    fn a_busy_machine_gets_a_smaller_size_and_then_a_larger_one_again() {
        let mut chooser = chooser(5_000);
        assert_eq!(chooser.size(), 192);
        assert_eq!(watch(&mut chooser, 1_000, 2_000, 10 * WINDOW), 0);
        watch(&mut chooser, 3_000, 6_000, 10 * WINDOW);
        assert!(chooser.size() < 192);
        watch(&mut chooser, 1_000, 2_000, 20 * WINDOW);
        assert_eq!(chooser.size(), 192);
    }

    #[test]
    fn some_slow_frames_change_nothing() {
        let mut chooser = chooser(5_000);
        for frame in 0..10 * WINDOW {
            let milliseconds = if frame % 12 == 0 { 200 } else { 25 };
            assert!(!chooser.observe(Duration::from_millis(milliseconds), Duration::ZERO, BUDGET));
        }
    }

    #[test]
    fn a_size_that_proved_too_large_is_tried_less_and_less() {
        // Whatever is small is fast and whatever is larger is slow: no model foretells it.
        let mut chooser = chooser(5_000);
        let mut changes = 0;
        for _ in 0..1000 * WINDOW {
            let milliseconds = if chooser.size() > 160 { 60 } else { 10 };
            changes += usize::from(chooser.observe(Duration::from_millis(milliseconds), Duration::ZERO, BUDGET));
        }
        assert!(changes < 50, "{changes}");
    }
}

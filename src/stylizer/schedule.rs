// SPDX-License-Identifier: MPL-2.0

use super::Settings;
use crate::objective::StepLength;

/// How long the steps of a first frame are when it begins and when it ends, in learning rates.
const STRIDE: f64 = 2.0;
const SETTLED: f64 = 0.2;
/// How long they are in the beginning if the broad strokes are there already and shall stay.
const REFINING_STRIDE: f64 = 1.0;
/// How long the steps of other frames are where there is no paint yet, in learning rates.
const FRESH: f32 = 1.5;

/// How many steps a frame gets, and how long they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) iterations: u32,
    learning_rate: f64,
    /// How long the first step of a first frame is, in learning rates; `None` in other frames.
    stride: Option<f64>,
}

impl Schedule {
    /// For a frame that follows others: it is never finished, as the next one goes on from it.
    pub(super) fn following(settings: &Settings) -> Self {
        Self { iterations: settings.iterations, learning_rate: settings.learning_rate, stride: None }
    }

    /// For a first frame, which starts far from its end: long steps to get there and short ones to settle.
    pub(super) fn first(settings: &Settings) -> Self {
        Self { iterations: settings.first_iterations, learning_rate: settings.learning_rate, stride: Some(STRIDE) }
    }

    /// For a first frame that was painted at a smaller size.
    pub(super) fn refining(settings: &Settings) -> Self {
        Self::first(settings).refined()
    }

    /// The same for an image that was painted at a smaller size.
    pub(super) fn refined(self) -> Self {
        Self { stride: Some(REFINING_STRIDE), ..self }
    }

    /// Whether it is that of a first frame.
    pub(super) fn is_first(&self) -> bool {
        self.stride.is_some()
    }

    /// The length of a step.
    ///
    /// In a first frame, all of whose paint is new, it goes along half a cosine (Loshchilov and Hutter 2017, equation
    /// 5) from the longest to the shortest. In the others, new paint catches up in long steps and old paint, which is
    /// as good as it gets, stays calm in short ones.
    pub(super) fn step_length(&self, iteration: u32) -> StepLength {
        let learning_rate = self.learning_rate as f32;
        match self.stride {
            Some(stride) => {
                let progress = f64::from(iteration) / f64::from(self.iterations);
                let share = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                StepLength { base: learning_rate * (SETTLED + share * (stride - SETTLED)) as f32, fresh: 0.0 }
            }
            None => StepLength { base: 0.0, fresh: learning_rate * FRESH },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_frames_settle() {
        let settings = Settings { learning_rate: 8.0, iterations: 4, first_iterations: 100, ..Settings::default() };
        let first = Schedule::first(&settings);
        let length = |schedule: Schedule, iteration| {
            let StepLength { base, fresh } = schedule.step_length(iteration);
            assert_eq!(fresh, 0.0);
            base
        };
        assert_eq!(length(first, 0), 16.0);
        assert!((1..100).all(|n| length(first, n) < length(first, n - 1)));
        assert!(length(first, 99) < 2.0);
        let refining = Schedule::refining(&settings);
        assert_eq!(length(refining, 0), 8.0);
        assert!((length(refining, 99) - length(first, 99)).abs() < 0.1);
        let following = Schedule::following(&settings).step_length(3);
        assert_eq!(following, StepLength { base: 0.0, fresh: 12.0 });
    }
}

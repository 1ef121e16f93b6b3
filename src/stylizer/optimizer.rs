// SPDX-License-Identifier: MPL-2.0

use super::Settings;

/// Decay rates of the moments, shorter than for the training of networks: an image has a few dozen steps, not
/// thousands.
const FIRST_DECAY: f32 = 0.8;
const SECOND_DECAY: f32 = 0.99;
/// Far below any gradient that counts; only keeps 0 / 0 away.
const EPSILON: f32 = 1e-12;

/// How long the steps of a first frame are when it begins and when it ends, in steps of other frames.
const STRIDE: f64 = 2.0;
const SETTLED: f64 = 0.2;

/// Adam (Kingma and Ba 2015, algorithm 1) on the values of an image, which it keeps within 0 to 255.
#[derive(Debug, Clone)]
pub struct Adam {
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    steps: i32,
}

impl Adam {
    /// No step taken yet, for an image of so many values.
    pub fn new(values: usize) -> Self {
        Self { first_moment: vec![0.0; values], second_moment: vec![0.0; values], steps: 0 }
    }

    /// The running means of the gradient and of its square, for each value.
    pub(super) fn moments_mut(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.first_moment, &mut self.second_moment)
    }

    /// Moves the image, whose values are levels of 0 to 255, by one step against the gradient: at first by `rate`
    /// levels, later by at most about that.
    pub fn step(&mut self, image: &mut [f32], gradient: &[f32], rate: f32) {
        self.steps = self.steps.saturating_add(1);
        let rate = rate / (1.0 - FIRST_DECAY.powi(self.steps));
        let correction = 1.0 / (1.0 - SECOND_DECAY.powi(self.steps));
        let moments = self.first_moment.iter_mut().zip(&mut self.second_moment);
        for ((value, gradient), (first, second)) in image.iter_mut().zip(gradient).zip(moments) {
            *first = FIRST_DECAY * *first + (1.0 - FIRST_DECAY) * gradient;
            *second = SECOND_DECAY * *second + (1.0 - SECOND_DECAY) * gradient * gradient;
            let step = rate * *first / ((*second * correction).sqrt() + EPSILON);
            *value = (*value - step).clamp(0.0, 255.0);
        }
    }
}

/// How many steps a frame gets, and how long they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) iterations: u32,
    first_rate: f64,
    last_rate: f64,
}

impl Schedule {
    /// For a frame that follows others: it is never finished, as the next one goes on from it.
    pub(super) fn steady(settings: &Settings) -> Self {
        let rate = settings.learning_rate;
        Self { iterations: settings.iterations, first_rate: rate, last_rate: rate }
    }

    /// For a first frame, which starts far from its end: long steps to get there and short ones to settle.
    pub(super) fn settling(settings: &Settings) -> Self {
        let rate = settings.learning_rate;
        Self { iterations: settings.first_iterations, first_rate: STRIDE * rate, last_rate: SETTLED * rate }
    }

    /// The length of a step, in levels: along half a cosine from the first to the last (Loshchilov and Hutter 2017,
    /// equation 5).
    pub(super) fn rate(&self, iteration: u32) -> f32 {
        let progress = f64::from(iteration) / f64::from(self.iterations);
        let share = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        (self.last_rate + share * (self.first_rate - self.last_rate)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_settle_or_stay() {
        let settings = Settings { learning_rate: 8.0, iterations: 4, first_iterations: 100, ..Settings::default() };
        let steady = Schedule::steady(&settings);
        assert!((0..steady.iterations).all(|n| steady.rate(n) == 8.0));
        let settling = Schedule::settling(&settings);
        assert_eq!(settling.rate(0), 16.0);
        assert!((1..100).all(|n| settling.rate(n) < settling.rate(n - 1)));
        assert!(settling.rate(99) < 2.0);
    }

    #[test]
    fn finds_the_minimum_of_a_bowl() {
        let mut image = vec![10.0, 200.0, 90.0];
        let target = [100.0, 50.0, 90.0];
        let mut adam = Adam::new(3);
        for step in 0..200 {
            let gradient: Vec<f32> = image.iter().zip(target).map(|(x, t)| 1e-4 * (x - t)).collect();
            adam.step(&mut image, &gradient, if step < 100 { 8.0 } else { 0.5 });
        }
        assert!(image.iter().zip(target).all(|(x, t)| (x - t).abs() < 2.0), "{image:?}");
    }

    #[test]
    fn first_step_has_the_length_of_the_rate_and_stays_in_range() {
        let mut image = vec![100.0, 100.0, 2.0, 100.0];
        Adam::new(4).step(&mut image, &[3.0, -1e-6, 1.0, 0.0], 5.0);
        for (value, expected) in image.iter().zip([95.0, 105.0, 0.0, 100.0]) {
            assert!((value - expected).abs() < 1e-3, "{image:?}");
        }
    }
}

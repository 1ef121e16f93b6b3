// SPDX-License-Identifier: MPL-2.0

use super::Settings;

/// Decay rates of the moments, shorter than for the training of networks: an image has a few dozen steps, not
/// thousands.
const FIRST_DECAY: f32 = 0.8;
const SECOND_DECAY: f32 = 0.95;
/// Far below any gradient that counts; only keeps 0 / 0 away.
const EPSILON: f32 = 1e-12;

/// How long the steps of a first frame are when it begins and when it ends, in learning rates.
const STRIDE: f64 = 2.0;
const SETTLED: f64 = 0.2;

/// How long the steps of other frames are where there is no paint yet and where there long has been, in learning rates.
const FRESH: f32 = 1.5;
const OLD: f32 = 0.3;
/// After so many steps, paint is old to two thirds.
const AGING: f32 = 5.0;

/// Adam (Kingma and Ba 2015, algorithm 1) on the values of an image, which it keeps within 0 to 255.
#[derive(Debug, Clone)]
pub struct Adam {
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    /// How many steps the paint of each pixel has had.
    age: Vec<f32>,
    steps: i32,
}

/// What Adam knows of each value, or in the case of `age` of each pixel. It moves along with the image.
pub(super) struct Memory<'a> {
    /// The running mean of the gradient.
    pub(super) first_moment: &'a mut [f32],
    /// The running mean of its square.
    pub(super) second_moment: &'a mut [f32],
    /// How many steps the paint has had.
    pub(super) age: &'a mut [f32],
}

impl Adam {
    /// No step taken yet, for an image of so many pixels.
    pub fn new(pixels: usize) -> Self {
        let zeros = |length| vec![0.0; length];
        Self { first_moment: zeros(3 * pixels), second_moment: zeros(3 * pixels), age: zeros(pixels), steps: 0 }
    }

    pub(super) fn memory(&mut self) -> Memory<'_> {
        let Self { first_moment, second_moment, age, .. } = self;
        Memory { first_moment, second_moment, age }
    }

    /// Moves the image, whose values are levels of 0 to 255, by one step against the gradient. The step of a pixel is
    /// at most about as many levels long as `rate` says for the number of steps its paint has had.
    pub fn step(&mut self, image: &mut [f32], gradient: &[f32], rate: impl Fn(f32) -> f32) {
        self.steps = self.steps.saturating_add(1);
        let first_correction = 1.0 / (1.0 - FIRST_DECAY.powi(self.steps));
        let second_correction = 1.0 / (1.0 - SECOND_DECAY.powi(self.steps));
        let pixels = self.age.len();
        let planes = image.chunks_exact_mut(pixels).zip(gradient.chunks_exact(pixels));
        let moments = self.first_moment.chunks_exact_mut(pixels).zip(self.second_moment.chunks_exact_mut(pixels));
        for ((image, gradient), (first, second)) in planes.zip(moments) {
            let moments = first.iter_mut().zip(second);
            let pixels = image.iter_mut().zip(gradient).zip(&self.age);
            for (((value, gradient), age), (first, second)) in pixels.zip(moments) {
                *first = FIRST_DECAY * *first + (1.0 - FIRST_DECAY) * gradient;
                *second = SECOND_DECAY * *second + (1.0 - SECOND_DECAY) * gradient * gradient;
                let direction = first_correction * *first / ((*second * second_correction).sqrt() + EPSILON);
                *value = (*value - rate(*age) * direction).clamp(0.0, 255.0);
            }
        }
        self.age.iter_mut().for_each(|age| *age += 1.0);
    }
}

/// How many steps a frame gets, and how long they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) iterations: u32,
    learning_rate: f64,
    is_first: bool,
}

impl Schedule {
    /// For a frame that follows others: it is never finished, as the next one goes on from it.
    pub(super) fn following(settings: &Settings) -> Self {
        Self { iterations: settings.iterations, learning_rate: settings.learning_rate, is_first: false }
    }

    /// For a first frame, which starts far from its end: long steps to get there and short ones to settle.
    pub(super) fn first(settings: &Settings) -> Self {
        Self { iterations: settings.first_iterations, learning_rate: settings.learning_rate, is_first: true }
    }

    /// The length of a step, in levels, for paint of an age.
    ///
    /// In a first frame, all of whose paint is new, it goes along half a cosine (Loshchilov and Hutter 2017, equation
    /// 5) from the longest to the shortest. In the others, new paint catches up in long steps and old paint, which is
    /// as good as it gets, stays calm in short ones.
    pub(super) fn rate(&self, iteration: u32) -> impl Fn(f32) -> f32 {
        let learning_rate = self.learning_rate as f32;
        let progress = f64::from(iteration) / f64::from(self.iterations);
        let share = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        let first = self.is_first.then_some((SETTLED + share * (STRIDE - SETTLED)) as f32);
        move |age| learning_rate * first.unwrap_or_else(|| OLD + (FRESH - OLD) * (-age / AGING).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_frames_settle_and_paint_ages() {
        let settings = Settings { learning_rate: 8.0, iterations: 4, first_iterations: 100, ..Settings::default() };
        let first = Schedule::first(&settings);
        assert_eq!(first.rate(0)(0.0), 16.0);
        assert!((1..100).all(|n| first.rate(n)(n as f32) < first.rate(n - 1)(n as f32 - 1.0)));
        assert!(first.rate(99)(99.0) < 2.0);
        let following = Schedule::following(&settings);
        assert_eq!(following.rate(0)(0.0), 12.0);
        assert!((1..20).all(|age| following.rate(0)(age as f32) < following.rate(0)(age as f32 - 1.0)));
        assert!((following.rate(3)(100.0) - 2.4).abs() < 1e-3);
    }

    #[test]
    fn finds_the_minimum_of_a_bowl() {
        let mut image = vec![10.0, 200.0, 90.0];
        let target = [100.0, 50.0, 90.0];
        let mut adam = Adam::new(1);
        for _ in 0..200 {
            let gradient: Vec<f32> = image.iter().zip(target).map(|(x, t)| 1e-4 * (x - t)).collect();
            adam.step(&mut image, &gradient, |age| if age < 100.0 { 8.0 } else { 0.5 });
        }
        assert!(image.iter().zip(target).all(|(x, t)| (x - t).abs() < 2.0), "{image:?}");
    }

    #[test]
    fn first_step_has_the_length_of_the_rate_and_stays_in_range() {
        let mut image = vec![100.0, 100.0, 2.0, 100.0, 0.0, 0.0];
        Adam::new(2).step(&mut image, &[3.0, -1e-6, 1.0, 0.0, 0.0, 0.0], |_| 5.0);
        for (value, expected) in image.iter().zip([95.0, 105.0, 0.0, 100.0]) {
            assert!((value - expected).abs() < 1e-3, "{image:?}");
        }
    }
}

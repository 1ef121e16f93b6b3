// SPDX-License-Identifier: MPL-2.0

use super::Settings;

/// Decay rate of the moments, shorter than for the training of networks: an image has a few dozen steps, not thousands.
/// One rate for both lets no step be longer than meant, and paint that begins to swing slows down at once.
const DECAY: f32 = 0.8;
/// Far below any gradient that counts; only keeps 0 / 0 away.
const EPSILON: f32 = 1e-12;

/// How long the steps of a first frame are when it begins and when it ends, in learning rates.
const STRIDE: f64 = 2.0;
const SETTLED: f64 = 0.2;
/// How long they are in the beginning if broad strokes are there already, which shall stay.
const REFINING_STRIDE: f64 = 1.0;

/// How long the steps of other frames are where there is no paint yet, in learning rates.
const FRESH: f32 = 1.5;
/// How fast paint grows old: after n steps its freshness is `1 / (1 + n * AGEING)^2`. The sum of all steps is bounded,
/// so that the paint comes to rest.
const AGEING: f32 = 0.0825;

/// Adam (Kingma and Ba 2015, algorithm 1) on the values of an image, which it keeps within 0 to 255.
#[derive(Debug, Clone)]
pub struct Adam {
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    /// How new the paint of each pixel is: 1 before its first step, then falling to 0.
    freshness: Vec<f32>,
    steps: i32,
}

/// What Adam knows of each value, or in the case of `freshness` of each pixel. It moves along with the image.
pub(super) struct Memory<'a> {
    /// The running mean of the gradient.
    pub(super) first_moment: &'a mut [f32],
    /// The running mean of its square.
    pub(super) second_moment: &'a mut [f32],
    /// How new the paint is: 1 before its first step, then falling to 0.
    pub(super) freshness: &'a mut [f32],
}

impl Adam {
    /// No step taken yet, for an image of so many pixels.
    pub fn new(pixels: usize) -> Self {
        let (first_moment, second_moment) = (vec![0.0; 3 * pixels], vec![0.0; 3 * pixels]);
        Self { first_moment, second_moment, freshness: vec![1.0; pixels], steps: 0 }
    }

    /// Makes all paint fresher by a share of what it lacks.
    pub(super) fn freshen(&mut self, share: f32) {
        self.freshness.iter_mut().for_each(|freshness| *freshness += share * (1.0 - *freshness));
    }

    /// Makes all paint at least so fresh.
    pub(super) fn renew(&mut self, freshness: f32) {
        self.freshness.iter_mut().for_each(|old| *old = old.max(freshness));
    }

    pub(super) fn memory(&mut self) -> Memory<'_> {
        let Self { first_moment, second_moment, freshness, .. } = self;
        Memory { first_moment, second_moment, freshness }
    }

    /// Moves the image, whose values are levels of 0 to 255, by one step against the gradient. The step of a pixel is
    /// at most about as many levels long as `rate` says for the freshness of its paint, from 1, no step yet, to 0.
    pub fn step(&mut self, image: &mut [f32], gradient: &[f32], rate: impl Fn(f32) -> f32) {
        self.steps = self.steps.saturating_add(1);
        let correction = 1.0 / (1.0 - DECAY.powi(self.steps));
        let pixels = self.freshness.len();
        let planes = image.chunks_exact_mut(pixels).zip(gradient.chunks_exact(pixels));
        let moments = self.first_moment.chunks_exact_mut(pixels).zip(self.second_moment.chunks_exact_mut(pixels));
        for ((image, gradient), (first, second)) in planes.zip(moments) {
            let moments = first.iter_mut().zip(second);
            let pixels = image.iter_mut().zip(gradient).zip(&self.freshness);
            for (((value, gradient), freshness), (first, second)) in pixels.zip(moments) {
                *first = DECAY * *first + (1.0 - DECAY) * gradient;
                *second = DECAY * *second + (1.0 - DECAY) * gradient * gradient;
                let direction = correction * *first / ((*second * correction).sqrt() + EPSILON);
                *value = (*value - rate(*freshness) * direction).clamp(0.0, 255.0);
            }
        }
        self.freshness.iter_mut().for_each(|freshness| *freshness = (freshness.sqrt().recip() + AGEING).powi(-2));
    }
}

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
        Self { stride: Some(REFINING_STRIDE), ..Self::first(settings) }
    }

    /// Whether it is that of a first frame.
    pub(super) fn is_first(&self) -> bool {
        self.stride.is_some()
    }

    /// The length of a step, in levels, for paint of a freshness.
    ///
    /// In a first frame, all of whose paint is new, it goes along half a cosine (Loshchilov and Hutter 2017, equation
    /// 5) from the longest to the shortest. In the others, new paint catches up in long steps and old paint, which is
    /// as good as it gets, stays calm in short ones.
    pub(super) fn rate(&self, iteration: u32) -> impl Fn(f32) -> f32 {
        let learning_rate = self.learning_rate as f32;
        let progress = f64::from(iteration) / f64::from(self.iterations);
        let share = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        let first = self.stride.map(|stride| (SETTLED + share * (stride - SETTLED)) as f32);
        move |freshness| learning_rate * first.unwrap_or(FRESH * freshness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_frames_settle_and_paint_ages() {
        let settings = Settings { learning_rate: 8.0, iterations: 4, first_iterations: 100, ..Settings::default() };
        let first = Schedule::first(&settings);
        assert_eq!(first.rate(0)(1.0), 16.0);
        assert!((1..100).all(|n| first.rate(n)(1.0) < first.rate(n - 1)(1.0)));
        assert!(first.rate(99)(1.0) < 2.0);
        assert_eq!(Schedule::refining(&settings).rate(0)(1.0), 8.0);
        assert!((Schedule::refining(&settings).rate(99)(1.0) - first.rate(99)(1.0)).abs() < 0.1);
        let following = Schedule::following(&settings);
        assert!((following.rate(0)(1.0) - 12.0).abs() < 1e-3);
        assert_eq!(following.rate(3)(0.0), 0.0);
        let mut adam = Adam::new(1);
        let mut last = 1.0;
        for _ in 0..100 {
            adam.step(&mut [0.0; 3], &[0.0; 3], |freshness| freshness);
            assert!((0.0..last).contains(&adam.freshness[0]));
            last = adam.freshness[0];
        }
        assert!(last < 0.05, "{last}");
        adam.freshen(0.5);
        assert!((adam.freshness[0] - (0.5 + 0.5 * last)).abs() < 0.05);
        adam.freshen(1.0);
        assert_eq!(adam.freshness, [1.0]);
    }

    #[test]
    fn finds_the_minimum_of_a_bowl() {
        let mut image = vec![10.0, 200.0, 90.0];
        let target = [100.0, 50.0, 90.0];
        let mut adam = Adam::new(1);
        for step in 0..200 {
            let gradient: Vec<f32> = image.iter().zip(target).map(|(x, t)| 1e-4 * (x - t)).collect();
            adam.step(&mut image, &gradient, |_| if step < 100 { 8.0 } else { 0.5 });
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

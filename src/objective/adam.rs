// SPDX-License-Identifier: MPL-2.0

//! The optimizer, and what it remembers from step to step.

/// Decay rate of both moments. It is shorter than for the training of networks: an image gets a few dozen steps, not
/// thousands. Using the same rate for both bounds the length of a step, and damps oscillations.
const DECAY: f32 = 0.8;
/// Avoids 0 / 0. It is far below any gradient that matters.
const EPSILON: f32 = 1e-12;
/// How fast paint ages: after n steps its freshness is `1 / (1 + n * AGEING)^2`. The sum of all steps is bounded, so
/// that the paint comes to rest.
const AGEING: f32 = 0.0825;

/// The state of Adam (Kingma and Ba 2015, algorithm 1) for the values of an image, with a freshness for each pixel, on
/// which the length of its steps may depend.
#[derive(Debug, Clone)]
pub struct Adam {
    /// The running mean of the gradient, `[3][height][width]`.
    pub(super) first_moment: Vec<f32>,
    /// The running mean of the squared gradient, `[3][height][width]`.
    pub(super) second_moment: Vec<f32>,
    /// How new the paint of each pixel is: 1 before its first step, then falling to 0.
    pub(super) freshness: Vec<f32>,
    /// The number of steps that the moments are averaged over.
    pub(super) steps: i32,
}

/// The state of Adam for each value, or for each pixel in the case of `freshness`. It is warped along with the image.
pub(crate) struct Memory<'a> {
    /// The running mean of the gradient.
    pub(crate) first_moment: &'a mut [f32],
    /// The running mean of its square.
    pub(crate) second_moment: &'a mut [f32],
    /// How new the paint is: 1 before its first step, then falling to 0.
    pub(crate) freshness: &'a mut [f32],
}

/// The length of a step, in levels of 8-bit colour: `base + fresh * freshness`. The freshness of a pixel's paint is 1
/// before its first step, and falls to 0.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepLength {
    /// The length for the oldest paint.
    pub base: f32,
    /// How much longer it is before the first step.
    pub fresh: f32,
}

impl StepLength {
    /// The length `base + fresh * freshness`.
    pub const fn new(base: f32, fresh: f32) -> Self {
        Self { base, fresh }
    }
}

impl Adam {
    /// The state before the first step, for an image of this many pixels.
    pub fn new(pixels: usize) -> Self {
        let (first_moment, second_moment) = (vec![0.0; 3 * pixels], vec![0.0; 3 * pixels]);
        Self { first_moment, second_moment, freshness: vec![1.0; pixels], steps: 0 }
    }

    /// Raises the freshness of all paint by this share of what it lacks to 1.
    pub(crate) fn freshen(&mut self, share: f32) {
        self.freshness.iter_mut().for_each(|freshness| *freshness += share * (1.0 - *freshness));
    }

    /// Raises the freshness of all paint to at least this.
    pub(crate) fn renew(&mut self, freshness: f32) {
        self.freshness.iter_mut().for_each(|old| *old = old.max(freshness));
    }

    pub(crate) fn memory(&mut self) -> Memory<'_> {
        let Self { first_moment, second_moment, freshness, .. } = self;
        Memory { first_moment, second_moment, freshness }
    }

    /// Counts a step. Returns the factor that corrects the bias of the moments towards zero.
    pub(super) fn begin_step(&mut self) -> f32 {
        self.steps = self.steps.saturating_add(1);
        1.0 / (1.0 - DECAY.powi(self.steps))
    }
}

/// A step of Adam on some values of an image, which stay within 0 to 255. All slices are equally long.
pub(super) struct Step<'a> {
    pub(super) image: &'a mut [f32],
    pub(super) gradient: &'a [f32],
    pub(super) first_moment: &'a mut [f32],
    pub(super) second_moment: &'a mut [f32],
    pub(super) freshness: &'a [f32],
    pub(super) length: StepLength,
    /// See [`Adam::begin_step`].
    pub(super) correction: f32,
}

impl Step<'_> {
    #[inline(always)]
    pub(super) fn take(self) {
        let Self { image, gradient, first_moment, second_moment, freshness, length, correction } = self;
        let moments = first_moment.iter_mut().zip(second_moment);
        let pixels = image.iter_mut().zip(gradient).zip(freshness);
        for (((value, gradient), freshness), (first, second)) in pixels.zip(moments) {
            *first = DECAY * *first + (1.0 - DECAY) * gradient;
            *second = DECAY * *second + (1.0 - DECAY) * gradient * gradient;
            let direction = correction * *first / ((*second * correction).sqrt() + EPSILON);
            *value = (*value - (length.base + length.fresh * freshness) * direction).clamp(0.0, 255.0);
        }
    }
}

/// Ages the paint of some pixels by a step.
#[inline(always)]
pub(super) fn age(freshness: &mut [f32]) {
    for freshness in freshness {
        let root = freshness.sqrt().recip() + AGEING;
        *freshness = (root * root).recip();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: fn(f32) -> StepLength = |base| StepLength { base, fresh: 0.0 };

    fn step(adam: &mut Adam, image: &mut [f32], gradient: &[f32], length: StepLength) {
        let correction = adam.begin_step();
        let pixels = adam.freshness.len();
        for n in (0..3).map(|plane| plane * pixels..(plane + 1) * pixels) {
            let (first_moment, second_moment) = (&mut adam.first_moment[n.clone()], &mut adam.second_moment[n.clone()]);
            let (image, gradient) = (&mut image[n.clone()], &gradient[n]);
            Step { image, gradient, first_moment, second_moment, freshness: &adam.freshness, length, correction }
                .take();
        }
        age(&mut adam.freshness);
    }

    #[test]
    fn paint_ages() {
        let mut adam = Adam::new(1);
        let mut last = 1.0;
        for _ in 0..100 {
            step(&mut adam, &mut [0.0; 3], &[0.0; 3], EVEN(1.0));
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
        for n in 0..200 {
            let gradient: Vec<f32> = image.iter().zip(target).map(|(x, t)| 1e-4 * (x - t)).collect();
            step(&mut adam, &mut image, &gradient, EVEN(if n < 100 { 8.0 } else { 0.5 }));
        }
        assert!(image.iter().zip(target).all(|(x, t)| (x - t).abs() < 2.0), "{image:?}");
    }

    #[test]
    fn first_step_has_the_given_length_and_stays_in_range() {
        let mut image = vec![100.0, 100.0, 2.0, 100.0, 0.0, 0.0];
        let (mut adam, gradient) = (Adam::new(2), [3.0, -1e-6, 1.0, 0.0, 0.0, 0.0]);
        adam.freshness[1] = 0.5;
        step(&mut adam, &mut image, &gradient, StepLength { base: 3.0, fresh: 2.0 });
        for (value, expected) in image.iter().zip([95.0, 104.0, 0.0, 100.0]) {
            assert!((value - expected).abs() < 1e-3, "{image:?}");
        }
    }
}

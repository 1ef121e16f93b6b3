// SPDX-License-Identifier: MPL-2.0

/// Decay rates of the moments, shorter than for the training of networks: an image has a few dozen steps, not
/// thousands.
const FIRST_DECAY: f32 = 0.8;
const SECOND_DECAY: f32 = 0.99;
/// Far below any gradient that counts; only keeps 0 / 0 away.
const EPSILON: f32 = 1e-12;

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

    /// Moves the image, whose values are levels of 0 to 255, by one step against the gradient: at first by `rate` levels, later by at most about that.
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

#[cfg(test)]
mod tests {
    use super::*;

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

// SPDX-License-Identifier: MPL-2.0

use std::time::Duration;

/// The parts of a frame are expected to take this many times as long as they last did.
const MARGIN: f64 = 1.2;
/// How fast a lower cost is believed: a machine that was busy a moment ago is likely to be busy again.
const RELIEF: f64 = 0.1;

/// How long the steps of a frame take, to tell how many fit into a time.
#[derive(Debug, Clone, Default)]
pub(super) struct Costs {
    /// The feature maps of the content, before the first iteration.
    content: Cost,
    iteration: Cost,
}

impl Costs {
    /// Whether one more iteration fits into a time of which `elapsed` is over.
    pub(super) fn allow_iteration(&self, elapsed: Duration, time: Duration) -> bool {
        elapsed.as_secs_f64() + MARGIN * self.iteration.seconds <= time.as_secs_f64()
    }

    /// How long a frame's feature maps and one iteration take together.
    pub(super) fn one_iteration(&self) -> Duration {
        Duration::from_secs_f64(self.content.seconds + self.iteration.seconds)
    }

    pub(super) fn content_took(&mut self, duration: Duration) {
        self.content.update(duration);
    }

    pub(super) fn iteration_took(&mut self, duration: Duration) {
        self.iteration.update(duration);
    }
}

#[derive(Debug, Clone, Default)]
struct Cost {
    seconds: f64,
}

impl Cost {
    fn update(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.seconds = seconds.max(self.seconds + RELIEF * (seconds - self.seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// How many iterations of `each` ms fit into 40 ms after the first `before` ms of a frame.
    fn iterations(costs: &Costs, before: u64, each: u64) -> u64 {
        (0..).find(|n| !costs.allow_iteration(MS(before + n * each), MS(40))).unwrap()
    }

    #[test]
    fn as_many_iterations_as_fit() {
        let mut costs = Costs::default();
        costs.iteration_took(MS(10));
        assert_eq!(iterations(&costs, 5, 10), 3);
        assert_eq!(iterations(&costs, 20, 10), 1);
        assert_eq!(iterations(&costs, 30, 10), 0);
    }

    #[test]
    fn the_first_iteration_needs_the_feature_maps_of_the_content() {
        let mut costs = Costs::default();
        assert_eq!(costs.one_iteration(), Duration::ZERO);
        costs.content_took(MS(4));
        costs.iteration_took(MS(10));
        assert_eq!(costs.one_iteration(), MS(14));
    }

    #[test]
    fn load_counts_at_once_and_relief_slowly() {
        let mut costs = Costs::default();
        costs.iteration_took(MS(5));
        costs.iteration_took(MS(30));
        assert_eq!(iterations(&costs, 5, 30), 0);
        costs.iteration_took(MS(5));
        assert_eq!(iterations(&costs, 5, 5), 1);
        (0..100).for_each(|_| costs.iteration_took(MS(5)));
        assert_eq!(iterations(&costs, 5, 5), 6);
    }
}

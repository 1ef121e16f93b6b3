// SPDX-License-Identifier: MPL-2.0

use std::time::Duration;

/// What is planned for what a part of a frame costs, over what it last cost.
const MARGIN: f64 = 1.2;
/// How fast a cost that has fallen is believed: a machine that was busy once is likely to be so again.
const RELIEF: f64 = 0.1;

/// What the parts of a frame cost, to tell how many iterations fit in the time that there is.
#[derive(Debug, Default)]
pub(super) struct Costs {
    /// The look at the content before the first iteration.
    content: Cost,
    iteration: Cost,
    /// All that comes after the last iteration.
    composition: Cost,
}

impl Costs {
    /// Whether one more iteration, and what comes after it, fits in the budget of a frame that has taken so long.
    pub(super) fn allow_iteration(&self, elapsed: Duration, budget: Duration) -> bool {
        let ahead = self.iteration.seconds + self.composition.seconds;
        elapsed.as_secs_f64() + MARGIN * ahead <= budget.as_secs_f64()
    }

    /// How long one iteration takes, with the look at the content before it.
    pub(super) fn one_iteration(&self) -> Duration {
        Duration::from_secs_f64(self.content.seconds + self.iteration.seconds)
    }

    pub(super) fn content_took(&mut self, duration: Duration) {
        self.content.update(duration);
    }

    pub(super) fn iteration_took(&mut self, duration: Duration) {
        self.iteration.update(duration);
    }

    pub(super) fn composition_took(&mut self, duration: Duration) {
        self.composition.update(duration);
    }
}

#[derive(Debug, Default)]
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

    /// How many iterations fit in 40 ms if the frame has already taken so long.
    fn iterations(costs: &Costs, before: u64, each: u64) -> u64 {
        (0..).find(|n| !costs.allow_iteration(MS(before + n * each), MS(40))).unwrap()
    }

    #[test]
    fn as_many_iterations_as_fit() {
        let mut costs = Costs::default();
        costs.iteration_took(MS(10));
        costs.composition_took(MS(2));
        assert_eq!(iterations(&costs, 5, 10), 3);
        assert_eq!(iterations(&costs, 20, 10), 1);
        assert_eq!(iterations(&costs, 30, 10), 0);
    }

    #[test]
    fn the_first_iteration_needs_a_look_at_the_content() {
        let mut costs = Costs::default();
        assert_eq!(costs.one_iteration(), Duration::ZERO);
        costs.content_took(MS(4));
        costs.iteration_took(MS(10));
        costs.composition_took(MS(3));
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

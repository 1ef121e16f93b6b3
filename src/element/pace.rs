// SPDX-License-Identifier: MPL-2.0

//! The time that there is for a frame.

use std::time::Duration;

/// The duration of a frame of a live source whose caps have no frame rate.
const USUAL_FRAME: Duration = Duration::from_millis(40);

/// How fast frames come and leave.
#[derive(Debug, Default)]
pub struct Pace {
    /// The latency upstream; `None` if the source is not live.
    pub upstream: Option<gst::ClockTime>,
    frame_duration: Option<Duration>,
    /// The running time before which frames come too late at the sink.
    earliest: Option<gst::ClockTime>,
}

impl Pace {
    /// Starts over for a source with this latency, which is `None` unless it is live, and this frame rate.
    pub fn change(&mut self, upstream: Option<gst::ClockTime>, frame_rate: gst::Fraction) {
        let seconds = f64::from(frame_rate.denom()) / f64::from(frame_rate.numer());
        let frame_duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
        *self = Self { upstream, frame_duration, earliest: None };
    }

    /// Whether the source is live, so that its frames come at the time at which they were taken.
    pub fn is_live(&self) -> bool {
        self.upstream.is_some()
    }

    /// The time for a frame, given the property `frame-budget`; `None` if there is no limit.
    pub fn budget(&self, frame_budget: i64) -> Option<Duration> {
        match u64::try_from(frame_budget) {
            Ok(0) => None,
            Ok(nanoseconds) => Some(Duration::from_nanos(nanoseconds)),
            Err(_) => self.upstream.map(|_| self.frame_duration.unwrap_or(USUAL_FRAME)),
        }
    }

    /// The time that is left for the frame of this running time: its budget, less its lateness by the clock, whose running
    /// time is `now`. None is left for a frame that the sink will call late.
    pub fn time_left(
        &self,
        running_time: Option<gst::ClockTime>,
        now: Option<gst::ClockTime>,
        budget: Duration,
    ) -> Duration {
        if running_time.zip(self.earliest).is_some_and(|(time, earliest)| time < earliest) {
            return Duration::ZERO;
        }
        let own = gst::ClockTime::try_from(budget).unwrap_or(gst::ClockTime::MAX);
        let leaves =
            running_time.zip(self.upstream).map(|(time, upstream)| time.saturating_add(upstream).saturating_add(own));
        let left = leaves.zip(now).map(|(leaves, now)| Duration::from(leaves.saturating_sub(now)));
        left.unwrap_or(budget).min(budget)
    }

    /// Learns from a QoS event how early (negative) or late a frame was at the sink.
    pub fn observe(&mut self, timestamp: Option<gst::ClockTime>, behind: i64) {
        self.earliest = timestamp.map(|timestamp| {
            let behind = gst::ClockTime::from_nseconds(behind.max(0).unsigned_abs());
            // Twice the lateness, to catch up.
            timestamp.saturating_add(behind).saturating_add(behind)
        });
    }

    /// Forgets the lateness of earlier frames.
    pub fn flush(&mut self) {
        self.earliest = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(upstream: Option<gst::ClockTime>, frame_rate: gst::Fraction) -> Pace {
        let mut pace = Pace::default();
        pace.change(upstream, frame_rate);
        pace
    }

    const MS: fn(u64) -> gst::ClockTime = gst::ClockTime::from_mseconds;

    #[test]
    fn the_budget_is_what_is_asked_for_or_that_of_a_live_frame() {
        let milliseconds = |live: bool, rate: (i32, i32), budget| {
            let pace = pace(live.then_some(MS(5)), gst::Fraction::new(rate.0, rate.1));
            pace.budget(budget).map(|budget| budget.as_millis())
        };
        assert_eq!(milliseconds(true, (50, 1), -1), Some(20));
        assert_eq!(milliseconds(true, (0, 1), -1), Some(40));
        assert_eq!(milliseconds(false, (50, 1), -1), None);
        assert_eq!(milliseconds(true, (50, 1), 0), None);
        assert_eq!(milliseconds(false, (50, 1), 7_000_000), Some(7));
    }

    #[test]
    fn late_frames_have_no_time() {
        let budget = Duration::from_millis(40);
        let mut pace = pace(Some(MS(5)), gst::Fraction::new(25, 1));
        let are_late =
            |pace: &Pace| [240, 280, 320].map(|at| pace.time_left(Some(MS(at)), Some(MS(at + 30)), budget).is_zero());
        assert_eq!(are_late(&pace), [false; 3]);
        pace.observe(Some(MS(200)), 50_000_000);
        assert_eq!(are_late(&pace), [true, true, false]);
        pace.observe(Some(MS(200)), -90_000_000);
        assert_eq!(are_late(&pace), [false; 3]);
        pace.observe(Some(MS(200)), 50_000_000);
        pace.flush();
        assert_eq!(are_late(&pace), [false; 3]);
        assert_eq!(pace.time_left(None, None, budget), budget);
        for (delay, left) in [(3, 40), (25, 20), (44, 1), (46, 0), (500, 0)] {
            let time = pace.time_left(Some(MS(400)), Some(MS(400 + delay)), budget);
            assert_eq!(time.as_millis(), left, "{delay}");
        }
    }
}

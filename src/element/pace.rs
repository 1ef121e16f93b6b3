// SPDX-License-Identifier: MPL-2.0

//! How much time there is for a frame.

use std::time::Duration;

/// How long a frame of a live source lasts whose caps do not tell.
const USUAL_FRAME: Duration = Duration::from_millis(40);

/// What is known of the stream's pace.
#[derive(Debug, Default)]
pub struct Pace {
    /// The latency up to here; `None` if the source is not live.
    upstream: Option<gst::ClockTime>,
    frame_duration: Option<Duration>,
    /// The running time before which frames come too late at the sink.
    earliest: Option<gst::ClockTime>,
    /// How many frames in a row were late.
    late_frames: u32,
}

impl Pace {
    /// The pace of a source of this latency, which is `None` unless it is live, and this frame rate.
    pub fn new(upstream: Option<gst::ClockTime>, frame_rate: gst::Fraction) -> Self {
        let seconds = f64::from(frame_rate.denom()) / f64::from(frame_rate.numer());
        let frame_duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
        Self { upstream, frame_duration, ..Self::default() }
    }

    /// The time for a frame, given the property `frame-budget`; `None` if it does not matter.
    pub fn budget(&self, frame_budget: i64) -> Option<Duration> {
        match u64::try_from(frame_budget) {
            Ok(0) => None,
            Ok(nanoseconds) => Some(Duration::from_nanos(nanoseconds)),
            Err(_) => self.upstream.map(|_| self.frame_duration.unwrap_or(USUAL_FRAME)),
        }
    }

    /// The time for the frame of this running time out of a budget: none if it is late, but not for more than
    /// `max_late_frames` in a row. A frame is late if others were so at the sink, or if `now`, the running time by the
    /// clock, is when it should have left.
    pub fn time_for(
        &mut self,
        running_time: Option<gst::ClockTime>,
        now: Option<gst::ClockTime>,
        budget: Duration,
        max_late_frames: u32,
    ) -> Duration {
        let too_late = |(time, earliest)| time < earliest;
        let own = gst::ClockTime::try_from(budget).unwrap_or(gst::ClockTime::MAX);
        let leaves =
            running_time.zip(self.upstream).map(|(time, upstream)| time.saturating_add(upstream).saturating_add(own));
        let is_late = running_time.zip(self.earliest).is_some_and(too_late) || leaves.zip(now).is_some_and(too_late);
        if is_late && self.late_frames < max_late_frames {
            self.late_frames += 1;
            Duration::ZERO
        } else {
            self.late_frames = 0;
            budget
        }
    }

    /// Learns from a QoS event how far a frame was before (negative) or behind its time at the sink.
    pub fn observe(&mut self, timestamp: Option<gst::ClockTime>, behind: i64) {
        self.earliest = timestamp.map(|timestamp| {
            let behind = gst::ClockTime::from_nseconds(behind.max(0).unsigned_abs());
            // As far again, to catch up.
            timestamp.saturating_add(behind).saturating_add(behind)
        });
    }

    /// Forgets what frames were late.
    pub fn flush(&mut self) {
        (self.earliest, self.late_frames) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> gst::ClockTime = gst::ClockTime::from_mseconds;

    #[test]
    fn the_budget_is_what_is_asked_for_or_that_of_a_live_frame() {
        let milliseconds = |live: bool, rate: (i32, i32), budget| {
            let pace = Pace::new(live.then_some(MS(5)), gst::Fraction::new(rate.0, rate.1));
            pace.budget(budget).map(|budget| budget.as_millis())
        };
        assert_eq!(milliseconds(true, (50, 1), -1), Some(20));
        assert_eq!(milliseconds(true, (0, 1), -1), Some(40));
        assert_eq!(milliseconds(false, (50, 1), -1), None);
        assert_eq!(milliseconds(true, (50, 1), 0), None);
        assert_eq!(milliseconds(false, (50, 1), 7_000_000), Some(7));
    }

    #[test]
    fn late_frames_have_no_time_but_not_all_of_them() {
        let budget = Duration::from_millis(40);
        let mut pace = Pace::new(Some(MS(5)), gst::Fraction::new(25, 1));
        let times = |pace: &mut Pace| {
            [240, 280, 320, 360, 400].map(|at| pace.time_for(Some(MS(at)), Some(MS(at + 30)), budget, 2).is_zero())
        };
        assert_eq!(times(&mut pace), [false; 5]);
        pace.observe(Some(MS(200)), 90_000_000);
        assert_eq!(times(&mut pace), [true, true, false, true, false]);
        pace.observe(Some(MS(200)), -90_000_000);
        assert_eq!(times(&mut pace), [false; 5]);
        pace.observe(Some(MS(200)), 90_000_000);
        pace.flush();
        assert_eq!(times(&mut pace), [false; 5]);
        assert!(!pace.time_for(None, None, budget, 2).is_zero());
        for (delay, late) in [(44, false), (46, true), (46, true), (46, false)] {
            let time = pace.time_for(Some(MS(400)), Some(MS(400 + delay)), budget, 2);
            assert_eq!(time.is_zero(), late, "{delay}");
        }
    }
}

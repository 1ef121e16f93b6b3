// SPDX-License-Identifier: MPL-2.0

//! The time that there is for a frame.

use std::time::{Duration, Instant};

/// The duration of a frame of a live source whose caps have no frame rate.
const USUAL_FRAME: Duration = Duration::from_millis(40);
/// A gap this long clears the debt of late frames.
const PAUSE: Duration = Duration::from_millis(2);

/// How fast frames come and leave.
#[derive(Debug, Default)]
pub struct Pace {
    /// The latency upstream; `None` if the source is not live.
    pub upstream: Option<gst::ClockTime>,
    frame_duration: Option<Duration>,
    /// The running time before which frames come too late at the sink.
    earliest: Option<gst::ClockTime>,
    /// The number of late frames in a row.
    late_frames: u32,
    /// When the last frame was done.
    done: Option<Instant>,
    /// By how much frames exceeded their budgets since the last gap.
    debt: Duration,
    /// By which factor frames should come faster, as the sink says.
    proportion: f64,
    /// How late the last frame was, in nanoseconds.
    jitter: i64,
    /// The number of frames with iterations, and without.
    painted: u64,
    unpainted: u64,
}

/// What a QoS message says about a late frame.
#[derive(Debug, PartialEq)]
pub struct Lateness {
    /// Whether the source is live.
    pub is_live: bool,
    /// How late it was, in nanoseconds.
    pub jitter: i64,
    /// By which factor frames should come faster, as the sink says.
    pub proportion: f64,
    /// The number of frames with iterations so far.
    pub processed: u64,
    /// The number of frames without.
    pub dropped: u64,
}

impl Pace {
    /// Starts over for a source with this latency, which is `None` unless it is live, and this frame rate. The numbers of
    /// frames go on.
    pub fn change(&mut self, upstream: Option<gst::ClockTime>, frame_rate: gst::Fraction) {
        let seconds = f64::from(frame_rate.denom()) / f64::from(frame_rate.numer());
        let frame_duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
        let Self { painted, unpainted, .. } = *self;
        *self = Self { upstream, frame_duration, proportion: 1.0, painted, unpainted, ..Self::default() };
    }

    /// The time for a frame, given the property `frame-budget`; `None` if there is no limit.
    pub fn budget(&self, frame_budget: i64) -> Option<Duration> {
        match u64::try_from(frame_budget) {
            Ok(0) => None,
            Ok(nanoseconds) => Some(Duration::from_nanos(nanoseconds)),
            Err(_) => self.upstream.map(|_| self.frame_duration.unwrap_or(USUAL_FRAME)),
        }
    }

    /// Notes when a frame came.
    pub fn begin(&mut self, at: Instant) {
        if self.done.is_none_or(|done| at.saturating_duration_since(done) >= PAUSE) {
            self.debt = Duration::ZERO;
        }
    }

    /// Notes when a frame with a budget was done that came at `began`. If it exceeded its budget, the next frames get
    /// less time.
    pub fn end(&mut self, began: Instant, at: Instant, budget: Duration) {
        let spent = self.debt + at.saturating_duration_since(began);
        // At most one frame: sources and queues have dropped what is older.
        (self.debt, self.done) = (spent.saturating_sub(budget).min(budget), Some(at));
    }

    /// The time that is left for the frame of this running time: its budget, less its lateness by the clock, whose running
    /// time is `now`, and the debt of earlier frames.
    ///
    /// A late frame has none: one that should have left already, that comes before the time up to which the sink calls
    /// frames late, or with a debt of more than half a budget. After `max_late_frames` of them in a row the next one has
    /// its whole budget.
    pub fn time_left(
        &mut self,
        running_time: Option<gst::ClockTime>,
        now: Option<gst::ClockTime>,
        budget: Duration,
        max_late_frames: u32,
    ) -> Duration {
        let nanoseconds = |time: gst::ClockTime| i64::try_from(time.nseconds()).unwrap_or(i64::MAX);
        let own = gst::ClockTime::try_from(budget).unwrap_or(gst::ClockTime::MAX);
        let leaves =
            running_time.zip(self.upstream).map(|(time, upstream)| time.saturating_add(upstream).saturating_add(own));
        let ahead = leaves.zip(now).map(|(leaves, now)| nanoseconds(leaves).saturating_sub(nanoseconds(now)));
        self.jitter = -ahead.unwrap_or(0);
        let left = ahead.map_or(budget, |ahead| Duration::from_nanos(ahead.max(0).unsigned_abs()));
        let is_late = left.is_zero()
            || self.debt > budget / 2
            || running_time.zip(self.earliest).is_some_and(|(time, earliest)| time < earliest);
        if is_late && self.late_frames < max_late_frames {
            self.late_frames += 1;
            Duration::ZERO
        } else if is_late {
            self.late_frames = 0;
            budget
        } else {
            self.late_frames = 0;
            left.min(budget.saturating_sub(self.debt))
        }
    }

    /// Counts a frame. Returns how late it was if it had no iteration.
    pub fn count(&mut self, is_painted: bool) -> Option<Lateness> {
        let counter = if is_painted { &mut self.painted } else { &mut self.unpainted };
        *counter += 1;
        let Self { jitter, proportion, painted, unpainted, .. } = *self;
        let is_live = self.upstream.is_some();
        (!is_painted).then_some(Lateness { is_live, jitter, proportion, processed: painted, dropped: unpainted })
    }

    /// Learns from a QoS event how early (negative) or late a frame was at the sink.
    pub fn observe(&mut self, timestamp: Option<gst::ClockTime>, behind: i64, proportion: f64) {
        self.proportion = proportion;
        self.earliest = timestamp.map(|timestamp| {
            let behind = gst::ClockTime::from_nseconds(behind.max(0).unsigned_abs());
            // Twice the lateness, to catch up.
            timestamp.saturating_add(behind).saturating_add(behind)
        });
    }

    /// Forgets the lateness of earlier frames.
    pub fn flush(&mut self) {
        (self.earliest, self.late_frames, self.debt) = (None, 0, Duration::ZERO);
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
    fn late_frames_have_no_time_but_not_all_of_them() {
        let budget = Duration::from_millis(40);
        let mut pace = pace(Some(MS(5)), gst::Fraction::new(25, 1));
        let times = |pace: &mut Pace| {
            [240, 280, 320, 360, 400].map(|at| pace.time_left(Some(MS(at)), Some(MS(at + 30)), budget, 2).is_zero())
        };
        assert_eq!(times(&mut pace), [false; 5]);
        pace.observe(Some(MS(200)), 90_000_000, 1.5);
        assert_eq!(times(&mut pace), [true, true, false, true, false]);
        pace.observe(Some(MS(200)), -90_000_000, 1.5);
        assert_eq!(times(&mut pace), [false; 5]);
        pace.observe(Some(MS(200)), 90_000_000, 1.5);
        pace.flush();
        assert_eq!(times(&mut pace), [false; 5]);
        assert!(!pace.time_left(None, None, budget, 2).is_zero());
        for (delay, left) in [(3, 40), (25, 20), (44, 1), (46, 0), (46, 0), (46, 40)] {
            let time = pace.time_left(Some(MS(400)), Some(MS(400 + delay)), budget, 2);
            assert_eq!(time.as_millis(), left, "{delay}");
        }
    }

    #[test]
    fn frames_that_take_too_long_leave_less_time_to_others() {
        let ms = Duration::from_millis;
        let budget = ms(40);
        let mut pace = pace(Some(MS(5)), gst::Fraction::new(25, 1));
        let mut now = Instant::now();
        // Frames with iterations take 55 ms, others 20, and the next frame is always there.
        let mut frame = |pace: &mut Pace, wait: Duration| {
            let began = now + wait;
            pace.begin(began);
            let left = pace.time_left(None, None, budget, 10);
            now = began + if left.is_zero() { ms(20) } else { ms(55) };
            pace.end(began, now, budget);
            left.as_millis()
        };
        let times = [(); 7].map(|()| frame(&mut pace, Duration::ZERO));
        assert_eq!(times, [40, 25, 0, 30, 0, 35, 20]);
        assert_eq!(frame(&mut pace, ms(3)), 40);
        pace.flush();
        assert_eq!(frame(&mut pace, Duration::ZERO), 40);
    }

    #[test]
    fn frames_are_counted_and_late_ones_described() {
        let mut pace = pace(Some(MS(5)), gst::Fraction::new(25, 1));
        pace.observe(None, 0, 1.25);
        pace.time_left(Some(MS(400)), Some(MS(448)), Duration::from_millis(40), 2);
        assert_eq!(pace.count(true), None);
        let lateness = Lateness { is_live: true, jitter: 3_000_000, proportion: 1.25, processed: 1, dropped: 1 };
        assert_eq!(pace.count(false), Some(lateness));
        pace.change(Some(MS(5)), gst::Fraction::new(50, 1));
        assert_eq!(pace.count(false).map(|lateness| (lateness.processed, lateness.dropped)), Some((1, 2)));
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Says how far the painting is.

use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// How often a line is written where a bar cannot be drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// A bar on a terminal, a line now and then elsewhere.
pub struct Progress {
    bar: ProgressBar,
    last_line: Instant,
}

impl Progress {
    pub fn new() -> Self {
        let bar = ProgressBar::no_length();
        bar.set_style(style("{spinner} frame {pos}, {per_sec}, {elapsed} gone"));
        // The first frame takes the longest: something should move meanwhile.
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, last_line: Instant::now() }
    }

    /// Says how many frames there will be, if that is known.
    pub fn set_total(&self, frames: u64) {
        self.bar.set_length(frames);
        self.bar.set_style(style("{bar:30} frame {pos} of {len} ({percent}%), {per_sec}, {eta} left"));
    }

    pub fn has_total(&self) -> bool {
        self.bar.length().is_some()
    }

    pub fn update(&mut self, frames: u64) {
        if frames > self.bar.position() {
            self.bar.set_position(frames);
        }
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            let rate = self.bar.per_sec();
            match self.bar.length() {
                Some(total) => eprintln!(
                    "Frame {frames} of {total} ({}%), {rate:.2} per second, {} left",
                    100 * frames / total.max(1),
                    HumanDuration(self.bar.eta())
                ),
                None => eprintln!("Frame {frames}, {rate:.2} per second"),
            }
        }
    }

    /// Writes a line without disturbing the bar.
    pub fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are right")
}

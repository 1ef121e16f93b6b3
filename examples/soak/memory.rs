// SPDX-License-Identifier: MPL-2.0

//! Whether memory leaks.

use std::fs;

use crate::Result;

/// By how much memory may grow once it has settled, in megabytes: a preparation comes and goes.
const MOST_GROWTH_MB: u64 = 128;
/// By how much it may grow with each change of the style. Measurements of a run without a leak differ by less.
const MOST_GROWTH_FOR_A_CHANGE_MB: f64 = 16.0;
/// After so many changes of the style everything is in use that stays.
const SETTLING_CHANGES: usize = 2;
/// So many changes tell whether memory grows with them.
pub const ENOUGH_CHANGES: u64 = 8;

/// The resident memory of this process, in megabytes; `None` where the system does not tell.
pub fn rss_mb() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes / 1024)
}

/// Fails if memory grew by too much, in megabytes. Where the system does not tell there is nothing to check.
pub fn check_growth(settled: Option<u64>, last: Option<u64>) -> Result<()> {
    match settled.zip(last) {
        Some((settled, last)) if last > settled + MOST_GROWTH_MB => {
            Err(format!("memory grew from {settled} to {last} MB").into())
        }
        _ => Ok(()),
    }
}

/// The least memory in use between two changes of the style, with the number of changes before, in megabytes. A
/// preparation takes more, but not all the time.
#[derive(Default)]
pub struct Lows(Vec<(u64, u64)>);

impl Lows {
    pub fn note(&mut self, changes: u64, mb: u64) {
        match self.0.last_mut() {
            Some((last, low)) if *last == changes => *low = mb.min(*low),
            _ => self.0.push((changes, mb)),
        }
    }

    /// By how many megabytes memory grew with each change: the median slope between any two (Sen 1968). `None` if there
    /// were too few changes to tell.
    pub fn growth_for_a_change(&self) -> Option<f64> {
        // A preparation may take up the whole time that is left after the last change.
        let lows = self.0.get(SETTLING_CHANGES..self.0.len().checked_sub(1)?)?;
        let slope = |one: &(u64, u64), other: &(u64, u64)| (other.1 as f64 - one.1 as f64) / (other.0 - one.0) as f64;
        let pairs =
            lows.iter().enumerate().flat_map(|(n, one)| lows[n + 1..].iter().map(move |other| slope(one, other)));
        let mut slopes: Vec<f64> = pairs.collect();
        slopes.sort_unstable_by(f64::total_cmp);
        slopes.get(slopes.len() / 2).copied()
    }

    /// Fails if memory grew by too much with each change of the style.
    pub fn check(&self) -> Result<()> {
        match self.growth_for_a_change() {
            Some(growth) if growth > MOST_GROWTH_FOR_A_CHANGE_MB => {
                Err(format!("memory grew by {growth:.0} MB with each change of the style").into())
            }
            _ => Ok(()),
        }
    }
}

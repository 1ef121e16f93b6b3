// SPDX-License-Identifier: MPL-2.0

//! The memory that painting takes, known before it is allocated.

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use super::{Settings, Stylizer, WarmStart, long_side, scaler::Scaler, style_target::style_size, working_size};
use crate::{
    Error, Result,
    motion::{MotionEstimator, Warper},
    objective,
};

/// Values of a pixel while an image is optimized: three each for the content, the image, the image at the start, its
/// gradient with and without filtered rows, both moments of the optimizer; one each for the freshness of the paint and
/// the trust.
const OPTIMIZED_VALUES: usize = 7 * 3 + 2;
/// Those that stay between frames: content, stylized image, both moments, freshness.
const KEPT_VALUES: usize = 4 * 3 + 1;
/// Those that painting beside frames needs as well: the contents of the last frame and of those that are painted and
/// shown, the shown paint, and twice the flow, trust and change of a motion.
const BESIDE_VALUES: usize = 4 * 3 + 2 * 4;
/// More pixels than any machine has memory for. With them no sum of bytes overflows.
const MOST_PIXELS: usize = 1 << 40;

impl Stylizer {
    /// See [`memory_for`](Self::memory_for); the style picture has the size `picture`.
    pub(super) fn memory_with(
        &self,
        settings: &Settings,
        frame_size: (usize, usize),
        picture: (usize, usize),
    ) -> Option<u64> {
        let is_absurd = |(width, height): (usize, usize)| {
            width.max(height) > MOST_PIXELS || width.saturating_mul(height) > MOST_PIXELS
        };
        if [frame_size, picture].into_iter().any(is_absurd) {
            return Some(u64::MAX);
        }
        let size = working_size(frame_size, settings, picture);
        let pixels = |(width, height): (usize, usize)| width * height;
        let style =
            if picture == (0, 0) { picture } else { style_size(picture, settings.style_scale, long_side(size)) };
        if [size, style].into_iter().any(is_absurd) {
            return Some(u64::MAX);
        }
        let (layers, processor) = (&settings.layers, &self.processor);
        let objective = objective::memory_for(&self.weights, layers, &self.device, processor, size, style)?;

        let values = |count: usize, size| count * pixels(size) * size_of::<f32>();
        // The style is resized plane by plane.
        let styling = values(KEPT_VALUES, size) + values(3, style) + values(1, picture);
        let beside = if self.beside.has_begun() { BESIDE_VALUES } else { 0 };
        let images = values(OPTIMIZED_VALUES + beside, size).max(styling) + 3 * pixels(picture);
        let motion = if settings.need_motion() { MotionEstimator::memory_for(processor, size) } else { 0 };
        let follows = settings.warm_start == WarmStart::Flow;
        let warp = if follows { Warper::memory_for(size) } else { 0 };
        Some((objective + images + motion + warp + Scaler::memory_for(processor, frame_size, size)) as u64)
    }

    /// Takes note of how much memory the frames take, after one was painted.
    pub(super) fn note_memory(&mut self) {
        if let Some(frame_size) = self.frame_size {
            self.memory = self.memory_for(&self.settings, frame_size).unwrap_or(0);
        }
    }

    /// Checks that there is enough memory to paint frames of this size with these settings and a style picture of this
    /// size.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`].
    pub(super) fn check_memory(
        &self,
        settings: &Settings,
        frame_size: (usize, usize),
        picture: (usize, usize),
    ) -> Result<()> {
        let Some(needed) = self.memory_with(settings, frame_size, picture) else { return Ok(()) };
        let available = available(settings.memory_limit, self.memory);
        if needed <= available {
            return Ok(());
        }
        let fits = |working_size| {
            let settings = Settings { working_size, ..settings.clone() };
            self.memory_with(&settings, frame_size, picture).is_some_and(|needed| needed <= available)
        };
        let long_side = u32::try_from(long_side(working_size(frame_size, settings, picture))).unwrap_or(u32::MAX);
        // The largest that fits is at least `low`, unless even that does not, and below `high`.
        let (mut low, mut high) = (*Settings::WORKING_SIZES.start(), long_side);
        while low + 1 < high {
            let middle = low.midpoint(high);
            if fits(middle) { low = middle } else { high = middle }
        }
        let largest = Some(low).filter(|size| *size < long_side && fits(*size));
        let (width, height) = frame_size;
        Err(Error::Memory { what: "frames", width, height, working_size: long_side, needed, available, largest })
    }
}

/// The memory, in bytes, that a stylizer which takes `used` may take with this setting of the limit. What it takes
/// already will be used again or be given back.
pub(super) fn available(limit: u64, used: u64) -> u64 {
    match limit {
        0 => free_memory().saturating_add(used),
        limit => limit.max(used),
    }
}

/// The memory, in bytes, that the machine and the control group of the process have left. No limit where the system
/// does not tell.
fn free_memory() -> u64 {
    let Ok(mut system) = System::new() else { return u64::MAX };
    system.refresh_memory();
    let machine = Some(system.available_memory()).filter(|available| *available > 0).unwrap_or(u64::MAX);
    let group = sysinfo::get_current_pid().ok().and_then(|process| {
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[process]), false, ProcessRefreshKind::nothing());
        system.process(process)?.cgroup_limits()
    });
    machine.min(group.map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss)))
}

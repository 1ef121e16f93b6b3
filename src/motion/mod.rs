// SPDX-License-Identifier: MPL-2.0

//! The motion between frames: optical flow, how far to trust it, scene cuts, and warping along it.
//!
//! The flow is estimated on a pyramid of grey levels, from the coarsest level to the full size. On each level a search
//! for patches starts from the flow of the coarser level (dense inverse search, DIS), and a variational refinement makes
//! the result smooth wherever the picture allows. Both directions are estimated, from the new frame back to the last and
//! forth. Where they disagree the flow is not trusted.
//!
//! The work is divided into bands of rows, one or more for each thread. No result depends on the bands.

mod chain;
mod change;
mod consistency;
mod places;
mod pyramid;
mod refinement;
mod search;
mod warp;

use std::ops::Range;

use crate::{image::Image, processor::Processor};
use pyramid::{Plane, Pyramid};
use refinement::Refine;
use search::{Densify, Search, Start};
pub use warp::Warper;

/// Rounds of refinement on a level, and on the finest level, where a round takes longer than on all others together.
const ROUNDS: usize = 3;
const FINEST_ROUNDS: usize = 2;

/// Optical flow: a displacement for each pixel.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Flow {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Displacements to the right, in pixels: with x and y at `j * width + i`, what is at the pixel (i, j) of the new
    /// frame was at (i + x, j + y) in the last one.
    pub x: Vec<f32>,
    /// Displacements down, in pixels, in the same way.
    pub y: Vec<f32>,
}

impl Flow {
    /// The flow of a picture that stands still.
    pub fn zero(width: usize, height: usize) -> Self {
        Self { width, height, x: vec![0.0; width * height], y: vec![0.0; width * height] }
    }

    /// How far outside of the last frame the pixel of this index was: 0 inside, 1 at two pixels or more beyond the edge.
    pub(crate) fn share_outside(&self, pixel: usize) -> f32 {
        let beyond = |at: f32, length: usize| (-at).max(at - (length - 1) as f32);
        let (i, j) = ((pixel % self.width) as f32, (pixel / self.width) as f32);
        let beyond = beyond(i + self.x[pixel], self.width).max(beyond(j + self.y[pixel], self.height));
        (0.5 * beyond).clamp(0.0, 1.0)
    }

    fn resize(&mut self, (width, height): (usize, usize)) {
        (self.width, self.height) = (width, height);
        self.x.resize(width * height, 0.0);
        self.y.resize(width * height, 0.0);
    }

    /// Its rows in about `count` equal bands.
    fn bands(&mut self, count: usize) -> impl Iterator<Item = Band<'_>> {
        let (width, height) = (self.width, self.height);
        let rows = height.div_ceil(count);
        let chunks = self.x.chunks_mut(rows * width).zip(self.y.chunks_mut(rows * width));
        chunks.enumerate().map(move |(n, (x, y))| Band { rows: n * rows..height.min((n + 1) * rows), x, y })
    }
}

/// Some rows of a flow.
struct Band<'a> {
    rows: Range<usize>,
    x: &'a mut [f32],
    y: &'a mut [f32],
}

/// The motion from one frame to the next.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Motion {
    /// The displacement from each pixel of the new frame to its place in the last one.
    pub flow: Flow,
    /// How far to trust the flow of each pixel, from 0, not at all, to 1, fully. The edges between them are soft.
    pub trust: Vec<f32>,
    /// The difference of each pixel's smoothed grey level along the flow, in levels of 8-bit colour.
    pub change: Vec<f32>,
    /// The share of the frames' texture that the flow does not find again: near 0 within a scene, near 1 at a cut.
    pub novelty: f32,
}

/// Estimates the motion between frames.
///
/// The result is the same for any number of threads.
pub struct MotionEstimator {
    processor: Processor,
    last: Pyramid,
    new: Pyramid,
    backward: Direction,
    forward: Direction,
    motion: Motion,
}

/// The flow from one of the frames to the other, level by level.
#[derive(Default)]
struct Direction {
    flow: Flow,
    /// The flow of the coarser level, or the flow before a round of refinement.
    before: Flow,
    /// The displacements of the patches, by the last pass and by the one before.
    found: Vec<[f32; 2]>,
    found_before: Vec<[f32; 2]>,
    /// Memory for the jobs.
    sums: Vec<Vec<f32>>,
    memories: Vec<refinement::Memory>,
}

impl MotionEstimator {
    /// An estimator that computes with these threads and instructions.
    pub fn new(processor: Processor) -> Self {
        let (backward, forward) = (Direction::default(), Direction::default());
        let (last, new) = (Pyramid::default(), Pyramid::default());
        Self { processor, last, new, backward, forward, motion: Motion::default() }
    }

    /// The memory, in bytes, that an estimator takes at most for frames of this size.
    pub(crate) fn memory_for(processor: &Processor, size: (usize, usize)) -> usize {
        let pixels = |(width, height): (usize, usize)| width * height;
        // The flow and that before it, the search, and the refinement.
        let direction = |size: (usize, usize), bands: usize| {
            let rows = size.1.div_ceil(bands);
            2 * pixels(size) * size_of::<[f32; 2]>() + search::memory_for(size) + refinement::memory_for(size, rows)
        };
        let threads = processor.threads();
        let directions = direction(size, threads) + direction(pyramid::halves(size), threads.div_ceil(2));
        // Another flow, with trust and change, and what the check of consistency allocates.
        let motion = pixels(size) * 6 * size_of::<f32>();
        2 * pyramid::memory_for(size) + directions + motion
    }

    /// The motion from `last` to `new`, two frames of one size. It takes less time if `last` is the `new` of the call
    /// before.
    ///
    /// # Panics
    ///
    /// If the sizes differ, or the frames are empty.
    pub fn between(&mut self, last: &Image, new: &Image) -> &Motion {
        assert_eq!(last.size(), new.size(), "frames differ in size");
        assert!(!new.data().is_empty(), "the frames are empty");
        if self.new.shows(&self.processor, last) {
            std::mem::swap(&mut self.last, &mut self.new);
        } else {
            self.last.build(&self.processor, last);
        }
        self.new.build(&self.processor, new);

        let processor = &self.processor;
        let levels = self.new.levels().len();
        for (n, (last, new)) in self.last.levels().iter().zip(self.new.levels()).enumerate().rev() {
            let effort = if n + 1 == levels {
                Effort::Coarsest
            } else if n > 0 {
                Effort::Middle
            } else {
                Effort::Finest
            };
            let backward = (&mut self.backward, [new, last]);
            if effort == Effort::Finest {
                // The forward flow is only for the consistency check, for which half the size is enough.
                estimate(processor, &mut [backward], effort);
            } else {
                estimate(processor, &mut [backward, (&mut self.forward, [last, new])], effort);
            }
        }
        std::mem::swap(&mut self.motion.flow, &mut self.backward.flow);
        let flow = &self.motion.flow;
        let forward = (&self.forward.flow, 1.min(levels - 1));
        consistency::check(processor, flow, forward, &mut self.motion.trust);
        change::measure(processor, &mut self.motion, &self.last, &self.new);
        &self.motion
    }
}

/// How much is done on a level.
#[derive(Clone, Copy, PartialEq)]
enum Effort {
    /// The search starts without a flow.
    Coarsest,
    /// The search starts from the flow of the next coarser level.
    Middle,
    /// The same, but the patches do not look where their neighbours were found: they are close enough.
    Finest,
}

/// Estimates the flow of a level in one or both directions. Each comes with the picture at its start and at its end.
fn estimate(processor: &Processor, directions: &mut [(&mut Direction, [&Plane; 2])], effort: Effort) {
    search(processor, directions, effort);
    let rounds = if effort == Effort::Finest { FINEST_ROUNDS } else { ROUNDS };
    for _ in 0..rounds {
        refine(processor, directions);
    }
}

/// Estimates the flow by the search for patches.
fn search(processor: &Processor, directions: &mut [(&mut Direction, [&Plane; 2])], effort: Effort) {
    let bands = processor.threads().div_ceil(directions.len());
    for (direction, [picture, _]) in &mut *directions {
        let size = (picture.width(), picture.height());
        std::mem::swap(&mut direction.flow, &mut direction.before);
        direction.flow.resize(size);
        let count = search::patches_along(size.0) * search::patches_along(size.1);
        direction.found.resize(count, [0.0; 2]);
        direction.found_before.resize(count, [0.0; 2]);
        direction.sums.resize_with(bands, Vec::default);
    }
    let finest = effort == Effort::Finest;
    let passes = if finest { 1 } else { 2 };
    for pass in 0..passes {
        let mut tasks = Vec::new();
        for (direction, [picture, other]) in &mut *directions {
            let Direction { before, found, found_before, .. } = &mut **direction;
            std::mem::swap(found, found_before);
            let start = match (pass, effort) {
                (0, Effort::Coarsest) => Start::Still,
                (0, _) => Start::Coarser(before),
                _ => Start::Neighbours(found_before),
            };
            let rows = found.chunks_exact_mut(search::patches_along(picture.width())).enumerate();
            tasks.extend(rows.map(|(row, found)| Search { picture, other, start, settle: finest, row, found }));
        }
        processor.run_tasks(tasks.into_iter());
    }
    let mut tasks = Vec::new();
    for (direction, [picture, other]) in directions {
        let Direction { flow, found, sums, .. } = &mut **direction;
        tasks.extend(flow.bands(bands).zip(sums).map(|(Band { rows, x, y }, sums)| Densify {
            picture,
            other,
            found,
            rows,
            x,
            y,
            sums,
        }));
    }
    processor.run_tasks(tasks.into_iter());
}

/// Does a round of refinement.
fn refine(processor: &Processor, directions: &mut [(&mut Direction, [&Plane; 2])]) {
    let bands = processor.threads().div_ceil(directions.len());
    let mut tasks = Vec::new();
    for (direction, [picture, other]) in directions {
        let Direction { flow, before, memories, .. } = &mut **direction;
        std::mem::swap(flow, before);
        flow.resize((before.width, before.height));
        if memories.len() < bands {
            memories.resize_with(bands, Default::default);
        }
        let flow = flow.bands(bands).zip(memories);
        tasks.extend(flow.map(|(Band { rows, x, y }, memory)| Refine {
            picture,
            other,
            flow: before,
            rows,
            x,
            y,
            memory,
        }));
    }
    processor.run_tasks(tasks.into_iter());
}

// SPDX-License-Identifier: MPL-2.0

//! Where the things in a frame were in the last one.
//!
//! The flow is found on a pyramid of grey levels, from the coarsest level to the full size. On each level patches are
//! searched, starting from the flow of the level before (dense inverse search), and what they say is refined to a flow
//! that is smooth wherever the picture allows (variational refinement). This is done in both directions, from the new
//! frame back to the last and forth, and where the two disagree the flow is not to be trusted.
//!
//! All of it is done in bands of rows, whose number follows that of the threads. No result depends on them.

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

/// Rounds of refinement on a level, and on the finest, where one takes longer than on all others together.
const ROUNDS: usize = 3;
const FINEST_ROUNDS: usize = 2;

/// A displacement for each pixel.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Flow {
    /// Width and height in pixels.
    pub width: usize,
    pub height: usize,
    /// To the right and down, in pixels: the pixel (i, j) was at (i + x, j + y), with x and y at `j * width + i`.
    pub x: Vec<f32>,
    pub y: Vec<f32>,
}

impl Flow {
    /// A flow of no motion.
    pub fn zero(width: usize, height: usize) -> Self {
        Self { width, height, x: vec![0.0; width * height], y: vec![0.0; width * height] }
    }

    /// How far the pixel of this number was outside of the frame: 0 inside, 1 from two pixels beyond its edge on.
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
    /// Where each pixel of the new frame was in the last one.
    pub flow: Flow,
    /// How far to trust the flow of each pixel: 1 fully, 0 not at all, and a soft edge between.
    pub trust: Vec<f32>,
    /// How far the smoothed grey level of each pixel is from what it was along the flow, in levels of 8-bit colour.
    pub change: Vec<f32>,
    /// The share of the frames' texture that the flow does not find again: near 0 from one frame to the next, near 1
    /// from one scene to another.
    pub novelty: f32,
}

/// Finds the motion between frames.
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
    /// What the flow is made from: that of the coarser level, or that before a round of refinement.
    before: Flow,
    /// Where the patches were found, in the last pass and in the one before.
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

    /// The motion from `last` to `new`, two frames of one size. It takes less time if `last` is what `new` was before.
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
                // The flow forth only serves to check that back, for which half the size is enough.
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

/// What is done on a level.
#[derive(Clone, Copy, PartialEq)]
enum Effort {
    /// The search begins without any flow.
    Coarsest,
    /// It begins with the flow of the next coarser level.
    Middle,
    /// As there, but what is found is good already and need not be told to the neighbours.
    Finest,
}

/// Finds the flow of a level in some directions, each with the picture it starts from and that it leads to.
fn estimate(processor: &Processor, directions: &mut [(&mut Direction, [&Plane; 2])], effort: Effort) {
    search(processor, directions, effort);
    let rounds = if effort == Effort::Finest { FINEST_ROUNDS } else { ROUNDS };
    for _ in 0..rounds {
        refine(processor, directions);
    }
}

/// Finds the flow by patches.
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

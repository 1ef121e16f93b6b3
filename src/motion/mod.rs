// SPDX-License-Identifier: MPL-2.0

//! Where the things in a frame were in the last one.

mod consistency;
mod pyramid;
mod refinement;
mod search;
mod warp;

use std::{ops::Range, sync::Arc};

use crate::{
    kernels::{Kind, Pool, Task, Vector},
    stylizer::Image,
};
use pyramid::{Plane, Pyramid};
use refinement::Refine;
use search::{Densify, Match, Search, Start};
pub use warp::Warper;

/// The finest level of the pyramid on which patches are searched. On finer ones their flow is only refined.
const FINEST_SEARCH: usize = 1;
/// Rounds of refinement on a level.
const ROUNDS: usize = 2;

/// A displacement for each pixel.
#[derive(Debug, Clone, PartialEq, Default)]
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

    fn resize(&mut self, (width, height): (usize, usize)) {
        (self.width, self.height) = (width, height);
        self.x.resize(width * height, 0.0);
        self.y.resize(width * height, 0.0);
    }

    /// The displacement at a place, between the pixels by bilinear interpolation, beyond the edges as at the edge.
    #[inline(always)]
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        let axis = |at: f32, length: usize| {
            let at = at.clamp(0.0, (length - 1) as f32);
            let first = at as usize;
            (first, (first + 1).min(length - 1), at - first as f32)
        };
        let (left, right, right_share) = axis(x, self.width);
        let (top, bottom, lower_share) = axis(y, self.height);
        let (upper, lower) = (top * self.width, bottom * self.width);
        let blend = |plane: &[f32]| {
            let row = |start: usize| plane[start + left] + right_share * (plane[start + right] - plane[start + left]);
            let above = row(upper);
            above + lower_share * (row(lower) - above)
        };
        (blend(&self.x), blend(&self.y))
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
pub struct Motion {
    /// Where each pixel of the new frame was in the last one.
    pub flow: Flow,
    /// How far to trust the flow of each pixel: 1 fully, 0 not at all, and a soft edge between.
    pub trust: Vec<f32>,
}

/// Finds the motion between frames.
///
/// The result is the same for any number of threads.
pub struct MotionEstimator {
    pool: Arc<Pool>,
    kind: Kind,
    last: Pyramid,
    new: Pyramid,
    backward: Direction,
    forward: Direction,
    check: consistency::Memory,
    motion: Motion,
}

/// The flow from one of the frames to the other, level by level.
#[derive(Default)]
struct Direction {
    flow: Flow,
    /// What the flow is made from: that of the coarser level, or that before a round of refinement.
    before: Flow,
    matches: Vec<Match>,
    matches_before: Vec<Match>,
    sums: Vec<Vec<f32>>,
    memories: Vec<refinement::Memory>,
}

impl MotionEstimator {
    /// # Panics
    ///
    /// If the processor does not have these instructions.
    pub fn new(pool: Arc<Pool>, kind: Kind) -> Self {
        assert!(kind.is_supported(), "this processor does not have {}", kind.name());
        let (backward, forward) = (Direction::default(), Direction::default());
        let (last, new) = (Pyramid::default(), Pyramid::default());
        Self { pool, kind, last, new, backward, forward, check: Default::default(), motion: Motion::default() }
    }

    /// The motion from `last` to `new`, two frames of one size. It takes less time if `last` is what `new` was before.
    ///
    /// # Panics
    ///
    /// If the sizes differ.
    pub fn between(&mut self, last: &Image, new: &Image) -> &Motion {
        assert_eq!(last.size(), new.size(), "frames differ in size");
        if self.new.shows(self.kind, last) {
            std::mem::swap(&mut self.last, &mut self.new);
        } else {
            self.last.build(self.kind, last);
        }
        self.new.build(self.kind, new);

        let (pool, kind) = (&*self.pool, self.kind);
        let levels = self.new.levels().len();
        let finest_search = FINEST_SEARCH.min(levels - 1);
        for n in (finest_search..levels).rev() {
            let pictures = [&self.last.levels()[n], &self.new.levels()[n]];
            let bands = pool.threads().div_ceil(2);
            let coarsest = n + 1 == levels;
            let mut directions = [(&mut self.forward, pictures), (&mut self.backward, [pictures[1], pictures[0]])];
            search(pool, kind, &mut directions, coarsest, bands);
            for _ in 0..ROUNDS {
                refine(pool, kind, &mut directions, bands);
            }
        }
        for n in (0..finest_search).rev() {
            let pictures = [&self.new.levels()[n], &self.last.levels()[n]];
            self.backward.enlarge(pool, kind, (pictures[0].width(), pictures[0].height()));
            for _ in 0..ROUNDS {
                refine(pool, kind, &mut [(&mut self.backward, pictures)], pool.threads());
            }
        }
        std::mem::swap(&mut self.motion.flow, &mut self.backward.flow);
        let flow = &self.motion.flow;
        consistency::check(pool, kind, flow, &self.forward.flow, &mut self.check, &mut self.motion.trust);
        &self.motion
    }
}

/// Finds the flow of a level by patches, from that of the next coarser one.
fn search(pool: &Pool, kind: Kind, directions: &mut [(&mut Direction, [&Plane; 2])], coarsest: bool, bands: usize) {
    for (direction, [picture, _]) in &mut *directions {
        let size = (picture.width(), picture.height());
        std::mem::swap(&mut direction.flow, &mut direction.before);
        direction.flow.resize(size);
        let count = search::patches_along(size.0) * search::patches_along(size.1);
        direction.matches.resize(count, Match::default());
        direction.matches_before.resize(count, Match::default());
        direction.sums.resize_with(bands, Vec::default);
    }
    for propagate in [false, true] {
        let mut tasks = Vec::new();
        for (direction, [picture, other]) in &mut *directions {
            let Direction { before, matches, matches_before, .. } = &mut **direction;
            let (start, matches) = match (propagate, coarsest) {
                (true, _) => (Start::Neighbours(matches_before), matches),
                (false, true) => (Start::Still, matches_before),
                (false, false) => (Start::Coarser(before), matches_before),
            };
            let rows = matches.chunks_exact_mut(search::patches_along(picture.width())).enumerate();
            tasks.extend(rows.map(|(row, matches)| Search { picture, other, start, row, matches }));
        }
        pool.run_tasks(kind, tasks.into_iter());
    }
    let mut tasks = Vec::new();
    for (direction, [picture, _]) in directions {
        let Direction { flow, matches, sums, .. } = &mut **direction;
        let size = (picture.width(), picture.height());
        tasks.extend(flow.bands(bands).zip(sums).map(|(Band { rows, x, y }, sums)| Densify {
            matches,
            size,
            rows,
            x,
            y,
            sums,
        }));
    }
    pool.run_tasks(kind, tasks.into_iter());
}

/// Does a round of refinement.
fn refine(pool: &Pool, kind: Kind, directions: &mut [(&mut Direction, [&Plane; 2])], bands: usize) {
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
    pool.run_tasks(kind, tasks.into_iter());
}

impl Direction {
    /// Takes the flow to the next finer level.
    fn enlarge(&mut self, pool: &Pool, kind: Kind, size: (usize, usize)) {
        std::mem::swap(&mut self.flow, &mut self.before);
        self.flow.resize(size);
        let tasks = self.flow.bands(pool.threads()).map(|band| Enlarge { flow: &self.before, band });
        pool.run_tasks(kind, tasks);
    }
}

/// Fills rows of a flow from one of half the size.
struct Enlarge<'a> {
    flow: &'a Flow,
    band: Band<'a>,
}

impl Task for Enlarge<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { flow, band: Band { rows, x, y } } = self;
        let width = x.len() / rows.len();
        for (from, to) in [(&flow.x, x), (&flow.y, y)] {
            for (row, to) in rows.clone().zip(to.chunks_exact_mut(width)) {
                // Of the two nearest rows or columns the nearer counts three times. The factor doubles the length.
                let near = row / 2;
                let far = if row % 2 == 0 { near.saturating_sub(1) } else { (near + 1).min(flow.height - 1) };
                let [near, far] = [near, far].map(|row| &from[row * flow.width..][..flow.width]);
                let value = |n: usize| 1.5 * near[n] + 0.5 * far[n];
                for (n, to) in to.iter_mut().enumerate() {
                    let near = n / 2;
                    let far = if n % 2 == 0 { near.saturating_sub(1) } else { (near + 1).min(flow.width - 1) };
                    *to = 0.75 * value(near) + 0.25 * value(far);
                }
            }
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

//! How much each pixel changed along the flow, and how much of the frame is new, which tells a scene cut.

use std::ops::Range;

use super::{
    Flow, Motion,
    places::{Places, between_levels},
    pyramid::{Plane, Pyramid},
};
use crate::processor::{Processor, Task, Vector};

/// How many levels lie between the finer and the coarser of the two that are compared.
const LEVELS_BETWEEN: usize = 2;

/// The mean square, in grey levels, of the noise of cameras and codecs that is left on a coarse level of two frames.
const NOISE: f32 = 8.0;

/// Fills in the change of each pixel and the novelty of the frame, from flow and trust.
///
/// Both are measured on a coarse level of the pyramid, which has no noise and no detail too fine for the flow. The
/// novelty compares texture: the difference between this level and the coarsest one, which neither a flash nor a fade
/// changes. With n the texture of the new frame and l that of the last one, warped, it is
/// `sum of (n^2 + l^2 - trust * max(2 n l, 0)) / sum of (n^2 + l^2 + NOISE)`. Frames of less than 31 pixels on the long
/// side have a single level, and a novelty of 0.
pub fn measure(processor: &Processor, motion: &mut Motion, last: &Pyramid, new: &Pyramid) {
    let Motion { flow, trust, change, novelty } = motion;
    let coarsest = new.levels().len() - 1;
    let level = coarsest.saturating_sub(LEVELS_BETWEEN);
    let fine = &new.levels()[level];
    let (width, height) = (fine.width(), fine.height());

    let mut changes = vec![0.0; width * height];
    let mut textures = vec![Texture::default(); height];
    let rows = height.div_ceil(processor.threads());
    let bands = changes.chunks_mut(rows * width).zip(textures.chunks_mut(rows)).enumerate();
    processor.run_tasks(bands.map(|(n, (changes, textures))| Compare {
        flow,
        trust,
        last: [&last.levels()[level], &last.levels()[coarsest]],
        new: [fine, &new.levels()[coarsest]],
        levels: [level, coarsest - level],
        first_row: n * rows,
        changes,
        textures,
    }));
    let sum = |of: fn(&Texture) -> f32| textures.iter().map(of).sum::<f32>();
    *novelty = sum(|texture| texture.new) / sum(|texture| texture.all);

    change.resize(flow.width * flow.height, 0.0);
    let rows = flow.height.div_ceil(processor.threads());
    let bands = change.chunks_mut(rows * flow.width).enumerate();
    processor.run_tasks(bands.map(|(n, change)| Enlarge {
        changes: &changes,
        size: (width, height),
        level,
        width: flow.width,
        first_row: n * rows,
        change,
    }));
}

/// The energy of the texture of a row in both frames, in squared grey levels: all of it, and what the flow does not find
/// again.
#[derive(Clone, Default)]
struct Texture {
    all: f32,
    new: f32,
}

/// Compares the frames in some rows of a level.
struct Compare<'a> {
    flow: &'a Flow,
    trust: &'a [f32],
    /// The compared level and the coarsest.
    last: [&'a Plane; 2],
    new: [&'a Plane; 2],
    /// The number of levels from the full size to the compared one, and from there to the coarsest.
    levels: [usize; 2],
    first_row: usize,
    changes: &'a mut [f32],
    textures: &'a mut [Texture],
}

impl Task for Compare<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { flow, trust, last: [last, last_coarse], new: [new, new_coarse], first_row, .. } = self;
        let width = new.width();
        let side = 1 << self.levels[0];
        let to_coarse = between_levels(self.levels[1]);
        let mut places = Places::default();
        let mut sums = vec![0.0; flow.width];
        let mut rows = [(); 6].map(|()| vec![0.0; width]);
        let [flow_x, flow_y, trusts, there, base, base_there] = &mut rows;
        for (n, (changes, texture)) in self.changes.chunks_exact_mut(width).zip(self.textures).enumerate() {
            let y = first_row + n;
            let covered = y * side..flow.height.min((y + 1) * side);
            means(&flow.x, covered.clone(), &mut sums, side, flow_x);
            means(&flow.y, covered.clone(), &mut sums, side, flow_y);
            means(trust, covered, &mut sums, side, trusts);

            let (y, scale) = (y as f32, 1.0 / side as f32);
            let moves = flow_x.iter().zip(&*flow_y).enumerate();
            let to = moves.map(|(x, (by_x, by_y))| (x as i32 as f32 + scale * by_x, y + scale * by_y));
            let size = |plane: &Plane| (plane.width(), plane.height());
            places.set(size(last), last.stride(), to.clone());
            places.look_up(last.rows_from(0, 0), there);
            places.set(size(last_coarse), last_coarse.stride(), to.map(|(x, y)| (to_coarse(x), to_coarse(y))));
            places.look_up(last_coarse.rows_from(0, 0), base_there);
            let here = (0..width).map(|x| (to_coarse(x as i32 as f32), to_coarse(y)));
            places.set(size(new_coarse), new_coarse.stride(), here);
            places.look_up(new_coarse.rows_from(0, 0), base);

            for (x, &grey) in new.row(first_row + n).iter().enumerate() {
                changes[x] = (grey - there[x]).abs();
                let (here, there) = (grey - base[x], there[x] - base_there[x]);
                let energy = here * here + there * there;
                texture.all += energy + NOISE;
                texture.new += energy - trusts[x] * (2.0 * here * there).max(0.0);
            }
        }
    }
}

/// The means over squares of `side` pixels, fewer at the edges, in these rows of a plane that is as wide as `sums`.
#[inline(always)]
fn means(plane: &[f32], rows: Range<usize>, sums: &mut [f32], side: usize, to: &mut [f32]) {
    let count = rows.len();
    sums.fill(0.0);
    for row in rows {
        let row = &plane[row * sums.len()..][..sums.len()];
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    for (to, sums) in to.iter_mut().zip(sums.chunks(side)) {
        *to = sums.iter().sum::<f32>() / (count * sums.len()) as f32;
    }
}

/// Enlarges some rows of the change to full size.
struct Enlarge<'a> {
    changes: &'a [f32],
    /// Width and height of the level.
    size: (usize, usize),
    level: usize,
    width: usize,
    first_row: usize,
    change: &'a mut [f32],
}

impl Task for Enlarge<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let to_level = between_levels(self.level);
        let mut places = Places::default();
        for (n, change) in self.change.chunks_exact_mut(self.width).enumerate() {
            let y = to_level((self.first_row + n) as f32);
            places.set(self.size, self.size.0, (0..self.width).map(|x| (to_level(x as i32 as f32), y)));
            places.look_up(self.changes, change);
        }
    }
}

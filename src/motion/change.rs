// SPDX-License-Identifier: MPL-2.0

//! What is not the same along the flow: how much each pixel changed, and how much of the frame is new, which tells a
//! scene cut.

use super::{
    Flow, Motion,
    pyramid::{Plane, Pyramid},
};

/// How many levels lie between the finer and the coarser of the two that are compared.
const LEVELS_BETWEEN: usize = 2;

/// Mean square of what the noise of cameras and codecs leaves in two frames on a coarse level, in grey levels.
const NOISE: f32 = 8.0;

/// Fills in the change of each pixel and the novelty of the frame, from flow and trust.
///
/// Both come from a level of the pyramid, where there is neither noise nor the fine detail that no flow follows
/// exactly. The novelty compares texture, which is what this level has more than the coarsest one and which neither a
/// flash nor a fade changes: with n and l the texture of the new frame and that of the last, moved, it is
/// `1 - sum of trust * max(2 n l, 0) / sum of (n^2 + l^2)`, where noise does not count. Of frames of less than 32 pixels
/// on the long side nothing can be told, and it is 0.
pub fn measure(motion: &mut Motion, last: &Pyramid, new: &Pyramid) {
    let Motion { flow, trust, change, novelty } = motion;
    let coarsest = new.levels().len() - 1;
    let level = coarsest.saturating_sub(LEVELS_BETWEEN);
    let [(last, last_coarse), (new, new_coarse)] =
        [last, new].map(|pyramid| (&pyramid.levels()[level], &pyramid.levels()[coarsest]));
    let to_coarse = to_level(coarsest - level);

    let mut changes = Plane::new(new.width(), new.height());
    let (mut all, mut new_texture) = (0.0, 0.0);
    for y in 0..new.height() {
        for x in 0..new.width() {
            let (flow_x, flow_y, trust) = mean(flow, trust, level, (x, y));
            let (there_x, there_y) = (x as f32 + flow_x, y as f32 + flow_y);
            let (grey, grey_there) = (new.row(y)[x], at(last, there_x, there_y));
            changes.row_mut(y)[x] = (grey - grey_there).abs();
            let here = grey - at(new_coarse, to_coarse(x as f32), to_coarse(y as f32));
            let there = grey_there - at(last_coarse, to_coarse(there_x), to_coarse(there_y));
            let energy = here * here + there * there;
            all += energy + NOISE;
            new_texture += energy - trust * (2.0 * here * there).max(0.0);
        }
    }
    *novelty = new_texture / all;

    changes.extend_border();
    let to_level = to_level(level);
    change.clear();
    for y in 0..flow.height {
        change.extend((0..flow.width).map(|x| at(&changes, to_level(x as f32), to_level(y as f32))));
    }
}

/// From the coordinate of a pixel to that of its place so many levels coarser.
fn to_level(levels: usize) -> impl Fn(f32) -> f32 {
    let scale = 0.5_f32.powi(levels as i32);
    move |at| (at + 0.5) * scale - 0.5
}

/// The grey level of a plane at a place, beyond the edges as at the edge.
fn at(plane: &Plane, x: f32, y: f32) -> f32 {
    plane.at(x.clamp(0.0, (plane.width() - 1) as f32), y.clamp(0.0, (plane.height() - 1) as f32))
}

/// Means over the pixels that make up a pixel of this level: the flow in pixels of the level, and the trust.
fn mean<'a>(flow: &'a Flow, trust: &'a [f32], level: usize, (x, y): (usize, usize)) -> (f32, f32, f32) {
    let side = 1 << level;
    let columns = x * side..flow.width.min((x + 1) * side);
    let (mut sums, mut count) = ((0.0, 0.0, 0.0), 0);
    for row in y * side..flow.height.min((y + 1) * side) {
        let of_row = |plane: &'a [f32]| plane[row * flow.width..][columns.clone()].iter();
        for ((x, y), trust) in of_row(&flow.x).zip(of_row(&flow.y)).zip(of_row(trust)) {
            sums = (sums.0 + x, sums.1 + y, sums.2 + trust);
            count += 1;
        }
    }
    let share = 1.0 / count as f32;
    (sums.0 * share / side as f32, sums.1 * share / side as f32, sums.2 * share)
}

// SPDX-License-Identifier: MPL-2.0

//! How much of a frame is new, which tells a scene cut.

use super::{
    Flow,
    pyramid::{Plane, Pyramid},
};

/// How many levels lie between the finer and the coarser of the two that are compared.
const LEVELS_BETWEEN: usize = 2;

/// Mean square of what the noise of cameras and codecs leaves in two frames on a coarse level, in grey levels.
const NOISE: f32 = 8.0;

/// The share of the texture of two frames, `last` and `new`, that is not the same along the flow from the new to the
/// last: 0 if all of it is found again, 1 if none is.
///
/// Texture is what a level of the pyramid has more than the coarsest one: neither fine detail, which no flow follows
/// exactly, nor brightness, which a flash or a fade changes. With n and l the texture of the new frame and that of the
/// last, moved, the share is `1 - sum of trust * max(2 n l, 0) / sum of (n^2 + l^2)`, where noise does not count. Of
/// frames of less than 32 pixels on the long side nothing can be told: 0.
pub fn novelty(flow: &Flow, trust: &[f32], last: &Pyramid, new: &Pyramid) -> f32 {
    let coarsest = new.levels().len() - 1;
    let level = coarsest.saturating_sub(LEVELS_BETWEEN);
    let texture = |pyramid: &Pyramid, x: f32, y: f32| {
        let (fine, coarse) = (&pyramid.levels()[level], &pyramid.levels()[coarsest]);
        let scale = 0.5_f32.powi((coarsest - level) as i32);
        let on_coarse = |at: f32| (at + 0.5) * scale - 0.5;
        at(fine, x, y) - at(coarse, on_coarse(x), on_coarse(y))
    };
    let (mut all, mut new_texture) = (0.0, 0.0);
    let plane = &new.levels()[level];
    for y in 0..plane.height() {
        for x in 0..plane.width() {
            let (flow_x, flow_y, trust) = mean(flow, trust, level, (x, y));
            let here = texture(new, x as f32, y as f32);
            let there = texture(last, x as f32 + flow_x, y as f32 + flow_y);
            let energy = here * here + there * there;
            all += energy + NOISE;
            new_texture += energy - trust * (2.0 * here * there).max(0.0);
        }
    }
    new_texture / all
}

/// The level of a plane at a place, beyond the edges as at the edge.
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

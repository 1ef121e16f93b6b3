// SPDX-License-Identifier: MPL-2.0

//! Bilinear interpolation in a plane.

/// Added to a number from 0 to 2^23, it leaves the nearest integer in the lower bits. A cast would take a branch for
/// numbers out of range.
const WHOLE: f32 = (1 << 23) as f32;

/// Places in a plane, with the pixels and weights to interpolate there. These are computed many at a time; only fetching
/// the values goes one by one.
#[derive(Default)]
pub struct Places {
    /// The index of the pixel above and to the left of each place.
    starts: Vec<u32>,
    /// The distance from that pixel to the right and down, 0 to 1 pixel.
    right_shares: Vec<f32>,
    lower_shares: Vec<f32>,
    /// The offsets to the next pixel on the right and to the next below.
    next: [usize; 2],
}

impl Places {
    /// Sets the places, in a plane of this size whose rows are `stride` values apart. Places beyond the edges are moved to
    /// the edge.
    #[inline(always)]
    pub fn set(
        &mut self,
        (width, height): (usize, usize),
        stride: usize,
        places: impl ExactSizeIterator<Item = (f32, f32)>,
    ) {
        let axis = |at: f32, length: usize| {
            let at = at.max(0.0).min((length - 1) as f32);
            // There is another pixel after it, unless the plane has only one.
            let before = (at - 0.5).max(0.0).min(length.saturating_sub(2) as f32) + WHOLE;
            (before.to_bits() - WHOLE.to_bits(), at - (before - WHOLE))
        };
        self.next = [1.min(width - 1), stride * 1.min(height - 1)];
        self.starts.resize(places.len(), 0);
        self.right_shares.resize(places.len(), 0.0);
        self.lower_shares.resize(places.len(), 0.0);
        let shares = self.right_shares.iter_mut().zip(&mut self.lower_shares);
        for ((start, (right_share, lower_share)), (x, y)) in self.starts.iter_mut().zip(shares).zip(places) {
            let (left, top);
            (left, *right_share) = axis(x, width);
            (top, *lower_share) = axis(y, height);
            *start = top * stride as u32 + left;
        }
    }

    /// The values of a plane at the places.
    #[inline(always)]
    pub fn look_up(&self, plane: &[f32], values: &mut [f32]) {
        let [right, below] = self.next;
        let shares = self.right_shares.iter().zip(&self.lower_shares);
        for ((value, start), (right_share, lower_share)) in values.iter_mut().zip(&self.starts).zip(shares) {
            let upper = *start as usize;
            let lower = upper + below;
            let left = (1.0 - lower_share) * plane[upper] + lower_share * plane[lower];
            let next = (1.0 - lower_share) * plane[upper + right] + lower_share * plane[lower + right];
            *value = (1.0 - right_share) * left + right_share * next;
        }
    }
}

/// Converts the coordinate of a pixel to that of its place on a level that is so many levels coarser.
#[inline(always)]
pub fn between_levels(levels: usize) -> impl Fn(f32) -> f32 + Copy {
    let scale = 1.0 / (1 << levels) as f32;
    move |at| (at + 0.5) * scale - 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values at some places of a plane whose values are `x + 10 y`, and which lies in rows of `width + 3`.
    fn looked_up((width, height): (usize, usize), places: &[(f32, f32)]) -> Vec<f32> {
        let stride = width + 3;
        let value = |n: usize| if n % stride < width { (n % stride + 10 * (n / stride)) as f32 } else { f32::NAN };
        let plane: Vec<f32> = (0..stride * height).map(value).collect();
        let mut looked_up = vec![0.0; places.len()];
        let mut memory = Places::default();
        memory.set((width, height), stride, places.iter().copied());
        memory.look_up(&plane, &mut looked_up);
        looked_up
    }

    #[test]
    fn values_between_pixels_are_interpolated() {
        let places = [(0.0, 0.0), (2.0, 1.0), (0.5, 0.0), (1.25, 0.5), (1.75, 1.9), (0.999, 2.0), (3.0, 2.0)];
        for ((x, y), value) in places.into_iter().zip(looked_up((4, 3), &places)) {
            assert!((value - (x + 10.0 * y)).abs() < 1e-4, "{x} {y}: {value}");
        }
    }

    #[test]
    fn beyond_the_edges_it_is_as_at_the_edge() {
        let places = [(-0.1, 0.5), (-1e9, -3.0), (3.2, 1.0), (1e9, 1e9), (1.5, -7.0), (1.5, 2.5)];
        assert_eq!(looked_up((4, 3), &places), [5.0, 0.0, 13.0, 23.0, 1.5, 21.5]);
        assert_eq!(looked_up((1, 1), &places), [0.0; 6]);
        assert_eq!(looked_up((1, 3), &places), [5.0, 0.0, 10.0, 20.0, 0.0, 20.0]);
        assert_eq!(looked_up((4, 1), &places), [0.0, 0.0, 3.0, 3.0, 1.5, 1.5]);
    }
}

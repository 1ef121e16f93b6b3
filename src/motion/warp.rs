// SPDX-License-Identifier: MPL-2.0

//! Warping: moves images along a flow.
//!
//! The interpolation is the cubic B-spline through the pixels (Unser 1999, "Splines: a perfect fit for signal and image
//! processing"). Images are warped again with every frame, and each time an interpolation takes something from fine
//! detail. This one takes less than a Catmull-Rom kernel of the same four by four pixels. And it amplifies no frequency,
//! while the ringing of a Lanczos kernel grows from frame to frame.

use super::Flow;
use crate::processor::{LANES, Lanes, Processor, Task, Vector};

/// How many rows a job takes.
const BAND: usize = 16;

/// How many coefficients a pixel needs in each direction.
const TAPS: usize = 4;
/// How many coefficients there are beyond the left and the upper edge, and beyond both edges together.
const BEFORE: usize = 1;
const BEYOND: usize = TAPS - 1;

/// The reach of the filter from pixels to coefficients. The part that is cut off is below 1e-5.
const REACH: usize = 8;
/// That filter from its centre outwards: powers of sqrt(3) - 2 (Unser 1999), normalized to a sum of 1 over both sides.
const FILTER: [f32; REACH + 1] = {
    const POLE: f64 = -0.267_949_192_431_122_7;
    let (mut filter, mut sum) = ([1.0; REACH + 1], 1.0);
    let mut n = 1;
    while n <= REACH {
        filter[n] = filter[n - 1] * POLE;
        sum += 2.0 * filter[n];
        n += 1;
    }
    let mut rounded = [0.0; REACH + 1];
    n = 0;
    while n <= REACH {
        rounded[n] = (filter[n] / sum) as f32;
        n += 1;
    }
    rounded
};

/// Warps images. It reuses its memory.
pub struct Warper {
    processor: Processor,
    /// For each pixel those of up to [`LANES`] planes, which are interpolated together.
    coefficients: Vec<Lanes>,
}

impl Warper {
    /// A warper that computes with these threads and instructions.
    pub fn new(processor: Processor) -> Self {
        Self { processor, coefficients: Vec::new() }
    }

    /// The memory, in bytes, that it takes to warp planes of this size.
    pub(crate) fn memory_for((width, height): (usize, usize)) -> usize {
        (width + BEYOND) * (height + BEYOND) * size_of::<Lanes>()
    }

    /// Warps images in place: pixel p gets what was at p + flow(p). Each image is any number of planes of the flow's size.
    ///
    /// Where the flow is zero no bit changes. Beyond the edges the outermost pixels are repeated. Values overshoot a little
    /// near sharp edges, so that positive ones can become negative.
    ///
    /// # Panics
    ///
    /// If the flow is empty, does not have a vector for each pixel, or if an image is not made of such planes.
    pub fn warp(&mut self, flow: &Flow, images: &mut [&mut [f32]]) {
        let (width, height) = (flow.width, flow.height);
        let pixels = width * height;
        assert!(pixels > 0, "the flow is empty");
        assert!(flow.x.len() == pixels && flow.y.len() == pixels, "the flow does not have a vector for each pixel");
        assert!(images.iter().all(|image| image.len().is_multiple_of(pixels)), "an image is not of the flow's size");
        let stride = width + BEYOND;
        self.coefficients.resize(stride * (height + BEYOND), Lanes::ZERO);
        let mut planes: Vec<&mut [f32]> = images.iter_mut().flat_map(|image| image.chunks_exact_mut(pixels)).collect();
        for planes in planes.chunks_mut(LANES) {
            let sources: Vec<&[f32]> = planes.iter().map(|plane| &**plane).collect();
            let bands = self.coefficients.chunks_mut(BAND * stride).enumerate();
            let planes_of_band = &sources;
            self.processor.run_tasks(bands.map(|(n, coefficients)| Filter {
                planes: planes_of_band,
                width,
                first_row: n * BAND,
                coefficients,
            }));
            let mut tasks: Vec<_> = (0..height)
                .step_by(BAND)
                .map(|first_row| Interpolate { flow, coefficients: &self.coefficients, first_row, planes: Vec::new() })
                .collect();
            for plane in planes {
                let bands = plane.chunks_mut(BAND * width);
                tasks.iter_mut().zip(bands).for_each(|(task, band)| task.planes.push(band));
            }
            self.processor.run_tasks(tasks.into_iter());
        }
    }
}

/// Computes rows of the coefficients of the splines through planes.
struct Filter<'a> {
    planes: &'a [&'a [f32]],
    width: usize,
    /// The first row, counted from the first coefficients, which are `BEFORE` rows above the planes.
    first_row: usize,
    coefficients: &'a mut [Lanes],
}

impl Task for Filter<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { planes, width, first_row, coefficients } = self;
        // A row, filtered along the columns, and repeated beyond the edges as far as the filter along the row reaches.
        const AROUND: usize = BEFORE + REACH;
        let stride = width + BEYOND;
        let (mut filtered, mut sums) = (vec![0.0; stride + 2 * REACH], vec![0.0; stride]);
        for (n, coefficients) in coefficients.chunks_exact_mut(stride).enumerate() {
            let y = (first_row + n) as isize - BEFORE as isize;
            for (number, plane) in planes.iter().enumerate() {
                let last = (plane.len() / width - 1) as isize;
                let row = |offset: isize| {
                    let y = (y + offset).clamp(0, last).cast_unsigned();
                    &plane[y * width..][..width]
                };
                let inner = &mut filtered[AROUND..][..width];
                inner.iter_mut().zip(row(0)).for_each(|(sum, value)| *sum = FILTER[0] * value);
                for (n, factor) in FILTER.iter().enumerate().skip(1) {
                    let rows = row(-(n as isize)).iter().zip(row(n as isize));
                    inner.iter_mut().zip(rows).for_each(|(sum, (above, below))| *sum += factor * (above + below));
                }
                let (left, right) = (filtered[AROUND], filtered[AROUND + width - 1]);
                filtered[..AROUND].fill(left);
                filtered[AROUND + width..].fill(right);
                sums.iter_mut().zip(&filtered[REACH..]).for_each(|(sum, value)| *sum = FILTER[0] * value);
                for (n, factor) in FILTER.iter().enumerate().skip(1) {
                    let beside = filtered[REACH - n..].iter().zip(&filtered[REACH + n..]);
                    sums.iter_mut().zip(beside).for_each(|(sum, (left, right))| *sum += factor * (left + right));
                }
                coefficients.iter_mut().zip(&sums).for_each(|(lanes, sum)| lanes.0[number] = *sum);
            }
        }
    }
}

/// Fills rows of planes from their coefficients.
struct Interpolate<'a> {
    flow: &'a Flow,
    coefficients: &'a [Lanes],
    first_row: usize,
    /// The rows of each plane.
    planes: Vec<&'a mut [f32]>,
}

impl Task for Interpolate<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { flow, coefficients, first_row, mut planes } = self;
        let width = flow.width;
        let (right, bottom) = ((width - 1) as f32, (flow.height - 1) as f32);
        let stride = width + BEYOND;
        let rows = planes.first().map_or(0, |plane| plane.len() / width);
        let mut values = Lanes::ZERO;
        for row in 0..rows {
            let start = (first_row + row) * width;
            let moves = flow.x[start..][..width].iter().zip(&flow.y[start..][..width]);
            for (column, (move_x, move_y)) in moves.enumerate() {
                if *move_x == 0.0 && *move_y == 0.0 {
                    continue;
                }
                let x = (column as f32 + move_x).clamp(0.0, right);
                let y = ((first_row + row) as f32 + move_y).clamp(0.0, bottom);
                let (left, top) = (x as usize, y as usize);
                let (x_weights, y_weights) = (weights(x - left as f32), weights(y - top as f32));
                let window = &coefficients[top * stride + left..][..BEYOND * stride + TAPS];
                let mut columns = [V::splat(0.0); TAPS];
                for (row, weight) in y_weights.iter().enumerate() {
                    let weight = V::splat(*weight);
                    for (sum, lanes) in columns.iter_mut().zip(&window[row * stride..][..TAPS]) {
                        *sum = sum.add(weight.mul(V::load(lanes)));
                    }
                }
                for (column, weight) in columns.iter_mut().zip(x_weights) {
                    *column = column.mul(V::splat(weight));
                }
                let [a, b, c, d] = columns;
                a.add(b).add(c.add(d)).store(&mut values);
                let pixel = row * width + column;
                planes.iter_mut().zip(values.0).for_each(|(plane, value)| plane[pixel] = value);
            }
        }
    }
}

/// The weights of the cubic B-spline for the four pixels around a place, given its distance, 0 to 1, from the second.
#[inline(always)]
fn weights(at: f32) -> [f32; TAPS] {
    let rest = 1.0 - at;
    [
        rest * rest * rest / 6.0,
        (4.0 + at * at * (3.0 * at - 6.0)) / 6.0,
        (4.0 + rest * rest * (3.0 * rest - 6.0)) / 6.0,
        at * at * at / 6.0,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warper(threads: usize) -> Warper {
        Warper::new(Processor::detect(threads).unwrap())
    }

    fn shift(width: usize, height: usize, x: f32, y: f32) -> Flow {
        Flow { width, height, x: vec![x; width * height], y: vec![y; width * height] }
    }

    fn plane(width: usize, height: usize, value: impl Fn(f32, f32) -> f32) -> Vec<f32> {
        (0..width * height).map(|n| value((n % width) as f32, (n / width) as f32)).collect()
    }

    #[test]
    #[should_panic(expected = "the flow is empty")]
    fn empty_flows_are_a_mistake() {
        warper(1).warp(&Flow::zero(0, 4), &mut [&mut []]);
    }

    #[test]
    #[should_panic(expected = "the flow does not have a vector for each pixel")]
    fn flows_without_all_vectors_are_a_mistake() {
        let mut flow = Flow::zero(4, 4);
        flow.y.pop();
        warper(1).warp(&flow, &mut [&mut [0.0; 16]]);
    }

    #[test]
    fn no_flow_changes_no_bit() {
        let picture = plane(21, 13, |x, y| (x * 7.3 + y * y * 1.9).sin() * 100.0);
        let mut warped = picture.clone();
        warper(2).warp(&Flow::zero(21, 13), &mut [&mut warped]);
        assert_eq!(warped, picture);
    }

    #[test]
    fn constants_stay_and_ramps_move() {
        for (width, height) in [(1, 1), (1, 9), (40, 31)] {
            let mut images = [vec![77.0; 2 * width * height], vec![-3.0; width * height]];
            warper(2).warp(&shift(width, height, 0.4, -1.7), &mut images.each_mut().map(|image| &mut image[..]));
            assert!(images[0].iter().all(|value| (value - 77.0).abs() < 1e-4));
            assert!(images[1].iter().all(|value| (value + 3.0).abs() < 1e-4));
        }
        let (width, height) = (48, 40);
        let ramp = |x: f32, y: f32| 3.0 * x - 2.0 * y;
        let (mut warped, expected) = (plane(width, height, ramp), plane(width, height, |x, y| ramp(x + 1.3, y - 0.6)));
        warper(3).warp(&shift(width, height, 1.3, -0.6), &mut [&mut warped]);
        // The edges, where the ramp ends, have an effect this far inside.
        const EDGE: usize = 12;
        for y in EDGE..height - EDGE {
            for n in y * width + EDGE..(y + 1) * width - EDGE {
                assert!((warped[n] - expected[n]).abs() < 1e-3, "{} {}", warped[n], expected[n]);
            }
        }
    }

    #[test]
    fn what_was_outside_is_the_edge() {
        let mut warped = plane(16, 16, |x, _| x * x);
        warper(1).warp(&shift(16, 16, 5.0, 0.0), &mut [&mut warped]);
        for row in warped.chunks_exact(16) {
            assert!(
                (row[3] - 64.0).abs() < 0.01 && row[11..].iter().all(|value| (value - 225.0).abs() < 0.01),
                "{row:?}"
            );
        }
    }

    #[test]
    fn a_hundred_warps_keep_detail_and_ring_no_more() {
        let (width, height) = (64, 64);
        // Waves of six pixels, as fine as brush strokes, and a hard edge, which would show ringing.
        let fine = plane(width, height, |x, y| 60.0 * (x * std::f32::consts::TAU / 6.0).sin() * (y * 0.8).cos());
        let edge = plane(width, height, |x, _| if x < 32.0 { 0.0 } else { 200.0 });
        let mut images = [fine.clone(), edge];
        let mut warper = warper(2);
        for n in 0..100 {
            let by = if n % 2 == 0 { 0.37 } else { -0.37 };
            warper.warp(&shift(width, height, by, by), &mut images.each_mut().map(|image| &mut image[..]));
        }
        let energy = |plane: &[f32]| -> f32 {
            let rows = plane.chunks_exact(width).skip(16).take(32);
            rows.flat_map(|row| row[16..48].iter().map(|value| value * value)).sum()
        };
        let kept = (energy(&images[0]) / energy(&fine)).sqrt();
        // A Catmull-Rom kernel keeps a twentieth.
        assert!((0.55..=1.0).contains(&kept), "{kept}");
        let (least, most) = images[1].iter().fold((0.0_f32, 0.0_f32), |(a, b), &value| (a.min(value), b.max(value)));
        assert!(least > -20.0 && most < 220.0, "{least} {most}");
    }

    #[test]
    fn threads_change_no_bit() {
        let (width, height) = (37, 29);
        let mut flow = Flow::zero(width, height);
        flow.x = plane(width, height, |x, y| (x * 0.3 + y).sin() * 4.0);
        flow.y = plane(width, height, |x, y| (x - y * 0.2).cos() * 3.0);
        let picture = plane(width, height * 3, |x, y| (x * 1.7).sin() * (y * 0.9).cos() * 120.0);
        let warped = [1, 2, 5].map(|threads| {
            let mut warped = picture.clone();
            warper(threads).warp(&flow, &mut [&mut warped]);
            warped
        });
        assert_ne!(warped[0], picture);
        assert_eq!(warped[0], warped[1]);
        assert_eq!(warped[0], warped[2]);
    }
}

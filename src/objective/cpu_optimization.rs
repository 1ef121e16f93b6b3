// SPDX-License-Identifier: MPL-2.0

//! Optimizes an image in main memory: the gradient comes from an objective, the rest is computed on the processor.

use std::ops::Range;

use super::{
    Adam, LossWeights, Losses, Objective, Optimization, Start, StepLength, adam, grain, smoothing,
    temporal::{self, TemporalTarget},
    total_variation,
};
use crate::{
    Result,
    image::Image,
    processor::{Engine, LANES, Lanes, Part, Parts, Processor, Task, Vector, numbers},
};

/// Rows that a job takes.
const BAND: usize = 16;
/// Rows of scratch memory that the job of a band needs.
const SCRATCH_ROWS: usize = 4 + grain::scratch_rows(BAND);

/// An [`Optimization`] that evaluates an objective at an image in memory.
pub(super) struct CpuOptimization<'a> {
    objective: &'a mut dyn Objective,
    engine: Engine,
    image: Image,
    optimizer: Adam,
    target: Option<TemporalTarget>,
    gradient: Image,
    /// The gradient, its rows filtered.
    filtered: Image,
    /// The total variation, the grain and the temporal loss of each row of each plane, before they are scaled.
    row_losses: Vec<[f64; 3]>,
    losses: Losses,
}

impl<'a> CpuOptimization<'a> {
    /// # Errors
    ///
    /// Those of [`Start::check`].
    pub(super) fn new(objective: &'a mut dyn Objective, processor: &Processor, start: Start) -> Result<Self> {
        start.check()?;
        let Start { image, optimizer, trust } = start;
        let gradient = Image::filled(image.width(), image.height(), 0.0);
        Ok(Self {
            objective,
            engine: Engine::new(processor.clone()),
            target: trust.map(|trust| TemporalTarget { warped: image.clone(), trust }),
            optimizer,
            filtered: gradient.clone(),
            gradient,
            row_losses: vec![[0.0; 3]; 3 * image.height()],
            losses: Losses::default(),
            image,
        })
    }

    /// Adds the gradients of the total variation, of the grain and of the temporal loss to that of the objective, and filters its
    /// rows.
    fn complete_gradient(&mut self, weights: &LossWeights) {
        let Self { engine, image, target, gradient, filtered, row_losses, losses, .. } = self;
        let (width, height) = image.size();
        let shares = [total_variation::share, grain::share, temporal::share].map(|share| share(image.data().len()));
        let slopes = [weights.total_variation, 2.0 * weights.grain, 2.0 * weights.temporal];
        let slopes = [0, 1, 2].map(|n| slopes[n] as f32 * shares[n]);
        let [gradient, filtered] = [gradient, filtered].map(|image| Parts::new(image.data_mut()));
        let losses_of_rows = Parts::new(row_losses);
        let (image, target, kind) = (&*image, target.as_ref(), engine.kind());
        let bands = height.div_ceil(BAND);
        engine.for_each(3 * bands, (SCRATCH_ROWS * width).div_ceil(LANES), |job, scratch| {
            let (plane, rows) = (job / bands, band(job % bands, height));
            let own = plane * height + rows.start..plane * height + rows.end;
            let pixels = own.start * width..own.end * width;
            // SAFETY: no other job has these rows.
            let (gradient, filtered) = unsafe { (gradient.part(pixels.clone()), filtered.part(pixels)) };
            // SAFETY: as above.
            let losses = unsafe { losses_of_rows.part(own) };
            kind.run(CompleteGradient { image, target, slopes, plane, rows, gradient, filtered, losses, scratch });
        });
        let sum = |n: usize| row_losses.iter().map(|losses| losses[n]).sum::<f64>() * f64::from(shares[n]);
        (losses.total_variation, losses.grain, losses.temporal) = (sum(0), sum(1), sum(2));
    }

    /// Filters the columns of the gradient and takes a step against it.
    fn follow_gradient(&mut self, length: StepLength) {
        let Self { engine, image, optimizer, gradient, filtered, .. } = self;
        let (size, kind) = (image.size(), engine.kind());
        let correction = optimizer.begin_step();
        let Adam { first_moment, second_moment, freshness, .. } = optimizer;
        let values = [image.data_mut(), gradient.data_mut(), first_moment.as_mut_slice(), second_moment.as_mut_slice()];
        let values = values.map(Parts::new);
        let freshness = Parts::new(freshness);
        let filtered = filtered.data();
        engine.for_each(size.1.div_ceil(BAND), 0, |job, _| {
            let rows = band(job, size.1);
            let pixels = |plane: usize| (plane * size.1 + rows.start) * size.0..(plane * size.1 + rows.end) * size.0;
            // SAFETY: no other job has these rows, of whichever plane.
            let (values, freshness) = unsafe {
                (
                    [0, 1, 2].map(|plane| values.each_ref().map(|values| values.part(pixels(plane)))),
                    freshness.part(pixels(0)),
                )
            };
            kind.run(FollowGradient { size, rows, filtered, values, freshness, length, correction });
        });
    }
}

impl Optimization for CpuOptimization<'_> {
    fn step(&mut self, length: StepLength, weights: &LossWeights) -> Result<()> {
        self.losses = self.objective.evaluate(&self.image, weights, &mut self.gradient)?;
        if !self.image.data().is_empty() {
            self.complete_gradient(weights);
            self.follow_gradient(length);
        }
        Ok(())
    }

    fn losses(&mut self) -> Result<Losses> {
        Ok(self.losses)
    }

    fn finish(self: Box<Self>) -> Result<(Image, Adam)> {
        Ok((self.image, self.optimizer))
    }
}

/// The rows of a band.
fn band(number: usize, height: usize) -> Range<usize> {
    number * BAND..height.min((number + 1) * BAND)
}

/// See [`CpuOptimization::complete_gradient`]. Plain loops, which the compiler vectorizes for each kind.
struct CompleteGradient<'a> {
    image: &'a Image,
    target: Option<&'a TemporalTarget>,
    /// Of the total variation, of the grain and of the temporal loss.
    slopes: [f32; 3],
    plane: usize,
    rows: Range<usize>,
    /// These rows of the gradient.
    gradient: Part<'a, f32>,
    /// The same rows, to be filled.
    filtered: Part<'a, f32>,
    losses: Part<'a, [f64; 3]>,
    scratch: &'a mut [Lanes],
}

impl Task for CompleteGradient<'_> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let (width, height) = self.image.size();
        let start = self.plane * height;
        let row = |y: usize| &self.image.data()[(start + y) * width..][..width];
        let below = |y: usize| row((y + 1).min(height - 1));
        let (from_above, scratch) = numbers(self.scratch).split_at_mut(width);
        let (to_right, scratch) = scratch.split_at_mut(width);
        let (to_below, scratch) = scratch.split_at_mut(width);
        let (terms, scratch) = scratch.split_at_mut(width);
        let plane = &self.image.data()[start * width..][..height * width];
        let details = grain::details(plane, (width, height), self.rows.clone(), scratch);
        match self.rows.start {
            0 => from_above.fill(0.0),
            y => total_variation::row_terms(row(y - 1), row(y), self.slopes[0], to_right, from_above, terms),
        }
        let rows = self.gradient.chunks_exact_mut(width).zip(self.filtered.chunks_exact_mut(width));
        for ((y, losses), (gradient, filtered)) in self.rows.zip(self.losses.iter_mut()).zip(rows) {
            total_variation::row_terms(row(y), below(y), self.slopes[0], to_right, to_below, terms);
            total_variation::add_gradient(from_above, to_right, to_below, gradient);
            from_above.copy_from_slice(to_below);
            losses[0] = sum(terms);
            details.add_gradient(y, self.slopes[1], gradient, terms);
            details.square(y, terms);
            losses[1] = sum(terms);
            losses[2] = match self.target {
                Some(TemporalTarget { warped, trust }) => {
                    let (warped, trust) =
                        (&warped.data()[(start + y) * width..][..width], &trust[y * width..][..width]);
                    temporal::add_gradient(row(y), warped, trust, self.slopes[2], gradient, terms);
                    sum(terms)
                }
                None => 0.0,
            };
            smoothing::filter_row(gradient, filtered);
        }
    }
}

/// The sum of the terms of a row, sixteen at a time.
#[inline(always)]
fn sum(terms: &[f32]) -> f64 {
    let mut sums = [0.0; LANES];
    for terms in terms.chunks(LANES) {
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
    sums.iter().map(|sum| f64::from(*sum)).sum()
}

/// See [`CpuOptimization::follow_gradient`].
struct FollowGradient<'a> {
    size: (usize, usize),
    rows: Range<usize>,
    /// The whole gradient, its rows filtered.
    filtered: &'a [f32],
    /// For each plane these rows of the image, the gradient and both moments.
    values: [[Part<'a, f32>; 4]; 3],
    freshness: Part<'a, f32>,
    length: StepLength,
    correction: f32,
}

impl Task for FollowGradient<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { size: (width, height), rows, filtered, mut values, mut freshness, length, correction } = self;
        for (plane, [image, gradient, first_moment, second_moment]) in values.iter_mut().enumerate() {
            let filtered = |y: usize| &filtered[(plane * height + y) * width..][..width];
            for (y, row) in rows.clone().zip(gradient.chunks_exact_mut(width)) {
                let around = [y.saturating_sub(1), y, (y + 1).min(height - 1)];
                smoothing::smooth_row(row, around.map(filtered));
            }
            adam::Step { image, gradient, first_moment, second_moment, freshness: &freshness, length, correction }
                .take();
        }
        adam::age(&mut freshness);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, objective::Gram, processor};

    /// An objective with the same gradient at all images.
    struct Constant(Vec<f32>);

    impl Objective for Constant {
        fn grams(&mut self, _: &Image) -> Result<Vec<Gram>> {
            Ok(Vec::new())
        }

        fn set_style(&mut self, _: &[Gram]) -> Result<()> {
            Ok(())
        }

        fn set_content(&mut self, _: &Image) -> Result<()> {
            Ok(())
        }

        fn kernel(&self) -> &'static str {
            "constant"
        }

        fn threads(&self) -> usize {
            1
        }

        fn evaluate(&mut self, _: &Image, _: &LossWeights, gradient: &mut Image) -> Result<Losses> {
            gradient.data_mut().copy_from_slice(&self.0);
            Ok(Losses::default())
        }

        fn optimize(&mut self, _: Start) -> Result<Box<dyn Optimization + '_>> {
            unreachable!("the tests make their own")
        }
    }

    const WEIGHTS: LossWeights =
        LossWeights::new(0.0, 0.0).with_total_variation(3.0).with_grain(20.0).with_temporal(30.0);
    const LENGTH: StepLength = StepLength { base: 1.0, fresh: 4.0 };

    fn numbers(count: usize, seed: usize) -> impl Iterator<Item = f32> {
        (0..count).map(move |n| ((n * 7919 + seed * 104_729) % 256) as f32)
    }

    fn start((width, height): (usize, usize)) -> Start {
        let image = Image::from_planes(width, height, numbers(3 * width * height, 1).collect()).unwrap();
        let mut optimizer = Adam::new(width * height);
        optimizer.freshness.iter_mut().zip(numbers(width * height, 2)).for_each(|(f, n)| *f = (n + 1.0) / 256.0);
        Start { image, optimizer, trust: Some(numbers(width * height, 3).map(|n| n / 255.0).collect()) }
    }

    /// Takes some steps. Returns the losses before the last one, the image and the optimizer.
    fn optimized(processor: &Processor, start: Start, gradient: Vec<f32>, steps: usize) -> (Losses, Image, Adam) {
        let mut objective = Constant(gradient);
        let mut optimization: Box<dyn Optimization> =
            Box::new(CpuOptimization::new(&mut objective, processor, start).unwrap());
        for _ in 0..steps {
            optimization.step(LENGTH, &WEIGHTS).unwrap();
        }
        let losses = optimization.losses().unwrap();
        let (image, optimizer) = optimization.finish().unwrap();
        (losses, image, optimizer)
    }

    /// The detail of planes, by plain loops.
    fn detail(values: &[f32], (width, height): (usize, usize)) -> Vec<f32> {
        let mirrored = |at: isize, count: usize| {
            let at = if at < 0 { -1 - at } else { at };
            let beyond = at - count as isize;
            (if beyond >= 0 { count as isize - 1 - beyond } else { at }).clamp(0, count as isize - 1) as usize
        };
        let blurred = |at: usize| {
            let (x, y, plane) = ((at % width) as isize, (at / width % height) as isize, at / (width * height));
            let mut sum = 0.0;
            for (j, of_row) in [1.0, 4.0, 6.0, 4.0, 1.0].iter().enumerate() {
                for (i, of_column) in [1.0, 4.0, 6.0, 4.0, 1.0].iter().enumerate() {
                    let (i, j) = (mirrored(x + i as isize - 2, width), mirrored(y + j as isize - 2, height));
                    sum += of_row * of_column / 256.0 * values[(plane * height + j) * width + i];
                }
            }
            sum
        };
        values.iter().enumerate().map(|(at, value)| value - blurred(at)).collect()
    }

    /// Two steps by plain loops over the whole image.
    fn expected(start: Start, gradient: &[f32]) -> (Losses, Image, Adam) {
        let Start { mut image, optimizer: mut adam, trust } = start;
        let (trust, warped, (width, height)) = (trust.unwrap(), image.clone(), image.size());
        let (pixels, mut losses) = (width * height, Losses::default());
        for _ in 0..2 {
            losses = Losses::default();
            let mut gradient = gradient.to_vec();
            let shares = [total_variation::share, grain::share, temporal::share].map(|share| share(3 * pixels));
            let detail = detail(image.data(), (width, height));
            losses.grain = detail.iter().map(|detail| f64::from(shares[1] * detail * detail)).sum();
            let detail = self::detail(&detail, (width, height));
            for at in 0..3 * pixels {
                let (x, y) = (at % width, at / width % height);
                let (right, below) = (at + usize::from(x + 1 < width), at + width * usize::from(y + 1 < height));
                let (dx, dy) = (image.data()[right] - image.data()[at], image.data()[below] - image.data()[at]);
                let root = (dx * dx + dy * dy + 16.0).sqrt();
                losses.total_variation += f64::from(shares[0] * (root - 4.0));
                let slope = WEIGHTS.total_variation as f32 * shares[0];
                gradient[right] += slope * dx / root;
                gradient[below] += slope * dy / root;
                gradient[at] -= slope * dx / root + slope * dy / root;
            }
            for (at, gradient) in gradient.iter_mut().enumerate() {
                let difference = image.data()[at] - warped.data()[at];
                losses.temporal += f64::from(shares[2] * trust[at % pixels] * difference * difference);
                *gradient += 2.0 * WEIGHTS.temporal as f32 * shares[2] * (trust[at % pixels] * difference);
                *gradient += 2.0 * WEIGHTS.grain as f32 * shares[1] * detail[at];
            }
            let row = |at: usize, step: isize| {
                let x = (at % width).saturating_add_signed(step).min(width - 1);
                gradient[at - at % width + x]
            };
            let filtered: Vec<f32> =
                (0..3 * pixels).map(|at| 0.5 * gradient[at] + 0.25 * (row(at, -1) + row(at, 1))).collect();
            let correction = adam.begin_step();
            for at in 0..3 * pixels {
                let y = at / width % height;
                let above = filtered[if y > 0 { at - width } else { at }];
                let below = filtered[if y + 1 < height { at + width } else { at }];
                let smoothed = gradient[at] + 0.7 * (0.5 * filtered[at] + 0.25 * (above + below) - gradient[at]);
                let (first, second) = (&mut adam.first_moment[at], &mut adam.second_moment[at]);
                *first = 0.8 * *first + (1.0 - 0.8) * smoothed;
                *second = 0.8 * *second + (1.0 - 0.8) * smoothed * smoothed;
                let length = LENGTH.base + LENGTH.fresh * adam.freshness[at % pixels];
                let direction = correction * *first / ((*second * correction).sqrt() + 1e-12);
                image.data_mut()[at] = (image.data()[at] - length * direction).clamp(0.0, 255.0);
            }
            adam.freshness.iter_mut().for_each(|freshness| *freshness = (freshness.powf(-0.5) + 0.0825).powi(-2));
        }
        (losses, image, adam)
    }

    #[test]
    fn steps_are_those_of_plain_loops_in_all_threads() {
        for size in [(37, 53), (1, 40), (50, 1), (16, 16), (1, 1)] {
            let gradient: Vec<f32> = numbers(3 * size.0 * size.1, 4).map(|n| 1e-6 * (n - 120.0)).collect();
            let (losses, image, adam) = expected(start(size), &gradient);
            for kind in processor::available() {
                let results = [1, 2, 3].map(|threads| {
                    let processor = Processor::new(kind, threads).unwrap();
                    optimized(&processor, start(size), gradient.clone(), 2)
                });
                let off = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let (own_losses, own_image, own_adam) = &results[0];
                assert!(off(own_image.data(), image.data()) < 1e-2, "{kind:?} {size:?}");
                assert!(off(&own_adam.freshness, &adam.freshness) < 1e-5, "{kind:?} {size:?}");
                assert!(off(&own_adam.first_moment, &adam.first_moment) < 1e-9, "{kind:?} {size:?}");
                assert!(off(&own_adam.second_moment, &adam.second_moment) < 1e-12, "{kind:?} {size:?}");
                let ratio = |a: f64, b: f64| (a - b).abs() / b.max(1e-12);
                assert!(ratio(own_losses.total_variation, losses.total_variation) < 1e-3, "{kind:?} {size:?}");
                assert!(ratio(own_losses.grain, losses.grain) < 1e-3, "{kind:?} {size:?}");
                assert!(ratio(own_losses.temporal, losses.temporal) < 1e-3, "{kind:?} {size:?}");
                for (losses, image, adam) in &results[1..] {
                    assert!(losses == own_losses && image == own_image, "{kind:?} {size:?}");
                    assert!(adam.first_moment == own_adam.first_moment && adam.freshness == own_adam.freshness);
                }
            }
        }
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn moments_without_a_gradient_come_to_zero() {
        let mut start = Start::from(Image::filled(20, 20, 80.0));
        start.optimizer.first_moment.fill(1e-6);
        start.optimizer.second_moment.fill(1e-12);
        for kind in processor::available() {
            let processor = Processor::new(kind, 2).unwrap();
            let (_, _, adam) = optimized(&processor, start.clone(), vec![0.0; 3 * 400], 500);
            assert!(adam.first_moment.iter().chain(&adam.second_moment).all(|moment| *moment == 0.0), "{kind:?}");
        }
    }

    #[test]
    fn empty_images_take_steps_and_sizes_that_differ_are_refused() {
        let processor = Processor::detect(2).unwrap();
        for size in [(0, 0), (0, 5), (5, 0)] {
            let (losses, image, _) = optimized(&processor, start(size), Vec::new(), 2);
            assert_eq!((losses, image.size()), (Losses::default(), size));
        }
        let refused = |change: fn(&mut Start)| {
            let mut start = start((6, 4));
            change(&mut start);
            match CpuOptimization::new(&mut Constant(Vec::new()), &processor, start) {
                Err(Error::ImageSize { width: 6, height: 4, expected: 24, actual }) => actual,
                _ => panic!("not refused"),
            }
        };
        assert_eq!(refused(|start| start.optimizer = Adam::new(23)), 23);
        assert_eq!(refused(|start| start.trust = Some(vec![1.0; 25])), 25);
    }
}

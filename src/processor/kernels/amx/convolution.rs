// SPDX-License-Identifier: MPL-2.0

//! 3x3 convolution as nine products of shifted feature maps with a matrix each.
//!
//! A job computes a few panels of 32 outputs for a strip of positions, whose inputs stay in the second-level cache. The
//! filters of 32 inputs, 18 KB, stay in the first-level cache while they are multiplied with four groups of 32
//! positions, whose sums stay there too. Each group takes nine steps, one for each tap, of four tile products each.

use std::ops::Range;

use super::{
    layout::Layout,
    lines::{above_zero, narrow, pair},
    tiles::{FETCHED, Product, SIDE, STEP, Steps, Tiles},
};
use crate::processor::{
    Engine, Kind, LANES, Lanes, Parts, Vector,
    avx512::Avx512,
    kernels::{
        Convolution, Direction, Shape,
        epilogue::{Epilogue, SharedEpilogue},
    },
};

const TAPS: usize = 9;
/// Lines of the filters from 32 inputs to 32 outputs.
const FILTERS: usize = TAPS * STEP;
/// Groups of positions that are multiplied with the same filters while these are in the first-level cache.
const GROUPS: usize = STEP / FETCHED;
/// Positions of these groups at most.
const STRETCH: usize = GROUPS * SIDE;
/// Lines of the inputs of a strip: half of a second-level cache of 2 MB.
const STRIP: usize = 16 * 1024;

/// Packs the filters in the order in which they are used: `[32 outputs][32 inputs][tap]`, each a step of a product.
pub fn pack_filters(engine: &mut Engine, convolution: &Convolution, direction: Direction) -> Vec<Lanes> {
    let mut packed = vec![Lanes::ZERO; FILTERS * (convolution.inputs / SIDE) * (convolution.outputs / SIDE)];
    let inputs = match direction {
        Direction::Forward => convolution.inputs,
        Direction::Backward => convolution.outputs,
    };
    let weight = |output: usize, input: usize, tap: usize| match direction {
        Direction::Forward => convolution.weight[TAPS * (output * inputs + input) + tap],
        Direction::Backward => convolution.weight[TAPS * (input * convolution.inputs + output) + TAPS - 1 - tap],
    };
    let panel = FILTERS * inputs / SIDE;
    let panels = packed.len() / panel;
    let filters = Parts::new(&mut packed);
    engine.for_each(panels, 0, |number, _| {
        // SAFETY: no other job has this panel.
        let mut panel = unsafe { filters.part(number * panel..(number + 1) * panel) };
        for (n, line) in panel.iter_mut().enumerate() {
            let (block, tap, tile, row) = (n / FILTERS, n / STEP % TAPS, n / LANES % 2, n % LANES);
            let input = block * SIDE + 2 * row;
            for (lane, value) in line.0.iter_mut().enumerate() {
                let output = number * SIDE + tile * LANES + lane;
                *value = pair(weight(output, input, tap), weight(output, input + 1, tap));
            }
        }
    });
    packed
}

/// Convolves `input`, of shape `shape`, with packed filters to all channels of `output`.
pub fn convolve(
    engine: &mut Engine,
    shape: Shape,
    input: &[Lanes],
    filters: &[Lanes],
    epilogue: Epilogue,
    output: &mut [Lanes],
) {
    let layout = Layout::new(shape);
    let panels = output.len() / layout.block();
    assert_eq!(input.len(), layout.lines());
    assert_eq!(output.len(), panels * layout.block());
    assert_eq!(filters.len(), FILTERS * layout.blocks() * panels);
    assert_eq!(engine.kind(), Kind::Amx);
    let epilogue = &epilogue.share(panels * SIDE, 2 * output.len());
    let plan = Plan::new(layout, panels, engine.threads());
    let output = &Parts::new(output);
    engine.for_each(plan.strips * plan.parts, GROUPS * 2 * SIDE, |number, sums| {
        // Jobs that share their filters follow each other.
        let (part, strip) = (number / plan.strips, number % plan.strips);
        let positions = strip * plan.positions..layout.run().min((strip + 1) * plan.positions);
        let panels = part * panels / plan.parts..(part + 1) * panels / plan.parts;
        let job = Job { layout, input, filters, epilogue, output, positions };
        // SAFETY: this kind of kernels is supported.
        unsafe { job.run(panels, sums) };
    });
}

/// How a convolution is divided into jobs. It has no influence on the result.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Positions of a strip.
    positions: usize,
    /// How many strips that makes for all positions.
    strips: usize,
    /// Into how many parts the panels of outputs are divided.
    parts: usize,
}

impl Plan {
    fn new(layout: Layout, panels: usize, threads: usize) -> Self {
        // More jobs than threads, so that no thread waits long for the last job.
        let wanted = 4 * threads;
        let most = (STRIP / layout.blocks()).min((layout.run() * panels).div_ceil(wanted)).max(1);
        let strips = layout.run().div_ceil(most.next_multiple_of(STRETCH));
        let positions = layout.run().div_ceil(strips).next_multiple_of(STRETCH);
        let strips = layout.run().div_ceil(positions);
        Self { positions, strips, parts: wanted.div_ceil(strips).min(panels) }
    }
}

struct Job<'a> {
    layout: Layout,
    input: &'a [Lanes],
    filters: &'a [Lanes],
    epilogue: &'a SharedEpilogue<'a>,
    output: &'a Parts<'a, Lanes>,
    /// The strip, counted from the origin.
    positions: Range<usize>,
}

impl Job<'_> {
    #[target_feature(enable = "avx512bf16")]
    fn run(&self, panels: Range<usize>, sums: &mut [Lanes]) {
        let Self { layout, input, .. } = self;
        let tiles = Tiles::configure();
        let steps = Steps { rows: 3, pitch: layout.pitch(), columns: 3, stride: 1 };
        // Stretches of equal length: a last one of a single group would wait for its own sums after each block of
        // inputs.
        let stretches = self.positions.len().div_ceil(STRETCH);
        let stretch = self.positions.len().div_ceil(stretches).next_multiple_of(SIDE);
        for panel in panels {
            for start in self.positions.clone().step_by(stretch) {
                let groups = (start..self.positions.end.min(start + stretch)).step_by(SIDE);
                for block in 0..layout.blocks() {
                    let b = self.filters(panel, block);
                    let next = self.filters(panel, (block + 1) % layout.blocks());
                    for (n, (position, sums)) in groups.clone().zip(sums.chunks_exact_mut(2 * SIDE)).enumerate() {
                        // The first tap is one row above and one position before, as far as the origin is from the
                        // start of a block.
                        let a = &input[block * layout.block() + position..];
                        let (next, fresh) = (&next[n * FETCHED..], block == 0);
                        tiles.multiply(Product { a, steps, b, next, sums, sums_pitch: 2, fresh });
                    }
                }
                for (position, sums) in groups.zip(sums.chunks_exact(2 * SIDE)) {
                    self.finish(panel, position, sums);
                }
            }
            self.clear_border(panel);
        }
    }

    /// The filters from a block of inputs to a panel of outputs.
    fn filters(&self, panel: usize, block: usize) -> &[Lanes] {
        &self.filters[(panel * self.layout.blocks() + block) * FILTERS..][..FILTERS]
    }

    /// Writes the outputs of a group of positions, and zeros for those of the border.
    #[target_feature(enable = "avx512bf16")]
    fn finish(&self, panel: usize, position: usize, sums: &[Lanes]) {
        let start = panel * self.layout.block() + self.layout.origin() + position;
        // SAFETY: no other job has these positions of this panel.
        let mut outputs = unsafe { self.output.part(start..start + SIDE) };
        let masks = 2 * start..2 * (start + SIDE);
        let zero = Avx512::splat(0.0);
        let inside = self.inside(position);
        let inside = |n: usize| if inside >> n & 1 == 1 { u16::MAX } else { 0 };
        let lines = sums.as_chunks::<2>().0.iter().zip(outputs.iter_mut()).enumerate();
        match self.epilogue {
            SharedEpilogue::Relu { bias, positive } => {
                let mut biases = [Lanes::ZERO; 2];
                for (n, line) in biases.iter_mut().enumerate() {
                    line.0.copy_from_slice(&bias[panel * SIDE + n * LANES..][..LANES]);
                }
                let bias = [Avx512::load(&biases[0]), Avx512::load(&biases[1])];
                // SAFETY: as for the outputs.
                let mut masks = positive.as_ref().map(|positive| unsafe { positive.part(masks) });
                for (n, (sums, output)) in lines {
                    let value = |half: usize| Avx512::load(&sums[half]).add(bias[half]).max(zero).keep(inside(n));
                    let numbers = [value(0), value(1)];
                    narrow(numbers, output);
                    if let Some(masks) = &mut masks {
                        [masks[2 * n], masks[2 * n + 1]] = above_zero(numbers);
                    }
                }
            }
            SharedEpilogue::Masked(bits) => {
                let bits = &bits[masks];
                for (n, (sums, output)) in lines {
                    let value = |half: usize| Avx512::load(&sums[half]).keep(bits[2 * n + half] & inside(n));
                    narrow([value(0), value(1)], output);
                }
            }
            SharedEpilogue::Plain => {
                for (n, (sums, output)) in lines {
                    let value = |half: usize| Avx512::load(&sums[half]).keep(inside(n));
                    narrow([value(0), value(1)], output);
                }
            }
        }
    }

    /// One bit for each position of a group, set if it is one of the image and not of the border.
    fn inside(&self, position: usize) -> u32 {
        let pitch = self.layout.pitch();
        let image = match self.layout.image_end().saturating_sub(position) {
            count @ ..SIDE => (1 << count) - 1,
            _ => u32::MAX,
        };
        let columns = (pitch - 1 - position % pitch..SIDE).step_by(pitch);
        columns.fold(image, |inside, column| inside & !(1 << column))
    }

    /// Writes zeros above the first row and below the last, if these are in the strip.
    fn clear_border(&self, panel: usize) {
        let start = panel * self.layout.block();
        let (origin, end) = (start + self.layout.origin(), start + self.layout.block());
        if self.positions.start == 0 {
            // SAFETY: only the job with the first strip of this panel has these positions.
            unsafe { self.output.part(start..origin) }.fill(Lanes::ZERO);
        }
        if self.positions.end == self.layout.run() {
            // SAFETY: only the job with the last strip of this panel has these positions.
            unsafe { self.output.part(origin + self.layout.run()..end) }.fill(Lanes::ZERO);
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

//! The image pyramid: a frame's grey levels at full size, half size, quarter size and so on.

use crate::{
    image::Image,
    processor::{Processor, Task, Vector},
};

/// The width of the border of a [`Plane`], in pixels.
pub const BORDER: usize = 16;

/// The least long side of a level, so that a patch of the coarsest level is at most half of it.
const COARSEST_SIDE: usize = 16;

/// How many columns are halved at a time.
const CHUNK: usize = 256;

/// Grey levels, 0 to 255, in rows from top to bottom. The outermost pixels are repeated in a border of [`BORDER`] pixels.
#[derive(Debug, Clone, Default)]
pub struct Plane {
    width: usize,
    height: usize,
    data: Vec<f32>,
}

impl Plane {
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, data: vec![0.0; (width + 2 * BORDER) * (height + 2 * BORDER)] }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// The offset from one row to the next in [`rows_from`](Self::rows_from).
    #[inline(always)]
    pub fn stride(&self) -> usize {
        self.width + 2 * BORDER
    }

    /// The pixels of a row, without the border.
    #[inline(always)]
    pub fn row(&self, y: usize) -> &[f32] {
        &self.data[(y + BORDER) * self.stride() + BORDER..][..self.width]
    }

    /// All values from this pixel on, which may be in the border.
    #[inline(always)]
    pub fn rows_from(&self, x: isize, y: isize) -> &[f32] {
        let row = y.wrapping_add_unsigned(BORDER).cast_unsigned();
        let column = x.wrapping_add_unsigned(BORDER).cast_unsigned();
        &self.data[row * self.stride() + column..]
    }

    #[inline(always)]
    pub fn row_mut(&mut self, y: usize) -> &mut [f32] {
        let stride = self.stride();
        &mut self.data[(y + BORDER) * stride + BORDER..][..self.width]
    }

    pub fn extend_border(&mut self) {
        let (stride, width, height) = (self.stride(), self.width, self.height);
        for row in self.data.chunks_exact_mut(stride).skip(BORDER).take(height) {
            let (first, last) = (row[BORDER], row[BORDER + width - 1]);
            row[..BORDER].fill(first);
            row[BORDER + width..].fill(last);
        }
        let (first, last) = (BORDER * stride, (BORDER + height - 1) * stride);
        for n in 0..BORDER {
            self.data.copy_within(first..first + stride, n * stride);
            self.data.copy_within(last..last + stride, last + (n + 1) * stride);
        }
    }
}

/// A picture at falling sizes: each level has half the size of the one before, rounded up.
#[derive(Debug, Clone, Default)]
pub struct Pyramid {
    levels: Vec<Plane>,
}

impl Pyramid {
    /// The levels, the full size first.
    pub fn levels(&self) -> &[Plane] {
        &self.levels
    }

    /// Whether its pictures have this size.
    pub fn has_size(&self, (width, height): (usize, usize)) -> bool {
        self.levels.first().is_some_and(|plane| (plane.width, plane.height) == (width, height))
    }

    /// Whether its picture has the grey levels of this one.
    pub fn shows(&self, processor: &Processor, image: &Image) -> bool {
        let mut same = self.has_size(image.size());
        if same {
            processor.run(Compare { image, plane: &self.levels[0], same: &mut same });
        }
        same
    }

    /// Fills it from a picture.
    pub fn build(&mut self, processor: &Processor, image: &Image) {
        if !self.has_size(image.size()) {
            self.levels = sizes(image.size()).map(|(width, height)| Plane::new(width, height)).collect();
        }
        processor.run(Build { image, levels: &mut self.levels });
    }
}

/// The memory, in bytes, that a pyramid of pictures of this size takes.
pub fn memory_for(size: (usize, usize)) -> usize {
    let values = |(width, height)| (width + 2 * BORDER) * (height + 2 * BORDER);
    sizes(size).map(values).sum::<usize>() * size_of::<f32>()
}

/// Width and height of the next smaller level.
pub fn halves((width, height): (usize, usize)) -> (usize, usize) {
    (width.div_ceil(2), height.div_ceil(2))
}

fn sizes(size: (usize, usize)) -> impl Iterator<Item = (usize, usize)> {
    std::iter::successors(Some(size), |&size| {
        let (width, height) = halves(size);
        (width.max(height) >= COARSEST_SIDE).then_some((width, height))
    })
}

/// The luma of a row (ITU-R BT.601).
#[inline(always)]
fn grey(image: &Image, y: usize) -> impl Iterator<Item = f32> {
    let (width, plane) = (image.width(), image.width() * image.height());
    let colour = |n: usize| &image.data()[n * plane + y * width..][..width];
    let colours = colour(0).iter().zip(colour(1)).zip(colour(2));
    colours.map(|((red, green), blue)| 0.299 * red + 0.587 * green + 0.114 * blue)
}

struct Compare<'a> {
    image: &'a Image,
    plane: &'a Plane,
    same: &'a mut bool,
}

impl Task for Compare<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        *self.same = (0..self.plane.height).all(|y| {
            let pixels = self.plane.row(y).iter().zip(grey(self.image, y));
            // Without an early return the row is compared many pixels at a time.
            pixels.fold(true, |same, (known, level)| same & (*known == level))
        });
    }
}

struct Build<'a> {
    image: &'a Image,
    levels: &'a mut [Plane],
}

impl Task for Build<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for y in 0..self.image.height() {
            self.levels[0].row_mut(y).iter_mut().zip(grey(self.image, y)).for_each(|(to, level)| *to = level);
        }
        self.levels[0].extend_border();
        for n in 1..self.levels.len() {
            let (larger, smaller) = self.levels.split_at_mut(n);
            halve(&larger[n - 1], &mut smaller[0]);
        }
    }
}

/// Blurs by the binomial filter 1 3 3 1 in both directions and takes every second pixel. The filter is centred between
/// pixels, where those of the smaller level are.
#[inline(always)]
fn halve(from: &Plane, to: &mut Plane) {
    let stride = from.stride();
    // A blurred row begins two columns before the plane: from there on pairs of columns meet pairs of taps.
    let mut blurred = [0.0; CHUNK + 4];
    for y in 0..to.height {
        let start = from.rows_from(-2, 2 * y as isize - 1);
        for (n, to) in to.row_mut(y).chunks_mut(CHUNK / 2).enumerate() {
            let rows: [&[f32]; 4] = std::array::from_fn(|row| &start[row * stride + n * CHUNK..][..2 * to.len() + 4]);
            for (c, blurred) in blurred[..2 * to.len() + 4].iter_mut().enumerate() {
                *blurred = (rows[0][c] + rows[3][c]) + 3.0 * (rows[1][c] + rows[2][c]);
            }
            let pairs = blurred[..2 * to.len() + 4].as_chunks::<2>().0;
            for (value, window) in to.iter_mut().zip(pairs.windows(3)) {
                *value = (1.0 / 64.0) * ((window[0][1] + window[2][0]) + 3.0 * (window[1][0] + window[1][1]));
            }
        }
    }
    to.extend_border();
}

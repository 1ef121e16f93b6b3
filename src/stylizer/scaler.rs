// SPDX-License-Identifier: MPL-2.0

//! From packed video frames to the image that is optimized, and back.
//!
//! All threads work on bands of rows. What a band needs stays in a core's cache, while a whole frame in planes of f32
//! would go through memory several times. The bands depend on the sizes alone, so that no result depends on the number
//! of threads. The results differ from those of whole images in one thing: a row that lies exactly between two rows of
//! the working size may go to either.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use crate::{
    Result,
    image::{Filter, Frame, Image, PackedFormat, Resizer},
    processor::{Processor, Task, Vector},
};

/// About how many rows of a frame are in a band.
const BAND: usize = 32;

/// How a picture is put on a frame.
#[derive(Debug, Clone, Copy)]
pub(super) enum Placing {
    /// This share of the picture is added to the frame.
    Onto(f32),
    /// The picture replaces the frame.
    Instead,
}

/// Converts between frames and images of the working size.
pub(super) struct Scaler {
    processor: Processor,
    /// Memory for each job that runs at the same time.
    memories: Mutex<Vec<Memory>>,
    /// The picture at the width of the frame and the height of the image.
    wide: Vec<f32>,
}

/// What a job needs.
#[derive(Default)]
struct Memory {
    resizer: Resizer,
    rows: Vec<f32>,
}

impl Scaler {
    pub(super) fn new(processor: Processor) -> Self {
        Self { processor, memories: Mutex::default(), wide: Vec::new() }
    }

    /// The memory, in bytes, that a scaler takes at most between frames of one size and images of another.
    pub(super) fn memory_for(processor: &Processor, frame: (usize, usize), size: (usize, usize)) -> usize {
        if frame == size {
            return 0;
        }
        // The rows of a band at both sizes, and what the resizer has between them.
        let band = 3 * 3 * BAND.max(frame.1 / size.1.max(1) + 2) * frame.0;
        (3 * frame.0 * size.1 + processor.threads() * band) * size_of::<f32>()
    }

    /// The frame as an image of the same or a smaller size.
    ///
    /// # Errors
    ///
    /// [`Error::Resize`] if a size is out of range.
    pub(super) fn content(&self, frame: &Frame, (width, height): (usize, usize)) -> Result<Image> {
        let mut content = Image::filled(width, height, 0.0);
        let band = (BAND * height / frame.height).max(1);
        let mut results: Vec<Result<()>> = (0..height.div_ceil(band)).map(|_| Ok(())).collect();
        let [red, green, blue] = content.planes_mut().map(|plane| plane.chunks_mut(band * width));
        let tasks =
            red.zip(green).zip(blue).zip(&mut results).enumerate().map(|(n, (((red, green), blue), result))| {
                let first_row = n * band;
                let memories = &self.memories;
                Shrink { frame, size: (width, height), first_row, planes: [red, green, blue], memories, result }
            });
        self.processor.run_tasks(tasks);
        results.into_iter().collect::<Result<()>>().map(|()| content)
    }

    /// Puts a picture of the same or a smaller size on a frame.
    ///
    /// # Errors
    ///
    /// [`Error::Resize`] if a size is out of range.
    pub(super) fn place(&mut self, picture: &Image, placing: Placing, frame: &mut Frame) -> Result<()> {
        let (width, height) = frame.size();
        let pixels = width * picture.height();
        let planes: Vec<&[f32]> = if picture.width() == width {
            picture.planes().collect()
        } else {
            self.wide.resize(3 * pixels, 0.0);
            // Rows of all planes: each is enlarged by itself.
            let band = (3 * picture.height()).div_ceil(2 * self.processor.threads());
            let bands = picture.data().chunks(band * picture.width()).zip(self.wide.chunks_mut(band * width));
            let mut results: Vec<Result<()>> = (0..2 * self.processor.threads()).map(|_| Ok(())).collect();
            let tasks = bands.zip(&mut results).map(|((rows, wide), result)| Widen {
                rows,
                width: picture.width(),
                wide,
                wide_width: width,
                memories: &self.memories,
                result,
            });
            self.processor.run_tasks(tasks);
            results.into_iter().collect::<Result<()>>()?;
            self.wide.chunks_exact(pixels).collect()
        };
        let (stride, format) = (frame.stride, frame.format);
        let mut results: Vec<Result<()>> = (0..height.div_ceil(BAND)).map(|_| Ok(())).collect();
        let bands = frame.bytes.chunks_mut(BAND.saturating_mul(stride)).zip(&mut results).enumerate();
        let tasks = bands.map(|(n, (bytes, result))| {
            let rows = n * BAND..height.min((n + 1) * BAND);
            let planes = [planes[0], planes[1], planes[2]];
            Place {
                planes,
                size: (width, height),
                placing,
                rows,
                bytes,
                stride,
                format,
                memories: &self.memories,
                result,
            }
        });
        self.processor.run_tasks(tasks);
        results.into_iter().collect()
    }
}

/// Calls `job` with memory that no other job uses.
#[inline(always)]
fn with_memory<T>(memories: &Mutex<Vec<Memory>>, job: impl FnOnce(&mut Memory) -> T) -> T {
    let lock = || memories.lock().unwrap_or_else(PoisonError::into_inner);
    let mut memory = lock().pop().unwrap_or_default();
    let result = job(&mut memory);
    lock().push(memory);
    result
}

/// Where the part of this number begins, if a length of `to` is divided into `from` equal parts.
fn edge(part: usize, from: usize, to: usize) -> f64 {
    (part * to) as f64 / from as f64
}

/// Shrinks rows of the frame to rows of the image.
struct Shrink<'a> {
    frame: &'a Frame<'a>,
    size: (usize, usize),
    first_row: usize,
    planes: [&'a mut [f32]; 3],
    memories: &'a Mutex<Vec<Memory>>,
    result: &'a mut Result<()>,
}

impl Task for Shrink<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { frame, size: (width, height), first_row, planes, memories, result } = self;
        if frame.size() == (width, height) {
            for (colour, plane) in planes.into_iter().enumerate() {
                frame.read(colour, first_row..height, plane);
            }
            return;
        }
        *result = with_memory(memories, |Memory { resizer, rows }| {
            let last_row = first_row + planes[0].len() / width;
            let [top, bottom] = [first_row, last_row].map(|row| edge(row, height, frame.height));
            let read = top as usize..(bottom.ceil() as usize).min(frame.height);
            let [pixels, narrow_pixels] = [frame.width, width].map(|width| read.len() * width);
            rows.resize(3 * (pixels + narrow_pixels), 0.0);
            let (rows, narrow) = rows.split_at_mut(3 * pixels);
            for (colour, rows) in rows.chunks_exact_mut(pixels).enumerate() {
                frame.read(colour, read.clone(), rows);
            }
            // All colours at once: the resizer computes its weights anew each time.
            let all = 0.0..(3 * read.len()) as f64;
            resizer.resize((rows, frame.width), all, (narrow, width), Filter::Shrink)?;
            let inside = top - read.start as f64..bottom - read.start as f64;
            for (narrow, plane) in narrow.chunks_exact(narrow_pixels).zip(planes) {
                resizer.resize((narrow, width), inside.clone(), (plane, width), Filter::Shrink)?;
            }
            Ok(())
        });
    }
}

/// Enlarges rows to the width of the frame.
struct Widen<'a> {
    rows: &'a [f32],
    width: usize,
    wide: &'a mut [f32],
    wide_width: usize,
    memories: &'a Mutex<Vec<Memory>>,
    result: &'a mut Result<()>,
}

impl Task for Widen<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, width, wide, wide_width, memories, result } = self;
        let all = 0.0..(rows.len() / width) as f64;
        *result = with_memory(memories, |memory| {
            memory.resizer.resize((rows, width), all, (wide, wide_width), Filter::Enlarge)
        });
    }
}

/// Enlarges planes to the height of the frame and puts them on rows of it.
struct Place<'a> {
    planes: [&'a [f32]; 3],
    size: (usize, usize),
    placing: Placing,
    rows: Range<usize>,
    bytes: &'a mut [u8],
    stride: usize,
    format: PackedFormat,
    memories: &'a Mutex<Vec<Memory>>,
    result: &'a mut Result<()>,
}

impl Task for Place<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { planes, size: (width, height), placing, rows, bytes, stride, format, memories, result } = self;
        let picture_height = planes[0].len() / width;
        if picture_height == height {
            let planes = planes.map(|plane| &plane[rows.start * width..rows.end * width]);
            write(planes, width, placing, bytes, stride, format);
            return;
        }
        *result = with_memory(memories, |memory| {
            let pixels = rows.len() * width;
            memory.rows.resize(3 * pixels, 0.0);
            let inside = edge(rows.start, height, picture_height)..edge(rows.end, height, picture_height);
            for (plane, to) in planes.into_iter().zip(memory.rows.chunks_exact_mut(pixels)) {
                memory.resizer.resize((plane, width), inside.clone(), (to, width), Filter::Enlarge)?;
            }
            let planes = [0, 1, 2].map(|colour| &memory.rows[colour * pixels..][..pixels]);
            write(planes, width, placing, bytes, stride, format);
            Ok(())
        });
    }
}

/// Puts rows of planes on packed rows.
#[inline(always)]
fn write(planes: [&[f32]; 3], width: usize, placing: Placing, bytes: &mut [u8], stride: usize, format: PackedFormat) {
    let rows = planes[0].len() / width;
    for (n, packed) in bytes.chunks_mut(stride).take(rows).enumerate() {
        let planes = [0, 1, 2].map(|colour| &planes[colour][n * width..][..width]);
        match format.pixel_stride {
            3 => write_row::<3>(planes, placing, packed, format.offsets),
            _ => write_row::<4>(planes, placing, packed, format.offsets),
        }
    }
}

/// Bytes that are no colour stay as they are.
#[inline(always)]
fn write_row<const N: usize>(planes: [&[f32]; 3], placing: Placing, packed: &mut [u8], offsets: [usize; 3]) {
    let (kept, share) = match placing {
        Placing::Onto(share) => (1.0, share),
        Placing::Instead => (0.0, 1.0),
    };
    // The plane of each byte of a pixel, if the byte is a colour.
    let (mut sources, mut are_colours) = ([planes[0]; N], [false; N]);
    for (plane, offset) in planes.into_iter().zip(offsets) {
        (sources[offset], are_colours[offset]) = (plane, true);
    }
    let width = planes[0].len();
    let sources = sources.map(|source| &source[..width]);
    for (n, pixel) in packed.as_chunks_mut::<N>().0[..width].iter_mut().enumerate() {
        for byte in 0..N {
            let value = kept * f32::from(pixel[byte]) + share * sources[byte][n];
            pixel[byte] = if are_colours[byte] { level(value) } else { pixel[byte] };
        }
    }
}

/// The nearest level, an even one if two are equally near.
#[inline(always)]
fn level(value: f32) -> u8 {
    // From 2^23 to 2^24 an f32 has no fraction, and its lowest bits are those of the integer. A cast would be slower: it
    // checks for numbers out of range, one value at a time.
    const WHOLE: f32 = (1 << (f32::MANTISSA_DIGITS - 1)) as f32;
    (value.clamp(0.0, 255.0) + WHOLE).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler(threads: usize) -> Scaler {
        Scaler::new(Processor::detect(threads).unwrap())
    }

    /// Bytes of a frame without any order, with padded rows.
    fn noise(height: usize, stride: usize) -> Vec<u8> {
        (0..stride * height).map(|n| (n * 7919 % 65537 % 251) as u8).collect()
    }

    #[test]
    fn a_picture_takes_the_place_of_colours_alone() {
        let (size, stride) = ((5, 70), 27);
        let original = noise(size.1, stride);
        let mut bytes = original.clone();
        let mut frame = Frame::new(&mut bytes, size, stride, PackedFormat::ARGB).unwrap();
        let image = frame.image();
        scaler(2).place(&image, Placing::Instead, &mut frame).unwrap();
        assert_eq!(bytes, original);
        for (level, byte) in [(f32::NAN, 0), (300.0, 255), (-3.0, 0), (7.4, 7), (7.6, 8), (254.6, 255)] {
            let mut bytes = original.clone();
            let mut frame = Frame::new(&mut bytes, size, stride, PackedFormat::ARGB).unwrap();
            scaler(2).place(&Image::filled(5, 70, level), Placing::Instead, &mut frame).unwrap();
            for (n, (new, old)) in bytes.iter().zip(&original).enumerate() {
                let column = n % stride;
                let is_colour = column < 20 && column % 4 != 0;
                assert_eq!(*new, if is_colour { byte } else { *old }, "{level}: byte {n}");
            }
        }
    }

    #[test]
    fn the_way_there_and_back_is_that_of_whole_images() {
        for (size, working_size) in [
            ((97, 71), (97, 71)),
            ((97, 71), (64, 47)),
            ((200, 150), (33, 25)),
            ((64, 300), (3, 14)),
            ((300, 3), (200, 2)),
            ((40, 1), (16, 1)),
        ] {
            for format in [PackedFormat::ARGB, PackedFormat::RGB] {
                let stride = size.0 * format.pixel_stride + 5;
                let mut bytes = noise(size.1, stride);
                let mut frame = Frame::new(&mut bytes, size, stride, format).unwrap();
                let image = frame.image();
                let content = scaler(2).content(&frame, working_size).unwrap();
                let expected = image.resized(working_size.0, working_size.1).unwrap();
                let largest = |a: &Image, b: &Image| {
                    a.data().iter().zip(b.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
                };
                assert!(largest(&content, &expected) < 1e-3, "{size:?} {working_size:?}");

                let residual = content.minus(&Image::filled(working_size.0, working_size.1, 100.0));
                scaler(2).place(&residual, Placing::Onto(0.5), &mut frame).unwrap();
                let expected = residual.resized(size.0, size.1).unwrap().on(&image, 0.5);
                // Half of it is rounding.
                let gap = largest(&frame.image(), &expected);
                assert!(gap < 0.501, "{size:?} {working_size:?}: {gap}");
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let (size, stride) = ((150, 131), 450);
        let [one, many] = [1, 5].map(|threads| {
            let mut bytes = noise(size.1, stride);
            let mut frame = Frame::new(&mut bytes, size, stride, PackedFormat::RGB).unwrap();
            let mut scaler = scaler(threads);
            let content = scaler.content(&frame, (47, 41)).unwrap();
            scaler.place(&content, Placing::Onto(0.3), &mut frame).unwrap();
            (content, bytes)
        });
        assert!(one == many);
    }
}

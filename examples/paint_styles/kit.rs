// SPDX-License-Identifier: MPL-2.0
//! What every picture needs: points, colours, chance, noise, and a surface.
//!
//! Lengths are in pixels of the finished picture. The surface is finer than
//! that by [`FINENESS`] in each direction, and averaging it down is all the
//! anti-aliasing there is.

use std::{
    array,
    ops::{Add, Mul, Sub},
};

use image::RgbImage;

pub const WIDTH: f32 = 960.0;
pub const HEIGHT: f32 = 720.0;
pub const FINENESS: usize = 2;

pub const COLUMNS: usize = WIDTH as usize * FINENESS;
pub const ROWS: usize = HEIGHT as usize * FINENESS;

#[derive(Clone, Copy)]
pub struct Point {
    pub x: f32,
    pub y: f32,
}

pub const fn at(x: f32, y: f32) -> Point {
    Point { x, y }
}

impl Point {
    pub fn length(self) -> f32 {
        self.x.hypot(self.y)
    }

    pub fn unit(self) -> Point {
        self * self.length().max(1e-6).recip()
    }

    pub fn turn(self, angle: f32) -> Point {
        let (sin, cos) = angle.sin_cos();
        at(self.x * cos - self.y * sin, self.x * sin + self.y * cos)
    }

    /// A quarter turn.
    pub fn across(self) -> Point {
        at(-self.y, self.x)
    }
}

impl Add for Point {
    type Output = Point;
    fn add(self, other: Point) -> Point {
        at(self.x + other.x, self.y + other.y)
    }
}

impl Sub for Point {
    type Output = Point;
    fn sub(self, other: Point) -> Point {
        at(self.x - other.x, self.y - other.y)
    }
}

impl Mul<f32> for Point {
    type Output = Point;
    fn mul(self, by: f32) -> Point {
        at(self.x * by, self.y * by)
    }
}

/// Red, green and blue as a painter would mix them: sRGB values, 0 to 1.
pub type Colour = [f32; 3];

pub const fn hex(rgb: u32) -> Colour {
    let [_, r, g, b] = rgb.to_be_bytes();
    [r as f32 / 255.0, g as f32 / 255.0, b as f32 / 255.0]
}

pub fn mix(a: Colour, b: Colour, t: f32) -> Colour {
    array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

/// A colour made lighter or darker.
pub fn tint(colour: Colour, by: f32) -> Colour {
    colour.map(|c| c * by)
}

/// Reads a palette as a closed ring, blending neighbours; `t` counts colours.
pub fn ring(palette: &[Colour], t: f32) -> Colour {
    let n = palette.len();
    let i = t.rem_euclid(n as f32);
    let first = (i as usize).min(n - 1);
    mix(palette[first], palette[(first + 1) % n], smoothstep(0.25, 0.75, i.fract()))
}

pub fn smoothstep(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// The finalizer of SplitMix64.
fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// SplitMix64: seeded, so that every run paints the same picture.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly in 0..1.
    pub fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (scramble(self.0) >> 40) as f32 / (1 << 24) as f32
    }

    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Around zero, mostly within ±1.
    pub fn wobble(&mut self) -> f32 {
        self.unit() + self.unit() + self.unit() - 1.5
    }
}

/// Value noise in -1..1 with features about one unit across.
pub fn noise(p: Point, seed: u64) -> f32 {
    let (x, y) = (p.x.floor(), p.y.floor());
    let corner = |dx: i64, dy: i64| {
        let (i, j) = (x as i64 + dx, y as i64 + dy);
        let key = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ scramble(j as u64 ^ (seed << 32));
        (scramble(key) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let (u, v) = (smoothstep(0.0, 1.0, p.x - x), smoothstep(0.0, 1.0, p.y - y));
    let blend = |a: f32, b: f32, t: f32| a + (b - a) * t;
    blend(blend(corner(0, 0), corner(1, 0), u), blend(corner(0, 1), corner(1, 1), u), v)
}

/// Noise over noise. Each octave is turned, or the lattice would show.
pub fn cloud(mut p: Point, octaves: u32, seed: u64) -> f32 {
    let (mut sum, mut weight) = (0.0, 0.55);
    for octave in 0..octaves {
        sum += weight * noise(p, seed + u64::from(octave));
        p = at(1.6 * p.x - 1.2 * p.y, 1.2 * p.x + 1.6 * p.y) + at(17.3, 5.1);
        weight *= 0.5;
    }
    sum
}

/// Points spread evenly but never in rows: the R2 low-discrepancy sequence,
/// reaching a little beyond the edges so that nothing stops short of them.
pub fn scatter(margin: f32, spacing: f32) -> impl Iterator<Item = Point> {
    let (w, h) = (WIDTH + 2.0 * margin, HEIGHT + 2.0 * margin);
    let count = (w * h / (spacing * spacing)) as u32;
    (1..=count).map(move |i| {
        let i = f64::from(i);
        let (u, v) = ((i * 0.754_877_666_246_692_8).fract(), (i * 0.569_840_290_998_053_3).fract());
        at(u as f32 * w - margin, v as f32 * h - margin)
    })
}

/// Walks along a field of directions from `start`, for as long as `go_on`
/// allows, in steps of half a pixel.
pub fn walk(start: Point, field: impl Fn(Point) -> Point, mut go_on: impl FnMut(Point, f32) -> bool) -> Vec<Point> {
    const STEP: f32 = 0.5;
    let mut path = Vec::new();
    let mut p = start;
    while go_on(p, path.len() as f32 * STEP) {
        path.push(p);
        // The midpoint rule keeps closed eddies closed.
        let half = p + field(p).unit() * (STEP / 2.0);
        p = p + field(half).unit() * STEP;
    }
    path
}

/// Where in the picture the `i`th grain of a surface lies.
pub fn grain_at(i: usize) -> Point {
    let (column, row) = (i % COLUMNS, i / COLUMNS);
    at(column as f32 + 0.5, row as f32 + 0.5) * (FINENESS as f32).recip()
}

/// A surface of fine grains, row by row, that takes colour and has relief.
pub struct Canvas {
    pub colour: Vec<Colour>,
    pub height: Vec<f32>,
}

impl Canvas {
    pub fn new(ground: Colour) -> Self {
        Self { colour: vec![ground; COLUMNS * ROWS], height: vec![0.0; COLUMNS * ROWS] }
    }

    /// Lets `paint` change every grain nearer than `radius` to `p`, telling it
    /// how far off the grain is.
    pub fn within(&mut self, p: Point, radius: f32, mut paint: impl FnMut(&mut Colour, &mut f32, f32)) {
        let grain = FINENESS as f32;
        let span = |middle: f32, end: usize| {
            let first = ((middle - radius) * grain).max(0.0) as usize;
            let last = ((middle + radius) * grain).max(0.0).ceil() as usize;
            first..last.min(end)
        };
        for row in span(p.y, ROWS) {
            for column in span(p.x, COLUMNS) {
                let distance = (grain_at(row * COLUMNS + column) - p).length();
                if distance < radius {
                    let i = row * COLUMNS + column;
                    paint(&mut self.colour[i], &mut self.height[i], distance);
                }
            }
        }
    }

    /// Light from the upper left: paint facing it brightens, paint turned away
    /// falls into shade, and steep wet ridges glint.
    pub fn light(&mut self, depth: f32, gloss: f32) {
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                let height = |c: usize, r: usize| self.height[r * COLUMNS + c];
                let across = height((column + 1).min(COLUMNS - 1), row) - height(column.saturating_sub(1), row);
                let down = height(column, (row + 1).min(ROWS - 1)) - height(column, row.saturating_sub(1));
                let (nx, ny) = (-across * depth, -down * depth);
                let n = (1.0 + nx * nx + ny * ny).sqrt().recip();
                let facing = (-0.48 * nx - 0.56 * ny + 0.68) * n;
                let glint = ((-0.26 * nx - 0.31 * ny + 0.92) * n).max(0.0).powi(40);
                // Taken relative to a flat surface, which keeps its colour.
                let shade = 1.0 + 0.75 * (facing - 0.68);
                let shine = gloss * (glint - 0.92_f32.powi(40)).max(0.0);
                let colour = &mut self.colour[row * COLUMNS + column];
                *colour = colour.map(|c| c * shade + shine);
            }
        }
    }

    pub fn finish(&self) -> RgbImage {
        RgbImage::from_fn(WIDTH as u32, HEIGHT as u32, |x, y| {
            let grain = |i: usize| {
                let row = y as usize * FINENESS + i / FINENESS;
                self.colour[row * COLUMNS + x as usize * FINENESS + i % FINENESS]
            };
            let all = FINENESS * FINENESS;
            image::Rgb(array::from_fn(|c| {
                let sum: f32 = (0..all).map(|i| grain(i)[c].clamp(0.0, 1.0)).sum();
                (sum / all as f32 * 255.0).round() as u8
            }))
        })
    }
}

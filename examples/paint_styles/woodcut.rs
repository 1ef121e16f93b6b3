// SPDX-License-Identifier: MPL-2.0
//! A woodcut: sun, mountains and sea, cut with a gouge and printed in three
//! inks.
//!
//! The key block prints black wherever it is left standing. Each cut is a line
//! along the form of what it lies on, kept clear of every cut before it and of
//! the outline of its shape, and as wide as the light there.

use image::RgbImage;

use crate::kit::{
    COLUMNS, Canvas, Chance, Colour, FINENESS, HEIGHT, Point, ROWS, WIDTH, at, cloud, grain_at, hex, mix, noise,
    scatter, smoothstep, tint, walk,
};

const PAPER: Colour = hex(0xf1e4c6);
const BLACK: Colour = hex(0x17151a);
const VERMILION: Colour = hex(0xd2472a);
const TEAL: Colour = hex(0x4f9a94);

const SUN: Point = at(600.0, 196.0);
const SUN_RADIUS: f32 = 84.0;

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Sun,
    Sky,
    Cloud,
    /// Far to near.
    Ridge(usize),
}

/// The first of the ridges that is a wave.
const SEA: usize = 4;

fn ridges(x: f32) -> [f32; 8] {
    // Crested, but rounded enough for a gouge to follow.
    let peak = |length: f32, start: f32| (x / length + start).sin().hypot(0.25);
    [
        330.0 - 70.0 * (x / 170.0 + 2.2).sin() + 22.0 * peak(61.0, 0.4),
        388.0 - 52.0 * (x / 140.0 + 5.4).sin() + 12.0 * peak(83.0, 0.0),
        432.0 - 42.0 * (x / 200.0 + 0.9).sin() - 10.0 * (x / 63.0).sin(),
        486.0 - 36.0 * (x / 150.0 + 3.6).sin() - 6.0 * (x / 48.0).sin(),
        520.0 + 34.0 * peak(118.0, 0.3),
        566.0 + 40.0 * peak(150.0, 1.5),
        616.0 + 44.0 * peak(134.0, 0.7),
        668.0 + 46.0 * peak(162.0, 2.1),
    ]
}

fn shape(p: Point) -> Shape {
    // No knife follows a curve quite evenly.
    let p = p + at(noise(p * 0.09, 3), noise(p * 0.09, 4)) * 1.5;
    if let Some(near) = ridges(p.x).iter().rposition(|&y| p.y > y) {
        Shape::Ridge(near)
    } else if (p - SUN).length() < SUN_RADIUS {
        Shape::Sun
    } else if cloud(at(p.x * 0.0042, p.y * 0.017), 3, 12) > 0.2 {
        Shape::Cloud
    } else {
        Shape::Sky
    }
}

fn slope(near: usize, x: f32) -> Point {
    at(24.0, ridges(x + 12.0)[near] - ridges(x - 12.0)[near]).unit()
}

/// The way the gouge runs.
fn gouge(p: Point) -> Point {
    let stray = cloud(p * 0.007, 2, 30);
    match shape(p) {
        Shape::Sun => at(1.0, 0.25 * ((p.x - SUN.x) / 22.0).sin()),
        Shape::Sky => (p - SUN).turn(0.9 * stray),
        Shape::Cloud => at(1.0, 0.0).turn(1.1 * stray),
        Shape::Ridge(near) => {
            // Hills are cut down the slope, each its own way; waves along it.
            let lean = [1.0, -0.8, 0.5, 1.25, 0.12, -0.1, 0.1, -0.12][near];
            slope(near, p.x).turn(lean + 0.9 * stray)
        }
    }
}

/// How much light falls here, from 0 to 1.
fn light(p: Point) -> f32 {
    let patchy = 0.35 * cloud(p * 0.015, 2, 50);
    let light = match shape(p) {
        Shape::Sun => 0.95,
        Shape::Sky => {
            let out = p - SUN;
            let rays = (out.y.atan2(out.x) * 11.0).sin();
            0.95 - out.length() / 620.0 + 0.22 * rays
        }
        Shape::Cloud => 0.85,
        Shape::Ridge(near) => {
            let below = p.y - ridges(p.x)[near];
            let facing = slope(near, p.x).y * if p.x < SUN.x { -0.9 } else { 0.9 };
            0.92 - below / 75.0 + facing
        }
    };
    (light + patchy).clamp(0.12, 1.0)
}

/// The coloured blocks, printed before the key block.
fn ink(shape: Shape) -> Colour {
    match shape {
        Shape::Sun => VERMILION,
        Shape::Sky | Shape::Cloud => PAPER,
        Shape::Ridge(near) if near >= SEA => [TEAL, PAPER, TEAL, PAPER][near - SEA],
        Shape::Ridge(near) => [VERMILION, PAPER, TEAL, PAPER][near],
    }
}

/// The cuts made so far, in square bins, to keep new ones at a distance.
struct Cuts {
    bins: Vec<Vec<Point>>,
}

impl Cuts {
    const BIN: f32 = 14.0;
    const ACROSS: usize = (WIDTH / Self::BIN) as usize + 1;
    const DOWN: usize = (HEIGHT / Self::BIN) as usize + 1;

    fn new() -> Self {
        Self { bins: vec![Vec::new(); Self::ACROSS * Self::DOWN] }
    }

    fn bin(p: Point) -> (usize, usize) {
        let index = |x: f32, end: usize| ((x / Self::BIN).max(0.0) as usize).min(end - 1);
        (index(p.x, Self::ACROSS), index(p.y, Self::DOWN))
    }

    fn clear_of(&self, p: Point, distance: f32) -> bool {
        let (column, row) = Self::bin(p);
        (row.saturating_sub(1)..(row + 2).min(Self::DOWN)).all(|row| {
            (column.saturating_sub(1)..(column + 2).min(Self::ACROSS))
                .all(|column| self.bins[row * Self::ACROSS + column].iter().all(|&cut| (cut - p).length() > distance))
        })
    }

    fn add(&mut self, p: Point) {
        let (column, row) = Self::bin(p);
        self.bins[row * Self::ACROSS + column].push(p);
    }
}

/// Cuts the key block: the relief is 1 where wood is gone.
fn cut(chance: &mut Chance) -> Canvas {
    let mut block = Canvas::new(PAPER);
    let mut cuts = Cuts::new();
    for start in scatter(10.0, 3.0) {
        let here = shape(start);
        let apart = match here {
            Shape::Sun => 7.0,
            Shape::Sky => 9.5,
            Shape::Cloud => 8.5,
            Shape::Ridge(near) => [7.5, 8.5, 9.0, 10.0, 8.0, 9.0, 10.0, 11.0][near],
        };
        if !cuts.clear_of(start, apart) {
            continue;
        }
        let reach = chance.between(35.0, 130.0);
        let free = |p: Point, travelled: f32| {
            travelled < reach
                && (-20.0..WIDTH + 20.0).contains(&p.x)
                && (-20.0..HEIGHT + 20.0).contains(&p.y)
                && cuts.clear_of(p, apart * 0.72)
                && [at(2.6, 0.0), at(-2.6, 0.0), at(0.0, 2.6), at(0.0, -2.6)]
                    .iter()
                    .all(|&side| shape(p + side) == here)
        };
        let mut path = walk(start, |p| gouge(p) * -1.0, free);
        path.reverse();
        path.extend(walk(start, gouge, free));
        if path.len() < 24 {
            continue;
        }
        let length = path.len() as f32;
        for (i, &p) in path.iter().enumerate() {
            // The gouge dives in quickly and is let out slowly.
            let along = i as f32 / length;
            let dip = (smoothstep(0.0, 0.22, along) * smoothstep(1.0, 0.5, along)).sqrt();
            let slip = 1.0 + 0.16 * noise(p * 0.35, 60);
            let radius = 0.5 * apart * (0.2 + 0.66 * light(p)) * dip * slip;
            block.within(p, radius + 0.5, |_, gone, distance| {
                *gone = gone.max(((radius - distance) * FINENESS as f32 + 0.5).clamp(0.0, 1.0));
            });
            if i % 4 == 0 {
                cuts.add(p);
            }
        }
    }
    block
}

pub fn print() -> RgbImage {
    let mut sheet = cut(&mut Chance::new(1831));
    for i in 0..COLUMNS * ROWS {
        let p = grain_at(i);
        // Fibres in the paper, and the baren's uneven pressure on the ink.
        let fibre = 0.030 * cloud(p.turn(0.4) * 0.55, 3, 70);
        let pressure = cloud(p * 0.02, 3, 80);
        let speckle = cloud(p * 0.5, 2, 90);
        let colour = ink(shape(p - at(1.2, -0.9)));
        let colour = mix(colour, PAPER, 0.16 + 0.14 * pressure + 0.25 * speckle.max(0.0));
        // The wood's own rings show where the ink is thin.
        let rings = cloud(at(p.x * 0.006, p.y * 0.22 + 3.0 * cloud(p * 0.004, 2, 5)), 2, 100);
        let bare = smoothstep(0.42, 0.75, speckle + 0.3 * pressure + 0.25 * rings);
        let black = mix(BLACK, PAPER, 0.05 + 0.05 * rings + 0.6 * bare);
        sheet.colour[i] = tint(mix(black, colour, sheet.height[i]), 1.0 + fibre);
    }
    sheet.finish()
}

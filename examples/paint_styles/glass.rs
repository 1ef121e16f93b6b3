// SPDX-License-Identifier: MPL-2.0
//! Stained glass: a lily pond at evening, leaded in jewel colours.
//!
//! All drawing is one question, which piece of glass a point lies on; leads
//! run wherever the answer changes.

use std::f32::consts::{PI, TAU};

use image::RgbImage;

use crate::kit::{
    COLUMNS, Canvas, Chance, Colour, HEIGHT, Point, ROWS, at, cloud, grain_at, hex, mix, noise, ring, scatter,
    smoothstep, tint,
};

/// A piece of glass: what it is cut from, and its number in there.
#[derive(Clone, Copy, PartialEq)]
struct Piece {
    sheet: Sheet,
    number: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Sheet {
    Water,
    Sun,
    Leaf,
    Reed,
    Petal(usize),
    Heart,
}

const WATER: [Colour; 7] =
    [hex(0x0b2f8a), hex(0x0f55b5), hex(0x0a7fb0), hex(0x12a09a), hex(0x1b3fa8), hex(0x3a2a94), hex(0x0d68c0)];
const SUN: [Colour; 5] = [hex(0xffe27a), hex(0xffb52e), hex(0xf57f1c), hex(0xd9401f), hex(0x8d2a6c)];
const LEAF: [Colour; 5] = [hex(0x0f7a3c), hex(0x2fa048), hex(0x0a5a46), hex(0x86b83a), hex(0x157f5f)];
const PETALS: [[Colour; 4]; 3] = [
    [hex(0xc4123a), hex(0xe8305a), hex(0x98103e), hex(0xf0607a)],
    [hex(0xe9a9c4), hex(0xd976a6), hex(0xf0d6c8), hex(0xc4508c)],
    [hex(0x7a2bb0), hex(0xa04fd0), hex(0x5a2098), hex(0xc07fe0)],
];
const HEART: [Colour; 2] = [hex(0xffc22e), hex(0xffe680)];

struct Flower {
    centre: Point,
    radius: f32,
    petals: f32,
    hue: usize,
}

const fn flower(x: f32, y: f32, radius: f32, petals: f32, hue: usize) -> Flower {
    Flower { centre: at(x, y), radius, petals, hue }
}

const FLOWERS: [Flower; 6] = [
    flower(300.0, 300.0, 138.0, 11.0, 0),
    flower(705.0, 520.0, 122.0, 10.0, 1),
    flower(140.0, 585.0, 92.0, 9.0, 2),
    flower(455.0, 640.0, 66.0, 8.0, 0),
    flower(90.0, 100.0, 74.0, 8.0, 1),
    flower(905.0, 345.0, 70.0, 8.0, 2),
];

struct Pad {
    centre: Point,
    radius: f32,
    notch: f32,
}

const fn pad(x: f32, y: f32, radius: f32, notch: f32) -> Pad {
    Pad { centre: at(x, y), radius, notch }
}

const PADS: [Pad; 7] = [
    pad(330.0, 500.0, 96.0, 0.6),
    pad(520.0, 400.0, 84.0, 2.4),
    pad(880.0, 640.0, 112.0, 3.9),
    pad(110.0, 400.0, 84.0, 5.6),
    pad(580.0, 690.0, 84.0, 4.4),
    pad(420.0, 110.0, 84.0, 1.6),
    pad(270.0, 700.0, 70.0, 5.0),
];

const SUNSET: Point = at(720.0, 150.0);

fn sector(angle: f32, count: f32) -> u32 {
    (angle.rem_euclid(TAU) / TAU * count) as u32
}

fn on_flower(p: Point) -> Option<Piece> {
    FLOWERS.iter().zip(0..).find_map(|(flower, nth): (_, u32)| {
        let out = p - flower.centre;
        let (r, angle) = (out.length() / flower.radius, out.y.atan2(out.x));
        // Whorls of petals, the inner over the outer and between them.
        let whorl = |size: f32, shift: f32| {
            let bulge = ((angle + shift) * flower.petals / 2.0).sin().abs().sqrt();
            r < size * (0.70 + 0.30 * bulge)
        };
        let petal = Sheet::Petal(flower.hue);
        let half = PI / flower.petals;
        let (sheet, piece) = if r < 0.17 {
            (Sheet::Heart, 0)
        } else if whorl(0.44, half) {
            (petal, 20 + sector(angle + half, flower.petals))
        } else if whorl(0.72, 0.0) {
            (petal, 40 + sector(angle, flower.petals))
        } else if whorl(1.0, half) {
            (petal, 60 + sector(angle + half, flower.petals))
        } else {
            return None;
        };
        let number = nth * 100 + piece;
        Some(Piece { sheet, number })
    })
}

fn on_pad(p: Point) -> Option<Piece> {
    PADS.iter().zip(0..).find_map(|(pad, nth): (_, u32)| {
        let out = p - pad.centre;
        let (r, angle) = (out.length() / pad.radius, out.y.atan2(out.x) - pad.notch);
        let angle = angle.rem_euclid(TAU);
        if r > 1.0 || (r > 0.2 && angle < 0.5) {
            return None;
        }
        let vein = (angle - 0.5) / (TAU - 0.5) + 0.05 * (1.0 - r);
        let piece = match r {
            0.0..0.2 => 0,
            0.2..0.58 => 10 + (vein * 7.0) as u32,
            _ => 20 + (vein * 11.0) as u32,
        };
        Some(Piece { sheet: Sheet::Leaf, number: nth * 100 + piece })
    })
}

fn on_reed(p: Point) -> Option<Piece> {
    let reeds = [(24.0, 90.0), (590.0, -120.0), (835.0, 70.0), (930.0, -60.0), (215.0, -80.0)];
    reeds.iter().zip(0..).find_map(|(&(foot, bend), nth): (_, u32)| {
        let depth = (p.y / HEIGHT).clamp(0.0, 1.0);
        let middle = foot + bend * (1.0 - depth).powi(2);
        let piece = (p.y / 84.0 + foot * 0.013).max(0.0) as u32;
        let inside = (p.x - middle).abs() < 13.0 * depth.sqrt() + 2.0;
        inside.then_some(Piece { sheet: Sheet::Reed, number: nth * 100 + piece })
    })
}

fn on_sun(p: Point) -> Option<Piece> {
    let out = p - SUNSET;
    let angle = out.y.atan2(out.x);
    let flame = 188.0 + 32.0 * (angle * 11.0).sin().abs().sqrt();
    let reach = [36.0, 74.0, 114.0, 156.0, flame];
    let band = reach.iter().position(|&r| out.length() < r)?;
    let count = [1.0, 9.0, 14.0, 17.0, 22.0][band];
    // Seams of one band must not meet those of the next, nor cut a flame.
    let offset = [0.0, 1.0, 2.0, 3.0, 0.0][band];
    let piece = sector(angle + offset, count);
    Some(Piece { sheet: Sheet::Sun, number: band as u32 * 100 + piece })
}

/// Ripples: cells longer than high around scattered middles.
fn on_water(p: Point, middles: &[Point]) -> Piece {
    let p = p + at(cloud(p * 0.008, 2, 1), cloud(p * 0.008, 2, 2)) * 40.0;
    let off = |middle: Point| at((p.x - middle.x) * 0.42, p.y - middle.y).length();
    let nearest = middles.iter().zip(0..).min_by(|a, b| off(*a.0).total_cmp(&off(*b.0)));
    Piece { sheet: Sheet::Water, number: nearest.map_or(0, |(_, number)| number) }
}

/// Colour of the glass itself, streaked along the way it was drawn.
fn stain(piece: Piece, p: Point) -> Colour {
    let number = piece.number as f32;
    let whim = noise(at(number * 1.37, number * 0.61), 9);
    let along = p.turn(whim * 9.0);
    let streak = cloud(at(along.x * 0.012, along.y * 0.05), 3, 11 + u64::from(piece.number));
    let pick = number * 2.618 + 0.9 * streak;
    let colour = match piece.sheet {
        Sheet::Water => ring(&WATER, pick),
        Sheet::Sun => {
            let band = (piece.number / 100) as usize;
            mix(SUN[band], SUN[(band + 1).min(4)], 0.35 + 0.35 * whim + 0.4 * streak)
        }
        Sheet::Leaf | Sheet::Reed => ring(&LEAF, pick),
        Sheet::Petal(hue) => ring(&PETALS[hue], pick),
        Sheet::Heart => ring(&HEART, pick),
    };
    tint(colour, 1.0 + 0.25 * whim + 0.5 * streak)
}

pub fn glaze() -> RgbImage {
    let mut chance = Chance::new(1144);
    let middles: Vec<Point> = scatter(60.0, 40.0).map(|p| p + at(chance.wobble(), chance.wobble()) * 10.0).collect();
    let pieces: Vec<Piece> = (0..COLUMNS * ROWS)
        .map(|i| {
            let p = grain_at(i);
            // Hand-cut: no line is quite true.
            let p = p + at(cloud(p * 0.02, 2, 3), cloud(p * 0.02, 2, 4)) * 5.0;
            on_flower(p)
                .or_else(|| on_pad(p))
                .or_else(|| on_reed(p))
                .or_else(|| on_sun(p))
                .unwrap_or_else(|| on_water(p, &middles))
        })
        .collect();

    // First the relief says how far the nearest seam is.
    const FAR: f32 = 9.0;
    let mut window = Canvas::new([0.0; 3]);
    window.height.fill(FAR);
    for i in 0..COLUMNS * ROWS {
        let right = (i + 1) % COLUMNS != 0 && pieces[i + 1] != pieces[i];
        let below = i + COLUMNS < pieces.len() && pieces[i + COLUMNS] != pieces[i];
        if right || below {
            window.within(grain_at(i), FAR, |_, seam, distance| *seam = seam.min(distance));
        }
    }
    for (i, &piece) in pieces.iter().enumerate() {
        let p = grain_at(i);
        let seam = window.height[i];
        let lead = 2.7 + 0.5 * noise(p * 0.06, 20);
        let hammered = cloud(p * 0.11, 3, 30);
        // Grime gathers along the leads; light pools in the middle.
        let glow = 0.6 + 0.6 * smoothstep(lead, FAR, seam) + 0.14 * hammered;
        let glow = glow * (1.12 - (p - SUNSET).length() / 3000.0);
        let glass = tint(stain(piece, p), glow);
        let metal = tint(hex(0x1d1c22), 1.0 + 0.5 * cloud(p * 0.2, 2, 40));
        window.colour[i] = mix(metal, glass, smoothstep(lead - 0.4, lead + 0.4, seam));
        let round = (1.0 - (seam / lead).min(1.0).powi(2)).sqrt();
        window.height[i] = 2.2 * round + 0.5 * hammered;
    }
    // Air caught in the melt.
    for p in scatter(0.0, 17.0) {
        let bubble = chance.between(0.6, 1.7);
        let p = p + at(chance.wobble(), chance.wobble()) * 6.0;
        window.within(p, bubble, |_, height, distance| *height += 0.4 * (bubble - distance));
    }
    window.light(1.0, 0.3);
    window.finish()
}

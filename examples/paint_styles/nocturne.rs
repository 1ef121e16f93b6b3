// SPDX-License-Identifier: MPL-2.0
//! Oil on canvas: a night sky in motion over warm fields.
//!
//! Everything follows one stream function. Brushes run along its level lines,
//! and colour is chosen by its level, so that bands of colour and brushwork
//! agree without either being drawn.

use std::f32::consts::PI;

use image::RgbImage;

use crate::kit::{Canvas, Chance, Colour, Point, at, cloud, hex, mix, ring, scatter, smoothstep, walk};

struct Eddy {
    centre: Point,
    radius: f32,
    /// How far the sky is wound up at the centre, in radians.
    twist: f32,
}

const fn eddy(x: f32, y: f32, radius: f32, twist: f32) -> Eddy {
    Eddy { centre: at(x, y), radius, twist }
}

const EDDIES: [Eddy; 7] = [
    eddy(262.0, 196.0, 130.0, 7.4),
    eddy(800.0, 186.0, 104.0, -6.6),
    eddy(92.0, 396.0, 78.0, -5.2),
    eddy(522.0, 96.0, 76.0, -5.0),
    eddy(402.0, 372.0, 60.0, 4.6),
    eddy(915.0, 385.0, 74.0, 5.2),
    eddy(20.0, 60.0, 80.0, 5.0),
];

struct Lamp {
    centre: Point,
    radius: f32,
}

const fn lamp(x: f32, y: f32, radius: f32) -> Lamp {
    Lamp { centre: at(x, y), radius }
}

const MOON: Lamp = lamp(632.0, 372.0, 58.0);

const LAMPS: [Lamp; 7] = [
    MOON,
    lamp(120.0, 96.0, 30.0),
    lamp(404.0, 46.0, 15.0),
    lamp(668.0, 62.0, 24.0),
    lamp(905.0, 74.0, 17.0),
    lamp(250.0, 400.0, 16.0),
    lamp(30.0, 262.0, 18.0),
];

const NIGHT: [Colour; 10] = [
    hex(0x14224f),
    hex(0x1d3f86),
    hex(0x2a62a8),
    hex(0x17305f),
    hex(0x2f86a0),
    hex(0x7fbdb4),
    hex(0x24589b),
    hex(0xd9cf9a),
    hex(0x3f8fb8),
    hex(0x101b42),
];

const HALO: [Colour; 5] = [hex(0xf6d04a), hex(0xe39a24), hex(0xf4e3a0), hex(0x6fae9c), hex(0xf0b83a)];

const MOUNTAINS: [Colour; 5] = [hex(0x1f3470), hex(0x3a66a8), hex(0x4a3a86), hex(0x2a8494), hex(0x151f4a)];

const GROVES: [Colour; 5] = [hex(0x154a52), hex(0x2b8270), hex(0x12304a), hex(0x9aae4a), hex(0x2f5f96)];

const FIELDS: [Colour; 8] = [
    hex(0xe0a32e),
    hex(0xb9701f),
    hex(0xf2cf5c),
    hex(0x8a7a2c),
    hex(0xc8401f),
    hex(0xe8b84a),
    hex(0x2b6e74),
    hex(0xd68a2a),
];

/// Where each stretch of land begins, far to near: mountains, groves, fields.
fn skylines(x: f32) -> [f32; 3] {
    [
        470.0 + 34.0 * (x / 118.0 + 0.6).sin() + 16.0 * (x / 47.0).sin(),
        540.0 + 26.0 * (x / 160.0 + 2.4).sin() + 9.0 * (x / 52.0 + 1.0).sin(),
        590.0 + 34.0 * (x / 210.0 + 4.3).sin() + 8.0 * (x / 71.0).sin(),
    ]
}

/// Which stretch of land `p` is on, if not in the sky.
fn land(p: Point) -> Option<usize> {
    skylines(p.x).iter().rposition(|&y| p.y > y)
}

/// The stream function, in pixels where the flow is even.
fn level(p: Point) -> f32 {
    match land(p) {
        Some(2) => {
            // Furrows run towards the moonrise.
            let depth = p.y - MOON.centre.y - 60.0;
            180.0 * (p.x - MOON.centre.x) / depth + 30.0 * cloud(p * 0.008, 2, 40)
        }
        Some(near) => p.y - skylines(p.x)[near] + 24.0 * cloud(p * 0.012, 2, 40),
        None => {
            let wound = EDDIES.iter().fold(p, |p, eddy| {
                let out = p - eddy.centre;
                let d = out.length() / eddy.radius;
                eddy.centre + out.turn(eddy.twist * (-d * d).exp())
            });
            wound.y + 26.0 * (wound.x / 105.0).sin() + 50.0 * cloud(wound * 0.006, 3, 7)
        }
    }
}

fn flow(p: Point) -> Point {
    let dx = level(p + at(1.0, 0.0)) - level(p - at(1.0, 0.0));
    let dy = level(p + at(0.0, 1.0)) - level(p - at(0.0, 1.0));
    // The gradient, turned a quarter: along the level lines.
    let mut flow = at(dy, -dx).unit();
    if land(p).is_none() {
        for lamp in &LAMPS {
            let out = p - lamp.centre;
            let pull = smoothstep(3.2, 1.9, out.length() / lamp.radius);
            flow = flow * (1.0 - pull) + out.unit().across() * pull;
        }
    }
    flow
}

/// The colour the picture wants at `p`, before any brush has its say.
fn scene(p: Point) -> Colour {
    let drift = cloud(p * 0.011, 3, 21);
    if let Some(near) = land(p) {
        let palette: [&[Colour]; 3] = [&MOUNTAINS, &GROVES, &FIELDS];
        let band = level(p) / [11.0, 13.0, 15.0][near] + 1.6 * drift;
        return ring(palette[near], band);
    }
    let mut colour = ring(&NIGHT, level(p) / 17.0 + 2.2 * drift);
    for lamp in &LAMPS {
        let d = (p - lamp.centre).length() / lamp.radius;
        let ringed = if d < 0.75 { hex(0xfbdf78) } else { ring(&HALO, (d - 0.75) * lamp.radius / 13.0) };
        colour = mix(colour, ringed, smoothstep(2.4, 1.9, d + 0.9 * drift));
    }
    colour
}

/// One loaded brush drawn along `path`: a row of hairs, each with its own
/// shade, its own load of paint, and its own moment of running dry.
fn stroke(canvas: &mut Canvas, path: &[Point], width: f32, colour: Colour, chance: &mut Chance) {
    let hairs = (width * 2.6) as usize;
    let length = path.len() as f32;
    let (mut shade, mut load) = (0.0, 0.5);
    for hair in 0..hairs {
        let side = (hair as f32 + 0.5) / hairs as f32 * 2.0 - 1.0;
        // Neighbouring hairs clump.
        shade = 0.55 * shade + 0.10 * chance.wobble();
        load = (0.6 * load + 0.4 * chance.unit()).clamp(0.0, 1.0);
        // Paths step by half a pixel, so this rounds the ends off.
        let corner = width * (1.0 - (1.0 - side * side).sqrt());
        let first = corner + width * 0.35 * chance.unit();
        let last = length - corner - (width * 1.6 * chance.unit()).min(length * 0.2);
        let hair_colour = colour.map(|c| c * (1.0 + shade) + 0.25 * shade);
        // Pressure squeezes paint out to the sides of the brush.
        let ridge = 0.35 + 0.75 * load + 0.6 * side.powi(6);
        let dry = 0.55 + 0.9 * load;
        for i in first as usize..last.max(first) as usize {
            let along = i as f32 / length;
            let ahead = path[(i + 1).min(path.len() - 1)] - path[i.saturating_sub(1)];
            let press = 0.8 + 0.2 * (along * PI).sin();
            let p = path[i] + ahead.unit().across() * (0.5 * side * width * press);
            let body = smoothstep(dry + 0.25, dry - 0.1, along) * 0.85;
            canvas.within(p, 0.75, |under, height, distance| {
                let a = body * (1.0 - distance / 0.75);
                *under = mix(*under, hair_colour, a);
                // Half of what lay there is pushed aside, or it would pile up.
                *height += (ridge - 0.55 * *height) * a;
            });
        }
    }
}

/// No two strokes are mixed alike: value, warmth and strength all stray.
fn remix(colour: Colour, stray: f32, chance: &mut Chance) -> Colour {
    let darker = (0.25 + 1.7 * stray * chance.wobble()).exp2();
    let warmth = 0.35 * stray * chance.wobble();
    let grey = (colour[0] + colour[1] + colour[2]) / 3.0;
    let strength = -0.4 * stray * chance.wobble();
    let [r, g, b] = mix(colour, [grey; 3], strength);
    // A power keeps a dark yellow golden; a factor would turn it to mud.
    [r + 0.3 * warmth, g + 0.1 * warmth, b - 0.3 * warmth].map(|c| c.max(0.0).powf(darker))
}

pub fn paint() -> RgbImage {
    let mut chance = Chance::new(1889);
    let mut canvas = Canvas::new(hex(0x3a2c26));
    // Broad to fine: width, spacing, how far a colour may stray.
    for (width, spacing, stray) in [(30.0, 17.0, 0.25), (20.0, 13.0, 0.35), (13.0, 11.0, 0.42), (8.5, 11.5, 0.5)] {
        for start in scatter(width, spacing) {
            let start = start + at(chance.wobble(), chance.wobble()) * (spacing * 0.3);
            let wanted = scene(start);
            let width = width * chance.between(0.75, 1.2);
            let reach = width * chance.between(4.0, 8.0);
            let path = walk(start, flow, |p, travelled| {
                let here = scene(p);
                let off: f32 = (0..3).map(|i| (here[i] - wanted[i]).abs()).sum();
                travelled < reach && (off < 0.5 || travelled < width)
            });
            let colour = remix(wanted, stray, &mut chance);
            stroke(&mut canvas, &path, width, colour, &mut chance);
        }
    }
    canvas.light(1.25, 0.35);
    canvas.finish()
}

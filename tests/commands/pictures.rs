// SPDX-License-Identifier: MPL-2.0

//! Pictures and animations as input, and pictures as output.

use std::{fs, io::Cursor};

use image::{Delay, ImageBuffer, ImageFormat, Rgb, RgbImage, RgbaImage, codecs::gif::GifEncoder};

use crate::place::{FAST, Frame, Place, assert_frames};

#[test]
fn paints_a_picture() {
    let place = Place::new();
    place.make("photo.png", "videotestsrc num-buffers=1 ! video/x-raw,width=65,height=49 ! videoconvert ! pngenc");
    for output in ["painted.png", "painted.jpg"] {
        let run = place.stylize(&["photo.png", output], &FAST);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let picture = image::open(place.path(output)).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (65, 49));
        assert_ne!(picture, image::open(place.path("photo.png")).unwrap().to_rgb8());
    }
}

/// What a telephone held upright writes: its only tag (0x0112) turns the picture by 90 degrees (6).
const EXIF: &[u8] = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";

#[test]
fn paints_photos_upright() {
    let place = Place::new();
    image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([4 * x as u8, 5 * y as u8, 99]))
        .save(place.path("photo.jpg"))
        .unwrap();
    let mut photo = fs::read(place.path("photo.jpg")).unwrap();
    photo.splice(2..2, [b"\xff\xe1\x00\x22Exif\0\0", EXIF].concat());
    // Even if its end, a marker, is missing.
    photo.truncate(photo.len() - 2);
    fs::write(place.path("photo.jpg"), photo).unwrap();
    let run = place.stylize(&["photo.jpg", "painted.png"], &FAST);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(image::image_dimensions(place.path("painted.png")).unwrap(), (48, 64));
}

#[test]
fn paints_one_frame_for_a_picture() {
    let place = Place::new();
    place.make_clip("clip.mkv", 64, 48);
    let run = place.stylize(&["clip.mkv", "painted.png"], &FAST);
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("Painted 1 frame:"), "{said}");
    assert_eq!(image::open(place.path("painted.png")).unwrap().color(), image::ColorType::Rgb8);
}

fn gradient(x: u32, y: u32) -> Rgb<u8> {
    Rgb([4 * x as u8, 5 * y as u8, 99])
}

#[test]
fn keeps_the_colours_of_a_picture() {
    let place = Place::new();
    let picture = RgbImage::from_fn(63, 48, gradient);
    let of_16_bits = ImageBuffer::from_fn(63, 48, |x, y| Rgb(gradient(x, y).0.map(|level| 257 * u16::from(level))));
    of_16_bits.save(place.path("16.png")).unwrap();
    for name in ["8.png", "8.bmp", "8.tiff", "8.webp"] {
        picture.save(place.path(name)).unwrap();
    }
    for name in ["16.png", "8.png", "8.bmp", "8.tiff", "8.webp"] {
        place.pass_through(name, "painted.png");
        let painted = image::open(place.path("painted.png")).unwrap();
        assert_eq!(painted.color(), image::ColorType::Rgb8, "{name}");
        assert!(painted.to_rgb8() == picture, "{name} has other colours");
    }
}

#[test]
fn keeps_the_frames_of_an_animation() {
    let place = Place::new();
    for (name, times) in [("one.gif", &[0][..]), ("three.gif", &[0, 100, 350])] {
        let frames: Vec<_> =
            times.iter().enumerate().map(|(index, &time)| Frame::new(time, 60 * index as u8 + 50)).collect();
        let mut encoder = GifEncoder::new(fs::File::create(place.path(name)).unwrap());
        for (index, frame) in frames.iter().enumerate() {
            let delay = times.get(index + 1).map_or(0, |next| next - frame.time);
            let delay = Delay::from_numer_denom_ms(delay as u32, 1);
            let picture = RgbaImage::from_pixel(64, 48, image::Rgba([frame.level, frame.level, frame.level, 255]));
            encoder.encode_frame(image::Frame::from_parts(picture, 0, 0, delay)).unwrap();
        }
        drop(encoder);
        for output in ["painted.mp4", "painted.mkv", "painted.webm"] {
            place.pass_through(name, output);
            assert_frames(&place.frames(output), &frames);
        }
        place.pass_through(name, "painted.png");
        assert_eq!(image::open(place.path("painted.png")).unwrap().to_rgb8().get_pixel(9, 9).0, [50; 3]);
    }
}

/// A chunk of a PNG file: length, kind, content and CRC-32.
fn png_chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let chunk = [kind, content].concat();
    let mut checksum = u32::MAX;
    for byte in &chunk {
        checksum ^= u32::from(*byte);
        for _ in 0..8 {
            checksum = checksum >> 1 ^ if checksum & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    [&(content.len() as u32).to_be_bytes(), &chunk[..], &(!checksum).to_be_bytes()].concat()
}

fn png_header(width: u32, height: u32) -> Vec<u8> {
    let content = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n", &png_chunk(b"IHDR", &content)[..]].concat()
}

/// The control chunk of a frame of 100 ms.
fn png_frame(sequence: u32, width: u32, height: u32) -> Vec<u8> {
    let numbers = [sequence, width, height, 0, 0].map(u32::to_be_bytes);
    png_chunk(b"fcTL", &[numbers.as_flattened(), &[0, 1, 0, 10, 0, 0]].concat())
}

/// An animation of a picture that is shown twice, and says that it has to be turned.
fn animated_png(picture: &RgbImage) -> Vec<u8> {
    let mut still = Cursor::new(Vec::new());
    picture.write_to(&mut still, ImageFormat::Png).unwrap();
    let still = still.into_inner();
    let mut data = Vec::new();
    let mut rest = &still[8..];
    while let [a, b, c, d, following @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if following.starts_with(b"IDAT") {
            data.extend_from_slice(&following[4..4 + length]);
        }
        rest = &following[4 + length + 4..];
    }
    let (width, height) = picture.dimensions();
    [
        png_header(width, height),
        png_chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]),
        png_chunk(b"eXIf", EXIF),
        png_frame(0, width, height),
        png_chunk(b"IDAT", &data),
        png_frame(1, width, height),
        png_chunk(b"fdAT", &[&[0, 0, 0, 2], &data[..]].concat()),
        png_chunk(b"IEND", &[]),
    ]
    .concat()
}

/// The same in WebP.
fn animated_webp(picture: &RgbImage) -> Vec<u8> {
    fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let padding = &[0][..content.len() % 2];
        [kind, &(content.len() as u32).to_le_bytes()[..], content, padding].concat()
    }
    let mut still = Cursor::new(Vec::new());
    picture.write_to(&mut still, ImageFormat::WebP).unwrap();
    let size = [picture.width(), picture.height()].map(|side| (side - 1).to_le_bytes());
    let size = [&size[0][..3], &size[1][..3]].concat();
    // It is shown at (0, 0), for 100 ms.
    let frame = chunk(b"ANMF", &[&[0; 6], &size[..], &[100, 0, 0, 2], &still.get_ref()[12..]].concat());
    let chunks = [
        // It has EXIF data and is animated.
        chunk(b"VP8X", &[&[0b1010, 0, 0, 0], &size[..]].concat()),
        chunk(b"ANIM", &[0; 6]),
        frame.clone(),
        frame,
        chunk(b"EXIF", EXIF),
    ]
    .concat();
    chunk(b"RIFF", &[b"WEBP", &chunks[..]].concat())
}

#[test]
fn paints_animations_upright() {
    let place = Place::new();
    let picture = RgbImage::from_fn(64, 48, gradient);
    for (name, animation) in [("moving.png", animated_png(&picture)), ("moving.webp", animated_webp(&picture))] {
        fs::write(place.path(name), animation).unwrap();
        place.pass_through(name, "painted.png");
        let painted = image::open(place.path("painted.png")).unwrap().to_rgb8();
        assert!(painted == image::imageops::rotate90(&picture), "{name} is not upright");
        let said = place.pass_through(name, "painted.mp4");
        assert!(!said.contains("Warning"), "{name}: {said}");
        assert_eq!(place.count_frames("painted.mp4"), 2, "{name}");
    }
}

#[test]
fn refuses_pictures_that_take_too_much_memory() {
    let place = Place::new();
    // With two colours, and a frame of one pixel.
    let gif = |width: u16, height: u16| {
        let rest = b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;";
        [b"GIF89a", &width.to_le_bytes()[..], &height.to_le_bytes(), rest].concat()
    };
    let png = |width, height, before: &[Vec<u8>]| {
        [png_header(width, height), before.concat(), png_chunk(b"IDAT", &[]), png_chunk(b"IEND", &[])].concat()
    };
    let moves = [png_chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]), png_frame(0, 9000, 8000)];
    for (name, picture, size) in [
        ("huge.gif", gif(65535, 65535), "65535x65535"),
        // One frame of these would do, but an animation takes several at a time.
        ("moving.gif", gif(9000, 8000), "9000x8000"),
        ("moving.png", png(9000, 8000, &moves), "9000x8000"),
        ("still.png", png(30000, 20000, &[]), "30000x20000"),
    ] {
        fs::write(place.path(name), picture).unwrap();
        let reason = format!("{size} pixels take more than 1024 MiB");
        place.assert_fails(&[name, "painted.png"], &FAST, &reason);
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Pictures and animations as input, and pictures as output.

use std::fs;

use image::{Delay, ImageBuffer, Rgb, RgbImage, RgbaImage, codecs::gif::GifEncoder};

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

#[test]
fn paints_photos_upright() {
    let place = Place::new();
    image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([4 * x as u8, 5 * y as u8, 99]))
        .save(place.path("photo.jpg"))
        .unwrap();
    // What a telephone held upright writes: an EXIF segment whose only tag (0x0112) turns the picture by 90 degrees (6).
    let orientation = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let mut photo = fs::read(place.path("photo.jpg")).unwrap();
    photo.splice(2..2, orientation.iter().copied());
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

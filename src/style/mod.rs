// SPDX-License-Identifier: MPL-2.0

//! Style images: pictures from files, and the ones that come with the library.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Cursor, Seek},
};

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult, Limits, Pixel, Rgba,
    error::ImageFormatHint, metadata::Orientation,
};

use crate::{
    Error, Result,
    image::{Picture, fit},
};

/// The shortest side, in pixels, that a style image may have.
pub const MIN_SIDE: u32 = 16;
/// The longest side, in pixels, that a style image may have.
pub const MAX_SIDE: u32 = 16_384;
/// The longest side, in pixels, at which a style image is kept. Larger pictures are shrunk to it. An image that is
/// optimized at a larger size gets the style enlarged from there.
pub const MAX_KEPT_SIDE: u32 = 4096;
/// The largest decoded style image, in bytes.
const MAX_DECODED: u64 = 1 << 30;
/// The formats of style images. The crate `image` may know more in a program that uses it for other pictures too.
const FORMATS: [ImageFormat; 5] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff];

/// A picture that comes with the library, painted by `examples/paint_styles`.
struct BuiltIn {
    name: &'static str,
    jpeg: &'static [u8],
}

const BUILT_IN: [BuiltIn; 3] = [
    BuiltIn { name: "nocturne", jpeg: include_bytes!("nocturne.jpg") },
    BuiltIn { name: "woodcut", jpeg: include_bytes!("woodcut.jpg") },
    BuiltIn { name: "glass", jpeg: include_bytes!("glass.jpg") },
];

/// The default style.
pub const DEFAULT: &str = BUILT_IN[0].name;

/// The names of the built-in styles, the default one first.
pub fn built_in_names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|style| style.name)
}

/// A style image: a built-in one by its name, or a PNG, JPEG, WebP, BMP or TIFF picture by its path.
///
/// A file with the name of a built-in style is loaded by a path with a slash in it. Pictures are turned as their EXIF
/// orientation says; what is transparent in them becomes white. A JPEG picture that is damaged is taken as far as it can
/// be decoded.
///
/// A picture with a side longer than [`MAX_KEPT_SIDE`] is shrunk to it. The result takes 3 bytes for each pixel, at most
/// 50 MB. Decoding needs the memory of the whole picture for a moment, and is refused above 1 GiB.
///
/// # Errors
///
/// [`Error::StyleMissing`] if there is no such style, [`Error::StyleUndecodable`] if the file is no picture of these
/// kinds, is damaged, or has a side longer than [`MAX_SIDE`], [`Error::StyleTiny`] if it has one shorter than
/// [`MIN_SIDE`].
pub fn load(style: &str) -> Result<Picture> {
    let undecodable = |source: ImageError| Error::StyleUndecodable {
        path: style.to_owned(),
        longest: MAX_SIDE,
        source: source.into(),
    };
    let picture = match BUILT_IN.iter().find(|built_in| built_in.name == style) {
        Some(built_in) => decode(ImageReader::new(Cursor::new(built_in.jpeg))),
        None => match open(style) {
            Ok(file) => decode(ImageReader::new(BufReader::new(file))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let available = built_in_names().collect::<Vec<_>>().join(", ");
                return Err(Error::StyleMissing { path: style.to_owned(), available });
            }
            Err(error) => Err(error.into()),
        },
    };
    let (picture, orientation) = picture.map_err(undecodable)?;
    let (width, height) = (picture.width(), picture.height());
    if width.min(height) < MIN_SIDE {
        return Err(Error::StyleTiny { path: style.to_owned(), width, height, shortest: MIN_SIDE });
    }
    let mut picture = bounded(on_white(picture));
    picture.apply_orientation(orientation);
    let picture = picture.into_rgb8();
    Picture::new(picture.width() as usize, picture.height() as usize, picture.into_raw())
}

/// Opens a regular file. Others, such as a named pipe, could block for ever.
fn open(path: &str) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

fn decode<R: BufRead + Seek>(reader: ImageReader<R>) -> ImageResult<(DynamicImage, Orientation)> {
    let mut reader = reader.with_guessed_format()?;
    if let Some(format) = reader.format().filter(|format| !FORMATS.contains(format)) {
        return Err(ImageError::Unsupported(ImageFormatHint::Exact(format).into()));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    // The reader checks what the decoder allocates for itself, not the picture.
    limits.reserve(decoder.total_bytes())?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder)?, orientation))
}

/// What is transparent becomes white. A picture of 8-bit colour is changed in place: it may be large.
fn on_white(picture: DynamicImage) -> DynamicImage {
    if !picture.color().has_alpha() {
        return picture;
    }
    let mut picture = picture.into_rgba8();
    for pixel in picture.pixels_mut() {
        let mut blended = Rgba([255; 4]);
        blended.blend(pixel);
        *pixel = blended;
    }
    picture.into()
}

/// Shrinks a picture with a side longer than [`MAX_KEPT_SIDE`].
fn bounded(picture: DynamicImage) -> DynamicImage {
    let (width, height) = (picture.width(), picture.height());
    if width.max(height) <= MAX_KEPT_SIDE {
        return picture;
    }
    let (width, height) = fit((width as usize, height as usize), MAX_KEPT_SIDE as usize);
    picture.thumbnail_exact(width as u32, height as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_styles_are_large_enough() {
        assert_eq!(built_in_names().next(), Some(DEFAULT));
        for name in built_in_names() {
            let (width, height) = load(name).unwrap().size();
            assert!(width.max(height) >= 640, "{name}: {width}x{height}");
        }
    }

    #[test]
    fn every_promised_format_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let picture = image::RgbImage::from_fn(24, 20, |x, y| image::Rgb([10 * x as u8, 9 * y as u8, 77]));
        for extension in ["png", "jpg", "webp", "bmp", "tiff"] {
            // The content decides, whatever the name says.
            let path = directory.path().join(format!("picture.{extension}"));
            picture.save(&path).unwrap();
            let renamed = directory.path().join("picture");
            std::fs::rename(&path, &renamed).unwrap();
            let read = load(renamed.to_str().unwrap()).unwrap();
            assert_eq!(read.size(), (24, 20), "{extension}");
            let blue = read.image().data()[2 * 24 * 20 + 250];
            assert!((blue - 77.0).abs() < 12.0, "{extension}: {blue}");
        }
    }

    #[test]
    fn transparency_is_white() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clear.png");
        image::RgbaImage::from_pixel(17, 16, image::Rgba([0, 0, 0, 0])).save(&path).unwrap();
        assert_eq!(load(path.to_str().unwrap()).unwrap(), Picture::new(17, 16, vec![255; 3 * 17 * 16]).unwrap());
    }

    #[test]
    fn large_styles_are_kept_smaller() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large.png");
        // Halves in two colours, the left one transparent.
        let picture = image::RgbaImage::from_fn(8192, 32, |x, _| Rgba([10, 200, 90, if x < 4096 { 0 } else { 255 }]));
        picture.save(&path).unwrap();
        let read = load(path.to_str().unwrap()).unwrap();
        assert_eq!(read.size(), (4096, 16));
        let image = read.image();
        for (row, right) in image.data().chunks_exact(4096).zip([[10.0; 16], [200.0; 16], [90.0; 16]].as_flattened()) {
            assert!(row[..2048].iter().all(|value| *value == 255.0) && row[2048..].iter().all(|value| value == right));
        }
        image::RgbImage::new(4096, 16).save(&path).unwrap();
        assert_eq!(load(path.to_str().unwrap()).unwrap().size(), (4096, 16));
    }

    #[test]
    fn missing_and_broken_styles_say_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("style.png");
        let path = path.to_str().unwrap();
        let message = load(path).unwrap_err().to_string();
        assert!(message.contains(path) && message.contains(DEFAULT), "{message}");

        std::fs::write(path, "not a picture").unwrap();
        let message = load(path).unwrap_err().to_string();
        assert!(message.contains(path) && message.contains("PNG"), "{message}");

        image::RgbImage::from_pixel(64, 64, image::Rgb([200, 100, 50])).save(path).unwrap();
        let whole = std::fs::read(path).unwrap();
        std::fs::write(path, &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(load(path), Err(Error::StyleUndecodable { .. })));
        assert!(matches!(load(directory.path().to_str().unwrap()), Err(Error::StyleUndecodable { .. })));
    }

    #[test]
    fn huge_styles_are_refused_before_they_are_decoded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("huge.bmp");
        // A bitmap header that promises 20000x20000 pixels, and nothing after it.
        let mut header = b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        for number in [20_000u32, 20_000, 1 | 24 << 16, 0, 0, 2835, 2835, 0, 0] {
            header.extend(number.to_le_bytes());
        }
        std::fs::write(&path, header).unwrap();
        let message = load(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("16384") && message.contains("limit"), "{message}");

        // One that takes more memory than its sides tell: the header of a picture of 16384x16384 pixels of 8 bytes, with
        // its checksum, and nothing after it but the end.
        let chunks: [&[u8]; 3] = [
            b"\0\0\0\x0dIHDR\0\0\x40\0\0\0\x40\0\x10\x06\0\0\0",
            b"\0\0\0\0IDAT\x35\xaf\x06\x1e",
            b"\0\0\0\0IEND\xae\x42\x60\x82",
        ];
        let [header, data, end] = chunks;
        let bytes = [b"\x89PNG\r\n\x1a\n", header, b"\xf9\x58\xcc\xc7", data, end].concat();
        std::fs::write(&path, bytes).unwrap();
        let message = load(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("limit"), "{message}");
    }
}

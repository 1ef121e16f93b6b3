// SPDX-License-Identifier: MPL-2.0

//! Pictures and animations as input. They are read as styles are, since GStreamer 1.22 mistakes some of them: it shifts
//! the colours of PNG files of 16 bits, finds no end in GIF files, and does not turn photos upright.

use std::{
    fs::File,
    io::BufReader,
    iter,
    path::{Path, PathBuf},
    thread,
};

use gst_app::AppSrc;
use gst_video::{VideoFormat, VideoInfo};
use image::{
    AnimationDecoder, DynamicImage, Frame, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits,
    codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};

use crate::Result;

const FORMATS: [ImageFormat; 6] =
    [ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Tiff, ImageFormat::WebP];

/// How long a picture is shown that does not say it, or says no more than 10 ms: as long as browsers show it.
const DEFAULT_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(100);
const SHORTEST_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(11);

/// The most memory, in bytes, that decoding may take.
const MOST_MEMORY: u64 = 1 << 30;

/// How many pictures of four bytes a pixel the decoder of an animation holds: the canvas before and after a frame, the
/// frame, and one to convert.
const PICTURES_OF_ANIMATION: u64 = 4;

type Frames = Box<dyn Iterator<Item = ImageResult<(DynamicImage, gst::ClockTime)>>>;

/// A file with a picture or an animation.
pub struct Picture {
    path: PathBuf,
    format: ImageFormat,
    info: VideoInfo,
}

impl Picture {
    /// Opens a file, if it is of a kind that is read here.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let format = reader(path)?.format();
        let Some(format) = format.filter(|format| FORMATS.contains(format)) else { return Ok(None) };
        let mut decoder = reader(path)?.into_decoder()?;
        reserve(&decoder, decoder.total_bytes())?;
        let (width, height) = match orientation(&mut decoder) {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => {
                let (width, height) = decoder.dimensions();
                (height, width)
            }
            _ => decoder.dimensions(),
        };
        let layout = if decoder.color_type().has_alpha() { VideoFormat::Rgba } else { VideoFormat::Rgb };
        let info = VideoInfo::builder(layout, width, height).fps(gst::Fraction::new(0, 1)).build()?;
        Ok(Some(Self { path: path.to_owned(), format, info }))
    }

    /// The raw video that the picture becomes.
    pub fn caps(&self) -> Result<gst::Caps> {
        Ok(self.info.to_caps()?)
    }

    /// Decodes the picture into a pipeline, on a thread of its own, which ends with the picture or when the pipeline
    /// stops.
    pub fn decode_into(self, source: AppSrc) {
        thread::spawn(move || {
            let mut pushed = false;
            match self.push_frames(&source, &mut pushed) {
                Ok(()) => {}
                // What there is of it is worth painting.
                Err(error) if pushed => {
                    gst::element_warning!(source, gst::StreamError::Decode, ("the input ends early: {error}"));
                }
                Err(error) => gst::element_error!(source, gst::StreamError::Decode, ("{error}")),
            }
            // Fails if the pipeline has stopped.
            let _ = source.end_of_stream();
        });
    }

    fn push_frames(&self, source: &AppSrc, pushed: &mut bool) -> Result<()> {
        let mut time = gst::ClockTime::ZERO;
        for frame in frames(&self.path, self.format)? {
            let (frame, duration) = frame?;
            let mut buffer = gst::Buffer::from_mut_slice(self.pack(frame)?);
            if let Some(buffer) = buffer.get_mut() {
                buffer.set_pts(time);
                buffer.set_duration(duration);
            }
            time += duration;
            if source.push_buffer(buffer).is_err() {
                return Ok(());
            }
            *pushed = true;
        }
        Ok(())
    }

    /// The pixels in the layout of `VideoInfo`, whose rows start at multiples of four bytes.
    fn pack(&self, frame: DynamicImage) -> Result<Vec<u8>> {
        if (frame.width(), frame.height()) != (self.info.width(), self.info.height()) {
            return Err(format!("a frame is {}x{} pixels", frame.width(), frame.height()).into());
        }
        let (pixels, row) = match self.info.format() {
            VideoFormat::Rgba => (frame.into_rgba8().into_raw(), 4 * self.info.width() as usize),
            _ => (frame.into_rgb8().into_raw(), 3 * self.info.width() as usize),
        };
        let stride = usize::try_from(self.info.stride()[0])?;
        if row == stride {
            return Ok(pixels);
        }
        let mut packed = vec![0; self.info.size()];
        for (to, from) in packed.chunks_exact_mut(stride).zip(pixels.chunks_exact(row)) {
            to[..row].copy_from_slice(from);
        }
        Ok(packed)
    }
}

/// Reads a file, whose content alone decides what it is: `ImageReader::open` would also go by the name.
fn reader(path: &Path) -> Result<ImageReader<BufReader<File>>> {
    let mut reader = ImageReader::new(BufReader::new(File::open(path)?)).with_guessed_format()?;
    reader.limits(limits());
    Ok(reader)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_MEMORY);
    limits
}

/// Refuses a picture that takes too many bytes. The decoders check only a part of what they allocate.
fn reserve(decoder: &impl ImageDecoder, bytes: u64) -> Result<()> {
    limits().reserve(bytes).map_err(|_| {
        let (width, height) = decoder.dimensions();
        format!("{width}x{height} pixels take more than {} MiB of memory to decode", MOST_MEMORY >> 20).into()
    })
}

/// Decodes the frames of a picture or an animation, each with its duration.
fn frames(path: &Path, format: ImageFormat) -> Result<Frames> {
    let file = BufReader::new(File::open(path)?);
    Ok(match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file)?;
            let orientation = prepare_animation(&mut decoder)?;
            animated(decoder, orientation)
        }
        ImageFormat::Png => {
            let mut decoder = PngDecoder::with_limits(file, limits())?;
            if !decoder.is_apng()? {
                return still(path);
            }
            let orientation = prepare_animation(&mut decoder)?;
            animated(decoder.apng()?, orientation)
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(file)?;
            if !decoder.has_animation() {
                return still(path);
            }
            let orientation = prepare_animation(&mut decoder)?;
            animated(decoder, orientation)
        }
        _ => still(path)?,
    })
}

/// Checks that an animation fits into memory, and returns how its frames have to be turned.
fn prepare_animation(decoder: &mut impl ImageDecoder) -> Result<Orientation> {
    let (width, height) = decoder.dimensions();
    reserve(decoder, (4 * PICTURES_OF_ANIMATION).saturating_mul(u64::from(width) * u64::from(height)))?;
    decoder.set_limits(limits())?;
    Ok(orientation(decoder))
}

fn animated(decoder: impl AnimationDecoder<'static>, orientation: Orientation) -> Frames {
    let finish = move |frame: Frame| {
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let duration = gst::ClockTime::from_useconds(1000 * u64::from(numerator) / u64::from(denominator.max(1)));
        let duration = if duration < SHORTEST_DURATION { DEFAULT_DURATION } else { duration };
        let mut picture = DynamicImage::from(frame.into_buffer());
        picture.apply_orientation(orientation);
        (picture, duration)
    };
    Box::new(decoder.into_frames().map(move |frame| frame.map(finish)))
}

/// Decodes a picture and turns it upright.
fn still(path: &Path) -> Result<Frames> {
    let mut decoder = reader(path)?.into_decoder()?;
    reserve(&decoder, decoder.total_bytes())?;
    let orientation = orientation(&mut decoder);
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(Box::new(iter::once(Ok((picture, DEFAULT_DURATION)))))
}

/// How a photo has to be turned. A damaged note of it leaves the photo as it is.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

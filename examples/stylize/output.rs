// SPDX-License-Identifier: MPL-2.0

//! What is written, and where to.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::Result;

/// How a file with a certain ending is made, in the language of gst-launch-1.0.
pub struct Format {
    pub ending: &'static str,
    pub video_encoder: &'static str,
    /// Whether the video encoder takes 4:2:0 frames of even sizes only.
    pub even_only: bool,
    /// What holds the streams; none for a picture.
    pub container: Option<Container>,
}

pub struct Container {
    pub muxer: &'static str,
    /// The first one that is installed is used.
    pub audio_encoders: &'static [&'static str],
}

/// H.264 in constant quality at which brush strokes stay crisp. The rate control buffer would limit the bitrate to
/// 2 Mbit/s.
macro_rules! h264 {
    ($settings:literal) => {
        concat!("x264enc pass=qual quantizer=18 vbv-buf-capacity=0 ", $settings)
    };
}
const H264: &str = h264!("");
// mp4mux of GStreamer 1.22 takes the decoding times of B-frames for the length of the film, and so hides the last
// frames of one whose frames are not equally long.
const H264_IN_ORDER: &str = h264!("bframes=0");
const VP9: &str = "vp9enc min-quantizer=4 max-quantizer=24 row-mt=true";
const AAC: [&str; 4] = ["fdkaacenc", "avenc_aac", "voaacenc", "opusenc"];
const OPUS: [&str; 1] = ["opusenc"];

const FORMATS: [Format; 6] = [
    Format {
        ending: "mp4",
        video_encoder: H264_IN_ORDER,
        even_only: true,
        container: Some(Container { muxer: "mp4mux faststart=true", audio_encoders: &AAC }),
    },
    Format {
        ending: "mkv",
        video_encoder: H264,
        even_only: true,
        container: Some(Container { muxer: "matroskamux", audio_encoders: &AAC }),
    },
    Format {
        ending: "webm",
        video_encoder: VP9,
        even_only: false,
        container: Some(Container { muxer: "webmmux", audio_encoders: &OPUS }),
    },
    Format { ending: "png", video_encoder: "pngenc", even_only: false, container: None },
    Format { ending: "jpg", video_encoder: JPEG, even_only: false, container: None },
    Format { ending: "jpeg", video_encoder: JPEG, even_only: false, container: None },
];
const JPEG: &str = "jpegenc quality=95";

impl Format {
    /// The format that the ending of a file name asks for.
    pub fn of(path: &Path) -> Result<&'static Self> {
        let ending = path.extension().unwrap_or_default();
        FORMATS.iter().find(|format| ending.eq_ignore_ascii_case(format.ending)).ok_or_else(|| {
            let endings: Vec<_> = FORMATS.iter().map(|format| format.ending).collect();
            format!("cannot write {}: its name must end in one of {}", path.display(), endings.join(", ")).into()
        })
    }
}

/// The output while it is incomplete, in a directory of its own beside its final place. Dropped, it is gone.
pub struct Part {
    directory: TempDir,
    destination: PathBuf,
}

impl Part {
    pub fn beside(destination: &Path) -> Result<Self> {
        let cannot_write = |reason: String| format!("cannot write {}: {reason}", destination.display());
        let name = destination.file_name().ok_or_else(|| cannot_write("it is no file name".into()))?;
        if destination.is_dir() {
            return Err(cannot_write("it is a directory".into()).into());
        }
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        // The parent of a bare file name is empty.
        let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() {
            return Err(cannot_write(format!("there is no directory {}", parent.display())).into());
        }
        let directory = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".part")
            .tempdir_in(parent)
            .map_err(|error| cannot_write(error.to_string()))?;
        Ok(Self { directory, destination: destination.to_owned() })
    }

    /// Where to write the output.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    /// Where a muxer may keep the frames until it knows what to write before them.
    pub fn scratch(&self) -> PathBuf {
        self.directory.path().join("scratch")
    }

    /// Moves the complete output to its final place.
    pub fn finish(self) -> Result<()> {
        fs::rename(self.file(), &self.destination)
            .map_err(|error| format!("cannot write {}: {error}", self.destination.display()).into())
    }
}

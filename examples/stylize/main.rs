// SPDX-License-Identifier: MPL-2.0

//! Paints a video file or a picture in the manner of another picture: the program behind `stylize.sh`.

mod film;
mod input;
mod movie_header;
mod output;
mod picture;
mod pipeline;
mod progress;

use std::{
    error::Error,
    mem,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::atomic::{AtomicBool, Ordering},
};

use clap::Parser;
use gstneuralstyle::element;
use input::Input;
use output::{Format, Part};
use pipeline::{Interrupted, Pipeline};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const INTERRUPTED: u8 = 130;

/// Paint a video or a picture in the manner of another picture.
///
/// Size, frame rate and sound stay what they are. OUTPUT appears when it is complete, and not at all if anything fails.
#[derive(Parser)]
#[command(name = "stylize", version)]
struct Args {
    /// What to paint: a video of any kind that GStreamer can decode, a picture or an animation (PNG, JPEG, GIF, WebP,
    /// BMP, TIFF)
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bunny.mp4"))]
    input: PathBuf,
    /// File to write, replaced if it is there. Its ending decides the format: mp4, mkv or webm, or for a picture (of a
    /// video the first frame) png or jpg
    #[arg(default_value = "stylized.mp4")]
    output: PathBuf,
    /// Settings of the element neuralstyle, such as style=painting.jpg; a wrong one lists all
    #[arg(last = true, value_name = "PROPERTY=VALUE")]
    properties: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match stylize(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stylize: {error}");
            ExitCode::from(if error.is::<Interrupted>() { INTERRUPTED } else { 1 })
        }
    }
}

fn stylize(args: &Args) -> Result<()> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| {
        // While a file is being opened, which can take long, nobody looks.
        if STOP.swap(true, Ordering::Relaxed) {
            process::exit(INTERRUPTED.into());
        }
    })?;
    gst::init()?;
    gstneuralstyle::plugin_register_static()?;

    let input = find_input(&args.input)?;
    if args.output.canonicalize().is_ok_and(|output| output == input) {
        return Err(format!("{} is both INPUT and OUTPUT: choose another OUTPUT", args.input.display()).into());
    }
    let format = Format::of(&args.output)?;
    let of_input = |error| format!("cannot paint {}: {error}", args.input.display());
    let pipeline = Input::open(&input).and_then(|input| Pipeline::new(input, format)).map_err(of_input)?;
    element::set_properties(pipeline.element(), &args.properties)?;
    let part = Part::beside(&args.output)?;
    let frames = match pipeline.run(&part, &STOP) {
        Ok(frames) => frames,
        Err(error) => {
            // The end of the program stops it. Stopping it here would wait for the frame that is being painted, and
            // for ever if a muxer fails that holds a lock then, as mp4mux of GStreamer 1.22 does.
            mem::forget(pipeline);
            return Err(match error.is::<Interrupted>() {
                true => error,
                false => of_input(error).into(),
            });
        }
    };
    part.finish()?;
    eprintln!("Painted {frames} frame{}: {}", if frames == 1 { "" } else { "s" }, args.output.display());
    Ok(())
}

fn find_input(path: &Path) -> Result<PathBuf> {
    let found = path.canonicalize().map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if found.is_dir() {
        return Err(format!("cannot read {}: it is a directory", path.display()).into());
    }
    Ok(found)
}

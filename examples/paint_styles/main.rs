// SPDX-License-Identifier: MPL-2.0
//! Paints the built-in styles.
//!
//! A style is a picture, and a picture that ships needs an author who agrees
//! to it. These are painted by this program from nothing but arithmetic, so
//! they are the project's own and free to ship under its licence.
//!
//! ```text
//! cargo run --release --example paint_styles -- OUTPUT_DIR
//! ```
//!
//! Style statistics are gathered over the whole picture, so every picture is
//! full bleed and carries its texture into every corner.

mod glass;
mod kit;
mod nocturne;
mod woodcut;

use std::{env, error::Error, fs, io::BufWriter, path::PathBuf};

use image::{RgbImage, codecs::jpeg::JpegEncoder};

/// High enough that no block edges are taken for brushwork.
const JPEG_QUALITY: u8 = 92;

type Painter = fn() -> RgbImage;

const STYLES: [(&str, Painter); 3] =
    [("nocturne", nocturne::paint), ("woodcut", woodcut::print), ("glass", glass::glaze)];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(env::args_os().nth(1).ok_or("usage: paint_styles OUTPUT_DIR")?);
    fs::create_dir_all(&dir)?;

    for (name, paint) in STYLES {
        let path = dir.join(name).with_extension("jpg");
        let file = BufWriter::new(fs::File::create(&path)?);
        paint().write_with_encoder(JpegEncoder::new_with_quality(file, JPEG_QUALITY))?;
        println!("{}", path.display());
    }
    Ok(())
}

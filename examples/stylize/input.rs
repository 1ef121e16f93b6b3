// SPDX-License-Identifier: MPL-2.0

//! What is painted.

use std::path::Path;

use crate::{
    Result,
    film::{self, Film},
    picture::Picture,
};

pub enum Input {
    Picture(Picture),
    Film(Film),
}

impl Input {
    pub fn open(path: &Path) -> Result<Self> {
        Ok(match Picture::open(path)? {
            Some(picture) => Self::Picture(picture),
            None => Self::Film(Film::open(path)?),
        })
    }

    /// What makes the input frames as they are painted, in the language of gst-launch-1.0.
    pub fn conversion(&self) -> &'static str {
        match self {
            Self::Picture(_) => "videoconvert",
            Self::Film(_) => film::CONVERSION,
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

use std::str::FromStr;

use crate::{Error, Result};

/// Where the objective is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number; needs the crate's `cuda` feature.
    Cuda(usize),
    /// The Apple GPU of this number; needs the crate's `metal` feature.
    Metal(usize),
}

impl Device {
    /// The device in candle.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if this build or this machine does not have it.
    pub fn open(self) -> Result<candle_core::Device> {
        let (kind, number, is_built, device) = match self {
            Self::Cpu => return Ok(candle_core::Device::Cpu),
            Self::Cuda(number) => ("cuda", number, cfg!(feature = "cuda"), candle_core::Device::new_cuda(number)),
            Self::Metal(number) => ("metal", number, cfg!(feature = "metal"), candle_core::Device::new_metal(number)),
        };
        device.map_err(|error| Error::Device {
            name: format!("{kind}:{number}"),
            problem: if is_built { error.to_string() } else { format!("it takes a build with --features {kind}") },
        })
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `cpu`, or `cuda` or `metal` with an optional number, as in `cuda:1`.
    fn from_str(name: &str) -> Result<Self> {
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        match (kind, number.parse()) {
            ("cpu", _) if name == "cpu" => Ok(Self::Cpu),
            ("cuda", Ok(number)) => Ok(Self::Cuda(number)),
            ("metal", Ok(number)) => Ok(Self::Metal(number)),
            _ => Err(Error::Device {
                name: name.to_owned(),
                problem: "devices are cpu, cuda, cuda:<number>, metal and metal:<number>".to_owned(),
            }),
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

use std::{fmt, str::FromStr};

#[cfg(feature = "gpu")]
use crate::gpu::{Adapter, AdapterChoice};
use crate::{Error, Result};

/// Where the objective is computed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// A graphics card.
    #[cfg(feature = "gpu")]
    Gpu(AdapterChoice),
}

impl Device {
    /// The name of the device itself: `cpu`, or the name of a graphics card with its driver.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if there is no such card.
    pub fn describe(&self) -> Result<String> {
        match self {
            Self::Cpu => Ok(self.to_string()),
            #[cfg(feature = "gpu")]
            Self::Gpu(choice) => Ok(Adapter::find(choice)?.to_string()),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `cpu`, `gpu`, `gpu:<number>`, or a part of the name of a graphics card.
    fn from_str(name: &str) -> Result<Self> {
        match name.trim() {
            "" => Err(Error::Device {
                name: name.to_owned(),
                problem: "devices are cpu, gpu, gpu:<number>, and parts of the name of a graphics card".to_owned(),
            }),
            "cpu" => Ok(Self::Cpu),
            #[cfg(feature = "gpu")]
            name => name.parse().map(Self::Gpu),
            #[cfg(not(feature = "gpu"))]
            name => Err(Error::Device {
                name: name.to_owned(),
                problem: "this build has only cpu, as its feature gpu is off".to_owned(),
            }),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            #[cfg(feature = "gpu")]
            Self::Gpu(choice) => choice.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(feature = "gpu"))]
    fn graphics_cards_are_refused_by_a_build_without_them() {
        assert_eq!("cpu".parse::<Device>().unwrap(), Device::Cpu);
        for name in ["gpu", "gpu:0", "RTX 3060"] {
            let error = name.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("feature gpu is off"), "{error}");
        }
    }

    #[test]
    #[cfg(feature = "gpu")]
    fn names_are_read() {
        for (name, device) in [
            ("cpu", Device::Cpu),
            ("gpu", Device::Gpu(AdapterChoice::First)),
            ("gpu:2", Device::Gpu(AdapterChoice::Number(2))),
            ("RTX 3060", Device::Gpu(AdapterChoice::Named("RTX 3060".to_owned()))),
        ] {
            let parsed: Device = name.parse().unwrap();
            assert_eq!(parsed, device);
            assert_eq!(parsed.to_string(), name);
        }
        for name in ["", " ", "gpu:", "gpu:one", "gpu:-1"] {
            assert!(name.parse::<Device>().is_err(), "{name:?}");
        }
    }
}

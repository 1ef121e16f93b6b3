// SPDX-License-Identifier: MPL-2.0

use std::{fmt, str::FromStr};

use crate::{Error, Result};

/// A graphics card, or a driver that computes on the processor like one.
#[derive(Debug, Clone)]
pub struct Adapter {
    pub(super) adapter: wgpu::Adapter,
    name: String,
    driver: String,
    is_software: bool,
}

/// Which adapter is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The first graphics card.
    First,
    /// The adapter of this number, counted from 0 in the order of [`adapters`].
    Number(usize),
    /// The first adapter in whose name this occurs, in upper or lower case.
    Named(String),
}

/// All adapters there are, graphics cards first. Without a driver there are none.
pub fn adapters() -> Vec<Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let found = pollster::block_on(instance.enumerate_adapters(backends));
    let mut adapters: Vec<Adapter> = found.into_iter().map(Adapter::new).collect();
    adapters.sort_by_key(Adapter::is_software);
    adapters
}

impl Adapter {
    fn new(adapter: wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let driver = format!("{:?}, {} {}", info.backend, info.driver, info.driver_info).trim_end().to_owned();
        Self { adapter, name: info.name, driver, is_software: info.device_type == wgpu::DeviceType::Cpu }
    }

    /// The first that is wanted.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if there is none. The text says which there are.
    pub fn find(choice: &AdapterChoice) -> Result<Self> {
        let mut adapters = adapters();
        let names: Vec<String> = adapters.iter().map(Self::to_string).collect();
        let wanted = match choice {
            AdapterChoice::First => adapters.iter().position(|adapter| !adapter.is_software),
            AdapterChoice::Number(number) => (*number < adapters.len()).then_some(*number),
            AdapterChoice::Named(part) => {
                let part = part.to_lowercase();
                adapters.iter().position(|adapter| adapter.name.to_lowercase().contains(&part))
            }
        };
        wanted.map(|number| adapters.swap_remove(number)).ok_or_else(|| Error::Device {
            name: choice.to_string(),
            problem: match &names[..] {
                [] => {
                    "there is only cpu, as no driver for Vulkan, Metal or Direct3D 12 offers a graphics card".to_owned()
                }
                names => format!("there are cpu and {}", names.join(", ")),
            },
        })
    }

    /// The name that its driver reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface and the driver.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Whether it computes on the processor. That is for tests: the processor's own kernels are far faster.
    pub fn is_software(&self) -> bool {
        self.is_software
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_software { "software, " } else { "" };
        write!(f, "{} ({kind}{})", self.name, self.driver)
    }
}

impl FromStr for AdapterChoice {
    type Err = Error;

    /// `gpu`, `gpu:<number>`, or a part of a name.
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':').map(|(kind, number)| (kind, number.parse())) {
            _ if text == "gpu" => Ok(Self::First),
            Some(("gpu", Ok(number))) => Ok(Self::Number(number)),
            Some(("gpu", Err(_))) => Err(Error::Device {
                name: text.to_owned(),
                problem: "what follows gpu: is the number of an adapter".to_owned(),
            }),
            _ => Ok(Self::Named(text.to_owned())),
        }
    }
}

impl fmt::Display for AdapterChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("gpu"),
            Self::Number(number) => write!(f, "gpu:{number}"),
            Self::Named(part) => f.write_str(part),
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Which kernels this processor can run.

use std::env;

use super::Kind;
use crate::{Error, Result};

/// The environment variable that forces a kind.
const VARIABLE: &str = "NEURALSTYLE_CPU";

/// The best kind for this processor, or the one that `NEURALSTYLE_CPU` names.
///
/// # Errors
///
/// [`Error::Processor`] if that names no kind, or one that this processor or this build does not have.
pub fn detect() -> Result<Kind> {
    match env::var_os(VARIABLE) {
        Some(name) => by_name(&name.to_string_lossy()),
        None => Ok(available().next().unwrap_or(Kind::Portable)),
    }
}

/// The kinds that this processor can run, the best first.
pub fn available() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| kind.is_supported())
}

fn by_name(name: &str) -> Result<Kind> {
    let fail = |problem: &str| Err(Error::Processor { kind: name.to_owned(), problem: problem.to_owned() });
    match Kind::ALL.iter().find(|kind| kind.name() == name) {
        Some(kind) if kind.is_supported() => Ok(*kind),
        Some(_) => fail("this processor lacks the instructions"),
        None if matches!(name, "amx" | "avx512" | "avx2") => fail("this build has no kernels for it"),
        None => fail("kinds are amx, avx512, avx2 and portable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names() {
        assert_eq!(by_name("portable").unwrap(), Kind::Portable);
        for kind in available() {
            assert_eq!(by_name(kind.name()).unwrap(), kind);
        }
        for name in ["", "sse", "amx"] {
            let message = by_name(name).unwrap_err().to_string();
            assert!(message.contains(&format!("\"{name}\"")), "{message}");
        }
    }
}

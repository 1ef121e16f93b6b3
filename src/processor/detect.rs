// SPDX-License-Identifier: MPL-2.0

//! Which kernels this processor can run.

use std::env;

use super::{Kind, Precision};
use crate::{Error, Result};

/// The environment variable that forces a kind.
const VARIABLE: &str = "NEURALSTYLE_CPU";

/// The best kind for this processor that computes in `precision`, or the one that `NEURALSTYLE_CPU` names.
///
/// # Errors
///
/// [`Error::Processor`] if that names no kind, or one that this processor or this build does not have.
/// [`Error::Setting`] if no kind computes in this precision, or not the one that is named.
pub fn detect(precision: Precision) -> Result<Kind> {
    let forced = env::var_os(VARIABLE).map(|name| by_name(&name.to_string_lossy())).transpose()?;
    choose(precision, forced)
}

fn choose(precision: Precision, forced: Option<Kind>) -> Result<Kind> {
    let suits = |kind: &Kind| precision == Precision::Auto || kind.precision() == precision;
    let kind = match forced {
        Some(kind) => Some(kind).filter(suits),
        None => available().find(suits),
    };
    let expected = match (forced, precision) {
        (None, _) => "auto or f32: this processor or this system has no AMX for bf16",
        (Some(_), Precision::Bf16) => "auto or f32: the kernels that NEURALSTYLE_CPU asks for compute in f32",
        (Some(_), _) => "auto or bf16: the kernels that NEURALSTYLE_CPU asks for compute in bf16",
    };
    kind.ok_or_else(|| Error::Setting { setting: "precision", value: precision.name().to_owned(), expected })
}

/// The kinds that this processor can run, the best first.
pub fn available() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| kind.is_supported())
}

fn by_name(name: &str) -> Result<Kind> {
    let fail = |problem: &str| Err(Error::Processor { kind: name.to_owned(), problem: problem.to_owned() });
    match Kind::ALL.iter().find(|kind| kind.name() == name) {
        Some(kind) if kind.is_supported() => Ok(*kind),
        Some(_) => fail("this processor or this system does not have the instructions"),
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
        for name in ["", "sse", "neon"] {
            let message = by_name(name).unwrap_err().to_string();
            assert!(message.contains(&format!("\"{name}\"")), "{message}");
        }
    }

    #[test]
    fn kinds_have_the_precision_that_was_asked_for() {
        assert_eq!(choose(Precision::Auto, None).unwrap(), available().next().unwrap());
        assert_eq!(choose(Precision::F32, None).unwrap().precision(), Precision::F32);
        match available().find(|kind| kind.precision() == Precision::Bf16) {
            Some(kind) => {
                assert_eq!(choose(Precision::Bf16, None).unwrap(), kind);
                assert!(choose(Precision::F32, Some(kind)).unwrap_err().to_string().contains("precision is f32"));
            }
            None => assert!(choose(Precision::Bf16, None).unwrap_err().to_string().contains("precision is bf16")),
        }
        let message = choose(Precision::Bf16, Some(Kind::Portable)).unwrap_err().to_string();
        assert!(message.contains("precision is bf16") && message.contains("NEURALSTYLE_CPU"), "{message}");
        assert_eq!(choose(Precision::Auto, Some(Kind::Portable)).unwrap(), Kind::Portable);
    }
}

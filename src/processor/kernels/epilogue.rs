// SPDX-License-Identifier: MPL-2.0

use crate::processor::Parts;

/// What is done with the results of a convolution.
pub enum Epilogue<'a> {
    /// The bias is added and negative results become zero. `positive` gets one bit for each number, set where it is
    /// above zero.
    Relu {
        /// For each channel.
        bias: &'a [f32],
        /// As many masks as the output has.
        positive: Option<&'a mut [u16]>,
    },
    /// Numbers whose bit is not set become zero.
    Masked(&'a [u16]),
    /// Nothing.
    Plain,
}

/// An [`Epilogue`] for all jobs.
#[allow(clippy::large_enum_variant)] // There is one for each convolution, on the stack.
pub(super) enum SharedEpilogue<'a> {
    Relu { bias: &'a [f32], positive: Option<Parts<'a, u16>> },
    Masked(&'a [u16]),
    Plain,
}

impl<'a> Epilogue<'a> {
    /// # Panics
    ///
    /// If there is not one bias for each channel, or if the number of masks is another one.
    pub(super) fn share(self, channels: usize, masks: usize) -> SharedEpilogue<'a> {
        match self {
            Self::Relu { bias, positive } => {
                assert_eq!(bias.len(), channels);
                assert!(positive.as_ref().is_none_or(|positive| positive.len() == masks));
                SharedEpilogue::Relu { bias, positive: positive.map(Parts::new) }
            }
            Self::Masked(bits) => {
                assert_eq!(bits.len(), masks);
                SharedEpilogue::Masked(bits)
            }
            Self::Plain => SharedEpilogue::Plain,
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{Error, Result};

/// Breaks off the painting of a frame from any thread, after the iteration that is being computed, or a preparation,
/// after the part that is being computed. Clones share one flag. See
/// [`Stylizer::set_interruption`](super::Stylizer::set_interruption) and
/// [`Preparation::interruption`](super::live::Preparation::interruption).
#[derive(Debug, Clone, Default)]
pub struct Interruption(Arc<AtomicBool>);

impl Interruption {
    /// While it is set, every frame and preparation ends with [`Error::Interrupted`].
    pub fn set(&self, is_interrupted: bool) {
        self.0.store(is_interrupted, Ordering::Relaxed);
    }

    /// [`Error::Interrupted`] while it is set.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

// SPDX-License-Identifier: MPL-2.0

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Breaks off the painting of a frame from any thread, after the iteration that is being computed. Clones share one
/// flag. See [`Stylizer::set_interruption`](super::Stylizer::set_interruption).
#[derive(Debug, Clone, Default)]
pub struct Interruption(Arc<AtomicBool>);

impl Interruption {
    /// While it is set, every frame ends with [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn set(&self, is_interrupted: bool) {
        self.0.store(is_interrupted, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

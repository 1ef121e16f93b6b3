// SPDX-License-Identifier: MPL-2.0

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Breaks off the painting of a frame, which can take long, from any thread. Clones are one and the same. See
/// [`Stylizer::set_interruption`](super::Stylizer::set_interruption).
#[derive(Debug, Clone, Default)]
pub struct Interruption(Arc<AtomicBool>);

impl Interruption {
    /// Lets painting break off from now on, or no longer.
    pub fn set(&self, is_interrupted: bool) {
        self.0.store(is_interrupted, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

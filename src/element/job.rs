// SPDX-License-Identifier: MPL-2.0

//! What takes longer than a live frame lasts, on a thread of its own.

use std::{
    panic,
    thread::{self, JoinHandle},
};

use crate::{
    Error, Result, style,
    stylizer::live::{Preparation, Prepared},
};

/// A style that is being loaded, or settings that are being prepared. If it is dropped,
/// its thread goes on to the end.
pub struct Job {
    style: String,
    thread: JoinHandle<Result<Prepared>>,
}

impl Job {
    /// Begins a preparation for this style, which is loaded first if it is a new one.
    ///
    /// # Errors
    ///
    /// [`Error::Threads`] if the system refuses a thread.
    pub fn start(style: String, is_new: bool, preparation: Preparation) -> Result<Self> {
        let name = style.clone();
        let work = move || preparation.run(is_new.then(|| style::load(&name)).transpose()?);
        let thread = thread::Builder::new().name("neuralstyle-load".to_owned()).spawn(work).map_err(Error::Threads)?;
        Ok(Self { style, thread })
    }

    /// The name of the style that it is for.
    pub fn style(&self) -> &str {
        &self.style
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the result.
    pub fn finish(self) -> Result<Prepared> {
        self.thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    }
}

// SPDX-License-Identifier: MPL-2.0

//! Loads styles and prepares settings on another thread.

use std::{
    panic,
    thread::{self, JoinHandle},
};

use crate::{
    Error, Result, style,
    stylizer::{
        Interruption,
        live::{Preparation, Prepared},
    },
};

/// A style that is being loaded, or settings that are being prepared. Dropping it interrupts it and waits for its thread,
/// so that no thread outlives the element's stop.
pub struct Job {
    style: String,
    interruption: Interruption,
    /// `None` only while it is joined.
    thread: Option<JoinHandle<Result<Prepared>>>,
}

impl Job {
    /// Begins a preparation for this style, which is loaded first if it is a new one.
    ///
    /// # Errors
    ///
    /// [`Error::Threads`] if the system refuses a thread.
    pub fn start(style: String, is_new: bool, preparation: Preparation) -> Result<Self> {
        let (name, interruption) = (style.clone(), preparation.interruption());
        let work = move || preparation.run(is_new.then(|| style::load(&name)).transpose()?);
        let thread = thread::Builder::new().name("neuralstyle-load".to_owned()).spawn(work).map_err(Error::Threads)?;
        Ok(Self { style, interruption, thread: Some(thread) })
    }

    /// The name of the style that it is for.
    pub fn style(&self) -> &str {
        &self.style
    }

    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the result.
    pub fn finish(mut self) -> Result<Prepared> {
        let thread = self.thread.take().expect("nobody else joins it");
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.interruption.set(true);
        if let Some(thread) = self.thread.take() {
            // Its result, or its panic, does not matter any more.
            let _ = thread.join();
        }
    }
}

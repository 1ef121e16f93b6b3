// SPDX-License-Identifier: MPL-2.0

//! Changes of state that a test does not wait for without end.

use std::{sync::mpsc, thread, time::Duration};

use gst::prelude::*;

/// How long a change of state may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sets the state of an element or a pipeline.
///
/// # Panics
///
/// If that takes too long.
pub fn set_state(
    element: &impl IsA<gst::Element>,
    state: gst::State,
) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
    let (element, (done, result)) = (element.clone().upcast(), mpsc::channel());
    thread::spawn(move || done.send(element.set_state(state)));
    result.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the change to {state:?} hangs"))
}

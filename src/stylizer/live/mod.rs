// SPDX-License-Identifier: MPL-2.0

//! Painting live: a frame has to be done before the next one comes, whatever the machine and whatever changes.
//!
//! * [`Stylizer::stylize_beside`] takes the steps beside the frames, which do not wait for them.
//!   [`Stylizer::stylize_within`] waits for as many as fit into the time for a frame.
//! * A style, layers or a working size other than those in use take longer to prepare than a frame lasts. A
//!   [`Preparation`] does that on another thread, and [`Prepared::install`] puts its result into use between two frames.
//! * [`set_style_share`] fades from one style to the next.
//! * A [`SizeChooser`] finds the largest working size that the machine keeps up with. It begins with the time that
//!   [`warm_up`] returns, and learns from the [`Report`](super::Report) of each frame.
//!
//! ```no_run
//! # use std::{thread, time::Duration};
//! # use gstneuralstyle::{image::Frame, style, stylizer::{Stylizer, live::Preparation}};
//! # fn frames() -> impl Iterator<Item = Frame<'static>> { std::iter::empty() }
//! # fn example(mut stylizer: Stylizer) -> Result<(), Box<dyn std::error::Error>> {
//! let budget = Duration::from_millis(40);
//! let mut thread = None;
//! for (number, mut frame) in frames().enumerate() {
//!     if number == 100 {
//!         // Another style is wanted. `None` would mean that nothing was painted yet: `set_style` is quick then.
//!         if let Some(preparation) = Preparation::new(&stylizer, stylizer.settings())? {
//!             thread = Some(thread::spawn(move || preparation.run(Some(style::load("woodcut")?))));
//!         }
//!     }
//!     if let Some(thread) = thread.take_if(|thread| thread.is_finished()) {
//!         thread.join().expect("it does not panic")?.install(&mut stylizer)?;
//!     }
//!     stylizer.stylize_beside(&mut frame, budget)?;
//! }
//! # Ok(())
//! # }
//! ```

pub(super) mod beside;
mod painting;
mod preparation;
mod size_chooser;

use std::time::Duration;

use super::{Settings, Stylizer, least_long_side, lock};
use crate::Result;

pub use preparation::{Preparation, Prepared, WARM_UP_SIZE};
pub use size_chooser::SizeChooser;

/// Does the work of the very first frame that is the same for all sizes, so that this frame is not late. Returns how long
/// an iteration takes of an image of [`WARM_UP_SIZE`].
///
/// # Errors
///
/// [`Error::Tensor`](crate::Error::Tensor) if the device fails.
pub fn warm_up(stylizer: &mut Stylizer) -> Result<Duration> {
    let duration = preparation::warm_up(lock(&stylizer.objective).as_mut())?;
    if let Some(style) = stylizer.style.as_ref().filter(|style| style.long_side().is_some()) {
        style.install(lock(&stylizer.objective).as_mut())?;
    }
    Ok(duration)
}

/// The least working size, in pixels, at which frames of this size and the style are not too small for the deepest layer
/// of these settings; 0 if there is no layer. A smaller one is raised to it.
pub fn least_working_size(stylizer: &Stylizer, settings: &Settings, frame_size: (usize, usize)) -> u32 {
    u32::try_from(least_long_side(settings, frame_size, stylizer.picture_size())).unwrap_or(u32::MAX)
}

/// Whether steps are being taken beside the frames. Until they end, all but [`Stylizer::stylize_beside`], and
/// [`Stylizer::set_settings`] if only weights, numbers of iterations and the like change, waits for them.
pub fn is_at_work(stylizer: &Stylizer) -> bool {
    stylizer.beside.is_at_work()
}

/// Lets no more steps begin beside the frames, or does again: while frames come, there is hardly a moment without.
pub fn rest(stylizer: &mut Stylizer, rests: bool) {
    stylizer.beside.set_rest(rests);
}

/// Fades from one style to the next: from the next frame on, the target is a mixture of the Gram matrices of the style
/// before the last [`Stylizer::set_style`] or [`Prepared::install`], 0, and of the one set there, 1.
///
/// At 1 the old style is forgotten, and so it is when the working size or the layers change.
///
/// # Errors
///
/// [`Error::Tensor`](crate::Error::Tensor) if the device fails.
pub fn set_style_share(stylizer: &mut Stylizer, share: f64) -> Result<()> {
    if let Some(style) = &mut stylizer.style
        && style.set_share(lock(&stylizer.objective).as_mut(), share.clamp(0.0, 1.0))?
    {
        stylizer.freshen_paint(1.0);
    }
    Ok(())
}

// SPDX-License-Identifier: MPL-2.0

//! Painting live: a frame has to be done before the next one comes, whatever the machine and whatever changes.
//!
//! * [`Stylizer::stylize_within`] takes as many iterations as fit into the time for a frame.
//! * A style, layers or a working size other than those in use take longer to prepare than a frame lasts. A
//!   [`Preparation`] does that on another thread, and [`Prepared::install`] puts its result into use between two frames.
//! * [`Stylizer::set_style_share`] fades from one style to the next.
//! * A [`SizeChooser`] finds the largest working size that the machine keeps up with. It begins with the time that
//!   [`Stylizer::warm_up`] returns, and learns from the [`Report`] of each frame.
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
//!     stylizer.stylize_within(&mut frame, budget)?;
//! }
//! # Ok(())
//! # }
//! ```

pub(super) mod costs;
mod preparation;
mod size_chooser;

use std::time::Duration;

use super::{Report, Stylizer};
use crate::{Result, image::Frame};

pub use preparation::{Preparation, Prepared, WARM_UP_SIZE};
pub use size_chooser::SizeChooser;

/// For live streams; see [`live`](self).
impl Stylizer {
    /// Paints a frame in a given time: with as many iterations as are likely to fit, at most as many as
    /// [`stylize`](Self::stylize) takes, and at least one. The picture depends on how fast the machine is.
    ///
    /// If `budget` is zero there is no iteration: the frame shows the paint of the last one, moved along. A frame that
    /// does not start from the last one has an iteration all the same.
    ///
    /// A first frame gets no more time than others, and is not painted at smaller sizes first. It is painted roughly,
    /// and the frames that follow go on with it.
    ///
    /// # Errors
    ///
    /// As for [`stylize`](Self::stylize).
    pub fn stylize_within(&mut self, frame: &mut Frame, budget: Duration) -> Result<Report> {
        self.paint(frame, Some(budget))
    }

    /// Does the work of the very first frame that is the same for all sizes, so that this frame is not late. Returns how
    /// long an iteration takes of an image of [`WARM_UP_SIZE`].
    ///
    /// # Errors
    ///
    /// If the device runs out of memory.
    pub fn warm_up(&mut self) -> Result<Duration> {
        let duration = preparation::warm_up(self.objective.as_mut())?;
        if let Some(style) = self.style.as_ref().filter(|style| style.long_side().is_some()) {
            style.install(self.objective.as_mut())?;
        }
        Ok(duration)
    }

    /// From the next frame on, paints in a mixture of two styles: 0 is the one before the last
    /// [`set_style`](Self::set_style) or [`Prepared::install`], 1 the one that was set there. The Gram matrices are
    /// mixed, so that the paint itself changes.
    ///
    /// At 1 the old style is forgotten. So it is when the working size or the layers change.
    ///
    /// # Errors
    ///
    /// If the device runs out of memory.
    pub fn set_style_share(&mut self, share: f64) -> Result<()> {
        if let Some(style) = &mut self.style
            && style.set_share(self.objective.as_mut(), share.clamp(0.0, 1.0))?
        {
            self.freshen_paint(1.0);
        }
        Ok(())
    }
}

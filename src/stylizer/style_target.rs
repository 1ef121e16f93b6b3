// SPDX-License-Identifier: MPL-2.0

use super::{Image, image};
use crate::{
    Result,
    objective::{Gram, Objective},
};

/// The style that the objective aims at, and the way there from the one before.
pub(super) struct StyleTarget {
    picture: Image,
    /// The working size for which the objective has the picture's Gram matrices; `None` before the first frame.
    working_size: Option<(usize, usize)>,
    /// The Gram matrices of the picture.
    grams: Vec<Gram>,
    /// What the objective aimed at before.
    last: Option<Vec<Gram>>,
    /// How far it is on the way from there.
    share: f64,
}

impl StyleTarget {
    pub(super) fn new(picture: Image) -> Self {
        Self { picture, working_size: None, grams: Vec::new(), last: None, share: 1.0 }
    }

    pub(super) fn working_size(&self) -> Option<(usize, usize)> {
        self.working_size
    }

    /// Gives the objective the Gram matrices of the picture, taken as large as an image of the working size. There is
    /// no way from the style before then: what was aimed at there belongs to another objective or size.
    pub(super) fn prepare(&mut self, objective: &mut dyn Objective, (width, height): (usize, usize)) -> Result<()> {
        let (picture_width, picture_height) = image::fit(self.picture.size(), width.max(height));
        let grams = objective.grams(&self.picture.resized(picture_width, picture_height)?)?;
        objective.set_style(&grams)?;
        (self.working_size, self.grams) = (Some((width, height)), grams);
        (self.last, self.share) = (None, 1.0);
        Ok(())
    }

    /// Makes what another target of the same working size aims at the beginning of the way.
    pub(super) fn follow(&mut self, last: &Self) {
        self.last = (last.working_size == self.working_size).then(|| last.aim());
    }

    /// Lets the objective aim at a share of the way from the last style, 0, to this one, 1, where the way ends. Tells
    /// whether it aims elsewhere than before.
    pub(super) fn set_share(&mut self, objective: &mut dyn Objective, share: f64) -> Result<bool> {
        let changes = self.last.is_some() && share != self.share;
        if changes {
            self.share = share;
            objective.set_style(&self.aim())?;
        }
        self.last.take_if(|_| share >= 1.0);
        Ok(changes)
    }

    /// The Gram matrices that the objective aims at.
    fn aim(&self) -> Vec<Gram> {
        let mut grams = self.grams.clone();
        for (gram, last) in grams.iter_mut().zip(self.last.iter().flatten()) {
            for (value, last) in gram.values.iter_mut().zip(&last.values) {
                *value = last + self.share as f32 * (*value - last);
            }
        }
        grams
    }
}

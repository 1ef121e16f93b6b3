// SPDX-License-Identifier: MPL-2.0

use std::sync::Arc;

use crate::{
    Result,
    image::{Picture, fit},
    objective::{Gram, Objective},
};

/// The style that the objective aims at, and the way there from the one before.
pub(super) struct StyleTarget {
    picture: Arc<Picture>,
    /// The long side of the images for which there are the picture's Gram matrices; `None` before the first frame.
    long_side: Option<usize>,
    /// The Gram matrices of the picture.
    grams: Vec<Gram>,
    /// Those for smaller images, with their long sides, as far as they were wanted.
    coarse: Vec<(usize, Vec<Gram>)>,
    /// What the objective aimed at before.
    last: Option<Vec<Gram>>,
    /// How far it is on the way from there.
    share: f64,
}

impl StyleTarget {
    pub(super) fn new(picture: Arc<Picture>) -> Self {
        Self { picture, long_side: None, grams: Vec::new(), coarse: Vec::new(), last: None, share: 1.0 }
    }

    pub(super) fn picture(&self) -> &Arc<Picture> {
        &self.picture
    }

    pub(super) fn long_side(&self) -> Option<usize> {
        self.long_side
    }

    /// Gives the objective the Gram matrices of the picture, taken as large as an image with this long side. There is
    /// no way from the style before then: what was aimed at there belongs to another objective or size.
    pub(super) fn prepare(&mut self, objective: &mut dyn Objective, long_side: usize) -> Result<()> {
        let grams = self.grams_for(objective, long_side)?;
        objective.set_style(&grams)?;
        (self.long_side, self.grams) = (Some(long_side), grams);
        (self.coarse, self.last, self.share) = (Vec::new(), None, 1.0);
        Ok(())
    }

    /// Lets the objective aim at the picture taken for a smaller image, until [`install`](Self::install).
    pub(super) fn aim_coarsely(&mut self, objective: &mut dyn Objective, long_side: usize) -> Result<()> {
        if let Some((_, grams)) = self.coarse.iter().find(|(side, _)| *side == long_side) {
            return objective.set_style(grams);
        }
        let grams = self.grams_for(objective, long_side)?;
        objective.set_style(&grams)?;
        self.coarse.push((long_side, grams));
        Ok(())
    }

    /// How large the picture is taken for images with this long side.
    pub(super) fn size_for(&self, long_side: usize) -> (usize, usize) {
        fit(self.picture.size(), long_side)
    }

    fn grams_for(&self, objective: &mut dyn Objective, long_side: usize) -> Result<Vec<Gram>> {
        let (width, height) = self.size_for(long_side);
        objective.grams(&self.picture.resized(width, height)?)
    }

    /// Starts a cross-fade from the current target of `last`, if that is for the same long side. Its layers must be the
    /// same.
    pub(super) fn fade_from(&mut self, last: &Self) {
        self.last = (last.long_side == self.long_side).then(|| last.aim());
    }

    /// Lets the objective, which need not be that of the preparation but of the same network, aim where this has come to.
    pub(super) fn install(&self, objective: &mut dyn Objective) -> Result<()> {
        objective.set_style(&self.aim())
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

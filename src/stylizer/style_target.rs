// SPDX-License-Identifier: MPL-2.0

use std::sync::Arc;

use crate::{
    Result,
    image::{Picture, fit},
    objective::{Gram, Objective},
};

/// The target of the style loss, and the cross-fade to it from the one before.
pub(super) struct StyleTarget {
    picture: Arc<Picture>,
    /// The size of the picture relative to these images.
    scale: f64,
    /// The long side of the images that the Gram matrices are for; `None` before the first frame.
    long_side: Option<usize>,
    grams: Vec<Gram>,
    /// The Gram matrices for smaller images that were computed so far, with the long sides of these images.
    coarse: Vec<(usize, Vec<Gram>)>,
    /// The target before, if there is a cross-fade from it.
    last: Option<Vec<Gram>>,
    /// How far the cross-fade is, 0 to 1.
    share: f64,
}

impl StyleTarget {
    pub(super) fn new(picture: Arc<Picture>) -> Self {
        Self { picture, scale: 1.0, long_side: None, grams: Vec::new(), coarse: Vec::new(), last: None, share: 1.0 }
    }

    pub(super) fn picture(&self) -> &Arc<Picture> {
        &self.picture
    }

    pub(super) fn long_side(&self) -> Option<usize> {
        self.long_side
    }

    /// Computes the Gram matrices of the picture for images with this long side, and gives them to the objective. Ends a
    /// cross-fade: its start belongs to another objective or size.
    pub(super) fn prepare(&mut self, objective: &mut dyn Objective, long_side: usize, scale: f64) -> Result<()> {
        let grams = self.grams_for(objective, long_side, scale)?;
        objective.set_style(&grams)?;
        (self.long_side, self.scale, self.grams) = (Some(long_side), scale, grams);
        (self.coarse, self.last, self.share) = (Vec::new(), None, 1.0);
        Ok(())
    }

    /// Gives the objective the Gram matrices for a smaller image, until [`install`](Self::install).
    pub(super) fn aim_coarsely(&mut self, objective: &mut dyn Objective, long_side: usize) -> Result<()> {
        if let Some((_, grams)) = self.coarse.iter().find(|(side, _)| *side == long_side) {
            return objective.set_style(grams);
        }
        let grams = self.grams_for(objective, long_side, self.scale)?;
        objective.set_style(&grams)?;
        self.coarse.push((long_side, grams));
        Ok(())
    }

    /// The size of the picture for images with this long side.
    pub(super) fn size_for(&self, long_side: usize) -> (usize, usize) {
        style_size(self.picture.size(), self.scale, long_side)
    }

    fn grams_for(&self, objective: &mut dyn Objective, long_side: usize, scale: f64) -> Result<Vec<Gram>> {
        let (width, height) = style_size(self.picture.size(), scale, long_side);
        objective.grams(&self.picture.resized(width, height)?)
    }

    /// Starts a cross-fade from the current target of `last`, if that is for the same long side. Its layers must be the
    /// same.
    pub(super) fn fade_from(&mut self, last: &Self) {
        self.last = (last.long_side == self.long_side).then(|| last.aim());
    }

    /// Gives the objective the current target. It must have the layers of the objective that prepared it.
    pub(super) fn install(&self, objective: &mut dyn Objective) -> Result<()> {
        objective.set_style(&self.aim())
    }

    /// Moves the cross-fade to this share, from 0, the last style, to 1, this style, where it ends. Returns whether the
    /// target changed.
    pub(super) fn set_share(&mut self, objective: &mut dyn Objective, share: f64) -> Result<bool> {
        let changes = self.last.is_some() && share != self.share;
        if changes {
            self.share = share;
            objective.set_style(&self.aim())?;
        }
        self.last.take_if(|_| share >= 1.0);
        Ok(changes)
    }

    /// The current target.
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

/// The size of a style picture at this scale, for images with this long side.
pub(super) fn style_size(picture: (usize, usize), scale: f64, long_side: usize) -> (usize, usize) {
    fit(picture, ((scale * long_side as f64).round() as usize).max(1))
}

// SPDX-License-Identifier: MPL-2.0

//! Where the optimization of a frame begins.

use crate::{
    Result,
    image::Image,
    motion::{Motion, Warper},
    objective::{Adam, Memory, Start},
};

/// A motion of this many pixels or more takes this share of its age from the paint, in each frame.
const MOTION: f32 = 0.25;
const MOTION_WEAR: f32 = 0.04;
/// The least freshness of paint that does not follow the motion: it has to keep up with what moves under it.
const STANDING: f32 = 0.2;
/// A change of fewer levels is noise. A change of `FULL_CHANGE` levels more makes the paint new.
const CALM_CHANGE: f32 = 1.5;
const FULL_CHANGE: f32 = 64.0;

/// What each frame after the first starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WarmStart {
    /// The frame itself. The paint flickers, because no frame knows of another.
    None,
    /// The last stylized frame. The paint stands still, even where things move.
    Previous,
    /// The frame plus the last frame's residual, which is stylized minus content. New things appear at once, under the
    /// paint that was in their place.
    Residual,
    /// The frame plus the last frame's residual, warped by the optical flow, so that paint moves with things.
    #[default]
    Flow,
}

/// A frame and what was painted on it.
#[derive(Clone)]
pub(super) struct Painted {
    pub(super) content: Image,
    pub(super) stylized: Image,
}

/// What the next frame starts from.
pub(super) struct History {
    pub(super) painted: Painted,
    pub(super) optimizer: Adam,
}

impl Painted {
    /// The paint, moved along the motion since, on the content of another frame. Without motion it stays in its place.
    pub(super) fn moved(
        &self,
        warm_start: WarmStart,
        content: &Image,
        motion: Option<&Motion>,
        warper: &mut Warper,
    ) -> Image {
        match (warm_start, motion) {
            (WarmStart::Previous, _) => self.stylized.clone(),
            (WarmStart::Flow, Some(motion)) => {
                let mut residual = self.residual();
                warper.warp(&motion.flow, &mut [residual.data_mut()]);
                self.paint_edges(&mut residual, motion);
                residual.on(content, 1.0)
            }
            _ => self.residual().on(content, 1.0),
        }
    }

    fn residual(&self) -> Image {
        self.stylized.minus(&self.content)
    }

    /// Pixels that come into the picture from outside take the residual that was in their place.
    fn paint_edges(&self, residual: &mut Image, motion: &Motion) {
        let outside: Vec<(usize, f32)> = (0..motion.trust.len())
            .map(|pixel| (pixel, motion.flow.share_outside(pixel)))
            .filter(|(_, share)| *share > 0.0)
            .collect();
        let standing = self.stylized.planes().zip(self.content.planes());
        for (plane, (stylized, content)) in residual.planes_mut().into_iter().zip(standing) {
            for &(n, share) in &outside {
                plane[n] += share * (stylized[n] - content[n] - plane[n]);
            }
        }
    }

    /// The same at another working size.
    pub(super) fn resized(&self, (width, height): (usize, usize)) -> Result<Self> {
        Ok(Self { content: self.content.resized(width, height)?, stylized: self.stylized.resized(width, height)? })
    }
}

impl History {
    /// The start of the next frame, from its content and the motion to it. Without motion [`WarmStart::Flow`] is
    /// [`WarmStart::Residual`].
    pub(super) fn start(
        mut self,
        warm_start: WarmStart,
        content: &Image,
        motion: Option<&Motion>,
        warper: &mut Warper,
    ) -> Start {
        let mut trust = None;
        let residual = match (warm_start, motion) {
            (WarmStart::None, _) => return Start::from(content.clone()),
            (WarmStart::Previous, _) => {
                self.optimizer.renew(STANDING);
                return Start { image: self.painted.stylized, optimizer: self.optimizer, trust: None };
            }
            (WarmStart::Flow, Some(motion)) => {
                trust = Some(motion.trust.clone());
                self.moved_residual(motion, warper)
            }
            (WarmStart::Residual | WarmStart::Flow, _) => {
                self.optimizer.renew(STANDING);
                self.painted.residual()
            }
        };
        Start { image: residual.on(content, 1.0), optimizer: self.optimizer, trust }
    }

    /// The residual, warped to where things are now, along with the state of the optimizer.
    ///
    /// The residual is warped even where the flow is not trusted: most of that flow is right, only unproven, and wrong
    /// paint is still nearer to the minimum than no paint. There the first moment is cleared, since it is the direction
    /// of another thing, and the paint counts as new. The second moment stays, since it scales the steps: without it the
    /// next ones would be twice as long as all others.
    fn moved_residual(&mut self, motion: &Motion, warper: &mut Warper) -> Image {
        let mut residual = self.painted.residual();
        let pixels = motion.trust.len();
        let Memory { first_moment, second_moment, freshness } = self.optimizer.memory();
        warper.warp(&motion.flow, &mut [residual.data_mut(), first_moment, second_moment, freshness]);
        for plane in first_moment.chunks_exact_mut(pixels) {
            plane.iter_mut().zip(&motion.trust).for_each(|(value, trust)| *value *= trust);
        }
        // The warp overshoots a little near edges.
        second_moment.iter_mut().for_each(|value| *value = value.max(0.0));
        for (n, (freshness, trust)) in freshness.iter_mut().zip(&motion.trust).enumerate() {
            let kept = trust * (1.0 - wear(motion, n));
            *freshness = 1.0 - kept * (1.0 - freshness.clamp(0.0, 1.0));
        }
        self.painted.paint_edges(&mut residual, motion);
        residual
    }

    /// The history at another working size.
    pub(super) fn resized(&self, size: (usize, usize)) -> Result<Self> {
        Ok(Self { painted: self.painted.resized(size)?, optimizer: Adam::new(size.0 * size.1) })
    }
}

/// The share of its age that the paint of a pixel loses because the content under it moves or changes. Where nothing
/// does, the paint comes to rest.
fn wear(motion: &Motion, pixel: usize) -> f32 {
    let (x, y) = (motion.flow.x[pixel], motion.flow.y[pixel]);
    let distance = (x * x + y * y).sqrt();
    let moved = MOTION_WEAR * (distance / MOTION).min(1.0);
    let changed = (motion.change[pixel] - CALM_CHANGE).max(0.0) / FULL_CHANGE;
    (moved + changed).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{motion::MotionEstimator, processor::Processor};

    /// Coarse and fine waves, `x` pixels further to the right.
    fn waves(width: usize, height: usize, x: f32) -> Image {
        let values = (0..3 * width * height).map(|n| {
            let (i, j) = ((n % width) as f32 - x, (n / width) as f32);
            128.0 + 50.0 * (0.21 * i + 0.13 * j).sin() + 40.0 * (0.5 * i - 0.37 * j).cos()
        });
        Image::from_planes(width, height, values.collect()).unwrap()
    }

    fn history(content: Image, stylized: Image) -> History {
        let optimizer = Adam::new(content.width() * content.height());
        History { painted: Painted { content, stylized }, optimizer }
    }

    fn start(history: History, warm_start: WarmStart, content: &Image) -> Start {
        let processor = Processor::detect(1).unwrap();
        let mut estimator = MotionEstimator::new(processor.clone());
        let motion = estimator.between(&history.painted.content, content);
        history.start(warm_start, content, Some(motion), &mut Warper::new(processor))
    }

    #[test]
    fn each_start_is_what_it_says() {
        let start = |warm_start, content: &Image| {
            let history = history(Image::filled(32, 32, 100.0), Image::filled(32, 32, 130.0));
            start(history, warm_start, content).image
        };
        let content = Image::filled(32, 32, 50.0);
        assert_eq!(start(WarmStart::None, &content), content);
        assert_eq!(start(WarmStart::Previous, &content), Image::filled(32, 32, 130.0));
        for warm_start in [WarmStart::Residual, WarmStart::Flow] {
            assert_eq!(start(warm_start, &content), Image::filled(32, 32, 80.0));
            let bright = Image::filled(32, 32, 240.0);
            assert_eq!(start(warm_start, &bright), Image::filled(32, 32, 255.0));
        }
    }

    #[test]
    fn paint_moves_with_what_it_was_painted_on() {
        const SHIFT: f32 = 3.0;
        let (width, height) = (96, 64);
        let mut stylized = waves(width, height, 0.0);
        // A stripe of paint.
        let painted = |n: usize| (40..44).contains(&(n % width));
        stylized.data_mut().iter_mut().enumerate().filter(|(n, _)| painted(*n)).for_each(|(_, value)| *value += 30.0);
        let content = waves(width, height, SHIFT);
        let mut history = history(waves(width, height, 0.0), stylized);
        let Memory { first_moment, second_moment, freshness } = history.optimizer.memory();
        first_moment.fill(1.0);
        second_moment.fill(1.0);
        freshness.fill(0.25);
        let Start { image, mut optimizer, trust } = start(history, WarmStart::Flow, &content);
        let row = height / 2 * width;
        let paint = |column: usize| image.data()[row + column] - content.data()[row + column];
        assert!((paint(44) - 30.0).abs() < 3.0, "{}", paint(44));
        assert!(paint(40).abs() < 3.0, "{}", paint(40));
        // The pixels that came into the picture at the left have no history.
        let Memory { first_moment: first, second_moment: second, freshness } = optimizer.memory();
        let trust = trust.unwrap();
        assert_eq!((trust[row], first[row], freshness[row]), (0.0, 0.0, 1.0));
        assert_eq!(trust[row + 44], 1.0);
        assert!((first[row + 44] - 1.0).abs() < 1e-3);
        let kept = 1.0 - MOTION_WEAR;
        assert!((freshness[row + 44] - (1.0 - 0.75 * kept)).abs() < 1e-2, "{}", freshness[row + 44]);
        assert!(second.iter().all(|value| (value - 1.0).abs() < 1e-3));
    }

    #[test]
    fn paint_that_does_not_follow_the_motion_stays_fresh() {
        for (warm_start, least) in
            [(WarmStart::Previous, STANDING), (WarmStart::Residual, STANDING), (WarmStart::Flow, 0.0)]
        {
            let mut history = history(waves(64, 48, 0.0), waves(64, 48, 0.0));
            history.optimizer.memory().freshness.fill(0.0);
            let freshness = start(history, warm_start, &waves(64, 48, 0.0)).optimizer.memory().freshness.to_vec();
            assert!(freshness.iter().all(|freshness| (freshness - least).abs() < 1e-3), "{warm_start:?}");
        }
    }

    #[test]
    fn paint_ages_where_nothing_happens_and_is_renewed_by_a_change() {
        let freshness = |brighter: f32| {
            let last = waves(64, 48, 0.0);
            let mut content = last.clone();
            content.data_mut().iter_mut().for_each(|value| *value += brighter);
            let mut history = history(last.clone(), last);
            history.optimizer.memory().freshness.fill(0.1);
            let freshness = start(history, WarmStart::Flow, &content).optimizer.memory().freshness.to_vec();
            freshness.iter().sum::<f32>() / freshness.len() as f32
        };
        assert!((freshness(0.0) - 0.1).abs() < 1e-3, "{}", freshness(0.0));
        assert!(freshness(1.0) < 0.12, "{}", freshness(1.0));
        let (little, much) = (freshness(5.0), freshness(20.0));
        assert!(0.13 < little && little + 0.1 < much, "{little} {much}");
    }
}

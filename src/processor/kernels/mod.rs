// SPDX-License-Identifier: MPL-2.0

//! The operations of VGG, its losses and their gradients on the processor: convolution, pooling, Gram matrices.
//!
//! There are two backends, each an implementation of [`Kernels`] in a folder of its own. What both share, such as the
//! convolution of the image itself, lies beside these folders.

#[cfg(target_arch = "x86_64")]
pub mod amx;
mod epilogue;
mod first;
mod float32;
mod gram;
mod pooling;

use super::{Engine, LANES, Lanes, Vector};

#[cfg(target_arch = "x86_64")]
pub use amx::Amx;
pub use epilogue::Epilogue;
pub use first::FirstConvolution;
pub use float32::Float32;
pub use gram::GramMatrix;
pub use pooling::Pooling;

/// Channels, height and width of feature maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// A multiple of 32.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// Blocks of sixteen channels.
    pub fn blocks(self) -> usize {
        self.channels / LANES
    }

    /// Pixels of one channel.
    pub fn positions(self) -> usize {
        self.height * self.width
    }

    /// [`Lanes`] of the feature maps in float32.
    pub fn lanes(self) -> usize {
        self.blocks() * self.positions()
    }

    /// The shape after a pooling.
    pub fn pooled(self) -> Self {
        Self { height: self.height / 2, width: self.width / 2, ..self }
    }
}

/// One 3x3 convolution with padding 1, stride 1 and a ReLU after it.
#[derive(Debug, Clone)]
pub struct Convolution {
    /// Channels of its input.
    pub inputs: usize,
    /// Channels of its output.
    pub outputs: usize,
    /// Weights, `[outputs][inputs][3][3]`.
    pub weight: Vec<f32>,
    /// Biases, `[outputs]`.
    pub bias: Vec<f32>,
}

/// The direction in which a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From input to output.
    Forward,
    /// From the gradient of the output to that of the input.
    Backward,
}

/// The target of the content loss.
#[derive(Clone, Copy)]
pub struct ContentTarget<'a> {
    /// Of the same shape.
    pub features: &'a [Lanes],
    /// The gradient is the difference from them times this.
    pub slope: f32,
    /// The matrix that the difference is multiplied by first: a metric from [`Kernels::pack_metric`].
    pub metric: Option<&'a [Lanes]>,
}

/// The gradient that comes back from deeper layers.
#[derive(Clone, Copy)]
pub enum Incoming<'a> {
    /// There is none.
    Nothing,
    /// It has the same shape.
    Direct(&'a [Lanes]),
    /// It is for the pooled feature maps.
    Pooled(Pooling, &'a [Lanes]),
}

/// The operations on feature maps, by one backend.
///
/// Each backend has its own layout of feature maps, of [`lanes`](Self::lanes) many [`Lanes`], and its own packed form
/// of filters. The image, its gradient, Gram matrices and losses are float32 or more in all of them.
pub trait Kernels: 'static {
    /// The filters of a convolution in one direction, packed.
    type Filters: Send + Sync;

    /// How many [`Lanes`] feature maps of this shape take.
    fn lanes(shape: Shape) -> usize;

    /// How many masks of sixteen bits it takes to tell for each number of these feature maps whether it is above zero.
    fn masks(shape: Shape) -> usize;

    /// Packs the filters of `convolution`, whose channels are multiples of 32.
    fn pack(engine: &mut Engine, convolution: &Convolution, direction: Direction) -> Self::Filters;

    /// Convolves `input`, of shape `shape`, with packed filters.
    fn convolve(
        engine: &mut Engine,
        shape: Shape,
        input: &[Lanes],
        filters: &Self::Filters,
        epilogue: Epilogue,
        output: &mut [Lanes],
    );

    /// Convolves the planes of an image of this width and height, adds the bias and makes negative results zero.
    /// `positive` gets one bit for each number, set where it is above zero.
    fn convolve_image(
        engine: &mut Engine,
        size: (usize, usize),
        image: &[f32],
        first: &FirstConvolution,
        positive: Option<&mut [u16]>,
        output: &mut [Lanes],
    );

    /// The gradient for the planes of the image, from that for the output of the first convolution, of shape `shape`,
    /// which is zero where the output is.
    fn image_gradient(
        engine: &mut Engine,
        shape: Shape,
        gradient: &[Lanes],
        first: &FirstConvolution,
        image: &mut [f32],
    );

    /// Pools `input`, of shape `shape`. A last odd row or column is left out.
    fn pool(engine: &mut Engine, shape: Shape, pooling: Pooling, input: &[Lanes], output: &mut [Lanes]);

    /// Computes the Gram matrix `F F^T / (positions * channels)` of feature maps.
    fn compute_gram(engine: &mut Engine, gram: &mut GramMatrix, features: &[Lanes]);

    /// Prepares the gradient of the distance of a Gram matrix from `target`: the difference times `slope`, packed for
    /// [`gradient_at`](Self::gradient_at). Returns the squared distance too.
    fn gram_difference<'g>(
        engine: &mut Engine,
        gram: &'g mut GramMatrix,
        target: &[Lanes],
        slope: f32,
    ) -> (f64, &'g [Lanes]);

    /// Packs the metric of a layer with this number of channels, `[row][column]`, for [`ContentTarget`].
    fn pack_metric(engine: &mut Engine, channels: usize, metric: &[Lanes]) -> Vec<Lanes> {
        // Feature maps are multiplied by a difference of Gram matrices in the same way.
        let mut matrix = GramMatrix::from_values(channels, metric.to_vec());
        let zero = vec![Lanes::ZERO; metric.len()];
        Self::gram_difference(engine, &mut matrix, &zero, 1.0).1.to_vec()
    }

    /// Replaces feature maps, which come from a ReLU, by the gradient for them: zero where they are zero, elsewhere the
    /// sum of all terms.
    ///
    /// `style` comes from [`gram_difference`](Self::gram_difference). Returns the squared distance d from the content,
    /// `<d, d>` or, in a metric, `<M d, d>`. `squares` is scratch memory for its terms.
    fn gradient_at(
        engine: &mut Engine,
        shape: Shape,
        features: &mut [Lanes],
        style: Option<&[Lanes]>,
        content: Option<ContentTarget>,
        incoming: Incoming,
        squares: &mut Vec<f64>,
    ) -> f64;

    /// The sum of the squares of feature maps. `squares` is scratch memory for its terms.
    fn squared_norm(engine: &mut Engine, shape: Shape, features: &[Lanes], squares: &mut Vec<f64>) -> f64;
}

/// The sum of sixteen numbers, in double precision.
#[inline(always)]
fn sum<V: Vector>(vector: V) -> f64 {
    let mut lanes = Lanes::ZERO;
    vector.store(&mut lanes);
    lanes.0.iter().map(|&value| f64::from(value)).sum()
}

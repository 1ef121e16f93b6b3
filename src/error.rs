// SPDX-License-Identifier: MPL-2.0

//! What can go wrong, named so that the user knows what to do about it.

use std::{io, path::PathBuf};

/// The result of every operation of this library that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a dependency, whose type may change with its version.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// An error of this library. Its text names the file, setting, size or value at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weights file that cannot be opened or read.
    #[error("cannot read the weights file {}: {source}", path.display())]
    WeightsUnreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// A weights file that is damaged, truncated, or not in the safetensors format.
    #[error("{origin} is not a complete safetensors file: {source}")]
    WeightsDamaged {
        /// The file, or "the built-in weights".
        origin: String,
        /// What the parser said.
        source: Source,
    },

    /// A tensor of the weights that is missing, has a wrong shape, or holds a value that is no number.
    #[error("{origin}: tensor {tensor}: {problem}")]
    WeightsTensor {
        /// The file, or "the built-in weights".
        origin: String,
        /// The name of the tensor at fault.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A layer name that VGG does not have.
    #[error(
        "\"{name}\" is not a layer of VGG: layers are named relu<block>_<convolution>, \
         relu1_1 to relu5_4, several of them separated by commas"
    )]
    UnknownLayer {
        /// The name as it was given.
        name: String,
    },

    /// A layer that VGG has, but not the weights in use.
    #[error("{setting}: the weights have no layer {layer}, they have {available}")]
    LayerNotInWeights {
        /// The setting that asks for the layer.
        setting: &'static str,
        /// The layer.
        layer: String,
        /// The layers that the weights have, separated by commas.
        available: String,
    },

    /// A Gram matrix of a layer that is not among the style layers.
    #[error("a Gram matrix is of {layer}, but the style layers are {available}")]
    GramLayer {
        /// The layer of its feature maps.
        layer: String,
        /// The style layers, separated by commas.
        available: String,
    },

    /// A Gram matrix of another size than the weights give it.
    #[error("the Gram matrix of {layer} has {actual} values, not {expected}")]
    GramSize {
        /// The layer of its feature maps.
        layer: String,
        /// How many values it must have.
        expected: usize,
        /// How many it has.
        actual: usize,
    },

    /// A setting with a value that it cannot have.
    #[error("{setting} is {value}: it must be {expected}")]
    Setting {
        /// The setting, as the element's property is called.
        setting: &'static str,
        /// The value it was given.
        value: String,
        /// The values it takes.
        expected: &'static str,
    },

    /// A style that is neither a picture file nor the name of a built-in style.
    #[error("there is no style {path}: no such file, and the built-in styles are {available}")]
    StyleMissing {
        /// The path or name as it was given.
        path: String,
        /// The names of the built-in styles.
        available: String,
    },

    /// A style file that cannot be decoded.
    #[error(
        "the style {path} cannot be used: {source} (a PNG, JPEG, WebP, BMP or TIFF picture of at most {longest} x \
         {longest} pixels is wanted)"
    )]
    StyleUndecodable {
        /// The style's file.
        path: String,
        /// The longest side, in pixels, that a style may have.
        longest: u32,
        /// What the decoder said.
        source: Source,
    },

    /// A style image that is too small.
    #[error("the style {path} is only {width}x{height} pixels: at least {shortest}x{shortest} are wanted")]
    StyleTiny {
        /// The style's file.
        path: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The shortest side, in pixels, that a style may have.
        shortest: u32,
    },

    /// An image too small for the deepest layer in use: after the pooling in front of that layer nothing is left.
    #[error("the {what} is {width}x{height} pixels at the working size: {layer} needs at least {needed}x{needed}")]
    TooSmall {
        /// What the image is: "frame" or "style".
        what: &'static str,
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// The deepest layer in use.
        layer: String,
        /// The shortest side that this layer can see, in pixels.
        needed: usize,
    },

    /// Frames that need more memory than there is.
    #[error(
        "{what} of {width}x{height} pixels need {} of memory at a working size of {working_size}, but only {} is available: {}",
        gigabytes(*needed),
        gigabytes(*available),
        match largest {
            Some(size) => format!("the largest working-size that fits is {size}"),
            None => "a smaller working-size needs less".to_owned(),
        }
    )]
    Memory {
        /// What takes it: "frames", or what is prepared beside them.
        what: &'static str,
        /// Width of the frames in pixels.
        width: usize,
        /// Height of the frames in pixels.
        height: usize,
        /// The long side, in pixels, at which they would be optimized.
        working_size: u32,
        /// How many bytes that takes, while another style or other layers are prepared with those too.
        needed: u64,
        /// How many bytes there are: the setting `memory_limit`, or what the machine has.
        available: u64,
        /// The largest working size that fits, if one is known.
        largest: Option<u32>,
    },

    /// A number of values that does not match the size of an image.
    #[error("an image of {width}x{height} pixels needs {expected} values, it has {actual}")]
    ImageSize {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// How many values an image of this size has.
        expected: usize,
        /// How many there are.
        actual: usize,
    },

    /// A layout of pixels that packed frames cannot have.
    #[error(
        "pixels of {pixel_stride} bytes with red, green and blue at {offsets:?}: there must be 3 or 4 bytes, and a place \
         in them for each"
    )]
    PackedFormat {
        /// Bytes of a pixel.
        pixel_stride: usize,
        /// Where red, green and blue are in them.
        offsets: [usize; 3],
    },

    /// A frame was to be painted before a style was set.
    #[error("no style is set: call set_style before the first frame")]
    NoStyle,

    /// An [`Interruption`](crate::stylizer::Interruption) broke off the painting of a frame.
    #[error("painting was interrupted")]
    Interrupted,

    /// A device that this build or this machine does not have.
    #[error("device \"{name}\" cannot be used: {problem}")]
    Device {
        /// The device as it was given.
        name: String,
        /// Why not.
        problem: String,
    },

    /// A graphics card that failed, or that cannot do what was asked of it.
    #[error("the graphics card {adapter} failed: {problem}")]
    Gpu {
        /// The name of the adapter.
        adapter: String,
        /// What its driver said.
        problem: String,
    },

    /// Kernels that were asked for by `NEURALSTYLE_CPU` and that this processor or this build does not have.
    #[error("NEURALSTYLE_CPU is \"{kind}\": {problem}")]
    Processor {
        /// The kind of kernels as it was given.
        kind: String,
        /// Why they cannot be used.
        problem: String,
    },

    /// The system has no more threads to give.
    #[error("cannot start a thread: {0}")]
    Threads(#[source] io::Error),

    /// A tensor operation failed.
    #[error("a tensor operation failed: {0}")]
    Tensor(#[source] Source),

    /// Resizing failed.
    #[error("cannot resize an image: {0}")]
    Resize(String),
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

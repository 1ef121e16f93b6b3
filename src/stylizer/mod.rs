mod image;
pub use image::{Image, PackedFormat};

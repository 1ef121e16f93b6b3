// SPDX-License-Identifier: MPL-2.0

//! The GStreamer plugin with its one element, which translates between GStreamer and the stylizer and does nothing else.

mod assignments;
mod imp;
mod job;
mod pace;
mod painter;
mod properties;

use gst::{glib, prelude::*, subclass::prelude::*};

pub use assignments::{AssignmentError, set_properties};

use crate::{Result, network, processor, stylizer};

glib::wrapper! {
    /// The element `neuralstyle`.
    pub struct NeuralStyle(ObjectSubclass<imp::NeuralStyle>)
        @extends gst_video::VideoFilter, gst_base::BaseTransform, gst::Element, gst::Object,
        @implements gst::Preset;
}

impl NeuralStyle {
    /// A stylizer as the element's properties describe it, with its style set.
    ///
    /// # Errors
    ///
    /// If the weights or the style cannot be loaded, or a property has no meaning.
    pub fn stylizer(&self) -> Result<stylizer::Stylizer> {
        self.imp().properties().stylizer(false)
    }
}

/// The property `network`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstNeuralStyleNetwork")]
#[non_exhaustive]
pub enum Network {
    /// [`Light`](Self::Light) for a live source, where more iterations are worth more than exact ones, and
    /// [`Vgg16`](Self::Vgg16) for all else.
    #[default]
    #[enum_value(name = "Auto: light for live sources, vgg16 for all else", nick = "auto")]
    Auto,
    /// See [`network::Vgg::built_in`].
    #[enum_value(name = "Vgg16: VGG16 up to relu4_3", nick = "vgg16")]
    Vgg16,
    /// See [`network::Vgg::light`].
    #[enum_value(name = "Light: a network with half of its channels, for about a third of the time", nick = "light")]
    Light,
}

impl Network {
    /// Its name as a value of the property.
    fn nick(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Vgg16 => "vgg16",
            Self::Light => "light",
        }
    }
}

/// The property `pooling`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstNeuralStylePooling")]
#[non_exhaustive]
pub enum Pooling {
    /// See [`network::Pooling::Max`].
    #[default]
    #[enum_value(name = "Max: the largest of four values, as in the training of the network", nick = "max")]
    Max,
    /// See [`network::Pooling::Average`].
    #[enum_value(name = "Average: the mean of four values, for a smoother picture", nick = "average")]
    Average,
}

impl From<Pooling> for network::Pooling {
    fn from(pooling: Pooling) -> Self {
        match pooling {
            Pooling::Max => Self::Max,
            Pooling::Average => Self::Average,
        }
    }
}

/// The property `precision`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstNeuralStylePrecision")]
#[non_exhaustive]
pub enum Precision {
    /// See [`processor::Precision::Auto`].
    #[default]
    #[enum_value(name = "Auto: bf16 on a processor with AMX, else f32", nick = "auto")]
    Auto,
    /// See [`processor::Precision::F32`].
    #[enum_value(name = "F32: 32-bit floating point", nick = "f32")]
    F32,
    /// See [`processor::Precision::Bf16`].
    #[enum_value(name = "Bf16: bfloat16 with sums in 32 bits, which needs a processor with AMX", nick = "bf16")]
    Bf16,
}

impl From<Precision> for processor::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Auto => Self::Auto,
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// The property `warm-start`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstNeuralStyleWarmStart")]
#[non_exhaustive]
pub enum WarmStart {
    /// See [`stylizer::WarmStart::None`].
    #[enum_value(name = "None: the frame itself, independent of other frames", nick = "none")]
    None,
    /// See [`stylizer::WarmStart::Previous`].
    #[enum_value(name = "Previous: the last stylized frame, whose paint does not move", nick = "previous")]
    Previous,
    /// See [`stylizer::WarmStart::Residual`].
    #[enum_value(
        name = "Residual: the frame plus the paint of the last one (stylized minus content)",
        nick = "residual"
    )]
    Residual,
    /// See [`stylizer::WarmStart::Flow`].
    #[default]
    #[enum_value(name = "Flow: as residual, but the paint moves along the optical flow", nick = "flow")]
    Flow,
}

impl From<WarmStart> for stylizer::WarmStart {
    fn from(warm_start: WarmStart) -> Self {
        match warm_start {
            WarmStart::None => Self::None,
            WarmStart::Previous => Self::Previous,
            WarmStart::Residual => Self::Residual,
            WarmStart::Flow => Self::Flow,
        }
    }
}

/// The property `debug-view`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstNeuralStyleDebugView")]
#[non_exhaustive]
pub enum DebugView {
    /// See [`stylizer::DebugView::Painted`].
    #[default]
    #[enum_value(name = "Painted: the painted frame", nick = "painted")]
    Painted,
    /// See [`stylizer::DebugView::Flow`].
    #[enum_value(name = "Flow: the optical flow to the last frame, its direction as a hue", nick = "flow")]
    Flow,
    /// See [`stylizer::DebugView::Mask`].
    #[enum_value(name = "Mask: where the flow is trusted, in white", nick = "mask")]
    Mask,
    /// See [`stylizer::DebugView::Residual`].
    #[enum_value(name = "Residual: the paint alone, at half its strength on grey", nick = "residual")]
    Residual,
}

impl From<DebugView> for stylizer::DebugView {
    fn from(debug_view: DebugView) -> Self {
        match debug_view {
            DebugView::Painted => Self::Painted,
            DebugView::Flow => Self::Flow,
            DebugView::Mask => Self::Mask,
            DebugView::Residual => Self::Residual,
        }
    }
}

fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    #[cfg(feature = "doc")]
    {
        Network::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
        Precision::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
        Pooling::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
        WarmStart::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
        DebugView::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    }
    gst::Element::register(Some(plugin), "neuralstyle", gst::Rank::NONE, NeuralStyle::static_type())
}

gst::plugin_define!(
    neuralstyle,
    env!("CARGO_PKG_DESCRIPTION"),
    register,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL-2.0",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("BUILD_REL_DATE")
);

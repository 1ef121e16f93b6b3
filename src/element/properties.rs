// SPDX-License-Identifier: MPL-2.0

//! The element's properties, and the stylizer they describe.

use std::sync::Arc;

use gst::{glib, prelude::*};

use super::{DebugView, Pooling, Precision, WarmStart};
use crate::{
    Result,
    network::{Vgg, parse_layers},
    processor::Processor,
    style,
    stylizer::{Settings, Stylizer},
};

/// Far more than help.
const MOST_THREADS: u32 = 1024;
/// The budget that is off for recorded frames, and for live ones as long as a frame lasts.
const LIVE_FRAME: i64 = -1;
/// The working size that fits the machine.
const FITTING: i32 = -1;
const LARGEST_WORKING_SIZE: i32 = Settings::WORKING_SIZES.end().cast_signed();

/// The writable properties with their values.
///
/// The texts of layers and the like are kept as they were given: they are read, and found right or wrong, when they
/// come into use.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    pub style: String,
    /// How often it was set: who sets it to the same again, as after a mistake, wants another try.
    pub style_settings: u32,
    pub post_messages: bool,
    pub frame_budget: i64,
    pub max_late_frames: u32,
    /// In milliseconds.
    pub style_transition: u32,
    weights: Option<String>,
    device: String,
    threads: u32,
    precision: Precision,
    content_layers: String,
    style_layers: String,
    pooling: Pooling,
    warm_start: WarmStart,
    debug_view: DebugView,
    working_size: i32,
    /// The numbers; its other fields come from those above.
    numbers: Settings,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            style: style::DEFAULT.to_owned(),
            style_settings: 0,
            post_messages: false,
            frame_budget: LIVE_FRAME,
            max_late_frames: 10,
            style_transition: 500,
            weights: None,
            device: "cpu".to_owned(),
            threads: 0,
            precision: Precision::default(),
            content_layers: Settings::CONTENT_LAYERS.to_owned(),
            style_layers: Settings::STYLE_LAYERS.to_owned(),
            pooling: Pooling::default(),
            warm_start: WarmStart::default(),
            debug_view: DebugView::default(),
            working_size: 0,
            numbers: Settings::default(),
        }
    }
}

impl Properties {
    /// The settings of the stylizer. A working size that shall fit the machine is that of the frame here.
    pub fn settings(&self) -> Result<Settings> {
        Ok(Settings {
            working_size: self.working_size.try_into().unwrap_or(0),
            content_layers: parse_layers(&self.content_layers)?,
            style_layers: parse_layers(&self.style_layers)?,
            pooling: self.pooling.into(),
            ..self.settings_with_preparation_of(&self.numbers)
        })
    }

    /// These settings with the layers, pooling and working size of others.
    pub fn settings_with_preparation_of(&self, other: &Settings) -> Settings {
        let (warm_start, debug_view) = (self.warm_start.into(), self.debug_view.into());
        Settings { warm_start, debug_view, ..self.numbers.clone() }.with_preparation_of(other)
    }

    /// Whether those have the same layers, pooling and working size.
    pub fn has_preparation_of(&self, other: &Self) -> bool {
        let preparation = |it: &Self| (it.content_layers.clone(), it.style_layers.clone(), it.pooling, it.working_size);
        preparation(self) == preparation(other)
    }

    /// Whether the working size shall fit the machine.
    pub fn fits_machine(&self) -> bool {
        self.working_size == FITTING
    }

    /// A stylizer with these settings, weights, device and style.
    pub fn stylizer(&self) -> Result<Stylizer> {
        let settings = self.settings()?;
        let weights = match &self.weights {
            Some(path) => Vgg::from_file(path)?,
            None => Vgg::built_in()?,
        };
        let processor = Processor::with_precision(self.threads as usize, self.precision.into())?;
        let mut stylizer = Stylizer::new(Arc::new(weights), self.device.parse()?, processor, settings)?;
        stylizer.set_style(style::load(&self.style)?)?;
        Ok(stylizer)
    }

    pub fn set(&mut self, name: &str, value: &glib::Value) {
        // GObject has checked name and type.
        fn read<'a, T: glib::value::FromValue<'a>>(value: &'a glib::Value) -> T {
            value.get().unwrap_or_else(|error| unreachable!("GObject let a value of a wrong type pass: {error}"))
        }
        // Setting a text to NULL brings its default back.
        let text = |default: String| read::<Option<String>>(value).unwrap_or(default);
        let default = Self::default;
        match name {
            "style" => {
                self.style = text(default().style);
                self.style_settings = self.style_settings.wrapping_add(1);
            }
            "post-messages" => self.post_messages = read(value),
            "frame-budget" => self.frame_budget = read(value),
            "max-late-frames" => self.max_late_frames = read(value),
            "style-transition" => self.style_transition = read(value),
            "weights" => self.weights = read(value),
            "device" => self.device = text(default().device),
            "threads" => self.threads = read(value),
            "precision" => self.precision = read(value),
            "content-layers" => self.content_layers = text(default().content_layers),
            "style-layers" => self.style_layers = text(default().style_layers),
            "pooling" => self.pooling = read(value),
            "warm-start" => self.warm_start = read(value),
            "debug-view" => self.debug_view = read(value),
            "content-weight" => self.numbers.content_weight = read(value),
            "style-weight" => self.numbers.style_weight = read(value),
            "tv-weight" => self.numbers.tv_weight = read(value),
            "temporal-weight" => self.numbers.temporal_weight = read(value),
            "learning-rate" => self.numbers.learning_rate = read(value),
            "iterations" => self.numbers.iterations = read(value),
            "first-iterations" => self.numbers.first_iterations = read(value),
            "working-size" => self.working_size = read(value),
            "scene-threshold" => self.numbers.scene_threshold = read(value),
            "strength" => self.numbers.strength = read(value),
            _ => unreachable!("no property {name}"),
        }
    }

    pub fn get(&self, name: &str) -> glib::Value {
        match name {
            "style" => self.style.to_value(),
            "post-messages" => self.post_messages.to_value(),
            "frame-budget" => self.frame_budget.to_value(),
            "max-late-frames" => self.max_late_frames.to_value(),
            "style-transition" => self.style_transition.to_value(),
            "weights" => self.weights.to_value(),
            "device" => self.device.to_value(),
            "threads" => self.threads.to_value(),
            "precision" => self.precision.to_value(),
            "content-layers" => self.content_layers.to_value(),
            "style-layers" => self.style_layers.to_value(),
            "pooling" => self.pooling.to_value(),
            "warm-start" => self.warm_start.to_value(),
            "debug-view" => self.debug_view.to_value(),
            "content-weight" => self.numbers.content_weight.to_value(),
            "style-weight" => self.numbers.style_weight.to_value(),
            "tv-weight" => self.numbers.tv_weight.to_value(),
            "temporal-weight" => self.numbers.temporal_weight.to_value(),
            "learning-rate" => self.numbers.learning_rate.to_value(),
            "iterations" => self.numbers.iterations.to_value(),
            "first-iterations" => self.numbers.first_iterations.to_value(),
            "working-size" => self.working_size.to_value(),
            "scene-threshold" => self.numbers.scene_threshold.to_value(),
            "strength" => self.numbers.strength.to_value(),
            _ => unreachable!("no property {name}"),
        }
    }

    pub fn specs() -> Vec<glib::ParamSpec> {
        let default = Self::default();
        let numbers = &default.numbers;
        let names: Vec<&str> = style::built_in_names().collect();
        let style_blurb = format!(
            "Style image: path of a PNG, JPEG, WebP, BMP or TIFF picture, or the name of a built-in style ({})",
            names.join(", ")
        );
        vec![
            text("style", "Style", &style_blurb, Some(&default.style), Use::AnyTime),
            glib::ParamSpecUInt::builder("style-transition")
                .nick("Style transition")
                .blurb(
                    "How long the old style takes to become the new one when it changes, in milliseconds of the \
                     stream",
                )
                .default_value(default.style_transition)
                .mutable_playing()
                .build(),
            weight(
                "content-weight",
                "Content weight",
                "How much the content loss counts: more keeps more of the frame",
                numbers.content_weight,
            ),
            weight(
                "style-weight",
                "Style weight",
                "How much the style loss counts: more paints harder, less keeps more of the frame",
                numbers.style_weight,
            ),
            weight(
                "tv-weight",
                "Total variation weight",
                "How much the total variation counts: more makes smoother paint, 0 turns it off",
                numbers.tv_weight,
            ),
            weight(
                "temporal-weight",
                "Temporal weight",
                "How much the temporal loss counts with warm-start=flow: more makes calmer paint, 0 turns it off",
                numbers.temporal_weight,
            ),
            glib::ParamSpecDouble::builder("learning-rate")
                .nick("Learning rate")
                .blurb(
                    "Length of a middling step of the optimizer, in levels of 8-bit colour: new paint takes longer, \
                     old paint shorter ones",
                )
                .minimum(*Settings::LEARNING_RATES.start())
                .maximum(*Settings::LEARNING_RATES.end())
                .default_value(numbers.learning_rate)
                .mutable_playing()
                .controllable()
                .build(),
            count("iterations", "Iterations", "Optimizer steps for each frame after the first", numbers.iterations),
            count(
                "first-iterations",
                "First iterations",
                "Optimizer steps for the first frame, and for the first after a scene cut, a flush, new caps or, without \
                 a frame budget, a discontinuity: so many at its working size, and without a budget as many before at \
                 each smaller size",
                numbers.first_iterations,
            ),
            glib::ParamSpecInt::builder("working-size")
                .nick("Working size")
                .blurb(
                    "Long side, in pixels, at which to optimize: at least 16, or 0 for the size of the frame, or -1 for \
                     one that fits the machine: with a frame budget it is the largest at which an iteration fits \
                     into it, else that of the frame. What was painted is scaled up and added to the frame",
                )
                .minimum(FITTING)
                .maximum(LARGEST_WORKING_SIZE)
                .default_value(default.working_size)
                .mutable_playing()
                .build(),
            glib::ParamSpecInt64::builder("frame-budget")
                .nick("Frame budget")
                .blurb(
                    "Time for a frame in nanoseconds: it takes as many iterations as fit, at least one unless it is late \
                     (see max-late-frames), and at most those of the property iterations, or of first-iterations in a \
                     first frame. 0 is off, for a fixed number; -1 is the duration of a frame with a live source, by \
                     its caps or else 40 ms, and off with any other",
                )
                .minimum(LIVE_FRAME)
                .default_value(default.frame_budget)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("max-late-frames")
                .nick("Most late frames")
                .blurb(
                    "How many frames in a row may, if there is a frame budget and they are late, have no \
                     iteration at all and only show the paint of the last one, moved along",
                )
                .default_value(default.max_late_frames)
                .mutable_playing()
                .build(),
            glib::ParamSpecDouble::builder("scene-threshold")
                .nick("Scene threshold")
                .blurb(
                    "Share of a frame's texture, 0 to 1, that must be new for a new scene to begin, which is painted as \
                     if nothing had been before; 1 is never, and there is none with warm-start=none",
                )
                .minimum(0.0)
                .maximum(1.0)
                .default_value(numbers.scene_threshold)
                .mutable_playing()
                .build(),
            glib::ParamSpecDouble::builder("strength")
                .nick("Strength")
                .blurb("How much of what was painted is shown, from 0, the frame as it came, to 1")
                .minimum(0.0)
                .maximum(1.0)
                .default_value(numbers.strength)
                .mutable_playing()
                .controllable()
                .build(),
            text(
                "content-layers",
                "Content layers",
                "Layers of the content loss, relu1_1 to relu5_4 as far as the weights have them, separated by commas; \
                 empty for none",
                Some(&default.content_layers),
                Use::AnyTime,
            ),
            text(
                "style-layers",
                "Style layers",
                "Layers of the style loss, relu1_1 to relu5_4 as far as the weights have them, separated by commas; \
                 empty for none",
                Some(&default.style_layers),
                Use::AnyTime,
            ),
            glib::ParamSpecEnum::builder_with_default("pooling", default.pooling)
                .nick("Pooling")
                .blurb("How the network halves its feature maps")
                .mutable_playing()
                .build(),
            glib::ParamSpecEnum::builder_with_default("warm-start", default.warm_start)
                .nick("Warm start")
                .blurb("What the optimization of each frame after the first starts from")
                .mutable_playing()
                .build(),
            glib::ParamSpecEnum::builder_with_default("debug-view", default.debug_view)
                .nick("Debug view")
                .blurb("What is shown: the picture, or what goes on inside, for those who tune")
                .mutable_playing()
                .build(),
            text(
                "weights",
                "Weights",
                "Path of a safetensors file with the convolutions of VGG16 or VGG19, named as conv1_1.weight (Caffe) or \
                 features.0.weight (torchvision); not set, the built-in VGG16 up to relu4_3 is used",
                default.weights.as_deref(),
                Use::AtStart,
            ),
            text(
                "device",
                "Device",
                "Where to compute: cpu, or cuda:<number> or metal:<number> if the plugin was built with them",
                Some(&default.device),
                Use::AtStart,
            ),
            glib::ParamSpecUInt::builder("threads")
                .nick("Threads")
                .blurb("How many threads compute, on a processor; 0 is as many as it runs at a time")
                .maximum(MOST_THREADS)
                .default_value(default.threads)
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("precision", default.precision)
                .nick("Precision")
                .blurb("Numbers that a processor computes feature maps in; the image and the losses are always 32-bit")
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("post-messages")
                .nick("Post messages")
                .blurb("Post an element message named neuralstyle, with the fields of stats, for every frame")
                .default_value(default.post_messages)
                .mutable_playing()
                .build(),
            glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb(
                    "Of the last frame: frame, its number from 0; scene, that of its scene; working-size, the long side at \
                     which it was optimized; iterations, those at that size; the losses content, style, total-variation \
                     and temporal; loss, their weighted sum; milliseconds; style-updates, how often the Gram matrices \
                     of the style were computed for the working size since the start. No fields before the first frame",
                )
                .read_only()
                .build(),
        ]
    }
}

/// When a changed property comes into use.
enum Use {
    /// With the next frame.
    AnyTime,
    /// With the next change to the PAUSED state.
    AtStart,
}

fn text(name: &str, nick: &str, blurb: &str, default: Option<&str>, when: Use) -> glib::ParamSpec {
    let builder = glib::ParamSpecString::builder(name).nick(nick).blurb(blurb).default_value(default);
    match when {
        Use::AnyTime => builder.mutable_playing().build(),
        Use::AtStart => builder.mutable_ready().build(),
    }
}

fn weight(name: &str, nick: &str, blurb: &str, default: f64) -> glib::ParamSpec {
    glib::ParamSpecDouble::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(*Settings::WEIGHTS.start())
        .maximum(*Settings::WEIGHTS.end())
        .default_value(default)
        .mutable_playing()
        .controllable()
        .build()
}

fn count(name: &str, nick: &str, blurb: &str, default: u32) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(*Settings::ITERATIONS.start())
        .maximum(*Settings::ITERATIONS.end())
        .default_value(default)
        .mutable_playing()
        .controllable()
        .build()
}

// SPDX-License-Identifier: MPL-2.0

//! The element's properties, each declared once, and the stylizer that they describe.

use std::sync::LazyLock;

use gst::{
    glib::{self, value::FromValue},
    prelude::*,
};

use super::{DebugView, Network, Pooling, Precision, WarmStart};
use crate::{
    Result,
    network::{Vgg, parse_layers},
    objective::LossLayers,
    processor::Processor,
    style,
    stylizer::{Settings, Stylizer},
};

/// The frame budget that is the duration of a frame for a live source, and off for any other.
const LIVE_FRAME: i64 = -1;
/// The working size that fits the machine.
const FITTING: i32 = -1;
const CPU: &str = "cpu";
const LARGEST_WORKING_SIZE: i32 = Settings::WORKING_SIZES.end().cast_signed();

/// The values of the writable properties.
///
/// Texts are kept as they were set: they are parsed, and errors reported, when they come into use.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    pub prepared: PreparedProperties,
    /// The settings that are numbers. Its other fields do not count.
    numbers: Settings,
    warm_start: WarmStart,
    debug_view: DebugView,
    /// In nanoseconds, or 0 or [`LIVE_FRAME`].
    pub frame_budget: i64,
    /// In milliseconds.
    pub style_transition: u32,
    pub post_messages: bool,
    network: Network,
    weights: Option<String>,
    device: String,
    threads: u32,
    precision: Precision,
}

/// The properties that take longer to change than a live frame lasts.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedProperties {
    pub style: Style,
    pub objective: ObjectiveProperties,
}

/// The property `style`.
#[derive(Debug, Clone, PartialEq)]
pub struct Style {
    pub name: String,
    /// How often it was set: setting it to the same again, as after a mistake in the file, loads it again.
    times_set: u32,
}

/// The properties that say which feature maps are compared, and at which size.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectiveProperties {
    content_layers: String,
    style_layers: String,
    pooling: Pooling,
    working_size: i32,
    style_scale: f64,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            prepared: PreparedProperties {
                style: Style { name: style::DEFAULT.to_owned(), times_set: 0 },
                objective: ObjectiveProperties {
                    content_layers: Settings::CONTENT_LAYERS.to_owned(),
                    style_layers: Settings::STYLE_LAYERS.to_owned(),
                    pooling: Pooling::default(),
                    working_size: 0,
                    style_scale: Settings::default().style_scale,
                },
            },
            numbers: Settings::default(),
            warm_start: WarmStart::default(),
            debug_view: DebugView::default(),
            frame_budget: LIVE_FRAME,
            style_transition: 500,
            post_messages: false,
            network: Network::default(),
            weights: None,
            device: CPU.to_owned(),
            threads: 0,
            precision: Precision::default(),
        }
    }
}

impl Properties {
    /// The settings of the stylizer. A working size that shall fit the machine is that of the frame here.
    pub fn settings(&self) -> Result<Settings> {
        let ObjectiveProperties { content_layers, style_layers, pooling, working_size, style_scale } =
            &self.prepared.objective;
        let layers = LossLayers {
            content_layers: parse_layers(content_layers)?,
            style_layers: parse_layers(style_layers)?,
            pooling: (*pooling).into(),
        };
        let working_size = (*working_size).try_into().unwrap_or(0);
        Ok(self.settings_like(Settings { layers, working_size, style_scale: *style_scale, ..Settings::default() }))
    }

    /// The settings of the stylizer, with what is prepared as it is here.
    pub fn settings_like(&self, prepared: Settings) -> Settings {
        let Settings { layers, working_size, style_scale, .. } = prepared;
        Settings {
            layers,
            working_size,
            style_scale,
            warm_start: self.warm_start.into(),
            debug_view: self.debug_view.into(),
            ..self.numbers.clone()
        }
    }

    /// Whether the working size shall fit the machine.
    pub fn fits_machine(&self) -> bool {
        self.prepared.objective.working_size == FITTING
    }

    /// The network whose feature maps are compared, `None` if they are those of a file of the user's.
    pub fn network(&self, is_live: bool) -> Option<Network> {
        match (&self.weights, self.network) {
            (Some(_), _) => None,
            (None, Network::Auto) if is_live => Some(Network::Light),
            (None, Network::Auto) => Some(Network::Vgg16),
            (None, network) => Some(network),
        }
    }

    /// A stylizer with these settings, weights, device and style, for a live source or another one.
    pub fn stylizer(&self, is_live: bool) -> Result<Stylizer> {
        let settings = self.settings()?;
        let weights = match (&self.weights, self.network(is_live)) {
            (Some(path), _) => Vgg::from_file(path)?,
            (None, Some(Network::Light)) => Vgg::light()?,
            (None, _) => Vgg::built_in()?,
        };
        let processor = Processor::with_precision(self.threads as usize, self.precision.into())?;
        let mut stylizer = Stylizer::new(weights, self.device.parse()?, processor, settings)?;
        stylizer.set_style(style::load(&self.prepared.style.name)?)?;
        Ok(stylizer)
    }
}

/// A property: how GObject describes it, and where its value is.
pub struct Property {
    pub spec: glib::ParamSpec,
    pub get: Box<Get>,
    pub set: Box<Set>,
}

type Get = dyn Fn(&Properties) -> glib::Value + Send + Sync;
type Set = dyn Fn(&mut Properties, &glib::Value) + Send + Sync;

/// The place of a value in the properties.
struct Field<T> {
    get: fn(&Properties) -> &T,
    get_mut: fn(&mut Properties) -> &mut T,
}

macro_rules! field {
    ($($name:ident).+) => {
        Field { get: |properties| &properties.$($name).+, get_mut: |properties| &mut properties.$($name).+ }
    };
}

impl<T: Clone + ToValue + for<'a> FromValue<'a> + 'static> Field<T> {
    /// Declares the property with this value. Its specification is given the default.
    fn declare(self, specify: impl FnOnce(T) -> glib::ParamSpec) -> Property {
        let Self { get, get_mut } = self;
        Property {
            spec: specify(get(&Properties::default()).clone()),
            get: Box::new(move |properties| get(properties).to_value()),
            set: Box::new(move |properties, value| *get_mut(properties) = read(value)),
        }
    }
}

impl Field<String> {
    /// Declares a property that is a text. Setting it to NULL brings its default back.
    fn declare_text(self, specify: impl FnOnce(&str) -> glib::ParamSpec) -> Property {
        let Self { get, get_mut } = self;
        let default = get(&Properties::default()).clone();
        Property {
            spec: specify(&default),
            get: Box::new(move |properties| get(properties).to_value()),
            set: Box::new(move |properties, value| {
                *get_mut(properties) = read::<Option<String>>(value).unwrap_or_else(|| default.clone());
            }),
        }
    }
}

/// The value in a value whose type GObject has checked.
fn read<'a, T: FromValue<'a>>(value: &'a glib::Value) -> T {
    value.get().unwrap_or_else(|error| unreachable!("GObject let a value of a wrong type pass: {error}"))
}

/// The writable properties, in the order of their ids, which begin with 1.
pub static TABLE: LazyLock<Vec<Property>> = LazyLock::new(|| {
    vec![
        style(),
        field!(style_transition).declare(|default| {
            glib::ParamSpecUInt::builder("style-transition")
                .nick("Style transition")
                .blurb("Duration of the cross-fade from the old style to a new one, in milliseconds of the stream")
                .default_value(default)
                .mutable_playing()
                .build()
        }),
        weight(
            field!(numbers.content_weight),
            "content-weight",
            "Content weight",
            "Weight of the content loss: more keeps more of the frame",
        ),
        weight(
            field!(numbers.style_weight),
            "style-weight",
            "Style weight",
            "Weight of the style loss: more paints harder, less keeps more of the frame",
        ),
        weight(
            field!(numbers.tv_weight),
            "tv-weight",
            "Total variation weight",
            "Weight of the total variation, and of grain relative to the style's: more makes smoother paint, 0 turns both \
             off",
        ),
        weight(
            field!(numbers.temporal_weight),
            "temporal-weight",
            "Temporal weight",
            "Weight of the temporal loss, which needs warm-start=flow: more makes calmer paint, 0 turns it off",
        ),
        field!(numbers.learning_rate).declare(|default| {
            glib::ParamSpecDouble::builder("learning-rate")
                .nick("Learning rate")
                .blurb(
                    "Typical length of an optimizer step, in levels of 8-bit colour: steps are longer for new paint and \
                     shorter for old paint",
                )
                .minimum(*Settings::LEARNING_RATES.start())
                .maximum(*Settings::LEARNING_RATES.end())
                .default_value(default)
                .mutable_playing()
                .controllable()
                .build()
        }),
        iterations(
            field!(numbers.iterations),
            "iterations",
            "Iterations",
            "Optimizer steps for each frame after the first",
        ),
        iterations(
            field!(numbers.first_iterations),
            "first-iterations",
            "First iterations",
            "Optimizer steps for the first frame, and for the first after a scene cut, a flush, new caps or, without a \
             frame budget, a discontinuity. Without a frame budget the frame is painted at smaller sizes first, with as \
             many steps at each",
        ),
        field!(prepared.objective.working_size).declare(|default| {
            glib::ParamSpecInt::builder("working-size")
                .nick("Working size")
                .blurb(
                    "Long side, in pixels, of the image that is optimized: 16 or more, 0 for the size of the frame, or -1 \
                     for a size that fits the machine, which is the largest at which an iteration fits into the frame \
                     budget, and without one the size of the frame. The paint is scaled up and added to the frame",
                )
                .minimum(FITTING)
                .maximum(LARGEST_WORKING_SIZE)
                .default_value(default)
                .mutable_playing()
                .build()
        }),
        field!(prepared.objective.style_scale).declare(|default| {
            glib::ParamSpecDouble::builder("style-scale")
                .nick("Style scale")
                .blurb(
                    "Size of the style picture relative to the image that is optimized, long side to long side: more \
                     makes larger strokes",
                )
                .minimum(*Settings::STYLE_SCALES.start())
                .maximum(*Settings::STYLE_SCALES.end())
                .default_value(default)
                .mutable_playing()
                .build()
        }),
        field!(numbers.memory_limit).declare(|default| {
            glib::ParamSpecUInt64::builder("memory-limit")
                .nick("Memory limit")
                .blurb(
                    "Most memory, in bytes, that painting may take; 0 is what the machine has. Frames that need more are \
                     refused, with the largest working size that fits",
                )
                .default_value(default)
                .mutable_playing()
                .build()
        }),
        field!(frame_budget).declare(|default| {
            glib::ParamSpecInt64::builder("frame-budget")
                .nick("Frame budget")
                .blurb(
                    "Time for a frame, in nanoseconds. Frames of a live source do not wait for iterations, which go on \
                     beside them; those of any other take as many iterations as fit, at most those of iterations. 0 is \
                     off; -1 is, with a live source, the duration of a frame (40 ms if the caps do not tell), and off \
                     with any other",
                )
                .minimum(LIVE_FRAME)
                .default_value(default)
                .mutable_playing()
                .build()
        }),
        field!(numbers.scene_threshold).declare(|default| {
            glib::ParamSpecDouble::builder("scene-threshold")
                .nick("Scene threshold")
                .blurb(
                    "Share of a frame's texture, 0 to 1, that must be new for a scene cut, after which nothing of the old \
                     scene is left. 1 turns cuts off, and warm-start=none needs none",
                )
                .minimum(0.0)
                .maximum(1.0)
                .default_value(default)
                .mutable_playing()
                .build()
        }),
        field!(numbers.strength).declare(|default| {
            glib::ParamSpecDouble::builder("strength")
                .nick("Strength")
                .blurb("Strength of the paint, from 0, which shows the frame as it came, to 1, which shows all of the paint")
                .minimum(0.0)
                .maximum(1.0)
                .default_value(default)
                .mutable_playing()
                .controllable()
                .build()
        }),
        layers(
            field!(prepared.objective.content_layers),
            "content-layers",
            "Content layers",
            "Layers of the content loss, separated by commas: relu1_1 to relu5_4 as far as the weights have them; empty \
             for none",
        ),
        layers(
            field!(prepared.objective.style_layers),
            "style-layers",
            "Style layers",
            "Layers of the style loss, separated by commas: relu1_1 to relu5_4 as far as the weights have them; empty for \
             none",
        ),
        field!(prepared.objective.pooling).declare(|default| {
            glib::ParamSpecEnum::builder_with_default("pooling", default)
                .nick("Pooling")
                .blurb("How the network halves its feature maps")
                .mutable_playing()
                .build()
        }),
        field!(warm_start).declare(|default| {
            glib::ParamSpecEnum::builder_with_default("warm-start", default)
                .nick("Warm start")
                .blurb("What the optimization of each frame after the first starts from")
                .mutable_playing()
                .build()
        }),
        field!(debug_view).declare(|default| {
            glib::ParamSpecEnum::builder_with_default("debug-view", default)
                .nick("Debug view")
                .blurb("What is shown: the painted frame, or an intermediate result, for tuning")
                .mutable_playing()
                .build()
        }),
        field!(network).declare(|default| {
            glib::ParamSpecEnum::builder_with_default("network", default)
                .nick("Network")
                .blurb("The network whose feature maps are compared, unless weights names a file")
                .mutable_ready()
                .build()
        }),
        field!(weights).declare(|default| {
            glib::ParamSpecString::builder("weights")
                .nick("Weights")
                .blurb(
                    "Path of a safetensors file with the convolutions of VGG16 or VGG19, named as conv1_1.weight (Caffe) \
                     or features.0.weight (torchvision), which is used instead of network",
                )
                .default_value(default.as_deref())
                .mutable_ready()
                .build()
        }),
        field!(device).declare_text(|default| {
            glib::ParamSpecString::builder("device")
                .nick("Device")
                .blurb("Where to compute: cpu, gpu for the first graphics card, gpu:<number>, or a part of a card's name")
                .default_value(default)
                .mutable_ready()
                .build()
        }),
        field!(threads).declare(|default| {
            glib::ParamSpecUInt::builder("threads")
                .nick("Threads")
                .blurb("Number of threads on a processor; 0 is as many as it can run at the same time")
                .maximum(*Processor::THREADS.end() as u32)
                .default_value(default)
                .mutable_ready()
                .build()
        }),
        field!(precision).declare(|default| {
            glib::ParamSpecEnum::builder_with_default("precision", default)
                .nick("Precision")
                .blurb("Format of the feature maps on a processor; the image and the losses are always 32-bit")
                .mutable_ready()
                .build()
        }),
        field!(post_messages).declare(|default| {
            glib::ParamSpecBoolean::builder("post-messages")
                .nick("Post messages")
                .blurb("Post an element message named neuralstyle, with the fields of stats, for every frame")
                .default_value(default)
                .mutable_playing()
                .build()
        }),
    ]
});

fn style() -> Property {
    let names: Vec<&str> = style::built_in_names().collect();
    let blurb = format!(
        "Style image: path of a PNG, JPEG, WebP, BMP or TIFF picture, or the name of a built-in style ({})",
        names.join(", ")
    );
    let text = field!(prepared.style.name).declare_text(|default| {
        glib::ParamSpecString::builder("style")
            .nick("Style")
            .blurb(&blurb)
            .default_value(default)
            .mutable_playing()
            .build()
    });
    let set = move |properties: &mut Properties, value: &glib::Value| {
        (text.set)(properties, value);
        properties.prepared.style.times_set = properties.prepared.style.times_set.wrapping_add(1);
    };
    Property { set: Box::new(set), ..text }
}

fn weight(field: Field<f64>, name: &str, nick: &str, blurb: &str) -> Property {
    field.declare(|default| {
        glib::ParamSpecDouble::builder(name)
            .nick(nick)
            .blurb(blurb)
            .minimum(*Settings::WEIGHTS.start())
            .maximum(*Settings::WEIGHTS.end())
            .default_value(default)
            .mutable_playing()
            .controllable()
            .build()
    })
}

fn iterations(field: Field<u32>, name: &str, nick: &str, blurb: &str) -> Property {
    field.declare(|default| {
        glib::ParamSpecUInt::builder(name)
            .nick(nick)
            .blurb(blurb)
            .minimum(*Settings::ITERATIONS.start())
            .maximum(*Settings::ITERATIONS.end())
            .default_value(default)
            .mutable_playing()
            .controllable()
            .build()
    })
}

fn layers(field: Field<String>, name: &str, nick: &str, blurb: &str) -> Property {
    field.declare_text(|default| {
        glib::ParamSpecString::builder(name).nick(nick).blurb(blurb).default_value(default).mutable_playing().build()
    })
}

/// The property `stats`, which is read only.
pub fn stats_spec() -> glib::ParamSpec {
    glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
        .nick("Statistics")
        .blurb(
            "Statistics of the last frame: network, which one is in use, or weights; frame, its number from 0; scene, \
             the number of its scene; working-size, the long side at which it was optimized; iterations at that size, \
             beside live frames those that ended since the last one; the losses content, style, total-variation, grain \
             and temporal before the last of them; loss, their weighted sum; milliseconds, how long it took; \
             style-updates, how often the Gram matrices of the style were computed for the working size since the \
             start. No fields before the first frame",
        )
        .read_only()
        .build()
}

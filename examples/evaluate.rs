// SPDX-License-Identifier: MPL-2.0

//! Measures the stylizer: the time of an iteration (`bench`), a clip stylized frame by frame (`clip`), or the motion
//! between the frames of a clip (`flow`).
//!
//! Each prints one line of JSON. How good the frames are is for others to judge: they are written as PNG files. So are
//! the flows, in the format of the Middlebury benchmark (Baker et al. 2011).

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand, ValueEnum};
use gst::prelude::*;
use gst_video::prelude::*;
use gstneuralstyle::{
    Processor,
    element::{self, NeuralStyle},
    image::{Frame, Image, PackedFormat},
    motion::{Motion, MotionEstimator},
    network::Vgg,
    objective::{self, Device, LossWeights, StepLength},
    processor::Precision,
    stylizer::Settings,
};
use image::RgbImage;
use serde_json::json;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// How long to wait for a decoded frame before looking for what went wrong.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(100);

#[derive(Parser)]
#[command(about = "Measures the stylizer and prints what it found as one line of JSON")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Time one iteration: all losses, their gradient, its smoothing and a step of Adam.
    Bench {
        /// Size of the image.
        #[arg(long, value_parser = parse_size, default_value = "256x256")]
        size: (usize, usize),
        /// Network: vgg16 or light.
        #[arg(long, value_enum, default_value_t = Network::Vgg16)]
        network: Network,
        /// Device: cpu, gpu, gpu:<number>, or a part of a graphics card's name.
        #[arg(long, default_value_t)]
        device: Device,
        /// Numbers that the features are computed in on the processor: auto, f32 or bf16.
        #[arg(long, value_parser = parse_precision, default_value = "auto")]
        precision: Precision,
        /// Threads to compute with on the processor; 0 is one for each of its cores.
        #[arg(long, default_value_t = 0)]
        threads: usize,
    },
    /// Stylize a clip.
    Clip {
        /// A video file, or a folder of PNG frames.
        clip: PathBuf,
        /// The style: a picture, or the name of a built-in style.
        #[arg(long)]
        style: String,
        /// Folder for the stylized frames, frame_0000.png and so on.
        #[arg(long)]
        out: PathBuf,
        /// Set a property of the element.
        #[arg(long = "set", value_name = "PROPERTY=VALUE")]
        properties: Vec<String>,
    },
    /// Find where the pixels of each frame were in the one before.
    Flow {
        /// A video file, or a folder of PNG frames.
        clip: PathBuf,
        /// Folder for the flows and how far to trust them: flow_0001.flo, trust_0001.png and so on.
        #[arg(long)]
        out: PathBuf,
        /// Threads to compute with; 0 is one for each processor.
        #[arg(long, default_value_t = 0)]
        threads: usize,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Network {
    Vgg16,
    Light,
}

fn main() -> Result<()> {
    let summary = match Arguments::parse().command {
        Command::Bench { size, network, device, precision, threads } => {
            bench(size, network, &device, precision, threads)?
        }
        Command::Clip { clip, style, out, properties } => stylize_clip(&clip, style, &out, &properties)?,
        Command::Flow { clip, out, threads } => estimate_flow(&clip, &out, threads)?,
    };
    println!("{summary}");
    Ok(())
}

fn bench(
    (width, height): (usize, usize),
    network: Network,
    device: &Device,
    precision: Precision,
    threads: usize,
) -> Result<serde_json::Value> {
    const WARM_UP: usize = 3;
    const MEASURED: usize = 20;
    let settings = Settings::default();
    let weights = LossWeights::new(settings.content_weight, settings.style_weight)
        .with_total_variation(settings.tv_weight)
        .with_grain(settings.tv_weight)
        .with_temporal(settings.temporal_weight);
    let length = StepLength::new(settings.learning_rate as f32, 0.0);
    let processor = Processor::with_precision(threads, precision)?;
    let vgg = match network {
        Network::Vgg16 => Vgg::built_in()?,
        Network::Light => Vgg::light()?,
    };
    let mut objective = objective::open(vgg, settings.layers, device, &processor)?;
    let grams = objective.grams(&noise(width, height, 1)?)?;
    objective.set_style(&grams)?;
    objective.set_content(&noise(width, height, 2)?)?;

    let (kernel, threads) = (objective.kernel(), objective.threads());
    let mut optimization = objective.optimize(noise(width, height, 3)?.into())?;
    let mut times = Vec::with_capacity(WARM_UP + MEASURED);
    for _ in 0..WARM_UP + MEASURED {
        let started = Instant::now();
        optimization.step(length, &weights)?;
        optimization.losses()?;
        times.push(started.elapsed());
    }
    Ok(json!({
        "size": format!("{width}x{height}"),
        "ms_per_iteration": percentile(&mut times[WARM_UP..], 0.5),
        "device": device.describe()?,
        "precision": (*device == Device::Cpu).then(|| processor.precision().name()),
        "kernel": kernel,
        "threads": threads,
        "peak_rss_mb": peak_rss_mb(),
    }))
}

fn stylize_clip(clip: &Path, style: String, out: &Path, assignments: &[String]) -> Result<serde_json::Value> {
    gst::init()?;
    gstneuralstyle::plugin_register_static()?;
    let element = gst::ElementFactory::make("neuralstyle").property("style", style).build()?;
    element::set_properties(&element, assignments)?;
    let element = element.downcast::<NeuralStyle>().map_err(|_| "another plugin provides neuralstyle")?;
    let mut stylizer = element.stylizer()?;
    std::fs::create_dir_all(out)?;

    let (mut times, mut iterations) = (Vec::new(), 0);
    let mut stylize = |mut picture: RgbImage| -> Result<()> {
        let mut frame = frame(&mut picture)?;
        let started = Instant::now();
        let report = stylizer.stylize(&mut frame)?;
        times.push(started.elapsed());
        iterations += u64::from(report.iterations);
        Ok(picture.save(out.join(format!("frame_{:04}.png", times.len() - 1)))?)
    };
    read_clip(clip, &mut stylize)?;
    if times.is_empty() {
        return Err(format!("{} has no frames", clip.display()).into());
    }
    let total: Duration = times.iter().sum();
    Ok(json!({
        "frames": times.len(),
        "ms_per_frame": percentile(&mut times, 0.5),
        "ms_per_frame_p95": percentile(&mut times, 0.95),
        "fps": rounded(times.len() as f64 / total.as_secs_f64()),
        "iterations_total": iterations,
        "peak_rss_mb": peak_rss_mb(),
    }))
}

fn estimate_flow(clip: &Path, out: &Path, threads: usize) -> Result<serde_json::Value> {
    gst::init()?;
    std::fs::create_dir_all(out)?;
    let processor = Processor::detect(threads)?;
    let mut estimator = MotionEstimator::new(processor.clone());
    let (mut times, mut novelty, mut last) = (Vec::new(), Vec::new(), None::<Image>);
    read_clip(clip, &mut |mut picture| {
        let frame = frame(&mut picture)?.image();
        if let Some(last) = last.take() {
            if last.size() != frame.size() {
                return Err("the frames differ in size".into());
            }
            let started = Instant::now();
            let motion = estimator.between(&last, &frame);
            times.push(started.elapsed());
            novelty.push(rounded(f64::from(motion.novelty)));
            write_motion(motion, out, times.len())?;
        }
        last = Some(frame);
        Ok(())
    })?;
    if times.is_empty() {
        return Err(format!("{} has no two frames", clip.display()).into());
    }
    Ok(json!({
        "flows": times.len(),
        "novelty": novelty,
        "ms_per_flow": percentile(&mut times, 0.5),
        "ms_per_flow_p95": percentile(&mut times, 0.95),
        "kernel": processor.name(),
        "threads": processor.threads(),
    }))
}

fn write_motion(motion: &Motion, folder: &Path, number: usize) -> Result<()> {
    let (width, height) = (motion.flow.width as u32, motion.flow.height as u32);
    let mut bytes = b"PIEH".to_vec();
    bytes.extend([width, height].iter().flat_map(|side| side.to_le_bytes()));
    for (x, y) in motion.flow.x.iter().zip(&motion.flow.y) {
        bytes.extend([x, y].iter().flat_map(|component| component.to_le_bytes()));
    }
    std::fs::write(folder.join(format!("flow_{number:04}.flo")), bytes)?;
    let trust: Vec<u8> = motion.trust.iter().map(|trust| (255.0 * trust).round() as u8).collect();
    let path = folder.join(format!("trust_{number:04}.png"));
    Ok(image::save_buffer(path, &trust, width, height, image::ColorType::L8)?)
}

/// A picture as the stylizer takes it.
fn frame(picture: &mut RgbImage) -> Result<Frame<'_>> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Ok(Frame::new(picture, (width, height), 3 * width, PackedFormat::RGB)?)
}

/// Hands on the frames of a folder of PNG files or of a video file.
fn read_clip(clip: &Path, take: &mut dyn FnMut(RgbImage) -> Result<()>) -> Result<()> {
    if clip.is_dir() { read_folder(clip, take) } else { read_video(clip, take) }
}

/// Hands on the PNG files of a folder, sorted by name.
fn read_folder(folder: &Path, take: &mut dyn FnMut(RgbImage) -> Result<()>) -> Result<()> {
    let entries = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")));
    paths.sort();
    for path in paths {
        take(image::open(&path).map_err(|error| format!("{}: {error}", path.display()))?.into_rgb8())?;
    }
    Ok(())
}

/// Hands on the frames of a video file.
fn read_video(file: &Path, take: &mut dyn FnMut(RgbImage) -> Result<()>) -> Result<()> {
    let pipeline = gst::Pipeline::new();
    let uri = gst::glib::filename_to_uri(std::path::absolute(file)?, None)?;
    let source = gst::ElementFactory::make("uridecodebin").property("uri", uri.as_str()).build()?;
    let convert = gst::ElementFactory::make("videoconvert").build()?;
    let caps = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::Rgb).build();
    let sink = gst_app::AppSink::builder().caps(&caps).sync(false).max_buffers(4).build();
    pipeline.add_many([&source, &convert, sink.upcast_ref()])?;
    convert.link(&sink)?;
    let video = convert.static_pad("sink").ok_or("videoconvert has no sink pad")?;
    source.connect_pad_added(move |_, pad| {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let is_video = caps.structure(0).is_some_and(|structure| structure.name().starts_with("video/"));
        if is_video && !video.is_linked() {
            // If this fails the pipeline does, with a better message.
            let _ = pad.link(&video);
        }
    });
    let converter = convert.downgrade();
    source.connect_no_more_pads(move |source| {
        let video = converter.upgrade().and_then(|convert| convert.static_pad("sink"));
        if video.is_some_and(|pad| !pad.is_linked()) {
            gst::element_error!(source, gst::StreamError::WrongType, ("there is no video in it"));
        }
    });
    // What goes wrong is on the bus.
    let _ = pipeline.set_state(gst::State::Playing);
    let bus = pipeline.bus().ok_or("the pipeline has no bus")?;
    let mut read = || -> Result<()> {
        loop {
            let sample = sink.try_pull_sample(TICK);
            let error = bus.pop_filtered(&[gst::MessageType::Error]);
            if let Some(gst::MessageView::Error(error)) = error.as_ref().map(|message| message.view()) {
                return Err(format!("{}: {}", file.display(), error.error()).into());
            }
            let Some(sample) = sample else {
                if sink.is_eos() {
                    return Ok(());
                }
                continue;
            };
            let info = gst_video::VideoInfo::from_caps(sample.caps().ok_or("a frame without caps")?)?;
            let buffer = sample.buffer().ok_or("a sample without a frame")?;
            let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info)?;
            let row = 3 * frame.width() as usize;
            let rows = frame.plane_data(0)?.chunks(frame.plane_stride()[0] as usize);
            let pixels = rows.take(frame.height() as usize).flat_map(|packed| &packed[..row]).copied().collect();
            take(RgbImage::from_raw(frame.width(), frame.height(), pixels).ok_or("a frame without all of its rows")?)?;
        }
    };
    let result = read();
    pipeline.set_state(gst::State::Null)?;
    result
}

/// An image without any structure: what it holds does not change the time an iteration takes.
fn noise(width: usize, height: usize, seed: u32) -> Result<Image> {
    let mut state = seed;
    let mut level = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as f32
    };
    Ok(Image::from_planes(width, height, (0..3 * width * height).map(|_| level()).collect())?)
}

/// The time that this share of the times does not exceed, in milliseconds.
fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let last = times.len() - 1;
    rounded(times[(last as f64 * share).round() as usize].as_secs_f64() * 1e3)
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The most memory this process ever had, in megabytes; `None` where the system does not tell.
fn peak_rss_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes / 1024)
}

fn parse_precision(name: &str) -> Result<Precision, String> {
    let mut all = [Precision::Auto, Precision::F32, Precision::Bf16].into_iter();
    all.find(|precision| precision.name() == name).ok_or_else(|| "a precision is auto, f32 or bf16".to_owned())
}

fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let parse = || {
        let (width, height) = text.split_once('x')?;
        Some((width.parse().ok()?, height.parse().ok()?))
    };
    parse().ok_or_else(|| "a size looks like 256x256".to_owned())
}

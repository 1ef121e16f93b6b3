// SPDX-License-Identifier: MPL-2.0

//! Prints a page about a graphics card: which it is, whether it computes what the processor does, and how fast. It needs
//! no GStreamer, so that it can be taken to the machine that has the card.

use std::{
    error::Error,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use gstneuralstyle::{
    Processor,
    gpu::{Adapter, AdapterChoice},
    image::{Frame, Image, PackedFormat},
    network::Vgg,
    objective::{self, Device, LossWeights, Losses, Objective, StepLength},
    processor::Precision,
    style,
    stylizer::{Settings, Stylizer},
};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// All losses count.
const WEIGHTS: LossWeights = LossWeights::new(1.0, 10.0).with_total_variation(2.0).with_grain(2.0).with_temporal(30.0);

#[derive(Parser)]
#[command(about = "Prints a page about a graphics card: whether it paints as the processor does, and how fast")]
struct Arguments {
    /// The card: gpu, gpu:<number>, or a part of its name.
    #[arg(long, default_value = "gpu")]
    device: AdapterChoice,
    /// Only small pictures, to see that everything works.
    #[arg(long)]
    quick: bool,
}

/// How much is measured.
struct Plan {
    /// Of images whose gradient is compared with the processor's.
    compared: [(usize, usize); 2],
    /// Of images that iterations are timed at.
    timed: &'static [(usize, usize)],
    /// For the iterations at each size.
    seconds: f64,
    /// Steps taken one after the other are timed in so many batches.
    batches: usize,
    /// Of the frames.
    clip: (usize, usize),
    working_sizes: &'static [u32],
    iterations: &'static [u32],
    /// Frames that are painted before others are timed, and those.
    frames: [usize; 2],
    /// For the first frame of a clip.
    first_iterations: u32,
}

impl Plan {
    fn new(quick: bool) -> Self {
        let all = Self {
            compared: [(256, 256), (203, 141)],
            timed: &[(256, 256), (512, 288), (1280, 720), (1920, 1080)],
            seconds: 1.0,
            batches: 5,
            clip: (1280, 720),
            working_sizes: &[0, 320, 256],
            iterations: &[3, 1],
            frames: [2, 8],
            first_iterations: Settings::default().first_iterations,
        };
        match quick {
            false => all,
            true => Self {
                compared: [(16, 16), (19, 17)],
                timed: &[(16, 16)],
                seconds: 0.0,
                batches: 1,
                clip: (32, 24),
                working_sizes: &[16],
                iterations: &[1],
                frames: [1, 1],
                first_iterations: 1,
            },
        }
    }
}

fn main() -> ExitCode {
    match report(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn report(Arguments { device, quick }: Arguments) -> Result<()> {
    let started = Instant::now();
    let plan = Plan::new(quick);
    let networks = [("vgg16", Vgg::built_in()?), ("light", Vgg::light()?)];
    let adapter = Adapter::find(&device)?;
    let card = Device::Gpu(device);
    let processor = Processor::detect(0)?;
    let kernel = objective::open(networks[0].1.clone(), Settings::default().layers, &card, &processor)?.kernel();
    println!("neuralstyle {} on a graphics card", env!("CARGO_PKG_VERSION"));
    println!("adapter    {}", adapter.name());
    println!("driver     {}", adapter.driver());
    println!("kernels    {kernel}");
    println!("processor  {}, {} threads", processor.name(), processor.threads());
    println!("system     {} {}", std::env::consts::OS, std::env::consts::ARCH);

    println!("\nOff from the processor in float32: gradient, its cosine, content loss, style loss");
    for (name, weights) in &networks {
        for size in plan.compared {
            let Comparison { gradient, cosine, content, style } = compare(weights, &card, size)?;
            println!("{name:6} {:>9}  {gradient:8.1e}  {cosine:.6}  {content:8.1e}  {style:8.1e}", text(size));
        }
    }

    println!(
        "\nAn iteration in ms: one after the other, with the losses read in each; seconds until the first was done"
    );
    for (name, weights) in &networks {
        for size in plan.timed {
            let Iterations { in_a_row, with_losses, preparation } =
                time_iterations(weights, &card, &processor, *size, &plan)?;
            println!("{name:6} {:>9}  {in_a_row:8.2}  {with_losses:8.2}  {preparation:6.1}", text(*size));
        }
    }

    println!("\nA frame of {} in ms: device, network, working size, iterations;", text(plan.clip));
    println!("all of it, its iterations, the rest; the first frame");
    let clip = Clip::new(plan.clip);
    for (place, device) in [("card", &card), ("cpu", &Device::Cpu)] {
        for (name, weights) in &networks {
            // On the processor a whole frame takes too long.
            for working_size in plan.working_sizes.iter().filter(|size| place == "card" || **size > 0) {
                for iterations in plan.iterations {
                    let mut settings = Settings::default();
                    (settings.working_size, settings.iterations) = (*working_size, *iterations);
                    settings.first_iterations = plan.first_iterations;
                    let mut stylizer = Stylizer::new(weights.clone(), device.clone(), processor.clone(), settings)?;
                    let FrameTimes { all, iterated, rest, first } = time_frames(&mut stylizer, &clip, &plan)?;
                    print!("{place:4} {name:6} {working_size:>4} {iterations:>2}");
                    println!("  {all:8.2}  {iterated:8.2}  {rest:8.2}  {first:8.0}");
                }
            }
        }
    }

    match peak_memory() {
        Some(megabytes) => println!("\nThe process took up to {megabytes} MB of memory and {} s.", seconds(started)),
        None => println!("\nThe process took {} s.", seconds(started)),
    }
    Ok(())
}

/// How far off the card is, relative to the processor.
struct Comparison {
    gradient: f64,
    cosine: f64,
    content: f64,
    style: f64,
}

fn compare(weights: &Arc<Vgg>, card: &Device, size: (usize, usize)) -> Result<Comparison> {
    let processor = Processor::with_precision(0, Precision::F32)?;
    let evaluate = |device: &Device| -> Result<(Losses, Image)> {
        let settings = Settings::default();
        let mut objective = objective::open(weights.clone(), settings.layers.clone(), device, &processor)?;
        aim(objective.as_mut(), size)?;
        let mut gradient = Image::filled(size.0, size.1, 0.0);
        let losses = objective.evaluate(&textured(size, 3)?, &WEIGHTS, &mut gradient)?;
        Ok((losses, gradient))
    };
    let ((losses, gradient), (expected, expected_gradient)) = (evaluate(card)?, evaluate(&Device::Cpu)?);
    let (mut squares, mut product, mut norm, mut expected_norm) = (0.0, 0.0, 0.0, 0.0);
    for (value, expected) in gradient.data().iter().zip(expected_gradient.data()) {
        let (value, expected) = (f64::from(*value), f64::from(*expected));
        squares += (value - expected).powi(2);
        product += value * expected;
        norm += value * value;
        expected_norm += expected * expected;
    }
    let off = |value: f64, expected: f64| (value - expected).abs() / expected;
    Ok(Comparison {
        gradient: (squares / expected_norm).sqrt(),
        cosine: product / (norm * expected_norm).sqrt(),
        content: off(losses.content, expected.content),
        style: off(losses.style, expected.style),
    })
}

/// Gives an objective a style and a content of this size.
fn aim(objective: &mut dyn Objective, size: (usize, usize)) -> Result<()> {
    let grams = objective.grams(&textured(size, 1)?)?;
    objective.set_style(&grams)?;
    Ok(objective.set_content(&textured(size, 2)?)?)
}

struct Iterations {
    /// Milliseconds.
    in_a_row: f64,
    /// Milliseconds.
    with_losses: f64,
    /// Seconds until the first one was done: kernels are made, and ways to cut the work are tried.
    preparation: f64,
}

fn time_iterations(
    weights: &Arc<Vgg>,
    device: &Device,
    processor: &Processor,
    size: (usize, usize),
    plan: &Plan,
) -> Result<Iterations> {
    const MOST: f64 = 200.0;
    let settings = Settings::default();
    let length = StepLength::new(settings.learning_rate as f32, 0.0);
    let started = Instant::now();
    let mut objective = objective::open(weights.clone(), settings.layers, device, processor)?;
    aim(objective.as_mut(), size)?;
    let mut optimization = objective.optimize(textured(size, 3)?.into())?;
    // The time of so many steps, after which the losses are read.
    let mut steps = |count: usize| -> Result<f64> {
        let started = Instant::now();
        for _ in 0..count {
            optimization.step(length, &WEIGHTS)?;
        }
        optimization.losses()?;
        Ok(1e3 * started.elapsed().as_secs_f64() / count as f64)
    };
    steps(1)?;
    let preparation = started.elapsed().as_secs_f64();
    let once = steps(1)?;
    let count = (1e3 * plan.seconds / (2.0 * once)).clamp(plan.batches as f64, MOST) as usize;
    let batches = (0..plan.batches).map(|_| steps(count / plan.batches)).collect::<Result<Vec<_>>>()?;
    let singles = (0..count).map(|_| steps(1)).collect::<Result<Vec<_>>>()?;
    Ok(Iterations { in_a_row: median(batches), with_losses: median(singles), preparation })
}

/// Milliseconds.
struct FrameTimes {
    all: f64,
    /// Its iterations, with the feature maps of the content before them.
    iterated: f64,
    rest: f64,
    first: f64,
}

fn time_frames(stylizer: &mut Stylizer, clip: &Clip, plan: &Plan) -> Result<FrameTimes> {
    stylizer.set_style(style::load("nocturne")?)?;
    let mut paint = |number: usize| -> Result<[f64; 3]> {
        let mut pixels = clip.frame(number);
        let mut frame = Frame::new(&mut pixels, clip.size, 3 * clip.size.0, PackedFormat::RGB)?;
        let report = stylizer.stylize(&mut frame)?;
        let iterated = report.duration.saturating_sub(report.other_duration);
        Ok([report.duration, iterated, report.other_duration].map(milliseconds))
    };
    let [first, ..] = paint(0)?;
    let [before, timed] = plan.frames;
    for number in 1..=before {
        paint(number)?;
    }
    let times = (0..timed).map(|n| paint(before + 1 + n)).collect::<Result<Vec<_>>>()?;
    let [all, iterated, rest] = [0, 1, 2].map(|n| median(times.iter().map(|times| times[n]).collect()));
    Ok(FrameTimes { all, iterated, rest, first })
}

/// A texture that moves to the left and up, with a square of another one that moves to the right.
struct Clip {
    size: (usize, usize),
    textures: [Vec<u8>; 2],
}

impl Clip {
    /// Pixels that each texture moves in a frame.
    const SPEEDS: [(isize, isize); 2] = [(4, 1), (-3, 0)];

    fn new(size: (usize, usize)) -> Self {
        let texture = |seed| {
            let values = texture(size, seed);
            let pixels = size.0 * size.1;
            (0..pixels).flat_map(|pixel| [0, 1, 2].map(|plane| values[plane * pixels + pixel] as u8)).collect()
        };
        Self { size, textures: [texture(5), texture(6)] }
    }

    /// The packed pixels of a frame.
    fn frame(&self, number: usize) -> Vec<u8> {
        let (width, height) = self.size;
        let moved = |texture: usize, x: usize, y: usize| {
            let (dx, dy) = Self::SPEEDS[texture];
            let around = |at: usize, step: isize, side: usize| {
                (at as isize + number as isize * step).rem_euclid(side as isize) as usize
            };
            let at = 3 * (around(y, dy, height) * width + around(x, dx, width));
            [0, 1, 2].map(|plane| self.textures[texture][at + plane])
        };
        let pixel = |x: usize, y: usize| {
            let left = width / 4 + 3 * number;
            let is_inside = (left..left + width / 4).contains(&x) && (height / 3..2 * height / 3).contains(&y);
            moved(usize::from(is_inside), x, y)
        };
        (0..width * height).flat_map(|n| pixel(n % width, n / width)).collect()
    }
}

/// Waves of colour of many lengths, with noise on them, in planes.
fn texture((width, height): (usize, usize), seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761);
    let value = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (x, y) = ((n % width) as f32, (n / width) as f32);
        let waves: f32 = (1..6u32)
            .map(|k| {
                let (k, turn) = (k as f32, (seed * k) as f32);
                ((0.09 * x * turn.cos() + 0.13 * y * turn.sin()) * k + turn).sin() / k
            })
            .sum();
        (128.0 + 60.0 * waves + 0.15 * (state >> 24) as f32).clamp(0.0, 255.0)
    };
    (0..3 * width * height).map(value).collect()
}

fn textured(size: (usize, usize), seed: u32) -> Result<Image> {
    Ok(Image::from_planes(size.0, size.1, texture(size, seed))?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn milliseconds(duration: Duration) -> f64 {
    1e3 * duration.as_secs_f64()
}

fn seconds(started: Instant) -> u64 {
    started.elapsed().as_secs()
}

fn text((width, height): (usize, usize)) -> String {
    format!("{width}x{height}")
}

/// The most memory this process ever had, in megabytes; `None` where the system does not tell.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes / 1024)
}

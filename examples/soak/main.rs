// SPDX-License-Identifier: MPL-2.0

//! Runs the element for a long time and prints the result as one line of JSON: behind a live source (`live`), or while
//! everything changes at random (`chaos`). It fails if frames stop coming, come in disorder, or memory grows.

mod chaos;
mod live;

use std::{error::Error, fs, time::Duration};

use clap::{Parser, Subcommand};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// How long no frame may come out before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);
/// By how much memory may grow once it has settled, in megabytes: a preparation comes and goes.
const MOST_GROWTH_MB: u64 = 128;

#[derive(Parser)]
#[command(about = "Runs the element for a long time and prints the result as one line of JSON")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Paint a live source, and measure which frames are late and which are lost.
    Live(live::Arguments),
    /// Change styles, properties, caps, states and the position at random.
    Chaos(chaos::Arguments),
}

fn main() -> Result<()> {
    let command = Arguments::parse().command;
    gst::init()?;
    gstneuralstyle::plugin_register_static()?;
    let summary = match command {
        Command::Live(arguments) => live::run(&arguments)?,
        Command::Chaos(arguments) => chaos::run(&arguments)?,
    };
    println!("{summary}");
    Ok(())
}

/// Fails if memory grew by too much, in megabytes. Where the system does not tell there is nothing to check.
fn check_growth(settled: Option<u64>, last: Option<u64>) -> Result<()> {
    match settled.zip(last) {
        Some((settled, last)) if last > settled + MOST_GROWTH_MB => {
            Err(format!("memory grew from {settled} to {last} MB").into())
        }
        _ => Ok(()),
    }
}

/// The resident memory of this process, in megabytes; `None` where the system does not tell.
fn rss_mb() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes / 1024)
}

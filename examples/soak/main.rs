// SPDX-License-Identifier: MPL-2.0

//! Runs the element for long and prints what came of it as one line of JSON: behind a live source (`live`), or while
//! everything changes that can (`chaos`). It fails if anything happens that must not.

mod chaos;
mod live;

use std::{error::Error, fs, time::Duration};

use clap::{Parser, Subcommand};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// How long nothing may come out while it plays before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "Runs the element for long and prints what came of it as one line of JSON")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Paint a live source, and see what is late and what is lost.
    Live(live::Arguments),
    /// Change styles, properties, caps, states and the position at random, and see what breaks.
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

/// The memory that this process has now, in megabytes; `None` where the system does not tell.
fn rss_mb() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes / 1024)
}

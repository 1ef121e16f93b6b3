// SPDX-License-Identifier: MPL-2.0

//! Runs the element for a long time and prints the result as one line of JSON: behind a live source (`live`), or while
//! everything changes at random (`chaos`). It fails if frames stop coming, come in disorder, or memory grows.

mod chaos;
mod live;
mod memory;

use std::{error::Error, time::Duration};

use clap::{Parser, Subcommand};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// How long no frame may come out before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

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

// SPDX-License-Identifier: MPL-2.0

//! The program that runs the element for long, for a short time. `cargo run --release --example soak` runs longer.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

/// What the program says when all went well.
fn soak(arguments: &[&str]) -> Value {
    // Cargo tells the places of a package's binaries, but not of its examples.
    let profile = env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
    let program = profile.join("examples/soak");
    assert!(program.is_file(), "{} is not there: cargo build --example soak", program.display());
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_live_source_is_painted() {
    let clip = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bunny.mp4");
    for source in [&[][..], &["--clip", clip]] {
        let size = ["--seconds", "3", "--width", "320", "--height", "180", "--set", "working-size=-1"];
        let summary = soak(&[&["live"], source, &size].concat());
        // How many there are depends on the machine, which may be busy.
        assert!(summary["frames_out"].as_u64().unwrap() > 0, "{summary}");
        assert!(summary["share_painted"].as_f64().unwrap() > 0.0, "{summary}");
    }
}

#[test]
fn whatever_changes_the_stream_goes_on() {
    let summary = soak(&["chaos", "--seconds", "6"]);
    for half in summary.as_array().unwrap() {
        for count in ["frames", "styles", "properties"] {
            assert!(half[count].as_u64().unwrap() > 0, "{half}");
        }
    }
}

// SPDX-License-Identifier: MPL-2.0

//! A short run of `examples/soak`, which fails if frames stop coming or memory grows. Run it longer by hand.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long a run may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the program, which must succeed, and returns its summary.
fn soak(arguments: &[&str]) -> Value {
    // Cargo gives tests the paths of binaries, but not of examples.
    let profile = env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
    let program = profile.join("examples/soak");
    assert!(program.is_file(), "{} is not there: cargo build --example soak", program.display());
    let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{arguments:?} hangs");
        }
        thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_live_source_is_painted() {
    let clip = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bunny.mp4");
    for source in [&[][..], &["--clip", clip]] {
        let size = ["--seconds", "6", "--width", "320", "--height", "180", "--styles", "200"];
        let summary = soak(&[&["live"], source, &size].concat());
        // The number depends on the machine, which may be busy.
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

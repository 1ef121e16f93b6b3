// SPDX-License-Identifier: MPL-2.0

//! The page of `examples/card_report`, from Mesa's software Vulkan and small pictures.

use std::{
    env,
    path::Path,
    process::{Command, Output},
};

fn card_report(arguments: &[&str]) -> Output {
    // Cargo gives tests the paths of binaries, but not of examples.
    let profile = env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
    let program = profile.join("examples/card_report");
    assert!(program.is_file(), "{} is not there: cargo build --example card_report", program.display());
    Command::new(program).args(arguments).output().unwrap()
}

#[test]
fn the_page_is_complete() {
    let output = card_report(&["--device", "llvmpipe", "--quick"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = String::from_utf8(output.stdout).unwrap();
    println!("{page}");
    let [card, comparisons, iterations, frames, end] = &page.split("\n\n").collect::<Vec<_>>()[..] else {
        panic!("the page has other parts: {page}")
    };
    assert!(card.contains("llvmpipe") && card.contains("Vulkan") && card.contains("kernels    GPU, f"), "{card}");
    let rows = |part: &str, headings: usize, names: usize| -> Vec<Vec<f64>> {
        let numbers = |row: &str| row.split_whitespace().skip(names).map(|word| word.parse().unwrap()).collect();
        part.lines().skip(headings).map(numbers).collect()
    };
    let comparisons = rows(comparisons, 1, 2);
    assert_eq!(comparisons.len(), 4);
    for numbers in comparisons {
        let [gradient, cosine, content, style] = numbers[..] else { panic!("{numbers:?}") };
        assert!(gradient < 1e-3 && cosine > 0.999 && content < 1e-3 && style < 1e-3, "{numbers:?}");
    }
    let iterations = rows(iterations, 1, 2);
    assert_eq!(iterations.len(), 2);
    assert!(iterations.iter().all(|numbers| numbers.len() == 3 && numbers[..2].iter().all(|ms| *ms > 0.0)));
    let frames = rows(frames, 2, 2);
    assert_eq!(frames.len(), 4, "both networks, on the card and on the processor");
    for numbers in frames {
        let [working_size, iterations, all, iterated, rest, first] = numbers[..] else { panic!("{numbers:?}") };
        assert_eq!((working_size, iterations), (16.0, 1.0), "{numbers:?}");
        assert!(first > 0.0, "{numbers:?}");
        assert!(iterated > 0.0 && rest > 0.0 && (iterated + rest - all).abs() < 0.02, "{numbers:?}");
    }
    assert!(end.starts_with("The process took"), "{end}");
}

#[test]
fn an_unknown_card_is_an_error_that_lists_the_others() {
    let output = card_report(&["--device", "no such card"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(error.contains("no such card") && error.contains("llvmpipe"), "{error}");
}

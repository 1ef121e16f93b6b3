// SPDX-License-Identifier: MPL-2.0

//! The order of the modules: each may use those below it, none above.

use std::{fs, path::Path};

/// The modules from the ground up. `crate::{Error, Result}` are those of `error`.
const ORDER: [&str; 10] =
    ["error", "image", "processor", "gpu", "network", "objective", "motion", "stylizer", "style", "element"];

#[test]
fn imports_go_one_way() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut uses = 0;
    for (height, module) in ORDER.iter().enumerate() {
        for file in files_of(&source, module) {
            for used in uses_of(&fs::read_to_string(&file).unwrap()) {
                let below = ORDER.iter().position(|module| *module == used);
                let below = below.unwrap_or_else(|| panic!("{}: crate::{used} has no place in ORDER", file.display()));
                assert!(below <= height, "{}: {module} uses {used}, which is above it", file.display());
                uses += usize::from(below < height);
            }
        }
    }
    assert!(uses > 50, "only {uses} uses were found");
}

#[test]
fn every_module_has_its_place() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(source).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(module == "lib" || ORDER.contains(&module), "{module} has no place in ORDER");
    }
}

#[test]
fn uses_are_found() {
    let text = "use crate::{\n    Error, Result,\n    image::{Frame, Image},\n    motion::flow::{self, Flow}, style,\n};\n\
                use crate::processor::Kind;\n//! see [`crate::stylizer::Stylizer`]\nlet size = crate::network::join(&[]);";
    assert_eq!(uses_of(text), ["image", "motion", "style", "processor", "network"]);
}

/// `src/module.rs`, or all files in `src/module`.
fn files_of(source: &Path, module: &str) -> Vec<std::path::PathBuf> {
    let file = source.join(module).with_extension("rs");
    if file.exists() {
        return vec![file];
    }
    let (mut files, mut folders) = (Vec::new(), vec![source.join(module)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
                false => {}
            }
        }
    }
    assert!(!files.is_empty(), "{module} has no files");
    files
}

/// The modules of the crate that a file names after `crate::`, apart from comments.
fn uses_of(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            // The first name of each item of the list, at the outer level.
            Some(list) => {
                let (mut depth, mut item) = (0, String::new());
                for letter in list.chars() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => modules.push(std::mem::take(&mut item)),
                        letter if depth == 0 => item.push(letter),
                        _ => {}
                    }
                }
                modules.push(item);
            }
            None => modules.push(rest.to_owned()),
        }
    }
    let name = |item: &String| -> String {
        item.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
    };
    // Everything else at the root of the crate is a re-export, which could hide where it comes from.
    modules.iter().map(name).filter(|name| !["", "Error", "Result"].contains(&name.as_str())).collect()
}

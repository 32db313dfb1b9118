//! The rules of ARCHITECTURE.md that a program can check: import order, file headers, file names, file sizes.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic: that is the report")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests; a longer file should be divided.
const LINES_MAX: usize = 500;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(found.len() > 30, "the sources were found");
    found
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path.strip_prefix(&root).unwrap().to_owned(), text)
        })
        .collect()
}

/// The modules in the order of `lib.rs`, which is the order of the journey.
fn order() -> BTreeMap<String, usize> {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    lib.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .enumerate()
        .map(|(place, name)| (name.to_owned(), place))
        .collect()
}

fn module_of(path: &Path) -> String {
    path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn is_test_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains("tests"))
        || path.components().any(|part| part.as_os_str() == "tests")
}

/// The part of a file before its tests, without comments.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_module_imports_only_what_stands_before_it() {
    let order = order();
    for (path, text) in all_sources() {
        let module = module_of(&path);
        // Tests may look further down the journey, for example at what of an event reaches the WAL's bytes.
        let Some(place) = order.get(&module).filter(|_| !is_test_file(&path)) else { continue };
        for (name, other) in &order {
            let imports = code(&text).contains(&format!("crate::{name}::"))
                || code(&text).contains(&format!("crate::{name};"));
            assert!(
                !imports || other <= place,
                "{} imports {name}, which stands after {module}",
                path.display()
            );
        }
    }
}

#[test]
fn only_table_imports_iceberg() {
    for (path, text) in all_sources() {
        let imports = code(&text).contains("iceberg::");
        assert!(!imports || module_of(&path) == "table", "{} imports iceberg", path.display());
    }
}

#[test]
fn only_memory_holds_unsafe_code() {
    for (path, text) in all_sources() {
        let holds = code(&text).contains("unsafe {") || code(&text).contains("unsafe fn");
        assert_eq!(holds, path == Path::new("memory.rs"), "{}", path.display());
    }
}

#[test]
fn the_gate_does_no_input_or_output() {
    for (path, text) in all_sources() {
        if module_of(&path) != "privacy" || is_test_file(&path) {
            continue;
        }
        for forbidden in ["std::fs", "tokio", "std::net", "object_store", "tracing", "println!", "async "] {
            assert!(!code(&text).contains(forbidden), "{} uses {forbidden}", path.display());
        }
    }
}

#[test]
fn only_the_gate_makes_cleared_events() {
    for (path, text) in all_sources() {
        let makes = code(&text).contains("Cleared {") || code(&text).contains("Cleared::default()");
        assert!(!makes || module_of(&path) == "privacy", "{} makes a Cleared", path.display());
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in all_sources() {
        assert!(is_test_file(&path) || text.starts_with("//! "), "{} has no header", path.display());
        let needs_owner = !is_test_file(&path) && path != Path::new("lib.rs");
        let header: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        assert!(!needs_owner || header.contains("Owns"), "{} does not say what it owns", path.display());
    }
}

#[test]
fn no_file_is_named_mod_or_for_nothing() {
    for (path, _) in all_sources() {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            !["mod", "util", "utils", "common", "helper", "helpers", "manager", "misc"].contains(&name),
            "{name}"
        );
    }
}

#[test]
fn files_stay_short() {
    for (path, text) in all_sources() {
        if is_test_file(&path) {
            continue;
        }
        let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
        let lines = text[..end].lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines without its tests", path.display());
    }
}

#[test]
fn comments_leave_nothing_for_later() {
    // Assembled, so that this file does not find itself.
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    for (path, text) in all_sources() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{} holds a {word}", path.display());
        }
    }
}

//! A folder's registry files, as texts in a fixed order.
//!
//! Owns: which files are read, and the caps on them. Does not own: what they mean (`parse`).

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::problem::{Place, RegistryError};

/// Weaver's description of the registry as a whole; it declares nothing.
const MANIFEST: &str = "manifest.yaml";

/// The semantic conventions of all of OpenTelemetry are below 300 files; more than this is a wrong folder.
const FILES_MAX: usize = 2_000;

/// A hand-written file is far below this; a larger one is not a registry file.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Keeps a link that leads back to its own folder from being followed for ever.
const FOLDER_DEPTH_MAX: usize = 8;

/// Reads every registry file under `folder`, named relative to it and sorted by name.
pub(super) fn read(folder: &Path) -> Result<Vec<(String, String)>, RegistryError> {
    let mut problems = Vec::new();
    let folder_name = folder.display().to_string();
    let mut paths = Vec::new();
    find(folder, 0, &mut paths, &mut Place::new(&folder_name, "", &mut problems));
    paths.sort();
    if paths.is_empty() && problems.is_empty() {
        Place::new(&folder_name, "", &mut problems).report(
            "holds no .yaml or .yml file with definitions",
            "set `schemas` to the folder of the registry, or write a first file there",
        );
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
        if let Some(text) = text_of(&path, &mut Place::new(&name, "", &mut problems)) {
            files.push((name, text));
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(RegistryError::new(problems)) }
}

fn find(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>, place: &mut Place<'_>) {
    if depth > FOLDER_DEPTH_MAX {
        place.report(
            format!("has folders nested deeper than {FOLDER_DEPTH_MAX}, at {}", folder.display()),
            "keep registry files at most that deep, and remove links that lead back",
        );
        return;
    }
    let entries = match fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) => {
            place.report(
                format!("the folder {} cannot be read: {error}", folder.display()),
                "set `schemas` to a folder that exists and that this user may read",
            );
            return;
        }
    };
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            find(&path, depth + 1, paths, place);
        } else if is_definition_file(&path) {
            if paths.len() == FILES_MAX {
                place.report(
                    format!("holds more than {FILES_MAX} files"),
                    "set `schemas` to the registry only",
                );
                return;
            }
            paths.push(path);
        }
    }
}

fn is_definition_file(path: &Path) -> bool {
    let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    is_yaml && path.file_name().is_some_and(|name| name != MANIFEST)
}

fn text_of(path: &Path, place: &mut Place<'_>) -> Option<String> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Err(error) => {
            place.report(
                format!("cannot be read as UTF-8 text: {error}"),
                "repair the file or its permissions",
            );
            None
        }
        Ok(_) if text.len() as u64 > FILE_BYTES_MAX => {
            place.report(format!("is larger than {FILE_BYTES_MAX} bytes"), "divide it");
            None
        }
        Ok(_) => Some(text),
    }
}

//! `esker catalogue`: the data map of the registry and the configuration, as Markdown for people or as JSON.
//!
//! Owns: what is mapped, and where it is written. Does not own: the map (`privacy::DataMap`), the Markdown (`markdown`).
//! The same policy gives the same document, so that a difference in version control is a difference in policy.

mod markdown;

use std::path::Path;

use anyhow::Context;

use super::{AppError, Format, policies, print};
use crate::config::Config;

/// Writes the catalogue to `out`, or prints it. `Format::Text` is Markdown.
///
/// # Errors
/// Where the registry is wrong, or `out` cannot be written.
pub fn command(config: &Config, format: Format, out: Option<&Path>) -> Result<(), AppError> {
    let (_, map) = policies::current(config)?;
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&map).map_err(anyhow::Error::from)?),
        Format::Text => markdown::document(&map),
    };
    match out {
        None => print(&text)?,
        Some(file) => std::fs::write(file, text).with_context(|| file.display().to_string())?,
    }
    Ok(())
}

//! How commands print: the values of `--format`.
//!
//! Owns: their names. Does not own: what either looks like.

use clap::ValueEnum;

use crate::app::Format;

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl From<OutputFormat> for Format {
    fn from(format: OutputFormat) -> Self {
        match format {
            OutputFormat::Text => Self::Text,
            OutputFormat::Json => Self::Json,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum DocumentFormat {
    /// A document for people.
    #[default]
    Markdown,
    /// For programs.
    Json,
}

impl From<DocumentFormat> for Format {
    fn from(format: DocumentFormat) -> Self {
        match format {
            DocumentFormat::Markdown => Self::Text,
            DocumentFormat::Json => Self::Json,
        }
    }
}

//! `esker learn`: the drift report as a proposed registry file, or as a patch to the registry, for review.
//!
//! Owns: which report is read, and where the file goes. Does not own: the proposal's content (`learn::proposal`), where a patch adds it
//! (`learn::patch`). Never a value: the report has none.

mod patch;
mod proposal;
mod suggest;

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, anyhow};

use super::drift::{self, DRIFT_FILE};
use super::{AppError, block_on, print, status};
use crate::config::Config;
use crate::drift::DriftReport;
use crate::registry::Registry;
use proposal::{LABEL, Proposal};

/// How a proposal is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As a file for the registry's folder; what declared events lack is told in a comment.
    File,
    /// As a unified diff against the registry's folder.
    Patch,
}

/// Writes a proposal to `out`, or prints it. The report is the one in `from`, else that of the running process, else the
/// one that the last process left.
///
/// # Errors
/// Where the registry is wrong, there is no report, or `out` exists already.
pub fn command(config: &Config, form: Form, from: Option<&Path>, out: Option<&Path>) -> Result<(), AppError> {
    let registry = Registry::load(&config.schemas)?;
    let report = match from {
        Some(file) => drift::load(file)?.ok_or_else(|| anyhow!("{}: no such file", file.display()))?,
        None => known(config)?,
    };
    let check = |text: &str| Registry::load_with(&config.schemas, LABEL, text);
    let proposal = Proposal::of(&report, &registry).settle(check)?;
    let text = match form {
        Form::File => proposal.text(),
        Form::Patch => patch_text(&config.schemas, proposal)?,
    };
    match out {
        None => print(&text)?,
        Some(file) => create(file, &text)?,
    }
    Ok(())
}

const PATCH_HEADER: &str = "\
Proposed by `esker learn --patch` for review, from the names and types of what arrived undeclared; no value was looked at.
Delete what shall not be declared, describe the rest, and decide each level and type: a type cannot change once its column
exists. Apply it in the registry's folder, with one of

  patch -p1 -d SCHEMAS < FILE
  git apply --directory=SCHEMAS FILE

then run `esker check`.
";

/// The proposal as a patch. What precedes its first file is read by people, and skipped by `patch` and `git apply`.
fn patch_text(folder: &Path, mut proposal: Proposal) -> Result<String, AppError> {
    let files = Registry::files(folder)?;
    let text = proposal.text();
    let changed = patch::add(&files, &mut proposal.additions, &text);
    let mut text = PATCH_HEADER.replace("SCHEMAS", &folder.display().to_string());
    text.push_str(&proposal.preamble());
    text.push('\n');
    let name = patch::new_name(&files);
    let new = proposal.text();
    let new = proposal.declares_something().then_some((name.as_str(), new.as_str()));
    text.push_str(&patch::patch(&files, &changed, new));
    Ok(text)
}

fn known(config: &Config) -> Result<DriftReport, AppError> {
    let live: Option<DriftReport> = block_on(async { Ok(status::ask(&config.data_dir, "/drift").await?) })?;
    let report = match live {
        Some(report) => Some(report.valid()),
        None => drift::load(&config.data_dir.join(DRIFT_FILE))?,
    };
    report.ok_or_else(|| {
        let folder = config.data_dir.display();
        anyhow!("no drift report: nothing runs from {folder} and nothing was left there; run `esker serve` first, or name a report with --from")
            .into()
    })
}

/// Makes the file; never replaces one, which may hold a person's review.
fn create(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::File::create_new(file).and_then(|mut created| created.write_all(text.as_bytes())).with_context(
        || format!("{}: name a file that does not exist yet, in a folder that does", file.display()),
    )
}

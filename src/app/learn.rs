//! `esker learn`: the drift report as a proposed registry file, for review.
//!
//! Owns: which report is read, and where the file goes. Does not own: the proposal's content (`learn::proposal`). Never a
//! value: the report has none.

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

/// Writes a proposal to `out`, or prints it. The report is the one in `from`, else that of the running process, else the
/// one that the last process left.
///
/// # Errors
/// Where the registry is wrong, there is no report, or `out` exists already.
pub fn command(config: &Config, from: Option<&Path>, out: Option<&Path>) -> Result<(), AppError> {
    let registry = Registry::load(&config.schemas)?;
    let report = match from {
        Some(file) => drift::load(file)?.ok_or_else(|| anyhow!("{}: no such file", file.display()))?,
        None => known(config)?,
    };
    let text =
        Proposal::of(&report, &registry).settle(|text| Registry::load_with(&config.schemas, LABEL, text))?;
    match out {
        None => print(&text)?,
        Some(file) => create(file, &text)?,
    }
    Ok(())
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

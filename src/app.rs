//! Wiring: each command's parts, their start-up and shutdown order, and what is printed.
//!
//! Owns: commands, exit codes, the admin port. Does not own: any rule.

use std::io::Write;

use crate::config::ConfigError;
use crate::privacy::PolicyError;
use crate::receive::access::AccessError;
use crate::registry::RegistryError;

mod access;
pub mod admin;
pub mod catalogue;
pub mod check;
pub mod client;
pub mod drift;
pub mod explain;
pub mod keys;
pub mod learn;
pub mod maintain;
pub mod quarantine;
mod mixed;
mod policies;
pub mod serve;
pub mod sql;
pub mod startup;
pub mod status;
pub mod tokens;
mod withdrawals;
mod tables;

/// How a command prints its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of certificates or tokens is wrong.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The registry is wrong.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The policy contradicts the registry.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// What was asked for cannot be done this way; the text says how.
    #[error("{0}")]
    Usage(String),
    /// What cannot be undone was asked for without `--yes`.
    #[error("nothing was changed; add --yes to do it")]
    Unconfirmed,
    /// Anything else; the text says what to do.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl AppError {
    /// 2 where the user's files or the usage are wrong, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Access(_)
            | Self::Registry(_)
            | Self::Policy(_)
            | Self::Usage(_)
            | Self::Unconfirmed => 2,
            Self::Failed(_) => 1,
        }
    }
}

/// Writes a command's final error to stderr.
pub fn report(error: &AppError) {
    // Nobody is left to tell where stderr is closed.
    drop(writeln!(std::io::stderr(), "esker: {error}"));
}

/// Writes a command's answer to stdout.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `esker status | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Runs a command's future on a small runtime.
fn block_on<T>(future: impl Future<Output = Result<T, AppError>>) -> Result<T, AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| AppError::Failed(error.into()))?;
    runtime.block_on(future)
}

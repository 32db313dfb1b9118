//! `esker keys`: its arguments.
//!
//! Owns: their grammar and help. Does not own: what is done (`app::keys`).

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::format::OutputFormat;
use crate::app::keys::{KeysCommand, Target};

#[derive(Debug, Subcommand)]
pub(super) enum KeysArguments {
    /// Make a keyring in a new file of mode 0600. Never overwrites a file.
    #[command(after_help = "Example:\n  esker keys new\n  esker keys new --out /etc/esker/keys\n\n\
        `esker serve` does this by itself for a new data directory whose privacy.key is a file.")]
    New {
        /// The file; without it, the one that privacy.key names.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make a new active key. The old ones are kept to recognise what was stored under them.
    #[command(
        after_help = "Example:\n  esker keys rotate\n\nRestart `esker serve` afterwards: it reads the keys at its start."
    )]
    Rotate,
    /// Show the keys: id, state, time of creation, number of destroyed tenants. Never their material.
    #[command(after_help = "Example:\n  esker keys list\n  esker keys list --format json")]
    List {
        /// How to print the answer.
        #[arg(long, value_enum, default_value_t)]
        format: OutputFormat,
    },
    /// Destroy a tenant's keys, or an old key, for ever. Without --yes: says what would happen, and exits with 2.
    #[command(
        after_help = "Example:\n  esker keys destroy --tenant 42\n  esker keys destroy --tenant 42 --yes\n  \
        esker keys destroy --key a2lvxkk5 --yes\n\n\
        Destroy the copies and backups of the key file as well, and restart `esker serve`."
    )]
    Destroy(DestroyArguments),
}

#[derive(Debug, Args)]
pub(super) struct DestroyArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Do it.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct TargetArguments {
    /// The tenant whose keys are destroyed under every master key: its value as events state it, after normalisation.
    #[arg(long, value_name = "VALUE")]
    tenant: Option<String>,
    /// The old key that is destroyed with all its tenants' keys.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
}

impl From<KeysArguments> for KeysCommand {
    fn from(arguments: KeysArguments) -> Self {
        match arguments {
            KeysArguments::New { out } => Self::New { out },
            KeysArguments::Rotate => Self::Rotate,
            KeysArguments::List { format } => Self::List(format.into()),
            KeysArguments::Destroy(DestroyArguments { target, yes }) => Self::Destroy {
                // Clap lets exactly one of them through.
                target: match (target.tenant, target.key) {
                    (Some(tenant), _) => Target::Tenant(tenant),
                    (None, key) => Target::Key(key.unwrap_or_default()),
                },
                confirmed: yes,
            },
        }
    }
}

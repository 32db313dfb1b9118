//! `esker tokens`: its arguments.
//!
//! Owns: their grammar and help. Does not own: what is done (`app::tokens`).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::format::OutputFormat;
use crate::app::AppError;
use crate::app::tokens::{self, NewToken};
use crate::receive::access::tokens::TokenUse;

#[derive(Debug, Subcommand)]
pub(super) enum TokensArguments {
    /// Make a token. It is shown this once; the file keeps only its hash.
    #[command(after_help = "Example:\n  esker tokens new --name collector --add-to /etc/esker/tokens\n  \
        esker tokens new --name prometheus --use read --expires-in 365d\n\n\
        A running `esker serve` reads a changed receive.tokens_file by itself. To revoke a token, remove its line.")]
    New(NewTokenArguments),
}

#[derive(Debug, Args)]
pub(super) struct NewTokenArguments {
    /// What it is called in the file, in metrics and in logs.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// What it opens: `send` the OTLP ports, `read` the admin port.
    #[arg(long = "use", value_enum, default_value_t, value_name = "USE")]
    allows: TokenUseArgument,
    /// How long it is good, for example 90d. Without it, for ever.
    #[arg(long, value_name = "DURATION", value_parser = humantime_serde::re::humantime::parse_duration)]
    expires_in: Option<Duration>,
    /// The file that gets its line; it is made with mode 0600 if it is not there. Only the token is printed then.
    #[arg(long, value_name = "FILE")]
    add_to: Option<PathBuf>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum TokenUseArgument {
    /// The OTLP ports.
    #[default]
    Send,
    /// The admin port.
    Read,
}

impl From<NewTokenArguments> for NewToken {
    fn from(arguments: NewTokenArguments) -> Self {
        let allows = match arguments.allows {
            TokenUseArgument::Send => TokenUse::Send,
            TokenUseArgument::Read => TokenUse::Read,
        };
        let NewTokenArguments { name, expires_in, add_to, .. } = arguments;
        Self { name, allows, expires_in, add_to }
    }
}

pub(super) fn run(command: TokensArguments) -> Result<(), AppError> {
    let TokensArguments::New(arguments) = command;
    let format = arguments.format.into();
    tokens::new(&arguments.into(), format)
}

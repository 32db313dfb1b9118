//! `esker quarantine`: its arguments.
//!
//! Owns: their grammar and help. Does not own: what is done (`app::quarantine`).

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::format::OutputFormat;
use crate::app::AppError;
use crate::app::client::Credentials;
use crate::app::quarantine::repair::{self, Repairs, Setting};
use crate::app::quarantine::replay::{self, ReplayOptions};
use crate::app::quarantine::{self, Filter};
use crate::config::Config;
use crate::privacy::quarantined::QuarantineReason;

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// List quarantined events: why, from whom, names and types of their attributes. Needs no private key.
    #[command(
        after_help = "Example:\n  esker quarantine list --reason type_mismatch --since 2026-11-22T00:00:00Z"
    )]
    List {
        #[command(flatten)]
        filter: FilterArguments,
        /// Most events to show; all are counted.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// How to print the answer.
        #[arg(long, value_enum, default_value_t)]
        format: OutputFormat,
    },
    /// Open sealed payloads, repair them as told, and send each to the running server, through the same gate.
    #[command(
        after_help = "Example:\n  esker quarantine replay --private-key open.key --reason type_mismatch --set order.id=5\n\n\
        Renames come first, then removals, then new values, then the name. Prints counts, never values."
    )]
    Replay(Box<ReplayArguments>),
    /// Make a key pair: the private half goes to a new file, the public half (for quarantine.recipient) is printed.
    #[command(after_help = "Example:\n  esker quarantine keygen --out open.key\n\n\
        Do this on another machine than the server's, and keep the file there: who has it can read every payload.")]
    Keygen {
        /// The file to make for the private key. An existing one is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct FilterArguments {
    /// Only for this reason.
    #[arg(long, value_name = "REASON", value_parser = quarantine::parse_reason)]
    reason: Option<QuarantineReason>,
    /// Only from this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only of this name: the declared one, or the one that an undeclared event claims.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Only what was received at or after this time, RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = quarantine::parse_time)]
    since: Option<i64>,
    /// Only the event of this id. May be given several times.
    #[arg(long = "event-id", value_name = "ID")]
    event_ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArguments {
    /// The file of the private key that `esker quarantine keygen` made.
    #[arg(long, value_name = "FILE")]
    private_key: PathBuf,
    #[command(flatten)]
    filter: FilterArguments,
    /// Replay everything, where no other option says which events.
    #[arg(long, conflicts_with_all = ["reason", "service", "event", "since", "event_ids"],
        required_unless_present_any = ["reason", "service", "event", "since", "event_ids"])]
    all: bool,
    /// Most events; where more are meant, none is sent.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    limit: usize,
    /// Give an attribute this value, a YAML scalar: 5 is a number, '\"5\"' is text. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = repair::parse_setting)]
    settings: Vec<Setting>,
    /// Rename an attribute. May be given several times.
    #[arg(long = "rename", value_name = "OLD=NEW", value_parser = repair::parse_rename)]
    renames: Vec<(String, String)>,
    /// Remove an attribute. May be given several times.
    #[arg(long = "drop", value_name = "KEY")]
    drops: Vec<String>,
    /// Give the events this name.
    #[arg(long, value_name = "NAME")]
    event_name: Option<String>,
    /// The server's OTLP/HTTP address. Without it: receive.http of the configuration.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Open and repair, but send nothing.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: print each event's name, keys and types as they would be sent. Never values.
    #[arg(long, requires = "dry_run")]
    show: bool,
    /// With --endpoint: the server is the one of this data directory, so wait for its commit and count what came back.
    #[arg(long, requires = "endpoint")]
    wait: bool,
    /// A file that holds a token for the server. The one of the configured data directory needs none.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// With --endpoint: the authority (PEM) of the server's certificate, instead of the system's.
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    ca: Option<PathBuf>,
    /// The certificate (PEM) to show a server that wants one.
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

impl From<FilterArguments> for Filter {
    fn from(arguments: FilterArguments) -> Self {
        let FilterArguments { reason, service, event, since, event_ids } = arguments;
        Self { event_ids, reason, service, event, since }
    }
}

impl From<ReplayArguments> for ReplayOptions {
    fn from(arguments: ReplayArguments) -> Self {
        let ReplayArguments { renames, drops, settings, event_name, .. } = arguments;
        Self {
            private_key: arguments.private_key,
            filter: arguments.filter.into(),
            limit: arguments.limit,
            repairs: Repairs { renames, drops, settings, event_name },
            endpoint: arguments.endpoint,
            dry_run: arguments.dry_run,
            show: arguments.show,
            wait: arguments.wait,
            credentials: Credentials {
                token_file: arguments.token_file,
                ca: arguments.ca,
                certificate: arguments.client_cert,
                key: arguments.client_key,
            },
        }
    }
}

pub(super) fn run(config: &Config, command: QuarantineCommand) -> Result<(), AppError> {
    match command {
        QuarantineCommand::List { filter, limit, format } => {
            quarantine::list(config, &filter.into(), limit, format.into())
        }
        QuarantineCommand::Replay(arguments) => {
            let format = arguments.format.into();
            replay::command(config, &(*arguments).into(), format)
        }
        QuarantineCommand::Keygen { out } => quarantine::keygen(&out),
    }
}

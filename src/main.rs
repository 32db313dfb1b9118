//! The `esker` command: arguments in, exit code out.
//!
//! Owns: the command line's grammar and exit codes (0 done, 1 failed, 2 bad usage or configuration). Does not own: what a
//! command does (`esker::app`).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use esker::app::keys::{KeysCommand, Target};
use esker::app::quarantine::repair::{self, Repairs, Setting};
use esker::app::quarantine::replay::{self, ReplayOptions};
use esker::app::quarantine::{self, Filter};
use esker::app::{self, AppError, Format};
use esker::config::Config;
use esker::privacy::quarantined::QuarantineReason;

/// Warehouse-native loader for product events: OTLP in, a private and durable Apache Iceberg table out.
#[derive(Debug, Parser)]
#[command(
    name = "esker",
    version,
    after_help = "Example:\n  esker serve\n  esker --config esker.toml status --format json"
)]
struct Arguments {
    /// Configuration file (TOML). Without it: esker.toml if it is there, else the embedded default.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive events over OTLP and write them to the table until SIGTERM or Ctrl-C.
    #[command(
        after_help = "Example:\n  esker serve\n  ESKER_FLUSH__MAX_AGE=1s esker --config esker.toml serve\n\n\
        One JSON line with the bound addresses on stdout says that it is ready; everything else is logged on stderr."
    )]
    Serve,
    /// Check the configuration and the registry without touching the data directory or the table.
    #[command(
        after_help = "Example:\n  esker check\n  esker check --warehouse\n  esker --config esker.toml check --format json\n  \
        esker check --against samples/\n  esker check --against table --baseline policy.json"
    )]
    Check {
        /// Tell what this configuration would change: for OTLP/JSON samples (a file or a folder), or for a table (its name;
        /// `table` is the primary). Shows no value. Exit code 1 where `esker serve` would refuse to start.
        #[arg(long, value_name = "TARGET")]
        against: Option<String>,
        /// Try out the warehouses too, as each start does: create, read, list and delete one small object. Names what is wrong
        /// with credentials, permissions, the address and the store. Exit code 1 where a warehouse cannot be used.
        #[arg(long, conflicts_with = "against")]
        warehouse: bool,
        /// The policy to compare with, a data map in JSON. Without it: the one that the table's newest rows name, else that of
        /// the last start.
        #[arg(long, value_name = "FILE", requires = "against")]
        baseline: Option<PathBuf>,
        /// How to print the answer.
        #[arg(long, value_enum, default_value_t)]
        format: OutputFormat,
    },
    /// Say what would happen to each event and attribute of an OTLP/JSON file, and why. Stores nothing.
    #[command(after_help = "Example:\n  esker explain examples/request.json")]
    Explain {
        /// An ExportLogsServiceRequest in OTLP/JSON; `-` reads standard input.
        file: PathBuf,
        /// How to print the answer.
        #[arg(long, value_enum, default_value_t)]
        format: OutputFormat,
    },
    /// Show the table, its snapshots, files and rows, the WAL's backlog, and the counts per event.
    #[command(after_help = "Example:\n  esker status\n  esker status --format json")]
    Status {
        /// How to print the answer.
        #[arg(long, value_enum, default_value_t)]
        format: OutputFormat,
    },
    /// Propose a registry file for what arrived undeclared: names, types and suggested levels, never values. For review.
    #[command(
        after_help = "Example:\n  esker learn --out proposed.yaml\n  esker learn --from drift.json\n\n\
        It reads the report of the running process, else the one that the last process left in data_dir."
    )]
    Learn {
        /// Where to write the file; it must not exist yet. Without it, the proposal is printed.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// A saved drift report (the admin port's /drift) to read instead.
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
    /// Write the data map: every event and attribute, its level, and what becomes of it at each destination.
    #[command(after_help = "Example:\n  esker catalogue --out DATA.md\n  esker catalogue --format json")]
    Catalogue {
        /// How to write it.
        #[arg(long, value_enum, default_value_t)]
        format: DocumentFormat,
        /// Where to write it; a file that is there is replaced. Without it, the document is printed.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make, rotate, list or destroy the keys of the pseudonyms.
    #[command(
        subcommand,
        after_help = "Example:\n  esker keys list\n  esker keys rotate\n  esker keys destroy --tenant 42"
    )]
    Keys(KeysArguments),
    /// Look at events that broke their contract, and send repaired ones through the gate again.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
}

#[derive(Debug, Subcommand)]
enum KeysArguments {
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
struct DestroyArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Do it.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TargetArguments {
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

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
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
struct FilterArguments {
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
struct ReplayArguments {
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
        }
    }
}

fn quarantine_command(config: &Config, command: QuarantineCommand) -> Result<(), AppError> {
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

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum OutputFormat {
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
enum DocumentFormat {
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome =
        Config::load(arguments.config.as_deref()).map_err(AppError::from).and_then(|config| match arguments
            .command
        {
            Command::Serve => app::serve::command(config),
            Command::Check { against: Some(target), baseline, format, .. } => {
                app::check::against(&config, &target, baseline.as_deref(), format.into())
            }
            Command::Check { warehouse, format, .. } => {
                app::check::command(&config, warehouse, format.into())
            }
            Command::Explain { file, format } => app::explain::command(&config, &file, format.into()),
            Command::Status { format } => app::status::command(&config, format.into()),
            Command::Quarantine(command) => quarantine_command(&config, command),
            Command::Keys(arguments) => app::keys::command(&config, arguments.into()),
            Command::Learn { out, from } => app::learn::command(&config, from.as_deref(), out.as_deref()),
            Command::Catalogue { format, out } => {
                app::catalogue::command(&config, format.into(), out.as_deref())
            }
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            app::report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

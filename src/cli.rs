//! The command line: its grammar, its help, and which command it runs.
//!
//! Owns: arguments of all commands, exit codes (0 done, 1 failed, 2 bad usage or configuration). Does not own: what a command
//! does (`app`).

mod format;
mod keys;
mod quarantine;
mod sql;
mod tokens;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::{self, AppError};
use crate::config::Config;
use format::{DocumentFormat, OutputFormat};
use keys::KeysArguments;
use quarantine::QuarantineCommand;
use sql::SqlArguments;
use tokens::TokensArguments;

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
        after_help = "Example:\n  esker learn --out proposed.yaml\n  esker learn --from drift.json\n  esker learn --patch | patch -p1 -d schemas\n\n\
        It reads the report of the running process, else the one that the last process left in data_dir."
    )]
    Learn {
        /// Where to write the file; it must not exist yet. Without it, the proposal is printed.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// A saved drift report (the admin port's /drift) to read instead.
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Write a unified diff against the registry's folder instead of a file for it: what events that are declared lack is then
        /// added where they are declared.
        #[arg(long)]
        patch: bool,
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
    /// Care for the tables once: rows past their retention leave, old snapshots are expired, files that nothing needs are deleted.
    #[command(after_help = "Example:\n  esker maintain --dry-run\n  esker maintain --format json\n\n\
        `esker serve` does this by itself every hour (maintain.interval). See docs/retention.md.")]
    Maintain {
        /// Print what a run would do now, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// How to print the answer.
        #[arg(long, value_enum, default_value_t)]
        format: OutputFormat,
    },
    /// Print what a data team runs in its own engine: set-up, a view for each event, useful queries.
    #[command(after_help = "Example:\n  esker sql --engine duckdb > esker.sql\n  \
        esker sql --engine snowflake --section views --schema analytics\n  \
        esker sql --engine bigquery --section queries --tenant organisation.id --user amplitude.user_id \\\n    \
        --event features.flag.updated --then workflows.change_request.committed\n\n\
        Nothing is run, and no secret is printed: <...> stands where yours belongs. See docs/sql.md.")]
    Sql(SqlArguments),
    /// Make, rotate, list or destroy the keys of the pseudonyms.
    #[command(
        subcommand,
        after_help = "Example:\n  esker keys list\n  esker keys rotate\n  esker keys destroy --tenant 42"
    )]
    Keys(KeysArguments),
    /// Make bearer tokens, which requests from other machines need.
    #[command(subcommand)]
    Tokens(TokensArguments),
    /// Look at events that broke their contract, and send repaired ones through the gate again.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    let outcome =
        Config::load(config.as_deref()).map_err(AppError::from).and_then(|config| command.run(config));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            app::report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

impl Command {
    fn run(self, config: Config) -> Result<(), AppError> {
        match self {
            Self::Serve => app::serve::command(config),
            Self::Check { against: Some(target), baseline, format, .. } => {
                app::check::against(&config, &target, baseline.as_deref(), format.into())
            }
            Self::Check { warehouse, format, .. } => app::check::command(&config, warehouse, format.into()),
            Self::Explain { file, format } => app::explain::command(&config, &file, format.into()),
            Self::Status { format } => app::status::command(&config, format.into()),
            Self::Maintain { dry_run, format } => app::maintain::command(&config, dry_run, format.into()),
            Self::Quarantine(command) => quarantine::run(&config, command),
            Self::Sql(arguments) => sql::run(&config, arguments),
            Self::Keys(arguments) => app::keys::command(&config, arguments.into()),
            Self::Learn { out, from, patch } => {
                let form = if patch { app::learn::Form::Patch } else { app::learn::Form::File };
                app::learn::command(&config, form, from.as_deref(), out.as_deref())
            }
            Self::Tokens(command) => tokens::run(command),
            Self::Catalogue { format, out } => {
                app::catalogue::command(&config, format.into(), out.as_deref())
            }
        }
    }
}

//! The `esker` command.
//!
//! Owns: nothing but the order of the first two steps. Does not own: the command line (`esker::cli`), what a command does.

use std::process::ExitCode;

fn main() -> ExitCode {
    esker::memory::bound();
    esker::cli::run()
}

//! `esker tokens`: making bearer tokens.
//!
//! Owns: what is shown once, and adding a line to a file. Does not own: the formats (`receive::access::tokens`).

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::{AppError, Format, print};
use crate::clock::{Clock, SystemClock};
use crate::receive::access::tokens::{self, Token, TokenUse, Tokens};

/// A token to make.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its name in the file, in metrics and logs.
    pub name: String,
    /// What it opens.
    pub allows: TokenUse,
    /// How long it is good; for ever where nothing is said.
    pub expires_in: Option<Duration>,
    /// The file that gets its line.
    pub add_to: Option<PathBuf>,
}

#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    token: &'a str,
    line: &'a str,
}

/// Makes a token, and prints it this once. With a file, the line goes there; without one, it is printed too.
///
/// # Errors
/// Where the name is not plain or taken, or the file cannot be written.
pub fn new(options: &NewToken, format: Format) -> Result<(), AppError> {
    let (token, line) = make(options)?;
    let text = match (format, &options.add_to) {
        (Format::Json, _) => {
            let made = Made { name: &options.name, token: token.reveal(), line: &line };
            format!("{}\n", serde_json::to_string_pretty(&made).map_err(anyhow::Error::from)?)
        }
        // Alone, so that a script can take it.
        (Format::Text, Some(_)) => format!("{}\n", token.reveal()),
        (Format::Text, None) => format!(
            "The token, shown this once. Its bearer sends `authorization: Bearer TOKEN`:\n  {}\n\
             Its line for receive.tokens_file:\n  {line}\n",
            token.reveal()
        ),
    };
    Ok(print(&text)?)
}

fn make(options: &NewToken) -> Result<(Token, String), AppError> {
    if !tokens::is_name(&options.name) {
        return Err(AppError::Usage(
            "--name is at most 64 letters, digits, `.`, `_` and `-`, and not `local`".to_owned(),
        ));
    }
    let expires = options.expires_in.map(expiry).transpose()?;
    let token = Token::generate().map_err(anyhow::Error::from)?;
    let line = token.line(&options.name, options.allows, expires);
    if let Some(path) = &options.add_to {
        add(path, &line)?;
    }
    Ok((token, line))
}

fn expiry(within: Duration) -> Result<jiff::Timestamp, AppError> {
    let until = jiff::Timestamp::from_microsecond(SystemClock.now_micros())
        .ok()
        .and_then(|now| now.checked_add(within).ok())
        // Whole seconds read better.
        .and_then(|time| jiff::Timestamp::from_second(time.as_second()).ok());
    until.ok_or_else(|| AppError::Usage("--expires-in reaches beyond the year 9999".to_owned()))
}

/// Adds a line to a file of tokens, or makes the file with mode 0600. The result is whole before it is written.
fn add(path: &Path, line: &str) -> Result<(), AppError> {
    let failed = || format!("adding to {}", path.display());
    let open = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    let mut file = open.with_context(failed)?;
    // Two commands at once would both find that their name is free.
    file.lock().with_context(failed)?;
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(failed)?;
    let addition =
        if text.is_empty() || text.ends_with('\n') { format!("{line}\n") } else { format!("\n{line}\n") };
    text.push_str(&addition);
    Tokens::parse(&text)
        .map_err(|problem| AppError::Usage(format!("{}: {problem}; nothing was added", path.display())))?;
    file.write_all(addition.as_bytes()).and_then(|()| file.sync_all()).with_context(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn options(name: &str, path: &Path) -> NewToken {
        let add_to = Some(path.to_owned());
        NewToken { name: name.to_owned(), allows: TokenUse::Send, expires_in: None, add_to }
    }

    #[test]
    fn lines_are_added_to_a_private_file_and_a_name_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        make(&options("a", &path)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // An editor left no newline at the end.
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap().trim_end()).unwrap();
        let within = Some(Duration::from_secs(90 * 24 * 3600));
        make(&NewToken { expires_in: within, ..options("b", &path) }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(Tokens::parse(&text).unwrap().list().count(), 2);
        let error = make(&options("a", &path)).unwrap_err();
        assert!(error.to_string().contains("another line has this name"), "{error}");
        assert_eq!((std::fs::read_to_string(&path).unwrap(), error.exit_code()), (text, 2));
    }

    #[test]
    fn a_name_that_would_not_do_in_a_metric_is_refused() {
        for name in ["", "a b", "local", "ä", &"x".repeat(65)] {
            let error = make(&NewToken { add_to: None, ..options(name, Path::new("")) }).unwrap_err();
            assert!(error.to_string().contains("--name"), "{error}");
        }
    }
}

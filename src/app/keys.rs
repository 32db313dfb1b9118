//! `esker keys`: making, rotating, listing and destroying keys.
//!
//! Owns: what each command says, and that nothing is destroyed unconfirmed. Does not own: keys (`secret`).
//!
//! Only a ring in a file is changed. Where `privacy.key` names a variable or a program, the ring is somebody else's to
//! write, and the commands say how.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{AppError, Format, print, startup};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, SecretReference};
use crate::secret::{Keyring, MasterKey};
use crate::wal::{self, Position};

/// What a change means for a process that runs.
const RESTART: &str = "\
A running `esker serve` goes on with the keys that it read at its start: restart it now, and every other process that uses
this ring.";

/// What a destruction does not reach.
const COPIES: &str = "\
Copies and backups of the key file from before still hold the key: destroy them as well, or it is not gone.";

/// A subcommand of `esker keys`.
#[derive(Debug)]
pub enum KeysCommand {
    /// Makes a ring.
    New {
        /// Where; without it, where the configuration says.
        out: Option<PathBuf>,
    },
    /// Makes a new active key.
    Rotate,
    /// Shows the keys, without their material.
    List(Format),
    /// Destroys keys for ever.
    Destroy {
        /// Which.
        target: Target,
        /// Without it, nothing is done.
        confirmed: bool,
    },
}

/// What is to be destroyed.
#[derive(Debug)]
pub enum Target {
    /// The keys of the tenant with this canonical text, under every master key.
    Tenant(String),
    /// The old master key of this id.
    Key(String),
}

#[derive(Debug, Serialize)]
struct ListedKey {
    id: String,
    state: &'static str,
    created: String,
    destroyed_tenants: u64,
}

#[derive(Debug, Serialize)]
struct List {
    keys: Vec<ListedKey>,
}

/// Runs a subcommand.
///
/// # Errors
/// Where the ring cannot be read or written, the reference is not a file, or a destruction is not confirmed.
pub fn command(config: &Config, command: KeysCommand) -> Result<(), AppError> {
    let now_micros = SystemClock.now_micros();
    let answer = match command {
        KeysCommand::New { out: Some(path) } => create(&path, now_micros)?,
        KeysCommand::New { out: None } => {
            let path = file(config, "new")?;
            refuse_used(config, path)?;
            startup::create_parent(path)?;
            create(path, now_micros)?
        }
        KeysCommand::Rotate => rotate(file(config, "rotate")?, now_micros)?,
        KeysCommand::List(format) => list(config, format, now_micros)?,
        KeysCommand::Destroy { target, confirmed: true } => destroy(file(config, "destroy")?, &target)?,
        KeysCommand::Destroy { target, confirmed: false } => {
            print(&plan(file(config, "destroy")?, &target)?)?;
            return Err(AppError::Unconfirmed);
        }
    };
    print(&answer)?;
    Ok(())
}

/// The ring's file, or what to do where there is none.
fn file<'c>(config: &'c Config, command: &str) -> Result<&'c Path, AppError> {
    let place = match &config.privacy.key {
        SecretReference::File(path) => return Ok(path),
        SecretReference::Environment(name) => format!("the environment variable {name}"),
        SecretReference::Command { program, .. } => format!("the output of {program}"),
    };
    Err(AppError::Usage(match command {
        "new" => format!(
            "privacy.key is {place}, which is not Esker's to write: make a ring in a file with `esker keys new --out FILE`, \
             store the file's text there, and delete the file"
        ),
        _ => format!(
            "privacy.key is {place}, which is not Esker's to write: put its text into a file of mode 0600, run \
             `ESKER_PRIVACY__KEY=file:FILE esker keys {command}` on that, store the file's new text in place of the old, \
             and delete the file"
        ),
    }))
}

/// A directory that was used needs the ring that it was used with, not a new one.
fn refuse_used(config: &Config, path: &Path) -> Result<(), AppError> {
    let log = wal::inspect(&config.data_dir, Position(0)).map_err(anyhow::Error::from)?;
    if log.writer.is_some() && !path.exists() {
        return Err(AppError::Usage(format!(
            "{} was used with other keys: restore {} from a backup. If they are lost for good, `esker keys new --out {1}` \
             makes new ones, under which nothing that is stored can be recognised",
            config.data_dir.display(),
            path.display()
        )));
    }
    Ok(())
}

fn create(path: &Path, now_micros: i64) -> anyhow::Result<String> {
    let ring = Keyring::create(path, now_micros)?;
    Ok(format!(
        "{}: made, with the key {}.\nBack it up: without it, stored pseudonyms can never be matched again.\n",
        path.display(),
        ring.active().id()
    ))
}

fn rotate(path: &Path, now_micros: i64) -> anyhow::Result<String> {
    let (before, after) = Keyring::edit(path, |ring| {
        let before = ring.active().id().clone();
        Ok((before, ring.rotate(now_micros)?.id().clone()))
    })?;
    Ok(format!(
        "{}: {after} is the active key; {before} is kept, to recognise what was stored under it.\n\
         Values get other pseudonyms from now on: joins over the time of the rotation miss.\n{RESTART}\n",
        path.display()
    ))
}

fn list(config: &Config, format: Format, now_micros: i64) -> anyhow::Result<String> {
    let ring = startup::keyring(config, false, now_micros)?;
    let listed = |(place, key): (usize, &MasterKey)| ListedKey {
        id: key.id().to_string(),
        state: if place == 0 { "active" } else { "old" },
        created: key.created().to_string(),
        destroyed_tenants: key.destroyed_tenants(),
    };
    let list = List { keys: ring.keys().enumerate().map(listed).collect() };
    if format == Format::Json {
        return Ok(format!("{}\n", serde_json::to_string_pretty(&list)?));
    }
    let mut text = format!("{:8}  {:6}  {:20}  destroyed tenants\n", "key", "state", "created");
    for key in list.keys {
        // Writing to a String cannot fail.
        writeln!(text, "{:8}  {:6}  {:20}  {}", key.id, key.state, key.created, key.destroyed_tenants).ok();
    }
    Ok(text)
}

/// What a destruction would do.
fn plan(path: &Path, target: &Target) -> anyhow::Result<String> {
    let ring = Keyring::load(path)?;
    let shown = path.display();
    Ok(match target {
        Target::Tenant(tenant) if !ring.holds_tenant(tenant) => {
            format!("{shown}: this tenant's keys were destroyed before; there is nothing left to destroy.\n")
        }
        Target::Tenant(_) => format!(
            "{shown}: this would destroy the tenant's keys under all {} master keys, for ever. What is stored stays, but \
             nobody can tell any more which values its pseudonyms stand for, erasure by value included; and pseudonymous \
             values of events that this tenant still sends are not stored.\n{COPIES}\n",
            ring.keys().count()
        ),
        Target::Key(id) => format!(
            "{shown}: this would destroy the key {id} of {}, for ever. What is stored stays, but nobody can tell any more \
             which values the pseudonyms under it stand for, erasure by value included.\n{COPIES}\n",
            ring.destroyable(id)?.created()
        ),
    })
}

fn destroy(path: &Path, target: &Target) -> anyhow::Result<String> {
    let shown = path.display();
    Ok(match target {
        // Nothing is written where nothing is destroyed, so that a repeated command leaves the file as it is.
        Target::Tenant(tenant) if !Keyring::load(path)?.holds_tenant(tenant) => {
            format!("{shown}: this tenant's keys were destroyed before; nothing was changed.\n{COPIES}\n")
        }
        Target::Tenant(tenant) => {
            let keys = Keyring::edit(path, |ring| ring.destroy_tenant(tenant))?;
            format!(
                "{shown}: the tenant's keys under {keys} master keys are destroyed.\n{COPIES}\n{RESTART}\n"
            )
        }
        Target::Key(id) => {
            Keyring::edit(path, |ring| ring.destroy_key(id))?;
            format!("{shown}: the key {id} is destroyed.\n{COPIES}\n{RESTART}\n")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path, key: &str) -> Config {
        let data = directory.join("data");
        Config::from_toml(&format!("data_dir = '{}'\n[privacy]\nkey = '{key}'", data.display())).unwrap()
    }

    #[test]
    fn only_a_file_is_changed_and_the_others_are_told_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        for key in ["env:THE_RING", "command:vault read"] {
            let config = config(directory.path(), key);
            let destroy =
                || KeysCommand::Destroy { target: Target::Tenant("42".to_owned()), confirmed: true };
            for asked in [KeysCommand::New { out: None }, KeysCommand::Rotate, destroy()] {
                let error = command(&config, asked).unwrap_err();
                assert_eq!(error.exit_code(), 2);
                let message = error.to_string();
                assert!(message.contains("THE_RING") || message.contains("vault"), "{message}");
                assert!(message.contains("esker keys"), "{message}");
            }
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_destroyed_unconfirmed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        let config = config(directory.path(), &format!("file:{}", path.display()));
        command(&config, KeysCommand::New { out: None }).unwrap();
        command(&config, KeysCommand::Rotate).unwrap();
        let before = std::fs::read(&path).unwrap();
        let old = Keyring::load(&path).unwrap().keys().nth(1).unwrap().id().to_string();
        let destroy = |target, confirmed| command(&config, KeysCommand::Destroy { target, confirmed });
        for target in [Target::Tenant("42".to_owned()), Target::Key(old.clone())] {
            let plan = plan(&path, &target).unwrap();
            assert!(
                plan.contains("would destroy") && plan.contains("backups") && !plan.contains("42"),
                "{plan}"
            );
            assert_eq!(destroy(target, false).unwrap_err().exit_code(), 2);
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
        destroy(Target::Tenant("42".to_owned()), true).unwrap();
        destroy(Target::Tenant("42".to_owned()), true).unwrap();
        destroy(Target::Key(old.clone()), true).unwrap();
        assert_eq!(destroy(Target::Key(old), true).unwrap_err().exit_code(), 1);
        let ring = Keyring::load(&path).unwrap();
        assert_eq!((ring.keys().count(), ring.active().destroyed_tenants()), (1, 1));
    }
}

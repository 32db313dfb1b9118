//! What is wrong with the registry's files, in words that say what to do.
//!
//! Owns: [`Problem`] and the error that holds all of them. Does not own: the rules that find problems.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file it is in.
    pub file: String,
    /// The event, attribute or group it is about; empty where it is the whole file.
    pub item: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if !self.item.is_empty() {
            write!(f, "{}: ", self.item)?;
        }
        write!(f, "{}; {}", self.what, self.fix)
    }
}

/// The registry cannot be used. Holds every problem that was found, not only the first.
#[derive(Debug, thiserror::Error)]
#[error("{}", listed(.problems))]
pub struct RegistryError {
    problems: Vec<Problem>,
}

impl RegistryError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// Each problem, in the order of the files.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

fn listed(problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "the registry has a problem".to_owned(),
        count => format!("the registry has {count} problems"),
    };
    problems.iter().fold(count, |text, problem| format!("{text}\n  {problem}"))
}

/// Where a finding belongs; says it to the list.
pub(super) struct Place<'a> {
    file: &'a str,
    item: String,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Place<'a> {
    pub(super) fn new(file: &'a str, item: impl Into<String>, problems: &'a mut Vec<Problem>) -> Self {
        Self { file, item: item.into(), problems }
    }

    /// The same list, for a part of this file.
    pub(super) fn item(&mut self, item: impl Into<String>) -> Place<'_> {
        Place { file: self.file, item: item.into(), problems: self.problems }
    }

    pub(super) fn report(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            item: self.item.clone(),
            what: what.into(),
            fix: fix.into(),
        });
    }
}

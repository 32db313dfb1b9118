//! A proposal as a patch against the registry's files: an event is declared in one place, so what it lacks is added there.
//!
//! Owns: finding the place in a file's text, and the patch's text. Does not own: what is proposed (`proposal`), whether the registry takes it
//! (`crate::registry`, which is asked about each event).
//!
//! A file stays as people wrote it but for the lines that are added: it is read for places, and never written from what was
//! read. What the text looks like is a matter of indents and brackets, and there are ways to write YAML in which a line would land in the
//! wrong place. So each addition is tried: unless the registry then declares exactly that much more, it is not made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;
use similar::TextDiff;

use super::proposal::{LABEL, reference};
use crate::registry::Registry;

/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// The keys that events lack, by event.
pub(super) type Additions = BTreeMap<String, BTreeSet<String>>;

/// A file of the registry: its name below the registry's folder, and its text.
pub(super) type File = (String, String);

#[derive(Debug, Deserialize)]
struct Places {
    #[serde(default)]
    events: Option<Vec<Event>>,
}

#[derive(Debug, Deserialize)]
struct Event {
    name: Spanned<String>,
    #[serde(default)]
    attributes: Option<Vec<Spanned<IgnoredAny>>>,
}

/// Adds what declared events lack to the files that declare them. What could not be placed stays in `additions`. `proposal` is what is
/// proposed besides, which defines the new keys.
pub(super) fn add(files: &[File], additions: &mut Additions, proposal: &str) -> Vec<File> {
    let mut changed = files.to_vec();
    additions.retain(|event, keys| {
        let Some((place, text)) = changed
            .iter()
            .enumerate()
            .find_map(|(place, (_, text))| Some((place, with_refs(text, event, keys)?)))
        else {
            return true;
        };
        let mut tried = changed.clone();
        if let Some((_, slot)) = tried.get_mut(place) {
            *slot = text;
        }
        let is_right = is_as_expected(&changed, &tried, proposal, (event, keys));
        if is_right {
            changed = tried;
        }
        !is_right
    });
    changed
}

/// True where the changed files declare what the files of before do, and these keys of this event.
fn is_as_expected(
    before: &[File],
    after: &[File],
    proposal: &str,
    (event, keys): (&str, &BTreeSet<String>),
) -> bool {
    let load = |files: &[File]| {
        let mut files = files.to_vec();
        files.push((LABEL.to_owned(), proposal.to_owned()));
        Registry::from_files(&files).ok()
    };
    let (Some(before), Some(after)) = (load(before), load(after)) else { return false };
    let mut expected = described(&before);
    if let Some((_, uses)) = expected.get_mut(event) {
        uses.extend(keys.iter().map(|key| (key.clone(), "Optional".to_owned())));
    }
    expected == described(&after)
}

/// What a registry says of each event: all but its attributes, and of each attribute whether it is required.
fn described(registry: &Registry) -> BTreeMap<String, (String, BTreeMap<String, String>)> {
    let of = |event: &crate::registry::Event| {
        let uses = event.attributes.iter().filter_map(|used| {
            let key = registry.attributes().get(used.attribute)?.key.clone();
            Some((key, format!("{:?}", used.requirement)))
        });
        let own = format!(
            "{:?} {:?} {:?} {:?} {:?}",
            event.category, event.privacy, event.brief, event.purposes, event.withdrawal
        );
        (event.name.clone(), (own, uses.collect()))
    };
    registry.events().iter().map(of).collect()
}

/// A file's text with refs to these keys in an event; None where the file does not declare it, or its place cannot be told.
fn with_refs(text: &str, event: &str, keys: &BTreeSet<String>) -> Option<String> {
    let places: Places = serde_saphyr::from_str(text).ok()?;
    let event = places.events?.into_iter().find(|one| one.name.value == event)?;
    let refs: Vec<String> = keys.iter().map(|key| reference(key)).collect();
    let items = event.attributes.unwrap_or_default();
    let name = offset(text, &event.name)?;
    match items.last() {
        Some(last) => {
            let last = offset(text, last)?;
            let indent = text.get(line_start(text, last)..last)?;
            // The item begins behind its dash or at it, as the reader has it.
            let dashes = indent.trim_start().is_empty() || indent.trim() == "-";
            if dashes && text.get(line_start(text, last)..)?.trim_start().starts_with('-') {
                let column = indent.len() - indent.trim_start_matches(' ').len();
                let lines = refs.iter().map(|one| format!("{}- {one}", " ".repeat(column)));
                Some(insert_lines(text, block_end(text, last, column + 1), lines))
            } else {
                insert_in_flow(text, last, ']', &refs.join(", "))
            }
        }
        None => {
            let start = line_start(text, name);
            let before = text.get(start..name)?;
            if before.contains('{') {
                return insert_in_flow(text, name, '}', &format!("attributes: [{}]", refs.join(", ")));
            }
            let column = before.find("name")?;
            let head = std::iter::once(format!("{}attributes:", " ".repeat(column)));
            let lines = refs.iter().map(|one| format!("{}- {one}", " ".repeat(column + 2)));
            Some(insert_lines(text, block_end(text, name, column), head.chain(lines)))
        }
    }
}

/// Where a value begins in its text, in bytes.
fn offset<T>(text: &str, value: &Spanned<T>) -> Option<usize> {
    let (line, column) = (value.defined.line(), value.defined.column());
    let start = match usize::try_from(line).ok()?.checked_sub(1)? {
        0 => 0,
        number => text.match_indices('\n').nth(number - 1)?.0 + 1,
    };
    let behind = text.get(start..)?;
    let column = usize::try_from(column).ok()?.checked_sub(1)?;
    Some(start + behind.char_indices().nth(column).map_or(behind.len(), |(place, _)| place))
}

fn line_start(text: &str, place: usize) -> usize {
    text.get(..place).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}

/// The start of the line behind the block that `place` is in, whose later lines are indented by at least `column`. Blank lines at
/// its end, and comments that stand further left, are left to what follows.
fn block_end(text: &str, place: usize, column: usize) -> usize {
    let mut next = line_start(text, place);
    let mut end = next;
    for (number, line) in text.get(next..).unwrap_or_default().split_inclusive('\n').enumerate() {
        next += line.len();
        let shown = line.trim();
        let indent = line.len() - line.trim_start_matches(' ').len();
        // One that is indented like the block may be a line of a text in it.
        if shown.is_empty() || (shown.starts_with('#') && indent < column) {
            continue;
        }
        if number > 0 && indent < column {
            break;
        }
        end = next;
    }
    end
}

/// Puts lines in at the start of a line, with the file's own line ends.
fn insert_lines(text: &str, place: usize, lines: impl Iterator<Item = String>) -> String {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let (before, behind) = text.split_at_checked(place).unwrap_or((text, ""));
    let mut out = before.to_owned();
    if !out.is_empty() && !out.ends_with('\n') {
        out.push_str(end);
    }
    for line in lines {
        out.push_str(&line);
        out.push_str(end);
    }
    out + behind
}

/// Puts an item behind the last one of a list or a mapping in brackets; `place` is in it.
fn insert_in_flow(text: &str, place: usize, close: char, item: &str) -> Option<String> {
    let (mut depth, mut quote, mut comment) = (0_usize, None, false);
    let mut end = place;
    let mut has_comma = false;
    let mut previous = ' ';
    for (at, c) in text.get(place..)?.char_indices() {
        match (quote, c) {
            _ if comment => comment = c != '\n',
            (Some(open), _) if c == open && !(open == '"' && previous == '\\') => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if !previous.is_alphanumeric() => quote = Some(c),
            (None, '#') if previous.is_whitespace() => comment = true,
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') if depth > 0 => depth -= 1,
            (None, ']' | '}') if c == close => {
                let (before, behind) = text.split_at_checked(end)?;
                let between = if has_comma { " " } else { ", " };
                return Some(format!("{before}{between}{item}{behind}"));
            }
            (None, ']' | '}') => return None,
            (None, ',') if depth == 0 => has_comma = true,
            (None, _) if !c.is_whitespace() => has_comma = false,
            _ => {}
        }
        if !comment && !c.is_whitespace() {
            end = place + at + c.len_utf8();
        }
        previous = c;
    }
    None
}

/// The patch from the files as they are to the files as they would be, with a new file for what is not declared anywhere; its paths
/// are below the registry's folder.
pub(super) fn patch(before: &[File], after: &[File], new: Option<(&str, &str)>) -> String {
    let mut patch = String::new();
    for ((name, old), (_, text)) in before.iter().zip(after).filter(|((_, old), (_, text))| old != text) {
        push(&mut patch, (old, text), (&format!("a/{name}"), &format!("b/{name}")));
    }
    if let Some((name, text)) = new {
        push(&mut patch, ("", text), ("/dev/null", &format!("b/{name}")));
    }
    patch
}

fn push(patch: &mut String, (old, text): (&str, &str), (old_name, name): (&str, &str)) {
    let diff = TextDiff::from_lines(old, text);
    // Writing to a String cannot fail.
    write!(patch, "{}", diff.unified_diff().context_radius(CONTEXT_LINES).header(old_name, name)).ok();
}

/// A name for the new file that none of these has.
pub(super) fn new_name(files: &[File]) -> String {
    let is_free = |name: &String| files.iter().all(|(known, _)| known != name);
    let numbered = (2_u32..).map(|number| format!("learned-{number}.yaml"));
    std::iter::once("learned.yaml".to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! What the value of a consent attribute says, form by form.
//!
//! Owns: the reading rules of each form. Does not own: which key has which form (`options`), how several attributes add up
//! (`reading`).
//!
//! Each form fails closed: a value that it cannot read denies all that the attribute could have granted.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::node::Node;
use super::options::SourceForm;

/// Longest name that a value may give a purpose.
pub const NAME_BYTES_MAX: usize = 128;

/// Every purpose, also those that no event needs.
pub(super) const ALL: u64 = u64::MAX;

/// Names of purposes to their bits; keys in lower case.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<Box<[u8]>, u64, FixedState>);

impl Names {
    pub(super) fn insert(&mut self, name: &str, bit: u64) {
        self.0.insert(name.to_ascii_lowercase().into_bytes().into(), bit);
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.bit(name.as_bytes()) != 0
    }

    /// The purpose's bit; none for a purpose that no event needs.
    pub(super) fn bit(&self, name: &[u8]) -> u64 {
        let mut lower = [0; NAME_BYTES_MAX];
        let Some(lower) = lower.get_mut(..name.len()) else { return 0 };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        self.0.get(&*lower).copied().unwrap_or_default()
    }
}

/// What one attribute says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Statement {
    /// Purposes that it grants.
    pub(super) granted: u64,
    /// Purposes that it denies.
    pub(super) denied: u64,
    /// Purposes that it leaves out, where it lists what was granted.
    pub(super) left_out: u64,
    /// It says that nothing was decided yet.
    pub(super) undecided: bool,
}

impl Statement {
    fn denying(denied: u64) -> Self {
        Self { denied, ..Self::default() }
    }

    fn granting(granted: u64) -> Self {
        Self { granted, ..Self::default() }
    }

    /// The statement of a list of what was granted, which leaves out all that it does not name.
    fn of_list(self) -> Self {
        Self { left_out: !(self.granted | self.denied), ..self }
    }

    fn flag(flag: Option<bool>, purposes: u64) -> Self {
        if flag == Some(true) { Self::granting(purposes) } else { Self::denying(purposes) }
    }

    fn and(self, other: Self) -> Self {
        Self {
            granted: self.granted | other.granted,
            denied: self.denied | other.denied,
            left_out: self.left_out | other.left_out,
            undecided: self.undecided | other.undecided,
        }
    }
}

/// Reads a value; `purposes` are those that the attribute is about, where the value does not name them.
pub(super) fn read(form: SourceForm, purposes: u64, names: &Names, node: Option<&Node<'_>>) -> Statement {
    let Some(node) = node else { return Statement::denying(purposes) };
    if *node == Node::Null {
        return Statement::default();
    }
    match form {
        SourceForm::GrantedList => granted_list(node, names),
        SourceForm::DeniedList => denied_list(node, names),
        SourceForm::PurposeMap => purpose_map(node, names),
        SourceForm::PurposeBool => Statement::flag(flag(node), purposes),
        SourceForm::Status => status(node, purposes),
        SourceForm::Google => Statement::flag(node.text().and_then(granted_or_denied), purposes),
        SourceForm::Gpc => gpc(node, purposes),
        SourceForm::Rudderstack => rudderstack(node, names),
        SourceForm::Segment => segment(node, names),
        SourceForm::Snowplow => snowplow(node, names),
        SourceForm::Off => Statement::default(),
    }
}

/// Who lists what was granted, and lists nothing, was granted nothing.
fn granted_list(node: &Node<'_>, names: &Names) -> Statement {
    match list(node, names) {
        Some((_, 0)) | None => Statement::denying(ALL),
        Some((purposes, _)) => Statement::granting(purposes).of_list(),
    }
}

fn denied_list(node: &Node<'_>, names: &Names) -> Statement {
    Statement::denying(list(node, names).map_or(ALL, |(purposes, _)| purposes))
}

/// The purposes of a list, and how many names it has, also those that mean nothing here.
///
/// RudderStack's consent managers also send an object of identifier to title. One of true and false is a map, and no list: a
/// refusal in it must not be read as a name.
fn list(node: &Node<'_>, names: &Names) -> Option<(u64, usize)> {
    let mut all = (0, 0);
    let mut add = |name: &str| {
        if !name.is_empty() {
            all = (all.0 | names.bit(name.as_bytes()), all.1 + 1);
        }
    };
    match node {
        Node::List(elements) => {
            for element in elements.iter().filter(|element| **element != Node::Null) {
                add(element.text()?);
            }
        }
        Node::Text(text) => text.split(',').map(str::trim).for_each(add),
        Node::Pairs(pairs) => {
            for (name, title) in pairs.iter().filter(|(_, title)| *title != Node::Null) {
                if title.text().is_none() || flag(title).is_some() {
                    return None;
                }
                add(name.trim());
            }
        }
        _ => return None,
    }
    Some(all)
}

/// As Segment has it, a map grants what is true in it and nothing else: an empty one denies everything.
fn purpose_map(node: &Node<'_>, names: &Names) -> Statement {
    match node.pairs() {
        None | Some([]) => Statement::denying(ALL),
        Some(pairs) => pairs
            .iter()
            .filter(|(_, value)| *value != Node::Null)
            .fold(Statement::default(), |all, (name, value)| {
                all.and(Statement::flag(flag(value), names.bit(name.trim().as_bytes())))
            })
            .of_list(),
    }
}

fn flag(node: &Node<'_>) -> Option<bool> {
    match node {
        Node::Bool(flag) => Some(*flag),
        Node::Int(int @ (0 | 1)) => Some(*int == 1),
        Node::Text(text) if text.eq_ignore_ascii_case("true") || text == "1" => Some(true),
        Node::Text(text) if text.eq_ignore_ascii_case("false") || text == "0" => Some(false),
        Node::Text(text) => granted_or_denied(text),
        _ => None,
    }
}

fn granted_or_denied(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("granted") {
        return Some(true);
    }
    text.eq_ignore_ascii_case("denied").then_some(false)
}

fn status(node: &Node<'_>, purposes: u64) -> Statement {
    let text = node.text().unwrap_or_default();
    let is = |names: &[&str]| names.iter().any(|name| text.eq_ignore_ascii_case(name));
    match () {
        () if is(&["granted"]) => Statement::granting(purposes),
        () if is(&["pending", "unknown"]) => Statement { undecided: true, ..Statement::default() },
        // Denied, withdrawn, expired, and everything that is no status.
        () => Statement::denying(purposes),
    }
}

/// The absence of the signal is no preference, and so is its false.
fn gpc(node: &Node<'_>, purposes: u64) -> Statement {
    let on = match node {
        // A header is captured as a list of its values.
        Node::List(values) => match values.as_slice() {
            [Node::Null] => Some(false),
            [value] => flag(value),
            _ => None,
        },
        value => flag(value),
    };
    if on == Some(false) { Statement::default() } else { Statement::denying(purposes) }
}

/// The pairs that have a value.
fn present<'a>(node: &'a Node<'_>) -> impl Iterator<Item = (&'a str, &'a Node<'a>)> {
    let pairs = node.pairs().unwrap_or_default().iter();
    pairs.filter(|(_, value)| *value != Node::Null).map(|(key, value)| (&**key, value))
}

fn rudderstack(node: &Node<'_>, names: &Names) -> Statement {
    let lists = present(node).filter_map(|(key, value)| match key {
        "allowedConsentIds" => Some(granted_list(value, names)),
        "deniedConsentIds" => Some(denied_list(value, names)),
        _ => None,
    });
    lists.reduce(Statement::and).unwrap_or(Statement::denying(ALL))
}

fn segment(node: &Node<'_>, names: &Names) -> Statement {
    present(node)
        .filter(|(key, _)| *key == "categoryPreferences")
        .map(|(_, map)| purpose_map(map, names))
        .reduce(Statement::and)
        .unwrap_or(Statement::denying(ALL))
}

fn snowplow(node: &Node<'_>, names: &Names) -> Statement {
    if node.pairs().is_none() {
        return snowplow_type(node, None, names);
    }
    let scopes = present(node).find(|(key, _)| *key == "consentScopes" || *key == "consent_scopes");
    let nothing = Node::List(Vec::new());
    let scopes = scopes.map_or(&nothing, |(_, scopes)| scopes);
    present(node)
        .filter(|(key, _)| *key == "eventType" || *key == "event_type")
        .map(|(_, value)| snowplow_type(value, Some(scopes), names))
        .reduce(Statement::and)
        .unwrap_or(Statement::denying(ALL))
}

/// `scopes` is `None` where the event type came alone. Then nobody says what was selected, so that nothing counts as selected.
fn snowplow_type(node: &Node<'_>, scopes: Option<&Node<'_>>, names: &Names) -> Statement {
    match node.text() {
        Some("allow_all") => Statement::granting(ALL),
        Some("allow_selected") => {
            scopes.map_or(Statement::default().of_list(), |scopes| granted_list(scopes, names))
        }
        // What is implied was not given.
        Some("pending" | "implicit_consent") => Statement { undecided: true, ..Statement::default() },
        // `deny_all`, `withdrawn`, `expired`, and everything that is no event type.
        _ => Statement::denying(ALL),
    }
}

//! The registry: what events and attributes are declared, read from `schemas/` (Weaver `file_format: definition/2`).
//!
//! Owns: reading and validating the files, column names and types, evolution rules. Does not own: what a privacy
//! level does to a value (`privacy`), nor how a column is laid down (`columns`, `table`).
//!
//! The way of a file: `source` (folder to texts) -> `parse` with `annotation` and `kind` (text to definitions) -> `resolve` (groups and refs to
//! events) -> `column` (attributes to columns) -> `fingerprint` (the version). Each step adds to one list of
//! [`Problem`]s, so that a person sees everything that is wrong at once.

mod annotation;
mod column;
mod fingerprint;
mod kind;
mod parse;
mod problem;
mod resolve;
mod source;
#[cfg(test)]
mod tests;
mod treatment;

use std::path::Path;

pub use annotation::{PURPOSE_BYTES_MAX, is_purpose};
pub use column::ENVELOPE_COLUMNS;
pub use problem::{Problem, RegistryError};
pub use treatment::{DateUnit, LeakClass, LeakClasses, Reduction, TREATMENTS, Treatment};

/// How much an attribute's value tells about a person. Ordered: a later level is stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrivacyLevel {
    /// May be shown to anyone.
    #[default]
    Public,
    /// About the business, not about a person.
    Internal,
    /// Identifies a person or device; stored only as a keyed pseudonym.
    Pseudonymous,
    /// Personal data; not stored.
    Personal,
    /// Secrets and special categories; can never be stored.
    Sensitive,
}

impl PrivacyLevel {
    /// Every level, the least strict first.
    pub const ALL: [Self; 5] =
        [Self::Public, Self::Internal, Self::Pseudonymous, Self::Personal, Self::Sensitive];

    /// The level's name, as files have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Pseudonymous => "pseudonymous",
            Self::Personal => "personal",
            Self::Sensitive => "sensitive",
        }
    }

    /// The level of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }
}

/// What happens to a kept text that holds what has no business there (an e-mail address, a token).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeakAction {
    /// Each finding is replaced with the name of its class.
    Mask,
    /// The value is not stored.
    Drop,
    /// The event is not stored; it goes to quarantine.
    Quarantine,
}

/// What is done to text before a pseudonym is made of it, so that two spellings of one thing get one pseudonym.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Normalisation {
    /// White space at both ends is taken off.
    pub trim: bool,
    /// Upper-case letters become lower-case.
    pub lowercase: bool,
}

impl Normalisation {
    /// Reads `trim`, `lowercase`, `email` (both), or a list of them.
    fn parse(value: &serde_json::Value) -> Option<Self> {
        let step = |name: &serde_json::Value| match name.as_str()? {
            "trim" => Some(Self { trim: true, lowercase: false }),
            "lowercase" => Some(Self { trim: false, lowercase: true }),
            "email" => Some(Self { trim: true, lowercase: true }),
            _ => None,
        };
        match value {
            serde_json::Value::Array(names) if !names.is_empty() => {
                names.iter().try_fold(Self::default(), |all, name| {
                    let one = step(name)?;
                    Some(Self { trim: all.trim || one.trim, lowercase: all.lowercase || one.lowercase })
                })
            }
            name => step(name),
        }
    }
}

/// Whose value an attribute may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Anyone's.
    Anyone,
    /// The server's own: a value that arrives as text although it is declared as another type came from outside, as
    /// OpenTelemetry's baggage does, and is not stored.
    Server,
}

/// What an event is for. Ordered: fewer people should see a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// What users do with the product.
    Product,
    /// How the service fares.
    Operational,
    /// What concerns access and abuse.
    Security,
}

impl Category {
    /// Every category.
    pub const ALL: [Self; 3] = [Self::Product, Self::Operational, Self::Security];

    /// The category's name, as files and rows have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::Operational => "operational",
            Self::Security => "security",
        }
    }

    /// The category of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|category| category.as_str() == name)
    }
}

/// A primitive type of OpenTelemetry's semantic conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Primitive {
    /// UTF-8 text.
    String,
    /// Signed 64-bit integer.
    Int,
    /// 64-bit floating point.
    Double,
    /// True or false.
    Boolean,
}

/// A declared attribute type.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeType {
    /// `string`, `int`, `double`, `boolean`.
    Scalar(Primitive),
    /// `string[]` and its kin; stored as a JSON array in a string column.
    Array(Primitive),
    /// `any`; stored as JSON text.
    Any,
    /// `template[T]`: every key that starts with `<key>.`; stored as one JSON object in a string column.
    Template(Box<AttributeType>),
    /// A closed set of values. Each member is the text of its value (decimal for int enums).
    Enum {
        /// The type of the values: `String` or `Int`.
        values: Primitive,
        /// The allowed values, sorted.
        members: Vec<String>,
    },
}

/// The type of a table column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// UTF-8 text.
    String,
    /// Signed 64-bit integer.
    Long,
    /// 64-bit floating point.
    Double,
    /// True or false.
    Boolean,
    /// Microseconds since the Unix epoch, UTC.
    Timestamp,
    /// Bytes that nobody interprets, such as a sealed payload. No attribute has this type.
    Binary,
}

/// How an event's schema asks for an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// The event breaks its contract without it.
    Required,
    /// Everything weaker: `recommended`, `opt_in`, `conditionally_required`.
    Optional,
}

/// A declared attribute.
#[derive(Debug, Clone)]
pub struct Attribute {
    /// The key on the wire, e.g. `organisation.id`.
    pub key: String,
    /// The declared type.
    pub ty: AttributeType,
    /// The level of the definition; an event's ref may refine it. Where the definition leaves it to the refs, the
    /// strictest of them.
    pub privacy: PrivacyLevel,
    /// One line for people.
    pub brief: String,
    /// What the definition says happens to it, whatever its level; `None` leaves it to the policy.
    pub treatment: Option<Treatment>,
    /// What happens to its text before a pseudonym is made.
    pub normalise: Normalisation,
    /// What happens where a kept value holds a leak.
    pub leaks: LeakAction,
    /// Whose value it may hold.
    pub trust: Trust,
    /// Index into [`Registry::columns`]. Two attributes may share a column when they say so.
    pub column: usize,
}

/// An attribute as one event uses it.
#[derive(Debug, Clone)]
pub struct EventAttribute {
    /// Index into [`Registry::attributes`].
    pub attribute: usize,
    /// Whether the event needs it.
    pub requirement: Requirement,
    /// The level in force for this event: the attribute's, or the event's where that is stricter.
    pub privacy: PrivacyLevel,
    /// The treatment that the ref or the definition names; `None` leaves it to the policy.
    pub treatment: Option<Treatment>,
}

/// A declared event.
#[derive(Debug, Clone)]
pub struct Event {
    /// The full event name.
    pub name: String,
    /// What it is for.
    pub category: Category,
    /// The least level of everything in it. A sensitive event is not stored at all.
    pub privacy: PrivacyLevel,
    /// One line for people.
    pub brief: String,
    /// The purposes for which consent must be given, sorted; empty where it needs none. `None` leaves it to its category, of
    /// which the registry or the configuration speaks.
    pub purposes: Option<Vec<String>>,
    /// Where it says that somebody withdraws consent, or gives it again.
    pub withdrawal: Option<Withdrawal>,
    /// The attributes it may carry; each attribute once.
    pub attributes: Vec<EventAttribute>,
}

/// What an event says of the consent of the person in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawal {
    /// The attribute that names the person: an index into [`Registry::attributes`]. It is one of the event's, and
    /// pseudonymous there.
    pub subject: usize,
    /// The person consents again: it ends an earlier withdrawal.
    pub lifts: bool,
}

/// A column that declared attributes fill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeColumn {
    /// The column's name, e.g. `organisation_id`.
    pub name: String,
    /// Its type. A pseudonymous attribute's column is always `String`.
    pub ty: ColumnType,
    /// The attribute keys that fill it, sorted; recorded in the column's doc.
    pub keys: Vec<String>,
    /// One line for people.
    pub brief: String,
    /// True where values are keyed pseudonyms: gets a bloom filter, and no bounds.
    pub pseudonymous: bool,
}

/// Everything that is declared. Made only by [`Registry::load`] and [`Registry::from_files`].
#[derive(Debug, Clone)]
pub struct Registry {
    attributes: Vec<Attribute>,
    events: Vec<Event>,
    columns: Vec<AttributeColumn>,
    /// In the order of [`Category::ALL`].
    category_purposes: [Option<Vec<String>>; 3],
    notices: Vec<String>,
    version: String,
}

impl Registry {
    /// Reads every `.yaml` and `.yml` file under `folder`, in any division; `manifest.yaml` is Weaver's own.
    ///
    /// # Errors
    /// All problems at once, each with its file, its item and the way out.
    pub fn load(folder: &Path) -> Result<Self, RegistryError> {
        Self::from_files(&source::read(folder)?)
    }

    /// The files that [`Registry::load`] reads: of each its name below `folder`, and its text.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn files(folder: &Path) -> Result<Vec<(String, String)>, RegistryError> {
        source::read(folder)
    }

    /// As [`Registry::load`], with one more file that is in memory: what the folder would be with it.
    ///
    /// # Errors
    /// As [`Registry::load`]; the file goes by `name`.
    pub fn load_with(folder: &Path, name: &str, text: &str) -> Result<Self, RegistryError> {
        let mut files = source::read(folder)?;
        files.push((name.to_owned(), text.to_owned()));
        Self::from_files(&files)
    }

    /// Reads files that are already in memory, each a name (for messages) and a text.
    ///
    /// # Errors
    /// As [`Registry::load`].
    pub fn from_files(files: &[(String, String)]) -> Result<Self, RegistryError> {
        let mut problems = Vec::new();
        let mut declared = parse::Declared::default();
        for (name, text) in files {
            parse::file(name, text, &mut declared, &mut problems);
        }
        let resolved = resolve::resolve(&declared, &mut problems);
        let category_purposes = resolve::categories(&declared, &mut problems);
        let (attributes, columns) = column::lay_out(&declared.attributes, &resolved, &mut problems);
        if !problems.is_empty() {
            return Err(RegistryError::new(problems));
        }
        let events = resolve::events(resolved, &attributes);
        let version = fingerprint::version(&attributes, &events, &columns, &category_purposes);
        Ok(Self { attributes, events, columns, category_purposes, notices: declared.notices, version })
    }

    /// A registry from its parts, for tests of the stages behind it. The caller keeps the order that `load` makes.
    #[cfg(test)]
    pub(crate) fn for_tests(
        attributes: Vec<Attribute>,
        events: Vec<Event>,
        columns: Vec<AttributeColumn>,
        version: &str,
    ) -> Self {
        let (category_purposes, notices) = (Default::default(), Vec::new());
        Self { attributes, events, columns, category_purposes, notices, version: version.to_owned() }
    }

    /// The declared attributes, sorted by key.
    #[must_use]
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// The declared events, sorted by name.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The purposes of a category's events that name none themselves, sorted; `None` leaves them to the configuration.
    #[must_use]
    pub fn category_purposes(&self, category: Category) -> Option<&[String]> {
        let of = Category::ALL.into_iter().zip(&self.category_purposes);
        of.into_iter().find(|(one, _)| *one == category).and_then(|(_, purposes)| purposes.as_deref())
    }

    /// The columns that attributes fill, sorted by name.
    #[must_use]
    pub fn columns(&self) -> &[AttributeColumn] {
        &self.columns
    }

    /// What was read but has no meaning for Esker, one sentence each.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// First 12 hex digits of the SHA-256 of everything above that decides what is stored.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}

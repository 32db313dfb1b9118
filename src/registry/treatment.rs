//! What can be done to a value before it is stored, as files name it.
//!
//! Owns: the treatments, their parameters, their order of strictness, the classes of leaks. Does not own: applying them
//! (`privacy`), nor which level gets which (the configuration's policy).

use serde_json::{Map, Value};

/// A kind of text that has no business in a stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LeakClass {
    /// An e-mail address.
    Email,
    /// A payment card's number.
    Card,
    /// An international bank account number.
    Iban,
    /// An IPv4 or IPv6 address.
    Ip,
    /// A telephone number in international form.
    Phone,
    /// A bearer token, basic credentials or a JSON web token.
    Token,
    /// A private key in PEM form.
    PrivateKey,
    /// An access key of a cloud or service provider.
    AccessKey,
    /// A password or secret in a URL.
    Secret,
}

impl LeakClass {
    /// Every class, in the order of the bits of [`LeakClasses`].
    pub const ALL: [Self; 9] = [
        Self::Email,
        Self::Card,
        Self::Iban,
        Self::Ip,
        Self::Phone,
        Self::Token,
        Self::PrivateKey,
        Self::AccessKey,
        Self::Secret,
    ];

    /// Its name, in files and in the mask that stands for a finding.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Card => "card",
            Self::Iban => "iban",
            Self::Ip => "ip",
            Self::Phone => "phone",
            Self::Token => "token",
            Self::PrivateKey => "private_key",
            Self::AccessKey => "access_key",
            Self::Secret => "secret",
        }
    }

    /// The class of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }
}

/// A set of leak classes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct LeakClasses(u16);

impl LeakClasses {
    /// No class.
    pub const NONE: Self = Self(0);
    /// Every class.
    pub const ALL: Self = Self((1 << LeakClass::ALL.len()) - 1);

    /// True where no class is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True where the class is in it.
    #[must_use]
    pub fn contains(self, class: LeakClass) -> bool {
        self.0 & (1 << class as u8) != 0
    }

    /// The set with one class more.
    #[must_use]
    pub fn with(self, class: LeakClass) -> Self {
        Self(self.0 | (1 << class as u8))
    }

    /// The classes, in the order of [`LeakClass::ALL`].
    pub fn iter(self) -> impl Iterator<Item = LeakClass> {
        LeakClass::ALL.into_iter().filter(move |class| self.contains(*class))
    }
}

/// How coarse a date becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DateUnit {
    /// `2026-11-25`.
    Day,
    /// `2026-11`.
    Month,
}

/// A treatment that keeps a part of the value. A value that it cannot read is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Findings of these classes are replaced with the name of their class.
    Mask(LeakClasses),
    /// An IPv4 address to its /24, an IPv6 address to its /48.
    TruncateIp,
    /// A number down to a multiple of this.
    CoarsenNumber(i64),
    /// A date or time down to its day or month, UTC.
    CoarsenDate(DateUnit),
    /// An e-mail address to its domain.
    KeepDomain,
}

/// What happens to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Treatment {
    /// Stored as the declared type.
    Keep,
    /// A part of it is stored.
    Reduce(Reduction),
    /// Stored as a keyed pseudonym.
    Pseudonymise,
    /// Not stored, and not read.
    Drop,
}

/// What a treatment may be called; the fix of messages.
pub const TREATMENTS: &str = "use keep, drop, pseudonymise, mask, {mask: [email, ..]}, truncate_ip, {coarsen: 10}, \
                              {coarsen: day}, {coarsen: month} or keep_domain";

impl Treatment {
    /// Reads a treatment as files write it: a name, or a mapping of one name to its parameter.
    #[must_use]
    pub fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::String(name) => match name.as_str() {
                "keep" => Some(Self::Keep),
                "drop" => Some(Self::Drop),
                "pseudonymise" => Some(Self::Pseudonymise),
                "mask" => Some(Self::Reduce(Reduction::Mask(LeakClasses::ALL))),
                "truncate_ip" => Some(Self::Reduce(Reduction::TruncateIp)),
                "keep_domain" => Some(Self::Reduce(Reduction::KeepDomain)),
                _ => None,
            },
            Value::Object(map) if map.len() == 1 => parse_mapping(map).map(Self::Reduce),
            _ => None,
        }
    }

    /// Its name, as reports show it; [`Treatment::parse`] reads it back together with its parameter.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::Pseudonymise => "pseudonymise",
            Self::Reduce(Reduction::Mask(_)) => "mask",
            Self::Reduce(Reduction::TruncateIp) => "truncate_ip",
            Self::Reduce(Reduction::CoarsenNumber(_) | Reduction::CoarsenDate(_)) => "coarsen",
            Self::Reduce(Reduction::KeepDomain) => "keep_domain",
        }
    }

    /// Of two treatments the one that stores less.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        if other.strictness() > self.strictness() { other } else { self }
    }

    /// Keep, reduce, pseudonymise, drop: a pseudonym tells less than a part of the value, which is still the value.
    fn strictness(self) -> u8 {
        match self {
            Self::Keep => 0,
            Self::Reduce(_) => 1,
            Self::Pseudonymise => 2,
            Self::Drop => 3,
        }
    }
}

impl std::fmt::Display for Treatment {
    /// With its parameter: `coarsen to 10`, `mask email, ip`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::Reduce(Reduction::CoarsenNumber(bucket)) => write!(f, " to {bucket}"),
            Self::Reduce(Reduction::CoarsenDate(DateUnit::Day)) => f.write_str(" to day"),
            Self::Reduce(Reduction::CoarsenDate(DateUnit::Month)) => f.write_str(" to month"),
            Self::Reduce(Reduction::Mask(classes)) if *classes != LeakClasses::ALL => {
                let names: Vec<_> = classes.iter().map(LeakClass::as_str).collect();
                write!(f, " {}", names.join(", "))
            }
            _ => Ok(()),
        }
    }
}

fn parse_mapping(map: &Map<String, Value>) -> Option<Reduction> {
    let (name, parameter) = map.iter().next()?;
    match (name.as_str(), parameter) {
        ("coarsen", Value::Number(bucket)) => {
            bucket.as_i64().filter(|bucket| *bucket > 0).map(Reduction::CoarsenNumber)
        }
        ("coarsen", Value::String(unit)) if unit == "day" => Some(Reduction::CoarsenDate(DateUnit::Day)),
        ("coarsen", Value::String(unit)) if unit == "month" => Some(Reduction::CoarsenDate(DateUnit::Month)),
        ("mask", Value::Array(names)) if !names.is_empty() => names
            .iter()
            .try_fold(LeakClasses::NONE, |classes, name| {
                Some(classes.with(LeakClass::parse(name.as_str()?)?))
            })
            .map(Reduction::Mask),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn treatments_are_read_as_files_write_them() {
        let read = |value: Value| Treatment::parse(&value).map(|treatment| treatment.to_string());
        assert_eq!(read(json!("keep")).as_deref(), Some("keep"));
        assert_eq!(read(json!("mask")).as_deref(), Some("mask"));
        assert_eq!(read(json!({"mask": ["ip", "email"]})).as_deref(), Some("mask email, ip"));
        assert_eq!(read(json!({"coarsen": 10})).as_deref(), Some("coarsen to 10"));
        assert_eq!(read(json!({"coarsen": "month"})).as_deref(), Some("coarsen to month"));
        for wrong in [
            json!("Keep"),
            json!("hash"),
            json!({"coarsen": 0}),
            json!({"coarsen": -5}),
            json!({"coarsen": "week"}),
            json!({"mask": []}),
            json!({"mask": ["mail"]}),
            json!({"mask": ["ip"], "coarsen": 1}),
            json!(null),
        ] {
            assert_eq!(Treatment::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_stricter_of_two_stores_less() {
        let reduce = Treatment::Reduce(Reduction::KeepDomain);
        let order = [Treatment::Keep, reduce, Treatment::Pseudonymise, Treatment::Drop];
        for (place, one) in order.into_iter().enumerate() {
            for (other_place, other) in order.into_iter().enumerate() {
                assert_eq!(one.stricter(other), order[place.max(other_place)]);
            }
        }
    }
}

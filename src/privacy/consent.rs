//! Replaced by the consent branch.
/// Decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It was given.
    Granted,
    /// It was refused.
    Denied,
    /// Nothing says.
    Unknown,
    /// None is needed.
    NotRequired,
}

//! The privacy gate: the only way from a received event to one that may be stored.
//!
//! Owns: the only constructor of [`Cleared`], the treatment of each privacy level, coercion to declared types, pseudonyms.
//! Does not own: I/O of any kind. Pure and synchronous; what is not declared is not stored.

/// Events that may be stored: every value was declared, coerced and treated. Made only by the gate.
#[derive(Debug, Default)]
pub struct Cleared<'a> {
    pub(crate) events: Vec<ClearedEvent<'a>>,
    /// Values of all events; each event holds a range of it.
    pub(crate) values: Vec<(u32, ClearedValue<'a>)>,
    /// Text that the gate made (pseudonyms, canonical JSON, decimal text).
    pub(crate) made: String,
}

/// A value that may be stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ClearedValue<'a> {
    /// Text borrowed from the request.
    Str(&'a str),
    /// Text made by the gate: a range of [`Cleared::made`].
    Made(u32, u32),
    /// Integer.
    Int(i64),
    /// Floating point.
    Double(f64),
    /// Boolean.
    Bool(bool),
}

/// The envelope of an event that may be stored.
#[derive(Debug, Clone)]
pub struct ClearedEvent<'a> {
    /// Index into `Registry::events`.
    pub event: u32,
    /// `log.record.uid` where it was a plausible id, else None.
    pub uid: Option<&'a str>,
    /// 128 bits of the keyed hash of content and ordinal; the event id where there is no uid.
    pub digest: [u8; 16],
    /// Microseconds since the Unix epoch.
    pub event_time: i64,
    /// From the resource, where it is a plausible name.
    pub service_name: Option<&'a str>,
    /// From the resource, where it is a plausible version.
    pub service_version: Option<&'a str>,
    /// The instrumentation scope's name, where it is a plausible name.
    pub scope_name: Option<&'a str>,
    /// `trace`, `debug`, `info`, `warn`, `error` or `fatal`.
    pub severity: Option<&'static str>,
    /// 16 bytes, not all zero.
    pub trace_id: Option<&'a [u8]>,
    /// 8 bytes, not all zero.
    pub span_id: Option<&'a [u8]>,
    /// The event's values, as a range of `Cleared::values`: (index into `Registry::columns`, value), each column once.
    pub values: std::ops::Range<u32>,
}

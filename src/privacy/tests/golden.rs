//! The golden corpus: hand-checked records, and of each the row that is stored. The cases and their notation are in
//! `tests/golden/`; README.md there says how to add one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fixture::{NOW, key};
use crate::columns::{Encoder, Layout};
use crate::config::Config;
use crate::privacy::{Gate, GateOptions, Silent, explain};
use crate::receive::decode::{NameFallback, RawEvents};
use crate::receive::json::to_protobuf;
use crate::registry::Registry;

/// Each is read by the one test below.
const FILES: [&str; 6] = [
    "first_user.yaml",
    "decisions.yaml",
    "leaks.yaml",
    "consent.yaml",
    "consent_order.yaml",
    "precedence.yaml",
];

/// What the corpus must not fall below.
const CASES_MIN: usize = 150;

/// What a case need not foresee: it depends on the clock, on the policy's hash or on the record's bytes, or is what most cases are
/// not about.
const UNFORESEEN: [&str; 5] = ["event_id", "policy_version", "received_time", "consent", "consent_basis"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Corpus {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// A file in `registries/`; without it, the repository's `schemas/`.
    registry: Option<String>,
    /// A part of a configuration file.
    #[serde(default)]
    config: String,
    /// As `quarantine.broken_contract = "store"`.
    #[serde(default)]
    store_broken: bool,
    /// As `quarantine.undeclared_events = "quarantine"`.
    #[serde(default)]
    quarantine_undeclared: bool,
    #[serde(default)]
    destroyed_tenants: Vec<String>,
    /// Requests that were stored before.
    #[serde(default)]
    before: Vec<Record>,
    record: Record,
    expect: Expected,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    event: Option<String>,
    /// A mapping; or a list of pairs, where the order or a repeated key matters.
    #[serde(default)]
    attributes: Value,
    #[serde(default)]
    resource: Map<String, Value>,
    scope: Option<String>,
    severity: Option<i64>,
    severity_text: Option<String>,
    body: Option<String>,
    trace: Option<(String, String)>,
    /// Microseconds after the corpus's now.
    #[serde(default)]
    after_micros: i64,
    /// When it was received: microseconds after the corpus's now. Of records before the case's own.
    #[serde(default)]
    received_micros: i64,
    /// In place of all else of the record: a `LogRecord` in OTLP/JSON.
    verbatim: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    #[serde(default = "cleared")]
    verdict: String,
    /// Where it is not the verdict's name.
    reason: Option<String>,
    /// The table that the row goes to, where it is not the primary.
    table: Option<String>,
    /// Every attribute column that is not null.
    #[serde(default)]
    row: Map<String, Value>,
    /// Every envelope column that is not null, but for `UNFORESEEN` and the two below.
    #[serde(default)]
    envelope: Map<String, Value>,
    /// Where it is not the record's.
    event_name: Option<String>,
    category: Option<String>,
    /// What became of some attributes.
    #[serde(default)]
    fates: BTreeMap<String, String>,
}

fn cleared() -> String {
    "cleared".to_owned()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// By name, as they are read.
type Registries = BTreeMap<String, Arc<Registry>>;

/// The name of the repository's own.
const SCHEMAS: &str = "schemas";

fn registries() -> Registries {
    let repository = Registry::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")).unwrap();
    let mut registries = Registries::from([(SCHEMAS.to_owned(), Arc::new(repository))]);
    for entry in std::fs::read_dir(folder().join("registries")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let registry = Registry::from_files(&[(name.clone(), text)]);
        registries
            .insert(name, Arc::new(registry.unwrap_or_else(|error| panic!("{}: {error}", path.display()))));
    }
    registries
}

fn read(file: &str) -> Corpus {
    let text = std::fs::read_to_string(folder().join(file)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// An `AnyValue` in OTLP/JSON. `{$bytes: BASE64}` is bytes, `{$double: NaN}` what YAML's readers disagree about, any other
/// mapping is a `KeyValueList`.
fn any_value(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Bool(flag) => json!({"boolValue": flag}),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            json!({"intValue": number.to_string()})
        }
        Value::Number(number) => json!({"doubleValue": number}),
        Value::String(text) => json!({"stringValue": text}),
        Value::Array(values) => {
            json!({"arrayValue": {"values": values.iter().map(any_value).collect::<Vec<_>>()}})
        }
        Value::Object(entries) => match (entries.get("$bytes"), entries.get("$double")) {
            (Some(bytes), _) => json!({"bytesValue": bytes}),
            (_, Some(double)) => json!({"doubleValue": double}),
            _ => json!({"kvlistValue": {"values": key_values(entries.iter())}}),
        },
    }
}

fn key_values<'v>(entries: impl Iterator<Item = (&'v String, &'v Value)>) -> Vec<Value> {
    entries.map(|(key, value)| json!({"key": key, "value": any_value(value)})).collect()
}

impl Record {
    fn attributes(&self) -> Vec<Value> {
        match &self.attributes {
            Value::Null => Vec::new(),
            Value::Object(entries) => key_values(entries.iter()),
            Value::Array(pairs) => {
                let pair = |pair: &Value| json!({"key": pair[0], "value": any_value(&pair[1])});
                pairs.iter().map(pair).collect()
            }
            other => panic!("attributes are a mapping or a list of pairs, not {other}"),
        }
    }

    fn log_record(&self) -> Value {
        if let Some(text) = &self.verbatim {
            return serde_json::from_str(text).unwrap();
        }
        let nanos = (NOW + self.after_micros) * 1000;
        let mut record = json!({"timeUnixNano": nanos.to_string(), "attributes": self.attributes()});
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                record[key] = value;
            }
        };
        set("eventName", self.event.clone().map(Value::from));
        set("severityNumber", self.severity.map(Value::from));
        set("severityText", self.severity_text.clone().map(Value::from));
        set("body", self.body.as_ref().map(|text| json!({"stringValue": text})));
        set("traceId", self.trace.as_ref().map(|(trace, _)| json!(trace)));
        set("spanId", self.trace.as_ref().map(|(_, span)| json!(span)));
        record
    }

    fn request(&self) -> String {
        let scope = self.scope.as_ref().map_or(json!({}), |name| json!({"name": name}));
        let scope_logs = json!([{"scope": scope, "logRecords": [self.log_record()]}]);
        let resource = json!({"attributes": key_values(self.resource.iter())});
        json!({"resourceLogs": [{"resource": resource, "scopeLogs": scope_logs}]}).to_string()
    }
}

impl Case {
    fn gate(&self, registries: &Registries) -> Result<Gate, String> {
        let name = self.registry.as_deref().unwrap_or(SCHEMAS);
        let registry = Arc::clone(registries.get(name).ok_or(format!("there is no registry `{name}`"))?);
        let config = Config::from_toml(&self.config).map_err(|error| error.to_string())?;
        let mut ring = key();
        for tenant in &self.destroyed_tenants {
            ring.destroy_tenant(tenant).map_err(|error| error.to_string())?;
        }
        let options = GateOptions {
            quarantine_broken: !self.store_broken,
            quarantine_undeclared: self.quarantine_undeclared,
            ..config.gate_options()
        };
        Gate::new(registry, &ring, options).map_err(|error| error.to_string())
    }

    /// What becomes of the record, and what should, in the same form.
    fn outcome(&self, registries: &Registries) -> Result<(Value, Value), String> {
        let gate = self.gate(registries)?;
        self.before.iter().try_for_each(|record| store_withdrawals(&gate, record))?;
        let protobuf = to_protobuf(self.record.request().as_bytes()).map_err(|error| error.to_string())?;
        let names = NameFallback::new(Vec::new());
        let raw = RawEvents::decode(&protobuf, &names).map_err(|error| error.to_string())?;
        let explained = explain(&gate, &raw, NOW);
        let [event] = explained.as_slice() else { return Err("it is not one record".to_owned()) };
        let told = event.attributes.iter().filter(|told| self.expect.fates.contains_key(&told.key));
        let fates: BTreeMap<_, _> = told.map(|told| (told.key.as_str(), told.reason)).collect();
        let mut found = json!({"verdict": event.verdict, "reason": event.reason, "fates": fates});

        let cleared = gate.clear(&raw, NOW, &mut Silent);
        let is_set_aside = event.verdict == "quarantined";
        if cleared.quarantined().len() != usize::from(is_set_aside) {
            return Err(format!("{} events are in quarantine", cleared.quarantined().len()));
        }
        let layout = Layout::new(gate.registry()).map_err(|error| error.to_string())?;
        let encoder = Encoder::new(&layout, gate.registry(), gate.policy_version());
        let encoder = encoder.with_consent_bases(gate.consent_bases().to_vec());
        for (table, batch) in encoder.encode(&cleared, NOW).map_err(|error| error.to_string())? {
            let columns = layout.columns().iter().map(|column| column.name.as_str());
            let envelope = columns.clone().count() - gate.registry().columns().len();
            let own: Vec<&str> = columns.take(envelope).collect();
            let (envelope, row) = stored(batch.record_batch(), &own, &self.expect.envelope)?;
            found["table"] = gate.tables().nth(usize::from(table)).into();
            found["envelope"] = envelope.into();
            found["row"] = row.into();
        }
        Ok((found, self.expected(gate.registry())))
    }

    fn expected(&self, registry: &Registry) -> Value {
        let expect = &self.expect;
        let reason = expect.reason.as_ref().unwrap_or(&expect.verdict);
        let mut expected = json!({"verdict": expect.verdict, "reason": reason, "fates": expect.fates});
        if expect.verdict == "cleared" {
            let name = expect.event_name.clone().or_else(|| self.record.event.clone()).unwrap_or_default();
            let declared = registry.events().iter().find(|event| event.name == name);
            let category = expect.category.clone();
            let category = category
                .or_else(|| declared.map(|event| event.category.as_str().to_owned()))
                .unwrap_or_default();
            let mut envelope = expect.envelope.clone();
            envelope.insert("event_name".to_owned(), name.into());
            envelope.insert("category".to_owned(), category.into());
            envelope.entry("event_time").or_insert_with(|| (NOW + self.record.after_micros).into());
            expected["table"] = expect.table.as_deref().unwrap_or("product.events").into();
            expected["envelope"] = envelope.into();
            expected["row"] = expect.row.clone().into();
        }
        expected
    }
}

/// Takes note of what a record says of consent, as the intake does once the record is durable.
fn store_withdrawals(gate: &Gate, record: &Record) -> Result<(), String> {
    let protobuf = to_protobuf(record.request().as_bytes()).map_err(|error| error.to_string())?;
    let names = NameFallback::new(Vec::new());
    let raw = RawEvents::decode(&protobuf, &names).map_err(|error| error.to_string())?;
    let received = NOW + record.received_micros;
    let cleared = gate.clear(&raw, received, &mut Silent);
    if cleared.withdrawals().is_empty() {
        return Err("a record before says nothing of consent".to_owned());
    }
    for one in cleared.withdrawals() {
        gate.withdrawn().insert(&one.subject, one.statement(received));
    }
    Ok(())
}

/// The envelope and the attributes of a row.
type Row = (Map<String, Value>, Map<String, Value>);

/// The one row of a batch: what is not null of the envelope, and of the attributes.
fn stored(batch: &RecordBatch, envelope: &[&str], foreseen: &Map<String, Value>) -> Result<Row, String> {
    if batch.num_rows() != 1 {
        return Err(format!("{} rows are stored", batch.num_rows()));
    }
    let (mut own, mut row) = (Map::new(), Map::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let name = field.name().as_str();
        let is_unforeseen = UNFORESEEN.contains(&name) && !foreseen.contains_key(name);
        if column.is_null(0) || is_unforeseen {
            continue;
        }
        let into = if envelope.contains(&name) { &mut own } else { &mut row };
        into.insert(name.to_owned(), cell(column)?);
    }
    Ok((own, row))
}

fn cell(column: &dyn Array) -> Result<Value, String> {
    Ok(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(0).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(0).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(0).into(),
        DataType::Boolean => column.as_boolean().value(0).into(),
        DataType::Timestamp(..) => column.as_primitive::<TimestampMicrosecondType>().value(0).into(),
        other => return Err(format!("a column of type {other}")),
    })
}

/// The parts in which two mappings differ, as lines.
fn differences(expected: &Value, found: &Value) -> Vec<String> {
    let (Value::Object(one), Value::Object(other)) = (expected, found) else {
        return vec![format!("expected {expected}, found {found}")];
    };
    let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let mut lines = Vec::new();
    for key in keys {
        let nothing = Value::Null;
        let (one, other) = (one.get(key).unwrap_or(&nothing), other.get(key).unwrap_or(&nothing));
        if one == other {
            continue;
        }
        let inner = if one.is_object() && other.is_object() {
            differences(one, other)
        } else {
            vec![format!("expected {one}, found {other}")]
        };
        lines.extend(inner.into_iter().map(|line| format!("{key}: {line}")));
    }
    lines
}

#[test]
fn every_case_of_the_golden_corpus_is_stored_as_its_author_says() {
    let registries = registries();
    let mut faults = Vec::new();
    let mut names = std::collections::BTreeSet::new();
    for file in FILES {
        let corpus = read(file);
        for case in &corpus.cases {
            if !names.insert(case.name.clone()) {
                faults.push(format!("{file}: two cases are named `{}`", case.name));
            }
            let differing = match case.outcome(&registries) {
                Ok((found, expected)) => differences(&expected, &found),
                Err(problem) => vec![problem],
            };
            if !differing.is_empty() {
                faults.push(format!("{file}: {}\n    {}", case.name, differing.join("\n    ")));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} of {} cases differ:\n\n{}\n",
        faults.len(),
        names.len(),
        faults.join("\n")
    );
    assert!(names.len() >= CASES_MIN, "only {} cases are left", names.len());
}

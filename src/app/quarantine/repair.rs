//! Repairs: what is changed in an opened record before it is sent again.
//!
//! Owns: the changes, and the id under which a replayed event is known. Does not own: whether it is then in order: the gate
//! says that.

use anyhow::bail;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;

/// The attribute that holds an event's id.
const UID: &str = "log.record.uid";
/// Attributes that can hold an event's name instead of the record's own field.
const NAME_ATTRIBUTES: [&str; 2] = ["otel.event.name", "event.name"];

/// A new value for an attribute.
#[derive(Clone, PartialEq)]
pub struct Setting {
    key: String,
    value: Value,
}

impl std::fmt::Debug for Setting {
    /// Shows the key only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setting").field("key", &self.key).finish_non_exhaustive()
    }
}

/// `KEY=VALUE` of the command line, the value a YAML scalar: `5` is an int, `'5'` a string, `true` a boolean.
///
/// # Errors
/// What is wrong with it.
pub fn parse_setting(text: &str) -> Result<Setting, String> {
    let (key, value) = split(text, "KEY=VALUE")?;
    let scalar = "VALUE must be a YAML scalar: a number, true, false or text; put text that is none in quotes, '\"...\"'";
    let value = match serde_saphyr::from_str::<serde_json::Value>(value).map_err(|_| scalar.to_owned())? {
        serde_json::Value::Bool(value) => Value::BoolValue(value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Value::IntValue(int),
            (None, Some(double)) if !number.is_u64() => Value::DoubleValue(double),
            _ => return Err("VALUE is a number that no OTLP attribute can hold".to_owned()),
        },
        serde_json::Value::String(value) => Value::StringValue(value),
        serde_json::Value::Null => {
            return Err(
                "VALUE is null; leave the attribute out with --drop, or give an empty text with '\"\"'"
                    .to_owned(),
            );
        }
        serde_json::Value::Array(_) | serde_json::Value::Object(_) => return Err(scalar.to_owned()),
    };
    Ok(Setting { key, value })
}

/// `OLD=NEW` of the command line.
///
/// # Errors
/// What is wrong with it.
pub fn parse_rename(text: &str) -> Result<(String, String), String> {
    let (old, new) = split(text, "OLD=NEW")?;
    if new.is_empty() { Err("must be OLD=NEW".to_owned()) } else { Ok((old, new.to_owned())) }
}

fn split<'t>(text: &'t str, form: &str) -> Result<(String, &'t str), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value)),
        _ => Err(format!("must be {form}")),
    }
}

/// The changes, made in this order: renames, removals, new values, the name.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    /// Old key, new key. An attribute that had the new key already is replaced.
    pub renames: Vec<(String, String)>,
    /// Keys that are removed.
    pub drops: Vec<String>,
    /// New values, of attributes that are there or not.
    pub settings: Vec<Setting>,
    /// The event's new name.
    pub event_name: Option<String>,
}

impl Repairs {
    /// Makes the changes in the one record of a payload, and gives it the id of its row, so that a replay that is repeated is
    /// recognised by it.
    pub(super) fn apply(&self, request: &mut ExportLogsServiceRequest, event_id: &str) -> anyhow::Result<()> {
        let record = only_record(request)?;
        for (old, new) in &self.renames {
            if record.attributes.iter().any(|attribute| attribute.key == *old) {
                record.attributes.retain(|attribute| attribute.key != *new);
            }
            for attribute in record.attributes.iter_mut().filter(|attribute| attribute.key == *old) {
                attribute.key.clone_from(new);
            }
        }
        record.attributes.retain(|attribute| !self.drops.contains(&attribute.key));
        for setting in &self.settings {
            set(record, &setting.key, setting.value.clone());
        }
        if let Some(name) = &self.event_name {
            record.event_name.clone_from(name);
            record.attributes.retain(|attribute| !NAME_ATTRIBUTES.contains(&attribute.key.as_str()));
        }
        set(record, UID, Value::StringValue(event_id.to_owned()));
        Ok(())
    }
}

fn set(record: &mut LogRecord, key: &str, value: Value) {
    record.attributes.retain(|attribute| attribute.key != key);
    let value = Some(AnyValue { value: Some(value) });
    record.attributes.push(KeyValue { key: key.to_owned(), value, ..KeyValue::default() });
}

fn only_record(request: &mut ExportLogsServiceRequest) -> anyhow::Result<&mut LogRecord> {
    let mut records = request
        .resource_logs
        .iter_mut()
        .flat_map(|logs| &mut logs.scope_logs)
        .flat_map(|logs| &mut logs.log_records);
    match (records.next(), records.next()) {
        (Some(record), None) => Ok(record),
        _ => bail!("the payload does not hold one record"),
    }
}

/// What a record is called, and its attributes' keys and types, in the clear: for who holds the private key. No value.
pub(super) fn outline(
    request: &mut ExportLogsServiceRequest,
) -> anyhow::Result<(String, Vec<(String, &'static str)>)> {
    let record = only_record(request)?;
    let kind = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        None => "empty",
        Some(Value::StringValue(_)) => "string",
        Some(Value::BoolValue(_)) => "boolean",
        Some(Value::IntValue(_)) => "int",
        Some(Value::DoubleValue(_)) => "double",
        Some(Value::ArrayValue(_)) => "array",
        Some(Value::KvlistValue(_)) => "kvlist",
        Some(Value::BytesValue(_)) => "bytes",
        Some(_) => "unknown",
    };
    let attributes = record.attributes.iter().map(|attribute| (attribute.key.clone(), kind(attribute)));
    Ok((record.event_name.clone(), attributes.collect()))
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};

    use super::*;

    fn attribute(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn text(value: &str) -> Value {
        Value::StringValue(value.to_owned())
    }

    fn request(attributes: Vec<KeyValue>) -> ExportLogsServiceRequest {
        let record = LogRecord { event_name: "a.b".to_owned(), attributes, ..LogRecord::default() };
        let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
        ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }],
        }
    }

    fn repaired(repairs: &Repairs, attributes: Vec<KeyValue>) -> LogRecord {
        let mut request = request(attributes);
        repairs.apply(&mut request, "id-1").unwrap();
        only_record(&mut request).unwrap().clone()
    }

    #[test]
    fn a_value_is_typed_as_yaml_types_it() {
        for (written, value) in [
            ("k=5", Value::IntValue(5)),
            ("k=-5", Value::IntValue(-5)),
            ("k=5.5", Value::DoubleValue(5.5)),
            ("k=true", Value::BoolValue(true)),
            ("k='5'", text("5")),
            ("k=\"\"", text("")),
            ("k=two words", text("two words")),
            ("k=a=b", text("a=b")),
        ] {
            assert_eq!(parse_setting(written), Ok(Setting { key: "k".to_owned(), value }), "{written}");
        }
        for wrong in ["k", "=5", "k=", "k=null", "k=[1]", "k={a: 1}", "k=18446744073709551615", "k='"] {
            assert!(parse_setting(wrong).is_err(), "{wrong}");
        }
        assert!(!format!("{:?}", parse_setting("k=secret").unwrap()).contains("secret"));
    }

    #[test]
    fn renames_come_first_then_removals_then_values() {
        let repairs = Repairs {
            renames: vec![parse_rename("old=new").unwrap(), parse_rename("gone=never").unwrap()],
            drops: vec!["extra".to_owned()],
            settings: vec![parse_setting("count=5").unwrap(), parse_setting("added=x").unwrap()],
            event_name: None,
        };
        let record = repaired(
            &repairs,
            vec![
                attribute("new", text("was here")),
                attribute("old", text("kept")),
                attribute("extra", text("x")),
                attribute("count", text("five")),
            ],
        );
        let expected = vec![
            attribute("new", text("kept")),
            attribute("count", Value::IntValue(5)),
            attribute("added", text("x")),
            attribute("log.record.uid", text("id-1")),
        ];
        assert_eq!(record.attributes, expected);
        assert_eq!(record.event_name, "a.b");
        assert!(
            parse_rename("old").is_err() && parse_rename("=new").is_err() && parse_rename("old=").is_err()
        );
    }

    #[test]
    fn a_new_name_replaces_every_other_place_of_a_name() {
        let repairs = Repairs { event_name: Some("c.d".to_owned()), ..Repairs::default() };
        let record = repaired(
            &repairs,
            vec![attribute("event.name", text("x")), attribute("otel.event.name", text("y"))],
        );
        assert_eq!((record.event_name.as_str(), record.attributes.len()), ("c.d", 1));
    }

    #[test]
    fn a_replayed_event_has_its_rows_id_whatever_it_had_before() {
        for before in [vec![], vec![attribute(UID, text("id-1"))], vec![attribute(UID, text("not an id"))]] {
            let record = repaired(&Repairs::default(), before);
            assert_eq!(record.attributes, [attribute(UID, text("id-1"))]);
        }
    }

    #[test]
    fn an_outline_has_keys_and_types_and_no_value() {
        let mut request =
            request(vec![attribute("k", text("secret")), attribute("n", Value::IntValue(4_111))]);
        let shown = format!("{:?}", outline(&mut request).unwrap());
        assert_eq!(shown, r#"("a.b", [("k", "string"), ("n", "int")])"#);
    }

    #[test]
    fn a_payload_of_two_records_is_refused() {
        let mut request = request(vec![]);
        let logs = request.resource_logs[0].clone();
        request.resource_logs.push(logs);
        assert!(Repairs::default().apply(&mut request, "id").is_err());
    }
}

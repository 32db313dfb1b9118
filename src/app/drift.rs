//! The drift report of a running process: on disk, as text, as metrics, on the status page.
//!
//! Owns: the file `drift.json`, when it is written, and each form of the report but the JSON one. Does not own: the report
//! (`crate::drift`), what a registry should make of it (`learn`).

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::admin::{escape, rfc3339};
use super::status::replace;
use crate::drift::{DriftCounts, DriftItem, DriftReport, DriftStore, DriftSummary, NO_SERVICE};
use crate::registry::Registry;
use crate::telemetry::{Metric, Sample};

/// The report of the last run, in the data directory.
pub const DRIFT_FILE: &str = "drift.json";

/// Entries that `esker status` and the status page show; `/drift` shows all.
pub(super) const TOP: usize = 20;

/// How much of the report an unclean end may lose.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// Goes on from the report in `data_dir`. One that cannot be read is no reason not to start: it is about what is not stored.
pub(super) fn resume(data_dir: &Path, registry: &Registry) -> Arc<DriftStore> {
    let report = load(&data_dir.join(DRIFT_FILE)).unwrap_or_else(|error| {
        tracing::warn!(error = format!("{error:#}"), "the drift report starts anew");
        None
    });
    Arc::new(DriftStore::resume(&report.unwrap_or_default(), registry))
}

/// Reads a report, without what Esker cannot have written; None where there is no file.
pub(super) fn load(path: &Path) -> anyhow::Result<Option<DriftReport>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    // The parser's own message may quote the file, which anyone may have edited.
    let report: DriftReport = serde_json::from_str(&text)
        .map_err(|error| {
            anyhow::anyhow!("not a drift report (line {}, column {})", error.line(), error.column())
        })
        .with_context(|| path.display().to_string())?;
    Ok(Some(report.valid()))
}

/// Leaves the report on disk whenever it changed, until `stop`.
pub(super) async fn keep(drift: Arc<DriftStore>, data_dir: std::path::PathBuf, stop: CancellationToken) {
    let mut saved = drift.changes();
    let mut tick = tokio::time::interval(SAVE_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let changes = drift.changes();
        if changes != saved {
            saved = changes;
            save(&drift, &data_dir);
        }
    }
}

/// Leaves the report on disk.
pub(super) fn save(drift: &DriftStore, data_dir: &Path) {
    let path = data_dir.join(DRIFT_FILE);
    let saved =
        serde_json::to_vec(&drift.report()).map_err(Into::into).and_then(|bytes| replace(&path, &bytes));
    if let Err(error) = saved {
        tracing::warn!(%error, path = %path.display(), "the drift report could not be saved");
    }
}

/// The report's part of `esker status`.
pub(super) fn text(summary: &DriftSummary) -> String {
    let mut text = String::new();
    if *summary == DriftSummary::default() {
        return text;
    }
    // Writing to a String cannot fail.
    writeln!(
        text,
        "\nUndeclared (not stored): {} records of {} events, {} values of {} attributes",
        summary.event_records, summary.events, summary.attribute_records, summary.attributes
    )
    .ok();
    if summary.overflow > 0 {
        writeln!(text, "{:>12} more found no room in the report", summary.overflow).ok();
    }
    for item in &summary.top {
        writeln!(
            text,
            "{:>12} {}  from {} since {}",
            item.count,
            subject(item),
            service(item),
            rfc3339(item.first_seen)
        )
        .ok();
    }
    text.push_str("`esker learn` proposes declarations for these\n");
    text
}

/// What an entry is about, in one line.
fn subject(item: &DriftItem) -> String {
    let types: Vec<&str> = item.types.keys().map(|ty| ty.as_str()).collect();
    match &item.key {
        None => format!("event {}", item.event),
        Some(key) => format!("attribute {key} ({}) of {}", types.join(", "), item.event),
    }
}

fn service(item: &DriftItem) -> &str {
    item.service.as_deref().unwrap_or(NO_SERVICE)
}

/// The report's metric. Its labels are bounded: services by `drift::SERVICES_MAX`, and never a key or an event's name.
pub(super) fn metric(counts: DriftCounts) -> Metric {
    let samples = counts.into_iter().map(|(service, kind, value)| Sample {
        labels: vec![("service", service), ("kind", kind.as_str().to_owned())],
        value,
    });
    Metric {
        name: "esker_drift_records",
        help: "Undeclared events, undeclared attributes of declared events, and attributes of undeclared events.",
        counter: true,
        samples: samples.collect(),
    }
}

/// The report's part of the status page.
pub(super) fn html(summary: &DriftSummary) -> String {
    if *summary == DriftSummary::default() {
        return "<p>Nothing undeclared has arrived.</p>".to_owned();
    }
    let mut rows = String::new();
    for item in &summary.top {
        let key = item.key.as_deref().unwrap_or("(the event)");
        let types: Vec<&str> = item.types.keys().map(|ty| ty.as_str()).collect();
        write!(rows, "<tr><th scope=row>{}</th><td>{}</td>", escape(&item.event), escape(key)).ok();
        write!(rows, "<td>{}</td><td>{}</td>", types.join(", "), escape(service(item))).ok();
        write!(rows, "<td>{}</td><td>{}</td></tr>", item.count, rfc3339(item.first_seen)).ok();
    }
    let more = match summary.overflow {
        0 => String::new(),
        overflow => format!(" {overflow} more found no room in the report."),
    };
    format!(
        "<p>Not stored: {} records of {} undeclared events, {} values of {} undeclared attributes.{more}</p>\n\
         <div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">Event</th><th scope=\"col\">Attribute</th>\
         <th scope=\"col\">Types</th><th scope=\"col\">Service</th><th scope=\"col\">Count</th>\
         <th scope=\"col\">Since</th></tr></thead>\n<tbody>{rows}</tbody>\n</table></div>",
        summary.event_records, summary.events, summary.attribute_records, summary.attributes
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::privacy::{DriftKind, ValueType};

    fn report() -> DriftReport {
        let item = |kind, event: &str, key: Option<&str>, count| DriftItem {
            service: Some("flagsmith-api".to_owned()),
            kind,
            event: event.to_owned(),
            key: key.map(str::to_owned),
            types: key.iter().map(|_| (ValueType::Int, count)).collect(),
            count,
            first_seen: 1_795_383_003_900_000,
            last_seen: 1_795_383_003_900_000,
        };
        DriftReport {
            entries: vec![
                item(DriftKind::Attribute, "features.flag.updated", Some("new.count"), 7),
                item(DriftKind::Event, "#0123456789ab", None, 3),
            ],
            overflow: BTreeMap::from([("flagsmith-api".to_owned(), 2)]),
        }
    }

    #[test]
    fn a_saved_report_is_read_back_and_a_broken_one_is_told_without_quoting_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DRIFT_FILE);
        assert_eq!(load(&path).unwrap(), None);
        std::fs::write(&path, serde_json::to_vec(&report()).unwrap()).unwrap();
        assert_eq!(load(&path).unwrap(), Some(report()));
        std::fs::write(&path, "{\"entries\": \"hello bob\"}").unwrap();
        let error = format!("{:#}", load(&path).unwrap_err());
        assert!(error.contains(DRIFT_FILE) && error.contains("line 1") && !error.contains("bob"), "{error}");
    }

    #[test]
    fn an_unreadable_report_does_not_stop_a_start() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(DRIFT_FILE), "x").unwrap();
        let registry = crate::privacy::tests::fixture::registry();
        let drift = resume(folder.path(), &registry);
        assert_eq!(drift.report(), DriftReport::default());
        save(&drift, folder.path());
        assert_eq!(load(&folder.path().join(DRIFT_FILE)).unwrap(), Some(DriftReport::default()));
    }

    #[test]
    fn text_and_page_show_what_from_whom_and_since_when() {
        let summary = report().summary(TOP);
        for shown in [text(&summary), html(&summary)] {
            for part in
                ["new.count", "int", "features.flag.updated", "flagsmith-api", "2026-11-22", "#0123", "7"]
            {
                assert!(shown.contains(part), "{part}: {shown}");
            }
        }
        assert_eq!(text(&DriftSummary::default()), "");
        assert!(!html(&DriftSummary::default()).contains("<table"));
    }

    #[test]
    fn metrics_name_services_and_kinds_only() {
        let metric = metric(vec![("flagsmith-api".to_owned(), DriftKind::Attribute, 7)]);
        let text = crate::telemetry::render(vec![metric]).unwrap();
        let line = "esker_drift_records_total{service=\"flagsmith-api\",kind=\"attribute\"} 7\n";
        assert!(text.contains(line), "{text}");
    }
}

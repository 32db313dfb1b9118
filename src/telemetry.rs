//! What an operator sees of a running process: structured logs on stderr and metrics in the OpenMetrics text format.
//!
//! Owns: the shape of logs and the names of metrics. Labels are declared event names, closed sets of reasons, and a bounded
//! number of plausible service names; never other text from the wire. Does not own: the counts themselves.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry as MetricRegistry;
use tracing_subscriber::EnvFilter;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[error(
    "log.filter: {0}; use a level such as \"info\", or tracing directives such as \"info,esker::wal=debug\""
)]
pub struct LogFilterError(#[from] tracing_subscriber::filter::ParseError);

/// Sends logs to stderr as JSON lines, filtered by `directives`. A second call in one process changes nothing.
///
/// # Errors
/// [`LogFilterError`] where the directives do not parse.
pub fn init_logs(directives: &str) -> Result<(), LogFilterError> {
    let filter = EnvFilter::try_new(directives)?;
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .finish();
    // Already set: a test process that starts several servers shares one subscriber.
    drop(tracing::subscriber::set_global_default(subscriber));
    Ok(())
}

/// One sample: label pairs and a value.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: u64,
}

/// One metric with its samples.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Name without the `_total` of counters.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Counter, or gauge.
    pub counter: bool,
    /// The samples.
    pub samples: Vec<Sample>,
}

impl Metric {
    /// A counter without labels.
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, counter: true, samples: vec![Sample { labels: vec![], value }] }
    }

    /// A gauge without labels.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, counter: false, samples: vec![Sample { labels: vec![], value }] }
    }
}

/// Renders metrics in the OpenMetrics text format.
///
/// # Errors
/// Where formatting fails, which memory alone can cause.
pub fn render(metrics: Vec<Metric>) -> Result<String, std::fmt::Error> {
    let mut registry = MetricRegistry::default();
    registry.register_collector(Box::new(Rendered(Arc::new(metrics))));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Rendered(Arc<Vec<Metric>>);

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for metric in self.0.iter() {
            let kind = if metric.counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for sample in &metric.samples {
                encode_sample(&mut family, metric.counter, sample)?;
            }
        }
        Ok(())
    }
}

fn encode_sample(
    family: &mut MetricEncoder<'_>,
    counter: bool,
    sample: &Sample,
) -> Result<(), std::fmt::Error> {
    let labels = Labels(&sample.labels);
    let encoder = family.encode_family(&labels)?;
    if counter {
        ConstCounter::new(sample.value).encode(encoder)
    } else {
        ConstGauge::new(i64::try_from(sample.value).unwrap_or(i64::MAX)).encode(encoder)
    }
}

#[derive(Debug)]
struct Labels<'a>(&'a [(&'static str, String)]);

impl EncodeLabelSet for Labels<'_> {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        for (name, value) in self.0 {
            prometheus_client::encoding::EncodeLabel::encode(
                &(*name, value.as_str()),
                encoder.encode_label(),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_render_with_labels_and_escapes() {
        let sample = Sample { labels: vec![("event", "a\"b".to_owned())], value: 3 };
        let text = render(vec![
            Metric { name: "esker_events", help: "Events.", counter: true, samples: vec![sample] },
            Metric::gauge("esker_up", "Up.", 1),
        ])
        .unwrap();
        assert!(text.contains("esker_events_total{event=\"a\\\"b\"} 3\n"), "{text}");
        assert!(text.contains("esker_up{} 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}

//! The same metrics over OTLP/gRPC, every so often, where the usual variables say where to.
//!
//! Nothing is paid where things are counted: what `/metrics` shows is read and sent as it is, cumulative since the process's
//! start. An export that fails is dropped and counted; the next one says all that it would have said.
//!
//! Beside what the variables of [`super::otlp`] say:
//!
//! | variable | what it says |
//! | --- | --- |
//! | `OTEL_METRIC_EXPORT_INTERVAL`, `OTEL_METRIC_EXPORT_TIMEOUT` | how often, and how long one may take, in milliseconds; 60 and 30 s |
//! | `OTEL_EXPORTER_OTLP_METRICS_HEADERS`, else `OTEL_EXPORTER_OTLP_HEADERS` | metadata that goes along: `key=value,…` |

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::Channel,
};

use super::{
    catalogue,
    exposition::{self, Distribution, Family, Labels},
    metrics::{Process, render_metrics, this_process},
    otlp::{self, Variables},
};

/// While the process drains, since nobody knows which export is the last.
const DRAINING: Duration = Duration::from_secs(1);

/// Where to, how often, and with what.
struct Target {
    channel: Channel,
    metadata: MetadataMap,
    every: Duration,
    timeout: Duration,
}

/// Exports until it is dropped, if it is asked to.
pub(super) async fn run(draining: CancellationToken) {
    let Some(process) = this_process() else { return };
    match Target::of(&otlp::variables("METRICS")) {
        Ok(None) => {}
        Ok(Some(target)) => target.run(process, draining).await,
        Err(error) => tracing::error!("metrics are not exported over OTLP: {error:#}"),
    }
}

impl Target {
    /// None: nothing is to be sent.
    fn of(variables: &Variables<impl Fn(&str) -> Option<String>>) -> anyhow::Result<Option<Self>> {
        let Some(channel) = variables.channel()? else { return Ok(None) };
        let milliseconds = |name: &str, default| match variables.get(name) {
            None => Ok(Duration::from_millis(default)),
            Some(text) => {
                let value = text.parse().ok().filter(|value| *value > 0);
                value.map(Duration::from_millis).with_context(|| format!("{name} is no number of milliseconds: {text}"))
            }
        };
        let every = milliseconds("OTEL_METRIC_EXPORT_INTERVAL", 60_000)?;
        let timeout = milliseconds("OTEL_METRIC_EXPORT_TIMEOUT", 30_000)?.min(every);
        let metadata = variables.own("HEADERS").map(|text| metadata(&text)).transpose()?.unwrap_or_default();
        Ok(Some(Self { channel, metadata, every, timeout }))
    }

    async fn run(self, process: &Process, draining: CancellationToken) {
        let mut client = MetricsServiceClient::new(self.channel);
        // It is said once that it fails, and once that it works again.
        let mut failing = false;
        loop {
            let pause = if draining.is_cancelled() { self.every.min(DRAINING) } else { self.every };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = draining.cancelled(), if !draining.is_cancelled() => {}
            }
            let mut request = Request::new(export(process, &render_metrics(), SystemTime::now()));
            *request.metadata_mut() = self.metadata.clone();
            let failed = match tokio::time::timeout(self.timeout, client.export(request)).await {
                Ok(Ok(_)) => None,
                Ok(Err(status)) => Some(status.to_string()),
                Err(_) => Some(format!("no answer within {:?}", self.timeout)),
            };
            let outcome = if failed.is_some() { "failed" } else { "sent" };
            metrics::counter!("asobi_telemetry_metric_exports_total", "outcome" => outcome).increment(1);
            if failed.is_some() != failing {
                match &failed {
                    Some(error) => tracing::warn!(error, "metrics cannot be exported over OTLP; it is tried again"),
                    None => tracing::info!("metrics are exported over OTLP again"),
                }
            }
            failing = failed.is_some();
        }
    }
}

/// Of `key=value,…`; what is special in a value comes as %XX.
fn metadata(text: &str) -> anyhow::Result<MetadataMap> {
    let mut metadata = MetadataMap::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        // Values are secrets more often than not: none is printed.
        let (key, value) = pair.split_once('=').context("a header of OTEL_EXPORTER_OTLP_HEADERS is no key=value")?;
        let key: MetadataKey<Ascii> = key.trim().to_ascii_lowercase().parse().context("the name of a header")?;
        let value: MetadataValue<Ascii> =
            unescaped(value.trim()).parse().with_context(|| format!("the header {key}"))?;
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[2..]);
            }
            None => {
                plain.push('%');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// What the text says, as a request.
fn export(process: &Process, text: &str, now: SystemTime) -> ExportMetricsServiceRequest {
    let times = Times { since: nanos(process.since), now: nanos(now) };
    let metrics = exposition::families(text).into_iter().map(|(name, family)| {
        let row = catalogue::find(name);
        Metric {
            name: name.to_owned(),
            description: row.map_or("", |row| row.help).to_owned(),
            unit: row.map_or("", catalogue::Metric::unit).to_owned(),
            data: Some(times.data(family)),
            ..Metric::default()
        }
    });
    let said = process.resource.iter().map(|(key, value)| attribute(key.to_string(), value.to_string()));
    let resource = Resource { attributes: said.collect(), ..Resource::default() };
    let scope = InstrumentationScope { name: "asobi".to_owned(), ..InstrumentationScope::default() };
    let scope_metrics = ScopeMetrics { scope: Some(scope), metrics: metrics.collect(), ..ScopeMetrics::default() };
    let resource_metrics =
        ResourceMetrics { resource: Some(resource), scope_metrics: vec![scope_metrics], ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

fn nanos(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(key: String, value: String) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { value: Some(Value::StringValue(value)) }), ..KeyValue::default() }
}

fn attributes(labels: Labels) -> Vec<KeyValue> {
    labels.into_iter().map(|(key, value)| attribute(key, value)).collect()
}

struct Times {
    since: u64,
    now: u64,
}

impl Times {
    fn data(&self, family: Family) -> Data {
        let temporality = AggregationTemporality::Cumulative.into();
        match family {
            Family::Gauge(series) => Data::Gauge(Gauge {
                data_points: series.into_iter().map(|(labels, value)| self.number(labels, value)).collect(),
            }),
            Family::Counter(series) => Data::Sum(Sum {
                data_points: series.into_iter().map(|(labels, value)| self.number(labels, value)).collect(),
                aggregation_temporality: temporality,
                is_monotonic: true,
            }),
            Family::Histogram(series) => Data::Histogram(Histogram {
                data_points: series.into_iter().map(|(labels, of)| self.distribution(labels, &of)).collect(),
                aggregation_temporality: temporality,
            }),
        }
    }

    fn number(&self, labels: Labels, value: f64) -> NumberDataPoint {
        NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.since,
            time_unix_nano: self.now,
            value: Some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        }
    }

    /// Prometheus counts what is below a bound, OTLP what is between two.
    fn distribution(&self, labels: Labels, of: &Distribution) -> HistogramDataPoint {
        let mut below = 0;
        let between = of.buckets.iter().map(|(_, count)| count.saturating_sub(std::mem::replace(&mut below, *count)));
        HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.since,
            time_unix_nano: self.now,
            count: of.count,
            sum: Some(of.sum),
            bucket_counts: between.collect(),
            explicit_bounds: of.buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect(),
            ..HistogramDataPoint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(variables: &[(&str, &str)]) -> anyhow::Result<Option<Target>> {
        let read = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Target::of(&Variables::new("METRICS", read))
    }

    #[tokio::test]
    async fn the_usual_variables_say_how_often_and_with_what() {
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
        assert!(target(&[]).unwrap().is_none());
        let plain = target(&[ENDPOINT]).unwrap().unwrap();
        assert_eq!((plain.every.as_secs(), plain.timeout.as_secs()), (60, 30));
        let own = [
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:4318"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20eA==, x=1"),
        ];
        let own = target(&own).unwrap().unwrap();
        assert_eq!((own.every.as_millis(), own.timeout.as_millis()), (500, 500));
        assert_eq!(own.metadata.get("authorization").unwrap(), "Basic eA==");
        for wrong in [
            [ENDPOINT, ("OTEL_METRIC_EXPORT_INTERVAL", "soon")],
            [ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "nonsense")],
        ] {
            assert!(target(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_histogram_is_sent_with_what_is_between_its_bounds() {
        let process = Process { resource: opentelemetry_sdk::Resource::builder_empty().build(), since: UNIX_EPOCH };
        let text = "# TYPE asobi_bus_batch_items histogram\nasobi_bus_batch_items_bucket{le=\"1\"} 2\nasobi_bus_batch_items_bucket{le=\"2\"} 5\n\
                    asobi_bus_batch_items_bucket{le=\"+Inf\"} 6\nasobi_bus_batch_items_sum 20\nasobi_bus_batch_items_count 6\n";
        let request = export(&process, text, UNIX_EPOCH + Duration::from_nanos(5));
        let metric = &request.resource_metrics[0].scope_metrics[0].metrics[0];
        assert_eq!((metric.unit.as_str(), metric.description.as_str()), ("1", "Hints of one NOTIFY transaction."));
        let Some(Data::Histogram(histogram)) = &metric.data else { panic!("no histogram: {metric:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[2, 3, 1][..], &[1.0, 2.0][..]));
        assert_eq!((point.count, point.sum, point.time_unix_nano), (6, Some(20.0), 5));
    }
}

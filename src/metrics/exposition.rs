//! Numbers for who watches, in the text format of Prometheus (version 0.0.4), which its server, the textfile collector of
//! node_exporter and all that read metrics understand. That of OpenMetrics is not read by the collector.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Metric, Registry};

/// The type of the text, for an answer by HTTP.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// What tells metrics of one name apart. None is `job` or `instance`: Prometheus gives these to what it reads.
pub type Labels = Vec<(&'static str, String)>;

/// Metrics of one moment. Each name begins with `walfs_`.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Default for Exposition {
    /// None yet.
    fn default() -> Self {
        Self(Registry::with_prefix("walfs"))
    }
}

impl Exposition {
    /// What is known of an archive that cannot be read, and of which nothing is remembered.
    pub fn unread() -> Self {
        let mut metrics = Self::default();
        metrics.readable(false);
        metrics
    }

    /// Can the archive be read now?
    pub fn readable(&mut self, is_readable: bool) {
        let help = "1: the archive could be read when it was looked at last";
        self.gauge("archive_readable", help, u64::from(is_readable));
    }

    /// A number that rises and falls.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstGauge::new(gauged(value)));
    }

    /// As many as there are labels; nothing if there is none.
    pub fn gauges(
        &mut self,
        (name, label): (&str, &'static str),
        help: &str,
        values: impl IntoIterator<Item = (String, u64)>,
    ) {
        let values = values.into_iter();
        self.labelled(
            name,
            help,
            values.map(|(value_of, value)| (vec![(label, value_of)], value)),
        );
    }

    /// The same with several labels each.
    pub fn labelled(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(gauged(value));
        }
        self.0.register(name, help, family);
    }

    /// The same with fractions: lengths of time in seconds.
    pub fn seconds(
        &mut self,
        (name, label): (&str, &'static str),
        help: &str,
        values: impl IntoIterator<Item = (String, f64)>,
    ) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (value_of, value) in values {
            family.get_or_create(&vec![(label, value_of)]).set(value);
        }
        self.0.register(name, help, family);
    }

    /// A number that only rises while this process runs. The text has `_total` behind its name.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstCounter::new(value));
    }

    /// As many as there are labels.
    pub fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    /// What counts by itself: a clone of it, which is the same.
    pub fn live(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.0.register(name, help, metric);
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.0).expect("a string takes all");
        text
    }
}

fn gauged(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

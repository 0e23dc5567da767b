//! Numbers for who watches, in the text format of OpenMetrics, which Prometheus and its textfile collector read.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

/// The line that ends a text.
pub const END: &str = "# EOF\n";

type Labels = Vec<(&'static str, String)>;

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
        let family = Family::<Labels, Gauge>::default();
        for (value_of, value) in values {
            family.get_or_create(&vec![(label, value_of)]).set(gauged(value));
        }
        self.0.register(name, help, family);
    }

    /// A number that only rises while this process runs. The text has `_total` behind its name.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstCounter::new(value));
    }

    /// As many as there are labels.
    pub fn counters(
        &mut self,
        (name, label): (&str, &'static str),
        help: &str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        let family = Family::<Labels, Counter<u64, AtomicU64>>::default();
        for (value_of, value) in values {
            family
                .get_or_create(&vec![(label, value_of.to_owned())])
                .inc_by(value);
        }
        self.0.register(name, help, family);
    }

    /// The text, without [`END`].
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode_registry(&mut text, &self.0).expect("a string takes all");
        text
    }
}

fn gauged(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

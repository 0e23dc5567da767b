//! How many requests were made, and how long they took: one count an attempt, so that a retry shows.
//!
//! Tests assert on them ("archiving the same segment again uploads nothing"), the status file shows them. They say
//! nothing about success.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::exposition::Exposition;

/// Attempts since the store was opened, by operation. One attempt is one request to an S3 server, except that a `head`
/// of an empty object takes two, a `get` of more last bytes than there are may take three.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Objects written whole, multipart completions included.
    pub puts: u64,
    /// Objects or ranges read.
    pub gets: u64,
    /// Questions after size and time; S3 is asked by a GET of one byte.
    pub heads: u64,
    /// Pages of listings.
    pub lists: u64,
    /// Delete requests, of up to 1000 objects each.
    pub deletes: u64,
    /// Parts of multipart uploads.
    pub parts: u64,
    /// Bytes received in successful reads.
    pub bytes_in: u64,
    /// Bytes handed to the backend for writing.
    pub bytes_out: u64,
}

impl Counts {
    /// All of them.
    pub fn requests(&self) -> u64 {
        self.puts + self.gets + self.heads + self.lists + self.deletes + self.parts
    }
}

/// Up to so many seconds an attempt took, by bucket: from a disk near by to the longest deadline.
const BUCKETS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

type ByOperation = [(&'static str, &'static str); 1];

/// The living side of [`Counts`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) puts: AtomicU64,
    pub(super) gets: AtomicU64,
    pub(super) heads: AtomicU64,
    pub(super) lists: AtomicU64,
    pub(super) deletes: AtomicU64,
    pub(super) parts: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    /// How long attempts took.
    took: Took,
    failed: Family<ByOperation, Counter>,
}

/// A histogram for each operation.
#[derive(Debug)]
struct Took(Family<ByOperation, Histogram>);

impl Default for Took {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(BUCKETS)))
    }
}

impl Counters {
    /// An attempt is over, also one that nobody has waited for to the end.
    pub(super) fn took(&self, operation: &'static str, seconds: f64, has_failed: bool) {
        let labels = [("operation", operation)];
        self.took.0.get_or_create(&labels).observe(seconds);
        let failed = self.failed.get_or_create(&labels);
        if has_failed {
            failed.inc();
        }
    }

    /// All as metrics.
    pub(super) fn expose(&self, metrics: &mut Exposition) {
        let help = "How long requests to the store took, each attempt, by operation";
        metrics.live("store_request_duration_seconds", help, self.took.0.clone());
        let help = "Requests to the store that failed or were given up, each attempt; to say that there is no such object is no failure";
        metrics.live("store_failed_requests", help, self.failed.clone());
        let help = "Bytes received in successful reads";
        metrics.counter("store_received_bytes", help, self.bytes_in.load(Relaxed));
        let help = "Bytes handed over for writing";
        metrics.counter("store_sent_bytes", help, self.bytes_out.load(Relaxed));
    }

    /// What they are now. Not one instant for all fields: each is right by itself.
    pub(super) fn read(&self) -> Counts {
        Counts {
            puts: self.puts.load(Relaxed),
            gets: self.gets.load(Relaxed),
            heads: self.heads.load(Relaxed),
            lists: self.lists.load(Relaxed),
            deletes: self.deletes.load(Relaxed),
            parts: self.parts.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }
}

/// Adds to one counter.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

//! The files in `.walfs/`: made when they are opened, plain text and JSON, no secrets.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use serde::Serialize;

use crate::archive::Archive;
use crate::metrics::{ForkFound, LastError, LastFile, Metrics};
use crate::store::Counts;

/// `status.json`.
#[derive(Debug, Serialize)]
struct Status<'a> {
    version: &'static str,
    archive: String,
    archive_id: &'a str,
    system_identifier: Option<String>,
    segment_bytes: Option<u64>,
    compression: String,
    put_if_absent: bool,
    mounted_at: Timestamp,
    archived_files: u64,
    sent_ahead: u64,
    repeated_files: u64,
    failed_files: u64,
    open_writes: usize,
    read_bytes: u64,
    cached_bytes: u64,
    ahead_bytes: u64,
    last_archived: Option<LastFile>,
    last_error: Option<LastError>,
    forks: Vec<ForkFound>,
    store_requests: Counts,
}

/// What `status.json` is made from, beside the archive and the counters.
#[derive(Debug, Clone, Copy)]
pub struct Gauges {
    /// When the mount came up.
    pub mounted_at: Timestamp,
    /// Files being written now.
    pub open_writes: usize,
    /// Bytes in the memory cache now.
    pub cached_bytes: u64,
    /// Stored bytes held of what was fetched ahead.
    pub ahead_bytes: u64,
}

/// The text of `status.json`.
pub fn status(archive: &Archive, metrics: &Metrics, gauges: Gauges) -> String {
    let cluster = archive.known_cluster();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        archive: archive.place(),
        archive_id: &archive.marker().archive_id,
        system_identifier: cluster.map(|cluster| cluster.system_id.to_string()),
        segment_bytes: cluster.map(|cluster| cluster.segment_size.bytes()),
        compression: archive.compression().to_string(),
        put_if_absent: archive.marker().put_if_absent,
        mounted_at: gauges.mounted_at,
        archived_files: metrics.archived_files.load(Ordering::Relaxed),
        sent_ahead: metrics.sent_ahead.load(Ordering::Relaxed),
        repeated_files: metrics.repeated_files.load(Ordering::Relaxed),
        failed_files: metrics.failed_files.load(Ordering::Relaxed),
        open_writes: gauges.open_writes,
        read_bytes: metrics.read_bytes.load(Ordering::Relaxed),
        cached_bytes: gauges.cached_bytes,
        ahead_bytes: gauges.ahead_bytes,
        last_archived: metrics.last_archived(),
        last_error: metrics.last_error(),
        forks: metrics.forks(),
        store_requests: archive.store().counts(),
    };
    let mut text = serde_json::to_string_pretty(&status).expect("plain data becomes JSON");
    text.push('\n');
    text
}

/// The text of `version`.
pub fn version() -> String {
    concat!("walfs ", env!("CARGO_PKG_VERSION"), "\n").to_owned()
}

//! What a mount tells of itself in `.walfs/`: made when it is opened, plain text and JSON, no secrets.

use jiff::Timestamp;
use serde::Serialize;

use crate::metrics::exposition::Exposition;
use crate::metrics::process::Process;
use crate::metrics::{Counted, Counters, ForkFound, LastError, LastFile};
use crate::mount::common::Common;

/// `mount.json`.
#[derive(Debug, Serialize)]
struct State<'a> {
    version: &'static str,
    archive: String,
    archive_id: &'a str,
    system_identifier: Option<String>,
    segment_bytes: Option<u64>,
    compression: String,
    put_if_absent: bool,
    mounted_at: Timestamp,
    open_writes: usize,
    #[serde(flatten)]
    counters: Counters,
    last_archived: Option<LastFile>,
    last_error: Option<LastError>,
    forks: Vec<ForkFound>,
}

/// The text of `mount.json`; `open_writes`: files being written now.
pub(super) fn state(common: &Common, open_writes: usize) -> String {
    let (archive, metrics) = (&common.archive, &common.metrics);
    let counters = metrics.of_all_rooms(archive, &common.reader, &common.staging);
    let cluster = archive.known_cluster();
    let state = State {
        version: env!("CARGO_PKG_VERSION"),
        archive: archive.place(),
        archive_id: &archive.marker().identity.archive_id,
        system_identifier: cluster.map(|cluster| cluster.system_id.to_string()),
        segment_bytes: cluster.map(|cluster| cluster.segment_size.bytes()),
        compression: archive.compression().to_string(),
        put_if_absent: archive.marker().put_if_absent,
        mounted_at: common.mounted_at,
        open_writes,
        counters,
        last_archived: metrics.last_archived(),
        last_error: metrics.last_error(),
        forks: metrics.forks(),
    };
    let mut text = serde_json::to_string_pretty(&state).expect("plain data becomes JSON");
    text.push('\n');
    text
}

/// Its counters for `metrics.prom`.
pub(super) fn metrics(common: &Common, open_writes: usize) -> String {
    let mut metrics = Exposition::default();
    let counters = common
        .metrics
        .of_all_rooms(&common.archive, &common.reader, &common.staging);
    Process::begun(common.mounted_at).expose(&mut metrics);
    counters.expose(&mut metrics);
    common.archive.store().expose(&mut metrics);
    metrics.gauge("open_writes", "Files being written now", open_writes as u64);
    metrics.text()
}

/// The text of `version`.
pub(in crate::mount) fn version() -> String {
    concat!("walfs ", env!("CARGO_PKG_VERSION"), "\n").to_owned()
}

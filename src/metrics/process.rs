//! What a process tells of itself, whatever it does.

use std::fs;

use jiff::Timestamp;

use super::Counted;
use super::exposition::Exposition;

/// A process that stays.
#[derive(Debug)]
pub struct Process {
    began: Timestamp,
}

impl Process {
    /// This one, which began then.
    pub fn begun(began: Timestamp) -> Self {
        Self { began }
    }
}

impl Counted for Process {
    fn expose(&self, metrics: &mut Exposition) {
        stamp(metrics);
        metrics.gauge(
            "start_timestamp_seconds",
            "When the process began",
            seconds(self.began),
        );
        if let Some(bytes) = resident_bytes() {
            metrics.gauge(
                "resident_memory_bytes",
                "Memory of the process, as the kernel counts it",
                bytes,
            );
        }
    }
}

/// What each text has, also one of a command that is done soon: which walfs has made it, and when.
pub fn stamp(metrics: &mut Exposition) {
    metrics.gauges(
        ("build_info", "version"),
        "1: the version of walfs",
        [(env!("CARGO_PKG_VERSION").to_owned(), 1)],
    );
    metrics.gauge(
        "metrics_timestamp_seconds",
        "When these metrics were written: a file grows old if its writer has died",
        seconds(Timestamp::now()),
    );
}

/// Seconds since 1970.
pub fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

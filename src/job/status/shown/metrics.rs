//! A status as metrics.

use jiff::Timestamp;

use crate::job::status::{Scheduled, Status};
use crate::metrics::exposition::Exposition;

/// The text, without its end.
pub(super) fn metrics(status: &Status, is_remembered: bool) -> String {
    let mut metrics = Exposition::default();
    let all = &mut metrics;
    all.readable(!is_remembered);
    moment(
        all,
        "status_timestamp_seconds",
        "When the archive was looked at",
        Some(status.at),
    );
    all.gauge(
        "troubles",
        "What somebody should look at",
        status.troubles.len() as u64,
    );
    of_backups(all, status);
    of_wal(all, status);
    if let Some(verified) = &status.verified {
        moment(
            all,
            "verified_timestamp_seconds",
            "When walfs verify ended last",
            Some(verified.at),
        );
        let oldest = "When that was read back which was read longest ago";
        moment(all, "verified_oldest_timestamp_seconds", oldest, verified.oldest);
        all.gauge(
            "verify_findings",
            "Objects that were damaged",
            verified.findings.len() as u64,
        );
    }
    of_schedule(all, status);
    if let Some(backlog) = status.backlog.as_ref().filter(|backlog| backlog.error.is_none()) {
        all.gauge(
            "waiting_files",
            "Files in pg_wal that wait to be archived",
            backlog.waiting,
        );
        moment(
            all,
            "waiting_since_timestamp_seconds",
            "Since when the oldest waits",
            backlog.since,
        );
        if let Some(free) = backlog.free_bytes {
            all.gauge("pg_wal_free_bytes", "Free bytes on the disk of pg_wal", free);
        }
    }
    metrics.text()
}

fn of_backups(all: &mut Exposition, status: &Status) {
    let complete = || status.backups.iter().filter(|backup| backup.lacks.is_none());
    let states = [
        ("complete", complete().count()),
        ("incomplete", status.backups.len() - complete().count()),
        ("unfinished", status.unfinished.len()),
    ];
    let states = states.map(|(state, many)| (state.to_owned(), many as u64));
    all.gauges(("backups", "state"), "Backups in the archive", states);
    let pinned = status.backups.iter().filter(|backup| backup.pinned.is_some());
    all.gauge(
        "pinned_backups",
        "Backups that no prune removes",
        pinned.count() as u64,
    );
    let stored = status.backups.iter().map(|backup| backup.stored_bytes).sum();
    all.gauge(
        "backups_stored_bytes",
        "Bytes stored for these backups alone: without parts of pruned ones that they need",
        stored,
    );
    let newest = complete().map(|backup| backup.ended).max();
    moment(
        all,
        "newest_backup_timestamp_seconds",
        "When the newest complete backup ended",
        newest,
    );
}

fn of_wal(all: &mut Exposition, status: &Status) {
    let last = status.last_segment.as_ref().map(|last| last.at);
    moment(
        all,
        "last_segment_timestamp_seconds",
        "When the last segment was archived",
        last,
    );
    let ends = &status.recoverable;
    all.gauges(
        ("recoverable", "timeline"),
        "1: a backup reaches the end of this timeline",
        ends.iter()
            .map(|end| (end.timeline.to_string(), u64::from(end.backup.is_some()))),
    );
    let commits = ends
        .iter()
        .filter_map(|end| Some((end.timeline.to_string(), seconds(end.last_commit?))));
    all.gauges(
        ("last_commit_timestamp_seconds", "timeline"),
        "The last commit that comes back",
        commits,
    );
    let missing = status.timelines.iter().map(|own| {
        let missing = own.holes.iter().map(|(first, last)| last - first + 1).sum();
        (own.timeline.to_string(), missing)
    });
    all.gauges(
        ("missing_segments", "timeline"),
        "Segments that are missing between others",
        missing,
    );
}

fn of_schedule(all: &mut Exposition, status: &Status) {
    let jobs = || status.scheduled.iter();
    let name = |job: &Scheduled| job.job.name().to_owned();
    all.gauges(
        ("job_done_timestamp_seconds", "job"),
        "When a scheduled job was done last",
        jobs().filter_map(|job| Some((name(job), seconds(job.last_done?)))),
    );
    all.gauges(
        ("job_next_timestamp_seconds", "job"),
        "When a scheduled job is due next",
        jobs().filter_map(|job| Some((name(job), seconds(job.next?)))),
    );
    all.gauges(
        ("job_failed_tries", "job"),
        "How often a scheduled job has failed since it was due; 0: it was done, or has not failed",
        jobs().map(|job| {
            (
                name(job),
                job.failed.as_ref().map_or(0, |failed| u64::from(failed.0)),
            )
        }),
    );
    all.gauges(
        ("job_overdue", "job"),
        "1: a scheduled job is due, and no host has begun it",
        jobs().map(|job| (name(job), u64::from(job.overdue.is_some()))),
    );
}

fn moment(all: &mut Exposition, name: &str, help: &str, at: Option<Timestamp>) {
    if let Some(at) = at {
        all.gauge(name, help, seconds(at));
    }
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

//! A status as metrics.

use jiff::Timestamp;

use crate::job::status::{FilesStatus, Recoverable, Scheduled, Status};
use crate::metrics::exposition::{Exposition, Labels};
use crate::metrics::process::seconds;

/// The metrics. A moment that is not known has none.
pub(super) fn metrics(status: &Status, is_remembered: bool) -> Exposition {
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
        "What somebody should look at: walfs status names it",
        status.troubles.len() as u64,
    );
    of_recovery(all, status);
    of_backups(all, status);
    of_versions(all, status);
    of_wal(all, status);
    of_verification(all, status);
    of_schedule(all, status);
    of_backlog(all, status);
    metrics
}

fn of_recovery(all: &mut Exposition, status: &Status) {
    let ends = || status.recoverable.iter();
    all.gauges(
        ("recoverable", "timeline"),
        "1: a backup reaches the end of this timeline",
        ends().map(|end| (end.timeline.to_string(), u64::from(end.backup.is_some()))),
    );
    let moments = || ends().filter_map(|end| Some((end.timeline.to_string(), newest_moment(status, end)?)));
    all.gauges(
        ("recoverable_timestamp_seconds", "timeline"),
        "The newest moment that comes back: of the last commit, or of the end of the backup if that has none behind it",
        moments().map(|(timeline, at)| (timeline, seconds(at))),
    );
    let now = Timestamp::now();
    let age = |at: Timestamp| u64::try_from(now.duration_since(at).as_secs()).unwrap_or(0);
    all.gauges(
        ("recoverable_age_seconds", "timeline"),
        "How long ago that was when these metrics were written",
        moments().map(|(timeline, at)| (timeline, age(at))),
    );
}

pub(in crate::job::status) fn newest_moment(status: &Status, end: &Recoverable) -> Option<Timestamp> {
    let name = end.backup.as_ref()?;
    let backup = status.backups.iter().find(|backup| backup.name == *name)?;
    Some(
        end.last_commit
            .map_or(backup.ended, |commit| commit.max(backup.ended)),
    )
}

fn of_backups(all: &mut Exposition, status: &Status) {
    let complete = status.complete().count();
    let states = [
        ("complete", complete),
        ("incomplete", status.backups.len() - complete),
        ("unfinished", status.unfinished.len()),
    ];
    let states = states.map(|(state, many)| (state.to_owned(), many as u64));
    all.gauges(("backups", "state"), "Backups in the archive", states);
    let pinned = status.backups.iter().filter(|backup| backup.pinned.is_some());
    all.gauge(
        "backups_pinned",
        "Backups that no prune removes",
        pinned.count() as u64,
    );
    let stored = status.backups.iter().map(|backup| backup.stored_bytes).sum();
    all.gauge(
        "backups_stored_bytes",
        "Bytes stored for these backups alone: without parts of pruned ones that they need",
        stored,
    );
    let newest = status.newest().map(|backup| backup.ended);
    moment(
        all,
        "backup_newest_timestamp_seconds",
        "When the newest complete backup ended",
        newest,
    );
}

/// Of each name of files and dumps.
fn of_versions(all: &mut Exposition, status: &Status) {
    let labels = |files: &FilesStatus| -> Labels {
        let content = files.content.folder().to_owned();
        vec![("content", content), ("name", files.name.clone())]
    };
    let names = || status.files.iter();
    all.labelled(
        "versions",
        "Versions of files, or dumps, that read whole",
        names().map(|files| (labels(files), files.versions)),
    );
    all.labelled(
        "versions_lacking",
        "Versions of files, or dumps, that do not read whole",
        names().map(|files| (labels(files), files.lacking.len() as u64)),
    );
    all.labelled(
        "versions_stored_bytes",
        "Bytes stored for these versions alone: without parts of pruned ones that they need",
        names().map(|files| (labels(files), files.stored_bytes)),
    );
    all.labelled(
        "version_newest_timestamp_seconds",
        "When the newest version that reads whole was stored",
        names().filter_map(|files| Some((labels(files), seconds(files.newest?)))),
    );
}

fn of_wal(all: &mut Exposition, status: &Status) {
    let last = status.last_segment.as_ref().map(|last| last.at);
    moment(
        all,
        "wal_last_segment_timestamp_seconds",
        "When the last segment was archived",
        last,
    );
    let missing = status.timelines.iter().map(|own| {
        let missing = own.holes.iter().map(|(first, last)| last - first + 1).sum();
        (own.timeline.to_string(), missing)
    });
    all.gauges(
        ("wal_missing_segments", "timeline"),
        "Segments that are missing between others",
        missing,
    );
}

fn of_schedule(all: &mut Exposition, status: &Status) {
    let jobs = || status.scheduled.iter();
    let name = |job: &Scheduled| match &job.only_host {
        Some(host) => format!("{}@{host}", job.job.name()),
        None => job.job.name().to_owned(),
    };
    all.gauges(
        ("job_last_done_timestamp_seconds", "command"),
        "When a scheduled job was done last",
        jobs().filter_map(|job| Some((name(job), seconds(job.last_done?)))),
    );
    all.gauges(
        ("job_next_timestamp_seconds", "command"),
        "When a scheduled job is due next",
        jobs().filter_map(|job| Some((name(job), seconds(job.next?)))),
    );
    all.gauges(
        ("job_failed_tries", "command"),
        "How often a scheduled job has failed since it was due; 0: it was done, or has not failed",
        jobs().map(|job| {
            (
                name(job),
                job.failed.as_ref().map_or(0, |failed| u64::from(failed.0)),
            )
        }),
    );
    all.gauges(
        ("job_overdue", "command"),
        "1: a scheduled job is due, and no host has begun it",
        jobs().map(|job| (name(job), u64::from(job.overdue.is_some()))),
    );
    all.gauges(
        ("job_trouble", "command"),
        "1: a scheduled job was done, and has found something that somebody should look at",
        jobs().map(|job| (name(job), u64::from(job.trouble.is_some()))),
    );
}

fn of_verification(all: &mut Exposition, status: &Status) {
    let Some(verified) = &status.verified else { return };
    let when = "When walfs verify ended last";
    moment(all, "verify_last_timestamp_seconds", when, Some(verified.at));
    let oldest = "When that was read back which was read longest ago";
    moment(all, "verify_oldest_timestamp_seconds", oldest, verified.oldest);
    let findings = "Objects that were damaged or missing when they were read last";
    all.gauge("verify_findings", findings, verified.findings.len() as u64);
}

fn of_backlog(all: &mut Exposition, status: &Status) {
    let Some(backlog) = &status.backlog else { return };
    all.gauge(
        "pg_wal_readable",
        "1: pg_wal could be looked at",
        u64::from(backlog.error.is_none()),
    );
    if backlog.error.is_some() {
        return;
    }
    let waiting = "Files in pg_wal that wait to be archived";
    all.gauge("pg_wal_waiting_files", waiting, backlog.waiting);
    let since = "Since when the oldest of them waits";
    moment(
        all,
        "pg_wal_waiting_since_timestamp_seconds",
        since,
        backlog.since,
    );
    let refused = "1: the first of them is archived with other content, and archiving comes no further";
    all.gauge("pg_wal_refused", refused, u64::from(backlog.is_refused));
    let numbers = [
        (
            "pg_wal_free_bytes",
            "Free bytes on the disk of pg_wal",
            backlog.free_bytes,
        ),
        (
            "pg_wal_full_in_seconds",
            "How long until the disk of pg_wal is full, if WAL comes on and none is archived; only while files wait",
            backlog.full_in_seconds,
        ),
    ];
    for (name, help, value) in numbers {
        if let Some(value) = value {
            all.gauge(name, help, value);
        }
    }
}

fn moment(all: &mut Exposition, name: &str, help: &str, at: Option<Timestamp>) {
    if let Some(at) = at {
        all.gauge(name, help, seconds(at));
    }
}

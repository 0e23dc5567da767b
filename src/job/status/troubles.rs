//! What somebody should look at, told from the facts alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Status, age};
use crate::archive::tree::{TreeKind, TreeName};

/// A mark that waits longer than this is no segment that was just finished.
const WAITS_LONG: u64 = 300;

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What is wrong, and what it costs.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// How old things may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The newest complete backup.
    pub backup: Option<Duration>,
    /// The segment that was archived last.
    pub wal: Option<Duration>,
}

/// All, the worst first.
pub(super) fn all(status: &Status, unreadable: &[(TreeName, String)], limits: &Limits) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let mut add = |what: String, hint: &str| {
        troubles.push(Trouble {
            what,
            hint: hint.to_owned(),
        });
    };
    let archive = &status.archive;
    match status.newest().map(|backup| backup.ended) {
        // An archive of files or dumps alone.
        None if status.segment_bytes.is_none() && !status.files.is_empty() => {}
        None => add(
            "nothing can be restored: no backup is complete".into(),
            &format!("`walfs backup --archive {archive}` takes one"),
        ),
        Some(newest) => {
            let old = age(newest, status.at);
            if limits.backup.is_some_and(|most| old > most.as_secs()) {
                add(
                    format!("the newest complete backup is {} old", spoken(old)),
                    &format!("`walfs backup --archive {archive}` takes one"),
                );
            }
        }
    }
    for line in &status.recoverable {
        if let Some(gap) = &line.gap {
            let end = line.wal_ends_at.as_deref().unwrap_or("its end");
            add(
                format!(
                    "recovery along timeline {} ends at {end}: {gap} is missing, and segments behind it are archived",
                    line.timeline
                ),
                "look for it in pg_wal of the servers and of their standbys, and archive it; then take a new backup",
            );
        }
        if let Some(broken) = &line.broken {
            let end = match &line.wal_ends_at {
                Some(end) => format!("ends at {end}"),
                None => "cannot begin".into(),
            };
            add(
                format!("recovery along timeline {} {end}: {broken}", line.timeline),
                &format!(
                    "`walfs backup --archive {archive}` on its server, now; then `walfs verify` tells what it costs. A copy of the \
                     store may have that object whole"
                ),
            );
        } else if line.backup.is_none() && status.complete().next().is_some() {
            add(
                format!(
                    "timeline {} is archived, and no complete backup reaches it",
                    line.timeline
                ),
                &format!("`walfs backup --archive {archive}` on its server"),
            );
        }
    }
    if status.recoverable.len() > 1 {
        let ends: Vec<String> = status
            .recoverable
            .iter()
            .map(|line| line.timeline.to_string())
            .collect();
        add(
            format!(
                "{} lines of history go on, to timelines {}: recovery must be told which to follow",
                ends.len(),
                ends.join(", ")
            ),
            "after a recovery to an earlier state the next backup decides which; else one of two servers archives here that \
             should not, perhaps a restored copy: stop it, or give it a prefix of its own",
        );
    }
    for own in &status.timelines {
        let Some(broken) = &own.broken else { continue };
        if own.stops_recovery {
            add(
                format!(
                    "nothing can be recovered along timeline {} or an older one: every server asks for its history, and {broken}",
                    own.timeline
                ),
                "bring that object back from a copy of the store; or remove it there, and archive the file anew: pg_wal of the \
                 timeline's server, or of a standby, has it",
            );
        } else {
            add(
                format!(
                    "no backup of another timeline recovers onto timeline {}: {broken}",
                    own.timeline
                ),
                "archive its .history file: pg_wal of its server, or of a standby, has it",
            );
        }
    }
    for (name, reason) in unreadable {
        add(
            format!("what backup {name} is cannot be known: {}", first_line(reason)),
            "bring its summary back from a copy of the store",
        );
    }
    for backup in &status.backups {
        if let Some(lacks) = &backup.lacks {
            add(
                format!("backup {} cannot be restored: {}", backup.name, first_line(lacks)),
                &format!(
                    "`walfs verify --archive {archive} {}` says what it costs",
                    backup.name
                ),
            );
        }
    }
    for backup in status.complete().filter(|backup| status.is_ahead(backup)) {
        add(
            format!(
                "backup {} says that it ended at {:.0}, which is yet to come: a clock was ahead",
                backup.name, backup.ended
            ),
            &format!("set the clocks; then `walfs backup --archive {archive}` takes one whose age is known"),
        );
    }
    if let Some(newest) = status.newest()
        && newest.bad_pages > 0
    {
        let whole = status.complete().rfind(|backup| backup.bad_pages == 0);
        add(
            format!(
                "backup {}, the newest, has {} pages that were damaged on the server already",
                newest.name, newest.bad_pages
            ),
            &match whole {
                Some(whole) => format!(
                    "`walfs backup-show --archive {archive} {}` names them; backup {} has none, and a prune keeps it",
                    newest.name, whole.name
                ),
                None => format!(
                    "`walfs backup-show --archive {archive} {}` names them; the server's disk, or its memory, is not to be trusted",
                    newest.name
                ),
            },
        );
    }
    for files in &status.files {
        let (what, command) = match files.content {
            TreeKind::Dump => ("a dump", "dump"),
            _ => ("a version of files", "files"),
        };
        for lacking in &files.lacking {
            add(
                format!("{what} does not read whole: {}", first_line(lacking)),
                &format!(
                    "`walfs verify --archive {archive}` says what it costs; the next `walfs {command}` stores anew what is \
                     lost"
                ),
            );
        }
    }
    for tree in status.unfinished.iter().filter(|tree| tree.may_be_complete) {
        add(
            format!("backup {} may be complete, and has lost its summary", tree.name),
            "bring the summary back from a copy of the store, or remove the rest by `walfs backup-discard`",
        );
    }
    for finding in status.verified.iter().flat_map(|verified| &verified.findings) {
        add(
            format!("damaged when it was read last: {finding}"),
            &format!("`walfs verify --archive {archive}` reads it again"),
        );
    }
    for job in &status.scheduled {
        let name = job.name();
        if let Some((tries, error)) = &job.failed {
            let host = job.host.as_deref().unwrap_or("its host");
            add(
                format!(
                    "the scheduled {name} has failed on {host} ({tries} in a row): {}",
                    first_line(error).trim_start_matches("walfs: ")
                ),
                "look at the log of `walfs agent` there; it tries again",
            );
        }
        if let Some(trouble) = &job.trouble {
            add(
                format!("the scheduled {name} was done, and says: {}", first_line(trouble)),
                "look at the log of `walfs agent`",
            );
        }
        if let Some(due) = job.overdue {
            add(
                format!("the scheduled {name} was due {due:.0}, and no host has begun it"),
                &match &job.only_host {
                    None => "is a `walfs agent` with this schedule running?".to_owned(),
                    Some(host) => format!(
                        "is a `walfs agent` with this schedule running on {host}? If that is gone for good, remove schedule/files@{host}/ \
                         from the archive"
                    ),
                },
            );
        }
    }
    if let Some(last) = &status.last_segment {
        let old = age(last.at, status.at);
        if limits.wal.is_some_and(|most| old > most.as_secs()) {
            add(
                format!(
                    "the last segment, {}, was archived {} ago",
                    last.name,
                    spoken(old)
                ),
                "look at pg_stat_archiver and at the server's log; archive_timeout bounds this where little is written",
            );
        }
    }
    if let Some(backlog) = &status.backlog {
        if let Some(error) = &backlog.error {
            add(
                format!("{} cannot be looked at: {error}", backlog.directory),
                "--pg-wal names pg_wal of the server's data directory",
            );
        }
        if let Some(first) = backlog.first.as_ref().filter(|_| backlog.is_refused) {
            add(
                format!(
                    "{first}, which waits in {} to be archived, is archived with other content: the archiver comes no further",
                    backlog.directory
                ),
                "another server has archived it, or this one before it was put back to an earlier state: give it an archive of its \
                 own, or a timeline of its own (`walfs restore` from this archive)",
            );
        }
        let waits = backlog.since.map_or(0, |since| age(since, status.at));
        if waits > WAITS_LONG {
            let full = backlog
                .full_in_seconds
                .map(|seconds| format!("; the disk is full in {}", spoken(seconds)));
            add(
                format!(
                    "{} files wait in {} to be archived, the first for {}{}",
                    backlog.waiting,
                    backlog.directory,
                    spoken(waits),
                    full.unwrap_or_default()
                ),
                "look at pg_stat_archiver and at the server's log",
            );
        }
    }
    troubles
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A length of time in one or two units.
pub fn spoken(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{minutes} min"),
        7200..=172_799 => format!("{hours} h"),
        _ => format!("{days} days"),
    }
}

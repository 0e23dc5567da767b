//! The forms in which a status is told: the screen, JSON, a picture, metrics.

use indicatif::BinaryBytes;
use jiff::Timestamp;

use super::{Scheduled, Status, age, spoken};
use crate::metrics::exposition::Exposition;
use crate::printable::printable;

mod metrics;
mod picture;

pub(super) use metrics::newest_moment;

/// A status, and whether it is an old one, because the archive cannot be read now.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    status: &'a Status,
    is_remembered: bool,
}

impl<'a> Shown<'a> {
    /// Of this moment.
    pub fn now(status: &'a Status) -> Self {
        Self {
            status,
            is_remembered: false,
        }
    }

    /// What was seen last.
    pub fn remembered(status: &'a Status) -> Self {
        Self {
            status,
            is_remembered: true,
        }
    }

    /// One screen of text.
    pub fn screen(self) -> String {
        let screen = screen(self.status);
        match self.is_remembered {
            true => format!(
                "THE ARCHIVE CANNOT BE READ NOW. This was seen {} ago, at {:.0}:\n\n{screen}",
                spoken(age(self.status.at, Timestamp::now())),
                self.status.at
            ),
            false => screen,
        }
    }

    /// One JSON object on a line.
    pub fn json(self) -> String {
        let mut value = serde_json::to_value(self.status).expect("plain data becomes JSON");
        value["is_remembered"] = self.is_remembered.into();
        format!("{value}\n")
    }

    /// The time line as SVG.
    pub fn picture(self) -> String {
        picture::svg(self.status)
    }

    /// Metrics.
    pub fn metrics(self) -> Exposition {
        metrics::metrics(self.status, self.is_remembered)
    }
}

fn scheduled(job: &Scheduled, now: Timestamp) -> String {
    let done = match job.last_done {
        Some(at) => format!("done {} ago", spoken(age(at, now))),
        None => "not done yet".to_owned(),
    };
    let host = job
        .host
        .as_ref()
        .map_or(String::new(), |host| format!(", {host} is at it"));
    let next = job.next.map_or(String::new(), |next| format!(", next {next:.0}"));
    format!(
        "schedule   {} at {:?}: {done}{host}{next}",
        job.name(),
        job.schedule
    )
}

/// What there is, from the archive down to what somebody should look at.
fn screen(status: &Status) -> String {
    let ago = |at: Timestamp| spoken(age(at, status.at));
    let mut lines = vec![match &status.system_identifier {
        Some(cluster) => format!("archive    {}, of cluster {cluster}", status.archive),
        None => format!("archive    {}, which has no WAL yet", status.archive),
    }];
    for line in &status.recoverable {
        let Some(backup) = &line.backup else { continue };
        let moment = match (line.last_commit, &line.last_commit_lsn) {
            (Some(at), Some(lsn)) => format!("{at:.3}, {} ago (commit at {lsn})", ago(at)),
            _ => format!(
                "{}, with no commit behind the backup",
                line.wal_ends_at.as_deref().unwrap_or("its end")
            ),
        };
        lines.push(format!(
            "recover    timeline {}, from backup {backup} up to {moment}",
            line.timeline
        ));
    }
    if let Some(last) = &status.last_segment {
        lines.push(format!("last WAL   {}, archived {} ago", last.name, ago(last.at)));
    }
    let complete = status.complete().count();
    let stored: u64 = status.backups.iter().map(|backup| backup.stored_bytes).sum();
    lines.push(match status.newest() {
        Some(newest) => format!(
            "backups    {} complete, {} not, {} pinned, {} stored for them alone; the newest is {}, {} ago",
            complete,
            status.backups.len() - complete + status.unfinished.len(),
            status
                .backups
                .iter()
                .filter(|backup| backup.pinned.is_some())
                .count(),
            BinaryBytes(stored),
            newest.name,
            ago(newest.ended)
        ),
        None => "backups    none is complete".to_owned(),
    });
    lines.extend(status.files.iter().map(|files| {
        let newest = files.newest.map_or("none reads whole".to_owned(), |newest| {
            format!("the newest is {} old", ago(newest))
        });
        format!(
            "{:<10} {}: {} versions, {} stored; {newest}",
            files.content.folder(),
            files.name,
            files.versions,
            BinaryBytes(files.stored_bytes)
        )
    }));
    lines.push(match &status.verified {
        None => "verified   never (`walfs verify`)".to_owned(),
        Some(verified) => format!(
            "verified   {} ago, {} findings{}",
            ago(verified.at),
            verified.findings.len(),
            verified.oldest.map_or(String::new(), |oldest| format!(
                "; what was read longest ago: {} ago",
                ago(oldest)
            ))
        ),
    });
    lines.extend(status.scheduled.iter().map(|job| scheduled(job, status.at)));
    if let Some(backlog) = status.backlog.as_ref().filter(|backlog| backlog.error.is_none()) {
        let free = backlog.free_bytes.map_or(String::new(), |free| {
            format!(", {} free on its disk", BinaryBytes(free))
        });
        lines.push(format!("pg_wal     {} files wait{free}", backlog.waiting));
    }
    let mut text: String = lines
        .iter()
        .map(|line| printable(line).into_owned() + "\n")
        .collect();
    let drawn = picture::text(status);
    if !drawn.is_empty() {
        text.push('\n');
        text.push_str(&drawn);
    }
    for trouble in &status.troubles {
        text.push_str(&format!(
            "\nLOOK: {}\nHINT: {}\n",
            printable(&trouble.what),
            printable(&trouble.hint)
        ));
    }
    if status.troubles.is_empty() {
        text.push_str("\nAll is well.\n");
    }
    text
}

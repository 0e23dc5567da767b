//! Where recovery shall end, in PostgreSQL's words, and which backups can get there.

use std::fmt;

use jiff::Timestamp;

use crate::archive::tree::summary::Summary;
use crate::pg::{Lsn, Timeline};

/// `recovery_target`, of which there is at most one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The end of the WAL.
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// A point in time.
    Time(Timestamp),
    /// A position.
    Lsn(Lsn),
    /// A point made with `pg_create_restore_point`.
    Name(String),
    /// A transaction's end.
    Xid(u64),
}

/// `recovery_target_timeline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The newest one that the archive knows.
    Latest,
    /// The one on which the backup was taken.
    Current,
    /// This one.
    Number(Timeline),
}

/// `recovery_target_action`: what the server does at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    /// It can be read, and waits for `pg_wal_replay_resume()`.
    Pause,
    /// It opens for writing.
    Promote,
    /// It stops.
    Shutdown,
}

impl Target {
    /// The name and value of its setting.
    pub fn setting(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Latest => None,
            Self::Immediate => Some(("recovery_target", "immediate".into())),
            Self::Time(time) => Some((
                "recovery_target_time",
                time.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string(),
            )),
            Self::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            Self::Name(name) => Some(("recovery_target_name", name.clone())),
            Self::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
        }
    }

    /// Where or when the backup ends, if that is after this target: it cannot be recovered to it.
    ///
    /// For names and transactions only the WAL itself can tell; PostgreSQL does, and stops.
    pub fn too_early_for(&self, summary: &Summary) -> Option<String> {
        let stop = summary.backup.stop().map(|(_, lsn)| lsn)?;
        let reachable_from = summary.backup.ended.reachable_from();
        match self {
            Self::Time(time) if *time < reachable_from => Some(reachable_from.to_string()),
            Self::Lsn(lsn) if *lsn < stop => Some(stop.to_string()),
            _ => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => out.write_str("the end of the WAL"),
            Self::Immediate => out.write_str("the end of the backup"),
            Self::Time(time) => write!(out, "{time}"),
            Self::Lsn(lsn) => write!(out, "{lsn}"),
            Self::Name(name) => write!(out, "the restore point {name:?}"),
            Self::Xid(xid) => write!(out, "transaction {xid}"),
        }
    }
}

impl fmt::Display for TargetTimeline {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => out.write_str("latest"),
            Self::Current => out.write_str("current"),
            Self::Number(timeline) => write!(out, "{timeline}"),
        }
    }
}

impl fmt::Display for TargetAction {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        })
    }
}

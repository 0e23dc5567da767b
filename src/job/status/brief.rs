//! The state of an archive in one line, beside those of others.

use jiff::Timestamp;
use serde::Serialize;

use super::shown::newest_moment;
use super::{Status, spoken};
use crate::metrics::exposition::Exposition;
use crate::metrics::process::seconds;
use crate::printable::printable;

/// How an archive is. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It cannot be read.
    Unread,
    /// Somebody should look at something.
    Look,
    /// All is well.
    Well,
}

/// What is told of one archive.
#[derive(Debug, Clone, Serialize)]
pub struct Brief {
    /// Its name at its place.
    pub name: String,
    /// How it is.
    pub state: State,
    /// The newest complete backup.
    pub backup: Option<String>,
    /// When that ended.
    pub backup_ended: Option<Timestamp>,
    /// The newest moment that comes back.
    pub recoverable: Option<Timestamp>,
    /// The segment that was archived last.
    pub last_segment: Option<String>,
    /// When.
    pub last_segment_at: Option<Timestamp>,
    /// What somebody should look at, the worst first; or why nothing can be read.
    pub troubles: Vec<String>,
    /// When it was looked at.
    pub at: Timestamp,
}

impl Brief {
    /// Of an archive that was looked at.
    pub fn of(name: &str, status: &Status) -> Self {
        let newest = status.newest();
        let ends = status.recoverable.iter();
        let last = status.last_segment.as_ref();
        Self {
            name: name.to_owned(),
            state: match status.troubles.is_empty() {
                true => State::Well,
                false => State::Look,
            },
            backup: newest.map(|backup| backup.name.clone()),
            backup_ended: newest.map(|backup| backup.ended),
            recoverable: ends.filter_map(|end| newest_moment(status, end)).max(),
            last_segment: last.map(|last| last.name.clone()),
            last_segment_at: last.map(|last| last.at),
            troubles: status
                .troubles
                .iter()
                .map(|trouble| trouble.what.clone())
                .collect(),
            at: status.at,
        }
    }

    /// Of one that cannot be read.
    pub fn unread(name: &str, why: String) -> Self {
        Self {
            name: name.to_owned(),
            state: State::Unread,
            backup: None,
            backup_ended: None,
            recoverable: None,
            last_segment: None,
            last_segment_at: None,
            troubles: vec![why],
            at: Timestamp::now(),
        }
    }
}

/// One line each, below their titles.
pub fn table(briefs: &[Brief]) -> String {
    let mut rows = vec![["STATE", "NAME", "BACKUP", "AGE", "RECOVERABLE", "LAST WAL"].map(str::to_owned)];
    rows.extend(briefs.iter().map(row));
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let told = std::iter::once("TROUBLE".to_owned()).chain(briefs.iter().map(phrase));
    let lines = rows.iter().zip(told).map(|(row, trouble)| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}  "));
        let line: String = cells.collect::<String>() + &trouble;
        line.trim_end().to_owned() + "\n"
    });
    lines.collect()
}

fn row(brief: &Brief) -> [String; 6] {
    let ago = |at: Timestamp| spoken(u64::try_from(brief.at.duration_since(at).as_secs()).unwrap_or(0));
    let none = || "-".to_owned();
    let state = match brief.state {
        State::Unread => "UNREAD",
        State::Look => "LOOK",
        State::Well => "well",
    };
    [
        state.to_owned(),
        printable(&brief.name).into_owned(),
        brief.backup.clone().unwrap_or_else(none),
        brief.backup_ended.map_or_else(none, ago),
        brief.recoverable.map_or_else(none, |at| format!("{at:.0}")),
        brief
            .last_segment_at
            .map_or_else(none, |at| format!("{} ago", ago(at))),
    ]
}

/// The worst in the first line of its text, and how many there are beside it.
fn phrase(brief: &Brief) -> String {
    let Some(worst) = brief.troubles.first() else {
        return String::new();
    };
    let first = printable(worst.lines().next().unwrap_or_default()).into_owned();
    match brief.troubles.len() {
        1 => first,
        more => format!("{first} (and {} more)", more - 1),
    }
}

/// A number of an archive, if it is known.
type Told = fn(&Brief) -> Option<u64>;

/// The same as metrics, each with the archive's name.
pub fn metrics(briefs: &[Brief]) -> Exposition {
    let mut metrics = Exposition::default();
    let named = |value: Told| {
        let values = briefs
            .iter()
            .filter_map(move |brief| Some((brief.name.clone(), value(brief)?)));
        values.collect::<Vec<_>>()
    };
    let gauges: [(&str, &str, Told); 5] = [
        (
            "archive_readable",
            "1: the archive could be read when it was looked at last",
            |brief| Some(u64::from(brief.state != State::Unread)),
        ),
        (
            "troubles",
            "What somebody should look at: walfs status names it",
            |brief| (brief.state != State::Unread).then_some(brief.troubles.len() as u64),
        ),
        (
            "backup_newest_timestamp_seconds",
            "When the newest complete backup ended",
            |brief| brief.backup_ended.map(seconds),
        ),
        (
            "recoverable_newest_timestamp_seconds",
            "The newest moment that comes back, of all timelines",
            |brief| brief.recoverable.map(seconds),
        ),
        (
            "wal_last_segment_timestamp_seconds",
            "When the last segment was archived",
            |brief| brief.last_segment_at.map(seconds),
        ),
    ];
    for (name, help, value) in gauges {
        metrics.gauges((name, "archive"), help, named(value));
    }
    metrics
}

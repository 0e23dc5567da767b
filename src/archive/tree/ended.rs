//! When a backup ended: the moment of its stop position, never that of its storing (promise B8).
//!
//! Who took it may have asked the server. Otherwise the `.backup` file says it that the server leaves in `wal/`: its times
//! are those of the server's `log_timezone`, whose abbreviation means nothing by itself unless it is UTC or a number. But
//! START TIME is there as well, and where `pg_control` still names the checkpoint that the backup began with, it has that
//! moment in UTC: the difference is the zone. Without a `.backup` file there is a lower bound only, and it is called one.

use std::fmt;

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::pg::backup_history::BackupHistory;
use crate::pg::control::{ClusterState, ControlFile};
use crate::pg::label::{BackupFrom, BackupLabel};

/// How long after the end of its first checkpoint a backup says that it has begun, at most.
const BEGINS_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// Zones of today are whole multiples of this from UTC, but for two of small islands and Nepal's.
const ZONE_STEP_SECONDS: i64 = 1800;

/// The moment of a backup's stop position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The moment, or the latest one that is known to lie before it.
    pub at: Timestamp,
    /// How that is known.
    pub known_from: KnownFrom,
}

/// Who says when a backup ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnownFrom {
    /// The server, asked right behind `pg_backup_stop`.
    Server,
    /// The clock of the host that read it, when it began to. Not of a base backup.
    Clock,
    /// STOP TIME of the `.backup` file in `wal/`, which has whole seconds.
    BackupHistory,
    /// `pg_control` of a server that was shut down before it was copied, in whole seconds.
    Shutdown,
    /// A lower bound: the checkpoint that the backup began with was done then, says `pg_control`.
    Start,
    /// A lower bound: the latest moment that is found in the backup's files.
    Files,
}

impl Ended {
    /// Is it the moment itself? Otherwise the backup ended then or later.
    pub fn is_exact(self) -> bool {
        !matches!(self.known_from, KnownFrom::Start | KnownFrom::Files)
    }

    /// The first moment to which the backup can be recovered, as far as is known.
    pub fn reachable_from(self) -> Timestamp {
        match self.known_from {
            KnownFrom::BackupHistory | KnownFrom::Shutdown => self.at + SignedDuration::from_secs(1),
            KnownFrom::Server | KnownFrom::Clock | KnownFrom::Start | KnownFrom::Files => self.at,
        }
    }

    /// What the files of a backup in a data directory's form tell.
    pub fn of_files(control: &ControlFile, label: Option<&BackupLabel>) -> Self {
        let known_from = match label {
            Some(label) if label.checkpoint_lsn == control.checkpoint_lsn => KnownFrom::Start,
            None if control.state == ClusterState::ShutDown => KnownFrom::Shutdown,
            _ => KnownFrom::Files,
        };
        Self {
            at: match label {
                Some(label) if label.from == BackupFrom::Standby => control.checkpoint_time,
                _ => control.written,
            },
            known_from,
        }
    }

    /// With what the `.backup` file adds.
    pub(super) fn refined(self, history: &BackupHistory) -> Self {
        let stop = zoned(&history.stop_time);
        let at = stop.and_then(|(stop, zone)| match utc_offset(zone) {
            Some(offset) => moment(stop, offset),
            None => moment(stop, self.offset_of(zone, &history.start_time)?),
        });
        at.filter(|at| *at >= self.at || self.known_from == KnownFrom::Files)
            .map_or(self, |at| Self {
                at,
                known_from: KnownFrom::BackupHistory,
            })
    }

    /// Seconds from UTC of the zone in which the backup began, if that is this zone.
    fn offset_of(self, zone: &str, start_time: &str) -> Option<i64> {
        let (start, start_zone) = zoned(start_time)?;
        if self.known_from != KnownFrom::Start || start_zone != zone {
            return None;
        }
        let apart = moment(start, 0)?.duration_since(self.at);
        let offset = apart.as_secs().div_euclid(ZONE_STEP_SECONDS) * ZONE_STEP_SECONDS;
        let late = apart - SignedDuration::from_secs(offset);
        (late <= BEGINS_WITHIN).then_some(offset)
    }
}

/// As a listing shows it: with `>` where it is a lower bound.
impl fmt::Display for Ended {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = if self.is_exact() { "" } else { ">" };
        write!(out, "{bound}{:.0}", self.at)
    }
}

/// `2026-11-20 21:14:03 UTC`: the time, and the zone's abbreviation.
fn zoned(text: &str) -> Option<(DateTime, &str)> {
    let (time, zone) = text.rsplit_once(' ')?;
    Some((time.parse().ok()?, zone))
}

/// Seconds from UTC of a zone whose abbreviation says so: `UTC`, `+03`, `-0330`, `+05:30`.
fn utc_offset(zone: &str) -> Option<i64> {
    if ["UTC", "GMT", "Z", "UCT"].contains(&zone) {
        return Some(0);
    }
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let digits = digits.replace(':', "");
    let plain = [2, 4].contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: i64 = plain.then(|| digits.parse().ok()).flatten()?;
    let (hours, minutes) = if digits.len() == 4 {
        (number / 100, number % 100)
    } else {
        (number, 0)
    };
    Some(sign * (hours * 3600 + minutes * 60))
}

fn moment(local: DateTime, offset_seconds: i64) -> Option<Timestamp> {
    let utc = local.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    utc.checked_sub(SignedDuration::from_secs(offset_seconds)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::backup_history;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn history(zone: &str) -> BackupHistory {
        let text = format!(
            "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
             STOP WAL LOCATION: 0/3000138 (file 000000010000000000000003)\n\
             START TIME: 2026-11-20 21:14:03 {zone}\n\
             LABEL: x\n\
             START TIMELINE: 1\n\
             STOP TIME: 2026-11-20 21:15:47 {zone}\n\
             STOP TIMELINE: 1\n"
        );
        backup_history::parse(text.as_bytes()).expect("a history")
    }

    #[test]
    fn b8_the_backup_file_tells_when_it_ended() {
        let bound = |at: &str, known_from| Ended {
            at: time(at),
            known_from,
        };
        let start = bound("2026-11-20T20:14:01Z", KnownFrom::Start);
        for (bound, zone, expected) in [
            (start, "UTC", "2026-11-20T21:15:47Z"),
            (start, "-03", "2026-11-21T00:15:47Z"),
            (start, "CET", "2026-11-20T20:15:47Z"),
            (
                bound("2026-11-20T15:44:02Z", KnownFrom::Start),
                "IST",
                "2026-11-20T15:45:47Z",
            ),
            (
                bound("2026-11-21T01:14:03Z", KnownFrom::Start),
                "AST",
                "2026-11-21T01:15:47Z",
            ),
        ] {
            let refined = bound.refined(&history(zone));
            assert_eq!(refined.at, time(expected), "{zone}");
            assert!(refined.is_exact());
            assert_eq!(
                refined.reachable_from(),
                time(expected) + SignedDuration::from_secs(1)
            );
        }
    }

    #[test]
    fn an_abbreviation_alone_is_no_zone() {
        let files = Ended {
            at: time("2026-11-20T20:14:01Z"),
            known_from: KnownFrom::Files,
        };
        let apart = Ended {
            at: time("2026-11-20T20:04:01Z"),
            known_from: KnownFrom::Start,
        };
        for bound in [files, apart] {
            assert_eq!(bound.refined(&history("CET")), bound);
            assert!(!bound.is_exact() && bound.to_string().starts_with('>'));
        }
    }
}

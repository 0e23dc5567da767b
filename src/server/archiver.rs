//! Why WAL does not arrive: what a server says of its archiver.

use super::{Error, Session, column};

/// What `pg_stat_archiver` and the settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiver {
    /// `archive_mode`: `off`, `on`, `always`.
    pub mode: String,
    /// Is there a command, or a library?
    pub configured: bool,
    /// Is the server in recovery, where only `always` archives?
    pub in_recovery: bool,
    /// The file that failed last, if that was after the last success.
    pub failing: Option<String>,
    /// How many others take its WAL as it is written, or have a slot from which they will: `pg_receivewal`, standbys.
    pub receivers: i64,
}

impl Session {
    /// Looks at the archiver.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`].
    pub async fn archiver(&self) -> Result<Archiver, Error> {
        const WHAT: &str = "to tell of its archiver";
        // The command itself is for superusers; whether there is one is not asked of others.
        let row = self
            .row(
                WHAT,
                "SELECT pg_catalog.current_setting('archive_mode'), \
                 NOT EXISTS (SELECT FROM pg_catalog.pg_settings c WHERE c.name = 'archive_command' \
                   AND c.setting IN ('', '(disabled)') AND NOT EXISTS (SELECT FROM pg_catalog.pg_settings l \
                   WHERE l.name = 'archive_library' AND l.setting <> '')), \
                 pg_catalog.pg_is_in_recovery(), \
                 CASE WHEN last_failed_time > COALESCE(last_archived_time, '-infinity') THEN last_failed_wal END, \
                 (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication) \
                 + (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical') \
                 FROM pg_catalog.pg_stat_archiver",
                &[],
            )
            .await?;
        Ok(Archiver {
            mode: column(WHAT, &row, 0)?,
            configured: column(WHAT, &row, 1)?,
            in_recovery: column(WHAT, &row, 2)?,
            failing: column(WHAT, &row, 3)?,
            receivers: column(WHAT, &row, 4)?,
        })
    }
}

impl Archiver {
    /// Can the WAL of a backup not come at all, as things are? Somebody who receives it may archive it.
    pub fn is_idle(&self) -> bool {
        !self.in_recovery && self.mode == "off" && self.receivers == 0
    }

    /// Why a segment may not come, and what to do; `None` if nothing is wrong here.
    pub fn complaint(&self) -> Option<String> {
        if self.in_recovery && self.mode != "always" {
            return Some(format!(
                "this standby does not archive (archive_mode is {}), so the WAL must come from its primary.\n\
                 HINT: SELECT pg_switch_wal() on the primary ends the last segment; or set archive_mode = always here.",
                self.mode
            ));
        }
        if self.in_recovery {
            return Some(
                "this standby archives its last segment once the primary has ended it.\n\
                 HINT: SELECT pg_switch_wal() on the primary ends it."
                    .to_owned(),
            );
        }
        if self.mode == "off" {
            return Some(
                "the server does not archive: archive_mode is off.\n\
                 HINT: `walfs postgres-config` prints what postgresql.conf needs."
                    .to_owned(),
            );
        }
        if !self.configured {
            return Some(
                "the server has no archive_command.\n\
                 HINT: `walfs postgres-config` prints one."
                    .to_owned(),
            );
        }
        self.failing.as_ref().map(|name| {
            format!(
                "the server's archiver fails at {name}.\n\
                 HINT: the server's log has what archive_command said."
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_names_the_cause() {
        let well = Archiver {
            mode: "on".into(),
            configured: true,
            in_recovery: false,
            failing: None,
            receivers: 0,
        };
        assert!(!well.is_idle());
        assert_eq!(well.complaint(), None);
        let cases = [
            (
                Archiver {
                    mode: "off".into(),
                    ..well.clone()
                },
                "archive_mode is off",
            ),
            (
                Archiver {
                    in_recovery: true,
                    ..well.clone()
                },
                "does not archive (archive_mode is on)",
            ),
            (
                Archiver {
                    mode: "always".into(),
                    in_recovery: true,
                    ..well.clone()
                },
                "once the primary has ended it",
            ),
            (
                Archiver {
                    configured: false,
                    ..well.clone()
                },
                "no archive_command",
            ),
            (
                Archiver {
                    failing: Some("000000010000000000000003".into()),
                    ..well
                },
                "fails at 000000010000000000000003",
            ),
        ];
        for (archiver, expected) in cases {
            let complaint = archiver.complaint().unwrap();
            assert!(complaint.contains(expected), "{complaint}");
        }
    }
}

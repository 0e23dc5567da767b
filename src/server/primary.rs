//! A standby's primary: where it is, and having it end a segment.

use crate::pg::{Lsn, SegmentName, SystemId, WalName};

use super::conninfo::is_conninfo;
use super::{Error, Resolved, Session, Target, column};

impl Session {
    /// The server that this standby follows, if it says.
    pub async fn primary(&self) -> Option<Resolved> {
        let conninfo: String = self
            .one(
                "to tell of its primary",
                "SELECT pg_catalog.current_setting('primary_conninfo', true)",
            )
            .await
            .ok()?;
        if conninfo.is_empty() {
            return None;
        }
        let target = Target {
            database: Some(match is_conninfo(&conninfo) {
                true => conninfo,
                false => format!("dbname={conninfo}"),
            }),
            secret: true,
            ..Target::default()
        };
        // The standby's receiver has an environment of its own; of ours only the password file may be the same.
        let resolved = target.resolve(|name| std::env::var_os(name).filter(|_| name == "HOME"));
        resolved
            .inspect_err(|error| {
                tracing::warn!("primary_conninfo of the standby is of no use to walfs: {error}")
            })
            .ok()
    }

    /// Its cluster, and whether it is in recovery.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`].
    pub async fn cluster(&self) -> Result<(SystemId, bool), Error> {
        const WHAT: &str = "to say which cluster it is";
        let statement =
            "SELECT system_identifier, pg_catalog.pg_is_in_recovery() FROM pg_catalog.pg_control_system()";
        let row = self.row(WHAT, statement, &[]).await?;
        Ok((
            SystemId(column::<i64>(WHAT, &row, 0)? as u64),
            column(WHAT, &row, 1)?,
        ))
    }

    /// Ends the segment that is written, and names it: the one before if nothing was written since.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`], [`Error::Answer`].
    pub async fn end_segment(&self) -> Result<SegmentName, Error> {
        const WHAT: &str = "to end a WAL segment (pg_switch_wal)";
        let statement = "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_switch_wal())";
        let name: String = self.one(WHAT, statement).await?;
        match name.parse() {
            Ok(WalName::Segment(segment)) => Ok(segment),
            _ => Err(Error::Answer {
                what: WHAT,
                found: format!("{name:?}, which is no segment"),
            }),
        }
    }

    /// Ends the segment that is being written, if it ends at `end` or before.
    ///
    /// # Errors
    /// [`Error::Refused`] for a role that may not, [`Error::Lost`].
    pub async fn end_segments_to(&self, end: Lsn) -> Result<(), Error> {
        const WHAT: &str = "to end a WAL segment (pg_switch_wal)";
        let statement = format!(
            "SELECT pg_catalog.count(pg_catalog.pg_switch_wal()) FROM (SELECT 1) one \
             WHERE pg_catalog.pg_current_wal_insert_lsn() < '{end}'::pg_catalog.pg_lsn"
        );
        self.one::<i64>(WHAT, &statement).await.map(drop)
    }
}

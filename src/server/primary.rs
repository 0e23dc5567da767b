//! A standby's primary: where it is, and having it end a segment.

use crate::pg::{Lsn, SegmentName, SegmentSize, SystemId, WalName};

use super::conninfo::is_conninfo;
use super::{Error, Resolved, Session, Target, column};

/// How often a mark is written until it lies on one page.
const MOST_TRIES: u32 = 20;

/// Every length of a page of the WAL is a multiple of this.
const PAGE_BYTES: u64 = 1024;

/// A segment that a server has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its name.
    pub segment: SegmentName,
    /// A text that is in it, and in no other server's of that name.
    pub mark: String,
    /// At the end of the first so many bytes, or a few before.
    pub mark_end: u64,
}

impl Ended {
    /// Where in the segment the mark lies, with what may be behind it: records are aligned.
    pub fn place(&self) -> std::ops::Range<u64> {
        self.mark_end.saturating_sub(self.mark.len() as u64 + 8)..self.mark_end
    }

    fn is_on_one_page(&self) -> bool {
        let place = self.place();
        place.start / PAGE_BYTES == (place.end - 1) / PAGE_BYTES
    }
}

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

    /// Ends the segment that is written, and tells it from others of its name. A record is written first, which whoever reads the WAL
    /// passes over: else a server at rest would end nothing.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`], [`Error::Answer`].
    pub async fn end_segment(&self) -> Result<Ended, Error> {
        const WHAT: &str = "to end a WAL segment (pg_switch_wal)";
        let mark = format!("{:032x}", fastrand::u128(..));
        // What a position on a boundary is in, versions of PostgreSQL tell differently.
        let statement = format!(
            "SELECT at::text, pg_catalog.pg_walfile_name(at), \
             (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size') \
             FROM (SELECT pg_catalog.pg_logical_emit_message(false, 'walfs', '{mark}') AS at OFFSET 0) marked"
        );
        let mut tries = 0;
        loop {
            tries += 1;
            let row = self.row(WHAT, &statement, &[]).await?;
            let (at, name): (String, String) = (column(WHAT, &row, 0)?, column(WHAT, &row, 1)?);
            let bytes: i64 = column(WHAT, &row, 2)?;
            let ended = || {
                let size = SegmentSize::new(u64::try_from(bytes).ok()?).ok()?;
                let end: Lsn = at.parse().ok()?;
                let Ok(WalName::Segment(named)) = name.parse() else {
                    return None;
                };
                let last = end.0.checked_sub(1)?;
                let segment = SegmentName::from_number(named.timeline, last / size.bytes(), size)?;
                Some(Ended {
                    segment,
                    mark: mark.clone(),
                    mark_end: last % size.bytes() + 1,
                })
            };
            let ended = ended().ok_or_else(|| Error::Answer {
                what: WHAT,
                found: format!("{at} in {name:?}, with segments of {bytes} bytes"),
            })?;
            if !ended.is_on_one_page() && tries < MOST_TRIES {
                continue;
            }
            self.one::<String>(WHAT, "SELECT pg_catalog.pg_switch_wal()::text")
                .await?;
            return Ok(ended);
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

//! A running PostgreSQL server: who it is, its backup mode, its archiver. The only room that speaks to one.
//!
//! A backup is one session: PostgreSQL leaves backup mode by itself when the session that began it ends, so whatever
//! happens to walfs, a server is never left in it. The connection is therefore watched while nothing is asked of it
//! ([`Session::lost`]), and kept from time-outs that are meant for idle clients.
//!
//! Over a network there is TLS, by the rules of libpq (`tls`). What a backup copies is read from the server's own disk all the same.

use std::path::PathBuf;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::pg::control::CHECKSUMS_ON;
use crate::pg::{Lsn, SegmentSize, SystemId};

mod archiver;
mod archiving;
mod conninfo;
mod databases;
mod entry;
mod events;
mod parameters;
mod passfile;
mod primary;
mod service;
mod settings;
mod target;
mod tls;

pub use archiver::Archiver;
pub use archiving::{Archiving, Change};
pub use databases::Connection;
pub use events::{Event, Noted};
pub use primary::Ended;
pub use settings::{Settings, SettingsFile};
pub use target::{Resolved, Target};

/// The oldest major version whose backups are understood.
pub const OLDEST_MAJOR: u32 = 13;

/// What a server, or the way to it, did not do. No text has a password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection is described wrongly.
    #[error("cannot connect to PostgreSQL: {reason}")]
    Settings {
        /// What is wrong.
        reason: String,
    },
    /// The server does not let us in.
    #[error("cannot connect to PostgreSQL at {server}: {reason}{hint}")]
    Connect {
        /// Where it was expected.
        server: String,
        /// What it or the system said.
        reason: String,
        /// A line with the next step, or nothing.
        hint: &'static str,
    },
    /// A statement failed.
    #[error("PostgreSQL refused {what}: {reason}{hint}")]
    Refused {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        reason: String,
        /// A line with the next step, or nothing.
        hint: &'static str,
    },
    /// The session ended, and with it backup mode.
    #[error(
        "the connection to PostgreSQL was lost, and with it the backup: {reason}\n\
         HINT: the server's log says why; take the backup again."
    )]
    Lost {
        /// What is known.
        reason: String,
    },
    /// Too old.
    #[error(
        "the server is PostgreSQL {major}; walfs takes backups of version {OLDEST_MAJOR} and later.\n\
         HINT: PostgreSQL 12 and before are no longer maintained; pg_upgrade leads to a newer one."
    )]
    TooOld {
        /// Its major version.
        major: u32,
    },
    /// An answer that is not what PostgreSQL answers.
    #[error("PostgreSQL answered {what} with {found:?}, which is not understood")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// What came.
        found: String,
    },
}

/// What there is to know of a server before a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Major version: 15.
    pub major: u32,
    /// Of `pg_control_system()`.
    pub system_id: SystemId,
    /// Where it says its files are.
    pub data_directory: PathBuf,
    /// Length of a WAL segment.
    pub segment_size: SegmentSize,
    /// Length of a data page, in bytes; usually 8192.
    pub block_bytes: u32,
    /// Have all data pages checksums? Not while they are switched on or off.
    pub data_checksums: bool,
    /// Is it a standby, or recovering otherwise?
    pub in_recovery: bool,
    /// When its postmaster began, in seconds since 1970.
    pub started_seconds: i64,
}

/// What the beginning of backup mode gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Where recovery will begin.
    pub lsn: Lsn,
    /// Up to where there is WAL now that stays: flushed, or replayed by a standby.
    pub wal_end: Lsn,
}

/// What the end of backup mode gives. All bytes as the server has them, in its own encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Where the backup is consistent.
    pub lsn: Lsn,
    /// `backup_label`, byte for byte.
    pub label: Vec<u8>,
    /// `tablespace_map`, byte for byte; empty without tablespaces.
    pub tablespace_map: Vec<u8>,
    /// When that was, by the server's clock.
    pub at: Timestamp,
}

/// A session.
pub struct Session {
    client: Client,
    lost: oneshot::Receiver<String>,
    connector: Option<MakeRustlsConnect>,
    major: u32,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Session")
            .field("major", &self.major)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Settings`], [`Error::TooOld`].
    pub async fn open(resolved: &Resolved) -> Result<Self, Error> {
        let entered = entry::enter(resolved).await?;
        let mut session = Self {
            client: entered.client,
            lost: entered.lost,
            connector: resolved.tls.connector.clone(),
            major: 0,
        };
        session.prepare().await?;
        Ok(session)
    }

    /// Settings of the role or the database must neither end this session nor change what names mean.
    async fn prepare(&mut self) -> Result<(), Error> {
        self.client
            .batch_execute(
                "SELECT pg_catalog.set_config('search_path', '', false); \
                 SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN \
                 ('statement_timeout', 'lock_timeout', 'idle_session_timeout', 'transaction_timeout')",
            )
            .await
            .map_err(|error| refused("the settings of the session", &error))?;
        let version: i32 = self
            .one(
                "its version",
                "SELECT pg_catalog.current_setting('server_version_num')::int",
            )
            .await?;
        self.major = version as u32 / 10_000;
        if self.major < OLDEST_MAJOR {
            return Err(Error::TooOld { major: self.major });
        }
        Ok(())
    }

    /// Who it is.
    ///
    /// # Errors
    /// [`Error::Refused`] for a role that may not know, [`Error::Lost`].
    pub async fn facts(&self) -> Result<Facts, Error> {
        const WHAT: &str = "to say which cluster it is";
        let row = self
            .row(
                WHAT,
                "SELECT s.system_identifier, pg_catalog.current_setting('data_directory'), \
                 i.bytes_per_wal_segment::bigint, i.database_block_size::bigint, i.data_page_checksum_version::bigint, \
                 pg_catalog.pg_is_in_recovery(), \
                 pg_catalog.floor(EXTRACT(EPOCH FROM pg_catalog.pg_postmaster_start_time()))::bigint \
                 FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_init() i",
                &[],
            )
            .await?;
        let segment_bytes: i64 = column(WHAT, &row, 2)?;
        let segment_size = SegmentSize::new(segment_bytes as u64).map_err(|error| Error::Answer {
            what: WHAT,
            found: error.to_string(),
        })?;
        Ok(Facts {
            major: self.major,
            // The server has a signed number only.
            system_id: SystemId(column::<i64>(WHAT, &row, 0)? as u64),
            data_directory: PathBuf::from(column::<String>(WHAT, &row, 1)?),
            segment_size,
            block_bytes: column::<i64>(WHAT, &row, 3)? as u32,
            data_checksums: column::<i64>(WHAT, &row, 4)? == i64::from(CHECKSUMS_ON),
            in_recovery: column(WHAT, &row, 5)?,
            started_seconds: column(WHAT, &row, 6)?,
        })
    }

    /// Begins backup mode, after a checkpoint: at once if `fast`, else spread as the server's settings say, which may
    /// take minutes.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`].
    pub async fn start_backup(&self, label: &str, fast: bool) -> Result<Started, Error> {
        const WHAT: &str = "to begin a backup";
        let function = if self.major < 15 {
            "pg_catalog.pg_start_backup($1, $2, false)"
        } else {
            "pg_catalog.pg_backup_start($1, $2)"
        };
        // The columns are made one after the other.
        let statement = format!(
            "SELECT {function}::text, (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
             ELSE pg_catalog.pg_current_wal_flush_lsn() END)::text"
        );
        let row = self.row(WHAT, &statement, &[&label, &fast]).await?;
        Ok(Started {
            lsn: lsn(WHAT, &row, 0)?,
            wal_end: lsn(WHAT, &row, 1)?,
        })
    }

    /// Ends backup mode.
    ///
    /// # Errors
    /// [`Error::Refused`], for example when a standby was promoted meanwhile; [`Error::Lost`].
    pub async fn stop_backup(&self) -> Result<Stopped, Error> {
        const WHAT: &str = "to end the backup";
        let function = if self.major < 15 {
            "pg_catalog.pg_stop_backup(false, false)"
        } else {
            "pg_catalog.pg_backup_stop(false)"
        };
        // Bytes, not text: text is converted on its way, and a tablespace's path has any bytes.
        let statement = format!(
            "SELECT lsn::text, pg_catalog.convert_to(labelfile, pg_catalog.getdatabaseencoding()), \
             pg_catalog.convert_to(spcmapfile, pg_catalog.getdatabaseencoding()), \
             (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint FROM {function}"
        );
        let row = self.row(WHAT, &statement, &[]).await?;
        Ok(Stopped {
            lsn: lsn(WHAT, &row, 0)?,
            label: column(WHAT, &row, 1)?,
            tablespace_map: column(WHAT, &row, 2)?,
            at: moment(WHAT, column(WHAT, &row, 3)?)?,
        })
    }

    /// Ends when the session has: says why.
    pub async fn lost(&mut self) -> Error {
        let reason = match (&mut self.lost).await {
            Ok(reason) => reason,
            Err(_) => "its end was noticed before".to_owned(),
        };
        Error::Lost { reason }
    }

    /// Ends the session at once, and a statement that is still at work with it.
    pub async fn abandon(self) {
        entry::cancel(&self.client, self.connector.as_ref()).await;
    }

    async fn one<T: for<'a> FromSql<'a>>(&self, what: &'static str, statement: &str) -> Result<T, Error> {
        column(what, &self.row(what, statement, &[]).await?, 0)
    }

    async fn row(
        &self,
        what: &'static str,
        statement: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, Error> {
        let asked = self.client.query_one(statement, values).await;
        asked.map_err(|error| refused(what, &error))
    }

    async fn rows(&self, what: &'static str, statement: &str) -> Result<Vec<Row>, Error> {
        let asked = self.client.query(statement, &[]).await;
        asked.map_err(|error| refused(what, &error))
    }
}

fn column<T: for<'a> FromSql<'a>>(what: &'static str, row: &Row, place: usize) -> Result<T, Error> {
    row.try_get(place).map_err(|error| Error::Answer {
        what,
        found: said(&error),
    })
}

/// From microseconds since 1970.
fn moment(what: &'static str, microseconds: i64) -> Result<Timestamp, Error> {
    Timestamp::from_microsecond(microseconds).map_err(|_| Error::Answer {
        what,
        found: microseconds.to_string(),
    })
}

fn lsn(what: &'static str, row: &Row, place: usize) -> Result<Lsn, Error> {
    let text: String = column(what, row, place)?;
    text.parse().map_err(|_| Error::Answer { what, found: text })
}

fn refused(what: &'static str, error: &tokio_postgres::Error) -> Error {
    if error.is_closed() || error.code().is_some_and(|code| code.code().starts_with("57P")) {
        return Error::Lost { reason: said(error) };
    }
    let denied = error.code().is_some_and(|code| code.code() == "42501");
    Error::Refused {
        what,
        reason: said(error),
        hint: if denied { DENIED } else { "" },
    }
}

const DENIED: &str = "\nHINT: connect as a superuser, or give the role what a backup needs: membership in \
pg_read_all_settings, and EXECUTE on pg_backup_start(text, boolean) and pg_backup_stop(boolean) \
(PostgreSQL 13, 14: pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean)).";

/// What the server said, or the system below it, in one line.
fn said(error: &tokio_postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        let detail = answer.detail().map(|detail| format!(" ({detail})"));
        let hint = answer.hint().map(|hint| format!(" ({hint})"));
        return [
            answer.message(),
            &detail.unwrap_or_default(),
            &hint.unwrap_or_default(),
        ]
        .concat();
    }
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

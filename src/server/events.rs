//! `walfs.metrics`: a table of what was done, for who would rather ask by SQL.

use jiff::Timestamp;

use super::{Error, Session, column, refused};

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What: `backup`, `wal-push`.
    pub operation: &'static str,
    /// With what: the name of a backup, of WAL files.
    pub subject: String,
    /// When it began.
    pub start: Timestamp,
    /// When it was done.
    pub finish: Timestamp,
    /// Bytes that were stored, read or removed, as far as that is known.
    pub bytes: Option<u64>,
}

/// What became of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    /// They are in the table.
    Yes,
    /// The server is a standby, which takes none.
    Standby,
    /// The table, or its schema, is not ours.
    Foreign,
}

/// How long rows stay.
const KEPT: &str = "30 days";

/// A table without WAL, and a commit that nothing waits for.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '15s'; \
                     SET LOCAL synchronous_commit = off";

const MAKE: &str = "CREATE SCHEMA IF NOT EXISTS walfs; \
    CREATE UNLOGGED TABLE walfs.metrics (operation text NOT NULL, subject text NOT NULL, start timestamptz NOT NULL, \
    finish timestamptz NOT NULL, bytes bigint); \
    COMMENT ON TABLE walfs.metrics IS 'What walfs has done. Written by walfs agent.'";

/// Of another owner it could have triggers, which would run with our rights. Locked, it stays the one that was looked at.
const IS_OURS: &str = "SELECT c.relkind = 'r' AND c.relpersistence = 'u' AND c.relowner = r.oid AND n.nspowner = r.oid \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, pg_catalog.pg_roles r \
    WHERE n.nspname = 'walfs' AND c.relname = 'metrics' AND r.rolname = current_user";

// The name must be plain for PostgreSQL to take several arrays. No path leads elsewhere: it is empty.
const INSERT: &str = "INSERT INTO walfs.metrics (operation, subject, start, finish, bytes) \
    SELECT o, s, pg_catalog.to_timestamp(b / 1000000.0), pg_catalog.to_timestamp(f / 1000000.0), n \
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS events (o, s, b, f, n)";

impl Session {
    /// Adds events to the table, and makes it if there is none; removes what is old. One transaction, which waits for nobody.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`]: then nothing was added.
    pub async fn note(&self, events: &[Event]) -> Result<Noted, Error> {
        const WHAT: &str = "to tell whether it is a standby";
        if self
            .one::<bool>(WHAT, "SELECT pg_catalog.pg_is_in_recovery()")
            .await?
        {
            return Ok(Noted::Standby);
        }
        self.run(BEGIN).await?;
        let noted = self.noted(events).await;
        match noted {
            Ok(Noted::Yes) => self.run("COMMIT").await?,
            // The end of the session does it, too.
            _ => drop(self.run("ROLLBACK").await),
        }
        noted
    }

    async fn noted(&self, events: &[Event]) -> Result<Noted, Error> {
        const WHAT: &str = "to tell of walfs.metrics";
        let is_there = "SELECT pg_catalog.to_regclass('walfs.metrics') IS NOT NULL";
        if !self.one::<bool>(WHAT, is_there).await? {
            self.run(MAKE).await?;
        }
        self.run("LOCK TABLE walfs.metrics IN ROW EXCLUSIVE MODE").await?;
        let asked = self.rows(WHAT, IS_OURS).await?;
        let is_ours = asked
            .first()
            .map(|row| column::<bool>(WHAT, row, 0))
            .transpose()?;
        if is_ours != Some(true) {
            return Ok(Noted::Foreign);
        }
        let operations: Vec<&str> = events.iter().map(|event| event.operation).collect();
        // A text of PostgreSQL has no zeros.
        let subjects: Vec<String> = events
            .iter()
            .map(|event| event.subject.replace('\0', " "))
            .collect();
        let moments = |of: fn(&Event) -> Timestamp| -> Vec<i64> {
            events.iter().map(|event| of(event).as_microsecond()).collect()
        };
        let (starts, finishes) = (moments(|event| event.start), moments(|event| event.finish));
        let bytes: Vec<Option<i64>> = events
            .iter()
            .map(|event| event.bytes.and_then(|bytes| i64::try_from(bytes).ok()))
            .collect();
        self.client
            .execute(INSERT, &[&operations, &subjects, &starts, &finishes, &bytes])
            .await
            .map_err(|error| for_table(&error))?;
        self.run(&format!(
            "DELETE FROM walfs.metrics WHERE finish < pg_catalog.now() - interval '{KEPT}'"
        ))
        .await?;
        Ok(Noted::Yes)
    }

    async fn run(&self, statements: &str) -> Result<(), Error> {
        let run = self.client.batch_execute(statements).await;
        run.map_err(|error| for_table(&error))
    }
}

/// Its hint is another than that of a backup.
fn for_table(error: &tokio_postgres::Error) -> Error {
    match refused("rows in walfs.metrics", error) {
        Error::Refused { what, reason, .. } => Error::Refused {
            what,
            reason,
            hint: "\nHINT: the role must own the schema walfs and its table metrics, or be allowed to make them (GRANT CREATE ON \
                   DATABASE).",
        },
        other => other,
    }
}

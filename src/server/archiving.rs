//! How a server archives: which settings say so, and setting them.

use super::{Error, Session, column, refused};

/// The settings, as they are in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiving {
    /// `wal_level`: `minimal`, `replica`, `logical`.
    pub wal_level: String,
    /// `archive_mode`: `off`, `on`, `always`.
    pub mode: String,
    /// `archive_command`, also where `archive_mode` is off; empty: none.
    pub command: String,
    /// `archive_library` (since 15); empty: none.
    pub library: String,
    /// `archive_timeout`, in seconds; 0: none.
    pub timeout_s: i64,
    /// Which of these the server was started with, on its command line: nothing else overrules that.
    pub fixed: Vec<String>,
}

impl Archiving {
    /// What archives now, other than this command.
    pub fn other_than(&self, command: &str) -> Option<String> {
        let is_other = !self.command.is_empty() && self.command != command;
        let other = |name, value: &str| format!("{name} = '{value}'");
        match (self.library.is_empty(), is_other) {
            (false, _) => Some(other("archive_library", &self.library)),
            (true, true) => Some(other("archive_command", &self.command)),
            (true, false) => None,
        }
    }
}

/// A setting by `ALTER SYSTEM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

impl Change {
    /// The statement.
    pub fn statement(&self) -> String {
        format!("ALTER SYSTEM SET {} = {}", self.name, literal(&self.value))
    }
}

/// A string of SQL that means the same whatever `standard_conforming_strings` is.
fn literal(value: &str) -> String {
    let doubled = value.replace('\\', r"\\").replace('\'', "''");
    match value.contains('\\') {
        true => format!("E'{doubled}'"),
        false => format!("'{doubled}'"),
    }
}

impl Session {
    /// Looks at the settings. What `setting` has for the command where `archive_mode` is off is "(disabled)"; `reset_val` has the
    /// command.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`].
    pub async fn archiving(&self) -> Result<Archiving, Error> {
        const WHAT: &str = "to tell how it archives";
        let statement = "SELECT pg_catalog.current_setting('wal_level'), pg_catalog.current_setting('archive_mode'), \
             coalesce((SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'archive_command'), ''), \
             coalesce(pg_catalog.current_setting('archive_library', true), ''), \
             (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'archive_timeout'), \
             ARRAY(SELECT name::text FROM pg_catalog.pg_settings WHERE source = 'command line' AND name IN \
             ('wal_level', 'archive_mode', 'archive_command', 'archive_library', 'archive_timeout'))";
        let row = self.row(WHAT, statement, &[]).await?;
        Ok(Archiving {
            wal_level: column(WHAT, &row, 0)?,
            mode: column(WHAT, &row, 1)?,
            command: column(WHAT, &row, 2)?,
            library: column(WHAT, &row, 3)?,
            timeout_s: column(WHAT, &row, 4)?,
            fixed: column(WHAT, &row, 5)?,
        })
    }

    /// May this role begin and end backups?
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`].
    pub async fn may_back_up(&self) -> Result<bool, Error> {
        const WHAT: &str = "to tell whether the role may take backups";
        let functions = match self.major {
            ..15 => "('pg_start_backup(text,boolean,boolean)'), ('pg_stop_backup(boolean,boolean)')",
            _ => "('pg_backup_start(text,boolean)'), ('pg_backup_stop(boolean)')",
        };
        let statement = format!(
            "SELECT pg_catalog.bool_and(pg_catalog.has_function_privilege(('pg_catalog.' || signature)::regprocedure, 'EXECUTE')) \
             FROM (VALUES {functions}) AS needed (signature)"
        );
        column(WHAT, &self.row(WHAT, &statement, &[]).await?, 0)
    }

    /// Sets something in `postgresql.auto.conf`. It is in force after [`Self::reload`], or a restart.
    ///
    /// # Errors
    /// [`Error::Refused`] for a role that may not, [`Error::Lost`].
    pub async fn set(&self, change: &Change) -> Result<(), Error> {
        let set = self.client.batch_execute(&change.statement()).await;
        set.map_err(|error| refused("to set its archiving (ALTER SYSTEM)", &error))
    }

    /// Lets the server read its settings again. It does so soon, not at once.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`].
    pub async fn reload(&self) -> Result<(), Error> {
        let asked = self
            .client
            .batch_execute("SELECT pg_catalog.pg_reload_conf()")
            .await;
        asked.map_err(|error| refused("to read its settings again", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_string_of_sql() {
        let statement = |value: &str| {
            let change = Change {
                name: "archive_command",
                value: value.to_owned(),
            };
            change.statement()
        };
        assert_eq!(
            statement(r#"cp "%p" /mnt/walfs/wal/%f"#),
            r#"ALTER SYSTEM SET archive_command = 'cp "%p" /mnt/walfs/wal/%f'"#
        );
        assert_eq!(
            statement(r"cp '/a'\''b'"),
            r"ALTER SYSTEM SET archive_command = E'cp ''/a''\\''''b'''"
        );
    }

    #[test]
    fn what_archives_already_is_named() {
        let archiving = |command: &str, library: &str| Archiving {
            wal_level: "replica".into(),
            mode: "on".into(),
            command: command.into(),
            library: library.into(),
            timeout_s: 0,
            fixed: vec![],
        };
        assert_eq!(archiving("", "").other_than("cp"), None);
        assert_eq!(archiving("cp", "").other_than("cp"), None);
        assert_eq!(
            archiving("true", "").other_than("cp").as_deref(),
            Some("archive_command = 'true'")
        );
        assert_eq!(
            archiving("cp", "basic_archive").other_than("cp").as_deref(),
            Some("archive_library = 'basic_archive'")
        );
    }
}

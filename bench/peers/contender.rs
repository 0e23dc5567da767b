//! What a tool must do to be compared, and what there is to compare.

use std::path::Path;
use std::process::Command;

use crate::common::postgres::Postgres;
use crate::scene::site::Place;

/// What a tool said when it failed: it is left out from there on, and named.
pub type Failure = String;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// A segment at a time, each marked `.ready` when it is brought.
    Push,
    /// Segments that are all marked `.ready` when the first is brought.
    Backlog,
    /// Segments one after the other, from caches that are empty.
    Fetch,
    /// A segment that is not there.
    Missing,
    /// A base backup.
    Backup,
    /// Putting it back.
    Restore,
    /// From the start of putting it back until the server on it has answered.
    Answer,
}

impl Section {
    /// In the order of the table.
    pub const ALL: [Section; 7] = [
        Section::Push,
        Section::Backlog,
        Section::Fetch,
        Section::Missing,
        Section::Backup,
        Section::Restore,
        Section::Answer,
    ];

    /// One word, as in `WALFS_BENCH_ONLY` and in the file of results.
    pub const fn word(self) -> &'static str {
        match self {
            Section::Push => "push",
            Section::Backlog => "backlog",
            Section::Fetch => "fetch",
            Section::Missing => "missing",
            Section::Backup => "backup",
            Section::Restore => "restore",
            Section::Answer => "answer",
        }
    }

    /// As in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Section::Push => "archive a segment, no backlog",
            Section::Backlog => "archive a segment of a backlog",
            Section::Fetch => "fetch a segment, in a row",
            Section::Missing => "ask for a segment that is not there",
            Section::Backup => "base backup",
            Section::Restore => "restore of a base backup",
            Section::Answer => "restore and first query",
        }
    }
}

/// A tool that archives and fetches WAL, in a place of its own.
pub trait WalTool {
    /// Daemons that work for it.
    fn workers(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Archives this file, of a `pg_wal` beside a `global/pg_control`, under its name.
    fn push(&mut self, wal: &Path) -> Result<(), Failure>;

    /// Fetches a segment to a new file.
    fn fetch(&mut self, name: &str, to: &Path) -> Result<(), Failure>;

    /// Asks for one that is not there, and succeeds if the tool says so.
    fn fetch_missing(&mut self, name: &str, to: &Path) -> Result<(), Failure>;

    /// Forgets what it holds in memory.
    fn restart(&mut self) {}
}

/// A tool that takes base backups and restores them, in a place of its own.
pub trait BaseTool {
    /// For postgresql.conf, while a backup is taken.
    fn archive_command(&self) -> String;

    /// Takes the backup.
    fn backup(&self, server: &Postgres) -> Command;

    /// Puts it back into `data`, an empty directory or none.
    fn restore(&self, data: &Path) -> Command;

    /// For postgresql.conf of the restored server.
    fn restore_command(&self) -> String;
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As in the table.
    pub name: &'static str,
    /// What it is, or what was set other than the tool does by itself.
    pub settings: &'static str,
    /// The program that must be installed; none for what comes with the benchmark.
    pub program: Option<(&'static str, &'static str)>,
    /// What it takes part in.
    pub sections: &'static [Section],
    /// Whether there is a row of it in this place.
    pub plays_in: fn(Place) -> bool,
    /// Sets it up.
    pub tool: Setup,
}

/// How a tool is set up on its ground.
#[derive(Clone, Copy, Debug)]
pub enum Setup {
    /// For WAL; with the directory that passes for the server's.
    Wal(fn(&crate::WalGround<'_>) -> Result<Box<dyn WalTool>, Failure>),
    /// For base backups.
    Base(fn(&crate::BaseGround<'_>) -> Result<Box<dyn BaseTool>, Failure>),
}

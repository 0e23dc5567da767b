//! Options of what tells who watches.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::config::{PgWal, duration};

/// Metrics, and where they go.
#[derive(Debug, Args)]
#[command(next_help_heading = "Metrics")]
pub(super) struct WatchArgs {
    /// Write metrics to this file each minute, for the textfile collector of node_exporter [default: none]
    ///
    /// The file is always whole. What stands there and is no such file is not replaced.
    #[arg(long, value_name = "FILE", env = "WALFS_METRICS_FILE", hide_env_values = true)]
    pub(super) metrics_file: Option<PathBuf>,
    /// Write what was done into the table walfs.metrics of the database so often, like 1m, and make it [default: never]
    ///
    /// Jobs of the schedule, and WAL that came by HTTP: operation, subject, start, finish, bytes. Rows stay for 30 days. The table is
    /// UNLOGGED: it makes no WAL, and is empty after a crash. What cannot be written is lost. On a standby nothing is written.
    #[arg(long, value_name = "TIME", value_parser = duration, env = "WALFS_METRICS_TABLE", hide_env_values = true)]
    pub(super) metrics_table: Option<Duration>,
    /// Tell also of what waits to be archived in this pg_wal, and of its disk [default: that of pgdata]
    ///
    /// auto and off, which `walfs mount` knows, are no directory.
    #[arg(long, value_name = "DIR", env = "WALFS_PG_WAL", hide_env_values = true)]
    pg_wal: Option<PgWal>,
}

impl WatchArgs {
    /// The server's `pg_wal`, if it is named.
    pub(super) fn pg_wal(&self) -> Option<PathBuf> {
        let given = self.pg_wal.as_ref().and_then(PgWal::given);
        given.map(Path::to_owned)
    }
}

//! `walfs status`: one screen for three in the morning.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;

use crate::assemble::Stay;
use crate::config::{PgWal, duration};
use crate::job::status::{Limits, Shown, Status, status};
use crate::metrics::exposition::Exposition;
use crate::metrics::{file, process};

use super::complain;
use super::options::{ArchiveArgs, open};
use super::out::Out;
use super::progress;
use super::wal::{Failure, block_on};

mod all;
mod remembered;

/// Exit code when somebody should look at something.
const TROUBLE: u8 = 3;

/// Show what can be restored, and what is wrong
///
/// What each line of history can be recovered to, the backups, the WAL as a time line, the last verification, and what
/// somebody should look at. With the store away it says so, and shows what it saw last, with the date.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs status --archive s3://bucket/prefix
  walfs status --archive s3://bucket/prefix --pg-wal /var/lib/postgresql/18/main/pg_wal
  walfs status --archive /srv/archive --backup-max-age 26h --wal-max-age 10m >/dev/null || page_somebody
  walfs status --archive /srv/archive --json | jq -r '.recoverable[].last_commit'
  walfs status --archive s3://bucket/fleet --all
  walfs status --archive /srv/archive --svg /var/www/walfs.svg
  walfs status --archive /srv/archive --metrics-file /var/lib/prometheus/node-exporter/walfs.prom >/dev/null

In the time line each column is as many segments: = archived, B a complete backup, b one that is not, x missing, . removed by \
`walfs prune`.

What it saw last is remembered in $XDG_CACHE_HOME/walfs or ~/.cache/walfs.

Exit codes: 0 all is well, 1 the store is away or it failed, 2 wrong usage, 3 somebody should look at something.")]
pub struct StatusArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Look at every archive right below ARCHIVE, which is a place of archives: a line each, the worst first
    ///
    /// With --json a JSON object in each line; metrics have the label archive. The exit code is that of the worst.
    #[arg(long, env = "WALFS_ALL", hide_env_values = true, value_parser = FalseyValueParser::new(), conflicts_with = "svg")]
    all: bool,
    /// Look also at what waits to be archived in this pg_wal, and at its disk
    ///
    /// auto and off, which `walfs mount` knows, are no directory.
    #[arg(long, value_name = "DIR", env = "WALFS_PG_WAL", hide_env_values = true)]
    pg_wal: Option<PgWal>,
    /// How old the newest complete backup may be
    #[arg(long, value_name = "TIME", value_parser = duration, env = "WALFS_STATUS_BACKUP_MAX_AGE", hide_env_values = true)]
    backup_max_age: Option<Duration>,
    /// How long ago the last segment may have been archived
    #[arg(long, value_name = "TIME", value_parser = duration, env = "WALFS_STATUS_WAL_MAX_AGE", hide_env_values = true)]
    wal_max_age: Option<Duration>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print metrics, in the text format of Prometheus
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
    /// Write the metrics to a file, too, for the textfile collector of node_exporter
    ///
    /// The file is always whole, and is written also with the store away. What stands there and is no such file is not replaced.
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    /// Write the time line as a picture, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl StatusArgs {
    fn limits(&self) -> Limits {
        Limits {
            backup: self.backup_max_age,
            wal: self.wal_max_age,
        }
    }
}

/// Runs `walfs status`.
pub fn run(arguments: &StatusArgs) -> ExitCode {
    if arguments.all {
        return block_on(all::show(arguments)).unwrap_or_else(|error| {
            complain(&error);
            ExitCode::FAILURE
        });
    }
    match block_on(show(arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(TROUBLE),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// True: all is well.
async fn show(arguments: &StatusArgs) -> Result<bool, Failure> {
    let looked = match look(arguments).await {
        Ok(looked) => looked,
        Err(error) => {
            if let Some(last) = remembered::last(&arguments.archive.place) {
                told(arguments, Shown::remembered(&last))?;
            } else {
                let unread = stamped(Exposition::unread());
                if arguments.metrics {
                    Out::new().write_all(unread.as_bytes())?;
                }
                keep(arguments, &unread)?;
            }
            return Err(error);
        }
    };
    remembered::remember(&arguments.archive.place, &looked);
    told(arguments, Shown::now(&looked))?;
    if let Some(path) = &arguments.svg {
        std::fs::write(path, Shown::now(&looked).picture())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(looked.troubles.is_empty())
}

async fn look(arguments: &StatusArgs) -> Result<Status, Failure> {
    let config = arguments.archive.config()?;
    let archive = Arc::new(open(&config, Stay::Long, config.deadline).await?);
    let (shown, limits) = (progress::on_terminal(), arguments.limits());
    let looked = status(
        &archive,
        arguments.pg_wal.as_ref().and_then(PgWal::given),
        &limits,
        &shown,
        config.deadline,
    );
    Ok(looked.await?)
}

fn told(arguments: &StatusArgs, shown: Shown<'_>) -> Result<(), Failure> {
    let mut out = Out::new();
    let text = match (arguments.json, arguments.metrics) {
        (true, _) => shown.json(),
        (_, true) => stamped(shown.metrics()),
        _ => shown.screen(),
    };
    keep(arguments, &stamped(shown.metrics()))?;
    out.write_all(text.as_bytes())?;
    Ok(out.end()?)
}

/// With what each text of metrics has.
fn stamped(mut metrics: Exposition) -> String {
    process::stamp(&mut metrics);
    metrics.text()
}

/// Writes metrics to the file, if one is wanted.
fn keep(arguments: &StatusArgs, metrics: &str) -> Result<(), Failure> {
    let Some(path) = &arguments.metrics_file else {
        return Ok(());
    };
    let written = file::write(path, metrics);
    Ok(written.map_err(|error| format!("cannot write {}: {error}", path.display()))?)
}

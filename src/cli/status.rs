//! `walfs status`: one screen for three in the morning.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::BinaryBytes;
use jiff::Timestamp;

use crate::assemble::Stay;
use crate::config::duration;
use crate::job::status::{Limits, Status, age, spoken, status};
use crate::printable::printable;

use super::complain;
use super::options::{StoreArgs, open};
use super::out::Out;
use super::progress;
use super::wal::{Failure, block_on};

mod picture;
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
  walfs status --archive /srv/archive --svg /var/www/walfs.svg

In the time line each column is as many segments: = archived, B a complete backup, b one that is not, x missing, . removed by \
`walfs prune`.

What it saw last is remembered in $XDG_CACHE_HOME/walfs or ~/.cache/walfs.

Exit codes: 0 all is well, 1 the store is away or it failed, 2 wrong usage, 3 somebody should look at something.")]
pub struct StatusArgs {
    /// s3://bucket/prefix, file:///directory or a path
    #[arg(long, value_name = "ARCHIVE", env = "WALFS_ARCHIVE", hide_env_values = true)]
    archive: String,
    /// Look also at what waits to be archived in this pg_wal, and at its disk
    #[arg(long, value_name = "DIR")]
    pg_wal: Option<PathBuf>,
    /// How old the newest complete backup may be
    #[arg(long, value_name = "TIME", value_parser = duration)]
    backup_max_age: Option<Duration>,
    /// How long ago the last segment may have been archived
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wal_max_age: Option<Duration>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write the time line as a picture, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Runs `walfs status`.
pub fn run(arguments: &StatusArgs) -> ExitCode {
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
            if let Some(last) = remembered::last(&arguments.archive) {
                told(arguments, &last, true)?;
            }
            return Err(error);
        }
    };
    remembered::remember(&arguments.archive, &looked);
    told(arguments, &looked, false)?;
    if let Some(path) = &arguments.svg {
        std::fs::write(path, picture::svg(&looked))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(looked.troubles.is_empty())
}

async fn look(arguments: &StatusArgs) -> Result<Status, Failure> {
    let config = arguments.store.config(&arguments.archive)?;
    let archive = Arc::new(open(&config, Stay::Long, config.deadline).await?);
    let shown = progress::on_terminal();
    let limits = Limits {
        backup: arguments.backup_max_age,
        wal: arguments.wal_max_age,
    };
    let looked = status(
        &archive,
        arguments.pg_wal.as_deref(),
        &limits,
        &shown,
        config.deadline,
    );
    Ok(looked.await?)
}

fn told(arguments: &StatusArgs, status: &Status, is_old: bool) -> Result<(), Failure> {
    let mut out = Out::new();
    if arguments.json {
        let mut value = serde_json::to_value(status)?;
        value["is_remembered"] = is_old.into();
        writeln!(out, "{value}")?;
    } else {
        if is_old {
            writeln!(
                out,
                "THE ARCHIVE CANNOT BE READ NOW. This was seen {} ago, at {:.0}:\n",
                spoken(age(status.at, Timestamp::now())),
                status.at
            )?;
        }
        out.write_all(text(status).as_bytes())?;
    }
    Ok(out.end()?)
}

/// The screen.
fn text(status: &Status) -> String {
    let ago = |at: Timestamp| spoken(age(at, status.at));
    let mut lines = vec![match &status.system_identifier {
        Some(cluster) => format!("archive    {}, of cluster {cluster}", status.archive),
        None => format!("archive    {}, which has no WAL yet", status.archive),
    }];
    for line in &status.recoverable {
        let Some(backup) = &line.backup else { continue };
        let moment = match (line.last_commit, &line.last_commit_lsn) {
            (Some(at), Some(lsn)) => format!("{at:.3}, {} ago (commit at {lsn})", ago(at)),
            _ => format!(
                "{}, with no commit behind the backup",
                line.wal_ends_at.as_deref().unwrap_or("its end")
            ),
        };
        lines.push(format!(
            "recover    timeline {}, from backup {backup} up to {moment}",
            line.timeline
        ));
    }
    if let Some(last) = &status.last_segment {
        lines.push(format!("last WAL   {}, archived {} ago", last.name, ago(last.at)));
    }
    let complete: Vec<_> = status
        .backups
        .iter()
        .filter(|backup| backup.lacks.is_none())
        .collect();
    let stored: u64 = status.backups.iter().map(|backup| backup.stored_bytes).sum();
    lines.push(match complete.iter().max_by_key(|backup| backup.ended) {
        Some(newest) => format!(
            "backups    {} complete, {} not, {} pinned, {} stored; the newest is {}, {} ago",
            complete.len(),
            status.backups.len() - complete.len() + status.unfinished.len(),
            status
                .backups
                .iter()
                .filter(|backup| backup.pinned.is_some())
                .count(),
            BinaryBytes(stored),
            newest.name,
            ago(newest.ended)
        ),
        None => "backups    none is complete".to_owned(),
    });
    lines.push(match &status.verified {
        None => "verified   never (`walfs verify`)".to_owned(),
        Some(verified) => format!(
            "verified   {} ago, {} findings{}",
            ago(verified.at),
            verified.findings.len(),
            verified.oldest.map_or(String::new(), |oldest| format!(
                "; what was read longest ago: {} ago",
                ago(oldest)
            ))
        ),
    });
    if let Some(backlog) = status.backlog.as_ref().filter(|backlog| backlog.error.is_none()) {
        let free = backlog.free_bytes.map_or(String::new(), |free| {
            format!(", {} free on its disk", BinaryBytes(free))
        });
        lines.push(format!("pg_wal     {} files wait{free}", backlog.waiting));
    }
    let mut text: String = lines
        .iter()
        .map(|line| printable(line).into_owned() + "\n")
        .collect();
    let drawn = picture::text(status);
    if !drawn.is_empty() {
        text.push('\n');
        text.push_str(&drawn);
    }
    for trouble in &status.troubles {
        text.push_str(&format!(
            "\nLOOK: {}\nHINT: {}\n",
            printable(&trouble.what),
            printable(&trouble.hint)
        ));
    }
    if status.troubles.is_empty() {
        text.push_str("\nAll is well.\n");
    }
    text
}

//! `walfs backup-finish`: commits a backup that was copied into the mount by hand.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::config::duration;
use crate::job::finish::{self, Finished, Options, Outcome, Step};
use crate::pg::Lsn;

use super::backup::bad_pages;
use super::complain;
use super::out::report;

/// Finish a backup that was copied into the mount by hand
///
/// Between `pg_backup_start` and `pg_backup_stop` (in PostgreSQL 13 and 14 `pg_start_backup` and `pg_stop_backup`), any
/// tool may copy a data directory to a directory in basebackups/
/// of the mount. This removes what no backup has (the server's lock file, its WAL), reads where the backup ended, writes
/// its backup_manifest, and commits it: from then on it is listed, never changes, and LATEST may point to it. A copy of a
/// backup that has its backup_manifest already is compared with that and committed; `sync DIR` does the same.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example, in one session of psql as user postgres:
  SELECT pg_backup_start('monday', true);  -- 13, 14: pg_start_backup('monday', true, false)
  \\! cp -a /var/lib/postgresql/15/main /mnt/walfs/basebackups/monday
  \\pset tuples_only on
  \\pset format unaligned
  \\o /mnt/walfs/basebackups/monday/backup_label
  SELECT labelfile FROM pg_backup_stop();  -- 13, 14: pg_stop_backup(false)
  \\o
  \\! walfs backup-finish /mnt/walfs/basebackups/monday

With tablespaces, spcmapfile of pg_backup_stop goes to tablespace_map, and each directory to pg_tblspc/OID.

Exit codes: 0 it is complete, 1 it is not and stays as it is, 2 wrong usage, 3 it is complete, but data pages in it are \
damaged: they are named.")]
pub struct FinishArgs {
    /// The backup's directory in the mount
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Where the backup ended, as pg_backup_stop returned it [default: what its .backup file in wal/ says]
    #[arg(long, value_name = "LSN", value_parser = lsn)]
    stop_lsn: Option<Lsn>,
    /// How long to wait for that file
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    wal_timeout: Duration,
    /// Say what would be changed in the copy, and change nothing
    #[arg(long)]
    dry_run: bool,
}

fn lsn(text: &str) -> Result<Lsn, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// Runs `walfs backup-finish`.
pub fn finish(arguments: &FinishArgs) -> ExitCode {
    let options = Options {
        stop_lsn: arguments.stop_lsn,
        wal_timeout: arguments.wal_timeout,
        dry_run: arguments.dry_run,
    };
    match finish::finish(&arguments.directory, &options) {
        Ok(outcome) => {
            tell(
                &arguments.directory.display().to_string(),
                &outcome,
                options.dry_run,
            );
            match &outcome {
                Outcome::Finished(done) if done.pages.bad > 0 => {
                    complain(&bad_pages(
                        &arguments.directory.display().to_string(),
                        &done.pages,
                    ));
                    ExitCode::from(3)
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn tell(directory: &str, outcome: &Outcome, dry_run: bool) {
    match outcome {
        Outcome::ByItsManifest if dry_run => report(&format_args!(
            "{directory} has its backup_manifest: it would be compared, and nothing changed"
        )),
        Outcome::ByItsManifest => report(&format_args!("{directory} is complete")),
        Outcome::Planned(steps) => {
            for step in steps {
                report(&format_args!("would {step}"));
            }
            report(&format_args!("{directory} would be finished; nothing is changed"));
        }
        Outcome::Finished(done) => report(&format_args!("{directory} is complete{}", described(done))),
    }
}

fn described(done: &Finished) -> String {
    let Finished {
        files,
        bytes,
        steps,
        wal,
        has_settings,
        ..
    } = done;
    let removed = steps
        .iter()
        .filter(|step| matches!(step, Step::Remove { .. }))
        .count();
    let mut text = format!(
        ": {files} files, {bytes} bytes, WAL from {} to {}",
        wal.start, wal.end
    );
    if removed > 0 {
        text += &format!("; {removed} files removed that no backup has");
    }
    for step in steps.iter().filter(|step| !matches!(step, Step::Remove { .. })) {
        text += &format!("\nnote: {step}");
    }
    if !has_settings {
        text +=
            "\nnote: it has no postgresql.conf: this server keeps its settings elsewhere, save them as well";
    }
    text
}

//! `walfs backup`: takes a base backup of a running server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser};
use indicatif::BinaryBytes;
use jiff::Timestamp;
use serde::Serialize;

use crate::archive::tree::TreeName;
use crate::archive::tree::backup::Pages;
use crate::archive::tree::summary::Summary;
use crate::archive::turns::{Done, Turn};
use crate::archive::{self, Archive};
use crate::job::backup::{Error, MissingWal, Options, Taken, Work, named, take};
use crate::pg::WalName;
use crate::store::Patience;

use super::connect::{self, ConnectArgs, HelpArgs};
use super::interrupts::Interrupts;
use super::out::Out;
use super::storing::{Failure, StoringArgs, jobs};
use super::{complain, progress};
use crate::config::{bytes, duration};

/// The backup is kept, and pages in it are damaged.
const EXIT_BAD_PAGES: u8 = 3;

/// Take a base backup of a running server into the archive
///
/// Reads the data directory itself, so it runs on the server's machine, as the user that PostgreSQL runs as (or as
/// root), and speaks to the server only to begin and to end the backup. No mount is needed. It waits until the WAL
/// that makes the backup consistent is in the archive, too; only then is the backup complete, and LATEST.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL, disable_help_flag = true)]
pub struct BackupArgs {
    /// Name of the backup [default: the time, like 2026-11-21T030000Z]
    #[arg(value_name = "NAME")]
    name: Option<TreeName>,
    #[command(flatten)]
    storing: StoringArgs,
    /// What PostgreSQL notes in backup_label [default: walfs NAME]
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Begin with an immediate checkpoint: sooner done, at the cost of a burst of writes
    ///
    /// Otherwise the checkpoint is spread, as checkpoint_completion_target says, which may take minutes. A standby always
    /// begins with an immediate one.
    #[arg(long, env = "WALFS_BACKUP_FAST", hide_env_values = true, value_parser = FalseyValueParser::new())]
    fast: bool,
    /// Store every page, also those that an earlier backup has
    ///
    /// Otherwise only pages that have changed since the newest backup are stored. Each backup describes itself whole, and is
    /// read and restored as a full one.
    #[arg(long)]
    full: bool,
    /// Threads that read and compress [default: the processor's cores, at most 8]
    #[arg(
        short,
        long,
        value_name = "N",
        env = "WALFS_BACKUP_JOBS",
        hide_env_values = true
    )]
    jobs: Option<usize>,
    /// Read at most so much in a second, like 50MiB
    #[arg(long, value_name = "SIZE", value_parser = bytes, env = "WALFS_BACKUP_RATE_LIMIT", hide_env_values = true)]
    rate_limit: Option<u64>,
    /// Do not look whether data pages are whole, nor verify their checksums
    #[arg(long, env = "WALFS_BACKUP_NO_VERIFY_CHECKSUMS", hide_env_values = true, value_parser = FalseyValueParser::new())]
    no_verify_checksums: bool,
    /// Keep the files in this directory with the backup, as settings, also if the server does not read them
    ///
    /// They are in walfs.settings/ of the backup, under the path that they have here, as all settings are that lie outside of the
    /// data directory. `walfs restore --settings-mapping` puts them back.
    #[arg(long, value_name = "DIR", env = "WALFS_SETTINGS_DIR", hide_env_values = true,
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    settings_dir: Option<PathBuf>,
    /// How long to wait for the backup's WAL in the archive
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration, env = "WALFS_BACKUP_WAL_TIMEOUT", hide_env_values = true)]
    wal_timeout: Duration,
    /// Where the primary of a standby is: a connection string [default: primary_conninfo of the standby]
    ///
    /// A standby does not end a WAL segment for the backup. The primary is asked to (pg_switch_wal); the role needs
    /// EXECUTE on that. If it cannot be asked, the segment comes when the primary has filled it.
    #[arg(
        long,
        value_name = "CONNINFO",
        env = "WALFS_BACKUP_PRIMARY",
        hide_env_values = true
    )]
    primary: Option<String>,
    /// The turn of an agent's schedule that this is
    #[arg(long, value_name = "TURN", hide = true)]
    turn: Option<Turn>,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    help: HelpArgs,
}

const MANUAL: &str = "\
Examples:
  sudo -u postgres walfs backup --archive s3://bucket/prefix
  walfs backup --archive /srv/archive --fast --rate-limit 50MiB before-upgrade
  PGPASSFILE=/etc/walfs/pgpass walfs backup --archive s3://bucket/prefix -h 127.0.0.1 -U backup

In crontab(5), as postgres; without a terminal or -v it prints nothing unless something is wrong:
  0 3 * * *  walfs backup --archive s3://bucket/prefix --wal-timeout 2h

The role needs to be a superuser, or to be a member of pg_read_all_settings with EXECUTE on pg_backup_start(text, \
boolean) and pg_backup_stop(boolean); before PostgreSQL 15 on pg_start_backup(text, boolean, boolean) and \
pg_stop_backup(boolean, boolean). A password comes from PGPASSWORD, PGPASSFILE or ~/.pgpass.

A standby can be backed up, too. Its primary is asked to end the last segment (pg_switch_wal): the one that --primary \
names, or its primary_conninfo. If it cannot be asked, walfs says so, and waits until the primary has filled the segment.

Ctrl-C and SIGTERM end it: the server leaves backup mode, and what was stored is deleted, which may take some seconds. \
A terminal that is closed (SIGHUP) does not: the backup goes on to its end. A second signal changes nothing; a third, or SIGQUIT, does not wait for that. What is left then, or after a \
kill -9, the next backup deletes. If the WAL does not come in time, the backup is kept: backup-list shows what it lacks, and it is \
complete as soon as that is archived.

Exit codes:
  0    the backup is complete
  1    it failed, or its WAL did not come within --wal-timeout
  2    wrong usage
  3    the backup is complete, but data pages in it are damaged: they are named
  130  ended by Ctrl-C, 143 by SIGTERM; nothing is kept";

/// Runs `walfs backup`.
pub fn backup(arguments: &BackupArgs) -> ExitCode {
    let storing = &arguments.storing;
    storing.run(run(arguments), |taken| report(taken, storing))
}

async fn run(arguments: &BackupArgs) -> Result<Taken, Failure> {
    let mut signals = Interrupts::listen()?;
    let server = arguments.connect.resolve()?;
    let options = options(arguments)?;
    if arguments.storing.verbose {
        complain(&format!("taking backup {} of {}", options.name, server.server));
    }
    let archive = arguments.storing.open(&mut signals).await?;
    let taken = take(
        &archive,
        &server,
        &options,
        progress::shown(arguments.storing.verbose),
        signals.first(),
    )
    .await;
    let taken = taken.map_err(|error| {
        let signal = match &error {
            Error::Interrupted(signal) | Error::InterruptedLast(signal) => Some(*signal),
            _ => None,
        };
        Failure::of(error, signal)
    })?;
    if let Some(turn) = &arguments.turn {
        record(&archive, turn, &taken).await;
    }
    Ok(taken)
}

/// The agent may be frozen: that the turn is done is recorded at once, so that no other host does it again.
async fn record(archive: &Archive, turn: &Turn, taken: &Taken) {
    let done = Done {
        at: Timestamp::now(),
        seconds: taken.work.seconds,
        tries: 1,
        trouble: None,
    };
    let patience = Patience::for_at_most(archive::DEFAULT_DEADLINE);
    if let Err(error) = archive.end_turn(turn, &done, patience).await {
        complain(&format_args!("that {turn} is done is not recorded: {error}"));
    }
}

fn options(arguments: &BackupArgs) -> Result<Options, Failure> {
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => Timestamp::now()
            .strftime("%Y-%m-%dT%H%M%SZ")
            .to_string()
            .parse()?,
    };
    let primary = arguments.primary.as_deref().map(connect::at).transpose()?;
    // Empty: none, whatever a configuration says.
    let settings = arguments.settings_dir.as_deref();
    let settings = settings.filter(|directory| *directory != Path::new(""));
    Ok(Options {
        settings_dir: settings.map(std::path::absolute).transpose()?,
        primary,
        label: arguments.label.clone().unwrap_or_else(|| format!("walfs {name}")),
        name,
        fast: arguments.fast,
        full: arguments.full,
        jobs: jobs(arguments.jobs),
        verify_checksums: !arguments.no_verify_checksums,
        rate_limit: arguments.rate_limit,
        wal_timeout: arguments.wal_timeout,
        turn: arguments.turn.clone(),
    })
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a str,
    /// Is all its WAL archived?
    complete: bool,
    missing_wal: Vec<String>,
    /// The earlier backup of which the pages are that have not changed.
    base: Option<&'a str>,
    /// What it took.
    work: &'a Work,
    #[serde(flatten)]
    summary: &'a Summary,
}

fn report(taken: &Taken, storing: &StoringArgs) -> ExitCode {
    if storing.json
        && let Err(error) = print_json(taken)
    {
        complain(&error);
        return ExitCode::FAILURE;
    }
    if let Some(missing) = &taken.missing_wal {
        complain(&lacking(taken, missing));
        return ExitCode::FAILURE;
    }
    match &taken.summary.backup.pages {
        Some(pages) if pages.bad > 0 => {
            complain(&bad_pages(&taken.name.to_string(), pages));
            ExitCode::from(EXIT_BAD_PAGES)
        }
        _ => {
            if storing.is_watched() {
                complain(&complete(taken));
            }
            ExitCode::SUCCESS
        }
    }
}

/// For who has watched.
fn complete(taken: &Taken) -> String {
    let (summary, links) = (&taken.summary, &taken.summary.backup.links);
    let followed = match links.iter().filter(|link| link.followed).count() {
        0 => String::new(),
        number => format!("; {number} of its files and directories are behind links on the server"),
    };
    let unchanged = match &taken.base {
        Some(base) => format!(", the rest is unchanged since backup {base}"),
        None => String::new(),
    };
    let work = &taken.work;
    format!(
        "backup {} is complete: {} in {} files, {} stored{unchanged}{followed}\n\
         {} read, {} changed, {} requests in {:.1} s; most of the copying went to {}",
        taken.name,
        BinaryBytes(summary.bytes),
        summary.files,
        BinaryBytes(summary.stored_bytes),
        BinaryBytes(work.read_bytes),
        BinaryBytes(work.changed_bytes),
        work.requests,
        work.seconds,
        work.waits.most()
    )
}

fn print_json(taken: &Taken) -> std::io::Result<()> {
    let missing = taken.missing_wal.iter().flat_map(|missing| &missing.segments);
    let report = Report {
        name: taken.name.as_str(),
        complete: taken.missing_wal.is_none(),
        missing_wal: missing
            .map(|segment| WalName::Segment(*segment).to_string())
            .collect(),
        base: taken.base.as_ref().map(TreeName::as_str),
        work: &taken.work,
        summary: &taken.summary,
    };
    let mut out = Out::new();
    serde_json::to_writer_pretty(&mut out, &report)?;
    writeln!(out)
}

fn lacking(taken: &Taken, missing: &MissingWal) -> String {
    let why = missing.complaint.as_deref().unwrap_or(
        "the server has no complaint.\nHINT: does it archive into this archive? `walfs wal-list` shows what came.",
    );
    format!(
        "the files of backup {} are stored, but it is not complete: the archive lacks {}; {why}",
        taken.name,
        named(&missing.segments)
    )
}

/// Says that a backup is complete, and which of its data pages are not.
pub(super) fn bad_pages(name: &str, pages: &Pages) -> String {
    const NAMED: usize = 10;
    let first = pages.first_bad.iter().take(NAMED);
    let lines: Vec<String> = first
        .map(|page| format!("\n  block {} of {}: {}", page.block, page.path, page.reason))
        .collect();
    let more = match pages.bad.saturating_sub(lines.len() as u64) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    format!(
        "backup {name} is complete, and {} of its pages are damaged:{}{more}\n\
         HINT: the disk, its memory or a hand has changed them; an earlier backup may have them whole.",
        pages.bad,
        lines.concat()
    )
}

//! `walfs sync`: what is not in the store yet, and removing what nobody will complete.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use indicatif::BinaryBytes;
use jiff::Timestamp;
use serde::Serialize;

use crate::archive::tree::TreeKind;
use crate::archive::tree::begun::{Maker, Process};
use crate::archive::tree::catalogue::By;
use crate::config::PgWal;
use crate::job::discard::{self, Planned};
use crate::job::unsynced::{Waiting, waiting};
use crate::store::Patience;

use super::complain;
use super::options::ArchiveArgs;
use super::out::Out;
use super::wal::{Failure, block_on, exit_code};

/// Show what is not in the store yet, or remove what nobody will complete
///
/// Not in the store yet are WAL files of a server that are finished and not archived, and backups, versions of files and dumps
/// that were begun and are not complete.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
#[command(group = ArgGroup::new("deed").required(true).args(["list", "reset"]))]
pub struct SyncArgs {
    /// Show it
    #[arg(long)]
    list: bool,
    /// Remove what was begun and nobody is at any more; without --confirm say what would go
    #[arg(long)]
    reset: bool,
    /// Remove it
    #[arg(long, requires = "reset")]
    confirm: bool,
    /// Say what would go, and remove nothing: as without --confirm
    #[arg(long, requires = "reset", conflicts_with = "confirm")]
    dry_run: bool,
    /// Look also at the pg_wal of this data directory
    #[arg(
        long,
        visible_alias = "pg-data",
        value_name = "DIR",
        env = "WALFS_PGDATA",
        hide_env_values = true
    )]
    pgdata: Option<PathBuf>,
    /// Look also at this pg_wal; auto and off, which `walfs mount` knows, are no directory
    #[arg(long, value_name = "DIR", env = "WALFS_PG_WAL", hide_env_values = true)]
    pg_wal: Option<PgWal>,
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Print one JSON object: wal, unfinished
    #[arg(long)]
    json: bool,
}

const MANUAL: &str = "\
Examples:
  walfs sync --archive s3://bucket/prefix --list --pg-wal /var/lib/postgresql/15/main/pg_wal
  walfs sync --archive s3://bucket/prefix --reset
  walfs sync --archive s3://bucket/prefix --reset --confirm

WAL that waits comes by itself as soon as the server archives again; nothing of it is ever removed. What a dead `walfs backup`, `walfs \
files` or `walfs dump` has left, the next one would remove, too. What somebody is at, or may be at, stays; so does what was brought \
through a mount, which may be the only copy of something, and what may be complete and have lost its summary: `walfs backup-discard NAME` \
removes these.

Exit codes: 0 done, 1 it failed, 2 wrong usage.";

/// Runs `walfs sync`.
pub fn run(arguments: &SyncArgs) -> ExitCode {
    exit_code(block_on(sync(arguments)))
}

async fn sync(arguments: &SyncArgs) -> Result<(), Failure> {
    let archive = arguments.archive.opened().await?;
    let patience = || Patience::for_at_most(arguments.archive.store.deadline);
    let given = arguments
        .pg_wal
        .as_ref()
        .and_then(PgWal::given)
        .map(Path::to_owned);
    let of_data = || Some(arguments.pgdata.as_ref()?.join("pg_wal"));
    let waits = match given.or_else(of_data).filter(|_| arguments.list) {
        Some(pg_wal) => waiting(&archive, &pg_wal, patience).await?,
        None => Vec::new(),
    };
    let mut begun = Vec::new();
    for planned in discard::all(&archive, patience()).await? {
        let fate = match planned.goes_unnamed() {
            true if arguments.confirm => match discard::discard(&archive, &planned, patience()).await {
                Ok(()) => Fate::Removed,
                Err(error) => {
                    complain(&format_args!("{} is not removed: {error}", planned.tree.id));
                    Fate::Failed
                }
            },
            true => Fate::Goes,
            false => Fate::Stays,
        };
        begun.push((planned, fate));
    }
    let mut out = Out::new();
    match arguments.json {
        true => print_json(&mut out, &waits, &begun)?,
        false => print(&mut out, arguments, &waits, &begun)?,
    }
    out.end()?;
    match begun.iter().filter(|(_, fate)| *fate == Fate::Failed).count() {
        0 => Ok(()),
        failed => Err(format!("{failed} of those that were to go are not removed").into()),
    }
}

/// What becomes of something that is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is not to be removed with others.
    Stays,
    /// It would be removed by --confirm.
    Goes,
    Removed,
    Failed,
}

fn print(
    out: &mut impl Write,
    arguments: &SyncArgs,
    waits: &[Waiting],
    begun: &[(Planned, Fate)],
) -> std::io::Result<()> {
    for waiting in waits {
        let since = waiting.since.and_then(|since| Timestamp::try_from(since).ok());
        let since = since.map_or(String::new(), |since| format!("since {since:.0}"));
        writeln!(
            out,
            "{:<8}  {:<40}  waits to be archived {since}",
            "WAL",
            waiting.name.to_string()
        )?;
    }
    for (planned, fate) in begun {
        let tree = &planned.tree;
        let name = tree.id.name();
        let (stored, last) = (BinaryBytes(tree.stored_bytes), stored_last(planned));
        let fate = match fate {
            _ if arguments.list => "",
            Fate::Stays => "stays: ",
            Fate::Goes => "would go: ",
            Fate::Removed => "removed: ",
            Fate::Failed => "not removed: ",
        };
        writeln!(
            out,
            "{:<8}  {:<40}  {fate}{}; {stored} stored, last {last:.0}",
            kind(tree.kind()),
            name.as_str(),
            who(planned)
        )?;
    }
    if waits.is_empty() && begun.is_empty() {
        writeln!(out, "everything is in the store")?;
    }
    if arguments.reset && !arguments.confirm && begun.iter().any(|(_, fate)| *fate == Fate::Goes) {
        writeln!(out, "nothing is removed.\nHINT: --confirm removes what would go")?;
    }
    Ok(())
}

/// Who is at it, or was.
fn who(Planned { tree, maker }: &Planned) -> String {
    let Some(begun) = &tree.begun else {
        return "nobody knows who began it".to_owned();
    };
    let Process { host, pid, .. } = &begun.process;
    let by = match begun.by {
        By::Backup => "",
        By::Mount => " through a mount",
    };
    let state = match maker {
        Maker::Running => "is at it",
        Maker::Elsewhere => "may be at it",
        Maker::Dead if tree.may_have_lost_its_summary(*maker) => {
            "is gone, and it may be complete without its summary"
        }
        Maker::Dead => "is gone",
    };
    format!(
        "begun{by} {:.0} by process {pid} on {host}, which {state}",
        begun.at
    )
}

fn stored_last(planned: &Planned) -> Timestamp {
    Timestamp::try_from(planned.tree.last_stored).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn kind(kind: TreeKind) -> &'static str {
    match kind {
        TreeKind::BaseBackup => "backup",
        TreeKind::Files => "files",
        TreeKind::Dump => "dump",
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    wal: Vec<WaitingTold>,
    unfinished: Vec<Told<'a>>,
}

#[derive(Debug, Serialize)]
struct WaitingTold {
    name: String,
    since: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct Told<'a> {
    kind: &'static str,
    name: String,
    began: Option<Timestamp>,
    host: Option<&'a str>,
    pid: Option<u32>,
    /// Was it brought through a mount?
    through_mount: Option<bool>,
    /// `running`, `elsewhere` (nobody can tell from here) or `dead`.
    maker: &'static str,
    stored_bytes: u64,
    last_stored: Timestamp,
    /// Does --reset --confirm remove it?
    goes: bool,
    /// Has it?
    removed: bool,
}

fn print_json(out: &mut impl Write, waits: &[Waiting], begun: &[(Planned, Fate)]) -> Result<(), Failure> {
    let wal = waits.iter().map(|waiting| WaitingTold {
        name: waiting.name.to_string(),
        since: waiting.since.and_then(|since| Timestamp::try_from(since).ok()),
    });
    let report = Report {
        wal: wal.collect(),
        unfinished: begun.iter().map(told).collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    Ok(writeln!(out)?)
}

fn told((planned, fate): &(Planned, Fate)) -> Told<'_> {
    let (tree, begun) = (&planned.tree, planned.tree.begun.as_ref());
    Told {
        kind: kind(tree.kind()),
        name: tree.id.name().to_string(),
        began: begun.map(|begun| begun.at),
        host: begun.map(|begun| begun.process.host.as_str()),
        pid: begun.map(|begun| begun.process.pid),
        through_mount: begun.map(|begun| begun.by == By::Mount),
        maker: match planned.maker {
            Maker::Running => "running",
            Maker::Elsewhere => "elsewhere",
            Maker::Dead => "dead",
        },
        stored_bytes: tree.stored_bytes,
        last_stored: stored_last(planned),
        goes: planned.goes_unnamed(),
        removed: *fate == Fate::Removed,
    }
}

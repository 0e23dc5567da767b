//! `walfs restore`: a backup becomes a data directory.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use crate::archive::tree::LATEST;
use crate::assemble::Stay;
use crate::job::restore::{Choice, Mapping, OldWal, Options, Owner, Ownership, restore};
use crate::linux::kernel::{self, lookup_user};
use crate::memory::give_back_freed;

use self::recovery::RecoveryArgs;
use super::options::{ArchiveArgs, MemoryArgs, open};
use super::{complain, progress, restored, start_log};

mod recovery;

/// Restore a backup to a data directory, ready to recover
///
/// Looks first, and touches nothing before it knows that it can be done: that the backup is whole and the WAL it needs is
/// archived, that the WAL leads to the target, that the directory is empty and large enough. Every byte is verified. If it
/// is interrupted, run the same command again: it goes on. No server starts from a directory that is not complete.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct RestoreArgs {
    /// The backup, or LATEST: the newest complete one (that ends before the target)
    #[arg(value_name = "NAME", value_parser = choice)]
    backup: Choice,
    /// The data directory: empty, or made [default: PGDATA]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The same, as PostgreSQL's programs take it
    #[arg(
        short = 'D',
        long = "pgdata",
        value_name = "DIR",
        conflicts_with = "directory"
    )]
    pgdata: Option<PathBuf>,
    #[command(flatten)]
    archive: ArchiveArgs,
    /// DIR holds an older state of the same cluster: keep what is right in it, fetch the rest, remove what is too much
    ///
    /// Files are compared by content, chunk by chunk, never by time or size. With --dry-run everything that would be
    /// removed is listed.
    #[arg(long)]
    delta: bool,
    /// WAL in DIR that the archive does not have: leave it in pg_wal, where a recovery to the end finds it
    ///
    /// After a crash the newest commits are only there. Without this or --set-aside-wal such WAL is named, and nothing done.
    /// With --take-over whole segments of it are archived first: the server removes them once they are replayed.
    #[arg(long, conflicts_with_all = ["set_aside_wal", "target"])]
    keep_wal: bool,
    /// WAL in DIR that the archive does not have: move it to a new directory [default: one beside DIR, or beside its WAL]
    #[arg(long, value_name = "NEWDIR", num_args = 0..=1, require_equals = true)]
    set_aside_wal: Option<Option<PathBuf>>,
    /// Put the WAL on a disk of its own: pg_wal is a link to WALDIR, which is empty or made
    ///
    /// Without it a link pg_wal in DIR stays; with --delta the directory that it leads to must be named. DIR/pg_wal may be
    /// prepared, as a link or as an empty mount point (with lost+found).
    #[arg(long, value_name = "WALDIR")]
    waldir: Option<PathBuf>,
    /// Put a tablespace elsewhere; OLDDIR is where it was, or its oid [default: where it was]
    ///
    /// May be given several times. NEWDIR is absolute, and empty or made. Where a name has =, write \=.
    #[arg(long, value_name = "OLDDIR=NEWDIR", value_parser = mapping)]
    tablespace_mapping: Vec<Mapping>,
    /// Put settings that were not in the data directory back: those that were in OLDDIR go to NEWDIR
    ///
    /// The backup has them in walfs.settings/, under the path that they had; without this they stay there. May be given several
    /// times. Nothing is replaced: a file that is there and differs is named and left, and so is a link.
    #[arg(long, value_name = "OLDDIR=NEWDIR", value_parser = mapping)]
    settings_mapping: Vec<Mapping>,
    /// As root: whom all files shall belong to [default: the numbers that they had in the backup]
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Parts of 32 MiB that are decoded at once, while others are fetched; each needs up to 37 MiB of memory for both
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64), env = "WALFS_RESTORE_JOBS", hide_env_values = true)]
    jobs: u8,
    /// Do not wait until everything is on disk
    #[arg(long)]
    no_sync: bool,
    /// Look at everything, say what would be done, touch nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    recovery: RecoveryArgs,
}

const MANUAL: &str = "\
Examples:
  walfs restore --archive s3://bucket/prefix --take-over LATEST /var/lib/postgresql/15/main
  walfs restore --archive s3://bucket/prefix --delta --take-over LATEST /var/lib/postgresql/15/main
  walfs restore --archive /srv/archive --target-time '2026-11-21 13:59:00+01' --target-action promote LATEST /srv/pg
  walfs restore --archive /srv/archive --tablespace-mapping /srv/fast=/srv/fast2 monday /srv/copy
  walfs restore --archive s3://bucket/prefix --http http://127.0.0.1:5000 LATEST /var/lib/postgresql/data

What it writes beside the files of the backup: the WAL from the backup's start to its end, in pg_wal; lines in \
postgresql.auto.conf, between two marks; recovery.signal or standby.signal; where tablespaces are, in pg_tblspc and \
tablespace_map. Settings files that were not in the data directory are in walfs.settings/ of a backup by `walfs backup`: \
--settings-mapping puts them back. \
global/pg_control comes last. It is changed so that the server starts only with backup_label; backup_manifest describes \
it as it is, so that pg_verifybackup passes.

If a segment is missing on the way to the target, it is named and nothing is done: at a gap PostgreSQL would open the \
database without what is behind it, and say nothing. --up-to-gap accepts that.

Settings of the backup that would hold up, redirect or harm the server are overridden in postgresql.auto.conf or, where \
nothing overrides them (data_directory), made comments; each is named: targets, recovery_min_apply_delay, slots, cleanup \
commands, synchronous_standby_names and others. The lines that are for the recovery vanish when it has ended.

The server archives nothing unless --take-over is given. Until it is open nobody can connect, unless it pauses at a target \
or is a standby.

A target that the archived WAL does not reach is refused, with the last commit that it has: for a time it needs a \
transaction that ended later. With --target-name and --target-xid LATEST is the newest backup that ended before them, by what \
the WAL says; `walfs wal-find` shows that. Of a standby it is only said: its primary may bring the rest.

DIR is refused if a server or another walfs restore runs in it, if it lies in a local archive or around it, or if it is \
not empty: unless --delta is given and it belongs to the same cluster, \
or it is what an interrupted restore has left. --delta removes what is not in the backup; a directory that a link in it \
points to is left as it is, only the link goes. What pg_wal and tablespaces have outside of DIR is replaced only if --waldir \
and --tablespace-mapping name it: in a copy of a data directory these links are still its original's. WAL that the archive \
does not have is never removed. No link below DIR, a tablespace's directory or WALDIR is followed: a backup with a link in \
place of its data is refused, and pg_wal and other \
directories that are empty in every backup are made in place of a link.

Without walfs: with the archive mounted, `cp -a /mnt/walfs/basebackups/LATEST/. DIR` gives the same files; then write \
restore_command as `walfs postgres-config` prints it, and make recovery.signal. Tablespaces are the directories \
pg_tblspc/OID: move each to its place, and write a line \"OID DIR\" for each into tablespace_map.

Exit codes: 0 it is restored, 1 it is not, 2 wrong usage.";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs `walfs restore`.
pub fn run(arguments: &RestoreArgs) -> ExitCode {
    start_log("walfs=warn,error");
    give_back_freed();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| {
            let outcome = runtime.block_on(restore_backup(arguments));
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

async fn restore_backup(arguments: &RestoreArgs) -> Result<(), Failure> {
    let options = options(arguments)?;
    refuse_a_mount(&options)?;
    let mut config = arguments.archive.config()?;
    config.memory = arguments.memory.shares();
    let archive = open(&config, Stay::Short, config.read_wait()).await?;
    let progress = progress::on_terminal();
    let place = archive.place();
    let report = restore(&Arc::new(archive), &options, &progress, config.person_patience()).await?;
    drop(progress);
    report
        .warnings
        .iter()
        .for_each(|warning| complain(&format_args!("warning: {warning}")));
    let owner = owner_name(&options.directory);
    restored::print(&report, &options, &place, owner, arguments.json)?;
    Ok(())
}

/// A data directory in a mount of walfs would become a backup there.
fn refuse_a_mount(options: &Options) -> Result<(), Failure> {
    let tablespaces = options.tablespaces.iter().map(|mapping| &mapping.new);
    let settings = options.settings.iter().map(|mapping| &mapping.new);
    let others = options.waldir.iter().chain(tablespaces).chain(settings);
    for directory in std::iter::once(&options.directory).chain(others) {
        if kernel::is_in_walfs(directory) {
            let directory = directory.display();
            return Err(format!(
                "{directory} is in a mount of walfs: what is restored there would become a backup, and no server runs on it\n\
                 HINT: name a directory of a disk"
            )
            .into());
        }
    }
    Ok(())
}

fn options(arguments: &RestoreArgs) -> Result<Options, Failure> {
    Ok(Options {
        backup: arguments.backup.clone(),
        directory: path::absolute(directory(arguments)?)?,
        delta: arguments.delta,
        old_wal: old_wal(arguments)?,
        waldir: arguments.waldir.as_ref().map(path::absolute).transpose()?,
        tablespaces: arguments.tablespace_mapping.clone(),
        settings: arguments.settings_mapping.clone(),
        owner: ownership(arguments.owner.as_deref())?,
        jobs: usize::from(arguments.jobs),
        sync: !arguments.no_sync,
        dry_run: arguments.dry_run,
        recovery: arguments
            .recovery
            .recovery(&arguments.archive.place, &arguments.archive.store)?,
    })
}

fn old_wal(arguments: &RestoreArgs) -> io::Result<OldWal> {
    Ok(match &arguments.set_aside_wal {
        _ if arguments.keep_wal => OldWal::Keep,
        None => OldWal::Refuse,
        Some(directory) => OldWal::SetAside(directory.as_ref().map(path::absolute).transpose()?),
    })
}

fn directory(arguments: &RestoreArgs) -> Result<PathBuf, Failure> {
    let given = arguments.directory.clone().or_else(|| arguments.pgdata.clone());
    let given = given.or_else(|| std::env::var_os("PGDATA").map(PathBuf::from));
    given.ok_or_else(|| "no data directory is named.\nHINT: walfs restore --archive ARCHIVE NAME DIR".into())
}

fn ownership(user: Option<&str>) -> Result<Ownership, Failure> {
    // SAFETY: geteuid only reads this process's credentials and cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    match user {
        None if is_root => Ok(Ownership::AsBackedUp),
        None => Ok(Ownership::Own),
        Some(_) if !is_root => {
            Err("only root can give files away: --owner\nHINT: run it as that user".into())
        }
        Some(user) => {
            let owner = lookup_user(user)?.owner;
            let (uid, gid) = (owner.uid, owner.gid);
            Ok(Ownership::Of(Owner { uid, gid }))
        }
    }
}

/// The user whom the server must run as.
fn owner_name(directory: &Path) -> Option<String> {
    let uid = std::fs::metadata(directory).ok()?.uid();
    // SAFETY: geteuid only reads this process's credentials and cannot fail.
    if uid == unsafe { libc::geteuid() } && uid != 0 {
        return None;
    }
    lookup_user(&uid.to_string()).ok().map(|user| user.name)
}

fn choice(text: &str) -> Result<Choice, String> {
    if text.eq_ignore_ascii_case(LATEST) {
        return Ok(Choice::Latest);
    }
    let name = text.parse().map_err(|error| format!("{error}"))?;
    Ok(Choice::Named(name))
}

/// As pg_basebackup reads it: the first `=` without a backslash divides, `\=` is part of a name.
fn mapping(text: &str) -> Result<Mapping, String> {
    let wrong =
        || format!("{text:?} is not OLDDIR=NEWDIR with an absolute NEWDIR; write \\= for = in a name");
    let divides = |(at, _): &(usize, &str)| !text[..*at].ends_with('\\');
    let mut divisions = text.match_indices('=').filter(divides);
    let (Some((at, _)), None) = (divisions.next(), divisions.next()) else {
        return Err(wrong());
    };
    let name = |part: &str| part.replace("\\=", "=");
    let (old, new) = (name(&text[..at]), PathBuf::from(name(&text[at + 1..])));
    if old.is_empty() || !new.is_absolute() {
        return Err(wrong());
    }
    Ok(Mapping { old, new })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_postgresql_writes_them() {
        assert!(mapping("/a=b").is_err() && mapping("/a").is_err());
        assert_eq!(mapping("16400=/b").unwrap().new, Path::new("/b"));
        let odd = mapping(r"/a\=b=/c\=d\e").unwrap();
        assert_eq!((&*odd.old, &*odd.new), ("/a=b", Path::new(r"/c=d\e")));
        assert!(mapping("/a=b=/c").is_err() && mapping(r"/a\=/b").is_err());
        assert_eq!(
            (choice("latest"), choice("LATEST")),
            (Ok(Choice::Latest), Ok(Choice::Latest))
        );
    }
}

//! `walfs wal-push`, `wal-fetch` and `wal-list`: WAL without a mount, by the same code and with the same promises; or,
//! with `--mount`, through one.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::archive::Archive;
use crate::archive::wal::WalMeta;
use crate::pg::WalName;
use crate::store::Patience;

use super::mounted::Mounted;
use super::options::{ArchiveArgs, CreateArgs, StoreArgs, WriteArgs};
use super::out::Out;
use super::{FETCH_FAILED, complain, start_log};

mod direct;

/// Archive one WAL file, without a mount or through one
///
/// Succeeds when the file is in the store, whole and verified, or was there already with the same content.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples, for postgresql.conf:
  archive_command = 'walfs wal-push --archive s3://bucket/prefix \"%p\"'
  archive_command = 'walfs wal-push --mount /mnt/walfs --archive s3://bucket/prefix \"%p\"'

With --mount the running daemon archives the file, which is quicker: it has connections open and works ahead. If it \
does not, and --archive is given too, the file is archived directly.

Exit codes: 0 it is in the store, 1 it is not (PostgreSQL tries again), 2 wrong usage.")]
pub struct PushArgs {
    /// The file (%p); archived under its name
    #[arg(value_name = "PATH")]
    path: PathBuf,
    #[command(flatten)]
    way: WayArgs,
    #[command(flatten)]
    create: CreateArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// Which way to the archive.
#[derive(Debug, Args)]
pub struct WayArgs {
    /// s3://bucket/prefix, file:///directory or a path
    #[arg(
        long,
        value_name = "ARCHIVE",
        env = "WALFS_ARCHIVE",
        hide_env_values = true,
        required_unless_present = "mount"
    )]
    archive: Option<String>,
    /// Where walfs is mounted: go through the running mount, whose archive must be the same
    #[arg(long, value_name = "DIR", env = "WALFS_MOUNT", hide_env_values = true)]
    mount: Option<PathBuf>,
}

impl WayArgs {
    /// Goes through the mount if there is one to go through; then directly, if it did not work out.
    async fn go<T>(
        &self,
        through: impl FnOnce(&Mounted) -> Result<T, String>,
        directly: impl AsyncFnOnce(&str) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Some(mountpoint) = &self.mount else {
            let archive = self.archive.as_deref();
            return directly(archive.expect("clap requires one where there is no mount")).await;
        };
        let tried = match Mounted::at(mountpoint) {
            Ok(mount) => {
                // Of a mount and an archive that are not the same, one is wrong: neither is taken.
                self.archive
                    .iter()
                    .try_for_each(|archive| mount.check_shows(archive))?;
                through(&mount)
            }
            Err(not_mounted) => Err(not_mounted),
        };
        match (tried, &self.archive) {
            (Ok(done), _) => Ok(done),
            (Err(reason), None) => Err(reason.into()),
            (Err(reason), Some(archive)) => {
                tracing::warn!("{reason}; going to {archive} directly");
                directly(archive).await
            }
        }
    }
}

/// Restore one WAL file, without a mount or through one
///
/// Waits for as long as the store is away, unless --read-deadline is given.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples, for postgresql.conf:
  restore_command = 'walfs wal-fetch --archive s3://bucket/prefix %f \"%p\"'
  restore_command = 'walfs wal-fetch --mount /mnt/walfs --archive s3://bucket/prefix %f \"%p\"'

With --mount the running daemon is asked, which has fetched the next segments already. If it does not give the file or \
prove that there is none, and --archive is given too, the archive is asked directly.

Exit codes: 0 it is restored, 1 the archive ends before it (the store said that it does not exist, nor anything later of \
its timeline), 255 anything else: a hole, wrong usage too. PostgreSQL takes 1 for the end of the archive and opens the \
database; at 255 it stops, and can be started again. For a standby, which never opens by itself, add `|| exit 1`: at 255 it \
would stop, too.")]
pub struct FetchArgs {
    /// Name of the file (%f)
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to put it (%p); it appears there whole or not at all
    #[arg(value_name = "PATH")]
    path: PathBuf,
    #[command(flatten)]
    way: WayArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// List archived WAL files, in order of their names
///
/// Name, bytes of content, bytes in the store, and when it was archived by the store's clock.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs wal-list --archive s3://bucket/prefix
  walfs wal-list --archive /srv/archive --json | jq -r .name")]
pub struct ListArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// One JSON object a line: name, bytes, stored_bytes, archived_at
    #[arg(long)]
    json: bool,
}

/// What a direct try may take after a mount has used up the deadline.
const LAST_TRY: Duration = Duration::from_secs(1);

/// An error that ends a command, for a person.
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    start_log("walfs=warn,error");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

pub(super) fn exit_code(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Runs `walfs wal-push`.
pub fn push(arguments: &PushArgs) -> ExitCode {
    exit_code(block_on(push_file(arguments)))
}

async fn push_file(arguments: &PushArgs) -> Result<(), Failure> {
    let name = arguments
        .path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let name: WalName = name.parse()?;
    let began = Instant::now();
    let through = |mount: &Mounted| mount.push(&arguments.path, name);
    // One deadline for both ways together (promise W7).
    let left = || {
        arguments
            .store
            .deadline
            .saturating_sub(began.elapsed())
            .max(LAST_TRY)
    };
    let directly = async |archive: &str| direct::push(arguments, archive, name, left()).await;
    arguments.way.go(through, directly).await
}

/// Runs `walfs wal-fetch`.
pub fn fetch(arguments: &FetchArgs) -> ExitCode {
    match block_on(fetch_file(arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            complain(&format_args!("{} is not archived", arguments.name));
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(&error);
            ExitCode::from(FETCH_FAILED)
        }
    }
}

/// False: the store said that the file does not exist.
async fn fetch_file(arguments: &FetchArgs) -> Result<bool, Failure> {
    let name: WalName = arguments.name.parse()?;
    let path = &arguments.path;
    let through = |mount: &Mounted| {
        let mut target = beside(path)?;
        let found = mount.fetch(name, &mut target)?;
        if found {
            put_in_place(target, path)?;
        }
        Ok(found)
    };
    let directly = async |archive: &str| direct::fetch(arguments, archive, name).await;
    arguments.way.go(through, directly).await
}

/// A file beside the target, to be renamed when it is whole: so nobody ever finds half of it.
pub(super) fn beside(path: &Path) -> Result<NamedTempFile, String> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    NamedTempFile::new_in(parent.unwrap_or(Path::new("."))).map_err(|error| cannot_write(path, &error))
}

fn put_in_place(whole: NamedTempFile, path: &Path) -> Result<(), String> {
    let readable = whole
        .as_file()
        .set_permissions(Permissions::from_mode(mode_of(path)));
    readable.map_err(|error| cannot_write(path, &error))?;
    let placed = whole
        .persist(path)
        .map_err(|error| cannot_write(path, &error.error));
    placed.map(drop)
}

/// For its owner alone; in a directory of a cluster whose group may read (`initdb --allow-group-access`), for that too.
fn mode_of(path: &Path) -> u32 {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let found = std::fs::metadata(parent.unwrap_or(Path::new(".")));
    match found.map(|found| found.permissions().mode() & 0o777) {
        Ok(0o750) => 0o640,
        _ => 0o600,
    }
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

/// One line of `wal-list --json`.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    bytes: u64,
    stored_bytes: u64,
    archived_at: Timestamp,
}

/// Runs `walfs wal-list`.
pub fn list(arguments: &ListArgs) -> ExitCode {
    exit_code(block_on(list_files(arguments)))
}

async fn list_files(arguments: &ListArgs) -> Result<(), Failure> {
    let archive = arguments.archive.opened().await?;
    print_all(&archive, arguments).await
}

async fn print_all(archive: &Archive, arguments: &ListArgs) -> Result<(), Failure> {
    let mut out = Out::new();
    if !arguments.json {
        writeln!(
            out,
            "{:<40} {:>11} {:>11}  ARCHIVED AT",
            "NAME", "BYTES", "STORED"
        )?;
    }
    let mut from = None;
    loop {
        let patience = Patience::for_at_most(arguments.archive.store.deadline);
        let page = archive.list_wal(from.as_ref(), patience).await?;
        for (name, meta) in &page.entries {
            print_one(&mut out, *name, meta, arguments.json)?;
        }
        match page.next {
            Some(next) if !out.is_closed() => from = Some(next),
            _ => return Ok(out.end()?),
        }
    }
}

fn print_one(out: &mut impl Write, name: WalName, meta: &WalMeta, json: bool) -> Result<(), Failure> {
    let archived_at = Timestamp::try_from(meta.modified)?;
    let WalMeta {
        bytes, stored_bytes, ..
    } = *meta;
    if json {
        let listed = Listed {
            name: name.to_string(),
            bytes,
            stored_bytes,
            archived_at,
        };
        writeln!(out, "{}", serde_json::to_string(&listed)?)?;
    } else {
        writeln!(
            out,
            "{:<40} {bytes:>11} {stored_bytes:>11}  {archived_at:.0}",
            name.to_string()
        )?;
    }
    Ok(())
}

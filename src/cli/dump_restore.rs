//! `walfs dump-restore`: brings a dump back.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;
use tempfile::NamedTempFile;

use crate::archive::DEFAULT_DEADLINE;
use crate::archive::tree::TreeKind;
use crate::job::dump::restore::Restore;
use crate::store::Patience;

use super::out::report;
use super::progress;
use super::versions::VersionArgs;
use super::wal::{Failure, beside, block_on, cannot_write, exit_code};

/// Bring a dump back, into a new file or to standard output
///
/// What comes back is what pg_dump wrote (format custom), for pg_restore; of the globals what pg_dumpall wrote, for psql. Nothing
/// is written over what is there. The mount has the same: pg_restore -d app /mnt/walfs/dumps/app/LATEST/app.dump.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs dump-restore --archive s3://bucket/prefix app - | pg_restore -d app
  walfs dump-restore --archive s3://bucket/prefix app/2026-11-29T030000Z /tmp/app.dump
  walfs dump-restore --archive s3://bucket/prefix globals - | psql -d postgres

A file is there only once it is whole. To standard output goes what is proved; exit code 1 says that the rest is missing.")]
pub struct RestoreArgs {
    #[command(flatten)]
    version: VersionArgs,
    /// The new file; - for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs `walfs dump-restore`.
pub fn run(arguments: &RestoreArgs) -> ExitCode {
    exit_code(block_on(restore(arguments)))
}

async fn restore(arguments: &RestoreArgs) -> Result<(), Failure> {
    let target = (arguments.file != Path::new("-")).then_some(&*arguments.file);
    // Asked again when it is put there.
    if let Some(file) = target
        && file.symlink_metadata().is_ok()
    {
        return Err(is_there(file).into());
    }
    let (archive, version, summary) = arguments.version.find(TreeKind::Dump).await?;
    let shown = progress::on_terminal();
    let restore = Restore {
        archive: &archive,
        version: &version,
        summary: &summary,
        progress: &shown,
        patience: || Patience::for_at_most(DEFAULT_DEADLINE),
    };
    let Some(file) = target else {
        let mut out = std::io::stdout();
        restore.run(|bytes| out.write_all(bytes)).await?;
        return Ok(out.flush()?);
    };
    let mut whole = beside(file)?;
    let bytes = restore.run(|bytes| whole.write_all(bytes)).await?;
    put(whole, file)?;
    drop(shown);
    report(&format_args!(
        "restored version {} of {} to {}: {}",
        version.text(),
        version.set,
        file.display(),
        BinaryBytes(bytes)
    ));
    Ok(())
}

/// Gives a file its name, if nothing has it.
fn put(whole: NamedTempFile, file: &Path) -> Result<(), String> {
    let synced = whole.as_file().sync_all();
    synced.map_err(|error| cannot_write(file, &error))?;
    let placed = whole.persist_noclobber(file);
    placed.map(drop).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => is_there(file),
        _ => cannot_write(file, &error.error),
    })
}

fn is_there(file: &Path) -> String {
    format!(
        "{} is there, and nothing is written over what is there.\nHINT: name a file that is not there yet.",
        file.display()
    )
}

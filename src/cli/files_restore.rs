//! `walfs files-restore`: brings a version of files back.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;

use crate::archive::DEFAULT_DEADLINE;
use crate::archive::tree::TreeKind;
use crate::job::files::restore::Restore;
use crate::store::Patience;

use super::complain;
use super::out::report;
use super::progress;
use super::versions::VersionArgs;
use super::wal::{Failure, block_on, exit_code};

/// Bring a version of files back, into a new or an empty directory
///
/// Nothing is written over what is there, and no link is followed. Owners come back if root restores. The mount has the same
/// files: cp -a /mnt/walfs/files/etc/LATEST/. DIR.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  sudo walfs files-restore --archive s3://bucket/prefix etc /tmp/etc
  sudo walfs files-restore --archive s3://bucket/prefix etc/2026-11-29T030000Z /tmp/etc

What was written when it is interrupted stays there, incomplete: remove it, and restore again.")]
pub struct RestoreArgs {
    #[command(flatten)]
    version: VersionArgs,
    /// The directory, which is made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Say what would be restored, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs `walfs files-restore`.
pub fn run(arguments: &RestoreArgs) -> ExitCode {
    exit_code(block_on(restore(arguments)))
}

async fn restore(arguments: &RestoreArgs) -> Result<(), Failure> {
    let (archive, version, summary) = arguments.version.find(TreeKind::Files).await?;
    let set = &version.set;
    let shown = progress::on_terminal();
    let restore = Restore {
        archive: &archive,
        version: &version,
        summary: &summary,
        directory: &arguments.directory,
        progress: &shown,
        patience: || Patience::for_at_most(DEFAULT_DEADLINE),
    };
    if arguments.dry_run {
        restore.check()?;
        report(&format_args!(
            "would restore version {} of {set} to {}: {} in {} files",
            version.text(),
            arguments.directory.display(),
            BinaryBytes(summary.bytes),
            summary.files
        ));
        return Ok(());
    }
    let restored = restore.run().await?;
    drop(shown);
    report(&format_args!(
        "restored version {} of {set} to {}: {} in {} files and links",
        version.text(),
        arguments.directory.display(),
        BinaryBytes(restored.bytes),
        restored.files
    ));
    if restored.other_owner > 0 {
        complain(&format_args!(
            "{} files, links and directories belong to you, because only root may give them to whom they belonged.\n\
             HINT: restore as root to get owners back.",
            restored.other_owner
        ));
    }
    Ok(())
}

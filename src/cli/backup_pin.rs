//! `walfs backup-pin` and `backup-unpin`: backups that stay whatever the rules of a prune say.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use crate::archive::tree::TreeName;
use crate::archive::tree::pin::Pin;
use crate::store::Patience;

use super::moment;
use super::options::ArchiveArgs;
use super::out::report;
use super::wal::{Failure, block_on, exit_code};

/// The longest reason, in bytes.
const MOST_REASON: usize = 1000;

/// Keep a backup whatever the rules of `walfs prune` say
///
/// With it stays what it points to, and the WAL that makes it consistent. A second pin takes the place of the first.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs backup-pin --archive s3://bucket/prefix monday --reason 'before the upgrade to 18'
  walfs backup-pin --archive /srv/archive monday --reason 'audit of 2026' --until '2027-06-30 00:00:00+02'

Exit codes: 0 it is pinned, 1 there is no such backup, or it failed, 2 wrong usage.")]
pub struct PinArgs {
    /// Its name, as `walfs backup-list` shows it; of a version of files, or of a dump, NAME@VERSION
    #[arg(value_name = "NAME")]
    name: TreeName,
    /// Why, for those who wonder later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Not after that [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    until: Option<Timestamp>,
    #[command(flatten)]
    archive: ArchiveArgs,
}

/// Leave a backup to the rules of `walfs prune` again
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  walfs backup-unpin --archive s3://bucket/prefix monday

Exit codes: 0 it is not pinned any more, 1 it was not, or it failed, 2 wrong usage.")]
pub struct UnpinArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: TreeName,
    #[command(flatten)]
    archive: ArchiveArgs,
}

/// Runs `walfs backup-pin`.
pub fn pin(arguments: &PinArgs) -> ExitCode {
    exit_code(block_on(put(arguments)))
}

/// Runs `walfs backup-unpin`.
pub fn unpin(arguments: &UnpinArgs) -> ExitCode {
    exit_code(block_on(remove(arguments)))
}

async fn put(arguments: &PinArgs) -> Result<(), Failure> {
    let PinArgs { name, .. } = arguments;
    if arguments.until.is_some_and(|until| until <= Timestamp::now()) {
        return Err(
            "--until lies in the past: the pin would hold nothing.\nHINT: leave it out to pin for ever."
                .into(),
        );
    }
    if arguments.reason.trim().is_empty() || arguments.reason.len() > MOST_REASON {
        return Err(format!(
            "a reason has 1 to {MOST_REASON} bytes.\nHINT: --reason 'before the upgrade', for example."
        )
        .into());
    }
    let archive = arguments.archive.opened().await?;
    let patience = || Patience::for_at_most(arguments.archive.store.deadline);
    let no_backup = || -> Failure {
        format!(
            "{} has no backup named {name}.\nHINT: `walfs backup-list --archive {}` shows those that there are; a version of files, \
             or a dump, is NAME@VERSION, as `walfs files-list` and `walfs dump-list` have both.",
            archive.place(),
            arguments.archive.place
        )
        .into()
    };
    let summary = archive.summary_of_any(name, patience()).await?;
    let summary = summary.ok_or_else(no_backup)?;
    let id = summary.tree_id(name).ok_or_else(no_backup)?;
    let pin = Pin {
        id: id.to_string(),
        at: Timestamp::now(),
        until: arguments.until,
        reason: arguments.reason.clone(),
    };
    let stays = archive.pin(&id, &pin, patience()).await?;
    // A prune that has looked before, has announced what it removes.
    if !stays {
        return Err(format!(
            "{name} is pinned, but a prune that is under way may remove it all the same.\n\
             HINT: when that is done, `walfs backup-list --archive {}` shows whether it is still there.",
            arguments.archive.place
        )
        .into());
    }
    if archive.summary_of_any(name, patience()).await? != Some(summary) {
        return Err(no_backup());
    }
    report(&format_args!("{name} stays: {}", arguments.reason));
    Ok(())
}

async fn remove(arguments: &UnpinArgs) -> Result<(), Failure> {
    let UnpinArgs { name, .. } = arguments;
    let archive = arguments.archive.opened().await?;
    if !archive
        .unpin(name, Patience::for_at_most(arguments.archive.store.deadline))
        .await?
    {
        return Err(format!(
            "{name} is not pinned in {}.\nHINT: `walfs prune --dry-run` shows which backups are.",
            archive.place()
        )
        .into());
    }
    report(&format_args!("{name} is not pinned any more"));
    Ok(())
}

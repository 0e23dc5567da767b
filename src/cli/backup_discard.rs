//! `walfs backup-discard`: removes what an incomplete backup has left, on the operator's word.

use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;
use jiff::Timestamp;

use crate::archive::tree::TreeName;
use crate::archive::tree::begun::{Maker, Process};
use crate::job::discard::{Planned, discard, plan};
use crate::store::Patience;

use super::options::ArchiveArgs;
use super::out::report;
use super::wal::{Failure, block_on, exit_code};

/// Remove what an incomplete backup has left
///
/// What was brought through a mount and did not become complete is kept, for it may be the only copy of something; so is a
/// backup whose summary is missing. This removes it, once its mount has ended. Complete backups, and those that somebody may
/// be at, stay.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs backup-discard --archive s3://bucket/prefix --dry-run monday
  walfs backup-discard --archive s3://bucket/prefix monday

While the mount lives through which it was brought, `rm -r /mnt/walfs/basebackups/monday` does the same.

Exit codes: 0 all of it is gone, 1 there was none, or something stays, 2 wrong usage.")]
pub struct DiscardArgs {
    /// Its name, as `walfs backup-list` shows it
    #[arg(value_name = "NAME")]
    name: TreeName,
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs `walfs backup-discard`.
pub fn run(arguments: &DiscardArgs) -> ExitCode {
    exit_code(block_on(remove(arguments)))
}

async fn remove(arguments: &DiscardArgs) -> Result<(), Failure> {
    let DiscardArgs { name, archive, .. } = arguments;
    let opened = archive.opened().await?;
    let patience = || Patience::for_at_most(archive.store.deadline);
    let planned = plan(&opened, name, patience()).await?;
    if planned.is_empty() {
        return Err(format!(
            "{} has no incomplete backup named {name}.\n\
             HINT: `walfs backup-list --archive {}` shows those that there are; what is complete stays.",
            opened.place(),
            archive.place
        )
        .into());
    }
    let verb = if arguments.dry_run {
        "would remove"
    } else {
        "removed"
    };
    for planned in planned.iter().filter(|planned| planned.goes()) {
        if !arguments.dry_run {
            discard(&opened, planned, patience()).await?;
        }
        report(&format_args!("{verb} {}", described(planned)));
    }
    match planned.iter().find(|planned| !planned.goes()) {
        Some(kept) => Err(format!("{} stays: {}", described(kept), why_kept(kept)).into()),
        None => Ok(()),
    }
}

fn described(Planned { tree, .. }: &Planned) -> String {
    let stored = BinaryBytes(tree.stored_bytes);
    let last = Timestamp::try_from(tree.last_stored).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{}: {stored}, last stored {last:.0}", tree.id)
}

fn why_kept(Planned { tree, maker }: &Planned) -> String {
    let Some(Process { host, pid, .. }) = tree.begun.as_ref().map(|begun| &begun.process) else {
        return "it does not say who is at it.\n\
                HINT: run this again when nothing was stored for 24 hours."
            .to_owned();
    };
    match maker {
        Maker::Running => {
            format!("process {pid} on {host} is at it.\nHINT: end that process, or `rm -r` it in its mount.")
        }
        _ => format!(
            "process {pid} on {host} may be at it, and cannot be seen from here.\n\
             HINT: run this on {host}, or again when nothing was stored for 24 hours."
        ),
    }
}

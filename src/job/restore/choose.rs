//! Which backup is meant, and whether all of its own WAL is there.

use super::error::Error;
use super::target::Target;
use crate::archive::Archive;
use crate::archive::tree::catalogue::BackupWal;
use crate::archive::tree::summary::Summary;
use crate::archive::tree::{LATEST, TreeName};
use crate::store::Patience;

/// A backup by name, or the newest that will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Named(TreeName),
    /// The newest complete one that ends before the target.
    Latest,
}

/// Finds the backup; it ends before the target. Whether all of its own WAL is archived is another question
/// ([`check_wal`]), which of the newest one is answered already.
///
/// # Errors
/// [`Error::NoBackup`], [`Error::NoneBefore`], [`Error::TargetTooEarly`], [`Error::Archive`].
pub(super) async fn choose(
    archive: &Archive,
    choice: &Choice,
    target: &Target,
    patience: Patience,
) -> Result<(TreeName, Summary), Error> {
    match choice {
        Choice::Named(name) => named(archive, name, target, patience).await,
        Choice::Latest => newest(archive, target, patience).await,
    }
}

async fn named(
    archive: &Archive,
    name: &TreeName,
    target: &Target,
    patience: Patience,
) -> Result<(TreeName, Summary), Error> {
    let found = archive.summary(name, patience).await?;
    let mut summary = found.ok_or_else(|| Error::NoBackup {
        name: name.to_string(),
        place: archive.place(),
    })?;
    summary.backup.ended = archive.ended(&summary.backup, patience).await?;
    if let Some(stop) = target.too_early_for(&summary) {
        return Err(Error::TargetTooEarly {
            backup: name.clone(),
            target: target.to_string(),
            stop,
        });
    }
    Ok((name.clone(), summary))
}

/// Is all of the backup's own WAL archived?
///
/// # Errors
/// [`Error::MissingWal`], [`Error::Archive`].
pub(super) async fn check_wal(
    archive: &Archive,
    (name, summary): (&TreeName, &Summary),
    patience: Patience,
) -> Result<(), Error> {
    match archive.backup_wal(summary, patience).await? {
        BackupWal::Complete => Ok(()),
        BackupWal::Missing(segments) => {
            let names: Vec<String> = segments.iter().map(ToString::to_string).collect();
            Err(Error::MissingWal {
                backup: name.clone(),
                missing: names.join(", "),
                place: archive.place(),
            })
        }
    }
}

async fn newest(
    archive: &Archive,
    target: &Target,
    patience: Patience,
) -> Result<(TreeName, Summary), Error> {
    let summaries = archive.summaries(patience).await?;
    for (name, summary) in summaries.into_iter().rev() {
        let mut summary = match summary {
            Ok(summary) => summary,
            Err(error) => {
                tracing::warn!("{error}");
                continue;
            }
        };
        summary.backup.ended = archive.ended(&summary.backup, patience).await?;
        let reachable = target.too_early_for(&summary).is_none();
        if reachable && archive.backup_wal(&summary, patience).await? == BackupWal::Complete {
            return Ok((name, summary));
        }
    }
    let place = archive.place();
    Err(match target {
        Target::Time(_) | Target::Lsn(_) => Error::NoneBefore {
            place,
            target: target.to_string(),
        },
        _ => Error::NoBackup {
            name: LATEST.into(),
            place,
        },
    })
}

//! Every backup of an archive and the state it is in: complete, lacking WAL, damaged, unfinished.

use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};

use crate::archive::tree::begun::Maker;
use crate::archive::tree::catalogue::{BackupWal, Unfinished};
use crate::archive::tree::combined::{Bases, lacks};
use crate::archive::tree::intact::SeenTrees;
use crate::archive::tree::summary::Summary;
use crate::archive::tree::{LATEST, TreeId, TreeKind, TreeName};
use crate::archive::verified::FoundInBackups;
use crate::archive::{Archive, Error};
use crate::pg::{Lsn, SegmentName};
use crate::store::Patience;

/// Backups whose WAL is asked for at once: an archive of years has a thousand.
const LOOKS: usize = 32;

/// A backup, or another tree, finished or not.
#[derive(Debug)]
pub struct Listed {
    /// What it holds.
    pub kind: TreeKind,
    /// Its name; of unfinished ones there may be several.
    pub name: TreeName,
    /// The state it is in.
    pub state: State,
}

/// The state of a backup.
#[derive(Debug)]
pub enum State {
    /// It can be restored: all of it is there, and its WAL.
    Complete(Box<Summary>),
    /// All of it is there, but of its WAL these segments are missing.
    WalMissing(Box<Summary>, Vec<SegmentName>),
    /// All of it is there, and its WAL; but `walfs verify` has found this.
    FoundDamaged(Box<Summary>, String),
    /// Its summary cannot be read, or something of it is not there any more, and this is why; with the summary if that can be
    /// read.
    Damaged(Option<Box<Summary>>, String),
    /// It is being taken, or was.
    Unfinished(Unfinished, Maker),
}

impl Listed {
    /// Its folder, as far as that is known.
    pub fn id(&self) -> Option<String> {
        match &self.state {
            State::Complete(summary)
            | State::WalMissing(summary, _)
            | State::FoundDamaged(summary, _)
            | State::Damaged(Some(summary), _) => Some(summary.id.clone()),
            State::Unfinished(tree, _) => Some(tree.id.to_string()),
            State::Damaged(None, _) => None,
        }
    }

    /// Of an incremental one of PostgreSQL's of which all files are there: where that began which it is to be combined with.
    fn incremental_from(&self) -> Option<Lsn> {
        self.summary()?.backup.incremental_from
    }

    /// The one is not there that it, or what it is to be combined with, is to be combined with.
    fn note_lacking(&mut self, began: Option<Lsn>) {
        if let (Some(summary), Some(began)) = (self.summary(), began) {
            self.state = State::Damaged(Some(Box::new(summary.clone())), lacks(began));
        }
    }

    /// Its summary, if it has one that can be read.
    pub fn summary(&self) -> Option<&Summary> {
        match &self.state {
            State::Complete(summary) | State::WalMissing(summary, _) | State::FoundDamaged(summary, _) => {
                Some(summary)
            }
            State::Damaged(..) | State::Unfinished(..) => None,
        }
    }
}

/// All backups: those with a summary from the oldest to the newest, then the unfinished ones by name.
///
/// # Errors
/// [`Error::Store`].
pub async fn backups(archive: &Archive, patience: Patience) -> Result<Vec<Listed>, Error> {
    let (mut listed, _) = trees_and_remnants(archive, patience).await?;
    listed.retain(|listed| listed.kind == TreeKind::BaseBackup);
    Ok(listed)
}

/// As [`backups`], of all kinds, kind by kind; and the folders of pruned ones of which there is something left.
///
/// # Errors
/// [`Error::Store`].
pub async fn trees_and_remnants(
    archive: &Archive,
    patience: Patience,
) -> Result<(Vec<Listed>, Vec<TreeId>), Error> {
    let complete = archive.all_summaries(patience).await?;
    let beside = archive.unfinished_beside(&complete, patience).await?;
    let known = (&beside.seen, &archive.found_in_backups(patience).await?);
    let looks = stream::iter(complete)
        .map(|(kind, name, summary)| judge(archive, (kind, name), summary, known, patience));
    let mut listed: Vec<Listed> = looks.buffered(LOOKS).try_collect().await?;
    let mut bases = Bases::default();
    let whole = listed.iter().filter_map(Listed::summary);
    whole.for_each(|summary| bases.add(&summary.backup));
    for listed in &mut listed {
        let lacking = listed.incremental_from().and_then(|from| bases.lacking(from));
        listed.note_lacking(lacking);
    }
    listed.extend(beside.unreadable.into_iter().map(|(name, error)| Listed {
        kind: TreeKind::BaseBackup,
        name,
        state: State::Damaged(None, error.to_string()),
    }));
    let now = SystemTime::now();
    listed.extend(beside.unfinished.into_iter().map(|tree| {
        let maker = tree.maker(now);
        Listed {
            kind: tree.kind(),
            name: tree.id.name(),
            state: State::Unfinished(tree, maker),
        }
    }));
    Ok((listed, beside.remnants))
}

/// The backup of that name, or the newest complete one for `LATEST`; `None` if the store said that there is none.
///
/// # Errors
/// [`Error::Store`].
pub async fn backup(archive: &Archive, name: &str, patience: Patience) -> Result<Option<Listed>, Error> {
    let known = (&SeenTrees::default(), &archive.found_in_backups(patience).await?);
    if name == LATEST {
        let latest = archive.latest(patience).await?;
        let Some((name, summary)) = latest else {
            return Ok(None);
        };
        return Ok(Some(
            judge(
                archive,
                (TreeKind::BaseBackup, name),
                Ok(summary),
                known,
                patience,
            )
            .await?,
        ));
    }
    let Ok(name) = name.parse::<TreeName>() else {
        return Ok(None);
    };
    let summary = match archive.summary(TreeKind::BaseBackup, &name, patience).await {
        Ok(None) => return Ok(None),
        Ok(Some(summary)) => Ok(summary),
        Err(error @ Error::TreeDamaged { .. }) => Err(error),
        Err(error) => return Err(error),
    };
    let named = (TreeKind::BaseBackup, name);
    let mut listed = judge(archive, named, summary, known, patience).await?;
    if let Some(from) = listed.incremental_from() {
        listed.note_lacking(archive.lacking_base(from, patience).await?);
    }
    Ok(Some(listed))
}

async fn judge(
    archive: &Archive,
    (kind, name): (TreeKind, TreeName),
    summary: Result<Summary, Error>,
    known: (&SeenTrees, &FoundInBackups),
    patience: Patience,
) -> Result<Listed, Error> {
    let state = match summary {
        Ok(summary) => judge_summary(archive, &name, summary, known, patience).await?,
        Err(error) => State::Damaged(None, error.to_string()),
    };
    Ok(Listed { kind, name, state })
}

async fn judge_summary(
    archive: &Archive,
    name: &TreeName,
    mut summary: Summary,
    (seen, found): (&SeenTrees, &FoundInBackups),
    patience: Patience,
) -> Result<State, Error> {
    if let Some(missing) = archive.missing_of_tree(name, &summary, seen, patience).await? {
        return Ok(State::Damaged(Some(Box::new(summary)), missing));
    }
    summary.backup.ended = archive.ended(&summary.backup, patience).await?;
    Ok(match archive.backup_wal(&summary, patience).await? {
        BackupWal::Complete => match found.of(&summary) {
            Some(found) => State::FoundDamaged(Box::new(summary), found),
            None => State::Complete(Box::new(summary)),
        },
        BackupWal::Missing(segments) => State::WalMissing(Box::new(summary), segments),
        BackupWal::Others(segments) => {
            let other = archive.other_wal(name, segments).to_string();
            State::Damaged(Some(Box::new(summary)), other)
        }
    })
}

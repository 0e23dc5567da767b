//! Removing what incomplete backups of a name have left, on an operator's word (promise B9).
//!
//! What was brought through a mount and is not complete goes in no other way but `rm -r` in that mount, and what may have
//! lost its summary in no other way at all. A backup that is
//! complete is none of it, nor is one at which somebody still may be.

use std::time::SystemTime;

use crate::archive::tree::TreeName;
use crate::archive::tree::begun::Maker;
use crate::archive::tree::catalogue::Unfinished;
use crate::archive::{Archive, Error};
use crate::store::Patience;

/// What there is of a name, and what becomes of it.
#[derive(Debug)]
pub struct Planned {
    /// What is stored.
    pub tree: Unfinished,
    /// Who is at it. Only what a dead maker has left is removed.
    pub maker: Maker,
}

impl Planned {
    /// Will it be removed?
    pub fn goes(&self) -> bool {
        self.maker == Maker::Dead
    }

    /// Will it be removed with all others, by a word that names none? Only what a sweep would remove.
    pub fn goes_unnamed(&self) -> bool {
        self.goes() && self.tree.may_be_swept()
    }
}

/// Everything incomplete of that name, with what [`discard`] will do. Nothing is changed.
///
/// # Errors
/// [`Error::TreeDamaged`], for what [`discard`] would refuse; [`Error::TreeExists`], [`Error::Store`].
pub async fn plan(archive: &Archive, name: &TreeName, patience: Patience) -> Result<Vec<Planned>, Error> {
    let mut planned = all(archive, patience).await?;
    planned.retain(|planned| planned.tree.id.name() == *name);
    for going in planned.iter().filter(|planned| planned.goes()) {
        archive.check_unneeded(&going.tree.id, patience).await?;
    }
    Ok(planned)
}

/// Everything incomplete. Nothing is changed.
///
/// # Errors
/// [`Error::Store`].
pub async fn all(archive: &Archive, patience: Patience) -> Result<Vec<Planned>, Error> {
    let now = SystemTime::now();
    let trees = archive.unfinished_trees(patience).await?.into_iter();
    let planned = trees.map(|tree| Planned {
        maker: tree.maker(now),
        tree,
    });
    Ok(planned.collect())
}

/// Removes what the plan says.
///
/// # Errors
/// [`Error::TreeExists`]: it has become complete meanwhile, and stays. [`Error::Store`].
pub async fn discard(archive: &Archive, planned: &Planned, patience: Patience) -> Result<(), Error> {
    if !planned.goes() {
        return Ok(());
    }
    archive.drop_unfinished(&planned.tree.id, patience).await
}

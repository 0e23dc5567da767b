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
}

/// Everything incomplete of that name, with what [`discard`] will do. Nothing is changed.
///
/// # Errors
/// [`Error::TreeDamaged`], for what [`discard`] would refuse; [`Error::TreeExists`], [`Error::Store`].
pub async fn plan(archive: &Archive, name: &TreeName, patience: Patience) -> Result<Vec<Planned>, Error> {
    let now = SystemTime::now();
    let trees = archive.unfinished_trees(patience).await?.into_iter();
    let own = trees.filter(|tree| tree.id.name() == *name);
    let planned = own.map(|tree| Planned {
        maker: tree.maker(now),
        tree,
    });
    let planned: Vec<Planned> = planned.collect();
    for going in planned.iter().filter(|planned| planned.goes()) {
        archive.check_unneeded(&going.tree.id, patience).await?;
    }
    Ok(planned)
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

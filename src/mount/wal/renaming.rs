//! A new name in `wal/`: a temporary file's final one, which archives it, or another temporary one.
//!
//! `rsync --delay-updates` puts its temporary file into a folder first: see [`super::folders`].

use std::ffi::OsStr;
use std::time::Duration;

use crate::mount::asker::Asker;
use crate::mount::error::{Error, Result};
use crate::mount::room::Named;
use crate::pg::{self, WalName};
use crate::staging::wal::WalDraft;
use crate::store::Patience;

use super::Wal;
use super::archived::not_being_written;
use super::write::{Target, acceptable};
use super::writing::{Content, Place, Writing};

impl Wal {
    /// Renames a file being written: to its final name, which archives it, or to another temporary name.
    ///
    /// # Errors
    /// [`Error::Immutable`] for archived files, [`Error::Exists`], [`Error::BadName`]; as a write.
    pub(super) async fn rename_writing(
        &self,
        (parent, name): Named<'_>,
        (new_parent, new_name): Named<'_>,
        replace: bool,
        asker: Option<&Asker>,
    ) -> Result<()> {
        let place = |directory, name| {
            self.folders
                .place(directory)
                .ok_or_else(|| Error::immutable(name))
        };
        let (from, to) = (place(parent, name)?, place(new_parent, new_name)?);
        let writing = self.writings.find_in(&from, name);
        let writing = writing.ok_or_else(|| not_being_written(name))?;
        match self
            .common
            .noted("rename", new_target(&from, name, &to, new_name))?
        {
            Target::Temporary(new_name) if !replace && self.writings.find(&new_name).is_some() => {
                Err(Error::Exists)
            }
            Target::Temporary(new_name) => {
                self.writings.rename(&writing, new_name);
                Ok(())
            }
            Target::Final(new_name) => {
                let deadline = self.archived.writers_deadline(new_name, asker);
                self.rename_to_final(&writing, new_name, replace, deadline).await
            }
        }
    }

    async fn rename_to_final(
        &self,
        writing: &Writing,
        name: WalName,
        replace: bool,
        deadline: Duration,
    ) -> Result<()> {
        let was_sent_ahead = self.archived.is_ahead(name);
        if !replace && !was_sent_ahead && !writing.is_received() {
            // Half of the deadline for the look, so that the whole stays below twice the deadline.
            let patience = Patience::for_at_most(deadline / 2);
            if self.common.archive.wal_meta(name, patience).await?.is_some() {
                return Err(Error::Exists);
            }
        }
        let mut content = writing.content.lock().await;
        if let Content::Received(received) = &mut *content {
            return self.rename_received(writing, received, name).await;
        }
        let (draft, old_name) =
            match std::mem::replace(&mut *content, Content::Scratch(self.common.staging.draft())) {
                Content::Scratch(draft) => (draft, None),
                Content::Received(received) => (received.into_draft(), None),
                Content::Wal(wal) => {
                    let name = wal.name();
                    (wal.into_draft(), Some(name))
                }
            };
        let adopt = |draft, name| WalDraft::adopt(self.common.archive.clone(), draft, name, deadline);
        let mut wal = self.archived.brought(adopt(draft, name), None);
        let outcome = self.finish(writing, &mut wal).await;
        // Nothing is lost: the rename can be tried again. What had a final name stays a file of that name, whose
        // writers must hear whether it is archived.
        *content = match (&outcome, old_name) {
            (Ok(()), _) => Content::Wal(Box::new(wal)),
            (Err(_), Some(old_name)) => Content::Wal(Box::new(adopt(wal.into_draft(), old_name))),
            (Err(_), None) => Content::Scratch(wal.into_draft()),
        };
        outcome
    }
}

/// What a new name means. In a folder no name is final; and only a file that was written in `wal/` itself, under a
/// temporary name, may wait there for its last rename.
fn new_target(from: &Place, name: &OsStr, to: &Place, new_name: &OsStr) -> Result<Target> {
    let target = acceptable(new_name)?;
    match (from, to, target) {
        (_, Place::Wal, target) => Ok(target),
        (Place::Wal, _, Target::Final(new_name)) if is_temporary_for(name, new_name) => {
            Ok(Target::Temporary(to.key(&new_name.to_string())))
        }
        _ => Err(to.refusal(new_name)),
    }
}

fn is_temporary_for(name: &OsStr, target: WalName) -> bool {
    name.to_str().and_then(pg::staging_target) == Some(target)
}

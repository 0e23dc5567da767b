//! Versions that are written as a directory: `files/NAME/`, the home, shows what is in the draft while it is written.
//!
//! Nobody says by a name or a rename that such a version is whole. It is complete by `fsync` of its home, at the end of the mount,
//! and by itself when nothing has happened in it for a while: no file of it is open to be written, nothing was changed, and no
//! process was killed, or failed, before it closed one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::archive::tree;
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Node};
use crate::staging::tree::{Error as DraftError, TreeDraft};
use crate::staging::version::AnyFiles;
use crate::store::GRACE;

use super::Drafting;

/// How often, within the time after which it is complete, a version is looked at.
const LOOKS: u32 = 4;

impl Drafting {
    /// Is a version being written there?
    pub(in crate::mount) fn is_at_home(&self, home: Node) -> bool {
        self.drafts.shown_in(home).is_some()
    }

    /// Does a version that is being written there take more? It may be about to be complete.
    pub(in crate::mount) async fn takes_more(&self, home: Node) -> bool {
        let Some(slot) = self.drafts.shown_in(home) else {
            return false;
        };
        let Some(draft) = self.drafts.of(slot) else {
            return false;
        };
        let takes = draft.takes_changes().await;
        if draft.is_complete() {
            self.drafts.completed(slot);
        }
        takes || !draft.is_complete()
    }

    /// Where versions are being written.
    pub(in crate::mount) fn homes(&self) -> Vec<Node> {
        self.drafts.at_home().into_iter().map(|(home, _)| home).collect()
    }

    /// The attributes of a home, as those who write there have set them.
    pub(in crate::mount) fn at_home(&self, home: Node) -> Result<Attributes> {
        self.attributes(home)
    }

    /// Begins a version, to be shown there.
    ///
    /// # Errors
    /// [`Error::Draft`], [`Error::ReadOnly`].
    pub(in crate::mount) async fn begin_version(
        self: &Arc<Self>,
        home: Node,
        judge: AnyFiles,
        attributes: tree::Attributes,
    ) -> Result<()> {
        self.common.gates_open()?;
        let name = judge.version.tree();
        let judge = Arc::new(judge);
        let begun = self.begin_tree(name.clone(), attributes, judge);
        let begun = timeout(self.common.options.deadline + GRACE, begun).await;
        let begun = begun.unwrap_or_else(|_| Err(self.late_beginning(name.as_str().as_ref())));
        let draft = self.common.noted("begin a version", begun)?;
        let slot = self.drafts.insert(draft, Some(home));
        self.end_when_quiet(slot);
        Ok(())
    }

    /// Removes a version that is being written there, with all that is stored of it.
    ///
    /// # Errors
    /// [`Error::Draft`]; [`Error::NotFound`] if there is none.
    pub(in crate::mount) async fn remove_version(&self, home: Node) -> Result<()> {
        let slot = self.drafts.shown_in(home).ok_or(Error::NotFound)?;
        self.remove_slot(slot).await
    }

    /// The mount has ended, and nobody writes any more: what was written is whole.
    pub(in crate::mount) async fn end_versions(&self) {
        for (_, slot) in self.drafts.at_home() {
            let Some(draft) = self.drafts.of(slot) else {
                continue;
            };
            let ended = match draft.is_empty() {
                true => draft.remove().await,
                false => draft.finish_at_the_end().await,
            };
            if let Err(error) = ended {
                self.common.note("complete a version", &error.into());
                say_incomplete(&draft);
            }
        }
    }

    fn end_when_quiet(self: &Arc<Self>, slot: u32) {
        let (drafting, quiet) = (Arc::downgrade(self), self.common.options.quiet_after);
        tokio::spawn(async move {
            loop {
                sleep(quiet / LOOKS).await;
                match drafting.upgrade() {
                    Some(drafting) if !drafting.end_if_quiet(slot, quiet).await => {}
                    _ => return,
                }
            }
        });
    }

    /// Is there nothing more to be done with it?
    async fn end_if_quiet(&self, slot: u32, quiet: Duration) -> bool {
        let Some(draft) = self.drafts.of(slot).filter(|draft| !draft.is_complete()) else {
            return true;
        };
        if draft.quiet_for().is_none_or(|time| time < quiet) {
            return false;
        }
        if draft.still_sound().is_err() {
            say_incomplete(&draft);
            self.drafts.removed(slot);
            return true;
        }
        if draft.is_empty() {
            tracing::info!("{}: nothing was written in it", draft.name());
            return self.remove_slot(slot).await.is_ok();
        }
        match draft.finish_if_quiet(quiet).await {
            Ok(()) => self.drafts.completed(slot),
            Err(DraftError::Refused { .. }) => return false,
            Err(error) => {
                self.common.note("complete a version", &error.into());
                return false;
            }
        }
        true
    }
}

fn say_incomplete(draft: &TreeDraft) {
    tracing::error!(
        "version {name} is not complete, and never will be\n\
         HINT: write it again; `walfs backup-discard {name}` removes what is stored of it, once this mount has ended",
        name = draft.name()
    );
}

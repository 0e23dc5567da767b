//! Word of why a tree was not completed, where `walfs backup-list` finds it.

use jiff::Timestamp;

use crate::archive::tree::refused::{self, Refused};
use crate::store::Key;

use super::sending::Failure;
use super::{Error, TreeDraft};

impl TreeDraft {
    /// Leaves word, in place of what was said before. Who asked gets the error anyway, so it is no matter if that fails.
    pub(super) async fn note_refusal(&self, error: &Error) {
        let Error::Refused { reason, .. } = error else {
            return;
        };
        // A directory is synced at any time; only where its writers say so should all be there.
        if !self.signs().claimed {
            return;
        }
        let refused = Refused {
            at: Timestamp::now(),
            reason: reason.clone(),
        };
        let mut refusals = self.refusals.lock().await;
        *refusals += 1;
        let key = refused::key(&self.sender.id, *refusals);
        let patience = self.sender.patience();
        if let Err(error) = self.sender.archive.put_refused(&key, &refused, patience).await {
            tracing::warn!("{}: cannot keep why it is not complete: {error}", self.name);
        }
        let before = refused::key(&self.sender.id, *refusals - 1);
        if *refusals > 1
            && let Err(error) = self.delete(before).await
        {
            tracing::warn!("{}: cannot remove what was wrong before: {error}", self.name);
        }
    }

    /// It is about to be completed: nothing is wrong any more.
    pub(super) async fn forget_refusal(&self) -> Result<(), Error> {
        match *self.refusals.lock().await {
            0 => Ok(()),
            last => Ok(self.delete(refused::key(&self.sender.id, last)).await?),
        }
    }

    async fn delete(&self, key: Key) -> Result<(), Failure> {
        let (id, keys) = (&self.sender.id, [key]);
        let deleted = self
            .sender
            .archive
            .delete_parts(id, &keys, self.sender.patience());
        deleted.await.map_err(Failure::from)
    }
}

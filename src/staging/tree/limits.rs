//! How long an operation on a tree may last (promise W7).
//!
//! A process inside `write`, `fsync`, `rename` or `close` cannot be killed. So an operation has one deadline for all
//! that it waits for together: its turn, room, its file, what must be fetched back. What was dropped half way has lost
//! something; so it fails the tree, and the error stays.
//!
//! To complete a tree is the exception. After the last write of a large one minutes of sending may be left, which is no
//! reason to throw away hours of it. It lasts for as long as it gets on, and ends with an error once nothing has come
//! from it for the whole of the deadline: no part stored, no answer read. Only where the kernel breaks off what lasts
//! too long, and the mount with it, is there an end to that.

use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio::time::{Instant, timeout_at};

use crate::archive;
use crate::store::{self, GRACE};

use super::{Error, State, TreeDraft, check};

/// Leave to change a tree, for one operation.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    /// Held, so that the tree is not completed meanwhile.
    _state: RwLockReadGuard<'a, State>,
    end: Instant,
}

impl TreeDraft {
    /// When an operation that begins now must have ended.
    pub(super) fn end(&self) -> Instant {
        Instant::now() + self.options.deadline + GRACE
    }

    /// Leave to change the tree, shared with others who do.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, Error> {
        let end = self.end();
        let state = timeout_at(end, self.state.read()).await;
        let state = state.map_err(|_| self.late("its turn has not come"))?;
        check(*state)?;
        self.note_change();
        Ok(Turn { _state: state, end })
    }

    /// Leave to complete or to remove the tree, alone, for an operation that began then.
    pub(super) async fn alone(&self, began: Instant) -> Result<RwLockWriteGuard<'_, State>, Error> {
        let end = self.end_of_patience(began);
        let state = timeout_at(end, self.state.write()).await;
        let state = state.map_err(|_| self.late("others have not ended"))?;
        check(*state)?;
        Ok(state)
    }

    /// Does what changes the tree, or fails it.
    pub(super) async fn within<T>(
        &self,
        turn: &Turn<'_>,
        change: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match timeout_at(turn.end, change).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self
                .sender
                .fail(self.late("the store has not taken enough"))
                .into()),
        }
    }

    /// Does a step of an operation that began then, for as long as it gets on, or fails the tree.
    pub(super) async fn while_it_gets_on<T>(
        &self,
        began: Instant,
        step: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::pin!(step);
        loop {
            let end = self.end_of_patience(began);
            if let Ok(outcome) = timeout_at(end, &mut step).await {
                return outcome;
            }
            if self.end_of_patience(began) <= end {
                return Err(self.sender.fail(self.late("the store takes nothing")).into());
            }
        }
    }

    pub(super) fn end_of_patience(&self, began: Instant) -> Instant {
        let end = self.sender.last_progress().max(began) + self.options.deadline + GRACE;
        match self.options.longest {
            Some(longest) => end.min(began + longest),
            None => end,
        }
    }

    pub(super) fn late(&self, why: &str) -> archive::Error {
        let target = format!("backup {} in {}", self.name, self.sender.archive.place());
        store::Error::late("write", target, self.options.deadline, why).into()
    }
}

//! When a tree is complete, and who says so.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::archive::tree::summary::Method;

use super::judge::Signs;
use super::names::{Kind, ROOT};
use super::{Error, TreeDraft};

impl TreeDraft {
    /// The rename with which a writer ends the tree.
    pub(super) async fn finish_by_rename(
        &self,
        from: (u32, &[u8]),
        to: (u32, &[u8]),
        replace: bool,
    ) -> Result<(), Error> {
        let began = Instant::now();
        let mut state = self.alone(began).await?;
        self.still_sound()?;
        let moved = self.move_name(from, to, replace);
        self.while_it_gets_on(began, moved).await?;
        let completed = self.complete(&mut state, Method::Mount, began).await;
        if completed.is_err() {
            // It is not done, so it must not look done.
            self.names().rename(to, from, true)?;
        }
        completed
    }

    /// `fsync` of a file or directory. That of the root completes the tree, if it is what it is to be.
    ///
    /// # Errors
    /// [`Error::Archive`]: what has failed the tree, also while it was being completed. [`Error::Refused`]: it is said to be
    /// whole and is not; or nobody says so, although something was begun in it whose writer must not be told that it is
    /// done. Otherwise it is no error that it is not complete yet.
    pub async fn sync(&self, number: u32) -> Result<(), Error> {
        self.still_sound()?;
        if number != ROOT || self.is_complete() {
            return Ok(());
        }
        let began = Instant::now();
        match self.finish_by_hand(began).await {
            Err(Error::Refused { name, reason }) if self.may_be_synced_unfinished() => {
                tracing::info!("{name} is not complete yet: {reason}");
                let settled = async {
                    self.sender.settle().await;
                    self.still_sound()
                };
                self.while_it_gets_on(began, settled).await
            }
            outcome => outcome,
        }
    }

    /// Who ends it by a rename syncs the directory before.
    fn may_be_synced_unfinished(&self) -> bool {
        let signs = self.signs();
        !signs.claimed && (signs.ending.is_some() || !signs.begun)
    }

    pub(super) fn signs(&self) -> Signs {
        self.judge.signs(&self.names())
    }

    async fn finish_by_hand(&self, began: Instant) -> Result<(), Error> {
        if let Some(reason) = self.signs().ending {
            return Err(self.refused(reason));
        }
        self.wait_for_writers().await?;
        let mut state = self.alone(began).await?;
        self.complete(&mut state, Method::ByHand, began).await
    }

    /// The kernel tells of a file's last close a moment after the process has gone on.
    pub(super) async fn wait_for_writers(&self) -> Result<(), Error> {
        for _ in 0..100 {
            if self.a_file_being_written().is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match self.a_file_being_written() {
            None => Ok(()),
            Some(path) => Err(self.refused(format!(
                "{} is still being written",
                String::from_utf8_lossy(&path)
            ))),
        }
    }

    pub(super) fn a_file_being_written(&self) -> Option<Vec<u8>> {
        let names = self.names();
        let mut files = names.all();
        let (number, _) = files.find(|(_, kind)| match kind {
            Kind::File(file) => file.writers.load(Ordering::Acquire) > 0,
            _ => false,
        })?;
        names.path(number)
    }
}

//! When a tree is complete, and who says so.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::archive::tree::summary::Method;

use super::names::{Kind, ROOT};
use super::{Error, MANIFEST, MANIFEST_TMP, TreeDraft};

impl TreeDraft {
    /// The rename that ends `pg_basebackup`.
    pub(super) async fn finish_by_manifest(&self, replace: bool) -> Result<(), Error> {
        let began = Instant::now();
        let mut state = self.alone(began).await?;
        self.still_sound()?;
        let moved = self.move_name((ROOT, MANIFEST_TMP), (ROOT, MANIFEST), replace);
        self.while_it_gets_on(began, moved).await?;
        let completed = self.complete(&mut state, Method::Mount, began).await;
        if completed.is_err() {
            // It is not done, so it must not look done.
            self.names()
                .rename((ROOT, MANIFEST), (ROOT, MANIFEST_TMP), true)?;
        }
        completed
    }

    /// `fsync` of a file or directory. That of the root completes the tree, if it is a base backup and whole.
    ///
    /// # Errors
    /// [`Error::Archive`]: what has failed the tree, also while it was being completed. [`Error::WrongContent`],
    /// [`Error::NoBackup`]: it has a manifest, and is not what that says; or it has none, although a backup was begun in it:
    /// `pg_basebackup --no-manifest` must not be told that it is done. Otherwise it is no error that it is no backup yet.
    pub async fn sync(&self, number: u32) -> Result<(), Error> {
        self.still_sound()?;
        if number != ROOT || self.is_complete() {
            return Ok(());
        }
        let began = Instant::now();
        match self.finish_by_hand(began).await {
            Err(Error::NoBackup { name, reason }) if self.may_be_synced_unfinished() => {
                tracing::info!("{name} is not complete as a base backup yet: {reason}");
                let settled = async {
                    self.sender.settle().await;
                    self.still_sound()
                };
                self.while_it_gets_on(began, settled).await
            }
            outcome => outcome,
        }
    }

    /// `pg_basebackup` syncs the directory, and then gives its manifest the name.
    fn may_be_synced_unfinished(&self) -> bool {
        let on_its_way = self.names().child(ROOT, MANIFEST_TMP).is_ok();
        !self.has_manifest() && (on_its_way || !self.was_begun_as_backup())
    }

    async fn finish_by_hand(&self, began: Instant) -> Result<(), Error> {
        if self.names().child(ROOT, MANIFEST_TMP).is_ok() {
            return Err(self.no_backup("its backup_manifest has not got its name yet"));
        }
        self.wait_for_writers().await?;
        let mut state = self.alone(began).await?;
        self.complete(&mut state, Method::ByHand, began).await
    }

    /// The kernel tells of a file's last close a moment after the process has gone on.
    async fn wait_for_writers(&self) -> Result<(), Error> {
        for _ in 0..100 {
            if self.a_file_being_written().is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match self.a_file_being_written() {
            None => Ok(()),
            Some(path) => Err(self.no_backup(format!(
                "{} is still being written",
                String::from_utf8_lossy(&path)
            ))),
        }
    }

    fn a_file_being_written(&self) -> Option<Vec<u8>> {
        let names = self.names();
        let mut files = names.all();
        let (number, _) = files.find(|(_, kind)| match kind {
            Kind::File(file) => file.writers.load(Ordering::Acquire) > 0,
            _ => false,
        })?;
        names.path(number)
    }
}

//! Files of a tree: created, written, read back, closed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use tokio::time::timeout_at;

use crate::archive::tree::Attributes;

use super::bundle::{Closed, Ready};
use super::file::DraftFile;
use super::large::Way;
use super::names::{Gone, Kind};
use super::{Error, Stat, TreeDraft, file};

impl TreeDraft {
    /// Makes an empty file and opens it to write; to be closed as any other.
    ///
    /// # Errors
    /// As [`TreeDraft::make_directory`].
    pub async fn create(&self, directory: u32, name: &[u8], attributes: Attributes) -> Result<Stat, Error> {
        let file = Arc::new(DraftFile::default());
        file.touched.store(true, Ordering::Release);
        let made = self.add(directory, name, Kind::File(file), attributes).await?;
        self.open(made.number, true)?;
        Ok(made)
    }

    /// Opens a file, to read or also to write. A complete tree's too: `fsync` opens to write, and writes nothing.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn open(&self, number: u32, to_write: bool) -> Result<(), Error> {
        let mut names = self.names();
        let file = file(&names, number)?;
        names.open(number)?;
        if to_write {
            file.writers.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Closes what [`TreeDraft::open`] or [`TreeDraft::create`] has opened. What was written goes on its way.
    pub async fn close(&self, number: u32, to_write: bool) {
        let (ready, gone) = self.note_close(number, to_write);
        if let Some((_, Kind::File(file))) = gone {
            file.forget(self.way()).await;
        }
        // What cannot be completed any more need not be sent.
        if self.still_sound().is_err() {
            return;
        }
        // A failure is the tree's, and shown by what comes next.
        if let Err(error) = self.send_ready(ready).await {
            tracing::debug!("{}: {error}", self.name);
        }
    }

    fn note_close(&self, number: u32, to_write: bool) -> (Ready, Gone<Arc<DraftFile>>) {
        let mut names = self.names();
        let file = file(&names, number);
        let gone = names.close(number);
        let Ok(file) = file else {
            return Default::default();
        };
        if to_write {
            file.writers.fetch_sub(1, Ordering::AcqRel);
            self.note_change();
        }
        let unwritten = file.writers.load(Ordering::Acquire) > 0 || gone.is_some();
        if unwritten || !file.touched.swap(false, Ordering::AcqRel) {
            return (Ready::default(), gone);
        }
        let closed = Closed {
            number,
            bytes: file.bytes(),
            large: file.is_large(),
        };
        let bundle_bytes = self.sender.archive.memory().bundle_bytes;
        let mut queue = self.queue.lock().expect("no panic while held");
        (queue.close(closed, bundle_bytes), gone)
    }

    /// Takes bytes of a file at an offset. Waits while too much is on its way to the store.
    ///
    /// # Errors
    /// [`Error::Archive`], [`Error::Complete`].
    pub async fn write(&self, number: u32, offset: u64, data: &[u8]) -> Result<(), Error> {
        let turn = self.turn().await?;
        self.still_sound()?;
        let file = file(&self.names(), number)?;
        let written = async {
            self.wait_for_room().await?;
            let path = file.is_large().then(|| self.names().path(number)).flatten();
            let way = Way {
                path: path.as_deref(),
                ..self.way()
            };
            file.write(way, offset, data).await
        };
        self.within(&turn, written).await?;
        self.touch(number)
    }

    /// Sets a file's length.
    ///
    /// # Errors
    /// As [`TreeDraft::write`].
    pub async fn truncate(&self, number: u32, bytes: u64) -> Result<(), Error> {
        let turn = self.turn().await?;
        self.still_sound()?;
        let file = file(&self.names(), number)?;
        self.within(&turn, file.truncate(self.way(), bytes)).await?;
        self.touch(number)
    }

    fn touch(&self, number: u32) -> Result<(), Error> {
        self.names().attributes_mut(number)?.modified = Timestamp::now();
        Ok(())
    }

    /// Waits while too much is on its way. Space that is taken by what has not been sent yet is not waited for: only
    /// this writer's going on can free it.
    async fn wait_for_room(&self) -> Result<(), Error> {
        tokio::select! {
            () = self.staging.wait_for_space() => {}
            () = self.sender.settle() => {}
        }
        self.sender.wait_for_bundles().await;
        self.still_sound()
    }

    /// Reads a file back; short only at its end.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Archive`].
    pub async fn read(&self, number: u32, offset: u64, bytes: usize) -> Result<Vec<u8>, Error> {
        let file = file(&self.names(), number)?;
        let read = timeout_at(self.end(), file.read(self.way(), offset, bytes)).await;
        read.unwrap_or_else(|_| Err(self.late("it cannot be read back").into()))
    }
}

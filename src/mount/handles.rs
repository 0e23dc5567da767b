//! Open files and directories of the mount, by the number the kernel holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::directory::Entries;
use super::error::{Error, Result};
use super::room::OpenFile;
use super::section::{At, Section};

/// What is open.
#[derive(Debug, Clone)]
pub(super) enum Handle {
    File(Arc<dyn OpenFile>, Arc<dyn Section>),
    Directory(At, Arc<dyn Entries>),
}

/// All that is open.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Handle>>,
}

impl Handles {
    /// Gives a handle a number.
    pub(super) fn insert(&self, handle: Handle) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open
            .lock()
            .expect("no panic while held")
            .insert(number, handle);
        number
    }

    /// The file of a number.
    ///
    /// # Errors
    /// As [`Handles::file_and_section`].
    pub(super) fn file(&self, number: u64) -> Result<Arc<dyn OpenFile>> {
        Ok(self.file_and_section(number)?.0)
    }

    /// The file of a number, and the section that it is in.
    ///
    /// # Errors
    /// [`Error::BadHandle`], [`Error::IsDirectory`].
    pub(super) fn file_and_section(&self, number: u64) -> Result<(Arc<dyn OpenFile>, Arc<dyn Section>)> {
        match self.get(number)? {
            Handle::File(file, section) => Ok((file, section)),
            Handle::Directory(..) => Err(Error::IsDirectory),
        }
    }

    /// The directory of a number, and its node.
    ///
    /// # Errors
    /// [`Error::BadHandle`], [`Error::NotDirectory`].
    pub(super) fn directory(&self, number: u64) -> Result<(At, Arc<dyn Entries>)> {
        match self.get(number)? {
            Handle::File(..) => Err(Error::NotDirectory),
            Handle::Directory(at, entries) => Ok((at, entries)),
        }
    }

    fn get(&self, number: u64) -> Result<Handle> {
        let open = self.open.lock().expect("no panic while held");
        open.get(&number).cloned().ok_or(Error::BadHandle)
    }

    /// Forgets a handle and gives it back.
    pub(super) fn remove(&self, number: u64) -> Option<Handle> {
        self.open.lock().expect("no panic while held").remove(&number)
    }
}

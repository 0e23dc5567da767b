//! One restore at a time in a directory.
//!
//! The lock is the kernel's, on the directory itself: nothing is left of it when its process ends, however that ends. It
//! is taken before anything is looked at, so that what was seen still holds when it is acted upon.

use std::fs::{File, TryLockError};

use super::error::Error;
use super::spot::Held;
use crate::beneath::Root;

/// The directory, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its Drop")] File);

/// Locks the data directory, if it is there.
pub(super) fn take(data: &Held) -> Result<Option<Lock>, Error> {
    data.root().map(lock).transpose()
}

/// Locks the very directory that is held open.
pub(super) fn lock(data: &Root) -> Result<Lock, Error> {
    let opened = data.file().map_err(Error::at("open", data.path()))?;
    match opened.try_lock() {
        Ok(()) => Ok(Lock(opened)),
        Err(TryLockError::WouldBlock) => Err(Error::Busy {
            directory: data.path().to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(Error::at("lock", data.path())(error)),
    }
}

//! One restore at a time in a directory.
//!
//! The lock is the kernel's, on the directory itself: nothing is left of it when its process ends, however that ends. It
//! is taken before anything is looked at, so that what was seen still holds when it is acted upon.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use super::Options;
use super::error::Error;
use super::place::{self, Holds};

/// The directory, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its Drop")] File);

/// Locks the data directory, if it is there and anything is to be done.
pub(super) fn take(options: &Options) -> Result<Option<Lock>, Error> {
    if options.dry_run {
        return Ok(None);
    }
    match File::open(&options.directory) {
        Ok(directory) => lock(directory, &options.directory).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::at("open", &options.directory)(error)),
    }
}

/// Makes the directory, which was not there, and locks it.
pub(super) fn make(directory: &Path) -> Result<Lock, Error> {
    place::make_directory(directory)?;
    let opened = File::open(directory).map_err(Error::at("open", directory))?;
    let lock = lock(opened, directory)?;
    match place::look(directory)? {
        Holds::Absent | Holds::Nothing => Ok(lock),
        // Somebody else was quicker, and is gone already.
        Holds::Unfinished(_) | Holds::Files => Err(Error::NotEmpty {
            directory: directory.to_owned(),
        }),
    }
}

fn lock(opened: File, directory: &Path) -> Result<Lock, Error> {
    match opened.try_lock() {
        Ok(()) => Ok(Lock(opened)),
        Err(TryLockError::WouldBlock) => Err(Error::Busy {
            directory: directory.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(Error::at("lock", directory)(error)),
    }
}

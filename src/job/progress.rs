//! How far a job is: events out, nothing back. Who prints them, if anybody, is not the job's business.

use std::fmt::Debug;
use std::time::Duration;

use crate::pg::SegmentName;

/// What a job is doing now.
#[derive(Debug, Clone, Copy)]
pub enum Phase<'a> {
    /// The server makes its checkpoint.
    Checkpoint,
    /// Files are copied.
    Copying {
        /// How many.
        files: u64,
        /// Their plain bytes, when they were listed.
        bytes: u64,
    },
    /// A dump is taken, under this name; what advances is its bytes.
    Dumping(&'a str),
    /// What makes the files a backup is stored.
    Finishing,
    /// These segments are not archived yet.
    WaitingForWal(&'a [SegmentName]),
    /// Files that are there are compared with a backup's.
    Comparing {
        /// Their bytes.
        bytes: u64,
    },
    /// A backup's bytes are brought.
    Restoring {
        /// How many, plain.
        bytes: u64,
    },
    /// Objects are read back.
    Verifying {
        /// Their stored bytes.
        bytes: u64,
    },
    /// Everything is made durable.
    Syncing,
    /// Names are listed; what advances is their number.
    Listing,
    /// The indexes of so many segments are looked through.
    Searching(u64),
    /// What was decided is not done before that.
    Waiting(Duration),
    /// Objects are removed; what advances is their number.
    Removing,
}

/// Listens to a job; called from many threads, and must not keep them waiting.
pub trait Progress: Send + Sync + Debug {
    /// Something else begins.
    fn phase(&self, phase: Phase<'_>);
    /// So many more plain bytes are done, or names.
    fn advance(&self, bytes: u64);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _: Phase<'_>) {}
    fn advance(&self, _: u64) {}
}

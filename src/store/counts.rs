//! How many requests were made: one count an attempt, so that a retry shows.
//!
//! Tests assert on them ("archiving the same segment again uploads nothing"), the status file shows them. They say
//! nothing about success.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Attempts since the store was opened, by operation. One attempt is one request to an S3 server, except that a `head`
/// of an empty object takes two, a `get` of more last bytes than there are may take three.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Objects written whole, multipart completions included.
    pub puts: u64,
    /// Objects or ranges read.
    pub gets: u64,
    /// Questions after size and time; S3 is asked by a GET of one byte.
    pub heads: u64,
    /// Pages of listings.
    pub lists: u64,
    /// Delete requests, of up to 1000 objects each.
    pub deletes: u64,
    /// Parts of multipart uploads.
    pub parts: u64,
    /// Bytes received in successful reads.
    pub bytes_in: u64,
    /// Bytes handed to the backend for writing.
    pub bytes_out: u64,
}

impl Counts {
    /// All of them.
    pub fn requests(&self) -> u64 {
        self.puts + self.gets + self.heads + self.lists + self.deletes + self.parts
    }
}

/// The living side of [`Counts`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) puts: AtomicU64,
    pub(super) gets: AtomicU64,
    pub(super) heads: AtomicU64,
    pub(super) lists: AtomicU64,
    pub(super) deletes: AtomicU64,
    pub(super) parts: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
}

impl Counters {
    /// What they are now. Not one instant for all fields: each is right by itself.
    pub(super) fn read(&self) -> Counts {
        Counts {
            puts: self.puts.load(Relaxed),
            gets: self.gets.load(Relaxed),
            heads: self.heads.load(Relaxed),
            lists: self.lists.load(Relaxed),
            deletes: self.deletes.load(Relaxed),
            parts: self.parts.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }
}

/// Adds to one counter.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

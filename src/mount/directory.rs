//! Open directories: what a listing goes through.

use std::ffi::OsString;
use std::fmt::Debug;

use async_trait::async_trait;

use super::error::Result;
use super::node::Attributes;

/// Entries of a listing that is held whole in one answer: the kernel asks with room for some tens to hundreds.
pub(super) const HELD_ENTRIES: usize = 256;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// Its attributes.
    pub attributes: Attributes,
    /// The offset to ask with for what follows it.
    pub next_offset: u64,
}

/// What an open directory holds, without `.` and `..`.
#[async_trait]
pub(super) trait Entries: Debug + Send + Sync {
    /// Entries from `offset` on (0: the start): some of them, none at the end.
    async fn from(&self, offset: u64) -> Result<Vec<Entry>>;
}

/// Those that were there when the directory was opened.
#[async_trait]
impl Entries for Vec<Entry> {
    async fn from(&self, offset: u64) -> Result<Vec<Entry>> {
        let rest = self.iter().skip(offset as usize);
        Ok(rest.take(HELD_ENTRIES).cloned().collect())
    }
}

/// Entries of a listing, numbered from `first_offset` on.
pub(super) fn numbered(
    entries: impl IntoIterator<Item = (OsString, Attributes)>,
    first_offset: u64,
) -> Vec<Entry> {
    let numbered = entries.into_iter().zip(first_offset + 1..);
    let entry = |((name, attributes), next_offset)| Entry {
        name,
        attributes,
        next_offset,
    };
    numbered.map(entry).collect()
}

//! Trees in memory: a manifest takes some hundreds of bytes a file, so only those in use are kept, up to a bound.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use moka::future::Cache;

use crate::archive::tree::{Content, Entry, Extent, Part, Tree};
use crate::mount::error::Error;
use crate::pg::{SegmentName, WalName};

use super::slots::Committed;

/// What the collections and allocations of an entry or part take beside its own bytes.
const OVERHEAD_BYTES: usize = 64;

/// A complete backup with its tree.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Which one.
    pub(super) backup: Arc<Committed>,
    /// Its entries.
    pub(super) tree: Arc<Tree>,
    /// Number of the directory that WAL is looked for in, if there is one (not in a backup of tar files).
    pub(super) pg_wal: Option<u32>,
    /// Segments that it needs and does not have in itself: they are shown in `pg_wal` and read from `wal/`.
    elsewhere: Vec<SegmentName>,
}

impl Loaded {
    /// A tree, and what its backup needs beside it.
    ///
    /// # Errors
    /// Why the needed WAL cannot be told.
    pub(super) fn new(backup: Arc<Committed>, tree: Arc<Tree>) -> Result<Self, String> {
        let pg_wal = tree.find(b"pg_wal");
        let mut elsewhere = backup.summary.backup.segments()?;
        elsewhere.retain(|&segment| {
            let name = WalName::Segment(segment).to_string();
            pg_wal.is_some_and(|pg_wal| tree.child(pg_wal, name.as_bytes()).is_none())
        });
        Ok(Self {
            backup,
            tree,
            pg_wal,
            elsewhere,
        })
    }

    /// The segment in `wal/` that an entry number beyond those of the tree stands for.
    pub(super) fn segment(&self, entry: u32) -> Option<SegmentName> {
        let place = (entry as usize).checked_sub(self.tree.entries().len())?;
        self.elsewhere.get(place).copied()
    }

    /// Segments in `wal/` that belong into `pg_wal`, with their entry numbers.
    pub(super) fn segments(&self) -> impl Iterator<Item = (u32, SegmentName)> {
        let first = self.tree.entries().len() as u32;
        (first..).zip(self.elsewhere.iter().copied())
    }

    /// Path of an entry in the backup, for people.
    pub(super) fn path(&self, number: u32) -> OsString {
        let segment = |segment| format!("pg_wal/{}", WalName::Segment(segment)).into();
        match self.tree.entry(number) {
            Some(entry) => OsString::from_vec(entry.path.to_vec()),
            None => self.segment(number).map_or_else(OsString::new, segment),
        }
    }

    /// An entry of the tree.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn entry(&self, number: u32) -> Result<&Entry, Error> {
        self.tree.entry(number).ok_or(Error::NotFound)
    }
}

/// Trees in memory, by slot.
#[derive(Debug)]
pub(super) struct Trees(Cache<u32, Arc<Loaded>>);

impl Trees {
    /// Keeps trees of so many bytes by our own count. One tree is always kept, however large, because without it every
    /// lookup in it would read its manifest; and those in use live on until their users are done.
    pub(super) fn new(bytes: u64) -> Self {
        let most = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self(
            Cache::builder()
                .max_capacity(bytes)
                .weigher(move |_, loaded: &Arc<Loaded>| memory_bytes(&loaded.tree).min(most))
                .eviction_policy(moka::policy::EvictionPolicy::lru())
                .build(),
        )
    }

    /// The tree in a slot, loaded by this or another caller if it is not there.
    ///
    /// # Errors
    /// The loader's own, shared between all who waited for it.
    pub(super) async fn get<E: Send + Sync + 'static>(
        &self,
        slot: u32,
        load: impl Future<Output = Result<Loaded, E>>,
    ) -> Result<Arc<Loaded>, Arc<E>> {
        let load = async { load.await.map(Arc::new) };
        self.0.try_get_with(slot, load).await
    }
}

fn memory_bytes(tree: &Tree) -> u32 {
    let entry = |entry: &Entry| {
        let extents = match &entry.content {
            Content::File { extents, .. } => size_of_val::<[Extent]>(extents),
            Content::Symlink(target) => target.len(),
            Content::Directory => 0,
        };
        size_of::<Entry>() + OVERHEAD_BYTES + entry.path.len() + extents
    };
    let part = |part: &Part| size_of::<Part>() + OVERHEAD_BYTES + part.key.as_str().len();
    let bytes = tree.entries().iter().map(entry).sum::<usize>() + tree.parts.iter().map(part).sum::<usize>();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

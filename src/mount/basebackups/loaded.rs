//! Complete backups that are open: the index of a manifest is some tens of bytes for each of its leaves, so only those in
//! use are kept, up to a bound.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use moka::future::Cache;

use crate::archive;
use crate::mount::error::{Error, Result};
use crate::pg::{SegmentName, WalName};
use crate::read::tree::TreeReader;
use crate::read::tree::stored::{Listed, StoredTree};
use crate::store::Patience;

use super::slots::Committed;

/// The directory of WAL in a backup.
const PG_WAL: &str = "pg_wal";

/// What an open backup takes beside its index.
const OVERHEAD_BYTES: usize = 4096;

/// A complete backup with its tree.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Which one.
    pub(super) backup: Arc<Committed>,
    /// Its entries.
    pub(super) tree: StoredTree,
    /// Number of the directory that WAL is looked for in, if there is one (not in a backup of tar files).
    pub(super) pg_wal: Option<u32>,
    /// Segments that it needs and does not have in itself: they are shown in `pg_wal` and read from `wal/`.
    elsewhere: Vec<SegmentName>,
}

impl Loaded {
    /// Opens a backup's tree, and finds out what it needs beside it.
    ///
    /// # Errors
    /// [`archive::Error`], also if the needed WAL cannot be told.
    pub(super) async fn open(
        backup: Arc<Committed>,
        reader: &TreeReader,
        patience: Patience,
    ) -> std::result::Result<Self, archive::Error> {
        let (name, summary) = (&backup.name, &backup.summary);
        let tree = reader.open(name, summary, patience).await?;
        let pg_wal = tree.find(PG_WAL.as_bytes(), patience).await?;
        let mut elsewhere = Vec::new();
        if pg_wal.is_some() {
            let segments = summary.backup.segments();
            for segment in segments.map_err(|reason| reader.damaged_summary(name, reason))? {
                let path = format!("{PG_WAL}/{}", WalName::Segment(segment));
                if tree.find(path.as_bytes(), patience).await?.is_none() {
                    elsewhere.push(segment);
                }
            }
        }
        Ok(Self {
            pg_wal: pg_wal.map(|pg_wal| pg_wal.number()),
            backup,
            tree,
            elsewhere,
        })
    }

    /// The segment in `wal/` that an entry number beyond those of the tree stands for.
    pub(super) fn segment(&self, entry: u32) -> Option<SegmentName> {
        let place = entry.checked_sub(self.tree.entries())?;
        self.elsewhere.get(place as usize).copied()
    }

    /// Segments in `wal/` that belong into `pg_wal`, with their entry numbers.
    pub(super) fn segments(&self) -> impl Iterator<Item = (u32, SegmentName)> {
        (self.tree.entries()..).zip(self.elsewhere.iter().copied())
    }

    /// Path of an entry in the backup, for people.
    pub(super) async fn path(&self, number: u32, patience: Patience) -> OsString {
        if let Some(segment) = self.segment(number) {
            return format!("{PG_WAL}/{}", WalName::Segment(segment)).into();
        }
        let entry = self.entry(number, patience).await;
        entry.map_or_else(
            |_| OsString::new(),
            |found| OsString::from_vec(found.entry().path.to_vec()),
        )
    }

    /// An entry of the tree.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Archive`].
    pub(super) async fn entry(&self, number: u32, patience: Patience) -> Result<Listed> {
        self.tree.entry(number, patience).await?.ok_or(Error::NotFound)
    }
}

/// Open backups, by slot.
#[derive(Debug)]
pub(super) struct Trees(Cache<u32, Arc<Loaded>>);

impl Trees {
    /// Keeps indexes of so many bytes. One is always kept, however large, because without it every lookup would read it; and
    /// those in use live on until their users are done.
    pub(super) fn new(bytes: u64) -> Self {
        let most = u32::try_from(bytes).unwrap_or(u32::MAX);
        let weight = |loaded: &Loaded| u32::try_from(OVERHEAD_BYTES + loaded.tree.held_bytes());
        Self(
            Cache::builder()
                .max_capacity(bytes)
                .weigher(move |_, loaded: &Arc<Loaded>| weight(loaded).unwrap_or(u32::MAX).min(most))
                .eviction_policy(moka::policy::EvictionPolicy::lru())
                .build(),
        )
    }

    /// The backup in a slot, opened by this or another caller if it is not open.
    ///
    /// # Errors
    /// The opener's own, shared between all who waited for it.
    pub(super) async fn get(
        &self,
        slot: u32,
        open: impl Future<Output = std::result::Result<Loaded, archive::Error>>,
    ) -> std::result::Result<Arc<Loaded>, Arc<archive::Error>> {
        let open = async { open.await.map(Arc::new) };
        self.0.try_get_with(slot, open).await
    }
}

//! The backup that a new one builds on: what has not changed since is not stored again (promises B5, K1).
//!
//! Content decides, page by page: neither times nor lengths nor positions in the WAL, which hint bits, the free space map,
//! `pg_rewind` or a flipped bit leave as they were. A chunk of which more than half has changed is stored whole, so that it
//! is read in one go again.

use std::ops::Range;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::{Error, patience};
use crate::archive::tree::backup::Shape;
use crate::archive::tree::page_hashes::{self, PAGE_BYTES, PageHash};
use crate::archive::tree::{Extent, Part, Tree, TreeKind, TreeName};
use crate::archive::{self, Archive};
use crate::pg::SystemId;
use crate::read::page_hashes::{FileHashes, PageHashReader};
use crate::store::ErrorKind;

/// Longest manifest of a backup that is built on, plain: it is in memory, and so is what becomes of it. Where pages from very
/// many backups lie between each other it grows; then all is stored again.
const MOST_MANIFEST_BYTES: u64 = 64 << 20;

/// An earlier backup.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) name: TreeName,
    tree: Arc<Tree>,
    hashes: PageHashReader,
    runtime: Handle,
}

impl Base {
    /// The newest backup of the cluster that is all there; `None` if there is none, or the store does not let us look. One
    /// that cannot be read is passed over, with a word.
    pub(super) async fn choose(
        archive: &Arc<Archive>,
        cluster: SystemId,
    ) -> Result<Option<Arc<Self>>, Error> {
        match Self::newest(archive, cluster).await {
            Err(archive::Error::Store(error)) if error.kind == ErrorKind::Denied => {
                tracing::warn!("everything is stored, whatever earlier backups have: {error}");
                Ok(None)
            }
            found => Ok(found?.map(Arc::new)),
        }
    }

    async fn newest(archive: &Arc<Archive>, cluster: SystemId) -> Result<Option<Self>, archive::Error> {
        let backups = archive.summaries(TreeKind::BaseBackup, patience()).await?;
        for (name, summary) in backups.into_iter().rev() {
            let Ok(summary) = summary else { continue };
            let is_like =
                summary.backup.shape == Shape::Plain && summary.backup.system_identifier == Some(cluster);
            if is_like && summary.manifest.plain_bytes > MOST_MANIFEST_BYTES {
                tracing::info!("everything is stored again: the pages of backup {name} lie too far apart");
                return Ok(None);
            }
            if !is_like
                || archive
                    .missing_of_tree(&name, &summary, patience())
                    .await?
                    .is_some()
            {
                continue;
            }
            let damage = match archive.tree(&name, &summary, patience()).await {
                Ok(tree) => match archive.missing_part(&tree, patience()).await? {
                    None => return Ok(Some(Self::new(archive, name, tree))),
                    Some((part, reason)) => format!("{part}: {reason}"),
                },
                Err(error @ archive::Error::TreeDamaged { .. }) => error.to_string(),
                Err(error) => return Err(error),
            };
            tracing::warn!("backup {name} is not built on, for it is damaged: {damage}");
        }
        Ok(None)
    }

    fn new(archive: &Arc<Archive>, name: TreeName, tree: Arc<Tree>) -> Self {
        Self {
            name,
            tree,
            hashes: PageHashReader::new(archive.clone()),
            runtime: Handle::current(),
        }
    }

    /// What it has of a file, to compare with; `None` if it does not have it.
    pub(super) fn file(&self, path: &[u8]) -> Option<Comparison<'_>> {
        let entry = self.tree.find(path).and_then(|number| self.tree.entry(number))?;
        (entry.bytes() > 0).then(|| Comparison {
            hashes: FileHashes::new(&self.hashes, &self.tree, entry),
            runtime: &self.runtime,
            pieces: Vec::new(),
            changed: Vec::new(),
        })
    }

    /// One of its parts, or of a part of an earlier one that it points to.
    pub(super) fn part(&self, number: u32) -> &Part {
        &self.tree.parts[number as usize]
    }
}

/// Bytes of a file that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// They are in the base, there.
    Kept(Extent),
    /// They have changed: so many bytes of [`Difference::changed`], behind those of the pieces before.
    Changed(u64),
}

/// What a range of a file is made of.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) pieces: Vec<Piece>,
    /// The bytes that have changed.
    pub(super) changed: Vec<u8>,
}

/// A range of a file, being compared chunk by chunk.
#[derive(Debug)]
pub(super) struct Comparison<'a> {
    hashes: FileHashes<'a>,
    runtime: &'a Handle,
    pieces: Vec<Piece>,
    changed: Vec<u8>,
}

impl Comparison<'_> {
    /// Takes the next chunk, which begins with a page at `offset`. On a thread for blocking work.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub(super) fn push_blocking(&mut self, offset: u64, chunk: &[u8]) -> Result<(), Error> {
        self.runtime.block_on(self.push(offset, chunk))
    }

    /// The same, on any thread.
    ///
    /// # Errors
    /// As [`Comparison::push_blocking`].
    pub(super) async fn push(&mut self, offset: u64, chunk: &[u8]) -> Result<(), Error> {
        let range = offset..offset + chunk.len() as u64;
        let known = self.hashes.of_range(range, patience()).await?;
        self.compare(chunk, &known);
        Ok(())
    }

    fn compare(&mut self, chunk: &[u8], known: &[Option<(PageHash, Extent)>]) {
        let kept = |(found, known): (PageHash, &Option<(PageHash, Extent)>)| {
            known.filter(|(known, _)| *known == found).map(|(_, place)| place)
        };
        let mut kept: Vec<Option<Extent>> = page_hashes::of(chunk).zip(known).map(kept).collect();
        let changed = kept.iter().filter(|page| page.is_none()).count();
        if changed * 2 > kept.len() {
            kept.fill(None);
        }
        for (page, kept) in chunk.chunks(PAGE_BYTES as usize).zip(kept) {
            match kept {
                Some(place) => self.keep(place),
                None => self.change(page),
            }
        }
    }

    fn keep(&mut self, place: Extent) {
        match self.pieces.last_mut() {
            Some(Piece::Kept(last))
                if last.part == place.part && last.offset + last.bytes == place.offset =>
            {
                last.bytes += place.bytes;
            }
            _ => self.pieces.push(Piece::Kept(place)),
        }
    }

    fn change(&mut self, page: &[u8]) {
        self.changed.extend_from_slice(page);
        match self.pieces.last_mut() {
            Some(Piece::Changed(bytes)) => *bytes += page.len() as u64,
            _ => self.pieces.push(Piece::Changed(page.len() as u64)),
        }
    }

    /// Bytes that have changed, of what was taken.
    pub(super) fn changed_bytes(&self) -> usize {
        self.changed.len()
    }

    /// What was taken since this was asked last.
    pub(super) fn take(&mut self) -> Difference {
        Difference {
            pieces: std::mem::take(&mut self.pieces),
            changed: std::mem::take(&mut self.changed),
        }
    }
}

/// All chunks of a content at hand, each with its offset.
pub(super) fn chunks(content: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let at = |range: Range<usize>| (range.start as u64, &content[range]);
    let starts = (0..content.len()).step_by(crate::codec::FRAME_BYTES);
    starts.map(move |start| at(start..content.len().min(start + crate::codec::FRAME_BYTES)))
}

//! The backup that a new one builds on: what has not changed since is not stored again (promises B5, K1).
//!
//! Content decides, page by page: neither times nor lengths nor positions in the WAL, which hint bits, the free space map,
//! `pg_rewind` or a flipped bit leave as they were. A chunk of which more than half has changed is stored whole, so that it
//! is read in one go again.

use std::ops::Range;
use std::sync::Arc;

use super::page_hashes::{FileHashes, PageHashReader, Placed};
use super::tree::TreeReader;
use super::tree::stored::StoredTree;
use crate::archive::tree::backup::Shape;
use crate::archive::tree::page_hashes::{self, PAGE_BYTES, PageHash};
use crate::archive::tree::summary::Summary;
use crate::archive::tree::{TreeKind, TreeName, chunks};
use crate::archive::{Archive, Error};
use crate::pg::SystemId;
use crate::store::{ErrorKind, Patience};

/// Extents of a backup that is built on, at most: those of the new one are in memory, some 30 bytes each. Where pages from very
/// many backups lie between each other they grow; then all is stored again.
const MOST_EXTENTS: u64 = 4_000_000;

/// An earlier backup.
#[derive(Debug)]
pub struct Base {
    tree: StoredTree,
    hashes: PageHashReader,
}

impl Base {
    /// The newest backup that is all there, of that cluster if it is known; `None` if there is none, or the store does not let
    /// us look. One that cannot be read is passed over, with a word. `patience` is asked for each request.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn choose(
        archive: &Arc<Archive>,
        reader: &TreeReader,
        cluster: Option<SystemId>,
        patience: impl Fn() -> Patience,
    ) -> Result<Option<Arc<Self>>, Error> {
        match newest(archive, reader, cluster, patience).await {
            Err(Error::Store(error)) if error.kind == ErrorKind::Denied => {
                tracing::warn!("everything is stored, whatever earlier backups have: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(tree) => Ok(tree.map(|tree| {
                let hashes = PageHashReader::new(archive.clone());
                Arc::new(Self { tree, hashes })
            })),
        }
    }

    /// Its name.
    pub fn name(&self) -> &TreeName {
        self.tree.name()
    }

    /// What it has of a file, to compare with; `None` if it does not have it, or that cannot be read.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn file(&self, path: &[u8], patience: Patience) -> Result<Option<Comparison<'_>>, Error> {
        let found = or_unknown(self.tree.find(path, patience).await)?.flatten();
        let file = found.and_then(|found| found.file()).filter(|file| file.bytes > 0);
        Ok(file.map(|file| Comparison {
            hashes: FileHashes::new(&self.hashes, &self.tree, file),
            pieces: Vec::new(),
            changed: Vec::new(),
        }))
    }
}

impl Base {
    /// Which pages of a range of a file, which begins with a chunk, it has, by their hashes; `None` if it does not have the
    /// file. Of a chunk that is to be stored whole it has none.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn kept(
        &self,
        path: &[u8],
        range: Range<u64>,
        hashes: &[PageHash],
        patience: Patience,
    ) -> Result<Option<Vec<Option<Placed>>>, Error> {
        let Some(mut comparison) = self.file(path, patience).await? else {
            return Ok(None);
        };
        let mut kept = Vec::with_capacity(hashes.len());
        while kept.len() < hashes.len() {
            let at = range.start + kept.len() as u64 * PAGE_BYTES;
            let chunk = at..chunks::range(chunks::index_of(at), range.end).end;
            let found = &hashes[kept.len()..][..chunk_pages(&chunk)];
            kept.extend(unchanged(
                found.iter().copied(),
                comparison.of(chunk, patience).await?,
            ));
        }
        Ok(Some(kept))
    }
}

async fn newest(
    archive: &Arc<Archive>,
    reader: &TreeReader,
    cluster: Option<SystemId>,
    patience: impl Fn() -> Patience,
) -> Result<Option<StoredTree>, Error> {
    let backups = archive.summaries(TreeKind::BaseBackup, patience()).await?;
    for (name, summary) in backups.into_iter().rev() {
        let Ok(summary) = summary else { continue };
        let is_ours = cluster.is_none() || summary.backup.system_identifier == cluster;
        let is_whole = summary.backup.shape == Shape::Plain && summary.backup.incremental_from.is_none();
        if !is_whole || !is_ours {
            continue;
        }
        if summary.extents > MOST_EXTENTS {
            tracing::info!("everything is stored again: the pages of backup {name} lie too far apart");
            return Ok(None);
        }
        if archive
            .missing_of_tree(&name, &summary, patience())
            .await?
            .is_some()
        {
            continue;
        }
        match intact(archive, reader, (&name, &summary), &patience).await {
            Ok(tree) => return Ok(Some(tree)),
            Err(damage @ (Error::TreeDamaged { .. } | Error::TreeRemoved { .. })) => {
                tracing::warn!("backup {name} is not built on, for it is damaged: {damage}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A tree of which each part is there, as far as a listing tells.
async fn intact(
    archive: &Archive,
    reader: &TreeReader,
    (name, summary): (&TreeName, &Summary),
    patience: impl Fn() -> Patience,
) -> Result<StoredTree, Error> {
    let tree = reader.open(name, summary, patience()).await?;
    let parts = tree.parts(patience()).await?;
    archive.check_parts(name, &parts, patience()).await?;
    Ok(tree)
}

/// What is damaged in the base is not known of it: then it is stored again.
fn or_unknown<T>(found: Result<T, Error>) -> Result<Option<T>, Error> {
    match found {
        Err(damage @ Error::TreeDamaged { .. }) => {
            tracing::warn!("what it holds is stored again: {damage}");
            Ok(None)
        }
        found => found.map(Some),
    }
}

/// A page that the base has.
type Known = (PageHash, Placed);

/// Pages of a range.
fn chunk_pages(range: &Range<u64>) -> usize {
    (range.end - range.start).div_ceil(PAGE_BYTES) as usize
}

/// Where the pages of a chunk are that have not changed; none of them if more than half have.
fn unchanged(found: impl Iterator<Item = PageHash>, known: Vec<Option<Known>>) -> Vec<Option<Placed>> {
    let kept = |(found, known): (PageHash, Option<Known>)| {
        known.filter(|(known, _)| *known == found).map(|(_, place)| place)
    };
    let mut kept: Vec<Option<Placed>> = found.zip(known).map(kept).collect();
    let changed = kept.iter().filter(|page| page.is_none()).count();
    if changed * 2 > kept.len() {
        kept.fill(None);
    }
    kept
}

/// Bytes of a file that lie together.
#[derive(Debug, Clone)]
pub enum Piece {
    /// They are in the base, there.
    Kept(Placed),
    /// They have changed: so many bytes of [`Difference::changed`], behind those of the pieces before.
    Changed(u64),
}

/// What a range of a file is made of.
#[derive(Debug)]
pub struct Difference {
    /// In their order.
    pub pieces: Vec<Piece>,
    /// The bytes that have changed.
    pub changed: Vec<u8>,
}

/// A range of a file, being compared chunk by chunk.
#[derive(Debug)]
pub struct Comparison<'a> {
    hashes: FileHashes<'a>,
    pieces: Vec<Piece>,
    changed: Vec<u8>,
}

impl Comparison<'_> {
    /// Takes the next chunk, which begins with a page at `offset`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn push(&mut self, offset: u64, chunk: &[u8], patience: Patience) -> Result<(), Error> {
        let known = self.of(offset..offset + chunk.len() as u64, patience).await?;
        let kept = unchanged(page_hashes::of(chunk), known);
        for (page, kept) in chunk.chunks(PAGE_BYTES as usize).zip(kept) {
            match kept {
                Some(place) => self.keep(place),
                None => self.change(page),
            }
        }
        Ok(())
    }

    /// What is known of the pages of a range.
    async fn of(&mut self, range: Range<u64>, patience: Patience) -> Result<Vec<Option<Known>>, Error> {
        let pages = chunk_pages(&range);
        let known = or_unknown(self.hashes.of_range(range, patience).await)?;
        let mut known = known.unwrap_or_default();
        known.resize(pages, None);
        Ok(known)
    }

    fn keep(&mut self, place: Placed) {
        match self.pieces.last_mut() {
            Some(Piece::Kept(last))
                if last.part.key == place.part.key && last.offset + last.bytes == place.offset =>
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
    pub fn changed_bytes(&self) -> usize {
        self.changed.len()
    }

    /// What was taken since this was asked last.
    pub fn take(&mut self) -> Difference {
        Difference {
            pieces: std::mem::take(&mut self.pieces),
            changed: std::mem::take(&mut self.changed),
        }
    }
}

/// All chunks of a content at hand, each with its offset.
pub fn chunks(content: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let at = |range: Range<usize>| (range.start as u64, &content[range]);
    let starts = (0..content.len()).step_by(crate::codec::FRAME_BYTES);
    starts.map(move |start| at(start..content.len().min(start + crate::codec::FRAME_BYTES)))
}

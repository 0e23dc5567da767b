//! The backup that a new one builds on: what has not changed since is not stored again (promises B5, K1).
//!
//! Content decides, page by page: neither times nor lengths nor positions in the WAL, which hint bits, the free space map,
//! `pg_rewind` or a flipped bit leave as they were. A chunk of which more than half has changed is stored whole, so that it
//! is read in one go again.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::page_hashes::{FileHashes, PageHashReader, Placed};
use super::tree::TreeReader;
use super::tree::stored::StoredTree;
use crate::archive::tree::backup::Shape;
use crate::archive::tree::intact::SeenTrees;
use crate::archive::tree::page_hashes::{PAGE_BYTES, PageHash, PageKey};
use crate::archive::tree::summary::Summary;
use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{Content, Part, Tree, TreeId, TreeKind, TreeName, below, chunks as cuts, split};
use crate::archive::{Archive, Error};
use crate::codec::ContentHash;
use crate::pg::SystemId;
use crate::store::{ErrorKind, Key, Patience};

pub mod chunks;
mod same;

/// Extents of a backup that is built on, at most: those of the new one are in memory, some 30 bytes each. Where pages from very
/// many backups lie between each other they grow; then all is stored again.
const MOST_EXTENTS: u64 = 4_000_000;

/// A part of which less than one of so many bytes is needed is sparse.
const SPARSE_PART: u64 = 4;

/// What is stored once more, of sparse parts, is no more than one of so many bytes that the base stored.
const SPARSE_SHARE: u64 = 10;

/// The directory of tablespaces in a backup, and as many of them as are looked into.
const TABLESPACES: &[u8] = b"pg_tblspc";
const MOST_TABLESPACES: usize = 16;

/// Length of what `rsync` puts behind the name of a file that it writes.
const RSYNC_SUFFIX: usize = ".XXXXXX".len();

/// Which trees may be a base.
#[derive(Debug, Clone, Copy)]
pub enum Candidates<'a> {
    /// Base backups, of that cluster if it is known.
    Backup(Option<SystemId>),
    /// Versions of this kind and name.
    Versions(TreeKind, &'a SetName),
}

impl Candidates<'_> {
    fn kind(self) -> TreeKind {
        match self {
            Self::Backup(_) => TreeKind::BaseBackup,
            Self::Versions(kind, _) => kind,
        }
    }

    fn takes(self, name: &TreeName, summary: &Summary) -> bool {
        match self {
            Self::Backup(cluster) => {
                let is_ours = cluster.is_none() || summary.backup.system_identifier == cluster;
                let is_whole =
                    summary.backup.shape == Shape::Plain && summary.backup.incremental_from.is_none();
                is_whole && is_ours
            }
            Self::Versions(_, set) => Version::of(name).is_some_and(|version| version.set == *set),
        }
    }
}

/// An earlier backup, or an earlier version.
#[derive(Debug)]
pub struct Base {
    tree: StoredTree,
    /// See [`Backup::dump_hash`](crate::archive::tree::backup::Backup::dump_hash).
    dump_hash: Option<ContentHash>,
    /// See [`Backup::plain_file`](crate::archive::tree::backup::Backup::plain_file).
    plain_file: bool,
    hashes: PageHashReader,
    /// Parts to which the new tree shall not point: what is left of them is stored again.
    avoided: BTreeSet<Key>,
    /// Paths of the directories of its tablespaces.
    tablespaces: Vec<Box<[u8]>>,
}

impl Base {
    /// The newest such tree that is all there; `None` if there is none, or the store does not let
    /// us look. One that cannot be read, or is being pruned, is passed over, with a word. It stays as long as there is
    /// anything of `maker`, which is being made. `patience` is asked for each request.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn choose(
        archive: &Arc<Archive>,
        reader: &TreeReader,
        maker: &TreeId,
        candidates: Candidates<'_>,
        patience: impl Fn() -> Patience,
    ) -> Result<Option<Arc<Self>>, Error> {
        match newest(archive, reader, maker, candidates, patience).await {
            Err(Error::Store(error)) if error.kind == ErrorKind::Denied => {
                tracing::warn!("everything is stored, whatever earlier backups have: {error}");
                Ok(None)
            }
            found => Ok(found?.map(Arc::new)),
        }
    }

    /// Its name.
    pub fn name(&self) -> &TreeName {
        self.tree.name()
    }

    /// Of a dump, or of a `plain_file`, whichever is asked for: by what an equal one is known.
    pub fn dump_hash(&self, plain_file: bool) -> Option<ContentHash> {
        self.dump_hash.filter(|_| self.plain_file == plain_file)
    }

    /// Has it the same entries as a tree: paths, attributes, targets of links, lengths of files? Of the content of files nothing
    /// is asked.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn has_entries_of(&self, tree: &Tree, patience: impl Fn() -> Patience) -> Result<bool, Error> {
        if self.tree.entries() as usize != tree.entries().len() {
            return Ok(false);
        }
        for (number, entry) in (0..).zip(tree.entries()) {
            let found = or_unknown(self.tree.entry(number, patience()).await)?.flatten();
            let is_same = found.is_some_and(|found| {
                let own = found.entry();
                let same_content = match (&own.content, &entry.content) {
                    (Content::File { bytes: own, .. }, Content::File { bytes, .. }) => own == bytes,
                    (own, other) => own == other,
                };
                own.path == entry.path && own.attributes == entry.attributes && same_content
            });
            if !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What it has of a file, to compare with; `None` if it does not have it, or that cannot be read.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn file(&self, path: &[u8], patience: Patience) -> Result<Option<Comparison<'_>>, Error> {
        for path in std::iter::once(path.to_vec()).chain(other_paths(path, &self.tablespaces)) {
            let found = or_unknown(self.tree.find(&path, patience).await)?.flatten();
            if let Some(file) = found.and_then(|found| found.file()).filter(|file| file.bytes > 0) {
                return Ok(Some(Comparison {
                    page_key: self.hashes.key(),
                    hashes: Some(FileHashes::new(&self.hashes, &self.tree, file)),
                    avoided: &self.avoided,
                    pieces: Vec::new(),
                    changed: Vec::new(),
                }));
            }
        }
        Ok(None)
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
            let chunk = at..cuts::range(cuts::index_of(at), range.end).end;
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
    maker: &TreeId,
    candidates: Candidates<'_>,
    patience: impl Fn() -> Patience,
) -> Result<Option<Base>, Error> {
    let backups = archive.summaries(candidates.kind(), patience()).await?;
    let there = backups
        .iter()
        .filter_map(|(_, summary)| Some(summary.as_ref().ok()?.id.clone()));
    let there: BTreeSet<String> = there.collect();
    let damaged = archive.found_damaged(patience()).await?;
    for (name, summary) in backups.into_iter().rev() {
        let passed_over = |damage: &dyn fmt::Display| {
            tracing::warn!("backup {name} is not built on, for it is damaged: {damage}")
        };
        let summary = match summary {
            Ok(summary) => summary,
            Err(damage) => {
                passed_over(&damage);
                continue;
            }
        };
        if !candidates.takes(&name, &summary) {
            continue;
        }
        if summary.extents > MOST_EXTENTS {
            tracing::info!("everything is stored again: the pages of backup {name} lie too far apart");
            return Ok(None);
        }
        let Some(id) = summary.tree_id(&name) else {
            continue;
        };
        // What is looked at behind this stays.
        if !archive.claim_base(maker, &id, patience()).await? {
            tracing::info!("backup {name} is not built on, for a prune may be about to remove it");
            continue;
        }
        let seen = SeenTrees::default();
        if let Some(missing) = archive
            .missing_of_tree(&name, &summary, &seen, patience())
            .await?
        {
            passed_over(&missing);
            continue;
        }
        match intact(archive, reader, (&name, &summary), (&there, &damaged), &patience).await {
            Ok(base) => return Ok(Some(base)),
            Err(damage @ Error::TreeDamaged { .. }) => passed_over(&damage),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Under which paths a base may have a file that it does not have under its own: content decides. `pg_basebackup` writes a
/// tablespace to where it was told before it makes the link to it, and `rsync` writes `.NAME.XXXXXX` and renames it.
fn other_paths(path: &[u8], tablespaces: &[Box<[u8]>]) -> Vec<Vec<u8>> {
    let (directory, name) = split(path);
    if let Some((head, suffix)) = name.split_last_chunk::<RSYNC_SUFFIX>()
        && let ([b'.', name @ ..], [b'.', ..]) = (head, suffix)
    {
        return vec![below(directory, name)];
    }
    let starts = path.split(|&byte| byte == b'/').scan(0, |at, name| {
        let start = *at;
        *at += name.len() + 1;
        Some((start, name))
    });
    let mut version = starts.filter(|(_, name)| name.starts_with(b"PG_"));
    let Some((start, _)) = version.next() else {
        return Vec::new();
    };
    tablespaces
        .iter()
        .map(|tablespace| below(tablespace, &path[start..]))
        .collect()
}

/// A tree of which each part is there, as far as a listing tells.
async fn intact(
    archive: &Arc<Archive>,
    reader: &TreeReader,
    (name, summary): (&TreeName, &Summary),
    (there, damaged): (&BTreeSet<String>, &BTreeSet<String>),
    patience: impl Fn() -> Patience,
) -> Result<Base, Error> {
    let tree = reader.open(name, summary, patience()).await?;
    let parts = tree.parts(&patience).await?;
    if let Some((part, reason)) = archive.missing_part(&parts, patience()).await? {
        return Err(archive.tree_damaged(name, part.as_str(), reason));
    }
    // What was found damaged when it was read back is there, and still nothing to build on.
    let damaged = parts
        .iter()
        .map(|part| &part.key)
        .filter(|key| damaged.contains(key.as_str()));
    let damaged: Vec<Key> = damaged.cloned().collect();
    let first = tree.first_child(TABLESPACES, patience()).await?;
    let tablespaces = tree.children(TABLESPACES, first, patience()).await?;
    Ok(Base {
        tablespaces: tablespaces
            .iter()
            .take(MOST_TABLESPACES)
            .map(|found| found.entry().path.clone())
            .collect(),
        hashes: PageHashReader::new(archive.clone()),
        dump_hash: summary.backup.dump_hash.filter(|_| damaged.is_empty()),
        plain_file: summary.backup.plain_file,
        avoided: damaged
            .into_iter()
            .chain(sparse(&parts, &summary.id, there))
            .collect(),
        tree,
    })
}

/// Parts of pruned backups of which the base needs so little that it is better stored once more: then the next prune removes
/// them. All of it is no more than a share of what the base has stored itself, so that a backup costs its change; those of
/// which least is needed come first.
fn sparse(parts: &[Part], own: &str, there: &BTreeSet<String>) -> Vec<Key> {
    let own = parts.iter().filter(|part| part.tree() == own);
    let mut left = own.fold(0, |sum: u64, part| sum.saturating_add(part.used_bytes)) / SPARSE_SHARE;
    let is_sparse =
        |part: &&Part| !there.contains(part.tree()) && part.used_bytes < part.plain_bytes / SPARSE_PART;
    let mut sparse: Vec<&Part> = parts.iter().filter(is_sparse).collect();
    sparse.sort_by_key(|part| part.used_bytes);
    let chosen = sparse.into_iter().map_while(|part| {
        left = left.checked_sub(part.used_bytes)?;
        Some(part.key.clone())
    });
    chosen.collect()
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
    page_key: PageKey,
    /// `None` once they could not be read.
    hashes: Option<FileHashes<'a>>,
    /// What lies in these parts counts as changed.
    avoided: &'a BTreeSet<Key>,
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
        let kept = unchanged(self.page_key.pages(chunk), known);
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
        let known = match &mut self.hashes {
            Some(hashes) => or_unknown(hashes.of_range(range, patience).await)?,
            None => None,
        };
        if known.is_none() {
            self.hashes = None;
        }
        let mut known = known.unwrap_or_default();
        known.resize(pages, None);
        if !self.avoided.is_empty() {
            let is_fit = |(_, place): &Known| !self.avoided.contains(&place.part.key);
            known
                .iter_mut()
                .for_each(|page| *page = page.take().filter(is_fit));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_renamed_later_is_found() {
        let tablespaces = [&b"pg_tblspc/16400"[..], b"pg_tblspc/16401"].map(Into::into);
        let others = |path: &str| -> Vec<String> {
            let others = other_paths(path.as_bytes(), &tablespaces).into_iter();
            others.map(|path| String::from_utf8(path).unwrap()).collect()
        };
        assert_eq!(others("base/5/.16384.aB3dE6"), ["base/5/16384"]);
        assert_eq!(others(".backup_label.aB3dE6"), ["backup_label"]);
        assert_eq!(
            others("fast/PG_18_202506291/5/16402"),
            [
                "pg_tblspc/16400/PG_18_202506291/5/16402",
                "pg_tblspc/16401/PG_18_202506291/5/16402"
            ]
        );
        for path in ["base/5/16384", "base/5/.16384", "PG_VERSION.x/..", "", "a/.x"] {
            assert_eq!(
                others(path).len(),
                if path.starts_with("PG_") { 2 } else { 0 },
                "{path}"
            );
        }
    }
}

//! Hashes of the pages that parts hold, for those who compare: a restore over something, a later backup.
//!
//! They are the annex of each part, so one request brings its end with them. Those last used are kept; files are compared
//! in the order in which they lie in parts, so few are asked for twice.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use moka::future::Cache;

use crate::archive::tree::page_hashes::{PAGE_BYTES, PageHash, PageHashes, PageKey};
use crate::archive::tree::{Extent, Part};
use crate::archive::{Archive, Error};
use crate::codec::{self, SeekTable, Tail};
use crate::read::tree::stored::{Place, StoredFile, StoredTree};
use crate::store::{self, ByteRange, ErrorKind, Key, Patience};

use super::annex::stored_annex;

/// What the annex of most parts has beside a hash for each of its pages: runs of small files.
const RUNS_BYTES: u64 = 4096;

/// Extents in which the next part is looked for.
const LOOKED_AHEAD: usize = 256;

/// Reads page hashes.
#[derive(Debug, Clone)]
pub struct PageHashReader {
    archive: Arc<Archive>,
    kept: Cache<Key, Arc<PageHashes>>,
}

/// Why there are no hashes.
#[derive(Debug, Clone)]
enum Trouble {
    Damaged(String),
    Store(store::Error),
}

impl From<store::Error> for Trouble {
    fn from(error: store::Error) -> Self {
        match error.kind {
            ErrorKind::NotFound => Self::Damaged("it is not there".into()),
            ErrorKind::Damaged => Self::Damaged(error.message),
            // What will not go away by itself: hashes only save work.
            ErrorKind::Denied | ErrorKind::Permanent => Self::Damaged(error.to_string()),
            _ => Self::Store(error),
        }
    }
}

impl PageHashReader {
    /// A reader that keeps what the archive's memory has room for.
    pub fn new(archive: Arc<Archive>) -> Self {
        let weight =
            |_: &Key, hashes: &Arc<PageHashes>| u32::try_from(256 + hashes.held_bytes()).unwrap_or(u32::MAX);
        let kept = Cache::builder()
            .max_capacity(archive.memory().table_bytes)
            .weigher(weight)
            .build();
        Self { archive, kept }
    }

    /// By what pages are hashed.
    pub fn key(&self) -> PageKey {
        self.archive.page_key()
    }

    /// The hashes of a part's pages. Of one that is damaged none are known: its pages count as changed.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn of(&self, part: &Part, patience: Patience) -> Result<Arc<PageHashes>, Error> {
        let hashes = self
            .kept
            .try_get_with(part.key.clone(), self.fetch(part, patience))
            .await;
        match hashes.map_err(|trouble| (*trouble).clone()) {
            Ok(hashes) => Ok(hashes),
            Err(Trouble::Store(error)) => Err(error.into()),
            Err(Trouble::Damaged(reason)) => {
                tracing::warn!(
                    "the page hashes in {} cannot be read, its pages count as changed: {reason}",
                    part.key
                );
                let none = Arc::<PageHashes>::default();
                self.kept.insert(part.key.clone(), none.clone()).await;
                Ok(none)
            }
        }
    }

    async fn fetch(&self, part: &Part, patience: Patience) -> Result<Arc<PageHashes>, Trouble> {
        let store = self.archive.store();
        let hashes_bytes = part.plain_bytes.div_ceil(PAGE_BYTES) * size_of::<u64>() as u64;
        let guess = codec::trailer_bytes(part.plain_bytes) + hashes_bytes + RUNS_BYTES;
        let tail = store
            .get(&part.key, ByteRange::Last(guess.min(part.stored_bytes)), patience)
            .await?;
        let damaged = |reason: &str| Trouble::Damaged(reason.to_owned());
        let table = match SeekTable::parse(&tail.bytes, tail.meta.stored_bytes) {
            Ok(Tail::Table(table)) => table,
            Ok(Tail::NeedLast(_)) => return Err(damaged("it is not the object that the manifest names")),
            Err(damage) => return Err(Trouble::Damaged(damage.to_string())),
        };
        if (table.hash(), table.plain_bytes()) != (part.hash, part.plain_bytes) {
            return Err(damaged("it is not the object that the manifest names"));
        }
        let stored = stored_annex(store, &part.key, &tail, &table, patience).await?;
        let annex = table
            .annex(&stored)
            .map_err(|damage| Trouble::Damaged(damage.to_string()))?;
        let hashes = PageHashes::from_annex(annex, part.plain_bytes, self.archive.page_key());
        Ok(Arc::new(
            hashes.ok_or_else(|| damaged("its annex has no page hashes"))?,
        ))
    }
}

/// Bytes of a part of a tree.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The part.
    pub part: Arc<Part>,
    /// Where in its plain content they begin.
    pub offset: u64,
    /// Length, in bytes.
    pub bytes: u64,
}

/// The page hashes of one file of a tree.
#[derive(Debug)]
pub struct FileHashes<'a> {
    reader: &'a PageHashReader,
    tree: &'a StoredTree,
    file: StoredFile,
    /// Extents of the file, where the first of those that are left begins in it, and how many are passed.
    window: Option<Place>,
    start: u64,
    passed: usize,
    /// The part asked last.
    current: Option<(u32, Arc<Part>, Arc<PageHashes>)>,
    /// Parts whose hashes were asked for.
    asked: HashSet<u32>,
}

impl<'a> FileHashes<'a> {
    /// Those of a file.
    pub fn new(reader: &'a PageHashReader, tree: &'a StoredTree, file: StoredFile) -> Self {
        Self {
            reader,
            tree,
            file,
            window: None,
            start: 0,
            passed: 0,
            current: None,
            asked: HashSet::new(),
        }
    }

    /// The hashes of the pages of a range that begins with a page, and where in the parts each lies; `None` for a page
    /// that the file does not have in this length. Ranges are asked for in ascending order.
    ///
    /// # Errors
    /// As [`PageHashReader::of`], and [`Error::TreeDamaged`].
    pub async fn of_range(
        &mut self,
        range: Range<u64>,
        patience: Patience,
    ) -> Result<Vec<Option<(PageHash, Placed)>>, Error> {
        let mut found = Vec::with_capacity((range.end - range.start).div_ceil(PAGE_BYTES) as usize);
        for page in range.clone().step_by(PAGE_BYTES as usize) {
            let bytes = PAGE_BYTES.min(range.end - page);
            found.push(self.of_page(page, bytes, patience).await?);
        }
        Ok(found)
    }

    async fn of_page(
        &mut self,
        page: u64,
        bytes: u64,
        patience: Patience,
    ) -> Result<Option<(PageHash, Placed)>, Error> {
        if page >= self.file.bytes {
            return Ok(None);
        }
        let Some(extent) = self.extent(page, patience).await? else {
            return Ok(None);
        };
        let offset = extent.offset + (page - self.start);
        if offset + bytes > extent.offset + extent.bytes {
            return Ok(None);
        }
        if self
            .current
            .as_ref()
            .is_none_or(|(number, ..)| *number != extent.part)
        {
            let part = self.tree.part(extent.part, patience).await?;
            if self.asked.insert(extent.part) {
                self.ask_ahead(patience).await?;
            }
            let hashes = self.reader.of(&part, patience).await?;
            self.current = Some((extent.part, part, hashes));
        }
        let (_, part, hashes) = self.current.as_ref().expect("set above");
        let placed = || Placed {
            part: part.clone(),
            offset,
            bytes,
        };
        Ok(hashes.at(offset, bytes).map(|hash| (hash, placed())))
    }

    /// Has the hashes of the next part fetched meanwhile: a distant store takes longer to answer than a disk to read a slice.
    async fn ask_ahead(&mut self, patience: Patience) -> Result<(), Error> {
        let extents = self
            .window
            .as_ref()
            .map_or(&[][..], |window| window.extents().extents);
        let next = extents[self.passed.min(extents.len())..]
            .iter()
            .take(LOOKED_AHEAD);
        let next = next
            .map(|extent| extent.part)
            .find(|part| !self.asked.contains(part));
        if let Some(next) = next {
            let (reader, part) = (self.reader.clone(), self.tree.part(next, patience).await?);
            tokio::spawn(async move { reader.of(&part, patience).await });
        }
        Ok(())
    }

    /// The extent in which a page begins.
    async fn extent(&mut self, page: u64, patience: Patience) -> Result<Option<Extent>, Error> {
        for fresh in [false, true] {
            if fresh {
                let window = self.tree.extents(&self.file, page, patience).await?;
                (self.start, self.passed) = (window.extents().from, 0);
                self.window = Some(window);
            }
            let Some(window) = &self.window else { continue };
            for extent in &window.extents().extents[self.passed..] {
                if page < self.start + extent.bytes {
                    return Ok(Some(*extent));
                }
                self.start += extent.bytes;
                self.passed += 1;
            }
        }
        Ok(None)
    }
}

//! Archived WAL: write-once, of the right cluster, whole (promise W1, W3 to W6).
//!
//! A file is offered with its hash already known. If the archive holds the same content under that name, that is a
//! success without an upload, because PostgreSQL archives again after a crash; other content is a conflict, and what
//! is stored stays. Where the store honours conditional writes, it is the judge of races; where it does not (said in
//! the marker), the archive looks first and then writes, one writer at a time for each name in this process, which
//! leaves a window between two machines that no client can close.

mod commit;
mod early;
mod header;
mod hole;
mod landmarks;
mod leading;
mod lineage;
mod own;
mod pages;
mod received;
pub(super) mod turns;

use std::sync::Arc;
use std::time::SystemTime;

pub(super) use commit::part_ranges;
pub use commit::{Committed, Offered};
pub use early::{Early, EarlyFile};
pub use hole::{Behind, Hole, LostHistory, PrunedWal};
pub use landmarks::{Seeker, Sought};
pub(super) use leading::Leading;
pub use lineage::{Child, Fork, Lineage};
pub use own::Compared;
pub use pages::{Entries, WalPages};
pub(super) use received::RECEIVING;
pub use received::{Fragment, MAX_FRAGMENT_BYTES, Prefix, Prefixes, Torn};

use super::{Archive, Error};
use crate::codec::{self, Damage, SeekTable, Tail};
use crate::pg::{SegmentName, Timeline, WalName};
use crate::store::{self, ByteRange, ErrorKind, Key, Meta, Patience};
pub use turns::Looked;

/// A first look at an object's end: the footer, and the whole seek table of a 16 MiB segment.
const TAIL_BYTES: u64 = 4 << 10;

/// The end of the largest object with a table, a segment of 1 GiB.
const MOST_TAIL_BYTES: u64 = codec::trailer_bytes(1 << 30);

/// Longest `.history` or `.backup` file, in bytes.
pub const SMALL_FILE_BYTES: u64 = 1 << 20;

/// What the store said of a name.
#[derive(Debug, Clone)]
pub enum Found {
    /// It is free.
    Absent,
    /// An object with this seek table is there.
    Archived(Arc<SeekTable>),
}

/// What a listing or a lookup tells of an archived file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalMeta {
    /// Size of the plain content, in bytes.
    pub bytes: u64,
    /// Size as stored, in bytes.
    pub stored_bytes: u64,
    /// When it was archived, by the store's clock.
    pub modified: SystemTime,
}

/// One page of a listing, ascending by name.
#[derive(Debug, Clone, Default)]
pub struct WalPage {
    /// The archived files.
    pub entries: Vec<(WalName, WalMeta)>,
    /// Where to go on, if there is more.
    pub next: Option<WalCursor>,
}

/// A place in the listing to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalCursor(String);

impl WalCursor {
    /// Just before this segment, whether it is archived or not.
    pub fn before(segment: SegmentName) -> Self {
        // Without the extension: the key itself sorts behind.
        Self(format!("wal/{segment}"))
    }

    /// Just before everything of this timeline: its history comes first, then its segments.
    pub fn before_timeline(timeline: Timeline) -> Self {
        Self(format!("wal/{:08X}", timeline.0))
    }
}

impl Archive {
    /// Is the file archived? `None` only when the store itself said that it is not (promise R1).
    ///
    /// # Errors
    /// [`Error::Store`]: the store gave no answer within `patience`.
    pub async fn wal_meta(&self, name: WalName, patience: Patience) -> Result<Option<WalMeta>, Error> {
        match self.store.head(&self.wal_key(name), patience).await {
            Ok(meta) => self.plain_meta(name, &meta, patience).await.map(Some),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unless_damaged(&self.wal_key(name), error)),
        }
    }

    /// What an object's own size and time tell of the file in it.
    ///
    /// # Errors
    /// [`Error::Store`], if it was not known yet whose archive it is; [`Error::Damaged`], [`Error::Marker`].
    pub async fn wal_meta_of(
        &self,
        name: WalName,
        object: &Meta,
        patience: Patience,
    ) -> Result<WalMeta, Error> {
        self.plain_meta(name, object, patience).await
    }

    /// Is there an object of that name, and what is in it? From its last bytes.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn look(&self, name: WalName, patience: Patience) -> Result<Found, Error> {
        match self.seek_table(&self.wal_key(name), patience).await {
            Ok(table) => Ok(Found::Archived(Arc::new(table))),
            Err(Error::Store(error)) if error.kind == ErrorKind::NotFound => Ok(Found::Absent),
            Err(error) => Err(error),
        }
    }

    /// [`Archive::look`] for somebody who will write the file: [`Archive::commit_wal`] need not look again.
    ///
    /// # Errors
    /// As [`Archive::look`].
    pub async fn look_before(&self, name: WalName, patience: Patience) -> Result<Looked, Error> {
        let looked = self.begin_look(name);
        Ok(looked.found(self.look(name, patience).await?))
    }

    /// As [`Archive::look_before`] if the store now says that the name is free, to whoever asks it right after this.
    pub fn begin_look(&self, name: WalName) -> Looked {
        Looked::begin(self.name_turns.of(name))
    }

    /// Reads the seek table at the end of an object.
    ///
    /// # Errors
    /// [`Error::Store`] (also `NotFound`), [`Error::Damaged`].
    pub async fn seek_table(&self, key: &Key, patience: Patience) -> Result<SeekTable, Error> {
        let mut tail_bytes = TAIL_BYTES;
        loop {
            let tail = self.store.get(key, ByteRange::Last(tail_bytes), patience).await;
            let tail = tail.map_err(|error| self.unless_damaged(key, error))?;
            match SeekTable::parse(&tail.bytes, tail.meta.stored_bytes) {
                Ok(Tail::Table(table)) => return Ok(table),
                Ok(Tail::NeedLast(bytes)) if bytes > tail_bytes && bytes <= MOST_TAIL_BYTES => {
                    tail_bytes = bytes
                }
                Ok(Tail::NeedLast(needed_bytes)) => {
                    let damage = Damage::ObjectTooShort {
                        object_bytes: tail.meta.stored_bytes,
                        needed_bytes,
                    };
                    return Err(self.damaged(key, damage));
                }
                Err(damage) => return Err(self.damaged(key, damage)),
            }
        }
    }

    /// An error that names the object.
    pub fn damaged(&self, key: &Key, damage: Damage) -> Error {
        Error::Damaged {
            key: key.as_str().to_owned(),
            place: self.place(),
            damage: Box::new(damage),
        }
    }

    /// What the store said of an object; where it is no fault of the store, an error that says so.
    fn unless_damaged(&self, key: &Key, error: store::Error) -> Error {
        match error.kind {
            ErrorKind::Damaged => {
                let reason = error.message;
                self.damaged(key, Damage::NoObject { reason })
            }
            _ => error.into(),
        }
    }

    /// Reads a `.history` or `.backup` file whole; `None` when the store said it is not there.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn read_small(&self, name: WalName, patience: Patience) -> Result<Option<Vec<u8>>, Error> {
        let key = self.wal_key(name);
        let most = ByteRange::AtMost(codec::stored_bytes_uncompressed(SMALL_FILE_BYTES));
        match self.store.get(&key, most, patience).await {
            Ok(fetched) => codec::unpack_at_most(&fetched.bytes, SMALL_FILE_BYTES)
                .map(Some)
                .map_err(|damage| self.damaged(&key, damage)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unless_damaged(&key, error)),
        }
    }

    /// A page of the listing, from the start or from where the last page ended.
    ///
    /// # Errors
    /// [`Error::Store`]: a listing is complete or an error, never silently short.
    pub async fn list_wal(&self, from: Option<&WalCursor>, patience: Patience) -> Result<WalPage, Error> {
        let after = from.map(|cursor| cursor.0.as_str());
        let page = self.store.list("wal/", after, 1000, patience).await?;
        let next = match (page.more, page.entries.last()) {
            (true, Some((key, _))) => Some(WalCursor(key.as_str().to_owned())),
            _ => None,
        };
        let mut entries = Vec::with_capacity(page.entries.len());
        for (key, meta) in &page.entries {
            if let Some(name) = self.wal_name(key) {
                entries.push((name, self.listed_meta(name, meta, patience).await?));
            }
        }
        Ok(WalPage { entries, next })
    }

    /// One damaged file must not hide all others: it is listed, as empty, and reading it says what is wrong.
    async fn listed_meta(&self, name: WalName, meta: &Meta, patience: Patience) -> Result<WalMeta, Error> {
        match self.plain_meta(name, meta, patience).await {
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!("{error}");
                Ok(WalMeta {
                    bytes: 0,
                    stored_bytes: meta.stored_bytes,
                    modified: meta.modified,
                })
            }
            found => found,
        }
    }

    /// The plain size, without reading the object: of the cluster for segments, of the stored size for small files,
    /// which are stored uncompressed for this reason. Nothing archived is empty, and no segment smaller than its own seek
    /// table: an object of such a size has been cut.
    async fn plain_meta(&self, name: WalName, meta: &Meta, patience: Patience) -> Result<WalMeta, Error> {
        let bytes = match name {
            WalName::Segment(_) | WalName::Partial(_) => {
                let cluster = self.cluster(patience).await?;
                let cluster = cluster.ok_or_else(|| self.cluster_missing(name))?;
                let bytes = cluster.segment_size.bytes();
                let needed_bytes = codec::trailer_bytes(bytes);
                if meta.stored_bytes <= needed_bytes {
                    let damage = Damage::ObjectTooShort {
                        object_bytes: meta.stored_bytes,
                        needed_bytes,
                    };
                    return Err(self.damaged(&self.wal_key(name), damage));
                }
                bytes
            }
            WalName::History(_) | WalName::Backup(..) => codec::plain_bytes_uncompressed(meta.stored_bytes)
                .filter(|&bytes| bytes > 0)
                .ok_or_else(|| {
                    let damage = Damage::ObjectTooShort {
                        object_bytes: meta.stored_bytes,
                        needed_bytes: codec::stored_bytes_uncompressed(1),
                    };
                    self.damaged(&self.wal_key(name), damage)
                })?,
        };
        Ok(WalMeta {
            bytes,
            stored_bytes: meta.stored_bytes,
            modified: meta.modified,
        })
    }
}

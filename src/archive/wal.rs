//! Archived WAL: write-once, of the right cluster, whole (contract W1, W3 to W6).
//!
//! A file is offered with its hash already known. If the archive holds the same content under that name, that is a
//! success without an upload, because PostgreSQL archives again after a crash; other content is a conflict, and what
//! is stored stays. Where the store honours conditional writes, it is the judge of races; where it does not (said in
//! the marker), the archive looks first and then writes, one writer at a time for each name in this process, which
//! leaves a window between two machines that no client can close.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};

pub use super::turns::{Looked, UploadSpace};
use super::{Archive, Cluster, Error, put_mode};
use crate::codec::{self, ContentHash, Damage, SeekTable, Tail};
use crate::pg::{PageHeader, SegmentName, SegmentSize, TimelineMatch, WalName, history};
use crate::store::{ByteRange, ErrorKind, Key, Meta, Patience};

/// Objects up to this size are stored by one request; larger ones in parts.
const SINGLE_PUT_BYTES: u64 = 64 << 20;

/// Size of every part but the last; 1 GiB of incompressible WAL makes 64 of them.
const PART_BYTES: u64 = 16 << 20;

/// Bodies of uploads held in memory at once, by all of them together: four incompressible segments of 16 MiB.
pub(super) const UPLOAD_MEMORY_BYTES: u64 = 64 << 20;

/// A first look at an object's end: the footer, and the whole seek table of a 16 MiB segment.
const TAIL_BYTES: u64 = 4 << 10;

/// A finished object, ready to be read for its upload as often as it takes.
#[async_trait]
pub trait Offered: Send + Sync {
    /// Hash of the plain content.
    fn hash(&self) -> ContentHash;
    /// Size of the object to be stored, in bytes.
    fn stored_bytes(&self) -> u64;
    /// Bytes of the object to be stored.
    async fn read(&self, range: Range<u64>) -> io::Result<Bytes>;
    /// Memory that its upload takes, in bytes, beside what is held for it already.
    fn upload_bytes(&self) -> u64 {
        self.stored_bytes().min(UPLOAD_MEMORY_BYTES)
    }
}

/// How an offered file became archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It was uploaded for this file: now, or ahead of its copier.
    Stored,
    /// The same content was there already; nothing was uploaded.
    AlreadyThere,
}

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
}

impl Archive {
    /// Is the file archived? `None` only when the store itself said that it is not (contract R1).
    ///
    /// # Errors
    /// [`Error::Store`]: the store gave no answer within `patience`.
    pub async fn wal_meta(&self, name: WalName, patience: Patience) -> Result<Option<WalMeta>, Error> {
        match self.store.head(&self.wal_key(name), patience).await {
            Ok(meta) => self.plain_meta(name, &meta, patience).await.map(Some),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
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
        let looked = Looked::begin(self.name_turns.of(name));
        Ok(looked.found(self.look(name, patience).await?))
    }

    /// Reads the seek table at the end of an object.
    ///
    /// # Errors
    /// [`Error::Store`] (also `NotFound`), [`Error::Damaged`].
    pub async fn seek_table(&self, key: &Key, patience: Patience) -> Result<SeekTable, Error> {
        let mut tail_bytes = TAIL_BYTES;
        loop {
            let tail = self.store.get(key, ByteRange::Last(tail_bytes), patience).await?;
            match SeekTable::parse(&tail.bytes, tail.meta.stored_bytes) {
                Ok(Tail::Table(table)) => return Ok(table),
                Ok(Tail::NeedLast(bytes)) if bytes > tail_bytes => tail_bytes = bytes,
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

    /// Does a segment's first page fit its name and this archive? Changes nothing.
    ///
    /// # Errors
    /// [`Error::Header`], [`Error::WrongTimeline`], [`Error::WrongCluster`], [`Error::WrongSegmentSize`], [`Error::Store`].
    pub async fn check_header(
        &self,
        name: WalName,
        header: &PageHeader,
        patience: Patience,
    ) -> Result<Cluster, Error> {
        let refused = |reason| Error::Header { name, reason };
        let segment = name.segment().expect("only segments have page headers");
        let fit = header.check_name(segment).map_err(refused)?;
        let segment_size = header.segment_size().map_err(refused)?;
        if let TimelineMatch::Ancestor(_) = fit {
            self.check_ancestor(name, segment, header, segment_size, patience)
                .await?;
        }
        let offered = Cluster {
            system_id: header.system_id,
            segment_size,
        };
        if let Some(archived) = self.cluster(patience).await? {
            self.check_cluster(name, archived, offered)?;
        }
        Ok(offered)
    }

    fn check_cluster(&self, name: WalName, archived: Cluster, offered: Cluster) -> Result<(), Error> {
        if archived.system_id != offered.system_id {
            return Err(Error::WrongCluster {
                name,
                place: self.place(),
                archived: archived.system_id,
                offered: offered.system_id,
            });
        }
        if archived.segment_size != offered.segment_size {
            return Err(Error::WrongSegmentSize {
                name,
                place: self.place(),
                archived: archived.segment_size,
                offered: offered.segment_size,
            });
        }
        Ok(())
    }

    /// A new timeline's first segment begins as a copy of its parent's pages (`XLogFileCopy` in xlog.c), so its first
    /// page may be of an older timeline, if that one ended inside this segment. The history file says so; without
    /// one in the archive (a prefix begun after the promotion) there is nothing to hold against the segment.
    async fn check_ancestor(
        &self,
        name: WalName,
        segment: SegmentName,
        header: &PageHeader,
        size: SegmentSize,
        patience: Patience,
    ) -> Result<(), Error> {
        let name_history = WalName::History(segment.timeline);
        let Some(text) = self.read_small(name_history, patience).await? else {
            return Ok(());
        };
        let entries = history::parse(&text, segment.timeline).map_err(|reason| Error::Text {
            name: name_history,
            reason: reason.to_string(),
        })?;
        let inside = segment.start(size).0..segment.start(size).0 + size.bytes();
        let ended_here = entries
            .iter()
            .any(|entry| entry.timeline == header.timeline && inside.contains(&entry.end.0));
        if ended_here {
            Ok(())
        } else {
            Err(Error::WrongTimeline {
                name,
                page: header.timeline,
                name_history,
            })
        }
    }

    /// Reads a `.history` or `.backup` file whole; `None` when the store said it is not there.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn read_small(&self, name: WalName, patience: Patience) -> Result<Option<Vec<u8>>, Error> {
        let key = self.wal_key(name);
        match self.store.get(&key, ByteRange::Whole, patience).await {
            Ok(fetched) => codec::unpack_all(&fetched.bytes)
                .map(Some)
                .map_err(|damage| self.damaged(&key, damage)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Archives a file. `Ok` means: the store has all of it (contract W1), now or already.
    ///
    /// `header` is the first page's, for segments. `known`: what the store said of the name while the file came; saves a
    /// look. Where the store judges races, that a name is free needs no look to begin with; it saves the upload of what
    /// is archived already (contract W4).
    ///
    /// # Errors
    /// Those of [`Archive::check_header`], and [`Error::Conflict`].
    pub async fn commit_wal(
        &self,
        name: WalName,
        offered: Arc<dyn Offered>,
        header: Option<&PageHeader>,
        known: Option<Looked>,
        patience: Patience,
    ) -> Result<Committed, Error> {
        if let Some(header) = header {
            let cluster = self.check_header(name, header, patience).await?;
            let archived = self.claim(cluster, name, patience).await?;
            self.check_cluster(name, archived, cluster)?;
        }
        if self.store_judges(&*offered)
            && let Some(known) = known
        {
            return self.store_or_compare(name, offered, known.found, patience).await;
        }
        let turn = self.name_turns.of(name);
        let _held = turn.turn.lock().await;
        let found = match known {
            Some(known) if known.is_recent() => known.found,
            _ => self.look(name, patience).await?,
        };
        turn.writes();
        self.store_or_compare(name, offered, found, patience).await
    }

    async fn store_or_compare(
        &self,
        name: WalName,
        offered: Arc<dyn Offered>,
        found: Found,
        patience: Patience,
    ) -> Result<Committed, Error> {
        match found {
            Found::Archived(table) => self.compare(name, &table, offered.hash(), patience).await,
            Found::Absent => self.upload(name, offered, patience).await,
        }
    }

    /// Does the store refuse a second object of this name by itself?
    fn store_judges(&self, offered: &dyn Offered) -> bool {
        if is_single_put(offered) {
            self.marker.put_if_absent
        } else {
            self.marker.complete_if_absent
        }
    }

    /// The same content is archived if the store can show all of it: an earlier put may have ended with a wrong
    /// checksum, and its object be there all the same (contract W1).
    async fn compare(
        &self,
        name: WalName,
        table: &Arc<SeekTable>,
        offered: ContentHash,
        patience: Patience,
    ) -> Result<Committed, Error> {
        if table.hash() == offered {
            let key = self.wal_key(name);
            self.prove(&key, table, patience).await?;
            self.store.settle(&key, patience).await?;
            return Ok(Committed::AlreadyThere);
        }
        Err(Error::Conflict {
            name,
            place: self.place(),
            archived: table.hash(),
            offered,
        })
    }

    async fn upload(
        &self,
        name: WalName,
        offered: Arc<dyn Offered>,
        patience: Patience,
    ) -> Result<Committed, Error> {
        let key = self.wal_key(name);
        let kib = offered.upload_bytes().div_ceil(1 << 10) as u32;
        let _memory = self.upload_memory.acquire_many(kib).await.expect("never closed");
        let mode = put_mode(self.store_judges(&*offered));
        let put = if is_single_put(&*offered) {
            let body = offered
                .read(0..offered.stored_bytes())
                .await
                .map_err(|error| staging(name, &error))?;
            self.store.put(&key, body, mode, patience).await
        } else {
            let source = offered.clone();
            let parts = stream::iter(part_ranges(offered.stored_bytes())).then(move |range| {
                let source = source.clone();
                async move { source.read(range).await }
            });
            self.store.put_large(&key, parts.boxed(), mode, patience).await
        };
        match put {
            Ok(()) => Ok(Committed::Stored),
            // Somebody was quicker, or the answer to our own first try was lost: the contents decide.
            Err(error) if error.kind == ErrorKind::AlreadyExists => match self.look(name, patience).await? {
                Found::Archived(table) => self.compare(name, &table, offered.hash(), patience).await,
                Found::Absent => Err(error.into()),
            },
            Err(error) => Err(error.into()),
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

    /// One damaged small file must not hide all others: it is listed, as empty, and reading it says what is wrong.
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
    /// which are stored uncompressed for this reason. Nothing archived is empty: an object of that size has been cut,
    /// and would otherwise be read to its end without a look at it.
    async fn plain_meta(&self, name: WalName, meta: &Meta, patience: Patience) -> Result<WalMeta, Error> {
        let bytes = match name {
            WalName::Segment(_) | WalName::Partial(_) => {
                let cluster = self.cluster(patience).await?.ok_or_else(|| Error::Marker {
                    key: super::CLUSTER,
                    place: self.place(),
                    reason: format!("it is missing, although {name} is archived"),
                })?;
                cluster.segment_size.bytes()
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

fn is_single_put(offered: &dyn Offered) -> bool {
    offered.stored_bytes() <= SINGLE_PUT_BYTES
}

fn part_ranges(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    (0..bytes.div_ceil(PART_BYTES)).map(move |part| part * PART_BYTES..bytes.min((part + 1) * PART_BYTES))
}

fn staging(name: WalName, error: &io::Error) -> Error {
    Error::staging(name, error)
}

//! One segment on its way to the store before its copier comes.
//!
//! It must pass every check that a copied one passes: whole, its first page that of its name, of the archive's cluster
//! and segment size; and it is stored as a copied one is, if nothing is stored under its name. After it has been read
//! it is looked at again: still marked, still the same file. What is read without being in the way of PostgreSQL's own
//! writing is packed in one go, on one thread, into the bytes of the object itself, so that the memory it takes is the
//! object's size.

use std::future::{pending, ready};
use std::io::Cursor;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{Either, select};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::archive::wal::Offered;
use crate::archive::{Archive, Error};
use crate::codec::{Compression, ContentHash, FRAME_BYTES, ObjectBuilder};
use crate::memory::{Filling, Held, OVERHEAD_BYTES, Share};
use crate::pg::wal_index::WalIndex;
use crate::pg::{PageHeader, SegmentName, WalName};
use crate::store::{Patience, leave};

use super::pg_wal::{Opened, PgWal, Version};
use super::table::{Next, Turn};

/// What all segments that are sent ahead share.
#[derive(Debug)]
pub(super) struct Runway {
    archive: Arc<Archive>,
    deadline: Duration,
    room: Share,
    packers: Semaphore,
}

/// What has become of a segment.
#[derive(Debug)]
pub(super) enum Flight {
    /// It is stored. Its upload took so long.
    Arrived { hash: ContentHash, took: Duration },
    /// The archive does not have the one before it: it may be tried again.
    NotYet,
    /// The directory does not have the file any more, or the one before it, as they were read: the server may be another one.
    Replaced,
    /// It does not wait any more, or there is no room for it.
    NotSent,
}

impl Runway {
    pub(super) fn new(archive: Arc<Archive>, deadline: Duration) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            room: archive.memory().ahead.clone(),
            archive,
            deadline,
            packers: Semaphore::new(cores),
        }
    }

    /// Stores a segment, when the archive has the one before it.
    ///
    /// # Errors
    /// As [`Archive::commit_wal`].
    pub(super) async fn send(
        &self,
        pg_wal: &PgWal,
        Next { name, before, own }: Next,
    ) -> Result<Flight, Error> {
        if !before.room.clone().is_given().await {
            return Ok(Flight::NotYet);
        }
        let Some((room, space)) = self.room().await else {
            return Ok(Flight::NotSent);
        };
        own.room.give();
        let packer = self.packers.acquire().await.expect("never closed");
        let patience = Patience::for_at_most(self.deadline);
        let wal_name = WalName::Segment(name);
        let looking = pin!(self.archive.look_before(wal_name, patience).map(Result::ok));
        let reading = pin!(self.read(pg_wal.clone(), name, patience));
        // Both at once, but no packer waits for the store's answer.
        let (packed, looking) = match select(reading, looking).await {
            Either::Left((packed, looking)) => (packed, Either::Left(looking)),
            Either::Right((looked, reading)) => (reading.await, Either::Right(ready(looked))),
        };
        drop(packer);
        let Some((header, object, file)) = packed? else {
            return Ok(Flight::NotSent);
        };
        let object = object.within(room, space);
        let (hash, began) = (object.hash, Instant::now());
        let mine = (name, file);
        let (leave, may) = leave();
        let judged = async {
            if !before.accepted.clone().is_given().await {
                return Flight::NotYet;
            }
            let (pg_wal, before) = (pg_wal.clone(), before.clone());
            let is_one_history = blocking(move || Ok(follows(&pg_wal, &before, mine)));
            if !is_one_history.await.unwrap_or(false) {
                return Flight::Replaced;
            }
            leave.give();
            pending().await
        };
        let looking = async {
            let looked = looking.await;
            match may.is_given().await {
                true => looked,
                false => pending().await,
            }
        };
        let object = Arc::new(object);
        let committing = self
            .archive
            .commit_wal(wal_name, object, Some(&header), looking, patience);
        tokio::select! {
            biased;
            stays = judged => return Ok(stays),
            committed = timeout(self.deadline, committing) => match committed {
                Ok(committed) => committed?,
                // Its copier may never come again, and its memory is wanted.
                Err(_) => return Ok(Flight::NotYet),
            },
        };
        // In this order: who has leave by this one looks at its file.
        let _ = own.file.set(file);
        own.accepted.give();
        let took = began.elapsed();
        Ok(Flight::Arrived { hash, took })
    }

    /// Memory for one more segment, of our own and of what uploads may take. Never waits in front of a copier.
    async fn room(&self) -> Option<(Held, Held)> {
        let bytes = self.archive.known_cluster()?.segment_size.bytes() + OVERHEAD_BYTES;
        let for_copiers = self.archive.memory().uploads.bytes() - self.room.bytes();
        if bytes > self.room.bytes().min(for_copiers) {
            return None;
        }
        let room = self.room.take(bytes).await;
        Some((room, self.archive.memory().uploads.try_take(bytes)?))
    }

    /// Reads and packs a segment; `None` if it is not there, or not as it was.
    async fn read(
        &self,
        pg_wal: PgWal,
        name: SegmentName,
        patience: Patience,
    ) -> Result<Option<(PageHeader, Object, Version)>, Error> {
        let (place, compression) = (pg_wal.clone(), self.archive.compression());
        let opened = blocking(move || open(&place, name)).await?;
        let Some((opened, header)) = opened else {
            return Ok(None);
        };
        self.archive
            .check_header(WalName::Segment(name), &header, patience)
            .await?;
        let buffers = &self.archive.memory().buffers;
        let room = buffers.take((opened.version.bytes + OVERHEAD_BYTES) as usize);
        let file = opened.version;
        let object = blocking(move || {
            let object = pack(&opened, compression, room).map_err(|error| failed(name, &error))?;
            Ok(pg_wal.still_has(name, &opened).then_some(object))
        });
        Ok(object.await?.map(|object| (header, object, file)))
    }
}

/// Does the directory have a file and the one before it as they were read? At one moment, so both are of one history.
fn follows(pg_wal: &PgWal, before: &Turn, (name, file): (SegmentName, Version)) -> bool {
    let has = |name, file: Option<&Version>| file.is_some_and(|file| pg_wal.has(name, *file));
    has(before.name, before.file.get()) && has(name, Some(&file))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("reading and packing do not panic")
}

fn open(pg_wal: &PgWal, name: SegmentName) -> Result<Option<(Opened, PageHeader)>, Error> {
    if !pg_wal.is_ready(WalName::Segment(name)) {
        return Ok(None);
    }
    let opened = pg_wal.open(name).map_err(|error| failed(name, &error))?;
    let mut head = [0; PageHeader::BYTES];
    opened
        .file
        .read_exact_at(&mut head, 0)
        .map_err(|error| failed(name, &error))?;
    let name = WalName::Segment(name);
    let header = PageHeader::parse(&head).map_err(|reason| Error::Header { name, reason })?;
    let expected_bytes = u64::from(header.segment_bytes);
    if opened.version.bytes != expected_bytes {
        return Err(Error::Incomplete {
            name,
            expected_bytes,
            found_bytes: opened.version.bytes,
            detail: ", according to the file in pg_wal",
        });
    }
    Ok(Some((opened, header)))
}

fn failed(name: SegmentName, error: &std::io::Error) -> Error {
    Error::Staging {
        name: name.to_string(),
        reason: format!("it cannot be read in pg_wal: {error}"),
    }
}

/// A finished object, in memory. What it takes is given back as soon as its size is known, the rest when it goes.
#[derive(Debug)]
struct Object {
    bytes: Bytes,
    hash: ContentHash,
    held: Option<(Held, Held)>,
}

fn pack(opened: &Opened, compression: Compression, mut room: Filling) -> std::io::Result<Object> {
    // Address space only: pages that the object does not come to use are never touched.
    let mut object = ObjectBuilder::new(compression, Cursor::new(room.room()));
    let mut plain = vec![0; FRAME_BYTES];
    let mut parts = Vec::new();
    for index in 0..opened.version.bytes.div_ceil(FRAME_BYTES as u64) {
        let start = index * FRAME_BYTES as u64;
        plain.truncate((opened.version.bytes - start).min(FRAME_BYTES as u64) as usize);
        opened.file.read_exact_at(&mut plain, start)?;
        object.push(&plain)?;
        parts.push(WalIndex::of(&plain).map(Box::new));
    }
    let annex = WalIndex::annex_of(&parts, opened.version.bytes, object.stored_bytes());
    let (_, finished) = object.finish(&annex)?;
    Ok(Object {
        bytes: room.filled_to(finished.stored_bytes as usize),
        hash: finished.hash,
        held: None,
    })
}

impl Object {
    /// Keeps as much of the memory set aside as it needs.
    fn within(mut self, mut room: Held, mut space: Held) -> Self {
        room.shrink_to(self.stored_bytes());
        space.shrink_to(self.stored_bytes());
        self.held = Some((room, space));
        self
    }
}

#[async_trait]
impl Offered for Object {
    fn hash(&self) -> ContentHash {
        self.hash
    }

    fn stored_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// None: it is held from the beginning.
    fn upload_bytes(&self) -> u64 {
        0
    }

    async fn read(&self, range: Range<u64>) -> std::io::Result<Bytes> {
        Ok(self.bytes.slice(range.start as usize..range.end as usize))
    }
}

//! An object on its way: proved by its own table, and by what is known of it, before a byte of it is stored.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::archive::copied::SINGLE_PUT_BYTES;
use crate::archive::tree::Part;
use crate::archive::wal::Offered;
use crate::archive::{Archive, Error};
use crate::codec::{ContentHash, FRAME_BYTES, SeekTable, Tail};
use crate::memory::Held;
use crate::pg::{PageHeader, WalName};
use crate::store::{self, ByteRange, ErrorKind, Key, Patience};

/// How much of a large object is read at once: as much as is stored at once.
const PIECE_BYTES: u64 = 16 << 20;

/// The end of the largest object with a table.
const TAIL_BYTES: u64 = crate::codec::trailer_bytes(1 << 30);

/// An object that was proved.
pub(super) struct Source {
    pub(super) key: Key,
    table: SeekTable,
    stored_bytes: u64,
    content: Content,
    /// Of a segment.
    pub(super) header: Option<PageHeader>,
    _held: Held,
}

enum Content {
    Whole(Bytes),
    /// Of a large one the sum of each piece: it is read once more when it is stored.
    Pieces(Pieces),
}

struct Pieces {
    archive: Arc<Archive>,
    wait: Duration,
    sums: Vec<u32>,
}

/// Why an object is not copied.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It is not what was stored: why.
    Damaged(String),
    /// It is not there any more.
    Gone,
}

/// What is known of an object by its name, or by a manifest.
#[derive(Debug, Clone)]
pub(super) enum Known {
    Wal(WalName),
    Part(Part),
    /// Its own table is all that proves it.
    Nothing,
}

/// The time for a request, and more for what has many bytes.
pub(super) fn for_bytes(bytes: u64, wait: Duration) -> Patience {
    Patience::for_at_most(wait + Duration::from_secs(bytes >> 20))
}

/// Reads an object and proves it.
///
/// # Errors
/// [`Error::Store`].
pub(super) async fn fetch(
    archive: &Arc<Archive>,
    key: &Key,
    stored_bytes: u64,
    known: &Known,
    wait: Duration,
) -> Result<Result<Source, Unfit>, Error> {
    let is_large = stored_bytes > SINGLE_PUT_BYTES;
    let held_bytes = if is_large {
        2 * PIECE_BYTES
    } else {
        stored_bytes + (1 << 20)
    };
    // Taken once, in turn: who waits for it again could wait for those behind him.
    let held = archive.memory().filling.take(held_bytes).await;
    let fetched = match fetch_once(archive, key, stored_bytes, known, wait).await? {
        // It may have happened on the way.
        Err(Unfit::Damaged(_)) => fetch_once(archive, key, stored_bytes, known, wait).await?,
        fetched => fetched,
    };
    Ok(fetched.map(|fetched| Source {
        key: key.clone(),
        table: fetched.table,
        stored_bytes: fetched.stored_bytes,
        content: fetched.content,
        header: fetched.header,
        _held: held,
    }))
}

/// What was fetched and proved.
struct Fetched {
    table: SeekTable,
    stored_bytes: u64,
    content: Content,
    header: Option<PageHeader>,
}

async fn fetch_once(
    archive: &Arc<Archive>,
    key: &Key,
    stored_bytes: u64,
    known: &Known,
    wait: Duration,
) -> Result<Result<Fetched, Unfit>, Error> {
    let store = archive.store();
    let read = match stored_bytes > SINGLE_PUT_BYTES {
        true => large(archive, key, wait).await,
        false => match store
            .get(
                key,
                ByteRange::AtMost(stored_bytes),
                for_bytes(stored_bytes, wait),
            )
            .await
        {
            Ok(fetched) => Ok(whole(fetched.bytes).await),
            Err(error) => Err(error),
        },
    };
    let proved = match read {
        Ok(proved) => proved,
        Err(error) => Err(match error.kind {
            ErrorKind::NotFound => Unfit::Gone,
            ErrorKind::Damaged => Unfit::Damaged(error.message),
            _ => return Err(error.into()),
        }),
    };
    Ok(proved.and_then(|(table, content, first, stored_bytes)| {
        let header = fits(archive, known, &table, &first)?;
        Ok(Fetched {
            table,
            stored_bytes,
            content,
            header,
        })
    }))
}

/// The table, the bytes, the first frame's content, and the object's length.
type Proved = Result<(SeekTable, Content, Vec<u8>, u64), Unfit>;

async fn whole(object: Bytes) -> Proved {
    let proving = tokio::task::spawn_blocking(move || {
        let damaged = |damage: crate::codec::Damage| Unfit::Damaged(damage.to_string());
        let table = SeekTable::of_whole(&object).map_err(damaged)?;
        let mut first = Vec::new();
        for frame in 0..table.frames() {
            let place = table.plain_range(frame);
            let mut plain = vec![0; (place.end - place.start) as usize];
            let stored = table.cut(frame, &object, 0).map_err(damaged)?;
            table.unpack(frame, stored, &mut plain).map_err(damaged)?;
            if frame == 0 {
                first = plain;
            }
        }
        let annex = table.annex_range();
        table
            .annex(&object[annex.start as usize..annex.end as usize])
            .map_err(damaged)?;
        let bytes = object.len() as u64;
        Ok((table, Content::Whole(object), first, bytes))
    });
    proving.await.expect("proving does not panic")
}

/// Of a large object each frame is proved as its pieces come, and of each piece the sum is kept.
async fn large(archive: &Arc<Archive>, key: &Key, wait: Duration) -> Result<Proved, store::Error> {
    let store = archive.store();
    let patience = || for_bytes(PIECE_BYTES, wait);
    let tail = store.get(key, ByteRange::Last(TAIL_BYTES), patience()).await?;
    let object_bytes = tail.meta.stored_bytes;
    let table = match SeekTable::parse(&tail.bytes, object_bytes) {
        Ok(Tail::Table(table)) => Arc::new(table),
        Ok(Tail::NeedLast(_)) => return Ok(Err(Unfit::Damaged("it has no seek table".into()))),
        Err(damage) => return Ok(Err(Unfit::Damaged(damage.to_string()))),
    };
    let mut sums = Vec::new();
    let mut proving = Proving {
        rest: BytesMut::new(),
        next: 0,
        first: Vec::new(),
    };
    for start in (0..object_bytes).step_by(PIECE_BYTES as usize) {
        let range = start..object_bytes.min(start + PIECE_BYTES);
        let piece = store.get(key, ByteRange::Span(range), patience()).await?.bytes;
        sums.push(crc32c::crc32c(&piece));
        let table = table.clone();
        let proved = tokio::task::spawn_blocking(move || {
            let proved = proving.go_on(&table, &piece);
            (proving, proved)
        });
        let proved = proved.await.expect("proving does not panic");
        proving = proved.0;
        if let Err(reason) = proved.1 {
            return Ok(Err(Unfit::Damaged(reason)));
        }
    }
    // What is behind the frames: the annex, and the table once more.
    let annex_bytes = table.annex_range().end - table.annex_range().start;
    let ends = table.annex(&proving.rest[..(annex_bytes as usize).min(proving.rest.len())]);
    let same = SeekTable::parse(&proving.rest, object_bytes);
    if let Err(damage) = ends {
        return Ok(Err(Unfit::Damaged(damage.to_string())));
    }
    if same.is_err() {
        return Ok(Err(Unfit::Damaged(
            "its seek table changes from one reading to the next".into(),
        )));
    }
    let (archive, table) = (archive.clone(), Arc::unwrap_or_clone(table));
    let pieces = Pieces { archive, wait, sums };
    Ok(Ok((table, Content::Pieces(pieces), proving.first, object_bytes)))
}

/// Frames of an object that comes piece by piece.
struct Proving {
    /// What is not proved yet: less than a frame, and in the end what is behind all.
    rest: BytesMut,
    /// The frame with which it begins.
    next: u64,
    first: Vec<u8>,
}

impl Proving {
    fn go_on(&mut self, table: &SeekTable, piece: &[u8]) -> Result<(), String> {
        self.rest.extend_from_slice(piece);
        let mut plain = vec![0; FRAME_BYTES];
        while self.next < table.frames() {
            let stored = table.stored_range(self.next..self.next + 1);
            let bytes = (stored.end - stored.start) as usize;
            if self.rest.len() < bytes {
                break;
            }
            let frame = self.rest.split_to(bytes);
            let place = table.plain_range(self.next);
            let room = &mut plain[..(place.end - place.start) as usize];
            table
                .unpack(self.next, &frame, room)
                .map_err(|damage| damage.to_string())?;
            if self.next == 0 {
                self.first = room.to_vec();
            }
            self.next += 1;
        }
        Ok(())
    }
}

/// Is it the object that its name or a manifest says? Of a segment with its header.
fn fits(
    archive: &Archive,
    known: &Known,
    table: &SeekTable,
    first: &[u8],
) -> Result<Option<PageHeader>, Unfit> {
    match known {
        Known::Nothing => Ok(None),
        Known::Part(part) => match (table.plain_bytes(), table.hash()) == (part.plain_bytes, part.hash) {
            true => Ok(None),
            false => Err(Unfit::Damaged(
                "it is not the object that the backup's manifest names".into(),
            )),
        },
        Known::Wal(name) => {
            archive.check_place(*name, first).map_err(|error| match error {
                Error::Misplaced { reason, .. } => Unfit::Damaged(reason),
                other => Unfit::Damaged(other.to_string()),
            })?;
            if !name.has_pages() {
                return Ok(None);
            }
            let header = PageHeader::parse(first).map_err(|error| Unfit::Damaged(error.to_string()))?;
            match table.plain_bytes() == u64::from(header.segment_bytes) {
                true => Ok(Some(header)),
                false => Err(Unfit::Damaged(format!(
                    "its content has {} bytes, its first page states {}",
                    table.plain_bytes(),
                    header.segment_bytes
                ))),
            }
        }
    }
}

impl Source {
    /// All of it, if it is stored by one request.
    pub(super) fn bytes(&self) -> Option<Bytes> {
        match &self.content {
            Content::Whole(object) => Some(object.clone()),
            Content::Pieces(_) => None,
        }
    }
}

#[async_trait]
impl Offered for Source {
    fn hash(&self) -> ContentHash {
        self.table.hash()
    }

    fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        match &self.content {
            Content::Whole(object) => Ok(object.slice(range.start as usize..range.end as usize)),
            Content::Pieces(pieces) => {
                let place = (range.start / PIECE_BYTES) as usize;
                let span = ByteRange::Span(range);
                let read = pieces
                    .archive
                    .store()
                    .get(&self.key, span, for_bytes(PIECE_BYTES, pieces.wait))
                    .await;
                let piece = read.map_err(io::Error::other)?.bytes;
                match pieces.sums.get(place) == Some(&crc32c::crc32c(&piece)) {
                    true => Ok(piece),
                    false => Err(io::Error::other(format!(
                        "{} changed while it was copied",
                        self.key
                    ))),
                }
            }
        }
    }

    /// It is held already.
    fn upload_bytes(&self) -> u64 {
        0
    }
}

//! One stored object, read back whole: each frame against the seek table, the table against its hash, the annex.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::archive::{Archive, Error};
use crate::codec::{self, ContentHash, Damage, FRAME_BYTES, SeekTable, Tail};
use crate::store::{self, ByteRange, ErrorKind, Key, Patience};

/// Frames that are asked for, and decoded, together: 16 MiB of content.
const WINDOW_FRAMES: u64 = 64;

/// What is asked of the end of an object at first: all of one of 16 MiB.
const TAIL_BYTES: u64 = codec::most_stored_bytes(WINDOW_FRAMES * FRAME_BYTES as u64);

/// Bytes that reading an object takes at most: a window as it is stored, one more while it comes, and one plain.
pub(super) fn held_bytes(stored_bytes: u64) -> u64 {
    2 * stored_bytes.min(TAIL_BYTES) + WINDOW_FRAMES * FRAME_BYTES as u64
}

/// What is known of an object by other means.
#[derive(Debug, Clone, Default)]
pub(super) struct Expected {
    /// Bytes of its content.
    pub(super) plain_bytes: Option<u64>,
    /// Their hash.
    pub(super) hash: Option<ContentHash>,
    /// Who says so.
    pub(super) by: &'static str,
}

/// Looks at content that was proved: where in all of it it begins, and its bytes, in order.
pub(super) type Look = dyn Fn(u64, &[u8]) + Send + Sync;

/// What of an object is not what was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// All of it: nothing can be told apart.
    All,
    /// This content.
    Content(Vec<Range<u64>>),
    /// The annex only.
    Annex,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Every byte is what was stored.
    Proved,
    /// The store says now that there is no such object.
    Gone,
    /// Why it is not what was stored.
    Damaged(String, Lost),
}

/// Reads an object back. What is wrong is read once more: it may have happened on the way.
///
/// # Errors
/// [`Error::Store`].
pub(super) async fn prove(
    archive: &Archive,
    key: &Key,
    expected: &Expected,
    patience: Patience,
    look: Arc<Look>,
) -> Result<Verdict, Error> {
    match prove_once(archive, key, expected, patience, look.clone()).await? {
        Verdict::Damaged(..) => prove_once(archive, key, expected, patience, look).await,
        verdict => Ok(verdict),
    }
}

async fn prove_once(
    archive: &Archive,
    key: &Key,
    expected: &Expected,
    patience: Patience,
    look: Arc<Look>,
) -> Result<Verdict, Error> {
    let store = archive.store();
    let tail = match store.get(key, ByteRange::Last(TAIL_BYTES), patience).await {
        Ok(tail) => tail,
        Err(error) => return unread(error),
    };
    let object_bytes = tail.meta.stored_bytes;
    let table =
        match parse(&tail.bytes, object_bytes).and_then(|table| fits(&table, expected).map(|()| table)) {
            Ok(table) => Arc::new(table),
            Err(reason) => return Ok(Verdict::Damaged(reason, Lost::All)),
        };
    let object = Object {
        archive,
        key,
        patience,
        tail_start: object_bytes - tail.bytes.len() as u64,
        tail: tail.bytes,
    };
    let mut wrong: Option<String> = None;
    let mut lost: Vec<Range<u64>> = Vec::new();
    for first in (0..table.frames()).step_by(WINDOW_FRAMES as usize) {
        let frames = first..table.frames().min(first + WINDOW_FRAMES);
        let stored = match object.bytes(table.stored_range(frames.clone())).await {
            Ok(stored) => stored,
            Err(error) => return unread(error),
        };
        let (table, look) = (table.clone(), look.clone());
        let unpacked = tokio::task::spawn_blocking(move || unpack(&table, frames, &stored, &*look)).await;
        for (range, damage) in unpacked.expect("unpacking does not panic") {
            wrong.get_or_insert_with(|| damage.to_string());
            match lost.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => lost.push(range),
            }
        }
    }
    if let Some(reason) = wrong {
        return Ok(Verdict::Damaged(reason, Lost::Content(lost)));
    }
    let annex = match object.bytes(table.annex_range()).await {
        Ok(annex) => annex,
        Err(error) => return unread(error),
    };
    Ok(match table.annex(&annex) {
        Ok(_) => Verdict::Proved,
        Err(damage) => Verdict::Damaged(damage.to_string(), Lost::Annex),
    })
}

fn unread(error: store::Error) -> Result<Verdict, Error> {
    match error.kind {
        ErrorKind::NotFound => Ok(Verdict::Gone),
        ErrorKind::Damaged => Ok(Verdict::Damaged(error.message, Lost::All)),
        _ => Err(error.into()),
    }
}

fn parse(tail: &[u8], object_bytes: u64) -> Result<SeekTable, String> {
    match SeekTable::parse(tail, object_bytes) {
        Ok(Tail::Table(table)) => Ok(table),
        Ok(Tail::NeedLast(needed_bytes)) => Err(Damage::ObjectTooShort {
            object_bytes,
            needed_bytes,
        }
        .to_string()),
        Err(damage) => Err(damage.to_string()),
    }
}

fn fits(table: &SeekTable, expected: &Expected) -> Result<(), String> {
    let by = expected.by;
    match (expected.plain_bytes, expected.hash) {
        (Some(bytes), _) if bytes != table.plain_bytes() => {
            let found = table.plain_bytes();
            Err(format!("its content has {found} bytes, {by} states {bytes}"))
        }
        (_, Some(hash)) if hash != table.hash() => {
            let found = table.hash();
            Err(format!("its content hash is {found}, {by} states {hash}"))
        }
        _ => Ok(()),
    }
}

/// An object, of which the end is at hand.
struct Object<'a> {
    archive: &'a Archive,
    key: &'a Key,
    patience: Patience,
    tail: Bytes,
    tail_start: u64,
}

impl Object<'_> {
    async fn bytes(&self, range: Range<u64>) -> Result<Bytes, store::Error> {
        match range.start.checked_sub(self.tail_start) {
            Some(start) => Ok(self
                .tail
                .slice(start as usize..(range.end - self.tail_start) as usize)),
            None => {
                let fetched = self
                    .archive
                    .store()
                    .get(self.key, ByteRange::Span(range), self.patience);
                Ok(fetched.await?.bytes)
            }
        }
    }
}

/// Decodes frames, with which `stored` begins. Returns which content is damaged.
fn unpack(table: &SeekTable, frames: Range<u64>, stored: &[u8], look: &Look) -> Vec<(Range<u64>, Damage)> {
    let first = frames.start;
    let origin = table.plain_range(first).start;
    let mut room = vec![0; FRAME_BYTES * (frames.end - first) as usize];
    let mut damaged = Vec::new();
    // Where what is right and was not looked at begins.
    let mut begin = origin;
    for frame in frames.clone() {
        let place = table.plain_range(frame);
        let plain = &mut room[(place.start - origin) as usize..(place.end - origin) as usize];
        let unpacked = table
            .cut(frame, stored, first)
            .and_then(|stored| table.unpack(frame, stored, plain));
        if let Err(damage) = unpacked {
            show(look, origin, begin..place.start, &room);
            begin = place.end;
            damaged.push((place, damage));
        }
    }
    show(look, origin, begin..table.plain_range(frames.end - 1).end, &room);
    damaged
}

fn show(look: &Look, origin: u64, range: Range<u64>, room: &[u8]) {
    if !range.is_empty() {
        look(
            range.start,
            &room[(range.start - origin) as usize..(range.end - origin) as usize],
        );
    }
}

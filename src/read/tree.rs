//! Files of stored trees, read at any place.
//!
//! A file is extents of parts, a part is frames of 256 KiB, and the frame is what is fetched, verified and kept, in the
//! same memory as pieces of WAL. Whoever reads at random costs one request of one frame; whoever reads in order gets
//! windows that grow, the next one already on its way (`cursors`), also from one part of a large file to the next, and from
//! several parts side by side, where changed pages lie between others.
//! Of all who want a frame one fetches it (`flights`). Where parts have become small by compression, he gets them whole,
//! and the next ones of his file are fetched meanwhile as they are stored (`coming`).
//!
//! Nothing is handed out that is not proved: the part's seek table against the hash in the manifest (`tables`), each
//! frame against the table. What is wrong is fetched once more; then the error names backup, file and object.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use crate::archive::tree::{Extent, Part, TreeName};
use crate::archive::{Archive, Error};
use crate::cache::{BlockId, Cache};
use crate::codec::{FRAME_BYTES, frames_of};
use crate::store::{self, ErrorKind, Patience};

mod coming;
mod cursors;
mod flights;
mod leaves;
pub mod stored;
mod tables;

use coming::Coming;
use cursors::{Cursors, Next, Plan};
use flights::{Flights, Way};
use leaves::Leaves;
use stored::{StoredFile, StoredTree};
use tables::Tables;

use super::space::Space;

/// Windows being fetched at once.
const FETCHES: usize = 3;

/// Stored bytes of a window, or of a small part, at most.
const WINDOW_BYTES: u64 = 5 << 20;

/// Parts of which pages of a file lie side by side, at most: so many are looked at for where its reader will go on.
const SIDE_BY_SIDE: usize = 64;

/// How long the store is asked for what nobody waits for yet.
const AHEAD: Duration = Duration::from_secs(20);

const FRAME: u64 = FRAME_BYTES as u64;

/// Reads files of trees.
#[derive(Debug, Clone)]
pub struct TreeReader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    archive: Arc<Archive>,
    cache: Cache,
    fetches: Arc<Semaphore>,
    space: Space,
    decoders: Arc<Semaphore>,
    tables: Tables,
    leaves: Leaves,
    flights: Flights,
    cursors: Mutex<Cursors>,
    coming: Mutex<Coming>,
}

/// Why there is no frame.
#[derive(Debug, Clone)]
enum Trouble {
    /// The object is not what was stored.
    Damaged(String),
    /// The store did not deliver it.
    Store(store::Error),
}

impl Trouble {
    /// Did it meet another who has asked for the same, but for a shorter time? Then it says nothing yet to who goes on
    /// waiting.
    fn is_anothers(&self, own: bool) -> bool {
        !own && matches!(self, Self::Store(_))
    }
}

impl From<store::Error> for Trouble {
    fn from(error: store::Error) -> Self {
        match error.kind {
            // The manifest names it, so that it is gone is damage.
            ErrorKind::NotFound => Self::Damaged("it is not there".into()),
            ErrorKind::Damaged => Self::Damaged(error.message),
            _ => Self::Store(error),
        }
    }
}

/// How much is fetched together with a frame that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reach {
    /// Frames in all, at most.
    frames: u64,
    /// Will all of the part be read? Then it may be fetched whole.
    in_order: bool,
}

/// A slice that is read, and what was planned for it.
#[derive(Debug)]
struct Asked {
    part: Arc<Part>,
    slice: Slice,
    plan: Plan,
}

/// Neighbouring bytes of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slice {
    /// Which of the file's extents it lies in.
    extent: usize,
    /// Where in the part's content it begins.
    offset: u64,
    bytes: u64,
}

impl Slice {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.bytes)
    }
}

impl Plan {
    /// What to fetch together with one of the frames that were asked for.
    fn reach(&self, asked: &Range<u64>, frame: u64) -> Reach {
        Reach {
            frames: self.window.max(asked.end - frame),
            in_order: self.in_order,
        }
    }
}

impl TreeReader {
    /// A reader that shares its memory with that of WAL.
    pub(super) fn new(archive: Arc<Archive>, cache: Cache, space: Space, decoders: Arc<Semaphore>) -> Self {
        Self(Arc::new(Inner {
            tables: Tables::new(archive.memory().table_bytes),
            leaves: Leaves::new(archive.memory().leaf_bytes),
            archive,
            cache,
            fetches: Arc::new(Semaphore::new(FETCHES)),
            space,
            decoders,
            flights: Flights::default(),
            cursors: Mutex::default(),
            coming: Mutex::default(),
        }))
    }

    /// A reader for a process that reads little else.
    pub fn alone(archive: Arc<Archive>) -> Self {
        let memory = archive.memory();
        let cache = Cache::new(memory.leaf_bytes);
        let (space, decoders) = (Space::new(memory.stored.clone()), memory.pieces);
        Self::new(archive.clone(), cache, space, Arc::new(Semaphore::new(decoders)))
    }

    /// Reads `bytes` at `offset` from a file of a tree; short only at its end.
    ///
    /// # Errors
    /// [`Error::TreeDamaged`], [`Error::Store`].
    pub async fn read(
        &self,
        tree: &StoredTree,
        file: &StoredFile,
        offset: u64,
        bytes: usize,
        patience: Patience,
    ) -> Result<Bytes, Arc<Error>> {
        let mut wanted = offset..file.bytes.min(offset.saturating_add(bytes as u64));
        let in_all = frames(&wanted).end - frames(&wanted).start;
        // Where changed pages lie between others, a few parts are asked for again and again.
        let mut parts: HashMap<u32, Arc<Part>> = HashMap::new();
        let mut pieces = Vec::new();
        while !wanted.is_empty() {
            let place = tree
                .extents(file, wanted.start, patience)
                .await
                .map_err(Arc::new)?;
            let extents = place.extents();
            let mut asked = Vec::new();
            for slice in slices(
                extents.extents,
                wanted.start - extents.from,
                wanted.end - wanted.start,
            ) {
                let number = extents.extents[slice.extent].part;
                let part = match parts.entry(number) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => new.insert(tree.part(number, patience).await.map_err(Arc::new)?),
                };
                asked.push(self.ask(part.clone(), slice, in_all, patience));
            }
            for asked in asked {
                let read = self.read_slice(tree, &asked, extents.extents, &mut pieces, patience);
                read.await
                    .map_err(|trouble| Arc::new(self.error(tree.name(), &file.path, &asked.part, trouble)))?;
                wanted.start += asked.slice.bytes;
            }
        }
        Ok(joined(pieces))
    }

    /// Begins to fetch what is missing of a slice: what a read needs of several parts comes side by side.
    fn ask(&self, part: Arc<Part>, slice: Slice, in_all: u64, patience: Patience) -> Asked {
        let asked = frames(&slice.range());
        let plan = self.plan(&part, asked.clone(), in_all);
        if slice.range().end <= part.plain_bytes {
            let reach = plan.reach(&asked, asked.start);
            // Whoever comes for them finds the flight.
            drop(self.0.fly(&part, asked.start, reach, patience));
        }
        Asked { part, slice, plan }
    }

    async fn read_slice(
        &self,
        tree: &StoredTree,
        asked: &Asked,
        extents: &[Extent],
        pieces: &mut Vec<Bytes>,
        patience: Patience,
    ) -> Result<(), Trouble> {
        let Asked { part, slice, plan } = asked;
        if slice.range().end > part.plain_bytes {
            return Err(Trouble::Damaged("it is shorter than the manifest says".into()));
        }
        if plan.settles {
            self.bring_next(tree, extents, slice.extent).await;
        }
        self.read_frames(part, slice.range(), plan, pieces, patience)
            .await?;
        if plan.done {
            self.read_on(tree, extents, slice.extent).await;
        }
        Ok(())
    }

    /// Reads neighbouring bytes of a part, and begins to read on as planned.
    async fn read_frames(
        &self,
        part: &Part,
        range: Range<u64>,
        plan: &Plan,
        pieces: &mut Vec<Bytes>,
        patience: Patience,
    ) -> Result<(), Trouble> {
        let asked = frames(&range);
        for frame in asked.clone() {
            let reach = plan.reach(&asked, frame);
            let content = self.0.frame(part, frame, reach, patience).await?;
            let start = frame * FRAME;
            let from = range.start.saturating_sub(start) as usize;
            let to = (range.end - start).min(content.len() as u64) as usize;
            pieces.push(content.slice(from..to));
        }
        self.read_ahead(part, plan.ahead.clone());
        Ok(())
    }

    fn plan(&self, part: &Part, asked: Range<u64>, in_all: u64) -> Plan {
        let mut cursors = self.0.cursors.lock().expect("no panic while held");
        let frames = frames_of(part.plain_bytes);
        cursors.read(&part.key.as_str().into(), asked, frames, in_all)
    }

    /// Begins to fetch frames that will be wanted, unless others wait for their turn.
    fn read_ahead(&self, part: &Part, frames: Range<u64>) {
        if !frames.is_empty() && self.0.fetches.available_permits() > 0 {
            let patience = Patience::for_at_most(AHEAD);
            let reach = Reach {
                frames: frames.end - frames.start,
                in_order: true,
            };
            // Whoever comes for them finds the flight.
            drop(self.0.fly(part, frames.start, reach, patience));
        }
    }

    /// A part is read in order: begins to fetch those that follow in the file.
    async fn bring_next(&self, tree: &StoredTree, extents: &[Extent], extent: usize) {
        let mut brought = 0;
        for next in others(&extents[extent..]) {
            let Ok(part) = tree.part(next.part, Patience::for_at_most(AHEAD)).await else {
                return;
            };
            let is_read = {
                let cursors = self.0.cursors.lock().expect("no panic while held");
                cursors.reads(part.key.as_str())
            };
            if !is_read {
                self.0.bring(&part);
                brought += 1;
            }
            if brought == coming::PARTS {
                return;
            }
        }
    }

    /// All of a part is on its way: begins to fetch from the part in which the file goes on, if nobody has yet.
    async fn read_on(&self, tree: &StoredTree, extents: &[Extent], extent: usize) {
        for next in others(&extents[extent..]) {
            let Ok(part) = tree.part(next.part, Patience::for_at_most(AHEAD)).await else {
                return;
            };
            let going_on = {
                let mut cursors = self.0.cursors.lock().expect("no panic while held");
                let (key, frames) = (part.key.as_str().into(), frames_of(part.plain_bytes));
                cursors.go_on(&key, next.offset / FRAME, frames)
            };
            match going_on {
                Next::Read => {}
                Next::Awaited => return,
                Next::Fetch(ahead) => return self.read_ahead(&part, ahead),
            }
        }
    }

    fn error(&self, tree: &TreeName, path: &[u8], part: &Part, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Store(error) => error.into(),
            Trouble::Damaged(reason) => {
                let path = String::from_utf8_lossy(path);
                let what = format!("{path}, of which a part is in {}", part.key.as_str());
                self.0.archive.tree_damaged(tree, &what, reason)
            }
        }
    }
}

/// The frames in which some bytes of a part lie.
fn frames(range: &Range<u64>) -> Range<u64> {
    range.start / FRAME..frames_of(range.end)
}

impl Inner {
    /// One verified frame; if it has to be fetched, with those behind it that are within reach.
    async fn frame(
        self: &Arc<Self>,
        part: &Part,
        frame: u64,
        reach: Reach,
        patience: Patience,
    ) -> Result<Bytes, Trouble> {
        let id = BlockId {
            object: part.key.as_str().into(),
            piece: frame,
        };
        loop {
            if let Some(content) = self.cache.find(&id).await {
                return Ok(content);
            }
            let (flight, own) = match self.fly(part, frame, reach, patience) {
                Way::Cached => continue,
                Way::Joined(flight) => (flight, false),
                Way::Begun(flight) => (flight, true),
            };
            match flight
                .await
                .frame(frame)
                .expect("a flight brings what it is listed for")
            {
                Ok(content) => return Ok(content),
                Err(Trouble::Damaged(_)) => return self.once_more(part, frame, patience).await,
                // Another's patience was shorter, or it was nobody's wish in particular.
                Err(Trouble::Store(_)) if !own => {}
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// The damage may have happened on the way, also to the table.
    async fn once_more(&self, part: &Part, frame: u64, patience: Patience) -> Result<Bytes, Trouble> {
        self.forget(part).await;
        let alone = Reach {
            frames: 1,
            in_order: false,
        };
        let window = self.fetch(part, frame..frame + 1, alone, patience).await;
        window.frame(frame).expect("it was asked for")
    }
}

/// The first extent in each of the other parts that follow.
fn others(extents: &[Extent]) -> impl Iterator<Item = Extent> + use<'_> {
    let mut seen: Vec<u32> = extents.first().map(|here| here.part).into_iter().collect();
    let is_new = move |extent: &&Extent| {
        let is_new = !seen.contains(&extent.part);
        if is_new {
            seen.push(extent.part);
        }
        is_new
    };
    extents.iter().filter(is_new).copied().take(SIDE_BY_SIDE)
}

/// Where the bytes of a file from `offset` on lie.
fn slices(extents: &[Extent], offset: u64, bytes: u64) -> Vec<Slice> {
    let wanted = offset..offset.saturating_add(bytes);
    let mut found = Vec::new();
    let mut start = 0;
    for (index, extent) in extents.iter().enumerate() {
        if start >= wanted.end {
            break;
        }
        let end = start + extent.bytes;
        let (from, to) = (wanted.start.max(start), wanted.end.min(end));
        if from < to {
            found.push(Slice {
                extent: index,
                offset: extent.offset + (from - start),
                bytes: to - from,
            });
        }
        start = end;
    }
    found
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_a_file_lies_in_its_extents() {
        let extents = [(0, 1000, 10), (1, 50, 5), (0, 0, 100)].map(|(part, offset, bytes)| Extent {
            part,
            offset,
            bytes,
        });
        let found = |offset, bytes| -> Vec<(usize, u64, u64)> {
            let slices = slices(&extents, offset, bytes);
            slices
                .iter()
                .map(|slice| (slice.extent, slice.offset, slice.bytes))
                .collect()
        };
        assert_eq!(found(0, 10), [(0, 1000, 10)]);
        assert_eq!(found(9, 8), [(0, 1009, 1), (1, 50, 5), (2, 0, 2)]);
        assert_eq!(found(114, 1000), [(2, 99, 1)]);
        assert_eq!(found(115, 1), []);
        assert_eq!(found(12, u64::MAX), [(1, 52, 3), (2, 0, 100)]);
        assert_eq!(found(3, 0), []);
    }
}

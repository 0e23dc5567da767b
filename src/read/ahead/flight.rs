//! One file on its way, or just arrived: fetched by a task of its own, as it is stored, and unpacked by another.
//!
//! A flight fetches once and does not try again: whoever wants the file can do that better, and with the patience that he
//! has. It asks for as many bytes as files lately had, and if that was too few, for the rest.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared};
use tokio::task::AbortHandle;

use super::super::PIECE_BYTES;
use super::super::fetcher::Fetcher;
use super::super::space::{HeldRoom, Space};
use crate::archive::wal::WalMeta;
use crate::archive::{Archive, Error};
use crate::codec;
use crate::pg::WalName;
use crate::store::{ByteRange, ErrorKind, Patience};

/// How long a flight may take: as long as the first attempt of somebody who waits for ever.
const ALLOWANCE: Duration = Duration::from_secs(20);

/// How long it is known that a file is archived, as for one that was looked up.
pub(super) const KEPT: Duration = Duration::from_secs(60);

/// What became of a flight.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// It is here.
    Brought(Arc<Brought>),
    /// The store said that there is no such file.
    Absent,
    /// There was no answer, or no room.
    Failed,
}

/// A file as it is stored.
#[derive(Debug)]
pub(super) struct Brought {
    pub(super) meta: WalMeta,
    pub(super) at: Instant,
    /// Until somebody unpacks it.
    stored: Mutex<Option<Stored>>,
}

/// Stored bytes, and the memory that was set aside for them.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) bytes: Bytes,
    pub(super) held: HeldRoom,
}

pub(super) type Landing = Shared<BoxFuture<'static, Outcome>>;
pub(super) type Opening = Shared<BoxFuture<'static, Option<Bytes>>>;

/// A file on its way. Dropped, it goes no further.
#[derive(Debug)]
pub(super) struct Flight {
    /// Not that of an earlier flight of the same file.
    pub(super) number: u64,
    pub(super) landing: Landing,
    /// While it is unpacked.
    pub(super) opening: Option<Opening>,
    task: AbortHandle,
}

impl Flight {
    /// Begins a flight; must be called within the runtime.
    pub(super) fn begin(number: u64, work: impl Future<Output = Outcome> + Send + 'static) -> Self {
        let task = tokio::spawn(work);
        Self {
            number,
            task: task.abort_handle(),
            landing: async move { task.await.unwrap_or(Outcome::Failed) }
                .boxed()
                .shared(),
            opening: None,
        }
    }

    /// What it has brought, if it has landed.
    pub(super) fn brought(&self) -> Option<&Arc<Brought>> {
        match self.landing.peek() {
            Some(Outcome::Brought(brought)) => Some(brought),
            _ => None,
        }
    }

    /// Is it still on its way, or does it hold stored bytes that nobody has begun to unpack?
    pub(super) fn is_loaded(&self) -> bool {
        let is_full = |brought: &Arc<Brought>| brought.stored.lock().expect("no panic while held").is_some();
        self.opening.is_none() && self.brought().is_none_or(is_full)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Brought {
    /// The stored bytes, once.
    pub(super) fn take(&self) -> Option<Stored> {
        self.stored.lock().expect("no panic while held").take()
    }

    /// How many stored bytes are held.
    pub(super) fn stored_bytes(&self) -> u64 {
        let stored = self.stored.lock().expect("no panic while held");
        stored.as_ref().map_or(0, |stored| stored.bytes.len() as u64)
    }
}

/// Fetches a file whole, in a share of memory that is likely to be enough.
pub(super) async fn fetch(
    fetcher: &Fetcher,
    space: &Space,
    name: WalName,
    held: HeldRoom,
    guess: u64,
) -> Outcome {
    match fetch_whole(fetcher, space, name, held, guess).await {
        Ok(Some((meta, stored))) => Outcome::Brought(Arc::new(Brought {
            meta,
            at: Instant::now(),
            stored: Mutex::new(Some(stored)),
        })),
        Ok(None) => Outcome::Failed,
        Err(Error::Store(error)) if error.kind == ErrorKind::NotFound => Outcome::Absent,
        Err(error) => {
            tracing::debug!("{name} is not fetched ahead: {error}");
            Outcome::Failed
        }
    }
}

async fn fetch_whole(
    fetcher: &Fetcher,
    space: &Space,
    name: WalName,
    mut held: HeldRoom,
    guess: u64,
) -> Result<Option<(WalMeta, Stored)>, Error> {
    let (archive, key) = (&fetcher.archive, fetcher.archive.wal_key(name));
    let patience = Patience::for_at_most(ALLOWANCE);
    if let Some(bytes) = fetcher.on_disk(&key, most_stored_bytes(archive)).await {
        // Whether it is still archived, and how long it is, is the store's to say.
        let object = archive.store().head(&key, patience).await?;
        if object.stored_bytes == bytes.len() as u64 {
            let meta = archive.wal_meta_of(name, &object, patience).await?;
            return Ok(Some((meta, Stored { bytes, held })));
        }
    }
    let room = held.room();
    let room_bytes = room.capacity() as u64;
    let first = archive
        .store()
        .get_once(&key, ByteRange::First(guess), ALLOWANCE, room)
        .await?;
    let all_bytes = first.meta.stored_bytes;
    let mut bytes = first.bytes;
    if all_bytes > guess {
        let Some(more) = space.take_ahead(all_bytes - guess) else {
            return Ok(None);
        };
        let rest = ByteRange::Span(guess..all_bytes);
        let rest = archive
            .store()
            .get_once(&key, rest, ALLOWANCE, Vec::new())
            .await?;
        bytes = [bytes, rest.bytes].concat().into();
        held.join(more);
    }
    held.shrink_to(all_bytes.max(room_bytes));
    let meta = archive.wal_meta_of(name, &first.meta, patience).await?;
    fetcher.keep_on_disk(&key, &bytes);
    Ok(Some((meta, Stored { bytes, held })))
}

/// The longest object that a file fetched whole can have.
fn most_stored_bytes(archive: &Archive) -> u64 {
    let segment_bytes = archive
        .known_cluster()
        .map(|cluster| cluster.segment_size.bytes());
    codec::most_stored_bytes(segment_bytes.unwrap_or(PIECE_BYTES).min(PIECE_BYTES))
}

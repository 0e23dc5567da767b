//! Frames on their way: one request for a window of neighbouring frames, whoever waits for one of them.
//!
//! A flight is a task of its own, so that it ends well when the one who wanted it is killed, and so that reading ahead
//! needs nobody who waits. Its frames are in the cache before it is struck from the list; and those who wait get them
//! from the flight itself, so that a cache that is too small costs speed only.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared, join_all};

use super::super::space::TURN;
use super::{Inner, Reach, Trouble, WINDOW_BYTES};
use crate::archive::tree::Part;
use crate::cache::BlockId;
use crate::codec::{self, SeekTable};
use crate::store::Patience;

/// Frames unpacked by one job: a millisecond's work.
const JOB_FRAMES: usize = 4;

/// What a flight brings: each of its frames, or what is wrong with it.
#[derive(Debug)]
pub(super) struct Window {
    first: u64,
    frames: Result<Vec<Result<Bytes, Trouble>>, Trouble>,
}

impl Window {
    /// One of its frames.
    pub(super) fn frame(&self, frame: u64) -> Option<Result<Bytes, Trouble>> {
        match &self.frames {
            Ok(frames) => frames
                .get(usize::try_from(frame.checked_sub(self.first)?).ok()?)
                .cloned(),
            Err(trouble) => Some(Err(trouble.clone())),
        }
    }
}

type Flight = Shared<BoxFuture<'static, Arc<Window>>>;

/// What is on its way.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<BlockId, Flight>>);

/// How a frame can be had.
pub(super) enum Way {
    /// It has just come into the cache.
    Cached,
    /// Somebody else's request brings it.
    Joined(Flight),
    /// A request was begun.
    Begun(Flight),
}

impl Inner {
    /// Joins the flight that brings `frame`, or begins one for it and as many more as are within reach.
    pub(super) fn fly(self: &Arc<Self>, part: &Part, frame: u64, reach: Reach, patience: Patience) -> Way {
        let object: Arc<str> = part.key.as_str().into();
        let id = |piece| BlockId {
            object: object.clone(),
            piece,
        };
        let mut flights = self.flights.0.lock().expect("no panic while held");
        if let Some(flight) = flights.get(&id(frame)) {
            return Way::Joined(flight.clone());
        }
        if self.cache.holds(&id(frame)) {
            return Way::Cached;
        }
        let limit = codec::frames_of(part.plain_bytes).min(frame + reach.frames);
        let is_had = |other: &u64| flights.contains_key(&id(*other)) || self.cache.holds(&id(*other));
        let end = (frame + 1..limit).find(is_had).unwrap_or(limit);
        let flight = self.clone().begin(part.clone(), frame..end, reach, patience);
        for frame in frame..end {
            flights.insert(id(frame), flight.clone());
        }
        Way::Begun(flight)
    }

    fn begin(self: Arc<Self>, part: Part, frames: Range<u64>, reach: Reach, patience: Patience) -> Flight {
        let task = tokio::spawn(async move {
            let window = self.fetch(&part, frames.clone(), reach, patience).await;
            self.land(&part, frames, &window).await;
            Arc::new(window)
        });
        let landed = async {
            match task.await {
                Ok(window) => window,
                // The program is ending, and with it whoever waits here.
                Err(_) => std::future::pending().await,
            }
        };
        landed.boxed().shared()
    }

    /// Hands the frames to the cache and strikes the flight from the list.
    async fn land(&self, part: &Part, frames: Range<u64>, window: &Window) {
        let object: Arc<str> = part.key.as_str().into();
        let ids = frames.map(|piece| BlockId {
            object: object.clone(),
            piece,
        });
        let ids: Vec<BlockId> = ids.collect();
        for id in &ids {
            if let Some(Ok(frame)) = window.frame(id.piece) {
                self.cache.put(id.clone(), frame).await;
            }
        }
        let mut flights = self.flights.0.lock().expect("no panic while held");
        ids.iter().for_each(|id| drop(flights.remove(id)));
    }

    /// Fetches frames by one request, and unpacks and verifies them side by side.
    pub(super) async fn fetch(
        &self,
        part: &Part,
        frames: Range<u64>,
        reach: Reach,
        patience: Patience,
    ) -> Window {
        // As for segments: who waits long is behind requests that hang, and goes ahead.
        let _fetching = tokio::time::timeout(TURN, self.fetches.acquire()).await;
        let _held = self.space.take(WINDOW_BYTES).await;
        let first = frames.start;
        Window {
            first,
            frames: self.fetch_frames(part, frames, reach, patience).await,
        }
    }

    async fn fetch_frames(
        &self,
        part: &Part,
        frames: Range<u64>,
        reach: Reach,
        patience: Patience,
    ) -> Result<Vec<Result<Bytes, Trouble>>, Trouble> {
        let table = self.tables.get(self, part, reach, patience).await?;
        let range = table.stored_range(frames.clone());
        let stored = self.stored(part, range, reach, patience).await?;
        let first = frames.start;
        let jobs = frames.clone().step_by(JOB_FRAMES).map(|start| {
            let job = start..frames.end.min(start + JOB_FRAMES as u64);
            self.unpack(table.clone(), job, stored.clone(), first)
        });
        Ok(join_all(jobs).await.into_iter().flatten().collect())
    }

    async fn unpack(
        &self,
        table: Arc<SeekTable>,
        job: Range<u64>,
        stored: Bytes,
        first: u64,
    ) -> Vec<Result<Bytes, Trouble>> {
        let decoder = self.decoders.clone().acquire_owned().await.expect("never closed");
        let unpacked = tokio::task::spawn_blocking(move || {
            let frames = job.map(|frame| unpack_one(&table, frame, &stored, first));
            let frames: Vec<_> = frames.collect();
            drop(decoder);
            frames
        });
        unpacked.await.expect("unpacking does not panic")
    }
}

fn unpack_one(table: &SeekTable, frame: u64, stored: &[u8], first: u64) -> Result<Bytes, Trouble> {
    let place = table.plain_range(frame);
    let mut plain = vec![0; (place.end - place.start) as usize];
    let cut = table.cut(frame, stored, first);
    match cut.and_then(|stored| table.unpack(frame, stored, &mut plain)) {
        Ok(()) => Ok(plain.into()),
        Err(damage) => Err(Trouble::Damaged(damage.to_string())),
    }
}

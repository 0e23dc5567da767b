//! Segments fetched before they are asked for (promise R4).
//!
//! Recovery asks for one segment after the other, and each would cost a lookup, a request and unpacking. So whoever reads
//! a segment from its start has the next ones fetched meanwhile (`sequence` says which), side by side, each by a flight
//! of its own, kept as they are stored; and the very next one unpacked into the cache.
//!
//! Nobody sees any of it. What did not come, is not there or is damaged is dropped without a word, and whoever asks for it
//! is answered by the store as if nothing had been tried. A flight that is still under way when its file is wanted is
//! joined, but not for much longer than a request of one's own would take.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::FutureExt;

use super::fetcher::Fetcher;
use super::space::Space;
use super::{PIECE_BYTES, block_id};
use crate::archive::wal::WalMeta;
use crate::cache::Cache;
use crate::pg::{SegmentSize, WalName, history};

mod flight;
mod foreseen;
mod sequence;
mod state;

use flight::{Flight, KEPT, Landing, Opening, Outcome};
use state::State;

/// Segments fetched ahead.
#[derive(Debug, Clone)]
pub(super) struct Ahead(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fetcher: Arc<Fetcher>,
    cache: Cache,
    space: Space,
    state: Mutex<State>,
}

/// What a flight tells of a file.
pub(super) enum Told {
    /// It is archived, and on its way into memory or there.
    Archived(WalMeta),
    /// The store has just said that there is no such file.
    Absent,
    /// Nothing: ask the store.
    Nothing,
}

impl Ahead {
    pub(super) fn new(fetcher: Arc<Fetcher>, cache: Cache, space: Space) -> Self {
        Self(Arc::new(Inner {
            fetcher,
            cache,
            space,
            state: Mutex::default(),
        }))
    }

    /// A file is read from its start, or about to be: what will be wanted next is fetched.
    pub(super) fn reads(&self, name: WalName) {
        let (WalName::Segment(segment), Some(size)) = (name, self.0.segment_size()) else {
            return;
        };
        let is_here = self.0.is_here(name);
        let wanted = {
            let mut state = self.0.state();
            state.foreseen.reads(name, is_here);
            let usual = state.usual_time();
            state.sequences.reads(segment, size, usual, Instant::now())
        };
        // It is in use: what is unpacked now must not push it out.
        let _ = self.0.cache.find(&self.0.id(name)).now_or_never();
        for (distance, next) in wanted.into_iter().map(WalName::Segment).enumerate() {
            if !self.0.is_here(next) {
                if self.0.fly(next).is_none() {
                    break;
                }
                self.0.state().foreseen.fetches(next);
            }
            if distance == 0 && self.0.cache.capacity() >= 2 * size.bytes() {
                drop(self.0.open(next));
            }
        }
    }

    /// A history that a reader was given says which timelines he will ask for.
    pub(super) fn learn(&self, name: WalName, content: &[u8]) {
        if let WalName::History(own) = name
            && let Ok(ancestors) = history::parse(content, own)
        {
            self.0.state().sequences.learn(own, &ancestors);
        }
    }

    /// What is known of a file without asking the store.
    pub(super) fn meta(&self, name: WalName) -> Option<WalMeta> {
        let state = self.0.state();
        let brought = state.flights.get(&name)?.brought()?;
        (brought.at.elapsed() < KEPT).then_some(brought.meta)
    }

    /// Fetches a file that will be read whole, and says what there is.
    pub(super) async fn look(&self, name: WalName) -> Told {
        let (landing, own) = match self.0.landing(name) {
            Some(landing) => {
                // It was foreseen: the ones behind it need not wait until it is here.
                self.reads(name);
                (landing, false)
            }
            None => match self.0.fly(name) {
                Some(landing) => (landing, true),
                None => return Told::Nothing,
            },
        };
        let (joined, began) = (self.0.state().joined_at_most(), Instant::now());
        let landed = tokio::time::timeout(joined, landing).await;
        self.0.waited(name, began.elapsed());
        match landed {
            Ok(Outcome::Brought(brought)) => Told::Archived(brought.meta),
            // Of a flight that began before the question it would be an old answer.
            Ok(Outcome::Absent) if own => Told::Absent,
            _ => Told::Nothing,
        }
    }

    /// The only piece of a file, verified, if it is here or comes soon.
    pub(super) async fn piece(&self, name: WalName) -> Option<Bytes> {
        let opening = self.0.open(name)?;
        let (joined, began) = (self.0.state().joined_at_most(), Instant::now());
        let opened = tokio::time::timeout(joined, opening).await;
        self.0.waited(name, began.elapsed());
        match opened {
            Ok(piece) => piece,
            Err(_) => {
                self.0.state().flights.remove(&name);
                self.0.failed(name);
                None
            }
        }
    }

    /// Somebody who waited for a segment had to fetch it himself: on a slow line flights take as long.
    pub(super) fn fetched_by_itself(&self, name: WalName, took: Duration) {
        self.0.waited(name, took);
        self.0.state().takes_at_least(took);
    }

    /// Drops what nobody has asked for, because somebody needs the memory.
    pub(super) fn give_way(&self) {
        self.0.state().flights.retain(|_, flight| !flight.is_loaded());
    }

    /// Segments that were fetched before they were asked for, and how many of these were there when they were.
    pub(super) fn fetched_and_hits(&self) -> (u64, u64) {
        self.0.state().foreseen.counts()
    }

    /// Stored bytes held.
    pub(super) fn bytes(&self) -> u64 {
        let state = self.0.state();
        let brought = state.flights.values().filter_map(Flight::brought);
        brought.map(|brought| brought.stored_bytes()).sum()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Of a cluster whose segments are single pieces. Larger ones are long in reading, and are not fetched ahead.
    fn segment_size(&self) -> Option<SegmentSize> {
        let size = self.fetcher.archive.known_cluster()?.segment_size;
        (size.bytes() <= PIECE_BYTES).then_some(size)
    }

    fn id(&self, name: WalName) -> crate::cache::BlockId {
        block_id(&self.fetcher.archive, name, 0)
    }

    /// Is it on its way, or in memory?
    fn is_here(&self, name: WalName) -> bool {
        let state = self.state();
        let flight = state.flights.get(&name);
        flight.is_some_and(|flight| flight.opening.is_some() || flight.is_loaded())
            || self.cache.holds(&self.id(name))
    }

    fn landing(&self, name: WalName) -> Option<Landing> {
        let state = self.state();
        state.flights.get(&name).map(|flight| flight.landing.clone())
    }

    /// Begins a flight, if there is room.
    fn fly(self: &Arc<Self>, name: WalName) -> Option<Landing> {
        let size = self.segment_size();
        if name.has_pages() && size.is_none() {
            return None;
        }
        let mut state = self.state();
        let guess = state.guess(name, size);
        let held = self.space.take_ahead(guess)?;
        state.begun += 1;
        let number = state.begun;
        let inner = self.clone();
        let flight = Flight::begin(number, async move {
            let began = Instant::now();
            let outcome = flight::fetch(&inner.fetcher, &inner.space, name, held, guess).await;
            inner.landed(name, number, &outcome, began.elapsed());
            outcome
        });
        let landing = flight.landing.clone();
        state.flights.insert(name, flight);
        Some(landing)
    }

    fn landed(self: &Arc<Self>, name: WalName, number: u64, outcome: &Outcome, took: Duration) {
        match outcome {
            Outcome::Brought(brought) => {
                if name.has_pages() {
                    self.state().took(took, brought.meta.stored_bytes);
                }
                // It keeps nothing open meanwhile.
                let inner = Arc::downgrade(self);
                tokio::spawn(async move {
                    tokio::time::sleep(KEPT).await;
                    if let Some(inner) = inner.upgrade() {
                        inner.state().forget(name, number);
                    }
                });
            }
            Outcome::Absent => {
                self.state().forget(name, number);
                if let (WalName::Segment(segment), Some(size)) = (name, self.segment_size()) {
                    self.state().sequences.was_absent(segment, size);
                }
            }
            Outcome::Failed => {
                self.state().forget(name, number);
                self.failed(name);
            }
        }
    }

    fn waited(&self, name: WalName, time: Duration) {
        if let (WalName::Segment(segment), Some(size)) = (name, self.segment_size()) {
            self.state().sequences.waited(segment, size, time);
        }
    }

    fn failed(&self, name: WalName) {
        if let (WalName::Segment(segment), Some(size)) = (name, self.segment_size()) {
            self.state().sequences.failed(segment, size);
        }
    }

    /// Begins to unpack a file as soon as it has landed, or joins whoever did. `None`: it is not on its way.
    fn open(self: &Arc<Self>, name: WalName) -> Option<Opening> {
        let mut state = self.state();
        let flight = state.flights.get_mut(&name)?;
        if let Some(opening) = &flight.opening {
            return Some(opening.clone());
        }
        if !flight.is_loaded() {
            return None;
        }
        let task = tokio::spawn(self.clone().unpack(name, flight.number, flight.landing.clone()));
        let opening = async move { task.await.expect("unpacking does not panic") };
        let opening = opening.boxed().shared();
        flight.opening = Some(opening.clone());
        Some(opening)
    }

    /// Verified bytes go to the cache; the flight stays, as evidence that the file is archived.
    async fn unpack(self: Arc<Self>, name: WalName, number: u64, landing: Landing) -> Option<Bytes> {
        let Outcome::Brought(brought) = landing.await else {
            return None;
        };
        let stored = brought.take().expect("opened once");
        let unpacked = self
            .fetcher
            .unpack_whole(name, brought.meta.bytes, stored.bytes.clone())
            .await;
        self.space.keep(stored.held, stored.bytes);
        match unpacked {
            Ok(piece) => {
                self.cache.put(self.id(name), piece.clone()).await;
                self.state().is_open(name, number);
                Some(piece)
            }
            Err(error) => {
                tracing::debug!("{name} is fetched again when it is asked for: {error}");
                self.state().forget(name, number);
                None
            }
        }
    }
}

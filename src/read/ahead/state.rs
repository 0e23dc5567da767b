//! What is known of flights and readers, under one lock that is never held across a wait.

use std::collections::HashMap;
use std::time::Duration;

use super::flight::Flight;
use super::foreseen::Foreseen;
use super::sequence::Sequences;
use crate::codec;
use crate::pg::{SegmentSize, WalName};

/// A flight that somebody waits for is given up after twice the usual time, and these are the least and the most.
const JOINED_AT_LEAST: Duration = Duration::from_secs(1);
const JOINED_AT_MOST: Duration = Duration::from_secs(10);

/// What a flight is thought to take as long as none has landed.
const FIRST_GUESS: Duration = Duration::from_secs(1);

/// Room for a small file, of which the longest histories have some KiB.
const SMALL_BYTES: u64 = 64 << 10;

/// Flights and readers.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) sequences: Sequences,
    pub(super) flights: HashMap<WalName, Flight>,
    pub(super) foreseen: Foreseen,
    /// Flights begun so far; gives each its number.
    pub(super) begun: u64,
    /// How long flights lately took, and how many stored bytes segments lately had.
    usual: Option<(Duration, u64)>,
}

impl State {
    /// How long a flight takes.
    pub(super) fn usual_time(&self) -> Duration {
        self.usual.map_or(FIRST_GUESS, |(time, _)| time)
    }

    /// How long somebody waits for a flight before he asks himself.
    pub(super) fn joined_at_most(&self) -> Duration {
        (2 * self.usual_time()).clamp(JOINED_AT_LEAST, JOINED_AT_MOST)
    }

    /// How many bytes to ask for, so that mostly one request is enough and little memory is set aside in vain.
    pub(super) fn guess(&self, name: WalName, size: Option<SegmentSize>) -> u64 {
        let Some(size) = size.filter(|_| name.has_pages()) else {
            return SMALL_BYTES;
        };
        let at_most = codec::stored_bytes_uncompressed(size.bytes());
        self.usual.map_or(at_most, |(_, bytes)| {
            (bytes + bytes / 8 + SMALL_BYTES).min(at_most)
        })
    }

    /// A flight has landed with so many bytes.
    pub(super) fn took(&mut self, time: Duration, stored_bytes: u64) {
        let time = self.usual.map_or(time, |(usual, _)| (3 * usual + time) / 4);
        self.usual = Some((time, stored_bytes));
    }

    /// Somebody had to fetch a segment himself, and it took so long.
    pub(super) fn takes_at_least(&mut self, time: Duration) {
        if let Some((usual, _)) = &mut self.usual {
            *usual = (*usual).max(time.min(JOINED_AT_MOST));
        }
    }

    /// Drops a flight, if it is still this one.
    pub(super) fn forget(&mut self, name: WalName, number: u64) {
        if self
            .flights
            .get(&name)
            .is_some_and(|flight| flight.number == number)
        {
            self.flights.remove(&name);
        }
    }

    /// Unpacked: its bytes are the cache's from now on.
    pub(super) fn is_open(&mut self, name: WalName, number: u64) {
        if let Some(flight) = self
            .flights
            .get_mut(&name)
            .filter(|flight| flight.number == number)
        {
            flight.opening = None;
        }
    }
}

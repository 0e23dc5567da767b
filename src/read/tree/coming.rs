//! Parts fetched whole before their reader is there, and kept as they are stored.
//!
//! They are kept here and not in the cache, because what the reader gets meanwhile would push them out of it: ten times as
//! many bytes. What bounds them is the memory for stored bytes, and that all readers together have a few MiB here. A part
//! goes when its reader comes for it, or is late.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};

use super::super::space::HeldRoom;
use super::{AHEAD, Inner, Trouble, WINDOW_BYTES};
use crate::archive::tree::Part;
use crate::store::Patience;

/// Parts of a file that are looked for ahead.
pub(super) const PARTS: usize = 3;

/// Stored bytes of all that is listed.
const MOST_BYTES: u64 = 12 << 20;

/// A reader who has not come by then does not come.
const LATE: Duration = Duration::from_secs(20);

/// What nobody has come for yet.
#[derive(Debug, Default)]
pub(super) struct Coming(Vec<Listed>);

#[derive(Debug)]
struct Listed {
    part: Arc<str>,
    bytes: u64,
    since: Instant,
    arrival: Arrival,
}

/// A part on its way, or there.
pub(super) struct Arrival(BoxFuture<'static, Option<(Bytes, HeldRoom)>>);

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Arrival")
    }
}

impl Arrival {
    /// The part, unless it could not be had: then the reader asks for it himself.
    pub(super) async fn whole(self) -> Option<Bytes> {
        self.0.await.map(|(whole, _held)| whole)
    }
}

impl Coming {
    /// Is there room for a part that is not listed?
    fn has_room(&self, part: &str, bytes: u64) -> bool {
        let held: u64 = self.0.iter().map(|listed| listed.bytes).sum();
        held + bytes <= MOST_BYTES && !self.0.iter().any(|listed| *listed.part == *part)
    }

    fn take(&mut self, part: &str) -> Option<Arrival> {
        let place = self.0.iter().position(|listed| *listed.part == *part)?;
        Some(self.0.swap_remove(place).arrival)
    }

    fn forget(&mut self, part: &str, since: Instant) {
        self.0
            .retain(|listed| (&*listed.part, listed.since) != (part, since));
    }
}

impl Inner {
    fn coming(&self) -> MutexGuard<'_, Coming> {
        self.coming.lock().expect("no panic while held")
    }

    /// A part that was fetched ahead: it goes to who asks first.
    pub(super) fn arrival(&self, part: &Part) -> Option<Arrival> {
        self.coming().take(part.key.as_str())
    }

    /// Begins to fetch a part, if that is worth it and nobody needs the memory.
    pub(super) fn bring(self: &Arc<Self>, part: &Part) {
        let (key, bytes): (Arc<str>, u64) = (part.key.as_str().into(), part.stored_bytes);
        let mut coming = self.coming();
        if bytes > WINDOW_BYTES || self.has_whole(part) || !coming.has_room(&key, bytes) {
            return;
        }
        let Some(held) = self.space.take_ahead(bytes) else {
            return;
        };
        let since = Instant::now();
        coming.0.push(Listed {
            part: key.clone(),
            bytes,
            since,
            arrival: self.clone().arriving(part.clone(), held),
        });
        let reader = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LATE).await;
            reader.coming().forget(&key, since);
        });
    }

    fn arriving(self: Arc<Self>, part: Part, held: HeldRoom) -> Arrival {
        let task = tokio::spawn(async move {
            let whole: Result<Bytes, Trouble> = self.fetch_whole(&part, Patience::for_at_most(AHEAD)).await;
            whole.ok().map(|whole| (whole, held))
        });
        Arrival(task.map(|ended| ended.ok().flatten()).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(part: &str, bytes: u64, since: Instant) -> Listed {
        Listed {
            part: part.into(),
            bytes,
            since,
            arrival: Arrival(std::future::ready(None).boxed()),
        }
    }

    #[test]
    fn few_parts_are_listed_and_each_once() {
        let (mut coming, now) = (Coming::default(), Instant::now());
        coming.0.push(listed("a", 5 << 20, now));
        assert!(!coming.has_room("a", 1) && coming.has_room("b", 7 << 20) && !coming.has_room("b", 8 << 20));
        assert!(coming.take("b").is_none() && coming.take("a").is_some() && coming.take("a").is_none());
        assert!(coming.has_room("a", MOST_BYTES));
    }

    #[test]
    fn who_is_late_for_one_finds_the_next() {
        let (mut coming, first) = (Coming::default(), Instant::now());
        let second = first + LATE;
        coming.0.push(listed("a", 1, second));
        coming.forget("a", first);
        assert!(coming.take("a").is_some());
    }
}

//! What has been sent ahead and not yet been asked for, and how much more may be.
//!
//! Everything is relative to the file that the archiver brings now: it goes upwards, so what is below is over. That
//! needs no memory of what was archived, and a server that begins again from below is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::pg::SegmentName;
use crate::staging::forerunner::Forerunner;
use crate::store::{Grant, Leave, leave};

/// The most segments ahead of the archiver. They hold memory only until they are stored.
const MOST: usize = 8;

/// As long as uploads are done in this part of their deadline, one more at a time does no harm.
const QUICK_PART: u32 = 8;

/// What a segment waits for in the one before it.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    /// That one has its memory: so none waits for memory that its successors hold.
    pub(super) room: Leave,
    /// The archive has that one, as this server wrote it.
    pub(super) accepted: Leave,
}

/// The other end of a [`Turn`]: for the one behind.
#[derive(Debug)]
pub(super) struct Turns {
    pub(super) room: Grant,
    pub(super) accepted: Grant,
}

fn turn() -> (Turns, Turn) {
    let ((room, has_room), (accepted, is_accepted)) = (leave(), leave());
    let turn = Turn {
        room: has_room,
        accepted: is_accepted,
    };
    (Turns { room, accepted }, turn)
}

/// A segment that begins.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) name: SegmentName,
    /// Of the one before it.
    pub(super) before: Turn,
    pub(super) own: Turns,
}

/// What the archiver brings.
#[derive(Debug)]
struct Current {
    name: SegmentName,
    turn: Turn,
    /// Until it is known what becomes of it.
    accepted: Option<Grant>,
}

/// Segments ahead of the archiver.
#[derive(Debug)]
pub(super) struct Table {
    /// What the archiver brings now.
    current: Option<Current>,
    /// Known to wait, and not begun.
    next: BTreeSet<SegmentName>,
    /// Begun, and not asked for yet. One that failed stays: its copier does it, and nobody tries it again before.
    begun: BTreeMap<SegmentName, (Forerunner, Turn)>,
    /// How many may be begun and not asked for.
    limit: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            current: None,
            next: BTreeSet::new(),
            begun: BTreeMap::new(),
            limit: 2,
        }
    }
}

impl Table {
    /// The archiver brings this one now: what is below has had its time.
    pub(super) fn brought(&mut self, name: SegmentName) -> Option<Forerunner> {
        let forerunner = self.begun.remove(&name).map(|(forerunner, _)| forerunner);
        let (Turns { room, accepted }, turn) = turn();
        room.give();
        self.current = Some(Current {
            name,
            turn,
            accepted: Some(accepted),
        });
        self.begun = self.begun.split_off(&name);
        self.next = self.next.split_off(&name);
        self.next.remove(&name);
        forerunner.filter(|forerunner| !forerunner.is_lost())
    }

    /// The archive has what the archiver brought, or refused it: then nothing behind it may be stored.
    pub(super) fn settled(&mut self, name: SegmentName, accepted: bool) {
        let current = self.current.as_mut().filter(|current| current.name == name);
        if let Some(grant) = current.and_then(|current| current.accepted.take())
            && accepted
        {
            grant.give();
        }
    }

    /// Has it been sent ahead, and nobody has brought it yet?
    pub(super) fn is_ahead(&self, name: SegmentName) -> bool {
        self.begun.contains_key(&name)
    }

    /// After which segment more names are wanted, if they are.
    pub(super) fn wants_names(&self) -> Option<SegmentName> {
        self.current
            .as_ref()
            .map(|current| current.name)
            .filter(|_| self.next.is_empty())
    }

    /// More segments that wait.
    pub(super) fn add_names(&mut self, names: BTreeSet<SegmentName>) {
        let current = self.current.as_ref().map(|current| current.name);
        let begun = &self.begun;
        let new = |name: &SegmentName| Some(*name) > current && !begun.contains_key(name);
        self.next.extend(names.into_iter().filter(new));
    }

    /// The next one to begin, if there may be one more.
    pub(super) fn begin(&mut self, forerunner: Forerunner) -> Option<Next> {
        if self.begun.len() >= self.limit {
            return None;
        }
        let current = self.current.as_ref()?;
        let name = self.next.pop_first()?;
        let before = self.begun.range(..name).next_back();
        let before = before.map_or(&current.turn, |(_, (_, turn))| turn).clone();
        let (own, turn) = turn();
        self.begun.insert(name, (forerunner, turn));
        Some(Next { name, before, own })
    }

    /// Another server archives now: nothing of the one before it may follow.
    pub(super) fn begin_anew(&mut self) {
        self.begun.clear();
        self.next.clear();
    }

    /// It was not tried, for the archive did not have the one before it.
    pub(super) fn put_back(&mut self, name: SegmentName) {
        let is_wanted = self.current.as_ref().is_some_and(|current| name > current.name);
        if self.begun.remove(&name).is_some() && is_wanted {
            self.next.insert(name);
        }
    }

    /// An upload took so long of its deadline, or failed. On a slow line uploads side by side only delay the one that
    /// is waited for, until all of them miss the deadline together.
    pub(super) fn learn(&mut self, stored_in: Option<Duration>, deadline: Duration) {
        let quick = stored_in.is_some_and(|took| took < deadline / QUICK_PART);
        self.limit = if quick {
            (self.limit + 1).min(MOST)
        } else {
            (self.limit / 2).max(1)
        };
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::staging::forerunner::{Promise, promise};

    const DEADLINE: Duration = Duration::from_secs(40);

    fn name(number: u32) -> SegmentName {
        format!("00000001{number:016X}").parse().unwrap()
    }

    /// Begins what may be begun.
    fn begin_all(table: &mut Table) -> Vec<(Next, Promise)> {
        std::iter::from_fn(|| {
            let (promise, forerunner) = promise();
            Some((table.begin(forerunner)?, promise))
        })
        .collect()
    }

    fn numbers(begun: &[(Next, Promise)]) -> Vec<u32> {
        begun.iter().map(|(next, _)| next.name.seg).collect()
    }

    /// W8: of a server whose segment is refused, none behind it is stored.
    #[tokio::test]
    async fn w8_each_waits_until_the_one_before_it_is_accepted() {
        let mut table = Table::default();
        table.brought(name(5));
        table.add_names((6..20).map(name).collect());
        let mut begun = begin_all(&mut table).into_iter().map(|(next, _)| next);
        let (six, seven) = (begun.next().unwrap(), begun.next().unwrap());
        let waits = |turn: &Turn| {
            !turn.accepted.is_refused() && turn.accepted.clone().is_given().now_or_never().is_none()
        };
        assert!(waits(&six.before) && waits(&seven.before));
        table.settled(name(4), true);
        assert!(waits(&six.before), "of another one");
        table.settled(name(5), true);
        assert!(six.before.accepted.clone().is_given().await);
        assert!(waits(&seven.before));
        drop(six.own);
        assert!(!seven.before.accepted.is_given().await);
        table.put_back(name(7));
        assert_eq!(numbers(&begin_all(&mut table)), [7]);
        table.brought(name(8));
        table.add_names((9..20).map(name).collect());
        let nine = begin_all(&mut table).remove(0).0;
        assert!(nine.before.room.is_given().await);
        table.settled(name(8), false);
        assert!(!nine.before.accepted.is_given().await);
    }

    #[test]
    fn the_archiver_is_followed() {
        let mut table = Table::default();
        assert_eq!(table.wants_names(), None);
        assert!(table.brought(name(5)).is_none());
        assert_eq!(table.wants_names(), Some(name(5)));
        table.add_names((4..20).map(name).collect());
        let begun = begin_all(&mut table);
        assert_eq!(numbers(&begun), [6, 7]);
        assert_eq!(table.wants_names(), None);
        assert!(table.brought(name(6)).is_some());
        assert!(!table.is_ahead(name(6)) && table.is_ahead(name(7)));
        // 7 and 8 were passed over.
        assert!(table.brought(name(9)).is_none());
        assert!(!table.is_ahead(name(7)));
        assert_eq!(numbers(&begin_all(&mut table)), [10, 11]);
        // Another server, or one that began again.
        assert!(table.brought(name(1)).is_none());
        assert!(table.is_ahead(name(10)));
    }

    #[test]
    fn what_failed_is_left_to_its_copier() {
        let mut table = Table::default();
        table.brought(name(1));
        table.add_names((2..9).map(name).collect());
        drop(begin_all(&mut table));
        table.add_names((2..9).map(name).collect());
        assert!(begin_all(&mut table).is_empty(), "they are not tried again");
        assert!(table.brought(name(2)).is_none());
    }

    #[test]
    fn more_at_a_time_while_it_is_quick_and_fewer_when_it_is_not() {
        let mut table = Table::default();
        for _ in 0..20 {
            table.learn(Some(Duration::from_secs(4)), DEADLINE);
        }
        assert_eq!(table.limit, MOST);
        table.learn(Some(Duration::from_secs(6)), DEADLINE);
        assert_eq!(table.limit, MOST / 2);
        for _ in 0..9 {
            table.learn(None, DEADLINE);
        }
        assert_eq!(table.limit, 1);
    }
}

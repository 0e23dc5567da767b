//! What has been sent ahead and not yet been asked for, and how much more may be.
//!
//! Everything is relative to the file that the archiver brings now: it goes upwards, so what is below is over. That
//! needs no memory of what was archived, and a server that begins again from below is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::pg_wal::Version;
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
    pub(super) name: SegmentName,
    /// That one has its memory: so none waits for memory that its successors hold.
    pub(super) room: Leave,
    /// The archive has that one, as this server wrote it.
    pub(super) accepted: Leave,
    /// The file that was read of it, when that is so.
    pub(super) file: Arc<OnceLock<Version>>,
}

/// The other end of a [`Turn`]: for the one behind.
#[derive(Debug)]
pub(super) struct Turns {
    pub(super) room: Grant,
    pub(super) accepted: Grant,
    pub(super) file: Arc<OnceLock<Version>>,
}

fn turn(name: SegmentName) -> (Turns, Turn) {
    let ((room, has_room), (accepted, is_accepted)) = (leave(), leave());
    let file = Arc::default();
    let turn = Turn {
        name,
        room: has_room,
        accepted: is_accepted,
        file: Arc::clone(&file),
    };
    (Turns { room, accepted, file }, turn)
}

/// One copy of a file, of all that were brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy(u64);

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
    copy: Copy,
    turn: Turn,
}

/// Segments ahead of the archiver.
#[derive(Debug)]
pub(super) struct Table {
    /// Copies so far.
    copies: u64,
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
            copies: 0,
            current: None,
            next: BTreeSet::new(),
            begun: BTreeMap::new(),
            limit: 2,
        }
    }
}

impl Table {
    /// The archiver brings this one now: what is below has had its time. Gives leave for those that follow, to be given when
    /// the archive has this copy.
    pub(super) fn brought(&mut self, name: SegmentName) -> (Copy, Option<Forerunner>, Grant) {
        let forerunner = self.begun.remove(&name).map(|(forerunner, _)| forerunner);
        let (Turns { room, accepted, .. }, turn) = turn(name);
        room.give();
        self.copies += 1;
        let copy = Copy(self.copies);
        self.current = Some(Current { copy, turn });
        self.begun = self.begun.split_off(&name);
        self.next = self.next.split_off(&name);
        self.next.remove(&name);
        let forerunner = forerunner.filter(|forerunner| !forerunner.is_lost());
        (copy, forerunner, accepted)
    }

    /// The segment of this copy, if none was brought since.
    pub(super) fn brings(&self, copy: Copy) -> Option<SegmentName> {
        self.current(copy).map(|current| current.turn.name)
    }

    fn current(&self, copy: Copy) -> Option<&Current> {
        self.current.as_ref().filter(|current| current.copy == copy)
    }

    /// This copy is one of that file. Are more names wanted?
    pub(super) fn read_from(&self, copy: Copy, file: Version) -> bool {
        let current = self.current(copy);
        current.is_some_and(|current| current.turn.file.set(file).is_ok() && self.next.is_empty())
    }

    /// Has it been sent ahead, and nobody has brought it yet?
    pub(super) fn is_ahead(&self, name: SegmentName) -> bool {
        self.begun.contains_key(&name)
    }

    /// More segments that wait where this copy is from.
    pub(super) fn add_names(&mut self, copy: Copy, names: BTreeSet<SegmentName>) {
        let Some(current) = self.brings(copy) else { return };
        let begun = &self.begun;
        let new = |name: &SegmentName| *name > current && !begun.contains_key(name);
        self.next.extend(names.into_iter().filter(new));
    }

    /// The next one to begin, if there may be one more while this copy is brought.
    pub(super) fn begin(&mut self, copy: Copy, forerunner: Forerunner) -> Option<Next> {
        if self.begun.len() >= self.limit {
            return None;
        }
        let current = self.current(copy)?.turn.clone();
        let name = self.next.pop_first()?;
        let before = self.begun.range(..name).next_back();
        let before = before.map_or(current, |(_, (_, turn))| turn.clone());
        let (own, turn) = turn(name);
        self.begun.insert(name, (forerunner, turn));
        Some(Next { name, before, own })
    }

    /// Another server archives now, or what is there is not what was: nothing of before may follow.
    pub(super) fn begin_anew(&mut self) {
        self.begun.clear();
        self.next.clear();
    }

    /// It was not tried, for the archive did not have the one before it.
    pub(super) fn put_back(&mut self, name: SegmentName) {
        let is_wanted = self
            .current
            .as_ref()
            .is_some_and(|current| name > current.turn.name);
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
        let copy = Copy(table.copies);
        std::iter::from_fn(|| {
            let (promise, forerunner) = promise();
            Some((table.begin(copy, forerunner)?, promise))
        })
        .collect()
    }

    fn add(table: &mut Table, numbers: std::ops::Range<u32>) {
        table.add_names(Copy(table.copies), numbers.map(name).collect());
    }

    /// Brings one: what was sent of it, and leave for its followers.
    fn bring(table: &mut Table, number: u32) -> (Option<Forerunner>, Grant) {
        let (_, forerunner, followers) = table.brought(name(number));
        (forerunner, followers)
    }

    fn numbers(begun: &[(Next, Promise)]) -> Vec<u32> {
        begun.iter().map(|(next, _)| next.name.seg).collect()
    }

    /// W8: of a server whose segment is refused, none behind it is stored.
    #[tokio::test]
    async fn w8_each_waits_until_the_one_before_it_is_accepted() {
        let mut table = Table::default();
        let (_, followers) = bring(&mut table, 5);
        add(&mut table, 6..20);
        let mut begun = begin_all(&mut table).into_iter().map(|(next, _)| next);
        let (six, seven) = (begun.next().unwrap(), begun.next().unwrap());
        let waits = |turn: &Turn| {
            !turn.accepted.is_refused() && turn.accepted.clone().is_given().now_or_never().is_none()
        };
        assert!(waits(&six.before) && waits(&seven.before));
        followers.give();
        assert!(six.before.accepted.clone().is_given().await);
        assert!(waits(&seven.before));
        drop(six.own);
        assert!(!seven.before.accepted.is_given().await);
        table.put_back(name(7));
        assert_eq!(numbers(&begin_all(&mut table)), [7]);
        let (_, followers) = bring(&mut table, 8);
        add(&mut table, 9..20);
        let nine = begin_all(&mut table).remove(0).0;
        assert!(nine.before.room.is_given().await);
        drop(followers);
        assert!(!nine.before.accepted.is_given().await);
    }

    /// W8: of two servers that archive through one mount, none gets leave by the other's copy, nor follows it.
    #[tokio::test]
    async fn w8_a_copy_leads_its_own_followers_only() {
        let mut table = Table::default();
        let (first, _, of_first) = table.brought(name(5));
        let (second, _, of_second) = table.brought(name(5));
        assert_eq!((table.brings(first), table.brings(second)), (None, Some(name(5))));
        table.add_names(first, [name(7)].into());
        table.add_names(second, [name(6)].into());
        let (_promise, forerunner) = promise();
        assert!(table.begin(first, forerunner.clone()).is_none());
        let six = table.begin(second, forerunner).unwrap();
        of_first.give();
        assert!(six.before.accepted.clone().is_given().now_or_never().is_none());
        drop(of_second);
        assert!(!six.before.accepted.is_given().await);
    }

    #[test]
    fn the_archiver_is_followed() {
        let mut table = Table::default();
        assert!(bring(&mut table, 5).0.is_none());
        add(&mut table, 4..20);
        let begun = begin_all(&mut table);
        assert_eq!(numbers(&begun), [6, 7]);
        assert!(bring(&mut table, 6).0.is_some());
        assert!(!table.is_ahead(name(6)) && table.is_ahead(name(7)));
        // 7 and 8 were passed over.
        assert!(bring(&mut table, 9).0.is_none());
        assert!(!table.is_ahead(name(7)));
        assert_eq!(numbers(&begin_all(&mut table)), [10, 11]);
        // Another server, or one that began again.
        assert!(bring(&mut table, 1).0.is_none());
        assert!(table.is_ahead(name(10)));
    }

    #[test]
    fn what_failed_is_left_to_its_copier() {
        let mut table = Table::default();
        let _leave = bring(&mut table, 1);
        add(&mut table, 2..9);
        drop(begin_all(&mut table));
        add(&mut table, 2..9);
        assert!(begin_all(&mut table).is_empty(), "they are not tried again");
        assert!(bring(&mut table, 2).0.is_none());
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

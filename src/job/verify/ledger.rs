//! What was proved before, and what is after this run: ranges of keys, in the order of a listing.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::archive::verified::{CheckedRange, Checks, MOST_RANGES};
use crate::job::amount::Amount;
use crate::store::{Key, Meta};

/// Records of earlier runs about this place.
#[derive(Debug, Default)]
pub(super) struct Known {
    records: Vec<Vec<Counted>>,
}

/// A range, and how many objects a listing has shown in it that it may be about.
#[derive(Debug)]
struct Counted {
    range: CheckedRange,
    seen: u64,
}

/// Stored bytes of objects, by when they were proved; of those that never were under `None`.
pub(super) type Ages = BTreeMap<Option<Timestamp>, Amount>;

impl Known {
    /// What was proved in `place`. What claims to have been so later than `now` is not believed.
    pub(super) fn new(records: impl IntoIterator<Item = Checks>, place: &str, now: Timestamp) -> Self {
        let own = records.into_iter().filter(|checks| checks.place == place);
        let ranges = own.map(|checks| {
            let believed = checks.ranges.into_iter().filter(|range| range.at <= now);
            believed.map(|range| Counted { range, seen: 0 }).collect()
        });
        Self {
            records: ranges.collect(),
        }
    }

    /// Notes that an object is listed. All of a folder are noted before any is asked for: a range that has more objects than
    /// were proved is about none, because it is not known which.
    pub(super) fn note(&mut self, key: &Key, meta: &Meta) {
        for record in &mut self.records {
            if let Some(place) = place(record, key, meta) {
                record[place].seen += 1;
            }
        }
    }

    /// When an object was proved last.
    pub(super) fn at(&self, key: &Key, meta: &Meta) -> Option<Timestamp> {
        let found = self.records.iter().filter_map(|record| {
            let counted = &record[place(record, key, meta)?];
            (counted.seen <= counted.range.objects).then_some(counted.range.at)
        });
        found.max()
    }
}

fn place(record: &[Counted], key: &Key, meta: &Meta) -> Option<usize> {
    let key = key.as_str();
    let behind = record.partition_point(|counted| counted.range.from.as_str() <= key);
    let range = &record[..behind].last()?.range;
    (key <= range.to.as_str() && stored_at(meta) <= range.newest).then_some(behind - 1)
}

fn stored_at(meta: &Meta) -> Timestamp {
    let modified = meta.modified.max(SystemTime::UNIX_EPOCH);
    Timestamp::try_from(modified).unwrap_or(Timestamp::MAX)
}

/// Puts together what is known when a run has gone through all folders.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    ranges: Vec<CheckedRange>,
    /// Does the last range end with the object before?
    is_open: bool,
}

impl Ledger {
    /// The next object was proved, and was so by a run that began then.
    pub(super) fn proved(&mut self, key: &Key, meta: &Meta, at: Timestamp) {
        let (text, newest) = (key.as_str(), stored_at(meta));
        match self.ranges.last_mut() {
            Some(last) if self.is_open && last.at == at && folder(&last.to) == folder(text) => {
                text.clone_into(&mut last.to);
                last.objects += 1;
                last.bytes = last.bytes.saturating_add(meta.stored_bytes);
                last.newest = last.newest.max(newest);
            }
            _ => self.ranges.push(CheckedRange {
                at,
                from: text.to_owned(),
                to: text.to_owned(),
                objects: 1,
                bytes: meta.stored_bytes,
                newest,
            }),
        }
        self.is_open = true;
    }

    /// The next object never was.
    pub(super) fn unproved(&mut self) {
        self.is_open = false;
    }

    /// All of it, and no more than a record may have: what was proved longest ago will be so again.
    pub(super) fn ranges(&self) -> Vec<CheckedRange> {
        let mut ranges = self.ranges.clone();
        if ranges.len() > MOST_RANGES {
            ranges.sort_by_key(|range| std::cmp::Reverse(range.at));
            ranges.truncate(MOST_RANGES);
            ranges.sort_by(|one, other| one.from.cmp(&other.from));
        }
        ranges
    }
}

fn folder(key: &str) -> &str {
    key.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn meta(seconds: u64) -> Meta {
        Meta {
            stored_bytes: 10,
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        }
    }

    fn checks(ledger: &Ledger) -> Checks {
        Checks {
            place: "here".into(),
            ranges: ledger.ranges(),
            ..Checks::default()
        }
    }

    /// Objects `wal/0` to `wal/9`, stored in the seconds 10 to 19, but for the one that is damaged.
    fn ledger(run: i64, damaged: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for number in 0..10 {
            match number == damaged {
                true => ledger.unproved(),
                false => ledger.proved(&key(number), &meta(10 + number), at(run)),
            }
        }
        ledger
    }

    fn key(number: u64) -> Key {
        Key::new(format!("wal/{number}"))
    }

    #[test]
    fn what_was_proved_is_known_and_nothing_else() {
        let ledger = ledger(100, 4);
        assert_eq!(ledger.ranges().len(), 2);
        let mut known = Known::new([checks(&ledger)], "here", at(200));
        (0..10).for_each(|number| known.note(&key(number), &meta(10 + number)));
        for number in 0..10 {
            let expected = (number != 4).then(|| at(100));
            assert_eq!(known.at(&key(number), &meta(10 + number)), expected, "{number}");
        }
        // Stored since, although between two that were proved.
        assert_eq!(known.at(&Key::new("wal/15"), &meta(101)), None);
        for (place, now) in [("there", 200), ("here", 99)] {
            let known = Known::new([checks(&ledger)], place, at(now));
            assert_eq!(known.at(&key(0), &meta(10)), None, "{place} at {now}");
        }
    }

    /// One that came in the very second of the newest: which one it is cannot be told.
    #[test]
    fn a_range_with_more_objects_than_were_proved_is_about_none() {
        let mut known = Known::new([checks(&ledger(100, 4))], "here", at(200));
        (0..10).for_each(|number| known.note(&key(number), &meta(10 + number)));
        known.note(&Key::new("wal/15"), &meta(13));
        assert_eq!(known.at(&key(1), &meta(11)), None);
        assert_eq!(known.at(&key(5), &meta(15)), Some(at(100)));
    }

    #[test]
    fn of_two_runs_the_newer_one_counts() {
        let records = [checks(&ledger(100, 4)), checks(&ledger(150, 5))];
        let mut known = Known::new(records, "here", at(200));
        (0..10).for_each(|number| known.note(&key(number), &meta(10 + number)));
        let of = |number| known.at(&key(number), &meta(10 + number));
        assert_eq!(
            [of(3), of(4), of(5)],
            [Some(at(150)), Some(at(150)), Some(at(100))]
        );
    }
}

use super::*;
use crate::pg::history;

const SLOW: Duration = Duration::from_secs(100);

/// A reader's openings, a tenth of a second apart.
struct Reader {
    sequences: Sequences,
    now: Instant,
}

impl Reader {
    fn new() -> Self {
        Self {
            sequences: Sequences::default(),
            now: Instant::now(),
        }
    }

    /// What is fetched ahead, as timeline and number.
    fn reads(&mut self, timeline: u32, number: u64, fetch: Duration) -> Vec<(u32, u64)> {
        self.now += Duration::from_millis(100);
        let names = self
            .sequences
            .reads(name(timeline, number), size(), fetch, self.now);
        let pair = |name: &SegmentName| (name.timeline.0, name.number(size()));
        names.iter().map(pair).collect()
    }
}

fn size() -> SegmentSize {
    SegmentSize::new(16 << 20).unwrap()
}

fn name(timeline: u32, number: u64) -> SegmentName {
    SegmentName::from_number(Timeline(timeline), number, size()).unwrap()
}

fn row(numbers: std::ops::RangeInclusive<u64>) -> Vec<(u32, u64)> {
    numbers.map(|number| (1, number)).collect()
}

#[test]
fn one_ahead_at_first_then_four_times_as_many() {
    let mut reader = Reader::new();
    assert_eq!(reader.reads(1, 10, SLOW), row(11..=11));
    assert_eq!(reader.reads(1, 10, SLOW), row(11..=11));
    assert_eq!(reader.reads(1, 11, SLOW), row(12..=15));
    assert_eq!(reader.reads(1, 12, SLOW), row(13..=12 + MOST_AHEAD));
    assert_eq!(reader.reads(1, 13, SLOW), row(14..=13 + MOST_AHEAD));
}

#[test]
fn no_more_than_hide_the_time_of_a_fetch() {
    let mut reader = Reader::new();
    for number in 10..=20 {
        reader.reads(1, number, Duration::from_millis(250));
    }
    assert_eq!(reader.reads(1, 21, Duration::from_millis(250)), row(22..=25));
    assert_eq!(reader.reads(1, 22, Duration::from_millis(1)), row(23..=24));
}

/// Of a tenth of a second between two openings the reader has waited 90 ms: he needs ten himself.
#[test]
fn a_reader_who_waits_is_quicker_than_he_seems() {
    let mut reader = Reader::new();
    let fetch = Duration::from_millis(95);
    for number in 10..=20 {
        reader.reads(1, number, fetch);
        let waits = Duration::from_millis(90);
        reader.sequences.waited(name(1, number), size(), waits);
    }
    assert_eq!(reader.reads(1, 21, fetch), row(22..=32));
}

#[test]
fn any_order_never_goes_further_than_one() {
    let mut reader = Reader::new();
    for number in [50, 10, 40, 20, 30, 12, 60, 38, 21, 3] {
        assert_eq!(reader.reads(1, number, SLOW), row(number + 1..=number + 1));
    }
    // A segment left out is no sequence either.
    for number in (100..120).step_by(2) {
        assert_eq!(reader.reads(1, number, SLOW).len(), 1);
    }
}

#[test]
fn two_readers_do_not_disturb_each_other() {
    let mut reader = Reader::new();
    for step in 0..5 {
        reader.reads(1, 10 + step, SLOW);
        reader.reads(1, 1000 + step, SLOW);
    }
    assert_eq!(reader.reads(1, 15, SLOW).len(), 16);
    assert_eq!(reader.reads(1, 1005, SLOW).len(), 16);
}

#[test]
fn nothing_behind_a_missing_one_until_the_reader_is_there() {
    let mut reader = Reader::new();
    for number in 10..=13 {
        reader.reads(1, number, SLOW);
    }
    reader.sequences.was_absent(name(1, 18), size());
    reader.sequences.was_absent(name(1, 17), size());
    reader.sequences.was_absent(name(1, 19), size());
    assert_eq!(reader.reads(1, 14, SLOW), row(15..=16));
    assert_eq!(reader.reads(1, 15, SLOW), row(16..=16));
    // It may have come meanwhile; what is behind it waits for that.
    assert_eq!(reader.reads(1, 16, SLOW)[0], (1, 17));
    assert!(reader.reads(1, 17, SLOW).len() > 1);
}

#[test]
fn a_failure_begins_with_one_again() {
    let mut reader = Reader::new();
    for number in 10..=13 {
        reader.reads(1, number, SLOW);
    }
    reader.sequences.failed(name(1, 15), size());
    assert_eq!(reader.reads(1, 14, SLOW), row(15..=18));
}

/// Timeline 2 begins in segment 13, timeline 5 in segment 15.
#[test]
fn the_timeline_changes_where_the_history_says() {
    let text = "1\t0/D000100\tx\n2\t0/F000000\ty\n";
    let ancestors = history::parse(text.as_bytes(), Timeline(5)).unwrap();
    let mut reader = Reader::new();
    reader.sequences.learn(Timeline(5), &ancestors);
    assert_eq!(reader.reads(1, 10, SLOW), [(1, 11)]);
    assert_eq!(reader.reads(1, 11, SLOW), [(1, 12), (2, 13), (2, 14), (5, 15)]);
    assert_eq!(reader.reads(1, 12, SLOW)[..3], [(2, 13), (2, 14), (5, 15)]);
    assert_eq!(reader.reads(2, 13, SLOW).len(), 16);
    // Never back to an older one than the reader has come to.
    assert_eq!(reader.reads(7, 14, SLOW)[0], (7, 15));
}

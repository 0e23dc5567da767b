//! Who reads segments in order, and which he will want next: pure.
//!
//! PostgreSQL asks for one segment after the other, and changes the timeline where the history of the newest one that
//! it has read says so. One segment ahead costs little if it is not wanted; each one that was wanted allows four times as
//! many, up to what it takes to hide the time of a fetch behind what the reader himself needs for a segment.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::pg::history::HistoryEntry;
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline};

/// Readers told apart.
const READERS: usize = 4;

/// Most segments ahead of one reader. Memory may allow fewer.
pub(super) const MOST_AHEAD: u64 = 16;

/// The readers, the latest first, and the timelines.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    recent: VecDeque<Sequence>,
    /// The timelines of the latest history that was read, oldest first, and where each begins.
    timelines: Vec<(Timeline, Lsn)>,
}

/// One reader.
#[derive(Debug)]
struct Sequence {
    last: SegmentName,
    opened: Instant,
    /// How long the reader has waited for bytes since then.
    waited: Duration,
    ahead: u64,
    /// Nothing is fetched from here on until the reader comes near: it was not there. Whoever asks for it himself is
    /// answered by the store.
    ends: Option<SegmentName>,
}

impl Sequences {
    /// A segment is read from its start: which ones to fetch ahead, nearest first. `fetch`: how long one usually takes.
    pub(super) fn reads(
        &mut self,
        segment: SegmentName,
        size: SegmentSize,
        fetch: Duration,
        now: Instant,
    ) -> Vec<SegmentName> {
        let mut sequence = self.take(segment, size, now);
        sequence.go_to(segment, size, fetch, now);
        let wanted = self.ahead_of(&sequence, size);
        self.recent.push_front(sequence);
        self.recent.truncate(READERS);
        wanted
    }

    /// The reader whose next segment, or one soon to come, this may be; or a new one.
    fn take(&mut self, segment: SegmentName, size: SegmentSize, now: Instant) -> Sequence {
        let place = self.recent.iter().position(|one| one.leads_to(segment, size));
        place
            .and_then(|place| self.recent.remove(place))
            .unwrap_or(Sequence {
                last: segment,
                opened: now,
                waited: Duration::ZERO,
                ahead: 1,
                ends: None,
            })
    }

    fn ahead_of(&self, sequence: &Sequence, size: SegmentSize) -> Vec<SegmentName> {
        let mut wanted = Vec::new();
        let mut last = sequence.last;
        for distance in 1..=sequence.ahead {
            let Some(next) = self.successor(last, size) else {
                break;
            };
            // The nearest is asked for again each time: it may have come meanwhile.
            if distance > 1 && sequence.ends == Some(next) {
                break;
            }
            wanted.push(next);
            last = next;
        }
        wanted
    }

    /// What a reader of `segment` is likely to want next.
    fn successor(&self, segment: SegmentName, size: SegmentSize) -> Option<SegmentName> {
        let next = segment.next(size)?;
        let begun = |(_, begin): &&(Timeline, Lsn)| begin.0 / size.bytes() <= next.number(size);
        let timeline = self.timelines.iter().rev().find(begun);
        let timeline = timeline.map_or(segment.timeline, |(timeline, _)| *timeline);
        Some(SegmentName {
            timeline: timeline.max(segment.timeline),
            ..next
        })
    }

    /// A reader was given the history of a timeline.
    pub(super) fn learn(&mut self, own: Timeline, ancestors: &[HistoryEntry]) {
        let first = ancestors.first().map(|first| (first.timeline, Lsn(0)));
        let children = ancestors.iter().skip(1).map(|entry| entry.timeline).chain([own]);
        let begins = ancestors.iter().map(|entry| entry.end);
        self.timelines = first.into_iter().chain(children.zip(begins)).collect();
    }

    /// A reader had to wait for a segment.
    pub(super) fn waited(&mut self, segment: SegmentName, size: SegmentSize, time: Duration) {
        if let Some(sequence) = self.near(segment, size).next() {
            sequence.waited += time;
        }
    }

    /// A segment was not there.
    pub(super) fn was_absent(&mut self, segment: SegmentName, size: SegmentSize) {
        for sequence in self.near(segment, size) {
            sequence.ends = Some(match sequence.ends {
                Some(ends) if ends.number(size) < segment.number(size) => ends,
                _ => segment,
            });
        }
    }

    /// A segment could not be fetched: no more than one at a time until it goes better.
    pub(super) fn failed(&mut self, segment: SegmentName, size: SegmentSize) {
        self.near(segment, size).for_each(|sequence| sequence.ahead = 1);
    }

    fn near(&mut self, segment: SegmentName, size: SegmentSize) -> impl Iterator<Item = &mut Sequence> {
        self.recent
            .iter_mut()
            .filter(move |sequence| sequence.leads_to(segment, size))
    }
}

impl Sequence {
    /// Is it the last one again, on the same or a later timeline, or one of those that may be on their way?
    fn leads_to(&self, segment: SegmentName, size: SegmentSize) -> bool {
        let last = self.last.number(size);
        segment.timeline >= self.last.timeline
            && (last..=last + self.ahead.max(1)).contains(&segment.number(size))
    }

    fn go_to(&mut self, segment: SegmentName, size: SegmentSize, fetch: Duration, now: Instant) {
        if segment == self.last {
            return;
        }
        let steps = segment.number(size) - self.last.number(size);
        if steps == 1 {
            let between = now.duration_since(self.opened);
            let own = between.saturating_sub(self.waited).max(Duration::from_millis(1));
            let hides = 1 + fetch.as_micros().div_ceil(own.as_micros()) as u64;
            self.ahead = (4 * self.ahead).min(hides).min(MOST_AHEAD);
        } else if steps > 1 {
            self.ahead = 1;
        }
        if self
            .ends
            .is_some_and(|ends| ends.number(size) <= segment.number(size))
        {
            self.ends = None;
        }
        (self.last, self.opened, self.waited) = (segment, now, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests;

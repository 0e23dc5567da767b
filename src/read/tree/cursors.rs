//! Who reads in order, and how far ahead of him to fetch: pure.
//!
//! A reader is known by where he reads: in the frame that he was in, or the next one, of the same part. So it does not
//! matter by how many opened files he comes (small files lie one behind the other in a part), and readers at different
//! places do not disturb each other. Who comes from nowhere gets the frame that he asked for and nothing else.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Readers remembered.
const READERS: usize = 64;

/// Frames fetched by one request, after so many steps forward in a row: 256 KiB, 256 KiB, 1 MiB, then 4 MiB.
const WINDOWS: [u64; 4] = [1, 1, 4, 16];

/// Steps after which he reads in order.
const IN_ORDER: usize = 2;

/// Who asks for so many frames at once reads in order: a copier, for whom the kernel reads ahead.
const LONG: u64 = WINDOWS[IN_ORDER];

/// A reader, and how much has been asked of the store for him.
#[derive(Debug)]
struct Cursor {
    part: Arc<str>,
    /// The frame after the last one he was given.
    next: u64,
    /// The frame up to which fetches have begun.
    ahead: u64,
    /// Steps forward in a row.
    steps: usize,
    /// Has it been said that he reads this part in order?
    said: bool,
    /// Has he not been here yet?
    is_awaited: bool,
}

/// Where a reader will go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Frames to fetch for him.
    Fetch(Range<u64>),
    /// They are under way, and he has not come yet.
    Awaited,
    /// He reads there as well, as who reads a later backup does: its pages lie between those of earlier ones.
    Read,
}

/// What to fetch for a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Frames to fetch together, from the first one that is missing on.
    pub(super) window: u64,
    /// Frames to fetch in the background.
    pub(super) ahead: Range<u64>,
    /// Does he read in order?
    pub(super) in_order: bool,
    /// The same, the first time that it is said of this part.
    pub(super) settles: bool,
    /// Is it known that he reads in order, and all of this part is under way? Then it may go on in another one.
    pub(super) done: bool,
}

/// The readers of the last moments, the latest last.
#[derive(Debug, Default)]
pub(super) struct Cursors(VecDeque<Cursor>);

impl Cursors {
    /// Somebody reads these frames (never none) of a part that has `frames`, in a read of so many frames in all.
    pub(super) fn read(&mut self, part: &Arc<str>, asked: Range<u64>, frames: u64, in_all: u64) -> Plan {
        let mut cursor = self.take(part, asked.start).unwrap_or(Cursor {
            part: part.clone(),
            next: 0,
            ahead: 0,
            steps: if in_all < LONG { 0 } else { IN_ORDER },
            said: false,
            is_awaited: false,
        });
        let plan = cursor.step(asked, frames);
        self.put(cursor);
        plan
    }

    /// A reader in order will go on at `frame` of another part.
    pub(super) fn go_on(&mut self, part: &Arc<str>, frame: u64, frames: u64) -> Next {
        if let Some(cursor) = self.0.iter().find(|cursor| cursor.is_near(part, frame)) {
            return match cursor.is_awaited {
                true => Next::Awaited,
                false => Next::Read,
            };
        }
        let ahead = frames.min(frame + WINDOWS[WINDOWS.len() - 1]);
        self.put(Cursor {
            part: part.clone(),
            next: frame,
            ahead,
            steps: WINDOWS.len() - 1,
            said: false,
            is_awaited: true,
        });
        Next::Fetch(frame..ahead)
    }

    /// Is somebody reading this part?
    pub(super) fn reads(&self, part: &str) -> bool {
        let mut here = self.0.iter().filter(|cursor| *cursor.part == *part);
        here.any(|cursor| !cursor.is_awaited)
    }

    fn take(&mut self, part: &Arc<str>, frame: u64) -> Option<Cursor> {
        let place = self.0.iter().position(|cursor| cursor.is_near(part, frame))?;
        self.0.remove(place)
    }

    fn put(&mut self, cursor: Cursor) {
        if self.0.len() == READERS {
            self.0.pop_front();
        }
        self.0.push_back(cursor);
    }
}

impl Cursor {
    /// Requests of the kernel may overtake each other, so the frame before the last one counts as well.
    fn is_near(&self, part: &Arc<str>, frame: u64) -> bool {
        self.part == *part && (self.next.saturating_sub(2)..=self.next).contains(&frame)
    }

    fn step(&mut self, asked: Range<u64>, frames: u64) -> Plan {
        let is_new = self.ahead == 0;
        self.is_awaited = false;
        let went_on = asked.end > self.next && !is_new;
        self.steps += usize::from(went_on);
        let window = WINDOWS[self.steps.min(WINDOWS.len() - 1)].max(asked.end - asked.start);
        self.next = self.next.max(asked.end);
        let mut ahead = 0..0;
        if asked.end > self.ahead {
            self.ahead = frames.min(asked.start + window);
        } else if went_on && self.steps >= IN_ORDER && self.ahead - self.next < window {
            ahead = self.ahead..frames.min(self.ahead + window);
            self.ahead = ahead.end;
        }
        let in_order = self.steps >= IN_ORDER;
        Plan {
            window,
            ahead,
            in_order,
            settles: in_order && !std::mem::replace(&mut self.said, in_order),
            done: in_order && self.ahead == frames,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: u64 = 128;

    fn part() -> Arc<str> {
        "trees/x/000000.00000.tar.lz4".into()
    }

    /// Every fetch of a reader who asks for one frame after the other: demanded, and in the background.
    fn fetches(cursors: &mut Cursors, frames: Range<u64>) -> Vec<Range<u64>> {
        let mut have = 0;
        let mut fetches = Vec::new();
        for frame in frames {
            let plan = cursors.read(&part(), frame..frame + 1, FRAMES, 1);
            if frame >= have {
                fetches.push(frame..FRAMES.min(frame + plan.window));
                have = frame + plan.window;
            }
            if !plan.ahead.is_empty() {
                assert_eq!(plan.ahead.start, have);
                have = plan.ahead.end;
                fetches.push(plan.ahead);
            }
        }
        fetches
    }

    #[test]
    fn reading_in_order_takes_few_requests() {
        let fetches = fetches(&mut Cursors::default(), 0..FRAMES);
        assert_eq!(fetches[..4], [0..1, 1..2, 2..6, 6..22]);
        assert_eq!(fetches.len(), 11, "{fetches:?}");
        assert_eq!(fetches.last().unwrap().end, FRAMES);
    }

    #[test]
    fn reading_at_random_takes_what_is_asked_for() {
        let mut cursors = Cursors::default();
        for frame in [100, 3, 77, 50, 9, 120, 64] {
            let plan = cursors.read(&part(), frame..frame + 1, FRAMES, 1);
            assert_eq!((plan.window, plan.ahead.is_empty()), (1, true), "frame {frame}");
        }
    }

    #[test]
    fn who_asks_for_much_at_once_reads_in_order() {
        let mut cursors = Cursors::default();
        let plan = cursors.read(&part(), 0..LONG, FRAMES, LONG);
        assert_eq!((plan.window, plan.in_order, plan.settles), (LONG, true, true));
        let plan = cursors.read(&part(), LONG..2 * LONG, FRAMES, LONG);
        assert_eq!((plan.window, plan.in_order, plan.settles), (16, true, false));
    }

    #[test]
    fn readers_do_not_disturb_each_other() {
        let mut cursors = Cursors::default();
        for step in 0..20 {
            for place in [0, 40, 80] {
                let frame = place + step;
                let plan = cursors.read(&part(), frame..frame + 1, FRAMES, 1);
                assert_eq!(plan.window, WINDOWS[(step as usize).min(3)]);
            }
        }
        assert_eq!(cursors.0.len(), 3);
    }

    #[test]
    fn a_reader_goes_on_in_the_next_part() {
        let mut cursors = Cursors::default();
        let next: Arc<str> = "trees/x/000000.00001.tar.lz4".into();
        let done = (0..FRAMES).find(|&frame| cursors.read(&part(), frame..frame + 1, FRAMES, 1).done);
        assert!(done.is_some_and(|frame| frame < FRAMES - 1), "{done:?}");
        assert_eq!(cursors.go_on(&next, 0, FRAMES), Next::Fetch(0..16));
        assert_eq!(cursors.go_on(&next, 0, FRAMES), Next::Awaited);
        assert!(cursors.reads(&part()) && !cursors.reads(&next));
        assert_eq!(cursors.read(&next, 0..1, FRAMES, 1).ahead, 16..32);
        assert_eq!(cursors.go_on(&next, 1, FRAMES), Next::Read);
        assert!(cursors.reads(&next));
    }

    #[test]
    fn memory_is_bounded() {
        let mut cursors = Cursors::default();
        for frame in (0..10_000).step_by(10) {
            cursors.read(&part(), frame..frame + 1, 10_000, 1);
        }
        assert_eq!(cursors.0.len(), READERS);
    }
}

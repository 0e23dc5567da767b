//! Pages that come piece by piece, and how their records lead from one to the next.

use super::super::Lsn;
use super::super::record::Head;
use super::walk::{Stop, Walked, walk};

/// Goes through pages piece by piece, and shows each record, also those that go on from one piece to the next. In no order.
#[derive(Debug)]
pub struct Walks<V> {
    visit: V,
    last: Option<Walked>,
    ended: bool,
}

impl<V: FnMut(Lsn, Head<'_>)> Walks<V> {
    /// Shows records to `visit`.
    pub fn new(visit: V) -> Self {
        Self {
            visit,
            last: None,
            ended: false,
        }
    }

    /// The next piece.
    pub fn go_on(&mut self, piece: &[u8]) {
        if self.ended {
            return;
        }
        let Some(mut walked) = walk(piece, &mut self.visit) else {
            self.ended = true;
            return;
        };
        let across = self.last.as_ref().and_then(|last| last.across(&walked));
        if let Some((at, bytes)) = across
            && let Some(head) = Head::new(&bytes)
        {
            (self.visit)(at, head);
        }
        // All of the piece may be some more of a record that began before.
        if let Some(before) = self.last.take()
            && walked.first.is_none()
            && !walked.beginning.ends
        {
            let mut both = before;
            if both.push(&walked) {
                walked = both;
            }
        }
        self.ended = walked.stop != Stop::Window;
        self.last = Some(walked);
    }
}

/// Proves the records of pages that come piece by piece, each of whole pages, as far as they lead from one to the next.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    whole: Option<Walked>,
    begun: bool,
}

impl Chain {
    /// The next piece.
    pub fn go_on(&mut self, piece: &[u8]) {
        let next = || walk(piece, |_, _| {});
        match &mut self.whole {
            None if !self.begun => self.whole = next(),
            Some(whole) if whole.stop == Stop::Window => match next() {
                Some(next) => drop(whole.push(&next)),
                None => whole.stop = Stop::Unknown,
            },
            _ => {}
        }
        self.begun = true;
    }

    /// The pages; `None` if they are no WAL that is known.
    pub fn into_walked(self) -> Option<Walked> {
        self.whole
    }

    /// Where recovery ends, if that is before the pages do and not with a switch.
    pub fn ended(&self) -> Option<Ended> {
        let whole = self.whole.as_ref()?;
        let (reaches, is_damaged) = match whole.stop {
            Stop::Broken(to) => (Some(to), true),
            Stop::Cut(to) => (Some(to), false),
            _ => (None, false),
        };
        Some(Ended {
            at: whole.ends_early()?,
            reaches,
            is_damaged,
        })
    }
}

/// Where the records end that lead from one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Behind the last one that is right.
    pub at: Lsn,
    /// Up to where the one there would reach, if one begins there.
    pub reaches: Option<Lsn>,
    /// Is only its CRC wrong?
    pub is_damaged: bool,
}

impl Ended {
    /// Is there more behind it, where the pages are their own up to a position? A record that reaches further is one that was being
    /// written.
    pub fn is_followed(&self, own_end: Lsn, block_bytes: u64) -> bool {
        match self.reaches {
            Some(to) if self.is_damaged => to.0.next_multiple_of(block_bytes) < own_end.0,
            Some(to) if to > own_end => false,
            _ => self.at.0.next_multiple_of(block_bytes) < own_end.0,
        }
    }
}

//! What the records of some pages of WAL say, without their bodies: which transactions ended when, restore points,
//! checkpoints, the blocks touched.
//!
//! One is made of each frame of a segment while that is packed, in whatever order the frames come, and those of a segment
//! are joined to the segment's, which lies in its object ([`annex`](WalIndex::to_annex)). Only headers are read; that each record
//! names the one before, and each page its place, tells WAL from what an older segment has left, and its CRC whether all of it is
//! what was written: there recovery ends, and the index says so. Of a record
//! across the end of a segment both sides know the CRC of their bytes.
//!
//! An index covers the records that begin and end in its pages. Of one that begins before them, or goes on behind them, it
//! has as many bytes as anything is read of: so where two indexes of pages that follow each other are at hand, the record
//! across is known ([`WalIndex::take_across`]).
//!
//! It is a hint. What cannot be read as WAL of a known version, in pages of 8 KiB, has none, or one that says that it ends
//! early.

mod annex;
mod chain;
mod crc;
mod facts;
mod touched;
mod walk;

use std::ops::Deref;

use super::record::{HEAD_BYTES, Head};
use super::{Lsn, SegmentSize, Timeline};
use touched::Collector;

pub use annex::MOST_BYTES;
pub use chain::{Chain, Ended, Walks};
pub use crc::Crc;
pub use facts::{CheckpointAt, Ends, Facts, Moment, RecoveryEnd, RestorePoint, Xids};
pub use touched::{Blocks, Touched};
use walk::walk;
pub use walk::{Beginning, Stop, Tail, Walked};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalIndex {
    /// What the pages say, and where their records begin and end.
    pub walked: Walked,
    /// What the records say that begin and end here.
    pub facts: Facts,
    /// The blocks that they touch, as sets that add up.
    blocks: Vec<Box<[u8]>>,
    /// Are these all of them?
    all_blocks: bool,
    /// The record that was taken in from across the end: where it begins, and its first bytes.
    across: Option<(Lsn, Box<[u8]>)>,
}

/// The record that lies across the end of some pages.
struct Across {
    at: Lsn,
    facts: Facts,
    blocks: Option<Box<[u8]>>,
    all_blocks: bool,
}

impl WalIndex {
    /// Of pages that begin with one; `None` if that is not WAL that is known.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let (mut facts, mut collector, mut all) = (Facts::default(), Collector::default(), true);
        let magic = walk::magic(bytes)?;
        let walked = walk(bytes, |at, head| {
            facts.take(at, head);
            all &= head.blocks(magic, |relation, block| collector.add(relation, block));
        })?;
        let blocks = collector.encoded();
        all &= blocks.is_some();
        Some(Self {
            walked,
            facts,
            blocks: blocks.into_iter().filter(|blocks| !blocks.is_empty()).collect(),
            all_blocks: all,
            across: None,
        })
    }

    /// Of all pages of a segment of so many bytes, by those of its parts, in order; `None` if it does not begin with WAL that
    /// is known.
    pub fn join<'a>(parts: impl IntoIterator<Item = Option<&'a Self>>, segment_bytes: u64) -> Option<Self> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next().flatten()?.clone();
        let is_segment =
            SegmentSize::new(segment_bytes).is_ok() && whole.walked.start.0.is_multiple_of(segment_bytes);
        if !is_segment {
            return None;
        }
        for part in parts {
            if whole.walked.stop != Stop::Window {
                break;
            }
            match part {
                Some(part) => whole.push(part),
                None => whole.walked.stop = Stop::Unknown,
            }
        }
        whole.walked.bytes = u32::try_from(segment_bytes).ok()?;
        Some(whole)
    }

    /// The annex of a segment whose frames take so many bytes in the store, by those of its frames; empty if it has no index.
    pub fn annex_of<I: Deref<Target = Self>>(
        parts: &[Option<I>],
        segment_bytes: u64,
        frames_bytes: u64,
    ) -> Vec<u8> {
        // Also of one that tells only where its WAL ends.
        let whole = Self::join(parts.iter().map(|part| part.as_deref()), segment_bytes);
        whole.map_or_else(Vec::new, |whole| whole.to_annex(frames_bytes))
    }

    fn push(&mut self, next: &Self) {
        let across = self.across(&next.walked);
        if !self.walked.push(&next.walked) {
            return;
        }
        if let Some(across) = across {
            self.add(across);
        }
        self.facts.add(next.facts.clone());
        self.blocks.extend_from_slice(&next.blocks);
        self.all_blocks &= next.all_blocks;
    }

    /// Takes in the record that begins here and ends in the pages that follow.
    pub fn take_across(&mut self, next: &Walked) {
        if let Some(across) = self.across(next) {
            let bytes = self.walked.across(next).map(|(at, bytes)| (at, bytes.into()));
            (self.walked.last, self.walked.tail, self.across) = (Some(across.at), None, bytes);
            self.add(across);
        }
    }

    fn add(&mut self, across: Across) {
        self.facts.add(across.facts);
        self.blocks.extend(across.blocks);
        self.all_blocks &= across.all_blocks;
    }

    fn across(&self, next: &Walked) -> Option<Across> {
        let (at, bytes) = self.walked.across(next)?;
        let head = Head::new(&bytes)?;
        let (mut facts, mut collector) = (Facts::default(), Collector::default());
        facts.take(at, head);
        let all = head.blocks(self.walked.magic, |relation, block| {
            collector.add(relation, block)
        });
        let blocks = collector.encoded();
        Some(Across {
            at,
            facts,
            all_blocks: all && blocks.is_some(),
            blocks: blocks.filter(|blocks| !blocks.is_empty()),
        })
    }

    /// The record that was taken in from across the end: where it begins, and its first bytes.
    pub fn taken(&self) -> Option<(Lsn, Head<'_>)> {
        let (at, bytes) = self.across.as_ref()?;
        Some((*at, Head::new(bytes)?))
    }

    /// Is all that is in the pages known, up to where their WAL ends?
    pub fn is_whole(&self) -> bool {
        matches!(self.walked.stop, Stop::Window | Stop::Wal)
    }

    /// The blocks touched, and whether these are all.
    pub fn blocks(&self) -> (Blocks, bool) {
        let all = self.all_blocks && self.is_whole();
        (Blocks::of(&self.blocks), all)
    }

    /// Forgets the blocks.
    pub fn without_blocks(&mut self) {
        self.all_blocks &= self.blocks.is_empty();
        self.blocks = Vec::new();
    }

    /// The timelines of the first page and of the last that has records.
    pub fn timelines(&self) -> (Timeline, Timeline) {
        self.walked.timelines
    }

    /// Bytes of memory that it takes, beside itself.
    pub fn held_bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(|blocks| blocks.len()).sum();
        blocks + self.walked.held_bytes() + self.facts.held_bytes()
    }
}

const _: () = assert!(HEAD_BYTES < walk::PAGE_BYTES - 40);

#[cfg(test)]
mod tests;

//! The index of a segment as it lies in its object. `docs/format.md` has every byte.
//!
//! A header of 48 bytes, then sections: what kind (u8), how many bytes (u16), and these. Positions are told by their distance
//! from the segment's beginning. All that is read here is somebody's claim (promise S8).

use jiff::Timestamp;

use super::super::record::{Checkpoint, EndOfRecovery, moment, since_2000};
use super::super::{Lsn, PageHeader, Timeline};
use super::facts::{MOST_POINTS, MOST_RECOVERIES};
use super::{
    Beginning, CheckpointAt, Crc, Ends, Facts, Moment, RecoveryEnd, RestorePoint, Stop, Tail, WalIndex,
    Walked, Xids, touched,
};

/// No index is longer, in bytes.
pub const MOST_BYTES: usize = 48 << 10;

/// An index with blocks is no more than this part of what the segment's content takes in the store.
const PART: u64 = 100;

const KIND: &[u8; 4] = b"wali";

const HEADER_BYTES: usize = 48;

/// No position.
const NONE: u32 = u32::MAX;

/// Flags: the WAL ends before the segment, what is behind the last record is unknown, not all points are told, not all
/// blocks, one ended that had been prepared; the segment begins behind a record that was given up.
const ENDS: u16 = 1;

const UNKNOWN: u16 = 2;

const NOT_ALL_POINTS: u16 = 4;

const NOT_ALL_BLOCKS: u16 = 8;

const PREPARED: u16 = 16;

const OVERWRITES: u16 = 32;

mod section {
    pub(super) const COMMITS: u8 = 1;
    pub(super) const ABORTS: u8 = 2;
    pub(super) const XIDS: u8 = 3;
    pub(super) const RESTORE_POINT: u8 = 4;
    pub(super) const CHECKPOINT: u8 = 5;
    pub(super) const RECOVERY: u8 = 6;
    pub(super) const BEGINNING: u8 = 7;
    pub(super) const TAIL: u8 = 8;
    pub(super) const BLOCKS: u8 = 9;
}

/// Takes bytes in order; `None` where there are too few.
struct Taker<'a>(&'a [u8]);

impl Taker<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Timestamp> {
        moment(i64::from_le_bytes(self.take()?))
    }
}

/// Where the segment begins, and how long it is.
#[derive(Clone, Copy)]
struct Place {
    start: Lsn,
    bytes: u32,
}

impl Place {
    fn offset(self, at: Lsn) -> [u8; 4] {
        ((at.0 - self.start.0) as u32).to_le_bytes()
    }

    fn offset_or_none(self, at: Option<Lsn>) -> [u8; 4] {
        at.map_or(NONE.to_le_bytes(), |at| self.offset(at))
    }

    /// `None` for what is not in the segment.
    fn at(self, offset: u32) -> Option<Lsn> {
        let at = self.start.0.checked_add(offset.into())?;
        (offset <= self.bytes).then_some(Lsn(at))
    }

    fn at_or_none(self, offset: u32) -> Option<Option<Lsn>> {
        match offset {
            NONE => Some(None),
            offset => self.at(offset).map(Some),
        }
    }

    fn moment(self, moment: Moment) -> Vec<u8> {
        [
            &self.offset(moment.at)[..],
            &since_2000(moment.time).to_le_bytes(),
        ]
        .concat()
    }

    fn read_moment(self, taker: &mut Taker<'_>) -> Option<Moment> {
        Some(Moment {
            at: self.at(taker.u32()?)?,
            time: taker.time()?,
        })
    }

    fn ends(self, ends: Ends) -> Vec<u8> {
        [ends.first, ends.last, ends.earliest, ends.latest]
            .map(|moment| self.moment(moment))
            .concat()
    }

    fn read_ends(self, taker: &mut Taker<'_>) -> Option<Ends> {
        Some(Ends {
            first: self.read_moment(taker)?,
            last: self.read_moment(taker)?,
            earliest: self.read_moment(taker)?,
            latest: self.read_moment(taker)?,
        })
    }
}

impl WalIndex {
    /// As it goes into the object of a segment whose frames take so many bytes there. Blocks are told as closely as 1 % of
    /// that allows.
    pub fn to_annex(&self, frames_bytes: u64) -> Vec<u8> {
        let mut annex = self.facts_only();
        let most = (frames_bytes / PART).min(MOST_BYTES as u64) as usize;
        let (blocks, all) = self.blocks();
        let room = most.saturating_sub(annex.len() + 3).min(u16::MAX.into());
        let joined = blocks.joined(room);
        if let Some(blocks) = &joined {
            put(&mut annex, section::BLOCKS, blocks);
        }
        if !all || joined.is_none() && !self.blocks.is_empty() {
            annex[6] |= NOT_ALL_BLOCKS as u8;
        }
        annex
    }

    fn facts_only(&self) -> Vec<u8> {
        let (walked, facts) = (&self.walked, &self.facts);
        let place = Place {
            start: walked.start,
            bytes: walked.bytes,
        };
        let flag = |is: bool, flag: u16| if is { flag } else { 0 };
        let flags = flag(walked.stop == Stop::Wal, ENDS)
            | flag(
                matches!(walked.stop, Stop::Unknown | Stop::Cut(_) | Stop::Broken(_)),
                UNKNOWN,
            )
            | flag(!facts.all, NOT_ALL_POINTS)
            | flag(facts.prepared, PREPARED)
            | flag(walked.beginning.overwrites, OVERWRITES);
        let mut annex = [
            &KIND[..],
            &walked.magic.to_le_bytes(),
            &flags.to_le_bytes(),
            &walked.start.0.to_le_bytes(),
            &walked.bytes.to_le_bytes(),
            &walked.timelines.0.0.to_le_bytes(),
            &walked.timelines.1.0.to_le_bytes(),
            &place.offset_or_none(walked.first),
            &place.offset_or_none(walked.last),
            &place.offset(walked.end),
            &[0; 8],
        ]
        .concat();
        debug_assert_eq!(annex.len(), HEADER_BYTES);
        if let Some(commits) = facts.commits {
            put(&mut annex, section::COMMITS, &place.ends(commits));
        }
        if let Some(aborts) = facts.aborts {
            put(&mut annex, section::ABORTS, &place.ends(aborts));
        }
        if let Some(Xids { lowest, span }) = facts.xids {
            let content = [lowest.to_le_bytes(), span.to_le_bytes()].concat();
            put(&mut annex, section::XIDS, &content);
        }
        for point in &facts.restore_points {
            let content = [&place.moment(point.moment)[..], point.name.as_bytes()].concat();
            put(&mut annex, section::RESTORE_POINT, &content);
        }
        for CheckpointAt {
            at,
            checkpoint,
            shutdown,
        } in &facts.checkpoints
        {
            let content = [
                &place.offset(*at)[..],
                &checkpoint.time.as_second().to_le_bytes(),
                &checkpoint.redo.0.to_le_bytes(),
                &checkpoint.timeline.0.to_le_bytes(),
                &[u8::from(!shutdown)],
            ]
            .concat();
            put(&mut annex, section::CHECKPOINT, &content);
        }
        for RecoveryEnd { at, end } in &facts.recoveries {
            let moment = place.moment(Moment {
                at: *at,
                time: end.time,
            });
            let content = [
                &moment[..],
                &end.timeline.0.to_le_bytes(),
                &end.previous.0.to_le_bytes(),
            ]
            .concat();
            put(&mut annex, section::RECOVERY, &content);
        }
        let Beginning {
            bytes,
            here,
            head,
            ends,
            given_up,
            crc,
            overwrites: _,
        } = &walked.beginning;
        if *bytes > 0 {
            let content = [
                &bytes.to_le_bytes()[..],
                &here.to_le_bytes(),
                &[u8::from(*ends) | u8::from(*given_up) << 1],
                &crc.0.to_le_bytes(),
                head,
            ]
            .concat();
            put(&mut annex, section::BEGINNING, &content);
        }
        if let Some(Tail {
            at,
            length,
            here,
            head,
            crc,
        }) = &walked.tail
        {
            let content = [
                &place.offset(*at)[..],
                &length.to_le_bytes(),
                &here.to_le_bytes(),
                &crc.0.to_le_bytes(),
                head,
            ]
            .concat();
            put(&mut annex, section::TAIL, &content);
        }
        annex
    }

    /// The index in the annex of the segment that begins at a position and has so many bytes; `None` if it has none, or one
    /// that cannot be this segment's.
    pub fn from_annex(annex: &[u8], start: Lsn, bytes: u64) -> Option<Self> {
        if annex.len() > MOST_BYTES {
            return None;
        }
        let mut header = Taker(annex);
        let (kind, magic, flags) = (header.take::<4>()?, header.u16()?, header.u16()?);
        let (found_start, found_bytes) = (Lsn(header.u64()?), header.u32()?);
        let is_right = kind == *KIND
            && PageHeader::is_known(magic)
            && (found_start, u64::from(found_bytes)) == (start, bytes);
        if !is_right {
            return None;
        }
        let place = Place {
            start,
            bytes: found_bytes,
        };
        let timelines = (Timeline(header.u32()?), Timeline(header.u32()?));
        let first = place.at_or_none(header.u32()?)?;
        let last = place.at_or_none(header.u32()?)?;
        let end = place.at(header.u32()?)?;
        header.take::<8>()?;
        let mut index = Self {
            walked: Walked {
                magic,
                start,
                bytes: found_bytes,
                timelines,
                beginning: Beginning {
                    overwrites: flags & OVERWRITES != 0,
                    ..Beginning::default()
                },
                first,
                last,
                end,
                tail: None,
                stop: match flags {
                    flags if flags & UNKNOWN != 0 => Stop::Unknown,
                    flags if flags & ENDS != 0 => Stop::Wal,
                    _ => Stop::Window,
                },
            },
            facts: Facts {
                prepared: flags & PREPARED != 0,
                all: flags & NOT_ALL_POINTS == 0,
                ..Facts::default()
            },
            blocks: Vec::new(),
            all_blocks: flags & NOT_ALL_BLOCKS == 0,
            across: None,
        };
        let mut left = header.0;
        while let Some((kind, rest)) = left.split_first() {
            let (length, rest) = rest.split_first_chunk()?;
            let (content, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
            index.take_section(*kind, place, content)?;
            left = rest;
        }
        Some(index)
    }

    fn take_section(&mut self, kind: u8, place: Place, content: &[u8]) -> Option<()> {
        let mut taker = Taker(content);
        let facts = &mut self.facts;
        match kind {
            section::COMMITS => facts.commits = Some(place.read_ends(&mut taker)?),
            section::ABORTS => facts.aborts = Some(place.read_ends(&mut taker)?),
            section::XIDS => {
                let (lowest, span) = (taker.u32()?, taker.u32()?);
                facts.xids = Some(Xids { lowest, span });
            }
            section::RESTORE_POINT if facts.restore_points.len() < MOST_POINTS => {
                let moment = place.read_moment(&mut taker)?;
                let name = String::from_utf8_lossy(taker.0.get(..taker.0.len().min(256))?).into_owned();
                facts.restore_points.push(RestorePoint { moment, name });
            }
            section::CHECKPOINT if facts.checkpoints.len() < MOST_POINTS => {
                let at = place.at(taker.u32()?)?;
                let time = Timestamp::from_second(i64::from_le_bytes(taker.take()?)).ok()?;
                let (redo, timeline) = (Lsn(taker.u64()?), Timeline(taker.u32()?));
                facts.checkpoints.push(CheckpointAt {
                    at,
                    checkpoint: Checkpoint { redo, timeline, time },
                    shutdown: taker.u8()? == 0,
                });
            }
            section::RECOVERY if facts.recoveries.len() < MOST_RECOVERIES => {
                let Moment { at, time } = place.read_moment(&mut taker)?;
                let (timeline, previous) = (Timeline(taker.u32()?), Timeline(taker.u32()?));
                let end = EndOfRecovery {
                    time,
                    timeline,
                    previous,
                };
                facts.recoveries.push(RecoveryEnd { at, end });
            }
            section::BEGINNING => {
                let (bytes, here, flags) = (taker.u32()?, taker.u32()?, taker.u8()?);
                let crc = Crc(taker.u32()?);
                let is_right = here <= bytes && taker.0.len() <= here as usize;
                self.walked.beginning = Beginning {
                    bytes,
                    here,
                    head: taker.0.into(),
                    ends: flags & 1 != 0,
                    given_up: flags & 2 != 0,
                    overwrites: self.walked.beginning.overwrites,
                    crc,
                };
                return is_right.then_some(());
            }
            section::TAIL => {
                let (at, length, here) = (place.at(taker.u32()?)?, taker.u32()?, taker.u32()?);
                let crc = Crc(taker.u32()?);
                let head = taker.0.into();
                let is_right = here < length && taker.0.len() <= here as usize;
                self.walked.tail = Some(Tail {
                    at,
                    length,
                    here,
                    head,
                    crc,
                });
                return is_right.then_some(());
            }
            section::BLOCKS => {
                touched::read(content)?;
                self.blocks.push(content.into());
            }
            // Of a later version, or too many.
            _ => {}
        }
        Some(())
    }
}

fn put(annex: &mut Vec<u8>, kind: u8, content: &[u8]) {
    annex.push(kind);
    annex.extend_from_slice(&(content.len() as u16).to_le_bytes());
    annex.extend_from_slice(content);
}

//! Records of the WAL (`xlogrecord.h`, `xlogreader.c`), as far as somebody must know what a segment still says.
//!
//! ```text
//!  0  u32  length of the record, with this header of 24 bytes
//!  4  u32  transaction
//!  8  u64  position of the record before
//! 16  u8   what kind, of its resource manager
//! 17  u8   resource manager
//! 20  u32  CRC-32C of all behind this header, then of the header up to here
//! ```
//! A record begins at a multiple of 8 and runs over pages; each page begins with a header of 24 bytes, the first of a
//! segment with one of 40, which says how much of a record from before is left. This is the same in PostgreSQL 13 to 18.
//! Only little-endian WAL is read. A window is bytes that somebody has read already: its lengths bound everything here.

use std::fmt;

use jiff::Timestamp;

use head::HEADER_BYTES;
pub use head::{EndOfRecovery, Ended, HEAD_BYTES, Head, RelationFork, moment, since_2000};

use super::control::Limits;
use super::{Lsn, PageHeader, Timeline};

mod head;

const PAGE_HEADER_BYTES: usize = 24;

const LONG_PAGE_HEADER_BYTES: usize = 40;

/// `XLP_FIRST_IS_CONTRECORD`; below, `XLP_LONG_HEADER`.
const CONTINUES: u16 = 0x0001;

const LONG: u16 = 0x0002;

/// What is read here of the record of a checkpoint (`CheckPoint` of `pg_control.h`), of which `pg_control` has a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// From where recovery replays.
    pub redo: Lsn,
    /// The timeline.
    pub timeline: Timeline,
    /// When it began, to the second.
    pub time: Timestamp,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { redo, timeline, time } = self;
        write!(
            out,
            "of {time} on timeline {timeline} that is replayed from {redo}"
        )
    }
}

/// Pages of WAL that follow each other.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    magic: u16,
    block_bytes: usize,
    start: Lsn,
    bytes: &'a [u8],
}

/// What is at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A whole record, and its CRC is right.
    Record(Record),
    /// One that runs on behind the window, or the position lies there.
    Beyond,
    /// None: zeros, what an older segment has left, or damage.
    Nothing,
}

/// A record whose CRC is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub at: Lsn,
    /// Where the next one may begin.
    pub next: Lsn,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    /// Bytes that begin on a page, at `start`; `header` is that of their segment.
    pub fn new(header: &PageHeader, start: Lsn, bytes: &'a [u8]) -> Self {
        Self {
            magic: header.magic,
            block_bytes: header.block_bytes as usize,
            start,
            bytes,
        }
    }

    /// The record that begins at a position.
    pub fn record_at(&self, at: Lsn) -> Found {
        match self.read(at) {
            Ok(record) => Found::Record(record),
            Err(found) => found,
        }
    }

    /// Where the first record begins, behind what is left of one from before the window.
    pub fn first(&self) -> Option<Lsn> {
        let rest = self.u32_at(16)? as usize;
        let continues = self.info(0)? & CONTINUES != 0;
        let end = match continues {
            true => self.gather(0, rest, rest).ok()?.1,
            false => 0,
        };
        Some(Lsn(self.start.0 + end.next_multiple_of(8) as u64))
    }

    /// Where a record from before the window ends at the earliest, by what its first page says is left of it: it need not be in
    /// the window. `None` if none goes on there, or that is no page.
    pub fn goes_on_to(&self) -> Option<Lsn> {
        let rest = self.u32_at(16)? as usize;
        let header = self.page(0, rest).ok()?;
        let end = (header + rest).next_multiple_of(8) as u64;
        (rest > 0).then(|| Lsn(self.start.0.saturating_add(end)))
    }

    /// The records from a position on, up to the first that is not whole.
    pub fn records(self, from: Lsn) -> impl Iterator<Item = Record> + use<'a> {
        let read = move |at| self.read(at).ok();
        std::iter::successors(read(from), move |record| read(record.next))
    }

    /// Where the record before begins, by what is at a position, whole or not.
    pub fn before(&self, at: Lsn) -> Option<Lsn> {
        let begin = self.begin(at).ok()?;
        u64_of(self.bytes, begin + 8).map(Lsn)
    }

    /// How long what begins at a position says that it is, whole or not.
    pub fn length(&self, at: Lsn) -> Option<u32> {
        let begin = self.begin(at).ok()?;
        self.u32_at(begin)
    }

    /// The offset of a record: at the beginning of a page it is behind the page's header.
    fn begin(&self, at: Lsn) -> Result<usize, Found> {
        let offset = at.0.checked_sub(self.start.0).ok_or(Found::Nothing)? as usize;
        Ok(match offset % self.block_bytes {
            0 => offset + self.page(offset, 0)?,
            _ => offset,
        })
    }

    fn read(&self, at: Lsn) -> Result<Record, Found> {
        let begin = self.begin(at)?;
        let length = self.u32_at(begin).ok_or(Found::Beyond)? as usize;
        if length < HEADER_BYTES || begin % 8 != 0 {
            return Err(Found::Nothing);
        }
        let (bytes, end) = self.gather(begin, length, 0)?;
        let expected = u32_of(&bytes, 20);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[HEADER_BYTES..]), &bytes[..20]);
        if expected != Some(crc) {
            return Err(Found::Nothing);
        }
        let next = Lsn(self.start.0 + end.next_multiple_of(8) as u64);
        Ok(Record { at, next, bytes })
    }

    /// So many bytes from an offset on, without the page headers between; and the offset behind them. `rest` is what the
    /// page at the offset says is left of the record, if it begins there.
    fn gather(&self, offset: usize, length: usize, rest: usize) -> Result<(Vec<u8>, usize), Found> {
        let mut gathered = Vec::with_capacity(length.min(self.bytes.len()));
        let mut at = offset;
        if rest > 0 {
            at += self.page(at, rest)?;
        }
        while gathered.len() < length {
            let left = length - gathered.len();
            if at.is_multiple_of(self.block_bytes) {
                at += self.page(at, left)?;
            }
            let here = left.min(self.block_bytes - at % self.block_bytes);
            gathered.extend_from_slice(self.bytes.get(at..at + here).ok_or(Found::Beyond)?);
            at += here;
        }
        Ok((gathered, at))
    }

    /// Length of a page's header, if it is this place's and has so much left of a record.
    fn page(&self, at: usize, left: usize) -> Result<usize, Found> {
        let header = self.bytes.get(at..at + PAGE_HEADER_BYTES).ok_or(Found::Beyond)?;
        let address = header[8..]
            .first_chunk()
            .map(|address| u64::from_le_bytes(*address));
        let info = self.info(at).ok_or(Found::Beyond)?;
        let rest = match info & CONTINUES {
            0 => Some(0),
            _ => u32_of(header, 16),
        };
        let right = header[..2] == self.magic.to_le_bytes()
            && address == Some(self.start.0 + at as u64)
            && rest == u32::try_from(left).ok();
        match (right, info & LONG) {
            (false, _) => Err(Found::Nothing),
            (true, 0) => Ok(PAGE_HEADER_BYTES),
            (true, _) => Ok(LONG_PAGE_HEADER_BYTES),
        }
    }

    fn info(&self, at: usize) -> Option<u16> {
        u16_of(self.bytes, at + 2)
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        u32_of(self.bytes, at)
    }
}

fn u16_of(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at + 2)?;
    field.try_into().ok().map(u16::from_le_bytes)
}

fn u32_of(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    field.try_into().ok().map(u32::from_le_bytes)
}

fn u64_of(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at + 8)?;
    field.try_into().ok().map(u64::from_le_bytes)
}

impl Record {
    /// When the transaction ended, if it is the record of that.
    pub fn ended(&self) -> Option<Timestamp> {
        self.head().ended().map(|ended| ended.time)
    }

    /// The settings that a server in recovery needs from here on, if they change here.
    pub fn limits(&self) -> Option<Limits> {
        self.head().limits()
    }

    /// If it is that of a checkpoint.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.head().checkpoint()
    }

    /// Where the backup began that ends here, if it is the record of that.
    pub fn backup_end(&self) -> Option<Lsn> {
        self.head().backup_end()
    }

    /// Is it the switch to the next segment?
    pub fn is_switch(&self) -> bool {
        self.head().is_switch()
    }

    /// What it says of itself.
    pub fn head(&self) -> Head<'_> {
        Head::new(&self.bytes).expect("its header was read")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::head::XACT;
    use super::*;
    use crate::pg::SystemId;

    pub(in crate::pg) const BLOCK: usize = 8192;
    pub(in crate::pg) const START: Lsn = Lsn(0x300_0000);

    pub(in crate::pg) fn header() -> PageHeader {
        PageHeader {
            magic: 0xD110,
            info: LONG,
            timeline: Timeline(1),
            page_address: START,
            system_id: SystemId(1),
            segment_bytes: 1 << 20,
            block_bytes: BLOCK as u32,
        }
    }

    /// A commit of 2000-01-01 00:00:01, with so many bytes behind it.
    pub(in crate::pg) fn commit(more: usize) -> Vec<u8> {
        let main = [&1_000_000_i64.to_le_bytes()[..], &vec![7; more]].concat();
        record((XACT, 0), &main)
    }

    pub(in crate::pg) fn record((manager, kind): (u8, u8), main: &[u8]) -> Vec<u8> {
        let mut record = vec![0; HEADER_BYTES];
        record.push(254);
        record.extend((main.len() as u32).to_le_bytes());
        record.extend(main);
        let length = record.len() as u32;
        record[..4].copy_from_slice(&length.to_le_bytes());
        (record[16], record[17]) = (kind, manager);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[HEADER_BYTES..]), &record[..20]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        record
    }

    /// Pages with these records, one behind the other.
    pub(in crate::pg) fn pages(count: usize, records: &[Vec<u8>]) -> Vec<u8> {
        let mut pages = vec![0; count * BLOCK];
        let mut at = 0;
        let begin = |pages: &mut Vec<u8>, at: &mut usize, left: usize| {
            if (*at).is_multiple_of(BLOCK) {
                let long = *at == 0;
                let info = u16::from(left > 0) * CONTINUES + u16::from(long) * LONG;
                pages[*at..*at + 2].copy_from_slice(&0xD110_u16.to_le_bytes());
                pages[*at + 2..*at + 4].copy_from_slice(&info.to_le_bytes());
                pages[*at + 8..*at + 16].copy_from_slice(&(START.0 + *at as u64).to_le_bytes());
                pages[*at + 16..*at + 20].copy_from_slice(&(left as u32).to_le_bytes());
                *at += if long {
                    LONG_PAGE_HEADER_BYTES
                } else {
                    PAGE_HEADER_BYTES
                };
            }
        };
        for record in records {
            for (done, byte) in record.iter().enumerate() {
                let left = if done == 0 { 0 } else { record.len() - done };
                begin(&mut pages, &mut at, left);
                pages[at] = *byte;
                at += 1;
            }
            at = at.next_multiple_of(8);
        }
        pages
    }

    #[test]
    fn records_are_read_over_pages() {
        let bytes = pages(5, &[commit(100), commit(20_000), commit(1)]);
        let window = Window::new(&header(), START, &bytes);
        assert_eq!(window.first(), Some(START));
        let found: Vec<Record> = window.records(START).collect();
        assert_eq!(found.len(), 3);
        let second: Timestamp = "2000-01-01T00:00:01Z".parse().unwrap();
        assert!(found.iter().all(|record| record.ended() == Some(second)));
        assert_eq!(window.record_at(found[2].next), Found::Nothing);
        // From its second page on: what is left of the second record is passed.
        let later = Window::new(&header(), Lsn(START.0 + BLOCK as u64), &bytes[BLOCK..]);
        assert_eq!(later.first(), Some(found[2].at));
    }

    #[test]
    fn what_is_no_record() {
        let mut bytes = pages(5, &[commit(100), commit(20_000)]);
        let at = Window::new(&header(), START, &bytes)
            .records(START)
            .next()
            .unwrap()
            .next;
        let look = |bytes: &[u8], at: Lsn| Window::new(&header(), START, bytes).record_at(at);
        assert!(matches!(look(&bytes, at), Found::Record(_)));
        assert_eq!(look(&bytes[..2 * BLOCK], at), Found::Beyond);
        assert_eq!(look(&bytes, Lsn(START.0 + 5 * BLOCK as u64)), Found::Beyond);
        assert_eq!(look(&bytes, Lsn(START.0 - 8)), Found::Nothing);
        assert_eq!(look(&bytes, Lsn(at.0 + 8)), Found::Nothing);
        bytes[BLOCK + 1000] ^= 1;
        assert_eq!(look(&bytes, at), Found::Nothing);
        bytes[BLOCK + 1000] ^= 1;
        bytes[BLOCK + 9] ^= 1;
        assert_eq!(look(&bytes, at), Found::Nothing, "a page of another place");
        assert_eq!(look(&[], START), Found::Beyond);
    }

    #[test]
    fn a_length_is_a_claim() {
        let mut bytes = pages(1, &[commit(100)]);
        let at = LONG_PAGE_HEADER_BYTES;
        for length in [0, 23, u32::MAX] {
            bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
            let found = Window::new(&header(), START, &bytes).record_at(START);
            assert!(!matches!(found, Found::Record(_)), "{length}");
        }
    }
}

//! From record to record, by their headers.

use super::super::record::{HEAD_BYTES, Head};
use super::super::{Lsn, PageHeader, Timeline};
use super::crc::Crc;

/// Length of a page (`XLOG_BLCKSZ`): a window does not say it. Others are hardly ever built, and have no index.
pub(super) const PAGE_BYTES: usize = 8192;

const HEADER_BYTES: usize = 24;

const LONG_HEADER_BYTES: usize = 40;

/// Length of a record's header (`SizeOfXLogRecord`), of which the last four bytes are the CRC.
pub(super) const RECORD_HEADER_BYTES: usize = 24;

/// `XLP_ALL_FLAGS`: of these there is no other.
const ALL_FLAGS: u16 = 15;

/// `XLP_FIRST_IS_CONTRECORD`, `XLP_LONG_HEADER`, `XLP_FIRST_IS_OVERWRITE_CONTRECORD`.
const CONTINUES: u16 = 1;

const LONG: u16 = 2;

const OVERWRITES: u16 = 8;

/// Why a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// At the end of the pages.
    Window,
    /// At the end of the WAL in them: a switch to the next segment, or zeros.
    Wal,
    /// At what is no WAL, or none that is known.
    Unknown,
    /// In a record of which pages are missing. It would end at this position.
    Cut(Lsn),
    /// At a record of which bytes are not what was written: its CRC says so, and recovery ends there. It would end at this
    /// position.
    Broken(Lsn),
}

/// What the pages say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// `XLOG_PAGE_MAGIC`.
    pub magic: u16,
    /// Where they begin.
    pub start: Lsn,
    /// How many bytes they are.
    pub bytes: u32,
    /// The timelines of the first page and of the last that was looked at.
    pub timelines: (Timeline, Timeline),
    /// What is left of a record from before.
    pub beginning: Beginning,
    /// Where the first record begins that does so here.
    pub first: Option<Lsn>,
    /// Where the last record begins that begins and ends here, or ends here at least.
    pub last: Option<Lsn>,
    /// Behind the last record that ends here.
    pub end: Lsn,
    /// The record that goes on behind the pages.
    pub tail: Option<Tail>,
    /// Why there is no more.
    pub stop: Stop,
}

/// What is left, at the beginning of pages, of a record from before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beginning {
    /// How many bytes; 0 if none goes on here.
    pub bytes: u32,
    /// How many of them are in the pages.
    pub here: u32,
    /// The first of them, [`HEAD_BYTES`] at most.
    pub head: Box<[u8]>,
    /// CRC-32C of all that are in the pages.
    pub crc: Crc,
    /// Does it end in these pages?
    pub ends: bool,
    /// Was a record before given up (`XLOG_OVERWRITE_CONTRECORD`)?
    pub overwrites: bool,
    /// ... on a later one of these pages?
    pub given_up: bool,
}

/// A record that goes on behind the pages in which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Where it begins.
    pub at: Lsn,
    /// Its length, in bytes.
    pub length: u32,
    /// How many of them are in the pages.
    pub here: u32,
    /// The first of them, [`HEAD_BYTES`] at most.
    pub head: Box<[u8]>,
    /// CRC-32C of those behind its header.
    pub crc: Crc,
}

#[derive(Debug, Clone, Copy)]
struct Page {
    header_bytes: usize,
    timeline: Timeline,
    continues: bool,
    overwrites: bool,
    rest: u32,
}

/// The magic of the first page, if it is one of a version that is known.
pub(super) fn magic(bytes: &[u8]) -> Option<u16> {
    let magic = u16::from_le_bytes(*bytes.first_chunk()?);
    PageHeader::is_known(magic).then_some(magic)
}

/// Goes through pages that begin with one, and shows each record that begins and ends in them: where it begins, and as
/// much of it as lies in one piece, or its first bytes. `None` if the first is no page that is known.
pub(super) fn walk(bytes: &[u8], mut visit: impl FnMut(Lsn, Head<'_>)) -> Option<Walked> {
    let magic = magic(bytes)?;
    let start = Lsn(u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?));
    if !start.0.is_multiple_of(PAGE_BYTES as u64) {
        return None;
    }
    let pages = Pages::new(magic, start, bytes);
    let page = pages.page(0)?;
    let mut walked = Walked {
        magic,
        start,
        bytes: u32::try_from(bytes.len()).ok()?,
        timelines: (page.timeline, page.timeline),
        beginning: Beginning {
            overwrites: page.overwrites,
            ..Beginning::default()
        },
        first: None,
        last: None,
        end: start,
        tail: None,
        stop: Stop::Window,
    };
    let mut at = page.header_bytes;
    if page.continues {
        let (rest, from) = (page.rest as usize, at);
        let mut head = Vec::new();
        let here = pages.gather(from, rest, &mut head);
        let crc = pages.crc(from, rest, 0);
        let end = skip(from, rest);
        let given_up = pages.given_up(from, end);
        let ends = end.is_some_and(|end| end <= bytes.len());
        walked.beginning = Beginning {
            bytes: page.rest,
            here,
            head: head.into(),
            crc,
            ends,
            overwrites: page.overwrites,
            given_up: given_up.is_some(),
        };
        match end.filter(|_| ends) {
            _ if given_up.is_some() => {
                walked.beginning.ends = false;
                at = given_up.unwrap_or(at);
            }
            Some(end) if pages.leads(from, rest, end) => {
                walked.end = pages.lsn(end);
                at = end.next_multiple_of(8);
            }
            Some(end) => {
                walked.stop = Stop::Cut(pages.lsn(end));
                walked.beginning.ends = false;
                return Some(walked);
            }
            None => {
                if !pages.run_on(from, rest) {
                    walked.stop = Stop::Cut(end.map_or(Lsn(u64::MAX), |end| pages.lsn(end)));
                }
                return Some(walked);
            }
        }
    }
    pages.records(at, &mut walked, &mut visit);
    Some(walked)
}

#[derive(Clone, Copy)]
struct Pages<'a> {
    magic: u16,
    start: Lsn,
    bytes: &'a [u8],
    /// Up to here each page is that of its place, on no lower timeline than the one before.
    own_bytes: usize,
}

impl<'a> Pages<'a> {
    fn new(magic: u16, start: Lsn, bytes: &'a [u8]) -> Self {
        let mut pages = Self {
            magic,
            start,
            bytes,
            own_bytes: bytes.len(),
        };
        let mut timeline = Timeline(0);
        for at in (0..bytes.len()).step_by(PAGE_BYTES) {
            match pages.page(at).filter(|page| page.timeline >= timeline) {
                Some(page) => timeline = page.timeline,
                None => {
                    pages.own_bytes = at;
                    break;
                }
            }
        }
        pages
    }

    fn records(self, mut at: usize, walked: &mut Walked, visit: &mut impl FnMut(Lsn, Head<'_>)) {
        let bytes = self.bytes;
        let mut before: Option<Lsn> = None;
        let mut scratch = Vec::with_capacity(HEAD_BYTES);
        loop {
            if at.is_multiple_of(PAGE_BYTES) {
                if at + HEADER_BYTES > bytes.len() {
                    return;
                }
                match self.page(at) {
                    Some(page) if !page.continues => {
                        walked.timelines.1 = page.timeline;
                        at += page.header_bytes;
                    }
                    _ => {
                        walked.stop = self.no_page(at);
                        return;
                    }
                }
            }
            let Some(length) = u32_at(bytes, at) else {
                return;
            };
            if length < HEADER_BYTES as u32 {
                walked.stop = if length == 0 { Stop::Wal } else { Stop::Unknown };
                return;
            }
            let (lsn, bytes_of_it) = (self.lsn(at), length as usize);
            let next = at - at % PAGE_BYTES + PAGE_BYTES;
            // It was never written to its end, and given up.
            if let Some(page) = self.given_up(at, skip(at, bytes_of_it)) {
                (at, before) = (page, None);
                continue;
            }
            if at + bytes_of_it > next && next + HEADER_BYTES <= bytes.len() {
                match self.page(next) {
                    Some(page) if page.continues && page.rest as usize == bytes_of_it - (next - at) => {
                        walked.timelines.1 = page.timeline;
                    }
                    _ => {
                        walked.stop = self.no_page(next);
                        return;
                    }
                }
            }
            let end = skip(at, bytes_of_it).filter(|end| *end <= bytes.len());
            let Some(end) = end else {
                scratch.clear();
                let here = self.gather(at, bytes_of_it, &mut scratch);
                if is_behind(&scratch, before) && self.run_on(at, bytes_of_it) {
                    walked.first = walked.first.or(Some(lsn));
                    walked.tail = Some(Tail {
                        at: lsn,
                        length,
                        here,
                        head: scratch.as_slice().into(),
                        crc: self.crc(at, bytes_of_it, RECORD_HEADER_BYTES),
                    });
                } else {
                    walked.stop = match is_behind(&scratch, before) {
                        true => Stop::Cut(skip(at, bytes_of_it).map_or(Lsn(u64::MAX), |end| self.lsn(end))),
                        false => Stop::Unknown,
                    };
                }
                return;
            };
            let record = if end - at == bytes_of_it {
                &bytes[at..end]
            } else if self.leads(at, bytes_of_it, end) {
                scratch.clear();
                self.gather(at, bytes_of_it, &mut scratch);
                if Head::new(&scratch).is_some_and(Head::needs_all) {
                    scratch.clear();
                    self.gather_most(at, bytes_of_it, &mut scratch, bytes_of_it);
                }
                &scratch
            } else {
                walked.stop = Stop::Cut(self.lsn(end));
                return;
            };
            let head = match Head::new(record) {
                Some(head) if before.is_none_or(|before| head.before() == before) => head,
                _ => {
                    walked.stop = Stop::Unknown;
                    return;
                }
            };
            if self.crc(at, bytes_of_it, RECORD_HEADER_BYTES).contradicts(record) {
                walked.stop = Stop::Broken(self.lsn(end));
                return;
            }
            walked.first = walked.first.or(Some(lsn));
            (walked.last, walked.end) = (Some(lsn), self.lsn(end));
            visit(lsn, head);
            if head.is_switch() {
                walked.stop = Stop::Wal;
                return;
            }
            (before, at) = (Some(lsn), end.next_multiple_of(8));
        }
    }

    /// The page at which a record was given up that begins at an offset and would end at another: all before it go on with it.
    fn given_up(self, at: usize, end: Option<usize>) -> Option<usize> {
        let first = at - at % PAGE_BYTES + PAGE_BYTES;
        let end = end.unwrap_or(usize::MAX).min(self.bytes.len());
        for place in (first..end).step_by(PAGE_BYTES) {
            let page = self.page(place)?;
            if !page.continues {
                return page.overwrites.then_some(place);
            }
        }
        None
    }

    fn lsn(self, at: usize) -> Lsn {
        Lsn(self.start.0.wrapping_add(at as u64))
    }

    /// The page's header, if it is that of this place.
    fn page(self, at: usize) -> Option<Page> {
        let header = self.bytes.get(at..at + HEADER_BYTES)?;
        let magic = u16::from_le_bytes(*header.first_chunk()?);
        let info = u16::from_le_bytes(*header[2..].first_chunk()?);
        let address = u64::from_le_bytes(*header[8..].first_chunk()?);
        let is_right =
            at < self.own_bytes && magic == self.magic && address == self.lsn(at).0 && info & !ALL_FLAGS == 0;
        is_right.then_some(Page {
            header_bytes: match info & LONG {
                0 => HEADER_BYTES,
                _ => LONG_HEADER_BYTES,
            },
            timeline: Timeline(u32_at(header, 4)?),
            continues: info & CONTINUES != 0,
            overwrites: info & OVERWRITES != 0,
            rest: u32_at(header, 16)?,
        })
    }

    /// Zeros where a page should be: the WAL ends before.
    fn no_page(self, at: usize) -> Stop {
        let found = self.bytes.get(at..at + HEADER_BYTES);
        match found.is_some_and(|header| header.iter().all(|byte| *byte == 0)) {
            true => Stop::Wal,
            false => Stop::Unknown,
        }
    }

    /// Do all pages behind that of an offset go on with these bytes, which begin there?
    fn run_on(self, at: usize, bytes: usize) -> bool {
        self.leads(at, bytes, self.bytes.len().saturating_sub(HEADER_BYTES - 1))
    }

    /// Do the pages behind that of an offset, which begin before another, go on with these bytes, which begin there? Recovery looks
    /// at each: it says how many are left, and only the first of a segment has a long header.
    fn leads(self, at: usize, bytes: usize, end: usize) -> bool {
        let first = at - at % PAGE_BYTES + PAGE_BYTES;
        let mut passed = first - at;
        (first..end).step_by(PAGE_BYTES).all(|place| {
            let Some(page) = self.page(place).filter(|page| page.continues) else {
                return false;
            };
            let is_right =
                bytes.checked_sub(passed) == Some(page.rest as usize) && page.header_bytes == HEADER_BYTES;
            passed += PAGE_BYTES - page.header_bytes;
            is_right
        })
    }

    /// The first bytes of a record or of what is left of one, without the headers of pages; up to so many, and how many are
    /// here of `bytes`.
    fn gather(self, at: usize, bytes: usize, into: &mut Vec<u8>) -> u32 {
        self.gather_most(at, bytes, into, HEAD_BYTES)
    }

    fn gather_most(self, at: usize, bytes: usize, into: &mut Vec<u8>, most: usize) -> u32 {
        let mut here = 0;
        self.pieces(at, bytes, |piece| {
            here += piece.len();
            let kept = piece.len().min(most - into.len().min(most));
            into.extend_from_slice(&piece[..kept]);
        });
        here as u32
    }

    /// CRC-32C of what is here of a record or of the rest of one, but for the first bytes of it.
    fn crc(self, at: usize, bytes: usize, without: usize) -> Crc {
        let (mut crc, mut skipped) = (0, 0);
        self.pieces(at, bytes, |piece| {
            let more = piece.len().min(without - skipped);
            skipped += more;
            crc = crc32c::crc32c_append(crc, &piece[more..]);
        });
        Crc(crc)
    }

    /// The pieces that are here of so many bytes from an offset on, without the headers of pages.
    fn pieces(self, mut at: usize, bytes: usize, mut take: impl FnMut(&[u8])) {
        let mut left = bytes;
        while left > 0 && at < self.bytes.len() {
            if at.is_multiple_of(PAGE_BYTES) {
                at += HEADER_BYTES;
            }
            let room = (PAGE_BYTES - at % PAGE_BYTES).min(self.bytes.len().saturating_sub(at));
            let here = left.min(room);
            take(self.bytes.get(at..at + here).unwrap_or_default());
            (at, left) = (at + here, left - here);
        }
    }
}

/// As far as that is at hand.
fn is_behind(head: &[u8], before: Option<Lsn>) -> bool {
    match (Head::new(head), before) {
        (Some(head), Some(before)) => head.before() == before,
        _ => true,
    }
}

/// The offset behind so many bytes of a record, from an offset in a page on. No page in between is the first of a segment.
fn skip(at: usize, bytes: usize) -> Option<usize> {
    const BODY: usize = PAGE_BYTES - HEADER_BYTES;
    let room = PAGE_BYTES - at % PAGE_BYTES;
    if bytes <= room {
        return at.checked_add(bytes);
    }
    let left = bytes - room;
    let pages = (left - 1) / BODY;
    let next = at - at % PAGE_BYTES + PAGE_BYTES;
    next.checked_add(pages.checked_mul(PAGE_BYTES)?)?
        .checked_add(HEADER_BYTES + left - pages * BODY)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Walked {
    /// The pages that follow; false if they do not follow these.
    pub fn push(&mut self, next: &Self) -> bool {
        let follows = self.magic == next.magic
            && self.start.0.checked_add(self.bytes.into()) == Some(next.start.0)
            && self.timelines.1 <= next.timelines.0;
        // All of these pages are some more of what they began with.
        let passes = self.beginning.bytes > 0 && !self.beginning.ends && !self.beginning.given_up;
        let left = match &self.tail {
            Some(tail) => tail.length - tail.here,
            None if passes => self.beginning.bytes - self.beginning.here,
            None => 0,
        };
        let goes_on = left == next.beginning.bytes || left > 0 && next.beginning.overwrites;
        let bytes = self.bytes.checked_add(next.bytes);
        let (true, true, Some(bytes)) = (follows, goes_on, bytes) else {
            self.stop = Stop::Unknown;
            return false;
        };
        self.bytes = bytes;
        self.timelines.1 = next.timelines.1;
        self.first = self.first.or(next.first);
        self.stop = next.stop;
        let (goes_on, ends) = (next.beginning.bytes > 0, next.beginning.ends);
        let given_up = next.beginning.given_up;
        match self.tail.take() {
            Some(_) if given_up => {}
            None if passes && given_up => self.beginning.given_up = true,
            Some(tail) if goes_on && !ends => self.tail = Some(tail.longer(&next.beginning)),
            Some(tail) if goes_on => {
                let whole = tail.longer(&next.beginning);
                if whole.crc.contradicts(&whole.head) {
                    self.stop = Stop::Broken(next.beginning_end());
                    return false;
                }
                (self.last, self.end) = (Some(whole.at), next.end);
            }
            None if passes && goes_on => {
                let here = next.beginning.here as usize;
                self.beginning.crc = self.beginning.crc.and(next.beginning.crc, here);
                self.beginning.here += next.beginning.here;
                self.beginning.ends = ends;
                self.end = next.end;
            }
            _ => {}
        }
        if next.last.is_some() {
            (self.last, self.end) = (next.last, next.end);
        }
        if next.tail.is_some() {
            self.tail.clone_from(&next.tail);
        }
        true
    }

    /// These and the pages that follow; `None` if recovery does not go on there, because they do not follow these, or the record
    /// that lies across is not what was written.
    pub fn leads_to(mut self, next: &Self) -> Option<Self> {
        self.push(next).then_some(self)
    }

    /// The record that begins here and ends in the pages that follow, as far as it is at hand.
    pub fn across(&self, next: &Self) -> Option<(Lsn, Vec<u8>)> {
        let tail = self.tail.as_ref()?;
        let follows = self.start.0.checked_add(self.bytes.into()) == Some(next.start.0)
            && tail.length - tail.here == next.beginning.bytes
            && next.beginning.ends;
        let mut bytes = [&tail.head[..], &next.beginning.head].concat();
        if (tail.here as usize) > tail.head.len() {
            bytes.truncate(tail.head.len());
        }
        follows.then_some((tail.at, bytes))
    }

    /// Where the records end, if that is before the pages do and not with the record of a switch, which alone is no more than a
    /// header.
    pub fn ends_early(&self) -> Option<Lsn> {
        let is_switch = || {
            let last = self.last.map_or(self.end.0, |last| last.0);
            let page = (last - last % PAGE_BYTES as u64) + PAGE_BYTES as u64;
            let header_bytes = if self.end.0 > page { HEADER_BYTES as u64 } else { 0 };
            self.end.0 - last == HEADER_BYTES as u64 + header_bytes
        };
        let leads = match self.stop {
            Stop::Window => true,
            Stop::Wal => is_switch(),
            Stop::Unknown | Stop::Cut(_) | Stop::Broken(_) => false,
        };
        (!leads).then_some(self.end)
    }

    /// Where the record ends that these pages begin with.
    fn beginning_end(&self) -> Lsn {
        // No page in between is the first of a segment.
        let first = match self.beginning.bytes {
            0 => 0,
            bytes => skip(HEADER_BYTES, bytes as usize).unwrap_or_default(),
        };
        Lsn(self.start.0.saturating_add(first as u64))
    }

    /// Are all of the pages some more of a record that begins before and ends behind them?
    pub fn passes(&self) -> bool {
        let goes_on = self.beginning.bytes > 0 && !self.beginning.ends && !self.beginning.given_up;
        self.first.is_none() && goes_on && self.stop == Stop::Window
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.beginning.head.len() + self.tail.as_ref().map_or(0, |tail| tail.head.len())
    }
}

impl Tail {
    /// With what follows of it.
    fn longer(mut self, more: &Beginning) -> Self {
        let of_header = RECORD_HEADER_BYTES.saturating_sub(self.here as usize);
        let (of_header, here) = (of_header.min(more.head.len()), more.here as usize);
        let body = more.crc.without(&more.head[..of_header], here);
        self.crc = self.crc.and(body, here - of_header);
        if self.here as usize == self.head.len() {
            let mut head = self.head.to_vec();
            head.extend_from_slice(&more.head);
            head.truncate(HEAD_BYTES);
            self.head = head.into();
        }
        self.here += more.here;
        self
    }
}

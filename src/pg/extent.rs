//! Is all of a segment's WAL there? It is if each page is its own, up to its end or to the record of a switch to the next one, and
//! the CRC of each record is right. Recovery ends at the first page or record that is not, whatever lies behind that.

use super::wal_index::{Chain, Stop, Walked};
use super::written::Written;
use super::{Lsn, PageHeader, Searched, SwitchSearch};

/// How much of a segment is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// It is full, or ends in the record of a switch.
    Whole,
    /// Its WAL ends at this byte, before the segment does, as in the one that is being written.
    Begun(u64),
    /// At this byte a page is not its own, although one behind it is.
    Holed(u64),
    /// At this byte a record should begin, and none does that is what was written, although there is WAL behind it.
    Broken(u64),
}

impl Extent {
    /// What keeps recovery from what lies behind, in words; `None`: nothing does.
    pub fn obstacle(self) -> Option<String> {
        match self {
            Self::Whole | Self::Begun(_) => None,
            Self::Holed(at) => Some(format!(
                "its page at byte {at} is empty or another's, and more of its WAL lies behind that"
            )),
            Self::Broken(at) => Some(format!(
                "at byte {at} it has a damaged record, or none, and more of its WAL lies behind that"
            )),
        }
    }
}

/// What all pages of a segment show.
#[derive(Debug)]
pub struct Proved {
    /// Where it begins.
    pub start: Lsn,
    /// How much of it is there.
    pub extent: Extent,
    /// Where its records begin and end; `None`: it is no WAL that is known.
    pub walked: Option<Walked>,
    /// Are there pages of another segment in it? Behind its end that is what the file was before.
    pub has_others: bool,
}

impl Proved {
    /// Of a file whose first page is none, or another segment's.
    pub fn nothing(start: Lsn) -> Self {
        Self {
            start,
            extent: Extent::Holed(0),
            walked: None,
            has_others: true,
        }
    }

    /// Is a record not what was written, by its CRC?
    pub fn is_damaged(&self) -> bool {
        let stop = self.walked.as_ref().map(|walked| walked.stop);
        matches!(stop, Some(Stop::Broken(_)))
    }

    /// Where recovery ends, if it does not go through to the next segment.
    pub fn ends(&self) -> Option<Lsn> {
        let at = match self.extent {
            Extent::Whole => return None,
            Extent::Begun(at) | Extent::Holed(at) | Extent::Broken(at) => Lsn(self.start.0 + at),
        };
        // A record before that may run into it.
        let ended = self.walked.as_ref().and_then(Walked::ends_early);
        Some(ended.map_or(at, |ended| ended.min(at)))
    }
}

/// Bytes whose records are proved together.
const PIECE_BYTES: usize = 256 << 10;

/// A segment whose pages are looked at, one after the other.
#[derive(Debug)]
pub struct Extents {
    header: PageHeader,
    written: Written,
    search: SwitchSearch,
    searched: Searched,
    bytes: u64,
    chain: Chain,
    piece: Vec<u8>,
}

impl Extents {
    /// The segment that begins there, with this header on its first page; `None`: that is another segment's.
    pub fn new(start: Lsn, header: PageHeader) -> Option<Self> {
        (header.page_address == start).then(|| Self {
            header,
            written: Written::new(header),
            search: SwitchSearch::default(),
            searched: Searched::NotYet,
            bytes: 0,
            chain: Chain::default(),
            piece: Vec::with_capacity(PIECE_BYTES),
        })
    }

    /// Looks at the next page.
    pub fn add(&mut self, page: &[u8]) {
        if self.searched == Searched::NotYet {
            self.searched = self.search.look(&self.header, page);
        }
        self.written.add(page);
        self.bytes += page.len() as u64;
        self.piece.extend_from_slice(page);
        if self.piece.len() >= PIECE_BYTES {
            self.chain.go_on(&self.piece);
            self.piece.clear();
        }
    }

    /// What these pages are of the segment.
    pub fn proved(mut self) -> Proved {
        if !self.piece.is_empty() {
            self.chain.go_on(&self.piece);
        }
        Proved {
            start: self.header.page_address,
            extent: self.extent(),
            walked: self.chain.into_walked(),
            has_others: self.written.has_others(),
        }
    }

    fn extent(&self) -> Extent {
        let hole = self.written.hole();
        let start = self.header.page_address.0;
        if let Some(ended) = self.chain.ended()
            && hole.is_none_or(|hole| ended.is_damaged && ended.at.0 < start + hole)
        {
            let (block, at) = (
                u64::from(self.header.block_bytes),
                ended.at.0.saturating_sub(start),
            );
            let own_end = Lsn((start + self.written.end()).next_multiple_of(block));
            match ended.is_followed(own_end, block) {
                true => return Extent::Broken(at),
                // On its last page that is what a killed server had begun to write.
                false if ended.is_damaged => return Extent::Begun(at),
                // What follows the records of a full segment's last page was written as a record, and is none.
                false if self.is_full() => return Extent::Broken(at),
                false => {}
            }
        }
        let is_all = self.bytes == u64::from(self.header.segment_bytes);
        match (self.searched, hole) {
            // What lies behind a switch is not read.
            (Searched::EndsAt(_), _) if is_all => Extent::Whole,
            (_, Some(at)) => Extent::Holed(at),
            _ if self.is_full() => Extent::Whole,
            _ => Extent::Begun(self.written.end()),
        }
    }

    /// Is it WAL of its own up to its end?
    fn is_full(&self) -> bool {
        self.bytes == u64::from(self.header.segment_bytes) && self.written.end() == self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{SystemId, Timeline};

    const PAGE: usize = 8192;
    const START: u64 = 3 << 20;
    const PAGES: usize = 128;

    fn header() -> PageHeader {
        PageHeader {
            magic: 0xD118,
            info: 2,
            timeline: Timeline(1),
            page_address: Lsn(START),
            system_id: SystemId(1),
            segment_bytes: 1 << 20,
            block_bytes: PAGE as u32,
        }
    }

    /// Full of a record that begins before it and ends behind.
    fn full() -> Vec<u8> {
        let mut bytes = vec![1; PAGES * PAGE];
        for (number, page) in bytes.chunks_mut(PAGE).enumerate() {
            let address = START + (number * PAGE) as u64;
            page[..2].copy_from_slice(&0xD118_u16.to_le_bytes());
            page[2..4].copy_from_slice(&[if number == 0 { 3 } else { 1 }, 0]);
            page[8..16].copy_from_slice(&address.to_le_bytes());
            let before = (number * (PAGE - 24)).saturating_sub(if number == 0 { 0 } else { 16 });
            page[16..20].copy_from_slice(&((2_u32 << 20) - before as u32).to_le_bytes());
        }
        bytes
    }

    fn extent(bytes: &[u8]) -> Extent {
        let mut extents = Extents::new(Lsn(START), header()).expect("its own");
        bytes.chunks(PAGE).for_each(|page| extents.add(page));
        extents.proved().extent
    }

    #[test]
    fn a_segment_is_whole_if_each_page_is_its_own() {
        assert_eq!(extent(&full()), Extent::Whole);
        let mut holed = full();
        holed[20 * PAGE..21 * PAGE].fill(0);
        assert_eq!(extent(&holed), Extent::Holed(20 * PAGE as u64));
        // A page that an older segment has left.
        let mut stale = full();
        stale[20 * PAGE + 8..20 * PAGE + 16].copy_from_slice(&(START - (1 << 20)).to_le_bytes());
        assert_eq!(extent(&stale), Extent::Holed(20 * PAGE as u64));
        let mut begun = full();
        begun[20 * PAGE..].fill(0);
        assert_eq!(extent(&begun), Extent::Begun(20 * PAGE as u64));
        assert_eq!(extent(&full()[..20 * PAGE]), Extent::Begun(20 * PAGE as u64));
    }
}

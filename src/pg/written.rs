//! How much of a segment is WAL of its own: behind that lie zeros, or what an older segment has left. What lies so between
//! pages of its own is a hole, at which recovery ends.

use super::record::Window;
use super::{Lsn, PageHeader};

/// Bytes of a page's header that tell an empty one: magic, flags, timeline, address.
const HEAD_BYTES: usize = 16;

/// A segment whose pages are looked at, one after the other.
#[derive(Debug)]
pub struct Written {
    header: PageHeader,
    /// Bytes that were looked at.
    bytes: u64,
    /// ... and up to where these are WAL.
    end: u64,
    /// Behind the last record that is whole.
    whole: u64,
    /// Where the first page begins that is not its own.
    foreign: Option<u64>,
    /// ... if one of its own follows.
    hole: Option<u64>,
    /// Is one of them not empty?
    has_others: bool,
}

impl Written {
    /// A segment with this header on its first page.
    pub fn new(header: PageHeader) -> Self {
        Self {
            header,
            bytes: 0,
            end: 0,
            whole: 0,
            foreign: None,
            hole: None,
            has_others: false,
        }
    }

    /// Looks at the next page. Whatever is before a page of this segment is WAL, whether it can be read or not; on the last
    /// one it ends where the records end, or with the page if that cannot be told, or if a record is begun there that is
    /// not whole.
    pub fn add(&mut self, page: &[u8]) {
        let start = Lsn(self.header.page_address.0.saturating_add(self.bytes));
        let is_own = page.starts_with(&self.header.magic.to_le_bytes())
            && page.get(8..16) == Some(&start.0.to_le_bytes()[..]);
        let whole = self.bytes + page.len() as u64;
        if !is_own {
            self.foreign.get_or_insert(self.bytes);
            self.has_others |= page.iter().take(HEAD_BYTES).any(|byte| *byte != 0);
        } else {
            self.hole = self.foreign;
            let window = Window::new(&self.header, start, page);
            let end = window.first().map(|first| {
                let last = window.records(first).last();
                last.map_or(first, |record| record.next)
            });
            if let Some(end) = end {
                self.whole = whole.min(self.bytes + (end.0 - start.0));
            }
            self.end = match end {
                Some(end) if !self.is_begun(&window, end) => whole.min(self.bytes + (end.0 - start.0)),
                _ => whole,
            };
        }
        self.bytes = whole;
    }

    /// Does a record begin there? What an older segment has left there follows a record of that segment.
    fn is_begun(&self, window: &Window<'_>, at: Lsn) -> bool {
        match window.before(at) {
            Some(before) => {
                let bytes = at.0.checked_sub(before.0);
                bytes.is_some_and(|bytes| (1..=u64::from(self.header.segment_bytes)).contains(&bytes))
            }
            // In the last bytes of a page there is its length alone.
            None => window.length(at).is_some_and(|length| length > 0),
        }
    }

    /// So many bytes from its beginning on are records that are whole.
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// So many bytes from its beginning on are WAL, or lie before WAL.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Is there a page of another segment among them?
    pub fn has_others(&self) -> bool {
        self.has_others
    }

    /// Where the first page begins that is not its own, although one behind it is: recovery does not come past it.
    pub fn hole(&self) -> Option<u64> {
        self.hole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{SystemId, Timeline};

    const PAGE_BYTES: usize = 8192;
    const START: u64 = 3 << 20;

    /// A page that says so much is left of a record from before.
    fn page(address: u64, rest: u32) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        page[..2].copy_from_slice(&0xD118_u16.to_le_bytes());
        page[2] = u8::from(rest > 0);
        page[8..16].copy_from_slice(&address.to_le_bytes());
        page[16..20].copy_from_slice(&rest.to_le_bytes());
        page
    }

    #[test]
    fn wal_ends_on_the_last_page_of_its_own() {
        let mut written = Written::new(PageHeader {
            magic: 0xD118,
            info: 2,
            timeline: Timeline(1),
            page_address: Lsn(START),
            system_id: SystemId(1),
            segment_bytes: 1 << 20,
            block_bytes: PAGE_BYTES as u32,
        });
        let mut ends_at = |page: Vec<u8>, end: usize| {
            written.add(&page);
            assert_eq!(written.end(), end as u64);
        };
        let own = |number: usize| START + (number * PAGE_BYTES) as u64;
        // Nothing begins on it.
        ends_at(page(own(0), 0), 0);
        // The rest of a record, and nothing behind it.
        ends_at(page(own(1), 100), PAGE_BYTES + 128);
        // It runs on behind the page.
        ends_at(page(own(2), 20_000), 3 * PAGE_BYTES);
        // One begins in the last eight bytes.
        let mut split = page(own(3), (PAGE_BYTES - 32) as u32);
        split[PAGE_BYTES - 8] = 59;
        ends_at(split, 4 * PAGE_BYTES);
        // Of an older segment, and nothing at all.
        ends_at(page(own(4) - (1 << 20), 0), 4 * PAGE_BYTES);
        ends_at(vec![0; PAGE_BYTES], 4 * PAGE_BYTES);
        assert_eq!(written.hole(), None);
        // A record that is not whole, and what is left of one of the segment before. What lies before a page of its own is
        // counted, whatever it looks like, and is a hole.
        let mut torn = page(own(6), 0);
        torn[24] = 100;
        torn[32..40].copy_from_slice(&(own(5) + 100).to_le_bytes());
        let mut stale = page(own(7), 0);
        stale[24] = 100;
        stale[32..40].copy_from_slice(&(own(6) - (1 << 20)).to_le_bytes());
        for (page, end) in [(torn, 7), (stale, 7), (page(own(8), 0), 8)] {
            written.add(&page);
            assert_eq!(written.end(), (end * PAGE_BYTES) as u64);
            assert_eq!(written.hole(), Some(4 * PAGE_BYTES as u64));
        }
    }
}

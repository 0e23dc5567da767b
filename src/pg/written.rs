//! How much of a segment that is not full is WAL of its own: behind that lie zeros, or what an older segment has left.

use super::record::Window;
use super::{Lsn, PageHeader};

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
}

impl Written {
    /// A segment with this header on its first page.
    pub fn new(header: PageHeader) -> Self {
        Self {
            header,
            bytes: 0,
            end: 0,
            whole: 0,
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
        if is_own {
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
        let before = window.before(at).and_then(|before| at.0.checked_sub(before.0));
        before.is_some_and(|bytes| (1..=u64::from(self.header.segment_bytes)).contains(&bytes))
    }

    /// So many bytes from its beginning on are records that are whole.
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// So many bytes from its beginning on are WAL.
    pub fn end(&self) -> u64 {
        self.end
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
        // Of an older segment, and nothing at all.
        ends_at(page(own(3) - (1 << 20), 0), 3 * PAGE_BYTES);
        ends_at(vec![0; PAGE_BYTES], 3 * PAGE_BYTES);
        // A record that is not whole, and what is left of one of the segment before.
        let mut torn = page(own(5), 0);
        torn[24] = 100;
        torn[32..40].copy_from_slice(&(own(4) + 100).to_le_bytes());
        let mut stale = page(own(6), 0);
        stale[24] = 100;
        stale[32..40].copy_from_slice(&(own(5) - (1 << 20)).to_le_bytes());
        ends_at(torn, 6 * PAGE_BYTES);
        ends_at(stale, 6 * PAGE_BYTES);
        // What lies before a page of its own is WAL, whatever it looks like.
        ends_at(page(own(7), 0), 7 * PAGE_BYTES);
    }
}

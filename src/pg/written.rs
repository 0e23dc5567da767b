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
}

impl Written {
    /// A segment with this header on its first page.
    pub fn new(header: PageHeader) -> Self {
        Self {
            header,
            bytes: 0,
            end: 0,
        }
    }

    /// Looks at the next page. Whatever is before a page of this segment is WAL, whether it can be read or not; on the last
    /// one it ends where the records end, or with the page if that cannot be told.
    pub fn add(&mut self, page: &[u8]) {
        let start = Lsn(self.header.page_address.0.saturating_add(self.bytes));
        let is_own = page.starts_with(&self.header.magic.to_le_bytes())
            && page.get(8..16) == Some(&start.0.to_le_bytes()[..]);
        let whole = self.bytes + page.len() as u64;
        if is_own {
            let window = Window::new(&self.header, start, page);
            self.end = window.first().map_or(whole, |first| {
                let next = window.records(first).last().map_or(first, |record| record.next);
                whole.min(self.bytes + (next.0 - start.0))
            });
        }
        self.bytes = whole;
    }

    /// So many bytes from its beginning on are WAL.
    pub fn end(&self) -> u64 {
        self.end
    }
}

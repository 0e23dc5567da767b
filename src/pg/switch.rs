//! Where the WAL in a segment ends before the segment does: behind the record of a switch to the next one.
//!
//! `pg_switch_wal()`, `archive_timeout` and the end of a backup leave a segment that ends with a record `XLOG_SWITCH`
//! (`pg_control.h`); all that follows it is zeros. So a copy that has everything up to there, and zeros behind, is whole,
//! whatever is known of its copier.
//!
//! Records follow one another, each aligned to 8 bytes, across pages: a page's header says how much of a record that
//! began earlier it begins with (`xlog_internal.h`, `xlogrecord.h`). What is used of a record's header of 24 bytes:
//!
//! ```text
//!  0  u32  length of the whole record; a switch has nothing but the header
//! 16  u8   what it does; of resource manager 0, 0x40 is the switch
//! 17  u8   resource manager
//! 20  u32  CRC-32C, of a record without data that of the bytes before
//! ```

use super::PageHeader;

const SHORT_HEADER_BYTES: usize = 24;
const LONG_HEADER: u16 = 0x0002;
const FIRST_IS_CONTINUED: u16 = 0x0001;
const RECORD_HEADER_BYTES: usize = 24;
const ALIGNMENT: usize = 8;
const RESOURCE_MANAGER_XLOG: u8 = 0;
const SWITCH: u8 = 0x40;
/// The lower half of a record's info is for other things.
const INFO_MASK: u8 = 0xF0;

/// What one more page has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Searched {
    /// Nothing yet: look at the next page.
    NotYet,
    /// The segment's WAL ends here, in bytes from its beginning.
    EndsAt(u64),
    /// This is no page of this segment: nothing can be said.
    NoWal,
}

/// Where the WAL of a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalEnd {
    /// Behind the record of a switch, in bytes from the segment's beginning.
    Switch(u64),
    /// Before what is no WAL.
    NoWal(u64),
    /// Not there: it goes on.
    GoesOn,
}

impl WalEnd {
    /// In the first `bytes` of a segment, of which `read` fills a page with those from an offset on.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn find<E>(bytes: u64, mut read: impl FnMut(&mut [u8], u64) -> Result<(), E>) -> Result<Self, E> {
        let mut page = vec![0; PageHeader::BYTES];
        read(&mut page, 0)?;
        let Ok(header) = PageHeader::parse(&page) else {
            return Ok(Self::NoWal(0));
        };
        let mut search = SwitchSearch::default();
        page.resize(header.block_bytes as usize, 0);
        while search.next_page() < bytes {
            let begins = search.next_page();
            read(&mut page, begins)?;
            match search.look(&header, &page) {
                Searched::NotYet => {}
                Searched::EndsAt(end) => return Ok(Self::Switch(end)),
                Searched::NoWal => return Ok(Self::NoWal(begins)),
            }
        }
        Ok(Self::GoesOn)
    }
}

/// Goes through a segment page by page.
#[derive(Debug, Clone, Default)]
pub struct SwitchSearch {
    looked_bytes: u64,
    /// The beginning of a record's header that goes on on the next page.
    split: Vec<u8>,
}

impl SwitchSearch {
    /// Where the page begins that is to be looked at next, in bytes from the segment's beginning.
    pub fn next_page(&self) -> u64 {
        self.looked_bytes
    }

    /// Looks at the next page of the segment with this first page; a page that is no WAL may be shown again.
    pub fn look(&mut self, first_page: &PageHeader, page: &[u8]) -> Searched {
        let begins = self.looked_bytes;
        let Some(end) = self.end_in(first_page, begins, page) else {
            return Searched::NoWal;
        };
        self.looked_bytes += page.len() as u64;
        end.map_or(Searched::NotYet, |end| Searched::EndsAt(begins + end as u64))
    }

    /// Where in this page the WAL ends, if it does; `None` for what is no page of WAL.
    fn end_in(&mut self, first_page: &PageHeader, begins: u64, page: &[u8]) -> Option<Option<usize>> {
        let is_own = u16_at(page, 0)? == first_page.magic
            && u64_at(page, 8)? == first_page.page_address.0.checked_add(begins)?;
        let info = u16_at(page, 2)?;
        let header_bytes = match info & LONG_HEADER {
            0 => SHORT_HEADER_BYTES,
            _ => PageHeader::BYTES,
        };
        let continued_bytes = match info & FIRST_IS_CONTINUED {
            0 => 0,
            _ => u32_at(page, 16)? as usize,
        };
        if !is_own {
            return None;
        }
        let split = std::mem::take(&mut self.split);
        if !split.is_empty() && continued_bytes > 0 {
            let end = header_bytes + RECORD_HEADER_BYTES - split.len();
            let whole = [&split, page.get(header_bytes..end)?].concat();
            if is_switch(&whole) {
                return Some(Some(end));
            }
        }
        self.end_among_records(page, header_bytes + aligned(continued_bytes)?)
    }

    /// The same, from the first record on that begins in this page.
    fn end_among_records(&mut self, page: &[u8], mut at: usize) -> Option<Option<usize>> {
        while at < page.len() {
            let record_bytes = u32_at(page, at)? as usize;
            if record_bytes < RECORD_HEADER_BYTES {
                return None;
            }
            let end = at + RECORD_HEADER_BYTES;
            match page.get(at..end) {
                Some(header) if is_switch(header) => return Some(Some(end)),
                Some(_) => at = at.checked_add(aligned(record_bytes)?)?,
                None => {
                    self.split = page[at..].to_vec();
                    return Some(None);
                }
            }
        }
        Some(None)
    }
}

fn is_switch(header: &[u8]) -> bool {
    u32_at(header, 0) == Some(RECORD_HEADER_BYTES as u32)
        && header[16] & INFO_MASK == SWITCH
        && header[17] == RESOURCE_MANAGER_XLOG
        && u32_at(header, 20) == Some(crc32c::crc32c(&header[..20]))
}

fn aligned(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(ALIGNMENT)
}

// Of a machine with little-endian numbers, as nearly all are. Of others nothing can be said here.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 8192;
    const START: u64 = 5 << 20;

    /// Records of these lengths one after the other, laid out on pages as PostgreSQL does; a length of 0 is a switch.
    /// Gives the pages and where the switch ends.
    fn pages(lengths: &[usize], pages: usize) -> (Vec<u8>, u64) {
        let mut bytes = vec![0; pages * PAGE];
        for number in 0..pages {
            let page = &mut bytes[number * PAGE..];
            page[..2].copy_from_slice(&0xD110u16.to_le_bytes());
            page[2] = if number == 0 { 2 } else { 0 };
            page[4] = 1;
            page[8..16].copy_from_slice(&(START + (number * PAGE) as u64).to_le_bytes());
        }
        bytes[32..36].copy_from_slice(&(1u32 << 20).to_le_bytes());
        bytes[36..40].copy_from_slice(&(PAGE as u32).to_le_bytes());
        let (mut at, mut end) = (40, 0);
        for &length in lengths {
            at = write_record(&mut bytes, at, length);
            end = at;
            at = at.next_multiple_of(8);
        }
        (bytes, end as u64)
    }

    fn write_record(bytes: &mut [u8], mut at: usize, length: usize) -> usize {
        let mut record = vec![0xAA; length.max(RECORD_HEADER_BYTES)];
        let record_bytes = record.len() as u32;
        record[..4].copy_from_slice(&record_bytes.to_le_bytes());
        (record[16], record[17]) = if length == 0 { (0x40, 0) } else { (0x40, 10) };
        let crc = crc32c::crc32c(&record[..20]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        let mut left = &record[..];
        while !left.is_empty() {
            if at.is_multiple_of(PAGE) {
                if left.len() < record.len() {
                    bytes[at + 2] |= 1;
                    bytes[at + 16..at + 20].copy_from_slice(&(left.len() as u32).to_le_bytes());
                }
                at += SHORT_HEADER_BYTES;
            }
            let here = left.len().min(PAGE - at % PAGE);
            bytes[at..at + here].copy_from_slice(&left[..here]);
            (left, at) = (&left[here..], at + here);
        }
        at
    }

    fn end(bytes: &[u8]) -> WalEnd {
        let read = |page: &mut [u8], at: u64| {
            page.copy_from_slice(&bytes[at as usize..][..page.len()]);
            Ok::<(), ()>(())
        };
        WalEnd::find(bytes.len() as u64, read).unwrap()
    }

    #[test]
    fn the_end_is_behind_a_switch_or_before_a_hole() {
        let (bytes, switch) = pages(&[100, 3 * PAGE, 0], 8);
        assert_eq!(end(&bytes), WalEnd::Switch(switch));
        // Up to the last byte of the last page.
        let rest = 8 * PAGE - 144 - 7 * SHORT_HEADER_BYTES;
        let (mut bytes, _) = pages(&[100, rest], 8);
        assert_eq!(end(&bytes), WalEnd::GoesOn);
        bytes[2 * PAGE..3 * PAGE].fill(0);
        assert_eq!(end(&bytes), WalEnd::NoWal(2 * PAGE as u64));
        bytes[..PAGE].fill(0);
        assert_eq!(end(&bytes), WalEnd::NoWal(0));
    }

    fn search(bytes: &[u8]) -> Searched {
        let header = PageHeader::parse(bytes).unwrap();
        let mut search = SwitchSearch::default();
        for page in bytes.chunks(PAGE) {
            match search.look(&header, page) {
                Searched::NotYet => assert_eq!(search.next_page() % PAGE as u64, 0),
                found => return found,
            }
        }
        Searched::NotYet
    }

    #[test]
    fn a_switch_is_found_wherever_it_is() {
        let first_page = PAGE - 40;
        for lengths in [
            vec![0],
            vec![100, 57, 30, 0],
            vec![20_000, 0],
            // Its header begins 8 bytes, and 16, before the end of the page, and on the next one.
            vec![first_page - 8, 0],
            vec![first_page - 16, 0],
            vec![first_page - 24, 0],
            vec![first_page, 0],
            vec![50, 3 * PAGE, 0],
        ] {
            let (bytes, end) = pages(&lengths, 8);
            assert_eq!(search(&bytes), Searched::EndsAt(end), "{lengths:?}");
        }
    }

    #[test]
    fn what_goes_on_has_no_end() {
        // The last record goes on behind the pages there are.
        let (bytes, _) = pages(&[100, 3 * PAGE, 4 * PAGE], 8);
        assert_eq!(search(&bytes[..7 * PAGE]), Searched::NotYet);
        // Cut off behind a record, and in the middle of one.
        for lengths in [&[100, 200][..], &[100, 2 * PAGE]] {
            let (mut bytes, end) = pages(lengths, 8);
            bytes[end as usize..].fill(0);
            assert_eq!(search(&bytes), Searched::NoWal);
            bytes[PAGE..].fill(0);
            assert_eq!(search(&bytes), Searched::NoWal);
        }
    }

    #[test]
    fn pages_of_another_segment_and_torn_records_are_no_evidence() {
        let (bytes, end) = pages(&[PAGE, 0], 4);
        let mut other = bytes.clone();
        other[PAGE + 8] ^= 0x20;
        assert_eq!(search(&other), Searched::NoWal);
        let mut torn = bytes;
        torn[end as usize - 1] ^= 1;
        assert_ne!(search(&torn), Searched::EndsAt(end));
    }
}

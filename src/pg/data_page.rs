//! Data pages: does one look like a page at all, and is it whole (`PageIsVerified` of `bufpage.c`, `verify_page_checksum`
//! of `basebackup.c`)?
//!
//! A page begins with its header, in the byte order of its machine; only little-endian ones are read:
//!
//! ```text
//!  0  u32  upper half of the position of the last WAL record that changed the page
//!  4  u32  lower half
//!  8  u16  checksum, 1 to 65535; 0 in a cluster without
//! 10  u16  flags; 0x0007 are known
//! 12  u16  begin of the free space
//! 14  u16  end of the free space; 0: the page was never filled, and is zeros
//! 16  u16  begin of the special space, a multiple of 8
//! ```
//! PostgreSQL itself refuses a page that contradicts this, with checksums and without. So bytes that stand at another
//! place than they were written to, be it by six bytes, are hardly ever taken for a page.

use std::fmt;

use super::Lsn;
use super::checksum::page_checksum;

/// `PD_VALID_FLAG_BITS`.
const KNOWN_FLAGS: u16 = 0x0007;

/// `MAXIMUM_ALIGNOF`.
const ALIGNMENT: u16 = 8;

/// No server writes so much WAL while a backup is taken: a PiB.
const FARTHEST_BYTES: u64 = 1 << 50;

/// What a page's bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageVerdict {
    /// Its header is one; its checksum is the page's, if it should have one.
    Good,
    /// The page was never filled: zeros.
    New,
    /// The bytes are fewer than a page: the end of a file that is just growing or being cut, which recovery sees to.
    Partial,
    /// The page changed since the backup began, by the record that ends here: it may be half old and half new, and
    /// recovery writes it anew, if the backup's WAL goes as far.
    NewerThanBackup(Lsn),
    /// The page is damaged; or was being written, so whoever copies a running cluster's reads it once more.
    Damaged(Damage),
}

/// What is wrong with a page, or with a file of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The checksum is not that of the bytes.
    Checksum {
        /// What its bytes give.
        computed: u16,
        /// What its header states.
        stated: u16,
    },
    /// The header cannot be that of a page.
    Header,
    /// The header is that of a page never filled, and others of its bytes are not zero.
    NotEmpty,
    /// It states a position that the server's WAL had not reached.
    BeyondWal {
        /// The position.
        lsn: Lsn,
    },
    /// The file is no whole number of pages, or has too many.
    Length {
        /// How long it is.
        bytes: u64,
        /// How long a page is.
        page_bytes: u32,
        /// How many pages the longest such file has.
        most_pages: u32,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum { computed, stated } => {
                write!(out, "its checksum is {stated}, its content gives {computed}")
            }
            Self::Header => out.write_str("it does not begin as a page does"),
            Self::NotEmpty => out.write_str("it should be empty, and is not all zeros"),
            Self::BeyondWal { lsn } => write!(out, "it is of {lsn}, which the server's WAL had not reached"),
            Self::Length {
                bytes,
                page_bytes,
                most_pages,
            } => write!(
                out,
                "its file has {bytes} bytes, expected whole pages of {page_bytes} bytes, at most {most_pages}"
            ),
        }
    }
}

/// Looks at the pages of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct PageChecker {
    block_bytes: usize,
    start_lsn: Lsn,
    checksums: bool,
}

impl PageChecker {
    /// For pages of this size, which `pg_control` states, and a backup that began at `start_lsn`; with `checksums`, if
    /// the cluster has them.
    ///
    /// # Panics
    /// If no cluster can have pages of this size: a power of two from 1024 to 32768.
    pub fn new(block_bytes: u32, start_lsn: Lsn, checksums: bool) -> Self {
        assert!(
            block_bytes.is_power_of_two() && (1024..=32768).contains(&block_bytes),
            "a block size of {block_bytes} bytes"
        );
        Self {
            block_bytes: block_bytes as usize,
            start_lsn,
            checksums,
        }
    }

    /// Looks at one page. `block_number` counts the pages of the fork through all its files.
    pub fn check(&self, page: &[u8], block_number: u32) -> PageVerdict {
        let Some(header) = page.first_chunk().filter(|_| page.len() == self.block_bytes) else {
            return PageVerdict::Partial;
        };
        let header = Header::of(header);
        if header.upper == 0 {
            return match page.iter().all(|byte| *byte == 0) {
                true => PageVerdict::New,
                false => PageVerdict::Damaged(Damage::NotEmpty),
            };
        }
        if !header.is_plausible(self.block_bytes) {
            return PageVerdict::Damaged(Damage::Header);
        }
        if header.lsn >= self.start_lsn {
            return self.newer(header.lsn);
        }
        if !self.checksums {
            return PageVerdict::Good;
        }
        let computed = page_checksum(page, block_number);
        match header.checksum {
            stated if stated == computed => PageVerdict::Good,
            stated => PageVerdict::Damaged(Damage::Checksum { computed, stated }),
        }
    }

    fn newer(&self, lsn: Lsn) -> PageVerdict {
        match lsn.0 - self.start_lsn.0 > FARTHEST_BYTES {
            true => PageVerdict::Damaged(Damage::BeyondWal { lsn }),
            false => PageVerdict::NewerThanBackup(lsn),
        }
    }

    /// Are checksums verified, too?
    pub fn verifies_checksums(&self) -> bool {
        self.checksums
    }
}

/// What is read of a page's header.
struct Header {
    lsn: Lsn,
    checksum: u16,
    flags: u16,
    lower: u16,
    upper: u16,
    special: u16,
}

impl Header {
    fn of(bytes: &[u8; 18]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 2)) << 16;
        Self {
            lsn: Lsn(word(0) << 32 | word(4)),
            checksum: half(8),
            flags: half(10),
            lower: half(12),
            upper: half(14),
            special: half(16),
        }
    }

    fn is_plausible(&self, block_bytes: usize) -> bool {
        self.flags & !KNOWN_FLAGS == 0
            && self.lower <= self.upper
            && self.upper <= self.special
            && usize::from(self.special) <= block_bytes
            && self.special.is_multiple_of(ALIGNMENT)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pg::checksum::tests::{free_space_page, index_page};

    const LATER: Lsn = Lsn(u64::MAX);

    fn check(page: &[u8], block_number: u32, start_lsn: Lsn) -> PageVerdict {
        PageChecker::new(8192, start_lsn, true).check(page, block_number)
    }

    /// A page of 8192 bytes that PostgreSQL would take, with the checksum of its place.
    pub(crate) fn good_page(block: u32, filler: u8) -> Vec<u8> {
        let mut page = vec![filler; 8192];
        page[..24].copy_from_slice(&[
            0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 24, 0, 0, 16, 0, 32, 4, 32, 0, 0, 0, 0,
        ]);
        let checksum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    #[test]
    fn pages_that_postgresql_15_wrote() {
        for page in [index_page(), free_space_page(), good_page(1, 7)] {
            assert_eq!(check(&page, 1, LATER), PageVerdict::Good);
        }
    }

    #[test]
    fn a_page_at_another_place() {
        let verdict = check(&index_page(), 2, LATER);
        assert!(
            matches!(
                verdict,
                PageVerdict::Damaged(Damage::Checksum { stated: 0xC4DF, .. })
            ),
            "{verdict:?}"
        );
    }

    #[test]
    fn any_changed_byte_is_found() {
        for at in 0..8192 {
            let mut page = index_page();
            page[at] ^= 0x40;
            let verdict = check(&page, 1, LATER);
            assert!(matches!(verdict, PageVerdict::Damaged(_)), "{at}: {verdict:?}");
        }
    }

    #[test]
    fn bytes_that_have_moved_are_hardly_ever_a_page() {
        let pages = [index_page(), good_page(1, 7), good_page(2, 200)].concat();
        for (checksums, most) in [(true, 0), (false, 20)] {
            let checker = PageChecker::new(8192, Lsn(0x0200_0000), checksums);
            let moved = (1..16384).filter(|by| by % 8192 != 0);
            let is_taken =
                |by: &usize| !matches!(checker.check(&pages[*by..by + 8192], 1), PageVerdict::Damaged(_));
            let taken = moved.filter(is_taken).count();
            assert!(taken <= most, "{taken} of 16382 with checksums: {checksums}");
        }
    }

    #[test]
    fn a_header_that_postgresql_refuses() {
        for (at, field) in [
            (10, 8_u16),
            (12, 0x1001),
            (14, 0x2001),
            (16, 0x1ffc),
            (16, 0x2008),
        ] {
            let mut page = good_page(0, 0);
            page[at..at + 2].copy_from_slice(&field.to_le_bytes());
            let verdict = PageChecker::new(8192, LATER, false).check(&page, 0);
            assert_eq!(verdict, PageVerdict::Damaged(Damage::Header), "{at}");
        }
    }

    #[test]
    fn a_page_that_changed_since_is_left_to_recovery() {
        let mut page = index_page();
        page[4000] = 1;
        let lsn = Lsn(0x145_ED70);
        assert_eq!(check(&page, 1, lsn), PageVerdict::NewerThanBackup(lsn));
        assert!(matches!(
            check(&page, 1, Lsn(0x145_ED71)),
            PageVerdict::Damaged(_)
        ));
        // The upper half counts first.
        page[0] = 1;
        let lsn = Lsn(0x1_0145_ED70);
        assert_eq!(
            check(&page, 1, Lsn(0xFFFF_FFFF)),
            PageVerdict::NewerThanBackup(lsn)
        );
        // So far no WAL goes.
        page[3] = 1;
        assert!(matches!(
            check(&page, 1, Lsn(0xFFFF_FFFF)),
            PageVerdict::Damaged(Damage::BeyondWal { .. })
        ));
    }

    #[test]
    fn a_page_never_filled_is_zeros() {
        let mut page = [0; 8192];
        assert_eq!(check(&page, 7, LATER), PageVerdict::New);
        page[8191] = 1;
        assert_eq!(check(&page, 7, LATER), PageVerdict::Damaged(Damage::NotEmpty));
    }

    #[test]
    fn the_end_of_a_file_may_be_no_page() {
        for length in [0, 2, 1024, 4096, 8191] {
            assert_eq!(
                check(&index_page()[..length], 1, LATER),
                PageVerdict::Partial,
                "{length}"
            );
        }
    }

    #[test]
    #[should_panic = "a block size of 1000 bytes"]
    fn a_size_no_page_has() {
        PageChecker::new(1000, LATER, true);
    }
}

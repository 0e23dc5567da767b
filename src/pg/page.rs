//! The header of a segment's first page: what the segment itself says of its place, length and cluster.
//!
//! `XLogLongPageHeaderData` of `xlog_internal.h`, 40 bytes, in the byte order of the machine that wrote it:
//!
//! ```text
//!  0  u16  magic             0xD1xx, another one with almost every major version
//!  2  u16  info              flags; 0x0002: this is a long header
//!  4  u32  timeline          of the page, which may be an ancestor of the file's
//!  8  u64  page address      position of the page's first byte
//! 16  u32  remaining length  of a record that began on an earlier page; not read here
//! 20  4 bytes of padding
//! 24  u64  system identifier
//! 32  u32  segment size, in bytes
//! 36  u32  size of a WAL page, in bytes, usually 8192
//! ```
//! The records behind the header, and their checksums, are not looked at.

use super::{Lsn, SegmentName, SegmentSize, SystemId, Timeline};

const LONG_HEADER: u16 = 0x0002;

/// Every flag that PostgreSQL 13 to 18 knows; it refuses to read a page that has others.
const KNOWN_FLAGS: u16 = 0x000F;

/// `XLOG_PAGE_MAGIC` of the released versions.
const VERSIONS: [(u16, &str); 6] = [
    (0xD106, "13"),
    (0xD10D, "14"),
    (0xD110, "15"),
    (0xD113, "16"),
    (0xD116, "17"),
    (0xD118, "18"),
];

/// Why a segment is not what its name says, or no segment at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than a header.
    #[error(
        "{found_bytes} bytes are too few for a WAL segment: its first page begins with a header of 40 bytes"
    )]
    Short {
        /// How many there were.
        found_bytes: usize,
    },
    /// Nothing but zeros where the header should be: never written, or lost in a crash.
    #[error("the first page is empty: its header of 40 bytes is all zeros, expected that of a WAL segment")]
    Zero,
    /// Not WAL, or of a version unlike any known.
    #[error(
        "the first bytes are not those of a WAL segment: page magic is {found:04X} hexadecimal, expected D1xx"
    )]
    Magic {
        /// The first two bytes, little endian.
        found: u16,
    },
    /// Flags that contradict a first page.
    #[error(
        "the first page is not the start of a segment: its flags are {found:04X} hexadecimal, expected 0002 \
         to be set and none but 000F"
    )]
    Flags {
        /// The flags.
        found: u16,
    },
    /// PostgreSQL counts timelines from 1.
    #[error("the first page states timeline 0, expected 1 or more")]
    TimelineZero,
    /// Not a size `initdb` makes.
    #[error(
        "the first page states a segment size of {found} bytes, expected a power of two from 1 MiB to 1 GiB"
    )]
    SegmentBytes {
        /// The stated size, in bytes.
        found: u32,
    },
    /// Not a size PostgreSQL can be built with.
    #[error("the first page states a page size of {found} bytes, expected a power of two from 1 to 64 KiB")]
    BlockBytes {
        /// The stated size, in bytes.
        found: u32,
    },
    /// The name belongs to a cluster with smaller segments.
    #[error(
        "no segment of {size}, the size its first page states, can be named {name}: the last eight digits \
         are too large for it"
    )]
    NameForSize {
        /// The file's name.
        name: SegmentName,
        /// The size its first page states.
        size: SegmentSize,
    },
    /// The content of another segment.
    #[error(
        "{name} should begin at {expected}, but its first page states {found}: it is the content of another \
         segment"
    )]
    PageAddress {
        /// The file's name.
        name: SegmentName,
        /// Where a segment of this name begins.
        expected: Lsn,
        /// Where the page says it begins.
        found: Lsn,
    },
    /// A page written later than its file's timeline.
    #[error("{name} is of timeline {expected}, but its first page was written on the later timeline {found}")]
    LaterTimeline {
        /// The file's name.
        name: SegmentName,
        /// The timeline in the name.
        expected: Timeline,
        /// The timeline on the page.
        found: Timeline,
    },
}

/// How the timeline on the first page relates to the one in the file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineMatch {
    /// The same.
    Exact,
    /// The page is older. The first segment of a new timeline begins as a copy of the old one's pages, so
    /// this is right if, and only if, the file's timeline descends from this one: the timeline history tells.
    Ancestor(Timeline),
}

/// The header of a segment's first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// 0xD1xx; see [`PageHeader::postgres_version`].
    pub magic: u16,
    /// Flags.
    pub info: u16,
    /// The timeline on which the page was begun.
    pub timeline: Timeline,
    /// Position of the segment's first byte.
    pub page_address: Lsn,
    /// The cluster that wrote it.
    pub system_id: SystemId,
    /// Length of the segment; always one that [`SegmentSize`] takes.
    pub segment_bytes: u32,
    /// Length of a WAL page, usually 8192.
    pub block_bytes: u32,
}

impl PageHeader {
    /// Length of the header: the least that [`PageHeader::parse`] needs of a segment's beginning.
    pub const BYTES: usize = 40;

    /// Reads the header from a segment's first bytes, [`PageHeader::BYTES`] or more.
    ///
    /// # Errors
    /// All of [`HeaderError`] but the three that need the file's name.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = bytes.first_chunk().ok_or(HeaderError::Short {
            found_bytes: bytes.len(),
        })?;
        if header.iter().all(|byte| *byte == 0) {
            return Err(HeaderError::Zero);
        }
        Self::decode(header)?.checked()
    }

    fn decode(header: &[u8; Self::BYTES]) -> Result<Self, HeaderError> {
        // The high byte of every magic is D1, which therefore tells the byte order.
        let big_endian = match header {
            [_, 0xD1, ..] => false,
            [0xD1, ..] => true,
            [low, high, ..] => {
                return Err(HeaderError::Magic {
                    found: u16::from_le_bytes([*low, *high]),
                });
            }
        };
        let at = |from: usize, length: usize| {
            let field = header[from..from + length].iter();
            let push = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
            if big_endian {
                field.fold(0, push)
            } else {
                field.rev().fold(0, push)
            }
        };
        Ok(Self {
            magic: at(0, 2) as u16,
            info: at(2, 2) as u16,
            timeline: Timeline(at(4, 4) as u32),
            page_address: Lsn(at(8, 8)),
            system_id: SystemId(at(24, 8)),
            segment_bytes: at(32, 4) as u32,
            block_bytes: at(36, 4) as u32,
        })
    }

    fn checked(self) -> Result<Self, HeaderError> {
        // A later version may have more flags than those known today.
        let strange = self.postgres_version().is_some() && self.info & !KNOWN_FLAGS != 0;
        if strange || self.info & LONG_HEADER == 0 {
            return Err(HeaderError::Flags { found: self.info });
        }
        if self.timeline == Timeline(0) {
            return Err(HeaderError::TimelineZero);
        }
        self.segment_size()?;
        if !self.block_bytes.is_power_of_two() || !(1024..=65536).contains(&self.block_bytes) {
            return Err(HeaderError::BlockBytes {
                found: self.block_bytes,
            });
        }
        Ok(self)
    }

    /// The major version that writes this magic, "13" to "18"; `None` for development versions and later
    /// ones.
    pub fn postgres_version(&self) -> Option<&'static str> {
        VERSIONS
            .iter()
            .find(|(magic, _)| *magic == self.magic)
            .map(|(_, version)| *version)
    }

    /// Is this the magic of a version that is known?
    pub(super) fn is_known(magic: u16) -> bool {
        VERSIONS.iter().any(|(known, _)| *known == magic)
    }

    /// Length of the segment.
    ///
    /// # Errors
    /// [`HeaderError::SegmentBytes`], never for a header that [`PageHeader::parse`] returned.
    pub fn segment_size(&self) -> Result<SegmentSize, HeaderError> {
        SegmentSize::new(self.segment_bytes.into()).map_err(|_| HeaderError::SegmentBytes {
            found: self.segment_bytes,
        })
    }

    /// Is this the first page of the segment `name`?
    ///
    /// # Errors
    /// [`HeaderError::NameForSize`], [`HeaderError::PageAddress`] or [`HeaderError::LaterTimeline`].
    pub fn check_name(&self, name: SegmentName) -> Result<TimelineMatch, HeaderError> {
        let size = self.segment_size()?;
        if !name.valid_for(size) {
            return Err(HeaderError::NameForSize { name, size });
        }
        let expected = name.start(size);
        if self.page_address != expected {
            return Err(HeaderError::PageAddress {
                name,
                expected,
                found: self.page_address,
            });
        }
        match self.timeline.cmp(&name.timeline) {
            std::cmp::Ordering::Less => Ok(TimelineMatch::Ancestor(self.timeline)),
            std::cmp::Ordering::Equal => Ok(TimelineMatch::Exact),
            std::cmp::Ordering::Greater => Err(HeaderError::LaterTimeline {
                name,
                expected: name.timeline,
                found: self.timeline,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: PageHeader = PageHeader {
        magic: 0xD110,
        info: 0x0007,
        timeline: Timeline(2),
        page_address: Lsn(0x3_0500_0000),
        system_id: SystemId(7_412_345_678_901_234_567),
        segment_bytes: 16 << 20,
        block_bytes: 8192,
    };

    /// The 40 bytes as a little-endian machine writes them, with something in the fields that are not read.
    fn little_endian(header: PageHeader) -> Vec<u8> {
        [
            &header.magic.to_le_bytes()[..],
            &header.info.to_le_bytes(),
            &header.timeline.0.to_le_bytes(),
            &header.page_address.0.to_le_bytes(),
            &[0xAA; 8],
            &header.system_id.0.to_le_bytes(),
            &header.segment_bytes.to_le_bytes(),
            &header.block_bytes.to_le_bytes(),
        ]
        .concat()
    }

    fn big_endian(header: PageHeader) -> Vec<u8> {
        let mut bytes = little_endian(header);
        for field in [0..2, 2..4, 4..8, 8..16, 16..20, 24..32, 32..36, 36..40] {
            bytes[field].reverse();
        }
        bytes
    }

    fn name(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    #[test]
    fn both_byte_orders() {
        assert_eq!(PageHeader::parse(&little_endian(GOOD)), Ok(GOOD));
        assert_eq!(PageHeader::parse(&big_endian(GOOD)), Ok(GOOD));
        let longer = [little_endian(GOOD), vec![0xFF; 8152]].concat();
        assert_eq!(PageHeader::parse(&longer), Ok(GOOD));
    }

    #[test]
    fn versions() {
        let known = VERSIONS.map(|(magic, _)| PageHeader { magic, ..GOOD }.postgres_version().unwrap());
        assert_eq!(known, ["13", "14", "15", "16", "17", "18"]);
        // A version to come, with a flag to come.
        let later = PageHeader {
            magic: 0xD12F,
            info: 0x0012,
            ..GOOD
        };
        assert_eq!(PageHeader::parse(&little_endian(later)), Ok(later));
        assert_eq!(later.postgres_version(), None);
    }

    #[test]
    fn no_header() {
        assert_eq!(PageHeader::parse(&[]), Err(HeaderError::Short { found_bytes: 0 }));
        assert_eq!(
            PageHeader::parse(&little_endian(GOOD)[..39]),
            Err(HeaderError::Short { found_bytes: 39 })
        );
        assert_eq!(PageHeader::parse(&[0; 8192]), Err(HeaderError::Zero));
        assert_eq!(
            PageHeader::parse(&[b'x'; 8192]),
            Err(HeaderError::Magic { found: 0x7878 })
        );
        let zero_magic = [vec![0; 2], little_endian(GOOD)[2..].to_vec()].concat();
        assert_eq!(
            PageHeader::parse(&zero_magic),
            Err(HeaderError::Magic { found: 0 })
        );
    }

    #[test]
    fn fields_that_cannot_be() {
        for (header, expected) in [
            (
                PageHeader { info: 0x0005, ..GOOD },
                HeaderError::Flags { found: 0x0005 },
            ),
            (
                PageHeader { info: 0x0012, ..GOOD },
                HeaderError::Flags { found: 0x0012 },
            ),
            (
                PageHeader {
                    timeline: Timeline(0),
                    ..GOOD
                },
                HeaderError::TimelineZero,
            ),
            (
                PageHeader {
                    segment_bytes: 0,
                    ..GOOD
                },
                HeaderError::SegmentBytes { found: 0 },
            ),
            (
                PageHeader {
                    segment_bytes: 3 << 20,
                    ..GOOD
                },
                HeaderError::SegmentBytes { found: 3 << 20 },
            ),
            (
                PageHeader {
                    segment_bytes: 1 << 31,
                    ..GOOD
                },
                HeaderError::SegmentBytes { found: 1 << 31 },
            ),
            (
                PageHeader {
                    block_bytes: 0,
                    ..GOOD
                },
                HeaderError::BlockBytes { found: 0 },
            ),
            (
                PageHeader {
                    block_bytes: 512,
                    ..GOOD
                },
                HeaderError::BlockBytes { found: 512 },
            ),
            (
                PageHeader {
                    block_bytes: 8193,
                    ..GOOD
                },
                HeaderError::BlockBytes { found: 8193 },
            ),
        ] {
            assert_eq!(PageHeader::parse(&little_endian(header)), Err(expected.clone()));
            assert_eq!(PageHeader::parse(&big_endian(header)), Err(expected));
        }
    }

    #[test]
    fn the_right_name() {
        assert_eq!(
            GOOD.check_name(name("000000020000000300000005")),
            Ok(TimelineMatch::Exact)
        );
        let later = name("000000040000000300000005");
        assert_eq!(GOOD.check_name(later), Ok(TimelineMatch::Ancestor(Timeline(2))));
    }

    #[test]
    fn the_wrong_name() {
        let earlier = name("000000010000000300000005");
        assert_eq!(
            GOOD.check_name(earlier),
            Err(HeaderError::LaterTimeline {
                name: earlier,
                expected: Timeline(1),
                found: Timeline(2)
            })
        );
        for (wrong, expected) in [
            (name("000000020000000300000006"), Lsn(0x3_0600_0000)),
            (name("000000020000000200000005"), Lsn(0x2_0500_0000)),
        ] {
            let found = GOOD.page_address;
            assert_eq!(
                GOOD.check_name(wrong),
                Err(HeaderError::PageAddress {
                    name: wrong,
                    expected,
                    found
                })
            );
        }
        // Of 1 MiB segments this name is possible, of 16 MiB it is not.
        let small = name("000000020000000300000100");
        let size = SegmentSize::new(16 << 20).unwrap();
        assert_eq!(
            GOOD.check_name(small),
            Err(HeaderError::NameForSize { name: small, size })
        );
    }

    #[test]
    fn a_message_says_what_was_expected_and_found() {
        let wrong = name("000000020000000300000006");
        assert_eq!(
            GOOD.check_name(wrong).unwrap_err().to_string(),
            "000000020000000300000006 should begin at 3/6000000, but its first page states 3/5000000: \
             it is the content of another segment"
        );
    }
}

//! Names of the files PostgreSQL archives, spelled exactly as `xlog_internal.h` spells them.
//!
//! ```text
//! 000000010000000A000000FE                   segment: timeline, log, segment of the log
//! 000000010000000A000000FE.partial           last segment of a timeline, left at a promotion
//! 000000010000000A000000FE.00000028.backup   history of a backup that began at that offset of that segment
//! 00000002.history                           where timeline 2 comes from
//! ```
//! Digits are hexadecimal in upper case. A name says nothing about the segment size, and the size decides how
//! many segments a log has (256 of 16 MiB); arithmetic on names therefore asks for it.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::{Lsn, SegmentSize, Timeline};

/// A text that is not the name of a file PostgreSQL archives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Wrong length, characters or ending.
    #[error(
        "{found:?} is not a name that PostgreSQL archives: expected a WAL segment (24 hexadecimal digits in \
         upper case), SEGMENT.partial, SEGMENT.OFFSET.backup (8 digits) or TIMELINE.history (8 digits)"
    )]
    Unknown {
        /// The name.
        found: String,
    },
    /// The first eight digits are zero.
    #[error("{found:?} names timeline 0, which does not exist: PostgreSQL counts timelines from 1")]
    TimelineZero {
        /// The name.
        found: String,
    },
}

/// Name of a WAL segment. Ordered as its text is: by timeline, then by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// First eight digits, never 0.
    pub timeline: Timeline,
    /// Middle eight digits: upper half of the position.
    pub log: u32,
    /// Last eight digits: which segment of that log.
    pub seg: u32,
}

impl SegmentName {
    /// Can a cluster with this segment size have a segment of this name?
    pub fn valid_for(self, size: SegmentSize) -> bool {
        u64::from(self.seg) < size.per_log()
    }

    /// How many segments of this size come before it, on whatever timelines. For a name
    /// [valid](Self::valid_for) for the size.
    pub fn number(self, size: SegmentSize) -> u64 {
        u64::from(self.log) * size.per_log() + u64::from(self.seg)
    }

    /// Position of the segment's first byte. For a name [valid](Self::valid_for) for the size.
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.number(size).saturating_mul(size.bytes()))
    }

    /// The segment with that number, or `None` past the last position an [`Lsn`] can hold.
    pub fn from_number(timeline: Timeline, number: u64, size: SegmentSize) -> Option<Self> {
        let log = u32::try_from(number / size.per_log()).ok()?;
        let seg = u32::try_from(number % size.per_log()).ok()?;
        Some(Self { timeline, log, seg })
    }

    /// The following segment of the same timeline, or `None` past the last position an [`Lsn`] can hold.
    pub fn next(self, size: SegmentSize) -> Option<Self> {
        Self::from_number(self.timeline, self.number(size) + 1, size)
    }

    fn parse(digits: &str) -> Option<Self> {
        let (timeline, rest) = digits.split_at_checked(8)?;
        let (log, seg) = rest.split_at_checked(8)?;
        Some(Self {
            timeline: Timeline(eight_digits(timeline)?),
            log: eight_digits(log)?,
            seg: eight_digits(seg)?,
        })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.seg)
    }
}

impl FromStr for SegmentName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.parse()? {
            WalName::Segment(name) => Ok(name),
            _ => Err(NameError::Unknown {
                found: text.to_owned(),
            }),
        }
    }
}

/// Name of any file that PostgreSQL archives. Ordered as its text is, so that a listing in either order
/// agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalName {
    /// A whole segment.
    Segment(SegmentName),
    /// The last segment of a timeline, of full length, perhaps with garbage at its end.
    Partial(SegmentName),
    /// The history of a timeline.
    History(Timeline),
    /// The history of a base backup: segment and offset in it, in bytes, where the backup began.
    Backup(SegmentName, u32),
}

impl WalName {
    /// The timeline in the name.
    pub fn timeline(self) -> Timeline {
        match self {
            Self::History(timeline) => timeline,
            Self::Segment(name) | Self::Partial(name) | Self::Backup(name, _) => name.timeline,
        }
    }

    /// Is its content WAL pages, as long as a segment? `.history` and `.backup` files are small texts.
    pub fn has_pages(self) -> bool {
        matches!(self, Self::Segment(_) | Self::Partial(_))
    }

    /// The segment in the name, which a `.backup` file has as well; a timeline history has none.
    pub fn segment(self) -> Option<SegmentName> {
        match self {
            Self::Segment(name) | Self::Partial(name) | Self::Backup(name, _) => Some(name),
            Self::History(_) => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let Some((digits, ending)) = text.split_once('.') else {
            return SegmentName::parse(text).map(Self::Segment);
        };
        match ending {
            "history" => eight_digits(digits).map(|number| Self::History(Timeline(number))),
            "partial" => SegmentName::parse(digits).map(Self::Partial),
            _ => {
                let offset = eight_digits(ending.strip_suffix(".backup")?)?;
                Some(Self::Backup(SegmentName::parse(digits)?, offset))
            }
        }
    }

    /// Compares as the text does: '.' sorts before every digit, `.00000028.backup` before `.partial`.
    fn sort_key(self) -> (Timeline, Option<SegmentName>, u8, u32) {
        let (kind, offset) = match self {
            Self::History(_) | Self::Segment(_) => (0, 0),
            Self::Backup(_, offset) => (1, offset),
            Self::Partial(_) => (2, 0),
        };
        (self.timeline(), self.segment(), kind, offset)
    }
}

impl Ord for WalName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sort_key().cmp(&other.sort_key())
    }
}

impl PartialOrd for WalName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => name.fmt(out),
            Self::Partial(name) => write!(out, "{name}.partial"),
            Self::History(timeline) => write!(out, "{:08X}.history", timeline.0),
            Self::Backup(name, offset) => write!(out, "{name}.{offset:08X}.backup"),
        }
    }
}

impl FromStr for WalName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = Self::parse(text).ok_or_else(|| NameError::Unknown {
            found: text.to_owned(),
        })?;
        if name.timeline() == Timeline(0) {
            return Err(NameError::TimelineZero {
                found: text.to_owned(),
            });
        }
        Ok(name)
    }
}

/// Eight hexadecimal digits in upper case: `from_str_radix` alone would take lower case and a sign.
fn eight_digits(text: &str) -> Option<u32> {
    let spelled = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    spelled.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(timeline: u32, log: u32, seg: u32) -> SegmentName {
        SegmentName {
            timeline: Timeline(timeline),
            log,
            seg,
        }
    }

    fn mib(count: u64) -> SegmentSize {
        SegmentSize::new(count << 20).unwrap()
    }

    #[test]
    fn names_accepted() {
        let name = segment(1, 0xA, 0xFE);
        for (text, expected) in [
            ("000000010000000A000000FE", WalName::Segment(name)),
            ("000000010000000A000000FE.partial", WalName::Partial(name)),
            (
                "000000010000000A000000FE.00000028.backup",
                WalName::Backup(name, 0x28),
            ),
            ("00000002.history", WalName::History(Timeline(2))),
            ("FFFFFFFF.history", WalName::History(Timeline(u32::MAX))),
            (
                "FFFFFFFFFFFFFFFFFFFFFFFF",
                WalName::Segment(segment(u32::MAX, u32::MAX, u32::MAX)),
            ),
        ] {
            assert_eq!(text.parse(), Ok(expected));
            assert_eq!(expected.to_string(), text);
        }
    }

    #[test]
    fn names_refused() {
        for text in [
            "",
            ".",
            "..",
            "00000001000000000000000",
            "0000000100000000000000011",
            "00000001000000000000000a",
            "00000001000000000000000G",
            "+0000001000000000000000A",
            "00000001+000000000000001",
            " 000000010000000000000001",
            "000000010000000000000001\n",
            "000000010000000000000001.",
            "000000010000000000000001.PARTIAL",
            "000000010000000000000001.partial.",
            "000000010000000000000001.partial.partial",
            "000000010000000000000001.gz",
            "000000010000000000000001.history",
            "000000010000000000000001.backup",
            "000000010000000000000001.0000028.backup",
            "000000010000000000000001.0000002a.backup",
            "000000010000000000000001.00000028.backup.partial",
            "000000010000000000000001.00000028.partial",
            "0000002.history",
            "00000002.History",
            "0000000a.history",
            "00000002.history.tmp",
            "00000001.partial",
            "archive_status",
            "backup_label",
            "ü00000010000000000000001",
            "0000000ü000000000000001",
        ] {
            assert_eq!(
                text.parse::<WalName>(),
                Err(NameError::Unknown {
                    found: text.to_owned()
                })
            );
        }
    }

    #[test]
    fn timeline_zero_is_refused() {
        for text in [
            "000000000000000000000001",
            "000000000000000000000001.partial",
            "000000000000000000000001.00000028.backup",
            "00000000.history",
        ] {
            assert_eq!(
                text.parse::<WalName>(),
                Err(NameError::TimelineZero {
                    found: text.to_owned()
                })
            );
        }
    }

    #[test]
    fn a_segment_name_is_only_a_segment() {
        assert_eq!("000000010000000000000001".parse(), Ok(segment(1, 0, 1)));
        for text in ["000000010000000000000001.partial", "00000002.history"] {
            assert_eq!(
                text.parse::<SegmentName>(),
                Err(NameError::Unknown {
                    found: text.to_owned()
                })
            );
        }
    }

    #[test]
    fn arithmetic_at_the_edges_of_a_log() {
        for (size, last_of_log) in [(mib(1), 0xFFF), (mib(16), 0xFF), (mib(64), 0x3F), (mib(1024), 3)] {
            let last = segment(1, 0, last_of_log);
            assert!(last.valid_for(size));
            assert!(!segment(1, 0, last_of_log + 1).valid_for(size));
            assert_eq!(last.start(size), Lsn((1 << 32) - size.bytes()));
            assert_eq!(last.next(size), Some(segment(1, 1, 0)));
            assert_eq!(segment(1, 1, 0).start(size), Lsn(1 << 32));
        }
    }

    #[test]
    fn from_the_first_segment_to_the_next_log() {
        let mut name = "000000010000000000000001".parse::<SegmentName>().unwrap();
        for _ in 1..=0xFF {
            name = name.next(mib(16)).unwrap();
        }
        assert_eq!(name.to_string(), "000000010000000100000000");
        assert_eq!(name.number(mib(16)), 0x100);
    }

    #[test]
    fn after_the_last_segment_comes_none() {
        for size in (0..=10).map(|power| mib(1 << power)) {
            let last = SegmentName::from_number(Timeline(7), u64::MAX / size.bytes(), size).unwrap();
            assert_eq!(last.start(size), Lsn(u64::MAX - size.bytes() + 1));
            assert_eq!(last.next(size), None);
        }
        // A name no cluster has must not overflow either: names come from outside.
        assert_eq!(segment(1, u32::MAX, u32::MAX).start(mib(1)), Lsn(u64::MAX));
        assert_eq!(segment(1, u32::MAX, u32::MAX).next(mib(1024)), None);
    }

    fn any_name() -> impl Strategy<Value = WalName> {
        // Few numbers, so that pairs share beginnings and the order has something to decide.
        let number = || prop_oneof![0..3_u32, Just(u32::MAX), any::<u32>()];
        (
            0..4,
            1..=u32::MAX,
            prop_oneof![Just(1), Just(2), 1..=u32::MAX],
            number(),
            number(),
            number(),
        )
            .prop_map(|(kind, other, timeline, log, seg, offset)| match kind {
                0 => WalName::Segment(segment(timeline, log, seg)),
                1 => WalName::Partial(segment(timeline, log, seg)),
                2 => WalName::Backup(segment(timeline, log, seg), offset),
                _ => WalName::History(Timeline(if offset == 0 { timeline } else { other })),
            })
    }

    proptest! {
        #[test]
        fn name_round_trip(name in any_name()) {
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn names_order_as_their_texts(a in any_name(), b in any_name()) {
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn number_round_trip(power in 0..=10_u32, lsn: u64) {
            let size = mib(1 << power);
            let number = lsn / size.bytes();
            let name = SegmentName::from_number(Timeline(1), number, size).unwrap();
            prop_assert!(name.valid_for(size));
            prop_assert_eq!(name.number(size), number);
            prop_assert_eq!(name.start(size), Lsn(lsn - lsn % size.bytes()));
        }

        #[test]
        fn next_is_one_segment_further(power in 0..=10_u32, lsn in 0..1_u64 << 60) {
            let size = mib(1 << power);
            let name = SegmentName::from_number(Timeline(3), lsn / size.bytes(), size).unwrap();
            let next = name.next(size).unwrap();
            prop_assert_eq!(next.start(size).0 - name.start(size).0, size.bytes());
            prop_assert!(next > name && next.timeline == name.timeline);
        }
    }
}

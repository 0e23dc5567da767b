//! The segments of a range of positions.

use super::{Lsn, SegmentName, SegmentSize, Timeline};

/// The segments of a timeline with the bytes from `start` up to but not with `end`, in order. An `end` on a boundary
/// does not need the segment that begins there (`XLByteToPrevSeg` of `xlog_internal.h`), which PostgreSQL may not
/// have archived yet.
pub fn segments(
    timeline: Timeline,
    start: Lsn,
    end: Lsn,
    size: SegmentSize,
) -> impl DoubleEndedIterator<Item = SegmentName> {
    let first = start.0 / size.bytes();
    let after_last = end.0.div_ceil(size.bytes());
    (first..after_last).filter_map(move |number| SegmentName::from_number(timeline, number, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(start: u64, end: u64, mib: u64) -> Vec<String> {
        let size = SegmentSize::new(mib << 20).unwrap();
        segments(Timeline(3), Lsn(start), Lsn(end), size)
            .map(|name| name.to_string())
            .collect()
    }

    #[test]
    fn from_the_first_byte_to_the_last() {
        for (start, end, mib, expected) in [
            (0x200_0028, 0x200_0138, 16, vec!["000000030000000000000002"]),
            (0x200_0028, 0x300_0000, 16, vec!["000000030000000000000002"]),
            (
                0x200_0028,
                0x300_0001,
                16,
                vec!["000000030000000000000002", "000000030000000000000003"],
            ),
            (
                0xFF00_0000,
                0x1_0000_0001,
                16,
                vec!["0000000300000000000000FF", "000000030000000100000000"],
            ),
            (0, 0x4000_0000, 1024, vec!["000000030000000000000000"]),
            (0x200_0000, 0x200_0000, 16, vec![]),
            (0x300_0000, 0x200_0000, 16, vec![]),
        ] {
            assert_eq!(names(start, end, mib), expected, "{start:X} {end:X}");
        }
    }

    #[test]
    fn up_to_the_last_position_there_is() {
        let expected = ["00000003FFFFFFFF000000FF"];
        assert_eq!(names(u64::MAX - 1, u64::MAX, 16), expected);
    }
}

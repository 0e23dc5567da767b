//! Lines such as `START TIMELINE: 1`, of which backup labels and backup histories consist.

use super::{Lsn, SegmentName, Timeline};

/// What follows `key: ` on the first line that begins so.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

/// `0/2000028 (file 000000010000000000000002)`.
pub(super) fn parse_place(text: &str) -> Option<(Lsn, SegmentName)> {
    let (lsn, file) = text.split_once(" (file ")?;
    Some((lsn.parse().ok()?, file.strip_suffix(')')?.parse().ok()?))
}

/// Decimal digits, without a sign; not 0.
pub(super) fn parse_timeline(text: &str) -> Option<Timeline> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = plain.then(|| text.parse().ok()).flatten()?;
    (number > 0).then_some(Timeline(number))
}

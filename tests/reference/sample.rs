//! Names that are written, and contents for them: small, valid and invalid, cut in pieces at awkward places.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use walfs::pg::{PageHeader, WalName, backup_history, history};

use crate::common::wal;

/// Segments of the smallest size there is.
pub(crate) const SEGMENT_BYTES: u32 = 1 << 20;

/// Whose WAL it is.
pub(crate) const OURS: u64 = 7_300_000_000_000_000_001;
const THEIRS: u64 = 7_300_000_000_000_000_002;

/// Pieces that a content is written in.
pub(crate) const PIECES: usize = 7;

/// Where a content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// What belongs under the name.
    Right,
    /// So does this, but it is not the same.
    Other,
    /// Of another cluster; a text that is none.
    Foreign,
    /// What belongs under another name.
    Misplaced,
    /// Zeros.
    Zeros,
}

/// Final names, then temporary ones.
pub(crate) static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let segment = |number| wal::segment_name(1, number, SEGMENT_BYTES);
    vec![
        segment(1),
        segment(2),
        format!("{}.partial", segment(3)),
        "00000002.history".into(),
        format!("{}.00000028.backup", segment(2)),
        format!("{}.tmp", segment(1)),
        format!(".{}.Ab12Cd", segment(2)),
        "00000002.history.tmp".into(),
    ]
});

/// How many of [`NAMES`] are final.
pub(crate) const FINALS: usize = 5;

/// The content for a name, temporary or not.
pub(crate) fn content(name: &str, source: Source) -> Arc<Vec<u8>> {
    type Known = Mutex<HashMap<(String, Source), Arc<Vec<u8>>>>;
    static KNOWN: LazyLock<Known> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(|poison| poison.into_inner());
    let made = known
        .entry((name.to_owned(), source))
        .or_insert_with(|| Arc::new(make(name, source)));
    made.clone()
}

fn make(name: &str, source: Source) -> Vec<u8> {
    let plain = name.trim_start_matches('.');
    if plain.contains(".history") {
        return history_text(source).into();
    }
    if plain.contains(".backup") {
        return backup_text(&plain[..24], source).into();
    }
    let segment = &plain[..24];
    match source {
        Source::Right => wal::segment(segment, OURS, SEGMENT_BYTES, 1),
        Source::Other => wal::segment(segment, OURS, SEGMENT_BYTES, 2),
        Source::Foreign => wal::segment(segment, THEIRS, SEGMENT_BYTES, 1),
        Source::Misplaced => wal::segment(&wal::segment_name(1, 9, SEGMENT_BYTES), OURS, SEGMENT_BYTES, 1),
        Source::Zeros => vec![0; SEGMENT_BYTES as usize],
    }
}

/// All 41 bytes long.
fn history_text(source: Source) -> String {
    match source {
        Source::Right => "1\t0/3000000\tno recovery target specified\n".into(),
        Source::Other => "1\t0/4000000\tno recovery target specified\n".into(),
        Source::Foreign => "this is what somebody wrote in an editor\n".into(),
        Source::Misplaced => "7\t0/3000000\tno recovery target specified\n".into(),
        Source::Zeros => "\0".repeat(41),
    }
}

fn backup_text(segment: &str, source: Source) -> String {
    let (label, lsn) = match source {
        Source::Right => ("nightly", "0/200028"),
        Source::Other => ("evening", "0/200028"),
        _ => ("nightly", "0/300040"),
    };
    let text = format!(
        "START WAL LOCATION: {lsn} (file {segment})\nSTOP WAL LOCATION: 0/200138 (file {segment})\n\
         CHECKPOINT LOCATION: 0/200060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
         START TIME: 2026-11-20 21:14:03 UTC\nLABEL: {label}\nSTART TIMELINE: 1\n\
         STOP TIME: 2026-11-20 21:15:47 UTC\nSTOP TIMELINE: 1\n"
    );
    match source {
        Source::Foreign => text.replace("WAL LOCATION", "ODD LOCATION"),
        Source::Zeros => "\0".repeat(text.len()),
        _ => text,
    }
}

/// Where the pieces of a content of this length begin, and its end: not at the borders of pages and frames only.
pub(crate) fn cuts(bytes: usize) -> [usize; PIECES + 1] {
    if bytes == SEGMENT_BYTES as usize {
        return [0, 40, 8192, 100_000, 262_144, 524_288, 800_001, bytes];
    }
    [0, 1, 11, bytes / 3, bytes / 2, bytes - 9, bytes - 1, bytes]
}

/// May this content stand under this final name, in an archive of that cluster (or of none yet)?
///
/// This is promise W3 and W5 for whole contents; what of them has been written is not asked here.
pub(crate) fn is_valid(name: &str, content: &[u8], cluster: Option<u64>) -> bool {
    match name.parse().expect("a final name") {
        WalName::History(timeline) => history::parse(content, timeline).is_ok(),
        WalName::Backup(segment, offset) => {
            backup_history::parse(content).is_ok_and(|backup| backup.check_name(segment, offset).is_ok())
        }
        WalName::Segment(segment) | WalName::Partial(segment) => {
            content.len() == SEGMENT_BYTES as usize
                && PageHeader::parse(content).is_ok_and(|header| {
                    header.check_name(segment).is_ok()
                        && cluster.is_none_or(|cluster| header.system_id.0 == cluster)
                })
        }
    }
}

/// All valid and invalid contents are cut where the pieces say.
#[test]
fn samples_are_what_they_are_called() {
    for name in &NAMES[..FINALS] {
        for (source, valid) in [
            (Source::Right, true),
            (Source::Other, true),
            (Source::Foreign, false),
            (Source::Misplaced, false),
            (Source::Zeros, false),
        ] {
            let bytes = content(name, source);
            assert_eq!(is_valid(name, &bytes, Some(OURS)), valid, "{name} {source:?}");
            assert_eq!(bytes.len(), content(name, Source::Right).len());
            assert!(cuts(bytes.len()).is_sorted());
        }
    }
}

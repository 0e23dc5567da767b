//! Timeline history: the `.history` file of a timeline, as `timeline.c` writes and reads it.
//!
//! ```text
//! 1<tab>0/3000000<tab>no recovery target specified
//!
//! 2<tab>0/5000148<tab>before 2026-11-20 21:14:03.1+00
//! ```
//! One line for each ancestor, oldest first: timeline, position where it was left, reason. `#` begins a
//! comment. Stricter than PostgreSQL in what only a file cut short or torn would fail: the last line is
//! complete, there is at least one entry, and there are no zero bytes.
//!
//! A recovery to a target before the place where a timeline began, which reads that timeline's copy of the segment, makes
//! a successor that has left the timeline before it began. Nothing is read from such an ancestor (`tliOfPointInHistory`),
//! so it is left out: the successor has left the one before.

use super::{Lsn, Timeline};

/// One ancestor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The ancestor.
    pub timeline: Timeline,
    /// Where it was left for its successor: the first byte that is no longer its.
    pub end: Lsn,
    /// Why, in PostgreSQL's words; may be empty. What is not UTF-8 is replaced.
    pub reason: String,
}

/// Why bytes are not the history of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// No ancestors: only timeline 1 has none, and PostgreSQL writes no history for it.
    #[error("the history of timeline {own} has no entry, expected one for each of its ancestors")]
    Empty {
        /// Whose history it is.
        own: Timeline,
    },
    /// The last line does not end.
    #[error(
        "the history of timeline {own} is cut short: its last line, {found:?}, does not end in a newline"
    )]
    Truncated {
        /// Whose history it is.
        own: Timeline,
        /// The last line.
        found: String,
    },
    /// Not an entry.
    #[error(
        "line {line} of the history of timeline {own} is {found:?}, expected a timeline, a position such as \
         0/3000000 and a reason, separated by tabs"
    )]
    Line {
        /// Whose history it is.
        own: Timeline,
        /// Counted from 1.
        line: usize,
        /// The line.
        found: String,
    },
    /// Timelines do not ascend.
    #[error(
        "line {line} of the history of timeline {own} states timeline {found}, expected one after {previous} \
         and before {own}"
    )]
    Order {
        /// Whose history it is.
        own: Timeline,
        /// Counted from 1.
        line: usize,
        /// The timeline of the entry before, or 0.
        previous: Timeline,
        /// The timeline of the entry.
        found: Timeline,
    },
}

/// Reads the history of timeline `own`: its ancestors that have WAL in it, oldest first, at least one, each left where the
/// one before was, or behind that.
///
/// # Errors
/// All of [`HistoryError`].
pub fn parse(bytes: &[u8], own: Timeline) -> Result<Vec<HistoryEntry>, HistoryError> {
    let text = String::from_utf8_lossy(bytes);
    if !text.is_empty() && !text.ends_with('\n') {
        let found = text.lines().next_back().unwrap_or_default().to_owned();
        return Err(HistoryError::Truncated { own, found });
    }
    let mut entries: Vec<HistoryEntry> = Vec::new();
    let mut previous = Timeline(0);
    for (line, found) in (1..).zip(text.lines()) {
        let broken = || HistoryError::Line {
            own,
            line,
            found: found.to_owned(),
        };
        if found.contains('\0') {
            return Err(broken());
        }
        let content = found.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let entry = parse_entry(content).ok_or_else(broken)?;
        if entry.timeline <= previous || entry.timeline >= own {
            return Err(HistoryError::Order {
                own,
                line,
                previous,
                found: entry.timeline,
            });
        }
        previous = entry.timeline;
        push(&mut entries, entry);
    }
    if entries.is_empty() {
        Err(HistoryError::Empty { own })
    } else {
        Ok(entries)
    }
}

/// Without those that this one has left before they began.
fn push(entries: &mut Vec<HistoryEntry>, mut entry: HistoryEntry) {
    while let Some(before) = entries.pop_if(|before| before.end > entry.end) {
        entry.timeline = before.timeline;
    }
    entries.push(entry);
}

/// Any white space separates, as for PostgreSQL's `sscanf`: somebody may have edited the file.
fn parse_entry(line: &str) -> Option<HistoryEntry> {
    let (timeline, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (end, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let timeline = Some(timeline).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some(HistoryEntry {
        timeline: Timeline(timeline.parse().ok()?),
        end: end.parse().ok()?,
        reason: reason.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(timeline: u32, end: u64, reason: &str) -> HistoryEntry {
        HistoryEntry {
            timeline: Timeline(timeline),
            end: Lsn(end),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn what_was_left_before_it_began_is_no_ancestor() {
        let read = |text: &str| -> Vec<(u32, u64)> {
            let entries = parse(text.as_bytes(), Timeline(9)).expect("a history");
            let place = |entry: HistoryEntry| (entry.timeline.0, entry.end.0);
            entries.into_iter().map(place).collect()
        };
        // As PostgreSQL 15 wrote it.
        assert_eq!(read("1\t0/3018CB0\tx\n2\t0/3018C48\ty\n"), [(1, 0x3018C48)]);
        assert_eq!(read("1\t0/300\n2\t0/500\n3\t0/400\n"), [(1, 0x300), (2, 0x400)]);
        assert_eq!(
            read("1\t0/300\n2\t0/500\n3\t0/200\n4\t0/700\n"),
            [(1, 0x200), (4, 0x700)]
        );
        assert_eq!(read("1\t0/300\n2\t0/300\n"), [(1, 0x300), (2, 0x300)]);
    }

    #[test]
    fn as_postgresql_writes_it() {
        let text = b"1\t0/3000000\tno recovery target specified\n\n2\t1/5000148\tat restore point \"a\tb\"\n";
        assert_eq!(
            parse(text, Timeline(3)),
            Ok(vec![
                entry(1, 0x300_0000, "no recovery target specified"),
                entry(2, 0x1_0500_0148, "at restore point \"a\tb\"")
            ])
        );
    }

    #[test]
    fn as_postgresql_takes_it() {
        let text = b"# by hand\n\n  \t\n  1 0/03000000\n4294967294\tf/a\tnot utf-8: \xFF\n#end\n";
        assert_eq!(
            parse(text, Timeline(u32::MAX)),
            Ok(vec![
                entry(1, 0x300_0000, ""),
                entry(u32::MAX - 1, 0xF_0000_000A, "not utf-8: \u{FFFD}")
            ])
        );
    }

    #[test]
    fn nothing_in_it() {
        for bytes in ["", "\n", "# only a comment\n"] {
            assert_eq!(
                parse(bytes.as_bytes(), Timeline(2)),
                Err(HistoryError::Empty { own: Timeline(2) })
            );
        }
    }

    #[test]
    fn cut_short_anywhere() {
        let whole = "1\t0/3000000\tno recovery target specified\n";
        for length in 1..whole.len() {
            let found = whole[..length].to_owned();
            let error = HistoryError::Truncated {
                own: Timeline(2),
                found,
            };
            assert_eq!(parse(&whole.as_bytes()[..length], Timeline(2)), Err(error));
        }
    }

    #[test]
    fn lines_that_are_no_entries() {
        for found in [
            "x",
            "1",
            "1\t",
            "1\t0",
            "1\t0/\tx",
            "+1\t0/1\tx",
            "-1\t0/1\tx",
            "4294967296\t0/1\tx",
            "\0",
            "# \0",
        ] {
            let bytes = format!("\n{found}\n");
            let error = HistoryError::Line {
                own: Timeline(9),
                line: 2,
                found: found.to_owned(),
            };
            assert_eq!(parse(bytes.as_bytes(), Timeline(9)), Err(error));
        }
    }

    #[test]
    fn timelines_must_ascend_below_their_own() {
        for (timelines, line, previous, found) in [
            (vec![0], 1, 0, 0),
            (vec![1, 1], 2, 1, 1),
            (vec![2, 1], 2, 2, 1),
            (vec![1, 3], 2, 1, 3),
            (vec![4], 1, 0, 4),
        ] {
            let text: String = timelines
                .iter()
                .map(|timeline| format!("{timeline}\t0/1\tx\n"))
                .collect();
            let (own, previous, found) = (Timeline(3), Timeline(previous), Timeline(found));
            let error = HistoryError::Order {
                own,
                line,
                previous,
                found,
            };
            assert_eq!(parse(text.as_bytes(), own), Err(error));
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            timelines in prop::collection::btree_set(1..u32::MAX, 1..20),
            end: u64,
            reason in "[a-z\"]([ -~]*[a-z\"])?",
        ) {
            let entries: Vec<_> = timelines.into_iter().map(|number| entry(number, end, &reason)).collect();
            let line = |entry: &HistoryEntry| format!("{}\t{}\t{reason}\n\n", entry.timeline, entry.end);
            let text: String = entries.iter().map(line).collect();
            prop_assert_eq!(parse(text.as_bytes(), Timeline(u32::MAX)), Ok(entries));
        }
    }
}

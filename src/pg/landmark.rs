//! What the WAL of a backup has and that of another server has not: WAL of a copy has the same names and the same system
//! identifier, but not the same records at the same positions.
//!
//! A backup knows where the record of its first checkpoint is and, by its control file, that of a later one; and a primary
//! ends a backup with a record that says where that began. A backup of a standby has no such record; it ends where one ends
//! that the standby has replayed (`minRecoveryPoint`), so that in its WAL no record lies across that position. In another
//! server's one most likely does.

use std::fmt;
use std::ops::Range;

use super::control::ControlFile;
use super::label::{BackupFrom, BackupLabel};
use super::record::{Checkpoint, Found, Record, Window};
use super::{Lsn, PageHeader, SegmentSize};

/// Every page of WAL, of any size, begins at a multiple of its own; so a multiple of the largest is a beginning, too.
const LARGEST_PAGE: u64 = 64 << 10;

/// Each page begins with a magic number, whose high byte comes first on a machine of the other byte order.
const MAGIC_HIGH: u8 = 0xD1;

/// A record that is known before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landmark {
    /// A checkpoint's begins here.
    Checkpoint {
        /// Where it begins.
        at: Lsn,
        /// What it says.
        known: Known,
    },
    /// The end of a backup ends here.
    End {
        /// Where it ends.
        at: Lsn,
        /// Where the backup began.
        start: Lsn,
    },
    /// The backup of a standby ends here, and with it a record.
    Boundary {
        /// Where it ends.
        at: Lsn,
        /// Where the backup began.
        start: Lsn,
    },
}

/// What is known of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// All that a control file says.
    All(Checkpoint),
    /// From where it is replayed, by a backup label.
    Redo(Lsn),
}

/// Something else is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The position.
    pub at: Lsn,
    /// What was expected, in words.
    pub expected: String,
    /// What was found, in words.
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, expected, found } = self;
        write!(out, "expected at {at} {expected}, found {found}")
    }
}

/// Of the landmarks, is it there?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// It is.
    There,
    /// The bytes end before that can be told, or are those of a machine of the other byte order.
    Unseen,
}

/// The landmarks that the label of a backup knows whose WAL ends at `stop`.
pub fn of_label(label: &BackupLabel, stop: Lsn) -> Vec<Landmark> {
    let mut found = Vec::new();
    if (label.start_lsn..stop).contains(&label.checkpoint_lsn) {
        found.push(Landmark::Checkpoint {
            at: label.checkpoint_lsn,
            known: Known::Redo(label.start_lsn),
        });
    }
    let (at, start) = (stop, label.start_lsn);
    found.push(match label.from {
        BackupFrom::Primary => Landmark::End { at, start },
        BackupFrom::Standby => Landmark::Boundary { at, start },
    });
    found
}

/// The one that its control file knows, if the backup's WAL, from `start` to `stop`, has it: a copy by hand may have a control
/// file of a later time.
pub fn of_control(control: &ControlFile, start: Lsn, stop: Lsn) -> Option<Landmark> {
    let is_its = (start..stop).contains(&control.checkpoint_lsn);
    is_its.then_some(Landmark::Checkpoint {
        at: control.checkpoint_lsn,
        known: Known::All(Checkpoint {
            redo: control.redo_lsn,
            timeline: control.timeline,
            time: control.checkpoint_time,
        }),
    })
}

impl Landmark {
    /// Does it lie where the backup ends? Of a copy by hand somebody may have given a later end than its own.
    pub fn is_at_end(self) -> bool {
        matches!(self, Self::End { .. } | Self::Boundary { .. })
    }

    /// The WAL that shows it: two pages or more, from a page's beginning on.
    fn window(self) -> Range<u64> {
        let page = |position: u64| position - position % LARGEST_PAGE;
        let before = |at: Lsn, start: Lsn| page(start.0).max(page(at.0.saturating_sub(LARGEST_PAGE)));
        match self {
            Self::Checkpoint { at, .. } => page(at.0)..page(at.0).saturating_add(2 * LARGEST_PAGE),
            Self::End { at, start } => before(at, start)..at.0,
            Self::Boundary { at, start } => before(at, start)..page(at.0).saturating_add(2 * LARGEST_PAGE),
        }
    }

    /// What has to be read: of segments, by number, bytes from their beginning on. First the header of a segment, which tells
    /// the size of pages, then what follows each other. What lies in a segment that is not at hand, and all behind that, may
    /// be left out.
    pub fn ranges(self, size: SegmentSize) -> Vec<(u64, Range<u64>)> {
        let window = self.window();
        let mut ranges = vec![(window.start / size.bytes(), 0..PageHeader::BYTES as u64)];
        let mut at = window.start;
        while at < window.end {
            let (number, offset) = (at / size.bytes(), at % size.bytes());
            let bytes = (window.end - at).min(size.bytes() - offset);
            ranges.push((number, offset..offset + bytes));
            at += bytes;
        }
        ranges
    }

    /// Number of the segment that has its position.
    pub fn number(self, size: SegmentSize) -> u64 {
        match self {
            Self::Checkpoint { at, .. } => at.0 / size.bytes(),
            Self::End { at, .. } | Self::Boundary { at, .. } => at.0.saturating_sub(1) / size.bytes(),
        }
    }

    /// Is it there? `read` is what its [`Landmark::ranges`] have, up to the first that is not at hand.
    ///
    /// # Errors
    /// [`Mismatch`].
    pub fn check(self, read: &[Vec<u8>]) -> Result<Sight, Mismatch> {
        let Some((header, pages)) = read.split_first() else {
            return Ok(Sight::Unseen);
        };
        let (window, pages) = (self.window(), &*pages.concat());
        let is_whole = pages.len() as u64 >= window.end - window.start;
        if header.first() == Some(&MAGIC_HIGH) {
            return Ok(Sight::Unseen);
        }
        let Ok(header) = PageHeader::parse(header) else {
            return self.mismatch("no WAL".into());
        };
        match self {
            Self::Checkpoint { at, known } => {
                match Window::new(&header, Lsn(window.start), pages).record_at(at) {
                    Found::Record(record) if record.checkpoint().is_some_and(|found| known.is(found)) => {
                        Ok(Sight::There)
                    }
                    Found::Record(record) => self.mismatch(described(&record)),
                    Found::Beyond if !is_whole => Ok(Sight::Unseen),
                    Found::Beyond | Found::Nothing => self.mismatch("no record".into()),
                }
            }
            Self::End { .. } if !is_whole => Ok(Sight::Unseen),
            Self::End { at, start } => match record_before(at, &header, Lsn(window.start), pages) {
                Some(record) if record.backup_end() == Some(start) => Ok(Sight::There),
                Some(record) => self.mismatch(described(&record)),
                None => self.mismatch("no record that ends there".into()),
            },
            Self::Boundary { at, .. } => match across(at, &header, Lsn(window.start), pages) {
                None => Ok(Sight::Unseen),
                Some(Across::Nothing) => Ok(Sight::There),
                Some(Across::Record) => self.mismatch("a record that goes on".into()),
                Some(Across::Switch) => self.mismatch("nothing, behind the switch to another segment".into()),
            },
        }
    }

    fn mismatch(self, found: String) -> Result<Sight, Mismatch> {
        let (at, expected) = match self {
            Self::Checkpoint { at, known } => (at, format!("the checkpoint {known}")),
            Self::End { at, start } => (at, format!("the end of the backup that began at {start}")),
            Self::Boundary { at, .. } => (at, "the end of a record".into()),
        };
        Err(Mismatch { at, expected, found })
    }
}

impl Known {
    fn is(self, found: Checkpoint) -> bool {
        match self {
            Self::All(known) => known == found,
            Self::Redo(redo) => redo == found.redo,
        }
    }
}

impl fmt::Display for Known {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(known) => known.fmt(out),
            Self::Redo(redo) => write!(out, "that is replayed from {redo}"),
        }
    }
}

/// The record that ends at a position: from the last page on in which one begins that leads there. Behind the switch to
/// another segment there are none.
fn record_before(at: Lsn, header: &PageHeader, start: Lsn, pages: &[u8]) -> Option<Record> {
    let begins = (0..pages.len()).step_by(header.block_bytes as usize);
    begins.rev().find_map(|begin| {
        let window = Window::new(header, Lsn(start.0 + begin as u64), &pages[begin..]);
        window.records(window.first()?).find(|record| record.next == at)
    })
}

/// What lies across a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Across {
    Nothing,
    Record,
    Switch,
}

/// `None` where the records do not lead there: only a whole one, or what a page says is left of one, tells something. A position in the header of a page is that of
/// the record behind it.
fn across(at: Lsn, header: &PageHeader, start: Lsn, pages: &[u8]) -> Option<Across> {
    let block = u64::from(header.block_bytes);
    if (1..=PageHeader::BYTES as u64).contains(&(at.0 % block)) {
        return None;
    }
    if let Some(told) = told_by_pages(at, header, start, pages) {
        return Some(told);
    }
    let segment = u64::from(header.segment_bytes);
    let segment_end = Lsn((at.0.saturating_sub(1) / segment + 1).saturating_mul(segment));
    let before = (at.0.saturating_sub(start.0) as usize).min(pages.len());
    let begins = (0..before).step_by(header.block_bytes as usize);
    begins.rev().find_map(|begin| {
        let window = Window::new(header, Lsn(start.0 + begin as u64), &pages[begin..]);
        let tells = |record: Record| match record.next {
            next if next == at => Some(Across::Nothing),
            next if next > at => Some(Across::Record),
            _ if record.is_switch() && record.at.0 / segment == at.0 / segment && at < segment_end => {
                Some(Across::Switch)
            }
            _ => None,
        };
        let first = window.first()?;
        let mut records = window.records(first).take_while(|record| record.at < at);
        records.find_map(tells)
    })
}

/// What the headers of two pages tell, of a record that is longer than what was read: how much of one is left on the page with
/// the position, and whether one goes on behind that page.
fn told_by_pages(at: Lsn, header: &PageHeader, start: Lsn, pages: &[u8]) -> Option<Across> {
    let block = u64::from(header.block_bytes);
    let page = at.0 - at.0 % block;
    let window = |page: u64| {
        let begin = page.checked_sub(start.0)? as usize;
        Some(Window::new(header, Lsn(page), pages.get(begin..)?))
    };
    let here = window(page)?;
    match here.goes_on_to() {
        Some(end) if end == at => return Some(Across::Nothing),
        Some(end) if end > at => return Some(Across::Record),
        _ => {}
    }
    window(page.checked_add(block)?)?.goes_on_to()?;
    // The record that goes on behind the page begins where the last whole one ends.
    let first = here.first()?;
    let ends = here.records(first).map(|record| record.next);
    let begin = ends.take_while(|end| *end <= at).last().unwrap_or(first);
    (begin < at && at.0 > page).then_some(Across::Record)
}

fn described(record: &Record) -> String {
    match (record.checkpoint(), record.backup_end()) {
        (Some(checkpoint), _) => format!("one {checkpoint}"),
        (_, Some(start)) => format!("the end of one that began at {start}"),
        _ => "another record".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{BLOCK, START, commit, header, pages, record};
    use super::*;
    use crate::pg::Timeline;

    const REDO: Lsn = Lsn(START.0 + 40);

    /// The header of the segment at `START`.
    fn first_page() -> Vec<u8> {
        [
            &[0x10, 0xD1, 2, 0, 1, 0, 0, 0][..],
            &START.0.to_le_bytes(),
            &[0; 8],
            &1_u64.to_le_bytes(),
            &(1_u32 << 20).to_le_bytes(),
            &(BLOCK as u32).to_le_bytes(),
        ]
        .concat()
    }

    fn checkpoint(redo: Lsn, seconds: i64) -> Vec<u8> {
        let times = [&[0; 48][..], &seconds.to_le_bytes(), &[0; 16]].concat();
        let main = [&redo.0.to_le_bytes()[..], &1_u64.to_le_bytes(), &times].concat();
        record((0, 0x10), &main)
    }

    fn end(start: Lsn) -> Vec<u8> {
        record((0, 0x50), &start.0.to_le_bytes())
    }

    fn records(bytes: &[u8]) -> Vec<Record> {
        let window = Window::new(&header(), START, bytes);
        window.records(window.first().unwrap()).collect()
    }

    fn known(redo: Lsn, seconds: i64) -> Known {
        Known::All(Checkpoint {
            redo,
            timeline: Timeline(1),
            time: jiff::Timestamp::from_second(seconds).unwrap(),
        })
    }

    /// Wherever it lies on its page, and over the end of that.
    #[test]
    fn b2_a_backups_records_are_known() {
        for more in (7900..8200).step_by(8) {
            let bytes = pages(16, &[commit(more), checkpoint(REDO, 99), end(REDO), commit(1)]);
            let found = records(&bytes);
            let (at, ends) = (found[1].at, found[2].next);
            let checked = |landmark: Landmark| landmark.check(&[first_page(), bytes.clone()]);
            for known in [Known::Redo(REDO), known(REDO, 99)] {
                assert_eq!(
                    checked(Landmark::Checkpoint { at, known }),
                    Ok(Sight::There),
                    "{more}"
                );
            }
            for known in [Known::Redo(START), known(REDO, 98), known(START, 99)] {
                let mismatch = checked(Landmark::Checkpoint { at, known }).unwrap_err();
                assert!(mismatch.found.contains("00:01:39Z"), "{mismatch}");
            }
            let known = Known::Redo(REDO);
            for (at, expected) in [(found[0].at, "another"), (Lsn(at.0 + 8), "no record")] {
                let mismatch = checked(Landmark::Checkpoint { at, known }).unwrap_err();
                assert!(mismatch.found.contains(expected), "{mismatch}");
            }
            let checked = |at: Lsn, start| {
                let pages = bytes[..(at.0 - START.0) as usize].to_vec();
                Landmark::End { at, start }.check(&[first_page(), pages])
            };
            assert_eq!(checked(ends, REDO), Ok(Sight::There), "{more}");
            assert!(checked(ends, START).unwrap_err().found.contains("one that began"));
            assert!(checked(Lsn(ends.0 + 8), REDO).is_err());
            assert!(
                checked(found[3].next, REDO)
                    .unwrap_err()
                    .found
                    .contains("another")
            );
        }
    }

    /// The segment before may end with zeros, behind a switch.
    #[test]
    fn b2_an_end_behind_a_switch_is_found() {
        let start = Lsn(START.0 - (1 << 20) + 40);
        let bytes = pages(1, &[end(start)]);
        let at = records(&bytes)[0].next;
        let here = bytes[..(at.0 - START.0) as usize].to_vec();
        let read = [first_page(), vec![0; LARGEST_PAGE as usize], here];
        let landmark = Landmark::End { at, start };
        assert_eq!(landmark.check(&read), Ok(Sight::There));
        let number = START.0 >> 20;
        let ranges = [
            (number - 1, 0..40),
            (number - 1, (1 << 20) - LARGEST_PAGE..1 << 20),
            (number, 0..at.0 - START.0),
        ];
        assert_eq!(landmark.ranges(SegmentSize::MIN), ranges);
        assert_eq!(landmark.number(SegmentSize::MIN), number);
    }

    /// Each end of a record, and many places in each, page by page and over the ends of pages.
    #[test]
    fn b2_no_record_lies_across_the_end_of_a_standbys_backup() {
        let switch = [&24_u32.to_le_bytes()[..], &[0; 12], &[0x40, 0, 0, 0]].concat();
        let switch = [&switch[..], &crc32c::crc32c(&switch).to_le_bytes()].concat();
        let lengths = [100, 8000, 20_000, 8, 8100, 100, 150_000, 300];
        let written = lengths.map(commit).into_iter().chain([switch]);
        let bytes = pages(128, &written.collect::<Vec<_>>());
        let records = records(&bytes);
        let start = Lsn(START.0 + 40);
        let checked = |at: Lsn| {
            let landmark = Landmark::Boundary { at, start };
            let read = landmark.ranges(SegmentSize::MIN).into_iter().map(|(_, range)| {
                let end = bytes.len().min(range.end as usize);
                bytes[range.start as usize..end].to_vec()
            });
            landmark.check(&[&[first_page()][..], &read.skip(1).collect::<Vec<_>>()].concat())
        };
        assert_eq!(records.len(), 9);
        for record in &records[..8] {
            assert_eq!(checked(record.next), Ok(Sight::There), "{}", record.next);
            for at in (record.at.0 + 8..record.next.0).step_by(136) {
                let in_header = (8..=40).contains(&(at % BLOCK as u64));
                match checked(Lsn(at)) {
                    Err(mismatch) => assert!(!in_header && mismatch.found.contains("goes on"), "{at}"),
                    sight => assert!(sight == Ok(Sight::Unseen) && in_header, "{at}: {sight:?}"),
                }
            }
        }
        let (end, segment_end) = (records[8].next, Lsn(START.0 + (1 << 20)));
        assert_eq!(checked(end), Ok(Sight::There));
        assert!(checked(Lsn(end.0 + 64)).unwrap_err().found.contains("switch"));
        assert_eq!(checked(segment_end), Ok(Sight::Unseen));
    }

    #[test]
    fn what_cannot_be_told_is_no_mismatch() {
        let bytes = pages(2, &[commit(BLOCK - 160), checkpoint(REDO, 99)]);
        let (at, known) = (records(&bytes)[1].at, Known::Redo(REDO));
        assert!(at.0 < START.0 + BLOCK as u64);
        let landmark = Landmark::Checkpoint { at, known };
        for read in [
            vec![],
            vec![first_page(), bytes[..BLOCK].to_vec()],
            vec![vec![0xD1, 0x10], bytes],
        ] {
            assert_eq!(landmark.check(&read), Ok(Sight::Unseen));
        }
        assert!(landmark.check(&[vec![]]).is_err());
    }
}

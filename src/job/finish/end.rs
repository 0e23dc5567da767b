//! Which WAL makes the copy consistent, and whether it is there.

use std::thread;
use std::time::{Duration, Instant};

use super::Options;
use super::error::Error;
use super::place::Place;
use super::plan::Plan;
use super::source::Source;
use crate::pg::backup_manifest::WalRange;
use crate::pg::control::ControlFile;
use crate::pg::label::{BackupFrom, BackupLabel};
use crate::pg::{Lsn, SegmentName, WalName, backup_history};

/// How often `wal/` is looked at for what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The WAL that makes the copy consistent.
///
/// # Errors
/// [`Error::NoEnd`], [`Error::End`], [`Error::Io`].
pub(super) fn wal_range(place: &Place, source: &Source, options: &Options) -> Result<WalRange, Error> {
    let control = &source.control;
    match &source.label {
        Some(label) => Ok(WalRange {
            timeline: label.start_timeline(),
            start: label.start_lsn,
            end: stop_lsn(place, label, control, options)?,
        }),
        None => Ok(WalRange {
            timeline: control.timeline,
            start: control.redo_lsn,
            end: control.end_of_checkpoint(),
        }),
    }
}

fn stop_lsn(
    place: &Place,
    label: &BackupLabel,
    control: &ControlFile,
    options: &Options,
) -> Result<Lsn, Error> {
    if let Some(stop) = options.stop_lsn {
        return Ok(stop);
    }
    let offset = (label.start_lsn.0 % control.segment_size.bytes()) as u32;
    let name = WalName::Backup(label.start_file, offset);
    // A standby leaves none behind: waiting would be in vain.
    let patience = match label.from {
        BackupFrom::Standby => Duration::ZERO,
        BackupFrom::Primary => options.wal_timeout,
    };
    let found = wait_for(patience, || place.archived(name))?;
    let bytes = found.ok_or(Error::NoEnd { name })?;
    let wrong = |reason: String| Error::End { name, reason };
    let history = backup_history::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    if history.start_lsn != label.start_lsn || history.stop_timeline != label.start_timeline() {
        let reason = "it is of another backup, or the timeline changed meanwhile";
        return Err(wrong(reason.into()));
    }
    Ok(history.stop_lsn)
}

/// What the copy has of the WAL that it needs goes only if the archive has it; and without its last checkpoint no stopped
/// server's copy starts.
///
/// # Errors
/// [`Error::NotArchived`], [`Error::NoCheckpoint`], [`Error::Io`].
pub(super) fn check_wal(
    place: &Place,
    (source, plan): (&Source, &Plan),
    range: WalRange,
    options: &Options,
) -> Result<(), Error> {
    let size = source.control.segment_size;
    let (first, last) = (
        range.start.0 / size.bytes(),
        range.end.0.saturating_sub(1) / size.bytes(),
    );
    if source.label.is_none() {
        let segment = SegmentName::from_number(range.timeline, last, size);
        return match segment {
            Some(segment)
                if !plan.own_wal.contains(&segment) && !place.is_archived(WalName::Segment(segment))? =>
            {
                Err(Error::NoCheckpoint { segment })
            }
            _ => Ok(()),
        };
    }
    let needed = |segment: &&SegmentName| {
        segment.timeline == range.timeline && (first..=last).contains(&segment.number(size))
    };
    for &segment in plan.own_wal.iter().filter(needed) {
        let archived = || Ok(place.is_archived(WalName::Segment(segment))?.then_some(()));
        wait_for(options.wal_timeout, archived)?.ok_or(Error::NotArchived { segment })?;
    }
    Ok(())
}

/// Looks until there is something, or time is up.
fn wait_for<T>(patience: Duration, look: impl Fn() -> Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    let until = Instant::now() + patience;
    loop {
        match look()? {
            None if Instant::now() < until => thread::sleep(LOOK_EVERY),
            found => return Ok(found),
        }
    }
}

//! Finishing a backup that was copied into the mount by hand: between `pg_backup_start` and `pg_backup_stop`, or while its
//! server was stopped.
//!
//! Everything is done through the directory, as its user could: what a base backup leaves out is removed (`plan`), the end
//! of the backup is read from its `.backup` file in `wal/` (`end`), every file is read and summed up, and `backup_manifest`
//! is written and renamed, which is what commits a backup (`sums`). So nothing is promised here that the mount does not
//! keep; and as the mount compares the manifest with the bytes that it has stored, what is summed up here is proved to be
//! these. Nothing but the backup's own directory is changed, whatever links a copy has brought (`place`).

use std::path::Path;
use std::time::Duration;

use crate::archive::tree::backup::Pages;
use crate::job::backup::pages::Rules;
use crate::pg::Lsn;
use crate::pg::backup_manifest::WalRange;
use crate::pg::control::ControlFile;
use crate::pg::data_page::PageChecker;

mod end;
mod error;
mod landmarks;
mod place;
mod plan;
mod source;
mod sums;

pub use error::Error;
use place::Place;
use plan::Plan;
pub use plan::Step;
use source::Source;

/// How a backup is finished.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the backup ended, if it is known: the result of `pg_backup_stop`. A backup of a standby needs it.
    pub stop_lsn: Option<Lsn>,
    /// How long to wait for the backup's `.backup` file in `wal/`, and for what else it needs there.
    pub wal_timeout: Duration,
    /// Only say what would be changed.
    pub dry_run: bool,
}

/// What was finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Files in the backup.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What was changed in the copy before.
    pub steps: Vec<Step>,
    /// The WAL that makes it consistent.
    pub wal: WalRange,
    /// What a look at its data pages found.
    pub pages: Pages,
    /// Does it have the server's `postgresql.conf`? Some keep it elsewhere.
    pub has_settings: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It had a manifest, and is complete by that; or would be completed by it.
    ByItsManifest,
    /// It is complete.
    Finished(Finished),
    /// This would be changed in the copy.
    Planned(Vec<Step>),
}

/// Finishes the backup in `directory`, which must be in a mount of walfs.
///
/// # Errors
/// Any [`Error`].
pub fn finish(directory: &Path, options: &Options) -> Result<Outcome, Error> {
    let place = Place::find(directory)?;
    if place.kind("backup_manifest")?.is_some() {
        return complete_as_it_is(&place, options);
    }
    let source = Source::look(&place)?;
    let plan = Plan::make(&place, &source)?;
    if options.dry_run {
        return Ok(Outcome::Planned(plan.steps));
    }
    let range = end::wal_range(&place, &source, options)?;
    end::check_wal(&place, (&source, &plan), range, options)?;
    landmarks::check(&place, &source, range, options)?;
    plan.carry_out(&place)?;
    let (files, found) = sums::sum_up(&place, &plan.files, page_rules(&source.control, range))?;
    if let Some((file, block, lsn)) = found.beyond(range.end) {
        return Err(Error::Later {
            file,
            block,
            lsn,
            end: range.end,
        });
    }
    sums::write_manifest(&place, &source.control, &files, range)?;
    Ok(Outcome::Finished(Finished {
        files: files.len(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        has_settings: plan.files.iter().any(|file| file == "postgresql.conf"),
        steps: plan.steps,
        wal: range,
        pages: found.settle(range.end, source.control.has_data_checksums()),
    }))
}

/// A page that changed after the start is the WAL's, which has it whole.
fn page_rules(control: &ControlFile, range: WalRange) -> Rules {
    let page_bytes = control.block_bytes;
    Rules {
        page_bytes,
        file_pages: control.segment_blocks,
        checker: PageChecker::new(page_bytes, range.start, control.has_data_checksums()),
    }
}

/// A copy of a whole backup, with its manifest: the mount completes it when its directory is synced, if all is there. One
/// that is complete stays so.
fn complete_as_it_is(place: &Place, options: &Options) -> Result<Outcome, Error> {
    if options.dry_run {
        return Ok(Outcome::ByItsManifest);
    }
    let synced = place.backup.sync_directory(Path::new(""));
    synced
        .map(|()| Outcome::ByItsManifest)
        .map_err(|source| Error::Refused {
            path: place.backup.path().to_owned(),
            source,
        })
}

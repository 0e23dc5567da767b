//! Everything that can be known before anything is touched.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::compare::{self, FileWork};
use super::content::Source;
use super::error::Error;
use super::place::{self, CONTROL, Holds, Mark};
use super::settings::Recovery;
use super::tablespaces::{self, Place};
use super::target::Target;
use super::wal::{self, Reach};
use super::{Choice, Options, choose, work};
use crate::archive::Archive;
use crate::archive::tree::TreeName;
use crate::archive::tree::summary::{Shape, Summary};
use crate::job::progress::{Phase, Progress};
use crate::pg::control::{ClusterState, ControlFile};
use crate::pg::{SegmentName, SystemId};
use crate::store::Patience;

/// What the directory was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Empty, or not there.
    Empty,
    /// A restore that was interrupted.
    Unfinished,
    /// The same cluster, older or newer.
    Delta,
}

/// A restore that can begin.
#[derive(Debug)]
pub(super) struct Checked {
    pub source: Source,
    pub summary: Summary,
    pub system_id: Option<SystemId>,
    /// The control file of a plain backup.
    pub control: Vec<u8>,
    pub reach: Reach,
    pub places: Vec<Place>,
    pub start: Start,
    /// Files of a plain backup.
    pub files: Arc<Vec<FileWork>>,
    /// What is there and not in the backup.
    pub strangers: Vec<PathBuf>,
    /// Segments that the backup needs and does not bring along.
    pub segments: Vec<SegmentName>,
    pub warnings: Vec<String>,
}

/// Looks at the backup, its WAL and the directories.
///
/// # Errors
/// Any [`Error`]; nothing has been touched.
pub(super) async fn check(
    archive: &Arc<Archive>,
    options: &Options,
    progress: &Arc<dyn Progress>,
    patience: Patience,
) -> Result<Checked, Error> {
    let target = &options.recovery.target;
    let (backup, summary) = choose::choose(archive, &options.backup, target, patience).await?;
    // Asked side by side; the first error in this order is told.
    let (wal, content, reach) = futures::join!(
        has_wal(archive, &options.backup, (&backup, &summary), patience),
        content(archive, &backup, &summary, patience),
        wal::reach(archive, &backup, &summary, options.recovery.timeline, patience)
    );
    wal?;
    let (source, control, system_id) = content?;
    let reach = reach?;
    let warnings = check_reach(archive, &reach, options)?;
    let places = tablespaces::places(&summary, &options.tablespaces, &options.directory)?;
    place::check_outside(archive, &options.directory)?;
    places
        .iter()
        .try_for_each(|place| place::check_outside(archive, &place.directory))?;
    let start = start(options, &source, system_id, summary.backup.shape, &places)?;
    let segments = needed_segments(&backup, &summary)?;
    let mut checked = Checked {
        source,
        summary,
        system_id,
        control,
        reach,
        places,
        start,
        files: Arc::default(),
        strangers: Vec::new(),
        segments,
        warnings,
    };
    if checked.summary.backup.shape == Shape::Plain {
        compare_files(&mut checked, options, progress).await?;
    }
    check_room(&checked, options)?;
    Ok(checked)
}

/// The newest backup was chosen by its WAL.
async fn has_wal(
    archive: &Archive,
    choice: &Choice,
    chosen: (&TreeName, &Summary),
    patience: Patience,
) -> Result<(), Error> {
    match choice {
        Choice::Latest => Ok(()),
        Choice::Named(_) => choose::check_wal(archive, chosen, patience).await,
    }
}

/// What the backup has: where it is read from, its control file, and whose it is.
async fn content(
    archive: &Arc<Archive>,
    backup: &TreeName,
    summary: &Summary,
    patience: Patience,
) -> Result<(Source, Vec<u8>, Option<SystemId>), Error> {
    let source = Source {
        archive: archive.clone(),
        backup: backup.clone(),
        tree: archive.tree(backup, summary, patience).await?,
        patience,
    };
    let (control, system_id) = control(&source, summary).await?;
    Ok((source, control, system_id))
}

/// The control file of a plain backup, and whose the backup is.
async fn control(source: &Source, summary: &Summary) -> Result<(Vec<u8>, Option<SystemId>), Error> {
    if summary.backup.shape == Shape::Tar {
        return Ok((Vec::new(), summary.backup.system_identifier));
    }
    let wrong = |reason: String| Error::Content {
        backup: source.backup.clone(),
        file: CONTROL.into(),
        reason,
    };
    let bytes = source
        .small(CONTROL)
        .await?
        .ok_or_else(|| wrong("it is missing".into()))?;
    let file = ControlFile::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    let clean = matches!(
        file.state,
        ClusterState::ShutDown | ClusterState::ShutDownInRecovery
    );
    if !clean && source.tree.find(b"backup_label").is_none() {
        let reason = "it was copied from a running server, and there is no backup_label to start from";
        return Err(wrong(reason.into()));
    }
    Ok((bytes, Some(file.system_id)))
}

/// Does the WAL lead to the target? What only PostgreSQL can tell becomes a warning.
fn check_reach(archive: &Archive, reach: &Reach, options: &Options) -> Result<Vec<String>, Error> {
    let recovery = &options.recovery;
    let mut warnings = Vec::new();
    if recovery.target == Target::Immediate {
        return Ok(warnings);
    }
    let reason = match reach.gap {
        Some(missing) => format!("{missing} is not archived, although segments after it are"),
        None => format!("{} is the last segment that is archived", reach.last),
    };
    match recovery.target {
        _ if !recovery.standby && is_out_of_reach(recovery, reach) => {
            return Err(Error::WalEndsEarly {
                place: archive.place(),
                target: recovery.target.to_string(),
                reached: reach.end,
                reason,
            });
        }
        Target::Lsn(lsn) if lsn <= reach.end => return Ok(warnings),
        _ if reach.gap.is_some() => warnings.push(format!(
            "{reason}: recovery can go no further than {}. WAL behind the gap needs a newer backup.",
            reach.end
        )),
        _ => {}
    }
    let newest = reach.newest.and_then(|time| jiff::Timestamp::try_from(time).ok());
    if let (Target::Time(time), Some(newest)) = (&recovery.target, newest)
        && *time > newest
    {
        warnings.push(format!(
            "the newest WAL was archived at {newest:.0}, before the target {time}: unless more comes, the server will \
             end with \"recovery ended before configured recovery target was reached\"."
        ));
    }
    Ok(warnings)
}

/// Is it known that recovery cannot get there? A standby's server may bring what the archive lacks.
fn is_out_of_reach(recovery: &Recovery, reach: &Reach) -> bool {
    let stops_at_gap = reach.gap.is_some() && !recovery.up_to_gap;
    match recovery.target {
        Target::Lsn(lsn) => lsn > reach.end,
        // It would open the database without what is behind the gap, and say nothing.
        Target::Latest => stops_at_gap,
        // What was archived before the target holds nothing of later.
        Target::Time(time) => {
            stops_at_gap && reach.newest.is_none_or(|newest| newest < SystemTime::from(time))
        }
        Target::Name(_) | Target::Xid(_) | Target::Immediate => false,
    }
}

fn needed_segments(backup: &TreeName, summary: &Summary) -> Result<Vec<SegmentName>, Error> {
    let segments = summary.backup.segments().map_err(|reason| Error::Content {
        backup: backup.clone(),
        file: "its summary".into(),
        reason,
    })?;
    let own = &summary.backup.own_wal;
    Ok(segments
        .into_iter()
        .filter(|segment| !own.contains(segment))
        .collect())
}

/// May the directories be restored to, and what does that begin with?
fn start(
    options: &Options,
    source: &Source,
    system_id: Option<SystemId>,
    shape: Shape,
    places: &[Place],
) -> Result<Start, Error> {
    let directory = &options.directory;
    place::check_no_server(directory)?;
    let not = |reason: &str| Error::NotACluster {
        directory: directory.clone(),
        reason: reason.into(),
    };
    let (start, mark) = match place::look(directory)? {
        Holds::Absent | Holds::Nothing => (Start::Empty, None),
        Holds::Unfinished(mark) => {
            check_mark(&mark, source, system_id).map_err(not)?;
            (Start::Unfinished, Some(mark))
        }
        Holds::Files if !options.delta => {
            let directory = directory.clone();
            return Err(Error::NotEmpty { directory });
        }
        Holds::Files if shape == Shape::Tar => {
            return Err(not(
                "the backup is kept in tar files, with which nothing can be compared",
            ));
        }
        Holds::Files => {
            let expected = system_id.ok_or_else(|| not("the backup does not say whose it is"))?;
            place::check_same_cluster(directory, expected)?;
            (Start::Delta, None)
        }
    };
    for place in places {
        place::check_tablespace(place, is_own(place, directory, mark.as_ref()))?;
    }
    Ok(start)
}

fn check_mark(mark: &Mark, source: &Source, system_id: Option<SystemId>) -> Result<(), &'static str> {
    let own = system_id.map(|id| id.to_string());
    let other_cluster = matches!((&mark.system_identifier, &own), (Some(mark), Some(own)) if mark != own);
    if other_cluster || mark.archive_id != source.archive.marker().archive_id {
        return Err("it is the unfinished restore of another archive's backup");
    }
    Ok(())
}

/// Is the tablespace's directory this cluster's, or this restore's, already?
fn is_own(place: &Place, data: &Path, mark: Option<&Mark>) -> bool {
    let link = fs::read_link(data.join("pg_tblspc").join(place.oid.to_string()));
    link.is_ok_and(|to| to == place.directory)
        || mark.is_some_and(|mark| mark.tablespaces.contains(&place.directory))
}

/// Finds what is missing, and what is too much.
async fn compare_files(
    checked: &mut Checked,
    options: &Options,
    progress: &Arc<dyn Progress>,
) -> Result<(), Error> {
    let (source, summary) = (&checked.source, &checked.summary);
    let (data, places) = (&options.directory, &checked.places);
    let mut files = compare::files(&source.tree, |path| tablespaces::destination(data, places, path));
    if checked.start != Start::Empty {
        progress.phase(Phase::Comparing { bytes: summary.bytes });
        let hashes = source
            .archive
            .chunk_hashes(&source.backup, summary, &source.tree, source.patience)
            .await?;
        checked.strangers = compare::strangers(&source.tree, data, places)?;
        let going: HashSet<&Path> = checked.strangers.iter().map(PathBuf::as_path).collect();
        let missing = work::for_each(&files, options.jobs, |file| {
            // Behind a link in a directory's place: it goes, and what was seen through it.
            let missing = match file.path.ancestors().any(|above| going.contains(above)) {
                true => file.missing.clone(),
                false => compare::missing(file, &hashes)?,
            };
            progress.advance(file.bytes);
            Ok(missing)
        })?;
        for (file, missing) in files.iter_mut().zip(missing) {
            file.missing = missing;
        }
    }
    checked.files = Arc::new(files);
    Ok(())
}

/// Room for what is not there yet. What a tar file unpacks to is not known; at least as much as itself.
fn check_room(checked: &Checked, options: &Options) -> Result<(), Error> {
    let wal_bytes = checked.segments.len() as u64 * checked.summary.backup.segment_bytes;
    let mut needed: Vec<(&Path, u64)> = vec![(&options.directory, wal_bytes)];
    for place in &checked.places {
        needed.push((&place.directory, 0));
    }
    if checked.summary.backup.shape == Shape::Tar {
        needed[0].1 += checked.summary.bytes;
    }
    for file in checked.files.iter() {
        let there = fs::symlink_metadata(&file.path).map_or(0, |found| found.blocks() * 512);
        let bytes = file.bytes.saturating_sub(there);
        let place = needed
            .iter()
            .rposition(|(directory, _)| file.path.starts_with(directory));
        needed[place.unwrap_or(0)].1 += bytes;
    }
    place::check_room(&needed)
}

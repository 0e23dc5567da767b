//! `walfs restore`: a backup becomes a data directory again, and is told where to recover to (contract B6).
//!
//! First everything is looked at and nothing touched: the backup, the WAL up to the target, the directories, the room on
//! their disks. Then the missing bytes are brought, by parts and in parallel. What is missing is found by content: in an
//! empty directory all of it, over an old one (`--delta`) or an interrupted restore what differs.
//!
//! `global/pg_control` comes last, when everything else is durable, so that a restore that ends early is nothing that a
//! server could start from; running the same command again goes on. It comes poisoned ([`crate::pg::control::poison`]):
//! without its `backup_label` the data directory does not start.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::check::{Checked, Start};
use self::content::Source;
use self::lock::Lock;
use self::place::{CONTROL, MARK, Mark};
use super::progress::{Phase, Progress};
use crate::archive::Archive;
use crate::archive::tree::summary::Shape;
use crate::archive::tree::{Content, Entry};
use crate::pg::control::CONTROL_FILE_BYTES;
use crate::store::Patience;

mod check;
mod choose;
mod compare;
mod content;
mod error;
mod fill;
mod finish;
mod lock;
mod place;
mod settings;
mod tablespaces;
mod tar;
mod target;
mod wal;
mod work;

pub use choose::Choice;
pub use error::Error;
pub use settings::Recovery;
pub use tablespaces::{Mapping, Place};
pub use target::{Target, TargetAction, TargetTimeline};
pub use wal::Reach;

/// What is to be restored, where to, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The backup.
    pub backup: Choice,
    /// The data directory: absolute.
    pub directory: PathBuf,
    /// May it hold an older state of the same cluster?
    pub delta: bool,
    /// Tablespaces that go elsewhere.
    pub tablespaces: Vec<Mapping>,
    /// Whom all files are given to; usual if the process is root, impossible otherwise. `None`: whose they are made by.
    pub owner: Ownership,
    /// Parts that are decoded at once, while more are fetched; usually 4.
    pub jobs: usize,
    /// Make everything durable?
    pub sync: bool,
    /// Look at everything and touch nothing?
    pub dry_run: bool,
    /// What the server shall do.
    pub recovery: Recovery,
}

/// Whose files a restore makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Those of whoever runs it.
    Own,
    /// The numbers that the data directory had when it was backed up.
    AsBackedUp,
    /// This user's.
    Of(Owner),
}

/// A user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// What was done, or would be.
#[derive(Debug, Clone)]
pub struct Report {
    /// The backup's name.
    pub backup: String,
    /// PostgreSQL's major version, where it is known.
    pub postgresql_major: Option<u32>,
    /// Its files.
    pub files: u64,
    /// Their plain bytes.
    pub bytes: u64,
    /// Plain bytes that were there already.
    pub kept_bytes: u64,
    /// Stored bytes that were fetched for the rest.
    pub fetched_bytes: u64,
    /// What is not in the backup and was removed.
    pub removed: Vec<PathBuf>,
    /// Tablespaces, and where they are.
    pub tablespaces: Vec<Place>,
    /// How far the archived WAL leads.
    pub reach: Reach,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Restores a backup.
///
/// # Errors
/// [`Error`]. Before anything is touched, if it can be known; afterwards the directory is one that no server starts from,
/// and the same call goes on.
pub async fn restore(
    archive: &Arc<Archive>,
    options: &Options,
    progress: &Arc<dyn Progress>,
    patience: Patience,
) -> Result<Report, Error> {
    let lock = lock::take(options)?;
    let checked = check::check(archive, options, progress, patience).await?;
    let mut report = report(&checked);
    if options.dry_run {
        return Ok(report);
    }
    let data = &options.directory;
    let _lock = begin(&checked, data, lock)?;
    progress.phase(Phase::Restoring {
        bytes: report.bytes - report.kept_bytes,
    });
    let segment_bytes = checked.summary.backup.segment_bytes;
    let bring_wal = || finish::bring_wal(archive, data, &checked.segments, segment_bytes, patience);
    let mut control = match checked.summary.backup.shape {
        Shape::Plain => {
            make_places(&checked, options)?;
            let fill = fill::fill(&checked.source, &checked.files, options.jobs, progress);
            if has_files_of_wal(&checked) {
                // The archive's are right, and written last.
                report.fetched_bytes = fill.await?;
                bring_wal().await?;
            } else {
                (report.fetched_bytes, ()) = tokio::try_join!(fill, bring_wal())?;
            }
            checked.control.clone()
        }
        Shape::Tar => {
            let control = tar::unpack(&checked.source, data, &checked.places).await?;
            bring_wal().await?;
            control
        }
    };
    complete(&checked, options, &mut control, progress)?;
    Ok(report)
}

/// A copy made by hand may have segments of its own, which may not be whole.
fn has_files_of_wal(checked: &Checked) -> bool {
    let mut entries = checked.source.tree.entries().iter();
    entries.any(|entry| entry.path.starts_with(b"pg_wal/") && matches!(entry.content, Content::File { .. }))
}

fn report(checked: &Checked) -> Report {
    let missing_bytes: u64 = checked
        .files
        .iter()
        .flat_map(|file| &file.missing)
        .map(|range| range.end - range.start)
        .sum();
    Report {
        backup: checked.source.backup.to_string(),
        postgresql_major: checked.summary.backup.postgresql_major,
        files: checked.summary.files,
        bytes: checked.summary.bytes,
        kept_bytes: match (checked.start, checked.summary.backup.shape) {
            (Start::Empty, _) | (_, Shape::Tar) => 0,
            // The control file, not among those compared, is always brought.
            _ => checked
                .summary
                .bytes
                .saturating_sub(missing_bytes + CONTROL_FILE_BYTES as u64),
        },
        fetched_bytes: 0,
        removed: checked.strangers.clone(),
        tablespaces: checked.places.clone(),
        reach: checked.reach.clone(),
        warnings: checked.warnings.clone(),
    }
}

/// From here on the directory is changed: it is marked, and no server starts from it.
fn begin(checked: &Checked, data: &Path, lock: Option<Lock>) -> Result<Lock, Error> {
    place::check_no_server(data)?;
    let lock = match lock {
        Some(lock) => lock,
        None => lock::make(data)?,
    };
    let mark = Mark {
        archive_id: checked.source.archive.marker().archive_id.clone(),
        backup: checked.source.backup.to_string(),
        system_identifier: checked.system_id.map(|id| id.to_string()),
        tablespaces: checked
            .places
            .iter()
            .map(|place| place.directory.clone())
            .collect(),
    };
    mark.write(data)?;
    let control = data.join(CONTROL);
    if control.exists() {
        place::remove_file(&control)?;
        place::sync_directory(&data.join("global"))?;
    }
    for place in &checked.places {
        place::make_directory(&place.directory)?;
    }
    let begins_anew = checked.start == Start::Unfinished && checked.summary.backup.shape == Shape::Tar;
    if begins_anew {
        empty(data)?;
        checked
            .places
            .iter()
            .try_for_each(|place| empty(&place.directory))?;
    }
    checked
        .strangers
        .iter()
        .try_for_each(|stranger| remove(stranger))?;
    Ok(lock)
}

/// Removes everything in a directory but the mark.
fn empty(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::at("read", directory))? {
        let entry = entry.map_err(Error::at("read", directory))?;
        if entry.file_name() != MARK {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if is_directory {
        fs::remove_dir_all(path).map_err(Error::at("remove", path))
    } else {
        place::remove_file(path)
    }
}

/// Makes all directories, links, and files but the control file, as long as they shall be.
fn make_places(checked: &Checked, options: &Options) -> Result<(), Error> {
    for (entry, path) in destinations(&checked.source, checked, options) {
        match &entry.content {
            Content::Directory => place::make_directory(&path)?,
            Content::Symlink(to) => link(to, &path)?,
            Content::File { .. } => {}
        }
    }
    work::for_each(&checked.files, options.jobs, fill::make_file).map(drop)
}

fn link(to: &[u8], path: &Path) -> Result<(), Error> {
    use std::os::unix::ffi::OsStrExt;
    let made = std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(to), path);
    made.map_err(Error::at("create", path))
}

fn destinations<'a>(source: &'a Source, checked: &Checked, options: &Options) -> Vec<(&'a Entry, PathBuf)> {
    let to = |entry: &Entry| tablespaces::destination(&options.directory, &checked.places, &entry.path);
    source
        .tree
        .entries()
        .iter()
        .map(|entry| (entry, to(entry)))
        .collect()
}

/// All bytes are there: links, settings and attributes; then everything is made durable, and the control file put.
fn complete(
    checked: &Checked,
    options: &Options,
    control: &mut [u8],
    progress: &Arc<dyn Progress>,
) -> Result<(), Error> {
    let data = &options.directory;
    finish::link_tablespaces(data, &checked.places)?;
    finish::write_settings(data, &options.recovery)?;
    finish::poison_control(data, control)?;
    if checked.summary.backup.shape == Shape::Plain {
        let entries = destinations(&checked.source, checked, options);
        finish::set_attributes(&entries, options.jobs)?;
    }
    let owner = owner(options.owner, &checked.source);
    let directories = || std::iter::once(data).chain(checked.places.iter().map(|place| &place.directory));
    if let Some(owner) = owner {
        directories().try_for_each(|directory| finish::own_all(directory, owner))?;
    }
    if options.sync {
        progress.phase(Phase::Syncing);
        directories().try_for_each(|directory| place::sync_file_system(directory))?;
    }
    let mode = checked.source.tree.find(CONTROL.as_bytes());
    let mode = mode.and_then(|number| checked.source.tree.entry(number));
    let mode = mode.map_or(0o600, |entry| entry.attributes.mode);
    finish::put_control(data, control, mode, owner)
}

fn owner(ownership: Ownership, source: &Source) -> Option<Owner> {
    match ownership {
        Ownership::Own => None,
        Ownership::Of(owner) => Some(owner),
        Ownership::AsBackedUp => source.tree.entry(0).map(|root| Owner {
            uid: root.attributes.uid,
            gid: root.attributes.gid,
        }),
    }
}

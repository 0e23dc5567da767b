//! `walfs restore`: a backup becomes a data directory again, and is told where to recover to (promise B6).
//!
//! First everything is looked at and nothing touched: the backup, the WAL up to the target, the directories, the room on
//! their disks. Then the missing bytes are brought, by parts and in parallel. What is missing is found by content: in an
//! empty directory all of it, over an old one (`--delta`) or an interrupted restore what differs.
//!
//! `global/pg_control` comes last, when everything else is durable, so that a restore that ends early is nothing that a
//! server could start from; running the same command again goes on. It comes poisoned ([`crate::pg::control::poison`]):
//! without its `backup_label` the data directory does not start.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;

use self::check::Checked;
use self::configure::Configured;
use self::content::Source;
use self::finish::Access;
use self::lock::Lock;
use self::place::{CONTROL, Mark, PlaceMark};
use self::spot::{Base, Held, Roots, Spot};
use self::start::Start;
use super::progress::{Phase, Progress};
use crate::archive::Archive;
use crate::archive::tree::backup::Shape;
use crate::archive::tree::{Content, Entry};
use crate::pg::control::CONTROL_FILE_BYTES;
use crate::store::Patience;

mod beginning;
pub(in crate::job) mod begun;
mod branch;
mod branches;
mod broken;
pub(in crate::job) mod candidate;
mod check;
mod choose;
mod cluster;
mod command;
mod compare;
mod configure;
mod content;
mod doubt;
mod early_stop;
mod error;
mod fill;
mod finish;
pub(in crate::job) mod forks;
mod found;
mod kept;
mod landmarks;
mod links;
mod lock;
mod only_here;
mod place;
mod plan;
mod put_back;
pub(in crate::job) mod reachable;
pub(in crate::job) mod received;
mod saved;
mod settings;
mod spot;
mod start;
mod tablespaces;
mod tar;
mod target;
pub(in crate::job) mod timelines;
mod unarchived;
pub(in crate::job) mod wal;
pub(in crate::job) mod way;
mod work;

pub use branch::Branch;
pub use choose::Choice;
pub use error::Error;
pub use found::{Found, look_at};
pub use only_here::Unarchived;
pub use plan::{Aside, OldWal};
pub use settings::{Recovery, harm_of};
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
    /// What becomes of WAL there that the archive does not have.
    pub old_wal: OldWal,
    /// The directory that `pg_wal` shall be a link to; `None`: as the data directory has it. Absolute.
    pub waldir: Option<PathBuf>,
    /// Tablespaces that go elsewhere.
    pub tablespaces: Vec<Mapping>,
    /// Directories of settings that were not in the data directory, and where they go back to, absolute.
    pub settings: Vec<Mapping>,
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
    /// WAL that the archive does not have and that was moved.
    pub set_aside: Option<Aside>,
    /// Names of such WAL that was left in `pg_wal`.
    pub kept_wal: Vec<String>,
    /// Those of them that were archived first.
    pub archived_wal: Vec<String>,
    /// The directory that `pg_wal` is a link to.
    pub waldir: Option<PathBuf>,
    /// Tablespaces, and where they are.
    pub tablespaces: Vec<Place>,
    /// How far the archived WAL leads.
    pub reach: Reach,
    /// Settings of the backup that were taken from the server, each with the reason.
    pub settings: Vec<String>,
    /// Settings files that were put back beside the data directory.
    pub put_back: Vec<PathBuf>,
    /// Files without which no server starts, and which the backup does not have.
    pub lacking: Vec<&'static str>,
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
    let data = Held::open(&options.directory)?;
    let lock = match options.dry_run {
        true => None,
        false => lock::take(&data)?,
    };
    let mut checked = check::check(archive, options, data, progress, patience).await?;
    let mut report = report(&checked);
    if options.dry_run {
        put_back::put_back(&checked.source, options, &mut report)
            .boxed()
            .await?;
        return Ok(report);
    }
    saved::archive(archive, &checked.roots, &checked.plan.saved)
        .boxed()
        .await?;
    let _lock = begin(&mut checked, lock)?;
    let (checked, roots) = (&checked, &checked.roots);
    progress.phase(Phase::Restoring {
        bytes: report.bytes - report.kept_bytes,
    });
    let segment_bytes = checked.summary.backup.segment_bytes;
    let segments = &checked.segments;
    let bring_wal = |access| finish::bring_wal(archive, roots, segments, segment_bytes, access, patience);
    let (mut control, access) = match checked.summary.backup.shape {
        Shape::Plain => {
            let access = Access::of_tree(&checked.source.tree);
            make_places(checked, roots, options)?;
            let fill = fill::fill(&checked.source, roots, &checked.files, options.jobs, progress);
            if has_files_of_wal(checked) {
                // The archive's are right, and written last.
                report.fetched_bytes = fill.await?;
                bring_wal(access).await?;
            } else {
                (report.fetched_bytes, ()) = tokio::try_join!(fill, bring_wal(access))?;
            }
            (checked.control.clone(), access)
        }
        Shape::Tar => {
            let unpacked = tar::unpack(&checked.source, roots).await?;
            report.warnings.extend(unpacked.warnings);
            let label = roots.read(
                &roots.bases.spot(beginning::LABEL.as_bytes()),
                beginning::LONGEST_LABEL,
            )?;
            let (name, backup) = (&checked.source.backup, &checked.summary.backup);
            let (label, known) = beginning::check(name, backup, &unpacked.control, label.as_deref())?;
            cluster::check(archive, name, known.system_id, patience).await?;
            landmarks::check(archive, (name, &checked.summary), (label, &known), patience).await?;
            bring_wal(unpacked.access).await?;
            (unpacked.control, unpacked.access)
        }
    };
    if let Some(rest) = &checked.rest {
        report.warnings.extend(rest.bring(roots, access).await?);
    }
    put_back::put_back(&checked.source, options, &mut report)
        .boxed()
        .await?;
    let configured = complete(checked, roots, options, access, &mut control, progress)?;
    report.settings = configured.set_aside;
    report.lacking = configured.lacking;
    report.warnings.extend(configured.warnings);
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
    let (files, bytes) = checked.content();
    Report {
        backup: checked.source.backup.to_string(),
        postgresql_major: checked.summary.backup.postgresql_major,
        files,
        bytes,
        kept_bytes: match (checked.start, checked.summary.backup.shape) {
            (Start::Empty, _) | (_, Shape::Tar) => 0,
            // The control file, not among those compared, is always brought.
            _ => bytes.saturating_sub(missing_bytes.saturating_add(CONTROL_FILE_BYTES as u64)),
        },
        fetched_bytes: 0,
        removed: checked
            .plan
            .remove
            .iter()
            .map(|spot| checked.roots.bases.path(spot))
            .collect(),
        set_aside: checked.plan.aside.clone(),
        kept_wal: checked.plan.kept.iter().map(ToString::to_string).collect(),
        archived_wal: checked.plan.saved.iter().map(ToString::to_string).collect(),
        waldir: checked.roots.bases.wal.clone(),
        tablespaces: checked.roots.bases.places.clone(),
        reach: checked.reach.clone(),
        settings: Vec::new(),
        put_back: Vec::new(),
        lacking: Vec::new(),
        warnings: checked.warnings.clone(),
    }
}

/// From here on the directory is changed: it is marked, and no server starts from it.
fn begin(checked: &mut Checked, lock: Option<Lock>) -> Result<Lock, Error> {
    let plan = &checked.plan;
    if let Ok(data) = checked.roots.root(Base::Data) {
        place::check_no_server(data)?;
    }
    checked.roots.check_unmoved()?;
    let aside = plan.prepare(&checked.roots)?;
    let roots = Arc::get_mut(&mut checked.roots).expect("nothing works on them yet");
    let lock = match lock {
        Some(lock) => lock,
        None => lock::lock(roots.make_data()?)?,
    };
    roots.make()?;
    let mark = Mark {
        restore: Some(checked.restore.clone()),
        archive_id: checked.source.archive.marker().identity.archive_id.clone(),
        backup: checked.source.backup.to_string(),
        system_identifier: checked.system_id.map(|id| id.to_string()),
        tablespaces: roots
            .bases
            .places
            .iter()
            .map(|place| place.directory.clone())
            .collect(),
        waldir: roots.bases.wal.clone(),
    };
    mark.write(
        roots
            .root(Base::Data)
            .map_err(Error::at("open", &roots.bases.data))?,
    )?;
    let mark = PlaceMark {
        restore: checked.restore.clone(),
        directory: roots.bases.data.clone(),
    };
    roots.outside().try_for_each(|root| mark.write(root))?;
    let control = roots.bases.spot(CONTROL.as_bytes());
    roots.on("remove", &control, |root, below| {
        match root.remove_file(below)? {
            true => root.sync_directory(Path::new("global")),
            false => Ok(()),
        }
    })?;
    plan.carry_out(roots, aside.as_ref())?;
    Ok(lock)
}

/// Makes all directories, links, and files but the control file, as long as they shall be.
fn make_places(checked: &Checked, roots: &Roots, options: &Options) -> Result<(), Error> {
    for (entry, spot) in destinations(checked) {
        match &entry.content {
            Content::Directory => {
                roots.on("create", &spot, |root, below| root.make_directory(below, 0o700))?;
            }
            Content::Symlink(to) => {
                let to = Path::new(OsStr::from_bytes(to));
                roots.on("create", &spot, |root, below| root.link(to, below))?;
            }
            Content::File { .. } => {}
        }
    }
    work::for_each(&checked.files, options.jobs, |file| fill::make_file(roots, file)).map(drop)
}

/// Each entry of a plain backup, and where it goes.
fn destinations(checked: &Checked) -> Vec<(&Entry, Spot)> {
    let entries = checked.source.tree.entries().iter();
    entries
        .filter(|entry| !links::is_left_out(&entry.path))
        .map(|entry| (entry, checked.roots.bases.spot(&entry.path)))
        .filter(|(_, spot)| !checked.roots.bases.is_nested(spot))
        .collect()
}

/// All bytes are there: links, settings and attributes; then everything is made durable, and the control file put.
fn complete(
    checked: &Checked,
    roots: &Roots,
    options: &Options,
    access: Access,
    control: &mut [u8],
    progress: &Arc<dyn Progress>,
) -> Result<Configured, Error> {
    finish::link_elsewhere(roots, access)?;
    let recovery = Recovery {
        restore_command: command::without(&checked.unasked, &options.recovery.restore_command),
        ..options.recovery.clone()
    };
    let configured = configure::configure(roots, &recovery, checked.timeline, control, access)?;
    finish::poison_control(roots, control, access)?;
    let tree = &checked.source.tree;
    let is_plain = checked.summary.backup.shape == Shape::Plain;
    if is_plain {
        finish::set_attributes(roots, &destinations(checked), options.jobs)?;
    }
    finish::set_access(roots, access)?;
    let owner = owner(options.owner, &checked.source);
    if let Some(owner) = owner {
        finish::own_all(roots, is_plain.then_some(&**tree), owner)?;
    }
    if options.sync {
        progress.phase(Phase::Syncing);
        for (_, root) in roots.all() {
            root.sync_file_system().map_err(Error::at("sync", root.path()))?;
        }
    }
    roots.check_unmoved()?;
    finish::put_control(roots, control, access.file(), owner)?;
    Ok(configured)
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

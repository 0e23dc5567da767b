//! Everything that can be known before anything is touched.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::beginning::{self, LABEL, LONGEST_LABEL};
use super::broken;
use super::candidate::Candidate;
use super::choose::Chosen;
use super::compare::{self, FileWork};
use super::content::Source;
use super::early_stop;
use super::error::Error;
use super::kept::Recovering;
use super::place::{self, CONTROL};
use super::plan::{self, Plan};
use super::received::{self, Rest};
use super::settings::Recovery;
use super::spot::{self, Base, Roots, Spot};
use super::start::{self, Start};
use super::target::{Target, TargetTimeline};
use super::unarchived::Held;
use super::wal::{self, Lack, Reach};
use super::{
    Choice, Options, choose, cluster, command, links, put_back, reachable, saved, tablespaces, tar,
    unarchived, work,
};
use crate::archive::Archive;
use crate::archive::tree::backup::Shape;
use crate::archive::tree::summary::Summary;
use crate::archive::tree::{Content, TreeName};
use crate::archive::wal::Found;
use crate::beneath::Root;
use crate::job::progress::{Phase, Progress};
use crate::job::proof::{Expected, Verdict, prove};
use crate::pg::control::CONTROL_FILE_BYTES;
use crate::pg::tablespace_map::Tablespace as Mapped;
use crate::pg::{SegmentName, SystemId, WalName};
use crate::store::Patience;

/// Segments of the backup's own WAL whose seek tables are read: of a longer range its beginning.
const PROBED: usize = 64;

/// Seek tables read at once.
const PROBES: usize = 8;

/// A restore that can begin.
#[derive(Debug)]
pub(super) struct Checked {
    pub source: Source,
    pub summary: Summary,
    pub system_id: Option<SystemId>,
    /// The control file of a plain backup.
    pub control: Vec<u8>,
    pub reach: Reach,
    /// What the server is told to follow.
    pub timeline: TargetTimeline,
    pub start: Start,
    /// By which name the restore marks its directories.
    pub restore: String,
    /// The directories, held open.
    pub roots: Arc<Roots>,
    /// Files of a plain backup.
    pub files: Arc<Vec<FileWork>>,
    /// What becomes of what is there and not in the backup.
    pub plan: Plan,
    /// Segments that the backup needs and does not bring along.
    pub segments: Vec<SegmentName>,
    /// Segments that the server shall take for not archived.
    pub unasked: Vec<SegmentName>,
    /// What was received behind the last archived segment.
    pub rest: Option<Arc<Rest>>,
    pub warnings: Vec<String>,
}

impl Checked {
    /// Files that are restored, and their bytes: by the tree, of which each byte is brought. The summary only claims them.
    pub(super) fn content(&self) -> (u64, u64) {
        let entries = self.source.tree.entries().iter();
        let files = entries.filter(|entry| {
            matches!(entry.content, Content::File { .. }) && !links::is_left_out(&entry.path)
        });
        files.fold((0, 0), |(files, bytes), entry| (files + 1, bytes + entry.bytes()))
    }
}

/// Looks at the backup, its WAL and the directories.
///
/// # Errors
/// Any [`Error`]; nothing has been touched.
pub(super) async fn check(
    archive: &Arc<Archive>,
    options: &Options,
    data: spot::Held,
    progress: &Arc<dyn Progress>,
    patience: Patience,
) -> Result<Checked, Error> {
    let (chosen, stored, mut reach) = find(archive, options, patience).await?;
    let (backup, mut summary) = (chosen.backup.name.clone(), chosen.backup.summary.clone());
    let Stored {
        source,
        control,
        system_id,
        tablespaces: known_tablespaces,
        warnings: mut said,
    } = stored;
    let size = chosen.backup.segment_size()?;
    let rest = received::find(
        archive,
        (&chosen.way, &reach),
        &options.recovery.target,
        (size, patience),
    );
    let rest = rest.boxed().await?;
    let rest = rest.map(Arc::new);
    reach.received = rest.as_ref().map(|rest| rest.end);
    if let (None, Some(rest)) = (reach.gap, &rest)
        && let Some(torn) = rest.torn
    {
        (reach.gap, reach.lack) = (Some(rest.segment), Lack::Torn(torn));
    }
    let reached = (&reach, rest.is_some());
    let through = (&chosen.backup, &chosen.way);
    let leading = broken::look(
        archive,
        through,
        reached,
        &options.recovery.target,
        (size, patience),
    );
    let (broken, told) = leading.boxed().await?;
    let mut warnings = chosen.warnings;
    warnings.extend(told);
    let rest = rest.filter(|_| broken.is_none());
    broken.iter().for_each(|broken| reach.cut_off(broken));
    warnings.extend(bad_pages(&backup, &summary));
    if let Err(error) = check_reach(archive, &reach, options).map(|more| warnings.extend(more)) {
        return Err(unless_pruned(&chosen.backup, &reach, error));
    }
    if let Some((_, start)) = summary.backup.start() {
        warnings.extend(received::warnings(archive, start, rest.as_deref(), (size, patience)).await?);
    }
    let (recovery, backup_and_way) = (&options.recovery, (&chosen.backup, &chosen.way));
    let reached = (&reach, rest.as_ref());
    let told = reachable::check(archive, recovery, backup_and_way, reached, patience).boxed();
    let told = told
        .await
        .map_err(|error| unless_pruned(&chosen.backup, &reach, error));
    warnings.extend(told?);
    let early = early_stop::warning(archive, recovery, backup_and_way, &reach, (size, patience)).boxed();
    warnings.extend(early.await?);
    warnings.append(&mut said);
    tell_tablespaces(&known_tablespaces, &mut summary);
    put_back::check(&source, &options.settings)?;
    let places = tablespaces::places(&summary, &options.tablespaces, &options.directory)?;
    let (start, roots, restore) =
        start::look(options, &source, system_id, summary.backup.shape, places, data)?;
    let segments = needed_segments(&backup, &summary)?;
    // A server that reads ahead asks for what lies behind its target.
    let may_end = options.recovery.up_to_gap || options.recovery.target == Target::Immediate;
    let ending = (&reach, may_end);
    let unasked = command::unasked(archive, &summary, ending, patience).await?;
    let mut checked = Checked {
        source,
        summary,
        system_id,
        control,
        reach,
        timeline: chosen.timeline,
        start,
        restore,
        roots: Arc::new(roots),
        files: Arc::default(),
        plan: Plan::default(),
        segments,
        unasked,
        rest,
        warnings,
    };
    let strangers = match (checked.summary.backup.shape, checked.start) {
        (Shape::Plain, _) => compare_files(&mut checked, options, progress).await?,
        (Shape::Tar, Start::Unfinished) => plan::everything(&checked.roots)?,
        (Shape::Tar, _) => Vec::new(),
    };
    if checked.start != Start::Empty {
        let held = plan_for(&mut checked, strangers, options).await?;
        let recovering = Recovering {
            archive,
            backup: &chosen.backup,
            way: &chosen.way,
            reach: &checked.reach,
            rest: checked.rest.as_deref(),
            size,
            patience,
        };
        let told = recovering
            .check(&checked.roots, &checked.plan.kept, &held)
            .await?;
        checked.warnings.extend(told);
        let kept = (&*checked.roots, &*checked.plan.kept);
        let whole = saved::whole(kept.0, kept.1, size)?;
        match options.recovery.takes_over {
            true => checked.plan.saved = whole,
            false => checked.warnings.extend(saved::warning(&whole)),
        }
    }
    check_room(&checked)?;
    Ok(checked)
}

/// Chooses the backup, and looks at what it has and at its WAL.
/// They come back as they were on the server.
fn bad_pages(name: &TreeName, summary: &Summary) -> Option<String> {
    let pages = summary.backup.pages.as_ref().filter(|pages| pages.bad > 0)?;
    let first = pages.first_bad.first();
    let first = first.map_or_else(String::new, |page| {
        format!(", the first is page {} of {}", page.block, page.path)
    });
    Some(format!(
        "{} pages were damaged on the server when backup {name} was taken{first}: they come back as they were. An earlier backup \
         may have them whole (`walfs backup-list`, BAD)",
        pages.bad
    ))
}

async fn find(
    archive: &Arc<Archive>,
    options: &Options,
    patience: Patience,
) -> Result<(Chosen, Stored, Reach), Error> {
    let chosen = choose::choose(archive, &options.backup, &options.recovery, patience).await?;
    let (backup, summary) = (&chosen.backup.name, &chosen.backup.summary);
    // Asked side by side; the first error in this order is told.
    let (wal, content, reach) = futures::join!(
        has_wal(archive, &options.backup, (backup, summary), patience),
        content(archive, backup, summary, patience),
        wal::reach(archive, &chosen.backup, &chosen.way, patience)
    );
    wal?;
    let (stored, reach) = (content?, reach?);
    if let Some(system_id) = stored.system_id {
        cluster::check(archive, backup, system_id, patience).await?;
    }
    Ok((chosen, stored, reach))
}

/// Where the tablespaces of a backup in compressed tar files were is told in there.
fn tell_tablespaces(map: &[Mapped], summary: &mut Summary) {
    for tablespace in &mut summary.backup.tablespaces {
        let known = map.iter().find(|known| known.oid == tablespace.oid);
        if let Some(known) = known.filter(|_| tablespace.location.is_empty()) {
            tablespace.location = String::from_utf8_lossy(&known.location).into_owned();
        }
    }
}

/// Is the WAL there that makes the backup consistent, and whole? As far as seek tables tell. The newest backup was chosen
/// because its WAL is there.
async fn has_wal(
    archive: &Archive,
    choice: &Choice,
    (name, summary): (&TreeName, &Summary),
    patience: Patience,
) -> Result<(), Error> {
    if let Choice::Named(_) = choice {
        choose::check_wal(archive, (name, summary), patience).await?;
    }
    let segments = needed_segments(name, summary)?.into_iter().take(PROBED);
    let probes = stream::iter(segments).map(|segment| archive.look(WalName::Segment(segment), patience));
    let probed: Result<Vec<Found>, _> = probes.buffered(PROBES).try_collect().await;
    Ok(probed.map(drop)?)
}

/// What the backup has.
struct Stored {
    /// Where it is read from.
    source: Source,
    /// Its control file, if it is plain.
    control: Vec<u8>,
    /// Its cluster, as far as it is known.
    system_id: Option<SystemId>,
    /// Its tablespaces, if it is kept in tar files.
    tablespaces: Vec<Mapped>,
    /// What the operator should know.
    warnings: Vec<String>,
}

async fn content(
    archive: &Arc<Archive>,
    backup: &TreeName,
    summary: &Summary,
    patience: Patience,
) -> Result<Stored, Error> {
    let tree = archive.tree(backup, summary, patience).await?;
    let wrong = |file: &str, reason: &str| Error::Content {
        backup: backup.clone(),
        file: file.into(),
        reason: reason.into(),
    };
    if let Some((part, reason)) = archive.missing_part(&tree.parts, patience).await? {
        return Err(wrong(part.as_str(), &reason));
    }
    let found = archive.found_damaged(patience).await?;
    for part in tree.parts.iter().filter(|part| found.contains(part.key.as_str())) {
        // It may have been mended since.
        let nothing = Arc::new(|_: u64, _: &[u8]| {});
        if let Verdict::Damaged(reason, _) =
            prove(archive, &part.key, &Expected::default(), patience, nothing).await?
        {
            return Err(wrong(part.key.as_str(), &reason));
        }
    }
    let settled = links::settled(&tree).map_err(|refused| wrong(&refused.path, refused.reason))?;
    let (tree, warnings) = match settled {
        Some((tree, warnings)) => (Arc::new(tree), warnings),
        None => (tree, Vec::new()),
    };
    let source = Source {
        archive: archive.clone(),
        backup: backup.clone(),
        summary: summary.clone(),
        tree,
        patience,
    };
    if summary.backup.shape == Shape::Tar {
        let tablespaces = tar::tablespaces(&source).await?;
        return Ok(Stored {
            source,
            control: Vec::new(),
            system_id: summary.backup.system_identifier,
            tablespaces,
            warnings,
        });
    }
    let (control, system_id) = control(&source, summary).await?;
    Ok(Stored {
        source,
        control,
        system_id: Some(system_id),
        tablespaces: Vec::new(),
        warnings,
    })
}

/// The control file of a plain backup, and whose it is.
async fn control(source: &Source, summary: &Summary) -> Result<(Vec<u8>, SystemId), Error> {
    let (control, label) = futures::join!(
        source.small(CONTROL, CONTROL_FILE_BYTES as u64),
        source.small(LABEL, LONGEST_LABEL)
    );
    let missing = || Error::Content {
        backup: source.backup.clone(),
        file: CONTROL.into(),
        reason: "it is missing".into(),
    };
    let (control, label) = (control?.ok_or_else(missing)?, label?);
    let (_, known) = beginning::check(&source.backup, &summary.backup, &control, label.as_deref())?;
    Ok((control, known.system_id))
}

/// Does the WAL lead to the target? What only PostgreSQL can tell becomes a warning.
fn check_reach(archive: &Archive, reach: &Reach, options: &Options) -> Result<Vec<String>, Error> {
    let recovery = &options.recovery;
    let mut warnings = Vec::new();
    if recovery.target == Target::Immediate {
        return Ok(warnings);
    }
    let reason = match reach.gap {
        Some(missing) => reach.lack.of(missing),
        None if reach.is_own() => format!(
            "{} is not archived, only the backup has its beginning",
            reach.last
        ),
        None => format!("{} is the last segment that is archived", reach.last),
    };
    match recovery.target {
        _ if !recovery.standby && is_out_of_reach(recovery, reach) => {
            return Err(Error::WalEndsEarly {
                place: archive.place(),
                target: recovery.target.to_string(),
                reached: reach.furthest(),
                reason,
                remedy: match reach.broken() {
                    Some(_) => {
                        "bring that object back from a copy of the store; or remove it, and archive the file anew, if a standby \
                         has it whole"
                    }
                    None => "archive what is missing",
                },
            });
        }
        Target::Lsn(lsn) if lsn <= reach.furthest() => return Ok(warnings),
        _ if reach.gap.is_some() => warnings.push(format!(
            "{reason}: recovery can go no further than {}. WAL behind the gap needs a newer backup.",
            reach.furthest()
        )),
        _ => {}
    }
    Ok(warnings)
}

/// A gap that a prune has made is no loss.
fn unless_pruned(backup: &Candidate, reach: &Reach, error: Error) -> Error {
    match (error, reach.gap, reach.lack) {
        (
            Error::WalEndsEarly { place, target, .. } | Error::NotReached { place, target, .. },
            Some(gap),
            Lack::Pruned,
        ) => Error::WalPruned {
            backup: backup.name.clone(),
            place,
            target,
            gap,
        },
        (error, ..) => error,
    }
}

/// Is it known that recovery cannot get there? A standby's server may bring what the archive lacks.
fn is_out_of_reach(recovery: &Recovery, reach: &Reach) -> bool {
    let stops_at_gap = reach.gap.is_some() && !recovery.up_to_gap;
    match recovery.target {
        Target::Lsn(lsn) => lsn > reach.furthest(),
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

/// Finds what is missing; returns what is too much.
async fn compare_files(
    checked: &mut Checked,
    options: &Options,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<Spot>, Error> {
    let (source, roots) = (&checked.source, &checked.roots);
    let mut files = compare::files(&source.tree, &roots.bases);
    let mut strangers = Vec::new();
    if checked.start != Start::Empty {
        progress.phase(Phase::Comparing {
            bytes: checked.content().1,
        });
        let hashes = compare::Hashes::new(source).await?;
        strangers = compare::strangers(&source.tree, roots)?;
        let going: HashSet<(Base, &Path)> = strangers.iter().map(|spot| (spot.base, &*spot.below)).collect();
        let compare = |file: &FileWork| {
            // Behind a link in a directory's place: it goes, and what was seen through it.
            let mut above = file.spot.below.ancestors();
            let missing = match above.any(|above| going.contains(&(file.spot.base, above))) {
                true => file.missing.clone(),
                false => compare::missing(roots, file, hashes.key(), hashes.of_file(file)?)?,
            };
            progress.advance(file.bytes);
            Ok(missing)
        };
        // They wait for hashes, which this runtime's other threads bring.
        let missing = tokio::task::block_in_place(|| work::for_each(&files, options.jobs, compare))?;
        for (file, missing) in files.iter_mut().zip(missing) {
            file.missing = missing;
        }
    }
    checked.files = Arc::new(files);
    Ok(strangers)
}

/// Says what becomes of what is too much, and of WAL that is nowhere else; returns what stays of it where no server looks.
async fn plan_for(
    checked: &mut Checked,
    mut strangers: Vec<Spot>,
    options: &Options,
) -> Result<Vec<Held>, Error> {
    let (archive, roots) = (&checked.source.archive, &checked.roots);
    let held = unarchived::elsewhere(archive, roots, &strangers, checked.source.patience).await?;
    for Held {
        spot, path, is_known, ..
    } in &held
    {
        strangers.retain(|going| going != spot);
        let why = match is_known {
            true => "is WAL that is not archived",
            false => "has the name of a segment, and cannot be compared with what is archived",
        };
        checked.warnings.push(format!(
            "{} stays, although it is not in the backup: {} {why}",
            roots.bases.path(spot).display(),
            path.display()
        ));
    }
    let mut unarchived = unarchived::find(archive, roots, checked.source.patience).await?;
    // A backup may bring WAL of its own.
    let files = Arc::make_mut(&mut checked.files);
    let own = |name: WalName| roots.bases.spot(format!("pg_wal/{name}").as_bytes());
    unarchived.retain_mut(|wal| {
        let file = files.iter().find(|file| file.spot == own(wal.name));
        wal.differs |= file.is_some();
        !file.is_some_and(|file| compare::is_begun(roots, file))
    });
    let plan = Plan::new(strangers, roots, &unarchived, options, archive)?;
    for name in plan.aside.iter().flat_map(|aside| &aside.files) {
        if let Some(file) = files.iter_mut().find(|file| file.spot == own(*name)) {
            let whole = 0..file.bytes;
            file.missing = vec![whole];
        }
    }
    checked.plan = plan;
    Ok(held)
}

/// Room for what is not there yet. What a tar file unpacks to is not known; at least as much as itself.
fn check_room(checked: &Checked) -> Result<(), Error> {
    let (roots, bases) = (&checked.roots, &checked.roots.bases);
    let wal_bytes = (checked.segments.len() as u64).saturating_mul(checked.summary.backup.segment_bytes);
    let mut needed: Vec<(Base, u64)> = bases.all().map(|base| (base, 0)).collect();
    let mut add = |base: Base, bytes: u64| {
        if let Some((_, sum)) = needed.iter_mut().find(|(known, _)| *known == base) {
            *sum = sum.saturating_add(bytes);
        }
    };
    add(bases.spot(b"pg_wal").base, wal_bytes);
    if checked.summary.backup.shape == Shape::Tar {
        add(Base::Data, checked.content().1);
    }
    for file in checked.files.iter() {
        let there = roots.metadata(&file.spot).ok().flatten();
        let there = there.map_or(0, |found| found.blocks() * 512);
        add(file.spot.base, file.bytes.saturating_sub(there));
    }
    let needed: Vec<(&Root, u64)> = needed
        .iter()
        .filter_map(|(base, bytes)| Some((roots.nearest(*base)?, *bytes)))
        .collect();
    place::check_room(&needed)
}

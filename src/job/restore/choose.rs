//! Which backup is meant, which timeline recovery follows from it, and whether all of its own WAL is there.

use std::sync::Arc;

use futures::FutureExt;

use super::branches::{Answer, Question};
use super::candidate::Candidate;
use super::doubt;
use super::error::Error;
use super::reachable;
use super::settings::Recovery;
use super::target::{Target, TargetTimeline};
use super::timelines::Timelines;
use super::way::Way;
use crate::archive::tree::catalogue::BackupWal;
use crate::archive::tree::intact::SeenTrees;
use crate::archive::tree::summary::Summary;
use crate::archive::tree::{LATEST, TreeKind, TreeName};
use crate::archive::{self, Archive};
use crate::pg::{Lsn, Timeline, WalName};
use crate::store::Patience;

/// A backup by name, or the newest that will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Named(TreeName),
    /// The newest complete one that ends before the target, on the way to the timeline.
    Latest,
}

/// What is restored, and which way recovery goes.
#[derive(Debug)]
pub(super) struct Chosen {
    pub backup: Candidate,
    pub way: Way,
    /// What the server is told.
    pub timeline: TargetTimeline,
    pub warnings: Vec<String>,
}

/// Finds the backup, which ends before the target, and the way from there. Whether all of its own WAL is archived is
/// another question ([`check_wal`]), which of the newest one is answered already.
///
/// # Errors
/// [`Error::NoBackup`], [`Error::NoneBefore`], [`Error::TargetTooEarly`], [`Error::NoTimeline`], [`Error::OtherBranch`],
/// [`Error::NoneOnTimeline`], [`Error::Branches`], [`Error::LostHistory`],
/// [`Error::DamagedHistory`], [`Error::Undecided`], [`Error::NotReached`],
/// [`Error::Archive`].
pub(super) async fn choose(
    archive: &Arc<Archive>,
    choice: &Choice,
    recovery: &Recovery,
    patience: Patience,
) -> Result<Chosen, Error> {
    let (timelines, candidates) = futures::join!(
        Timelines::find(archive, patience),
        candidates(archive, choice, &recovery.target, patience)
    );
    let ((candidates, others), timelines) = (candidates?, timelines?);
    let settled = doubt::settle(
        archive,
        choice,
        (candidates, &others),
        &timelines,
        recovery,
        patience,
    );
    let (mut candidates, mut doubts) = settled.boxed().await?;
    let answer = answer(archive, choice, recovery, (&timelines, &candidates), patience).await?;
    let (candidate, way) = match choice {
        Choice::Named(_) => first(&candidates[0], &timelines, answer.as_ref())?,
        Choice::Latest => {
            if candidates.len() > 1 {
                candidates = match recovery.target {
                    Target::Name(_) | Target::Xid(_) => {
                        let decided = decided(archive, candidates, recovery, answer.as_ref(), patience);
                        decided.boxed().await?
                    }
                    Target::Time(_) => {
                        let reaching = reaching(archive, candidates, recovery, answer.as_ref(), patience);
                        reaching.boxed().await?
                    }
                    Target::Latest | Target::Immediate | Target::Lsn(_) => candidates,
                };
            }
            newest(archive, &candidates, &timelines, answer.as_ref(), patience).await?
        }
    };
    let mut warnings = answer.map_or_else(Vec::new, |answer| answer.warnings);
    refuse_damaged(archive, recovery, &timelines, (candidate, &way))?;
    warnings.extend(doubts.remove(&candidate.name));
    if recovery.timeline == TargetTimeline::Latest {
        refuse_lost(archive, &timelines, (candidate, &way), &recovery.target)?;
        warnings.extend(timelines.passed_over(candidate.own, way.timeline()));
    }
    Ok(Chosen {
        timeline: told(recovery, &timelines, candidate, way.timeline(), &mut warnings),
        backup: candidate.clone(),
        way,
        warnings,
    })
}

/// The backup that was named, or all that end before the target, newest first; never none. And all others, if that is a time.
async fn candidates(
    archive: &Archive,
    choice: &Choice,
    target: &Target,
    patience: Patience,
) -> Result<(Vec<Candidate>, Vec<Candidate>), Error> {
    match choice {
        Choice::Named(name) => {
            let named = vec![named(archive, name, target, patience).await?];
            match target {
                Target::Time(_) => {
                    let Around { before, later, .. } = around(archive, target, patience).await?;
                    let others = before.into_iter().chain(later);
                    Ok((named, others.filter(|other| other.name != *name).collect()))
                }
                _ => Ok((named, vec![])),
            }
        }
        Choice::Latest => before(archive, target, patience).await,
    }
}

async fn named(
    archive: &Archive,
    name: &TreeName,
    target: &Target,
    patience: Patience,
) -> Result<Candidate, Error> {
    let found = archive.summary(TreeKind::BaseBackup, name, patience).await?;
    let mut summary = found.ok_or_else(|| Error::NoBackup {
        name: name.to_string(),
        place: archive.place(),
    })?;
    if let Some(from) = summary.backup.incremental_from {
        return Err(Error::Incremental {
            backup: name.clone(),
            from,
        });
    }
    summary.backup.ended = archive.ended(&summary.backup, patience).await?;
    if let Some(stop) = target.too_early_for(&summary) {
        return Err(Error::TargetTooEarly {
            backup: name.clone(),
            target: target.to_string(),
            stop,
        });
    }
    Candidate::new(name.clone(), summary).ok_or_else(|| Error::Content {
        backup: name.clone(),
        file: "its summary".into(),
        reason: "it names no WAL".into(),
    })
}

async fn before(
    archive: &Archive,
    target: &Target,
    patience: Patience,
) -> Result<(Vec<Candidate>, Vec<Candidate>), Error> {
    let Around {
        before,
        later,
        incremental,
    } = around(archive, target, patience).await?;
    match (before.is_empty(), incremental) {
        (true, Some((backup, from))) => Err(Error::Incremental { backup, from }),
        (true, None) => Err(none(archive, target)),
        (false, _) => Ok((before, later)),
    }
}

/// All backups, newest first.
struct Around {
    /// They end before the target, as far as their own times tell.
    before: Vec<Candidate>,
    /// They do not.
    later: Vec<Candidate>,
    /// The newest incremental one of PostgreSQL, and where that began which it is to be combined with.
    incremental: Option<(TreeName, Lsn)>,
}

async fn around(archive: &Archive, target: &Target, patience: Patience) -> Result<Around, Error> {
    let mut around = Around {
        before: Vec::new(),
        later: Vec::new(),
        incremental: None,
    };
    for (name, summary) in archive
        .summaries(TreeKind::BaseBackup, patience)
        .await?
        .into_iter()
        .rev()
    {
        let mut summary = match summary {
            Ok(summary) => summary,
            Err(error) => {
                tracing::warn!("{error}");
                continue;
            }
        };
        summary.backup.ended = archive.ended(&summary.backup, patience).await?;
        if let Some(from) = summary.backup.incremental_from {
            around.incremental = around.incremental.or(Some((name, from)));
            continue;
        }
        let found = match target.too_early_for(&summary) {
            None => &mut around.before,
            Some(_) => &mut around.later,
        };
        found.extend(Candidate::new(name, summary));
    }
    Ok(around)
}

fn none(archive: &Archive, target: &Target) -> Error {
    let place = archive.place();
    match target {
        Target::Time(_) | Target::Lsn(_) => Error::NoneBefore {
            place,
            target: target.to_string(),
        },
        _ => Error::NoBackup {
            name: LATEST.into(),
            place,
        },
    }
}

/// The way that was asked for or found; `None`: each backup's own.
async fn answer(
    archive: &Arc<Archive>,
    choice: &Choice,
    recovery: &Recovery,
    (timelines, candidates): (&Timelines, &[Candidate]),
    patience: Patience,
) -> Result<Option<Answer>, Error> {
    let given = |way| {
        Some(Answer {
            way,
            warnings: vec![],
        })
    };
    match recovery.timeline {
        TargetTimeline::Number(timeline) => {
            let is_own = candidates.iter().any(|candidate| candidate.own == timeline);
            let way = timelines.way(timeline, is_own);
            let place = || archive.place();
            Ok(given(way.ok_or_else(|| Error::NoTimeline {
                place: place(),
                timeline,
            })?))
        }
        TargetTimeline::Current => Ok(None),
        TargetTimeline::Latest if recovery.target == Target::Immediate => Ok(None),
        TargetTimeline::Latest => {
            let question = Question {
                archive,
                timelines,
                candidates,
                target: &recovery.target,
                size: candidates[0].segment_size()?,
                patience,
            };
            question.answer(*choice == Choice::Latest).await
        }
    }
}

/// The server would stop when it asks for such a history; a standby asks for all that are newer than its backup.
fn refuse_damaged(
    archive: &Archive,
    recovery: &Recovery,
    timelines: &Timelines,
    (candidate, way): (&Candidate, &Way),
) -> Result<(), Error> {
    let from = match recovery.standby {
        true => candidate.own,
        false => way.timeline(),
    };
    match timelines.damaged(from) {
        None => Ok(()),
        Some((timeline, reason)) => Err(Error::DamagedHistory {
            reason: reason.to_owned(),
            key: archive.wal_key(WalName::History(timeline)).to_string(),
            timeline,
            followed: from,
        }),
    }
}

/// A timeline without its history may be the one that was meant (promise R6), unless the target lies before its WAL.
fn refuse_lost(
    archive: &Archive,
    timelines: &Timelines,
    (candidate, way): (&Candidate, &Way),
    target: &Target,
) -> Result<(), Error> {
    let Some((timeline, first)) = timelines.lost(candidate.own, way) else {
        return Ok(());
    };
    let size = candidate.segment_size()?;
    match target {
        Target::Immediate => Ok(()),
        Target::Lsn(lsn) if *lsn <= first.start(size) => Ok(()),
        _ => Err(Error::LostHistory {
            place: archive.place(),
            timeline,
            first,
            followed: way.timeline(),
        }),
    }
}

/// A name or a transaction does not say when it was: of several backups each may end before it. Where one way is followed, the
/// WAL tells.
async fn decided(
    archive: &Arc<Archive>,
    candidates: Vec<Candidate>,
    recovery: &Recovery,
    answer: Option<&Answer>,
    patience: Patience,
) -> Result<Vec<Candidate>, Error> {
    let known = match answer {
        Some(answer) => reachable::before(archive, recovery, (&candidates, &answer.way), patience).await?,
        None => None,
    };
    known.ok_or_else(|| Error::Undecided {
        target: recovery.target.to_string(),
        backups: candidates
            .iter()
            .map(|candidate| (candidate.name.clone(), candidate.summary.backup.ended))
            .collect(),
    })
}

/// Clocks go back: of the backups that ended before a time only those reach it that lie before the WAL of a later one. What
/// the others lack is told when the target is looked for from the one that is chosen.
async fn reaching(
    archive: &Arc<Archive>,
    candidates: Vec<Candidate>,
    recovery: &Recovery,
    answer: Option<&Answer>,
    patience: Patience,
) -> Result<Vec<Candidate>, Error> {
    let Some(answer) = answer.filter(|_| !recovery.standby) else {
        return Ok(candidates);
    };
    match reachable::before(archive, recovery, (&candidates, &answer.way), patience).await {
        Ok(Some(reaching)) => Ok(reaching),
        Ok(None) | Err(Error::NotReached { .. } | Error::NoneBefore { .. }) => Ok(candidates),
        Err(error) => Err(error),
    }
}

/// The backup that was named must lie on the way.
fn first<'a>(
    candidate: &'a Candidate,
    timelines: &Timelines,
    answer: Option<&Answer>,
) -> Result<(&'a Candidate, Way), Error> {
    let way = answer.map_or_else(|| candidate.own_way(timelines), |answer| answer.way.clone());
    match way.check_through(candidate.own, candidate.stop) {
        Ok(()) => Ok((candidate, way)),
        Err(reason) => Err(Error::OtherBranch {
            backup: candidate.name.clone(),
            stop: candidate.stop,
            own: candidate.own,
            timeline: way.timeline(),
            reason,
        }),
    }
}

/// The newest that lies on the way, is all there, and has all of its own WAL.
async fn newest<'a>(
    archive: &Archive,
    candidates: &'a [Candidate],
    timelines: &Timelines,
    answer: Option<&Answer>,
    patience: Patience,
) -> Result<(&'a Candidate, Way), Error> {
    let seen = SeenTrees::default();
    let found = archive.found_in_backups(patience).await?;
    let whole_first = found.behind(candidates.iter().collect(), |one| &one.summary);
    for candidate in whole_first {
        let way = answer.map_or_else(|| candidate.own_way(timelines), |answer| answer.way.clone());
        if !candidate.is_on(&way) {
            continue;
        }
        let (name, summary) = (&candidate.name, &candidate.summary);
        if let Some(missing) = archive.missing_of_tree(name, summary, &seen, patience).await? {
            tracing::warn!("backup {name} is passed over: {missing}");
            continue;
        }
        match check_wal(archive, (name, summary), patience).await {
            Ok(()) => {
                let newer = candidates.iter().take_while(|newer| newer.name != *name);
                for newer in newer {
                    if let Some(found) = found.of(&newer.summary) {
                        tracing::warn!("backup {} is passed over: {found}", newer.name);
                    }
                }
                return Ok((candidate, way));
            }
            Err(Error::MissingWal { .. }) => {}
            Err(Error::Archive(error @ archive::Error::TreeOtherWal { .. })) => {
                tracing::warn!("backup {name} is passed over: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::NoneOnTimeline {
        place: archive.place(),
        timeline: answer.map(|answer| answer.way.timeline()),
    })
}

/// The number, so that the server goes where walfs looked: its own `latest` believes every history that is archived. A
/// standby shall follow timelines to come, which only `latest` does.
fn told(
    recovery: &Recovery,
    timelines: &Timelines,
    candidate: &Candidate,
    chosen: Timeline,
    warnings: &mut Vec<String>,
) -> TargetTimeline {
    let is_latest = recovery.timeline == TargetTimeline::Latest;
    let begun = candidate
        .summary
        .backup
        .start()
        .map_or(candidate.own, |(begun, _)| begun);
    if recovery.standby && is_latest {
        if timelines.latest_of_postgresql(begun) == chosen {
            return TargetTimeline::Latest;
        }
        warnings.push(format!(
            "the standby stays on timeline {chosen}: \"latest\" would lead PostgreSQL to another one. When its primary has a \
             new timeline, set recovery_target_timeline."
        ));
    }
    // The server looks for the history of a number, but not for that of the backup's own timeline.
    let needs_history = chosen != Timeline(1) && !timelines.has_history(chosen);
    match needs_history {
        true => TargetTimeline::Current,
        false => TargetTimeline::Number(chosen),
    }
}

/// Is all of the backup's own WAL archived?
///
/// # Errors
/// [`Error::MissingWal`]; [`Error::Archive`], also for WAL of another server.
pub(super) async fn check_wal(
    archive: &Archive,
    (name, summary): (&TreeName, &Summary),
    patience: Patience,
) -> Result<(), Error> {
    match archive.backup_wal(summary, patience).await? {
        BackupWal::Complete => Ok(()),
        BackupWal::Missing(segments) => {
            let names: Vec<String> = segments.iter().map(ToString::to_string).collect();
            Err(Error::MissingWal {
                backup: name.clone(),
                missing: names.join(", "),
                place: archive.place(),
            })
        }
        BackupWal::Others(segments) => Err(archive.other_wal(name, segments).into()),
    }
}

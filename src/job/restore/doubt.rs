//! Backups of which it is not sure that they ended before a time, and what the WAL says of them.
//!
//! Some ends are known by a bound only ([`Ended`](crate::archive::tree::ended::Ended)), and where the times of two backups
//! contradict their order in the WAL, one of two clocks was wrong. Recovery to a time stops at the first transaction that ended
//! later (`recoveryStopsBefore` of xlogrecovery.c): so a backup will do if the WAL has none in front of its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;

use super::candidate::Candidate;
use super::choose::Choice;
use super::error::Error;
use super::settings::Recovery;
use super::target::Target;
use super::timelines::Timelines;
use crate::archive::Archive;
use crate::archive::tree::TreeName;
use crate::job::in_order::in_order;
use crate::job::line::{Line, Order};
use crate::job::time_stop;
use crate::pg::wal_index::Moment;
use crate::pg::{Lsn, Timeline};
use crate::store::Patience;

/// Segments that are asked about one backup.
const MOST_SEGMENTS: u64 = 8192;

/// ... of which those without an index are fetched and walked through.
const MOST_WALKS: u64 = 64;

/// Why it is not sure that a backup ended before the target.
struct Doubt {
    /// In words.
    reason: String,
    asks: Asks,
}

/// What decides.
enum Asks {
    /// A backup before it ended behind the target.
    Order,
    /// The WAL from there to its end, of which recovery from it reads all: nothing but a bound of its end is known.
    OwnWal(Lsn),
    /// The WAL from the end of a backup before it that ended later.
    WalBetween(Lsn),
}

/// When one is taken of which it is not sure.
enum If {
    Named,
    /// All are like it.
    NoOther,
    /// The others turn out to be of no use.
    NoOtherWillDo,
}

/// What the WAL has in front of a backup's end.
enum Word {
    /// A transaction that ended behind the target.
    Later(Moment),
    /// None.
    Nothing,
    Unknown,
}

/// Backups that will do for a time, the newest first, of those of which their own times say so; and what is to be said of
/// them. `others`: all others that there are.
///
/// # Errors
/// [`Error::NoneBefore`], [`Error::TargetTooEarly`]; [`Error::Archive`].
pub(super) async fn settle(
    archive: &Arc<Archive>,
    choice: &Choice,
    (candidates, others): (Vec<Candidate>, &[Candidate]),
    timelines: &Timelines,
    recovery: &Recovery,
    patience: Patience,
) -> Result<(Vec<Candidate>, BTreeMap<TreeName, String>), Error> {
    let Target::Time(time) = recovery.target else {
        return Ok((candidates, BTreeMap::new()));
    };
    let asked = Asked {
        archive,
        timelines,
        recovery,
        time,
        patience,
    };
    let mut believed: BTreeMap<Timeline, Vec<&Candidate>> = BTreeMap::new();
    for candidate in &candidates {
        let all = || candidates.iter().chain(others);
        let believe = || asked.believed(candidate, all());
        believed.entry(candidate.own).or_insert_with(believe);
    }
    // Of each timeline, what lies before one that will do, will do as well.
    let mut settled: BTreeSet<Timeline> = BTreeSet::new();
    let (mut kept, mut open, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for candidate in &candidates {
        let Some(doubt) = asked.doubt(candidate, &believed[&candidate.own]) else {
            settled.insert(candidate.own);
            kept.push(candidate);
            continue;
        };
        let Doubt { reason, asks } = doubt;
        let from = match asks {
            Asks::Order => {
                open.push((candidate, reason, If::Named));
                continue;
            }
            _ if settled.contains(&candidate.own) => {
                kept.push(candidate);
                continue;
            }
            Asks::OwnWal(from) | Asks::WalBetween(from) => from,
        };
        match (asked.word(candidate, from).boxed().await?, asks) {
            (Word::Nothing, _) => {
                settled.insert(candidate.own);
                kept.push(candidate);
            }
            (Word::Later(Moment { at, time }), Asks::OwnWal(_)) => {
                tracing::warn!(
                    "backup {} is passed over: {reason}; it has WAL of {time}, at {at}, behind {}",
                    candidate.name,
                    recovery.target
                );
                refused.push((candidate, time));
            }
            (Word::Later(Moment { at, time }), _) => {
                let later =
                    format!("{reason}; in front of its end, at {at}, the WAL has a transaction of {time}");
                open.push((candidate, later, If::NoOther));
            }
            (Word::Unknown, _) => {
                let unknown = format!(
                    "{reason}; its WAL does not tell whether it lies before {}",
                    recovery.target
                );
                open.push((candidate, unknown, If::NoOtherWillDo));
            }
        }
    }
    if !kept.is_empty() {
        let mut kept: Vec<Candidate> = kept.into_iter().cloned().collect();
        let mut doubts = BTreeMap::new();
        for (candidate, doubt, taken) in open {
            let name = candidate.name.clone();
            match taken {
                If::Named => {
                    tracing::warn!(
                        "backup {name} is passed over: {doubt}\nHINT: if its clock was right, name it"
                    );
                }
                If::NoOther => tracing::warn!("backup {name} is passed over: {doubt}"),
                If::NoOtherWillDo => {
                    tracing::warn!(
                        "backup {name} is not preferred: {doubt}\nHINT: if it lies before that, name it"
                    );
                    kept.push(candidate.clone());
                    doubts.insert(name, doubt);
                }
            }
        }
        return Ok((kept, doubts));
    }
    if open.is_empty()
        && let Some((candidate, time)) = refused.first()
    {
        return Err(asked.too_late(choice, candidate, *time));
    }
    let doubtful = open.iter().map(|(candidate, ..)| (*candidate).clone()).collect();
    let hint = match choice {
        Choice::Named(_) => "\nHINT: LATEST means one of which that is known, if there is one",
        Choice::Latest => "",
    };
    let doubts = open
        .into_iter()
        .map(|(candidate, doubt, _)| (candidate.name.clone(), format!("{doubt}{hint}")));
    Ok((doubtful, doubts.collect()))
}

/// What is wanted.
struct Asked<'a> {
    archive: &'a Arc<Archive>,
    timelines: &'a Timelines,
    recovery: &'a Recovery,
    time: Timestamp,
    patience: Patience,
}

impl Asked<'_> {
    /// Those on the way of a backup whose times are known, and agree with most others'.
    fn believed<'a>(
        &self,
        candidate: &Candidate,
        all: impl Iterator<Item = &'a Candidate>,
    ) -> Vec<&'a Candidate> {
        let way = candidate.own_way(self.timelines);
        let mut on_way: Vec<&Candidate> = all.filter(|other| other.is_on(&way)).collect();
        on_way.retain(|other| other.summary.backup.ended.is_exact());
        on_way.sort_by_key(|other| other.stop);
        let ended: Vec<Timestamp> = on_way.iter().map(|other| ended(other)).collect();
        in_order(&ended).into_iter().map(|place| on_way[place]).collect()
    }

    fn doubt(&self, candidate: &Candidate, believed: &[&Candidate]) -> Option<Doubt> {
        let is_exact = candidate.summary.backup.ended.is_exact();
        let before = believed
            .iter()
            .filter(|other| other.stop < candidate.stop && ended(other) > ended(candidate));
        let latest = before.max_by_key(|other| ended(other));
        let target = &self.recovery.target;
        let asks = match latest {
            Some(latest) if target.too_early_for(&latest.summary).is_some() => Asks::Order,
            Some(latest) if is_exact => Asks::WalBetween(latest.stop),
            None if is_exact => return None,
            _ => Asks::OwnWal(candidate.summary.backup.start()?.1),
        };
        let (name, at) = (&candidate.name, ended(candidate));
        let behind = match asks {
            Asks::Order => format!(", behind {target}"),
            Asks::OwnWal(_) | Asks::WalBetween(_) => String::new(),
        };
        let reason = match latest {
            Some(latest) if is_exact => format!(
                "backup {name} ended at {at}, by its clock, and backup {}, which was taken before it, at {}{behind}: one of the \
                 two clocks was wrong, and what is restored may be of a later time than {target}",
                latest.name,
                ended(latest)
            ),
            Some(latest) => format!(
                "backup {name} ended after backup {}, which ended at {}{behind}",
                latest.name,
                ended(latest)
            ),
            None => format!("of backup {name} it is only known that it ended after {at}"),
        };
        Some(Doubt { reason, asks })
    }

    /// Does recovery to the time stop in front of a backup's end?
    async fn word(&self, candidate: &Candidate, from: Lsn) -> Result<Word, Error> {
        let (size, stop) = (candidate.segment_size()?, candidate.stop);
        let (first, last) = (from.0 / size.bytes(), stop.0.saturating_sub(1) / size.bytes());
        if last.saturating_sub(first) >= MOST_SEGMENTS {
            return Ok(Word::Unknown);
        }
        let runs = candidate.own_way(self.timelines).runs(first..=last, size);
        let line = Line::new(self.archive, runs, None, (size, self.patience))
            .await?
            .walking_at_most(MOST_WALKS);
        let stops = |time: Timestamp| time > self.time || !self.recovery.inclusive && time == self.time;
        let (mut told, mut seen, mut all) = (line.told(Order::NewestFirst), 0, true);
        while let Some(one) = told.next().await {
            let one = one?;
            seen += 1;
            let Some(index) = &one.index else {
                all = false;
                continue;
            };
            all &= index.is_whole();
            let found = time_stop::stop_in(&line, &one, from, stops).await?;
            if let Some(found) = found.filter(|found| found.at < stop) {
                return Ok(Word::Later(found));
            }
        }
        Ok(match all && seen == line.segments() {
            true => Word::Nothing,
            false => Word::Unknown,
        })
    }

    fn too_late(&self, choice: &Choice, candidate: &Candidate, time: Timestamp) -> Error {
        let target = self.recovery.target.to_string();
        match choice {
            Choice::Named(_) => Error::TargetTooEarly {
                backup: candidate.name.clone(),
                target,
                stop: time.to_string(),
            },
            Choice::Latest => Error::NoneBefore {
                place: self.archive.place(),
                target,
            },
        }
    }
}

fn ended(candidate: &Candidate) -> Timestamp {
    candidate.summary.backup.ended.at
}

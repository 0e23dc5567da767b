//! Which timeline recovery follows if nobody has named one.
//!
//! PostgreSQL follows the highest number. But a timeline is often a copy that somebody opened for a look, or the server that
//! the copy was made of: following it may leave committed and archived rows behind, without a word. So an end is taken
//! by itself only if there is no other, and the operator is asked where several have WAL of their own (promise B12).

use std::sync::Arc;
use std::time::SystemTime;

use super::branch::Branch;
use super::candidate::Candidate;
use super::error::Error;
use super::forks;
use super::target::Target;
use super::timelines::Timelines;
use super::way::Way;
use crate::archive::Archive;
use crate::archive::tree::TreeKind;
use crate::pg::{Lsn, SegmentSize};
use crate::store::Patience;

/// What there is to choose from.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub archive: &'a Arc<Archive>,
    pub timelines: &'a Timelines,
    /// Backups that recovery could begin with.
    pub candidates: &'a [Candidate],
    pub target: &'a Target,
    pub size: SegmentSize,
    pub patience: Patience,
}

/// The way to follow, and what should be known of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub way: Way,
    pub warnings: Vec<String>,
}

impl Question<'_> {
    /// Finds the only end that the target can be on; `None` if there is no candidate. `may_settle`: an end counts as
    /// abandoned if a candidate on another one was begun after its newest WAL.
    ///
    /// # Errors
    /// [`Error::Branches`] if there are several; [`Error::Archive`].
    pub(super) async fn answer(&self, may_settle: bool) -> Result<Option<Answer>, Error> {
        let ends = self.ends().await?;
        let Some(parting) = parting(&ends) else {
            let answer = |way| Answer {
                way,
                warnings: vec![],
            };
            return Ok(ends.into_iter().next_back().map(answer));
        };
        let is_before = matches!(self.target, Target::Lsn(lsn) if *lsn <= parting);
        if is_before || self.is_time_before(parting, &ends).await? {
            let answer = |way| Answer {
                way,
                warnings: vec![],
            };
            return Ok(ends.into_iter().next_back().map(answer));
        }
        let mut branches = Vec::with_capacity(ends.len());
        for end in &ends {
            branches.push(forks::branch(self.archive, end, parting, self.size, self.patience).await?);
        }
        let settled = may_settle.then(|| self.settled(&ends, &branches)).flatten();
        settled.map(Some).ok_or_else(|| Error::Branches {
            place: self.archive.place(),
            target: self.target.to_string(),
            branches,
        })
    }

    /// Every timeline that a candidate leads to and that is not merely left for another one, ascending.
    async fn ends(&self) -> Result<Vec<Way>, Error> {
        let ways = self.ways();
        let mut ends = Vec::new();
        for way in &ways {
            let timeline = way.timeline();
            let left = ways.iter().filter_map(|other| other.leaves(timeline)).max();
            let goes_on = match left {
                Some(fork) => forks::goes_on(self.archive, timeline, fork, self.size, self.patience).await?,
                None => true,
            };
            if goes_on {
                ends.push(way.clone());
            }
        }
        Ok(ends)
    }

    fn ways(&self) -> Vec<Way> {
        let mut ways: Vec<Way> = self.timelines.followed().collect();
        let own = self
            .candidates
            .iter()
            .map(|candidate| candidate.own_way(self.timelines));
        ways.extend(own);
        ways.sort_by_key(Way::timeline);
        ways.dedup_by_key(|way| way.timeline());
        ways.retain(|way| self.candidates.iter().any(|candidate| candidate.is_on(way)));
        ways
    }

    /// A backup that ended later, and lies before the ways part, shows it.
    async fn is_time_before(&self, parting: Lsn, ends: &[Way]) -> Result<bool, Error> {
        let Target::Time(time) = self.target else {
            return Ok(false);
        };
        let summaries = self
            .archive
            .summaries(TreeKind::BaseBackup, self.patience)
            .await?;
        let backups = summaries
            .into_iter()
            .filter_map(|(name, summary)| Candidate::new(name, summary.ok()?));
        // A bound proves it, too. When it was stored says nothing of when it ended.
        let mut later =
            backups.filter(|backup| backup.summary.backup.ended.at > *time && backup.stop <= parting);
        Ok(later.any(|backup| ends.iter().all(|end| backup.is_on(end))))
    }

    fn settled(&self, ends: &[Way], branches: &[Branch]) -> Option<Answer> {
        let (left, going): (Vec<_>, Vec<_>) = ends
            .iter()
            .zip(branches)
            .partition(|(end, branch)| self.abandoned_for(end, branch, ends).is_some());
        let [(way, _)] = going[..] else { return None };
        let warnings = left.iter().map(|(_, branch)| {
            format!(
                "{branch}: it is taken for abandoned, because a backup of another timeline was begun after that.\n\
                 HINT: --target-timeline {} follows it",
                branch.timeline
            )
        });
        Some(Answer {
            way: way.clone(),
            warnings: warnings.collect(),
        })
    }

    fn abandoned_for(&self, end: &Way, branch: &Branch, ends: &[Way]) -> Option<&Candidate> {
        let newest = branch.newest?;
        self.candidates.iter().find(|candidate| {
            let is_elsewhere = !candidate.is_on(end) && ends.iter().any(|other| candidate.is_on(other));
            is_elsewhere && SystemTime::from(candidate.summary.began) > newest
        })
    }
}

/// Where the first two of several ways part; `None` if there is only one.
fn parting(ways: &[Way]) -> Option<Lsn> {
    let pairs = ways.iter().enumerate().flat_map(|(at, way)| {
        let others = &ways[at + 1..];
        others.iter().filter_map(move |other| way.parts_from(other))
    });
    pairs.min()
}

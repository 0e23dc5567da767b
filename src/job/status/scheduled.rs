//! What agents do by a schedule, as the archive tells it: what was done last, what fails, what is due.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::archive::turns::{Duty, Job, Plan, Told, horizon};
use crate::archive::{Archive, Error};
use crate::schedule::Schedule;
use crate::store::Patience;

/// So long behind its time a job may begin: jitter, and a host that was busy.
const LATE: SignedDuration = SignedDuration::from_mins(30);

/// A scheduled job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scheduled {
    /// The command.
    pub job: Job,
    /// The only host that does it, if no other can: it is of its files.
    #[serde(default)]
    pub only_host: Option<String>,
    /// When it is due, as it was written.
    pub schedule: String,
    /// When it is due next.
    pub next: Option<Timestamp>,
    /// When it was done last.
    pub last_done: Option<Timestamp>,
    /// What somebody should look at, of the last one that was done.
    pub trouble: Option<String>,
    /// The host that is at it now, or was when it died.
    pub host: Option<String>,
    /// How often that has tried in vain, and why the last try has failed.
    pub failed: Option<(u32, String)>,
    /// Since when it is due, and nobody has begun.
    pub overdue: Option<Timestamp>,
}

impl Scheduled {
    /// What is scheduled, for people.
    pub fn name(&self) -> String {
        let (job, host) = (self.job, self.only_host.clone());
        Duty { job, host }.to_string()
    }
}

/// All that have a schedule. One request, where there is none.
pub(super) async fn all(
    archive: &Archive,
    now: Timestamp,
    patience: Patience,
) -> Result<Vec<Scheduled>, Error> {
    let mut scheduled = Vec::new();
    for (duty, turns) in archive.scheduled(patience).await? {
        if let Some(plan) = archive.plan(&duty, patience).await? {
            scheduled.push(of_duty(archive, (duty, plan), &turns, (now, patience)).await?);
        }
    }
    Ok(scheduled)
}

/// Has nobody given a sign of life for longer than any lease?
fn is_silent(told: &Told, now: Timestamp) -> bool {
    let signs = told
        .signs
        .iter()
        .filter_map(|(_, at, _)| Timestamp::try_from(*at).ok());
    signs.max().is_none_or(|last| now.duration_since(last) > LATE)
}

async fn of_duty(
    archive: &Archive,
    (duty, plan): (Duty, Plan),
    turns: &[Told],
    (now, patience): (Timestamp, Patience),
) -> Result<Scheduled, Error> {
    let newest = turns.iter().rfind(|told| told.turn.due <= horizon(now));
    let mut of_newest = (None, None, None);
    if let Some(newest) = newest {
        of_newest = archive.told(&newest.turn, patience).await?;
    }
    let done = match (turns.iter().rfind(|told| told.is_done), newest) {
        (Some(last), Some(newest)) if last.turn == newest.turn => of_newest.2,
        (Some(last), _) => archive.told(&last.turn, patience).await?.2,
        (None, _) => None,
    };
    let is_open = newest.is_some_and(|newest| !newest.is_done && !is_silent(newest, now));
    let rule = plan.schedule.parse::<Schedule>().ok();
    let zone = plan.zone.as_deref().map(TimeZone::get);
    let rule = match (rule, zone) {
        (Some(rule), Some(Ok(zone))) => Some(rule.in_zone(zone)),
        (rule, _) => rule,
    };
    let done_until = turns
        .iter()
        .rfind(|told| told.is_done && told.turn.due <= horizon(now));
    let last = done_until.map_or(plan.since.min(now), |told| told.turn.due.max(plan.since.min(now)));
    let first_missed = rule.as_ref().and_then(|rule| rule.next(last));
    let missed = first_missed.filter(|due| !is_open && now.duration_since(*due) > LATE);
    let (claim, alive) = (of_newest.0, of_newest.1);
    let is_undone = newest.is_some_and(|newest| !newest.is_done);
    let failed = alive.filter(|_| is_undone);
    Ok(Scheduled {
        job: duty.job,
        only_host: duty.host,
        schedule: plan.schedule,
        next: rule.and_then(|rule| rule.next(now)),
        last_done: done.as_ref().map(|done| done.at),
        trouble: done.and_then(|done| done.trouble),
        host: claim.filter(|_| is_open).map(|claim| claim.by.host),
        failed: failed.and_then(|alive| Some((alive.tries, alive.error?))),
        overdue: missed,
    })
}

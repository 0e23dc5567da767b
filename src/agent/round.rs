//! One scheduled job on one host: waits until it is due and nobody has it, takes the turn, tries until it is done.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;

use super::child::Ended;
use super::hook::{self, Facts};
use super::state::State;
use super::{BackupFirst, Options};
use crate::archive::tree::begun::Process;
use crate::archive::turns::{Alive, Done, Duty, Job, Plan, Told, Turn, horizon};
use crate::archive::{self, Archive};
use crate::job::listing;
use crate::schedule::Schedule;
use crate::store::Patience;

/// How long a question to the store may take.
const ASKING: Duration = Duration::from_secs(60);

/// When nothing is due, the clock is looked at so often: it may be set, and a machine may sleep.
const LOOK: Duration = Duration::from_secs(60);

/// Pauses between tries, as multiples of the first one; the last again and again, until the job is due the next time.
const PAUSES: [u32; 5] = [1, 5, 15, 30, 60];

/// How long recording that a job is done may take: else it is done twice.
const ENDING: Duration = Duration::from_secs(600);

/// Signs of life in one lease; without a change in so many looks, a turn is taken for left.
const SIGNS: u32 = 6;

/// `walfs backup`: pages in it are damaged. `walfs files`: some went on changing. What was stored is complete.
const EXIT_TROUBLE: i32 = 3;

/// A scheduled job.
#[derive(Debug)]
pub(super) struct Round {
    archive: Arc<Archive>,
    options: Arc<Options>,
    state: Arc<State>,
    job: Job,
    duty: Duty,
    schedule: Schedule,
    /// Since when it is scheduled, once that is known.
    since: Option<Timestamp>,
    /// The turn of somebody that is not done, and in how many looks it has not changed.
    watched: Option<(Told, u32)>,
    /// Has the last try here failed?
    has_failed: bool,
    /// How long to wait behind this due time.
    jitter: Option<(Timestamp, Duration)>,
}

/// What comes next.
enum Step {
    /// Nothing, for at most so long.
    Wait(Duration),
    /// This turn is ours.
    Work(Turn),
}

/// How a try has ended.
enum Tried {
    Done {
        report: Option<Value>,
        trouble: Option<String>,
    },
    Failed(String),
    /// We are to stop.
    Stopped,
}

impl Round {
    pub(super) fn new(
        archive: Arc<Archive>,
        options: Arc<Options>,
        state: Arc<State>,
        (job, schedule): (Job, Schedule),
    ) -> Self {
        Self {
            archive,
            options,
            state,
            job,
            duty: Duty::here(job),
            schedule,
            since: None,
            watched: None,
            has_failed: false,
            jitter: None,
        }
    }

    /// Works until `stop` says so.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        if let Some(first) = self.first() {
            first.server_is_there(&mut stop).await;
        }
        while !*stop.borrow() {
            let wait = match self.step().await {
                Ok(Step::Wait(wait)) => wait,
                Ok(Step::Work(turn)) => {
                    self.work(&turn, &mut stop).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!("{}: whose turn it is cannot be asked: {error}", self.job.name());
                    self.sign()
                }
            };
            let _ = tokio::time::timeout(wait, stop.wait_for(|stopped| *stopped)).await;
        }
    }

    /// The backup that comes before the schedule, if this is about backups.
    fn first(&self) -> Option<&BackupFirst> {
        let first = self.options.backup_first.as_ref();
        first.filter(|_| self.job == Job::Backup)
    }

    /// How often signs of life are given, and looked for.
    fn sign(&self) -> Duration {
        self.options.lease / SIGNS
    }

    async fn step(&mut self) -> Result<Step, archive::Error> {
        let since = self.since().await?;
        let now = Timestamp::now();
        let next = self.schedule.next(now);
        self.state.note(self.job, |job| job.next = next);
        let idle = next.map_or(LOOK, |next| until(next, now).min(LOOK));
        let turns = self.archive.turns(&self.duty, patience()).await?;
        // What a clock that is ahead has taken is no turn of today.
        let newest = turns.iter().rfind(|told| told.turn.due <= horizon(now));
        let Some(due) = self.due(since, now).await? else {
            return Ok(Step::Wait(idle));
        };
        if let Some(newest) = newest {
            if newest.is_done && newest.turn.due >= due {
                return Ok(Step::Wait(idle));
            }
            if !newest.is_done && !self.is_left(newest).await? {
                return Ok(Step::Wait(self.sign()));
            }
        }
        // Who has failed lets others begin.
        let behind = if self.has_failed {
            self.options.lease * 2
        } else {
            Duration::ZERO
        };
        let jitter = self.jitter(due) + behind;
        let since_due = until(now, due);
        if since_due < jitter {
            return Ok(Step::Wait((jitter - since_due).min(idle)));
        }
        let turn = match newest.map(|newest| &newest.turn) {
            Some(newest) if newest.due >= due => match newest.number.checked_add(1) {
                Some(number) => Turn {
                    number,
                    ..newest.clone()
                },
                // Nobody has claimed it so often: it is left to the next one that is due.
                None => return Ok(Step::Wait(idle)),
            },
            _ => Turn {
                duty: self.duty.clone(),
                due,
                number: 1,
            },
        };
        match self.archive.claim_turn(&turn, patience()).await? {
            // The host that was left may have done it meanwhile.
            true if self.is_done_by_another(&turn).await? => Ok(Step::Wait(idle)),
            true => Ok(Step::Work(turn)),
            // Another one was first: he is watched from now on.
            false => Ok(Step::Wait(Duration::ZERO)),
        }
    }

    async fn is_done_by_another(&self, turn: &Turn) -> Result<bool, archive::Error> {
        let turns = self.archive.turns(&self.duty, patience()).await?;
        let done = turns
            .iter()
            .rfind(|told| told.is_done && told.turn.due == turn.due);
        let Some(done) = done else { return Ok(false) };
        if let (_, _, Some(done)) = self.archive.told(&done.turn, patience()).await? {
            self.archive.end_turn(turn, &done, patience()).await?;
        }
        Ok(true)
    }

    /// Since when the job has this schedule; what was due before was not missed. The first backup is due at once.
    async fn since(&mut self) -> Result<Timestamp, archive::Error> {
        if let Some(since) = self.since {
            return Ok(since);
        }
        let (schedule, zone) = (self.schedule.to_string(), self.schedule.zone().map(str::to_owned));
        let known = self.archive.plan(&self.duty, patience()).await?;
        let now = Timestamp::now();
        // A host in another zone has the same schedule; a clock that was ahead has none.
        let known = known.filter(|plan| plan.schedule == schedule && plan.since <= horizon(now));
        let since = match known {
            Some(plan) => plan.since,
            None => {
                let since = now;
                let plan = Plan {
                    schedule,
                    zone,
                    since,
                };
                self.archive.put_plan(&self.duty, &plan, patience()).await?;
                since
            }
        };
        self.since = Some(since);
        Ok(since)
    }

    /// The last time that the job was due, if that is not to be passed over.
    async fn due(&self, since: Timestamp, now: Timestamp) -> Result<Option<Timestamp>, archive::Error> {
        let latest = self.schedule.latest(now).filter(|latest| *latest > since);
        let latest = latest.max(self.first().map(|first| first.due));
        if latest.is_some() || self.job != Job::Backup {
            return Ok(latest);
        }
        let backups = listing::backups(&self.archive, patience()).await?;
        let has_one = backups.iter().any(|backup| backup.summary().is_some());
        Ok((!has_one).then(|| Timestamp::from_second(since.as_second()).unwrap_or(since)))
    }

    fn jitter(&mut self, due: Timestamp) -> Duration {
        match self.jitter {
            Some((of, jitter)) if of == due => jitter,
            _ => {
                let jitter = self.options.jitter.mul_f64(fastrand::f64());
                self.jitter = Some((due, jitter));
                jitter
            }
        }
    }

    /// Has nobody anything to do with this turn any more? Its process is gone, as far as that can be seen; or it is this one,
    /// which is not at it; or nothing has changed for a lease, in looks of a process that was awake.
    async fn is_left(&mut self, told: &Told) -> Result<bool, archive::Error> {
        let (claim, ..) = self.archive.told(&told.turn, patience()).await?;
        let is_gone =
            claim.is_some_and(|claim| claim.by == Process::this() || claim.by.is_alive() == Some(false));
        let looks = match &self.watched {
            Some((before, looks)) if before == told => looks + 1,
            _ => 0,
        };
        self.watched = Some((told.clone(), looks));
        Ok(is_gone || looks > SIGNS)
    }

    /// Does the job, again and again until it is done, or due again, or the turn is another's.
    async fn work(&mut self, turn: &Turn, stop: &mut watch::Receiver<bool>) {
        let began = Instant::now();
        let signs = Signs::begin(self.archive.clone(), turn.clone(), self.sign());
        self.state.note(self.job, |job| job.is_running = true);
        for tried in 1.. {
            signs.tell(tried, None);
            match self.attempt(turn, (tried, began), stop).await {
                Tried::Stopped => break,
                Tried::Done { report, trouble } => {
                    self.has_failed = false;
                    self.done(turn, (tried, began), (report, trouble), stop).await;
                    break;
                }
                Tried::Failed(error) => {
                    self.has_failed = true;
                    self.failed(turn, (tried, began), &error, stop).await;
                    signs.tell(tried, Some(error));
                    if !self.pause(tried, stop).await {
                        break;
                    }
                }
            }
        }
        self.state.note(self.job, |job| job.is_running = false);
    }

    async fn attempt(
        &self,
        turn: &Turn,
        (tried, began): (u32, Instant),
        stop: &mut watch::Receiver<bool>,
    ) -> Tried {
        match self.archive.is_newest(turn, patience()).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!("{}: another host has taken the turn {turn}", self.job.name());
                return Tried::Stopped;
            }
            Err(error) => return Tried::Failed(error.to_string()),
        }
        let facts = facts(turn, (tried, began), "begins", None, None);
        if let Some(script) = &self.options.hooks.before
            && let Err(error) = hook::run(script, &facts, stop.clone()).await
        {
            if *stop.borrow() {
                return Tried::Stopped;
            }
            return Tried::Failed(format!("the hook before it has failed: {error}"));
        }
        let arguments = match self.arguments(turn).await {
            Ok(arguments) => arguments,
            Err(error) => return Tried::Failed(error.to_string()),
        };
        tracing::info!("{}: begins, due {}", self.job.name(), turn.due);
        let ended = self.options.program.run(self.job.name(), &arguments, stop).await;
        match ended {
            Ok(ended) if ended.code == Some(0) => judged(self.job, ended),
            _ if *stop.borrow() => Tried::Stopped,
            Ok(ended) => judged(self.job, ended),
            Err(error) => Tried::Failed(format!("cannot start it: {error}")),
        }
    }

    async fn arguments(&self, turn: &Turn) -> Result<Vec<OsString>, archive::Error> {
        let mut arguments: Vec<OsString> = vec!["--json".into()];
        if matches!(self.job, Job::Dump | Job::Files) {
            arguments.push("--all".into());
        }
        if self.job == Job::Backup {
            arguments.extend(["--turn".into(), turn.to_string().into()]);
            if self.is_full_due().await? {
                arguments.push("--full".into());
            }
        }
        Ok(arguments)
    }

    /// Do as many backups as may follow a full one already follow the newest?
    async fn is_full_due(&self) -> Result<bool, archive::Error> {
        let Some(every) = self.options.full_every else {
            return Ok(false);
        };
        let backups = listing::backups(&self.archive, patience()).await?;
        let summaries = backups.iter().rev().filter_map(listing::Listed::summary);
        let followers = summaries
            .take_while(|summary| !summary.builds_on.is_empty())
            .count();
        Ok(followers + 1 >= every as usize)
    }

    async fn done(
        &self,
        turn: &Turn,
        (tried, began): (u32, Instant),
        (report, trouble): (Option<Value>, Option<String>),
        stop: &watch::Receiver<bool>,
    ) {
        let (at, seconds) = (Timestamp::now(), began.elapsed().as_secs_f64());
        let done = Done {
            at,
            seconds,
            tries: tried,
            trouble: trouble.clone(),
        };
        match &trouble {
            Some(trouble) => tracing::warn!("{}: done, and somebody should look: {trouble}", self.job.name()),
            None => tracing::info!("{}: done in {seconds:.1} s", self.job.name()),
        }
        self.state.note(self.job, |job| {
            match trouble {
                Some(_) => job.troubles += 1,
                None => job.done += 1,
            }
            (job.last_done, job.last_seconds) = (Some(at), Some(seconds));
            job.error.clone_from(&trouble);
        });
        if let Err(error) = self
            .archive
            .end_turn(turn, &done, Patience::for_at_most(ENDING))
            .await
        {
            tracing::warn!("{}: that it is done is not recorded: {error}", self.job.name());
        }
        let forgotten = async {
            let turns = self.archive.turns(&self.duty, patience()).await?;
            self.archive.forget_turns(&turns, patience()).await
        };
        if let Err(error) = forgotten.await {
            tracing::debug!("{}: old turns are not deleted: {error}", self.job.name());
        }
        let start = at.checked_sub(began.elapsed()).unwrap_or(at);
        self.state.news.done(self.job, (start, at), report.as_ref());
        let (result, error) = (
            if trouble.is_some() { "trouble" } else { "done" },
            trouble.as_deref(),
        );
        let facts = facts(turn, (tried, began), result, error, report.as_ref());
        self.tell(&self.options.hooks.after, &facts, stop).await;
        if trouble.is_some() {
            self.tell(&self.options.hooks.failed, &facts, stop).await;
        }
    }

    async fn failed(
        &self,
        turn: &Turn,
        (tried, began): (u32, Instant),
        error: &str,
        stop: &watch::Receiver<bool>,
    ) {
        tracing::error!("{}: failed, try {tried}: {error}", self.job.name());
        self.state.note(self.job, |job| {
            job.failed += 1;
            job.error = Some(error.to_owned());
        });
        let facts = facts(turn, (tried, began), "failed", Some(error), None);
        self.tell(&self.options.hooks.failed, &facts, stop).await;
    }

    /// Runs a hook that changes nothing any more.
    async fn tell(&self, script: &Option<String>, facts: &Facts<'_>, stop: &watch::Receiver<bool>) {
        if let Some(script) = script
            && let Err(error) = hook::run(script, facts, stop.clone()).await
        {
            tracing::warn!("{}: a hook has failed: {error}", self.job.name());
        }
    }

    /// Waits before the next try; `false`: there is none, because the job is due again, or we are to stop.
    async fn pause(&self, tried: u32, stop: &mut watch::Receiver<bool>) -> bool {
        let pause = self.options.retry * PAUSES[(tried as usize - 1).min(PAUSES.len() - 1)];
        let now = Timestamp::now();
        let left = self.schedule.next(now).map_or(pause, |next| until(next, now));
        let stopped = tokio::time::timeout(pause.min(left), stop.wait_for(|stopped| *stopped)).await;
        stopped.is_err() && pause < left
    }
}

/// Tells all others that somebody is at a turn, as long as it is there.
struct Signs {
    told: watch::Sender<(u32, Option<String>)>,
    task: tokio::task::JoinHandle<()>,
}

impl Signs {
    fn begin(archive: Arc<Archive>, turn: Turn, every: Duration) -> Self {
        let (told, mut heard) = watch::channel((0, None));
        let task = tokio::spawn(async move {
            for count in 0.. {
                let (tries, error) = heard.borrow_and_update().clone();
                let is_waiting = error.is_some();
                let alive = Alive { count, tries, error };
                if let Err(error) = archive
                    .beat_turn(&turn, &alive, Patience::for_at_most(every))
                    .await
                {
                    tracing::debug!("no sign of life of {turn} is stored: {error}");
                }
                // Between tries nobody is at it: another host may do better.
                match is_waiting {
                    true => drop(heard.changed().await),
                    false => drop(tokio::time::timeout(every, heard.changed()).await),
                }
            }
        });
        Self { told, task }
    }

    fn tell(&self, tries: u32, error: Option<String>) {
        self.told.send_replace((tries, error));
    }
}

impl Drop for Signs {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the end of its process says of a job.
fn judged(job: Job, ended: Ended) -> Tried {
    let says = |name: &str, answer: bool| {
        let report = ended.report.as_ref().and_then(|report| report.get(name));
        report.and_then(Value::as_bool) == Some(answer)
    };
    let is_trouble = match (job, ended.code) {
        (Job::Backup | Job::Files, Some(EXIT_TROUBLE)) => true,
        // Its files are stored, and it is complete as soon as its WAL comes: another one would lack the same.
        (Job::Backup, Some(1)) => says("complete", false),
        // Read once more, it would find the same.
        (Job::Verify, Some(1)) => says("is_sound", false),
        _ => false,
    };
    match ended.code {
        Some(0) => Tried::Done {
            report: ended.report,
            trouble: None,
        },
        _ if is_trouble => Tried::Done {
            report: ended.report,
            trouble: Some(ended.words),
        },
        Some(code) if ended.words.is_empty() => Tried::Failed(format!("exit code {code}")),
        Some(_) => Tried::Failed(ended.words),
        None => Tried::Failed(format!("a signal has ended it. {}", ended.words)),
    }
}

fn facts<'a>(
    turn: &Turn,
    (tried, began): (u32, Instant),
    result: &'static str,
    error: Option<&'a str>,
    report: Option<&'a Value>,
) -> Facts<'a> {
    Facts {
        job: turn.duty.job,
        due: turn.due,
        tried,
        result,
        error,
        seconds: began.elapsed().as_secs_f64(),
        report,
    }
}

fn patience() -> Patience {
    Patience::for_at_most(ASKING)
}

/// How long it is from one moment to a later one; nothing if it is earlier.
fn until(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

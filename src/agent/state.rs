//! What an agent knows of its jobs, for whoever asks: metrics, `/status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::news::News;
use crate::archive::turns::Job;
use crate::metrics::Counted;
use crate::metrics::exposition::Exposition;

/// Of each job.
#[derive(Debug, Default)]
pub struct State {
    jobs: Mutex<BTreeMap<Job, OfJob>>,
    /// What was done, for the table.
    pub(crate) news: News,
}

/// Of one job, in this process.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OfJob {
    /// When it is due next.
    pub next: Option<Timestamp>,
    /// Is it running here?
    pub is_running: bool,
    /// How often it was done here, and found nothing that somebody should look at.
    pub done: u64,
    /// How often it was done here, and found something.
    pub troubles: u64,
    /// How often a try has failed here.
    pub failed: u64,
    /// When it was done last, by whomever, as far as this process has seen.
    pub last_done: Option<Timestamp>,
    /// How long the last one took here, in seconds.
    pub last_seconds: Option<f64>,
    /// Why the last try here has failed; not since it was done.
    pub error: Option<String>,
}

impl State {
    /// Nothing yet, and where news go.
    pub fn with(news: News) -> Self {
        Self {
            news,
            ..Self::default()
        }
    }

    /// What is known of all jobs that have a schedule.
    pub fn jobs(&self) -> BTreeMap<Job, OfJob> {
        self.locked().clone()
    }

    /// Changes what is known of a job.
    pub(super) fn note(&self, job: Job, change: impl FnOnce(&mut OfJob)) {
        change(self.locked().entry(job).or_default());
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<Job, OfJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted for State {
    fn expose(&self, metrics: &mut Exposition) {
        let jobs = self.jobs();
        let runs = jobs.iter().flat_map(|(job, of_job)| {
            let results = [
                ("done", of_job.done),
                ("trouble", of_job.troubles),
                ("failed", of_job.failed),
            ];
            results.map(|(result, runs)| {
                let labels = vec![("command", job.name().to_owned()), ("result", result.to_owned())];
                (labels, runs)
            })
        });
        metrics.counters(
            "job_runs",
            "Runs of scheduled jobs in this process; trouble: done, and somebody should look at what it found",
            runs,
        );
        metrics.seconds(
            ("job_last_duration_seconds", "command"),
            "How long the last one took that was done in this process",
            jobs.iter()
                .filter_map(|(job, of_job)| Some((job.name().to_owned(), of_job.last_seconds?))),
        );
        metrics.gauges(
            ("job_running", "command"),
            "1: this process is at it",
            jobs.iter()
                .map(|(job, of_job)| (job.name().to_owned(), u64::from(of_job.is_running))),
        );
    }
}

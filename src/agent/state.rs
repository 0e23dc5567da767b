//! What an agent knows of its jobs, for whoever asks: metrics, `/status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use crate::archive::turns::Job;

/// Of each job.
#[derive(Debug, Default)]
pub struct State {
    jobs: Mutex<BTreeMap<Job, OfJob>>,
}

/// Of one job, in this process.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OfJob {
    /// When it is due next.
    pub next: Option<Timestamp>,
    /// Is it running here?
    pub is_running: bool,
    /// How often it was done here.
    pub done: u64,
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

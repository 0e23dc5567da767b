//! One process beside a server, that does by a schedule what commands do by hand (promises A1, A2).
//!
//! It does nothing itself: each job is the command of that name, run as a process of its own with the settings of this one.
//! So there is one code path, a job that needs memory or dies takes nothing with it, and what it prints is what it prints by
//! hand. Which of several hosts does it is decided in the archive ([`crate::archive::turns`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::archive::Archive;
use crate::archive::turns::Job;
use crate::schedule::Schedule;

mod child;
mod first;
mod hook;
mod kept;
pub mod news;
mod round;
mod start_lock;
pub mod state;
mod table;
mod written;

pub use child::Program;
pub use first::{BackupFirst, RestoreFirst};
pub use hook::Hooks;
use round::Round;
pub use start_lock::let_through;
use state::State;
pub use table::keep_table;
pub use written::keep_written;

/// What an agent does.
#[derive(Debug)]
pub struct Options {
    /// What is run for a job.
    pub program: Program,
    /// What is due when.
    pub schedules: Vec<(Job, Schedule)>,
    /// A backup that is due whatever the schedule says.
    pub backup_first: Option<BackupFirst>,
    /// Of so many backups one stores everything; `None`: none has to.
    pub full_every: Option<u32>,
    /// At most so long after it is due a job begins: not all hosts at once.
    pub jitter: Duration,
    /// After how long without a sign of life another host takes a turn.
    pub lease: Duration,
    /// The first pause before a failed job is tried again; the next ones are longer.
    pub retry: Duration,
    /// Commands around each job.
    pub hooks: Hooks,
    /// Where the archive is mounted by a process that this one keeps alive, if anywhere.
    pub mountpoint: Option<PathBuf>,
}

/// Works until `stop` says so; then ends what is running as a signal does, and returns when that has ended.
///
/// # Errors
/// A part of it has panicked: what it did nobody does any more, so the process has to end, and to be started again.
pub async fn work(
    archive: Arc<Archive>,
    options: Arc<Options>,
    state: Arc<State>,
    stop: watch::Receiver<bool>,
) -> Result<(), JoinError> {
    let mut tasks = JoinSet::new();
    for (job, schedule) in options.schedules.clone() {
        let round = Round::new(archive.clone(), options.clone(), state.clone(), (job, schedule));
        tasks.spawn(round.run(stop.clone()));
    }
    if let Some(mountpoint) = options.mountpoint.clone() {
        tasks.spawn(kept::keep_mounted(options.clone(), mountpoint, stop.clone()));
    }
    let mut stop = stop;
    // An agent without a schedule or a mount still serves.
    loop {
        tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => break,
            Some(ended) = tasks.join_next() => ended?,
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

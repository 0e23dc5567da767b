//! One of several archives: closed, open, or not to be opened for a moment because that failed just now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::archive;
use crate::mount::one::One;
use crate::mount::section::Section;

use super::Archives;

/// For how long an archive that did not open is not tried again.
const FAILED: Duration = Duration::from_secs(3);

/// How long the store's word that there is such an archive holds.
const SEEN: Duration = Duration::from_secs(10);

/// One archive.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// Its number, in the upper bits of all that it gives.
    pub(super) number: u16,
    state: Mutex<State>,
    /// Held by who opens it; others wait for the same.
    opening: tokio::sync::Mutex<()>,
    last_use: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    one: Option<Arc<One>>,
    failed: Option<(Instant, Arc<archive::Error>)>,
    /// When the store said last that there is such an archive.
    seen: Option<Instant>,
    /// Of an archive that was open before: the number of its next backup.
    first_tree: Option<u32>,
}

impl Member {
    pub(super) fn new(name: String, number: u16) -> Self {
        Self {
            name,
            number,
            state: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            last_use: AtomicU64::new(0),
        }
    }

    /// The archive, if it is open.
    pub(super) fn open_now(&self) -> Option<Arc<One>> {
        self.state().one.clone()
    }

    pub(super) fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }

    /// The archive, opened if it is not, and whether it was opened now. `use_of`: counts the uses of all.
    ///
    /// # Errors
    /// Why it does not open, or did not a moment ago.
    pub(super) async fn open(
        &self,
        archives: &dyn Archives,
        use_of: u64,
    ) -> Result<(Arc<One>, bool), Arc<archive::Error>> {
        self.last_use.store(use_of, Ordering::Relaxed);
        if let Some(one) = self.open_now() {
            return Ok((one, false));
        }
        let _alone = self.opening.lock().await;
        let first_tree = {
            let state = self.state();
            match (&state.one, &state.failed) {
                (Some(one), _) => return Ok((one.clone(), false)),
                (None, Some((at, error))) if at.elapsed() < FAILED => return Err(error.clone()),
                _ => state.first_tree,
            }
        };
        match archives.open(&self.name, first_tree).await {
            Ok(one) => {
                let one = Arc::new(one);
                let mut state = self.state();
                (state.one, state.failed) = (Some(one.clone()), None);
                Ok((one, true))
            }
            Err(error) => {
                tracing::warn!("archive {} is not shown: {error}", self.name);
                let error = Arc::new(error);
                self.state().failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Closes it, if nobody uses it: whoever does holds it.
    pub(super) fn close(&self) -> bool {
        let mut state = self.state();
        let Some(one) = &state.one else { return false };
        if Arc::strong_count(one) > 1 || !one.may_be_closed() {
            return false;
        }
        state.first_tree = Some(one.next_tree());
        state.one = None;
        true
    }

    /// The store has just said that there is such an archive.
    pub(super) fn note_seen(&self) {
        self.state().seen = Some(Instant::now());
    }

    /// Did it say so a moment ago?
    pub(super) fn was_just_seen(&self) -> bool {
        self.state().seen.is_some_and(|at| at.elapsed() < SEEN)
    }

    /// Takes note of an error: what is open has counters of its own.
    pub(super) fn note(&self, what: &str, error: &crate::mount::error::Error) {
        match self.open_now() {
            Some(one) => one.note(what, error),
            None => tracing::warn!("archive {}: {what}: {error}", self.name),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

//! When nothing happens in a tree any more. Who writes a version of files by `cp` or `rsync` never says that it was all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::names::ROOT;
use super::{Error, TreeDraft};
use crate::archive::tree::summary::Method;

impl TreeDraft {
    /// For how long nothing was changed in it; `None` while a file of it is open to be written, and for good if a process was
    /// killed, or has failed, before it closed one: what that wrote may be half.
    pub fn quiet_for(&self) -> Option<Duration> {
        let may_end = !self.is_cut_off.load(Ordering::Acquire) && self.a_file_being_written().is_none();
        may_end.then(|| self.last_change().elapsed())
    }

    /// Does it take changes? From now on it is not quiet.
    pub async fn takes_changes(&self) -> bool {
        self.turn().await.is_ok()
    }

    /// A process that was killed, or has failed, has closed a file of it: only `fsync` of the directory says that it is whole.
    pub fn cut_off(&self) {
        self.is_cut_off.store(true, Ordering::Release);
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.list(ROOT).is_ok_and(|names| names.is_empty())
    }

    /// Completes it at the end of the mount, when nobody can write to it any more.
    ///
    /// # Errors
    /// As [`TreeDraft::finish_if_quiet`].
    pub async fn finish_at_the_end(&self) -> Result<(), Error> {
        self.wait_for_writers().await?;
        self.finish_if_quiet(Duration::ZERO).await
    }

    /// Completes it if nothing was changed in it for so long.
    ///
    /// # Errors
    /// As [`TreeDraft::sync`]; [`Error::Refused`] if it is not quiet.
    pub async fn finish_if_quiet(&self, quiet: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let mut state = self.alone(began).await?;
        if self.quiet_for().is_none_or(|time| time < quiet) {
            return Err(self.refused("it is still being written"));
        }
        self.still_sound()?;
        self.complete(&mut state, Method::Mount, began).await
    }

    pub(super) fn note_change(&self) {
        *self.last_change.lock().expect("no panic while held") = Instant::now();
    }

    fn last_change(&self) -> Instant {
        *self.last_change.lock().expect("no panic while held")
    }
}

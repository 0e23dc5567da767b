//! The end of writing: whose close counts, what fsync promises, and what becomes of a file that was never finished.
//!
//! The kernel says "flush" for every descriptor that is closed: by the copier that is done, by a shell that hands the
//! file to a program, by a child that got a copy of it, and for whatever a killed process had open. Only the first is
//! a statement. Where a file's length is known, and every byte was written once, nothing depends on telling them apart;
//! what is done here is for the others, and for saying no.

use std::sync::atomic::Ordering;

use crate::mount::asker::{Asker, Seen};
use crate::mount::error::{Error, Result};
use crate::mount::room::FilesOf;
use crate::staging::wal::WalDraft;

use super::Wal;
use super::forks::look_for_forks;
use super::writing::{Content, Writing};

impl Wal {
    /// A descriptor is being closed: finishes the file if its writer is done, or repeats the verdict.
    ///
    /// # Errors
    /// As a write; [`Error::Archive`] with `Incomplete` for a segment that is not whole.
    pub(super) async fn flush(&self, writing: &Writing, files: FilesOf, asker: Option<&Asker>) -> Result<()> {
        let mut content = writing.content.lock().await;
        let may_be_writer = files.is_none() || writing.was_written_by(files);
        let seen = match &*content {
            Content::Wal(wal) if wal.verdict().is_some() => Seen::default(),
            _ => Seen::of(asker, writing.ino, writing.opener, may_be_writer).await,
        };
        let ending = Ending {
            killed: note_killed(writing, files, &seen),
            closer: Closer::of(writing, files, &seen),
        };
        match &mut *content {
            Content::Received(received) => self.keep(received, ending.killed).await,
            // It would believe a success; and if it is being killed, the file is not whole.
            Content::Wal(wal)
                if seen.is_hidden && may_be_writer && wal.verdict().is_none() && wal.bytes() > 0 =>
            {
                self.common
                    .noted("archive", Err(Error::Hidden { name: wal.name() }))
            }
            Content::Wal(wal) if !is_somebody_elses_to_finish(wal, &seen, ending.closer, may_be_writer) => {
                self.settle(writing, wal, ending).await
            }
            _ => Ok(()),
        }
    }

    /// A process wants the file to be durable now.
    ///
    /// # Errors
    /// As [`Wal::flush`].
    pub(super) async fn fsync(&self, writing: &Writing, asker: Option<&Asker>) -> Result<()> {
        let mut content = writing.content.lock().await;
        let seen = Seen::of(asker, writing.ino, writing.opener, true).await;
        let ending = Ending {
            killed: note_killed(writing, None, &seen),
            // Who wants what there is to be durable does not say that it is all.
            closer: Closer::Unknown,
        };
        match &mut *content {
            Content::Received(received) => self.keep(received, ending.killed).await,
            Content::Wal(wal) => self.settle(writing, wal, ending).await,
            // A temporary name: the rename is what makes the file durable, and what can fail.
            Content::Scratch(_) => Ok(()),
        }
    }

    /// Finishes the file, or says what there is to say of it.
    async fn settle(&self, writing: &Writing, wal: &mut WalDraft, ending: Ending) -> Result<()> {
        if let Some(verdict) = wal.verdict() {
            return verdict.clone().map(drop).map_err(Error::from);
        }
        // A shell closes its copy of the descriptor before the program has written anything.
        if wal.bytes() == 0 {
            return Ok(());
        }
        // The kernel closes what a killed process had open: that is no statement that the file is done. And if its writer was
        // killed, none of a child that lives on is: only a segment shows by itself that it is whole.
        let is_half = || writing.is_half.load(Ordering::Acquire) && !wal.name().has_pages();
        if ending.killed || is_half() {
            return Err(Error::Interrupted);
        }
        if wal.name().has_pages() && wal.draft().coverage().is_rewritten() && ending.closer != Closer::Writer
        {
            return self.common.noted("archive", Err(unvouched(wal)));
        }
        let outcome = self.finish(writing, wal).await;
        self.forget_failed(writing, wal);
        outcome
    }

    /// A file that has failed for good is not found by its name any more: the next try begins a new one. Only a
    /// `.partial` has a name while it is written.
    pub(super) fn forget_failed(&self, writing: &Writing, wal: &WalDraft) {
        if matches!(wal.verdict(), Some(Err(_))) {
            self.writings.hide(writing);
        }
    }

    pub(super) async fn finish(&self, writing: &Writing, wal: &mut WalDraft) -> Result<()> {
        let outcome = wal.finish().await.map_err(Error::from);
        self.after(writing, wal, true, outcome)
    }

    /// Notes what became of a file, the first time it is known.
    pub(super) fn after(
        &self,
        writing: &Writing,
        wal: &WalDraft,
        undecided: bool,
        outcome: Result<()>,
    ) -> Result<()> {
        if !undecided {
            return outcome;
        }
        if let Some(Ok(committed)) = wal.verdict() {
            self.archived.note_archived(wal.name(), wal.bytes(), *committed);
            self.writings.hide(writing);
            look_for_forks(&self.forks, &self.common, wal);
        }
        if outcome.is_err() {
            self.common.metrics.failed_files.fetch_add(1, Ordering::Relaxed);
        }
        self.common.noted("archive", outcome)
    }
}

/// Only the writer of a file that was written over knows when it is done, and its own close says so: not a child's, not
/// that of a process that may have been killed, for all that can be seen of it.
fn unvouched(wal: &WalDraft) -> Error {
    Error::Invalid {
        name: wal.name().to_string(),
        reason: "parts of it were written twice, so only its writer knows when it is whole, and this was no close of \
                 a writer that walfs can see; bring it under a temporary name and rename it",
    }
}

/// What a close or an `fsync` comes from.
#[derive(Debug, Clone, Copy)]
struct Ending {
    /// The process is being killed, or failing.
    killed: bool,
    closer: Closer,
}

/// Who closes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closer {
    /// The process that wrote last, or the one that opened the file; alive, as can be seen.
    Writer,
    /// Another process that can be seen: a child that got a copy of the descriptor.
    Another,
    /// No process that could say that the file is done, or it is not known which.
    Unknown,
}

impl Closer {
    /// The kernel names the table of open files that a close comes from, as it does with every write; a child has another
    /// one. Whether it comes from a process that is being killed only the process itself shows.
    fn of(writing: &Writing, files: FilesOf, seen: &Seen) -> Self {
        match (seen.process, seen.is_dying) {
            _ if seen.is_hidden => Self::Another,
            (None, _) | (_, None | Some(true)) => Self::Unknown,
            (Some(process), _) if process == writing.opener || writing.was_written_by(files) => Self::Writer,
            (Some(_), _) if writing.opener != 0 => Self::Another,
            (Some(_), _) => Self::Unknown,
        }
    }
}

/// Is the process that closes the file being killed, or failing? Then the file goes.
fn note_killed(writing: &Writing, files: FilesOf, seen: &Seen) -> bool {
    let killed = seen.is_dying == Some(true);
    if killed {
        writing.abandoned.store(true, Ordering::Release);
        let is_writer = !seen.is_not_the_opener || writing.was_written_by(files);
        writing.is_half.fetch_or(is_writer, Ordering::AcqRel);
    }
    killed
}

/// A small file's length is not known, so a child's copy of the descriptor, closed in the middle, must not finish it:
/// that is for the process that opened it, as long as it lives. Where no process can be seen, it is for who wrote last.
/// What a child closes of a segment says nothing either. Nor does one descriptor, as long as its process can write by another
/// one: so a shell goes from one command to the next.
fn is_somebody_elses_to_finish(wal: &WalDraft, seen: &Seen, closer: Closer, may_be_writer: bool) -> bool {
    if wal.verdict().is_some() {
        return false;
    }
    if seen.can_write_more && !wal.name().has_pages() {
        return true;
    }
    if wal.name().has_pages() || seen.is_hidden {
        return closer == Closer::Another;
    }
    match seen.process {
        Some(_) => seen.is_not_the_opener && seen.opener_lives,
        None => !may_be_writer,
    }
}

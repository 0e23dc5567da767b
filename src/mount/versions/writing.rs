//! Plain files that are being written: the bytes of each opener, in their order, become the next version of the name.
//!
//! Each opener has a version of its own, which nobody else sees before it is complete. A version is as old as its first byte; so
//! of two openers of one name neither spoils what the other writes. What is not written in order, from the first byte on, is
//! refused, and such a file never becomes complete.
//!
//! The close of the process that writes completes the file (`statement`), and returns what has become of it. Nothing else
//! does: not `fsync`, not the end of a process that is killed or fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use crate::archive::tree::version::SetName;
use crate::job::dump::Taken;
use crate::job::plain::{Limits, Plain};
use crate::mount::asker::{Asker, Seen, fdinfo_shows_inodes};
use crate::mount::error::{Error, Result};
use crate::mount::room::{AT_END, FilesOf, OpenFile};

use super::Versions;

mod statement;

use statement::{Closer, Statement, closes_a_copy};

/// Said of a file that is written elsewhere than at its end.
const IN_ORDER: &str = "it is written in order from its first byte on, and from nothing else a version is made\n\
                        HINT: write it anew (cp, tar cf, >, rsync --inplace --whole-file); what is changed in place can be \
                        written in a directory, files/NAME/";

/// Parts that are made of what is little, at most, and what is not.
const MOST_TIMES: u32 = 32;
const MUCH: u64 = 1 << 20;

/// A plain file that is open to be written.
#[derive(Debug)]
pub(super) struct OpenPlain {
    versions: Arc<Versions>,
    set: SetName,
    ino: u64,
    /// The process that has opened it; 0 when it is not known.
    opener: u32,
    /// What has come of it, locked while an operation is on it.
    state: tokio::sync::Mutex<State>,
    bytes: AtomicU64,
    /// Whose latest write it was.
    writer: std::sync::Mutex<FilesOf>,
    /// Before anything was written, a process failed that could have.
    has_failed: AtomicBool,
    /// How much was stored when a process had written what it had to, and how often that was so.
    settled_bytes: AtomicU64,
    settled_times: AtomicU32,
}

#[derive(Debug)]
enum State {
    /// Opened as it is, and nothing was written: there is nothing to say.
    Untouched,
    /// It is to be written anew, and nothing has come.
    Empty,
    Writing(Plain),
    /// Its outcome.
    Done(Result<()>),
}

impl OpenPlain {
    pub(super) fn new(
        versions: Arc<Versions>,
        set: SetName,
        ino: u64,
        is_truncated: bool,
        asker: Option<&Asker>,
    ) -> Self {
        Self {
            versions,
            set,
            ino,
            opener: asker.and_then(Asker::tgid).unwrap_or(0),
            state: tokio::sync::Mutex::new(match is_truncated {
                true => State::Empty,
                false => State::Untouched,
            }),
            bytes: AtomicU64::new(0),
            writer: std::sync::Mutex::default(),
            has_failed: AtomicBool::new(false),
            settled_bytes: AtomicU64::new(0),
            settled_times: AtomicU32::new(0),
        }
    }

    /// Its length so far; `None`: it is as the newest version is.
    pub(super) fn bytes(&self) -> Option<u64> {
        let is_untouched = self
            .state
            .try_lock()
            .is_ok_and(|state| matches!(*state, State::Untouched));
        (!is_untouched).then(|| self.bytes.load(Ordering::Acquire))
    }

    fn begin(&self) -> Plain {
        let common = &self.versions.common;
        let limits = Limits {
            deadline: common.options.deadline,
            longest: common.options.longest,
        };
        Plain::begin(
            common.archive.clone(),
            self.versions.kind,
            self.set.clone(),
            limits,
        )
    }

    /// Why it cannot become a version any more.
    fn refuse(&self, reason: &'static str) -> Error {
        let refused = Error::Invalid {
            name: self.set.to_string(),
            reason,
        };
        self.versions.common.note("write", &refused);
        refused
    }

    fn half(&self) -> Error {
        let name = self.set.to_string();
        Error::Half { name }
    }

    /// What others hear later. "Interrupted" is for who is being killed: others would try again, for ever.
    fn lasting(&self, error: &Error) -> Error {
        match error {
            Error::Interrupted => self.half(),
            other => other.clone(),
        }
    }

    fn written_by(&self, files: FilesOf) {
        *self.writer.lock().expect("no panic while held") = files;
    }

    fn was_written_by(&self, files: FilesOf) -> bool {
        files.is_some() && *self.writer.lock().expect("no panic while held") == files
    }

    /// What a close says.
    async fn statement(&self, state: &State, files: FilesOf, asker: Option<&Asker>) -> Statement {
        let is_writer = self.was_written_by(files);
        let seen = Seen::of(asker, self.ino, self.opener, is_writer || files.is_none()).await;
        let closer = Closer {
            opener: self.opener,
            is_writer,
            closes_a_copy: is_writer && seen.process.is_some() && closes_a_copy(asker),
        };
        if !matches!(state, State::Empty) {
            return Statement::of(&seen, closer);
        }
        let has_failed = match seen.is_dying == Some(true) {
            true => self.has_failed.fetch_or(true, Ordering::AcqRel),
            false => self.has_failed.load(Ordering::Acquire),
        };
        Statement::of_nothing(&seen, closer, fdinfo_shows_inodes(), has_failed)
    }

    /// Waits until all that has come is stored: who closes it here looks at the result, and a shell that has opened it does not.
    /// Each time makes a part, so what is little is not stored by itself for ever.
    async fn settle(&self, state: &mut State, asker: Option<&Asker>) -> Result<()> {
        let bytes = self.bytes.load(Ordering::Acquire);
        let is_little = bytes - self.settled_bytes.load(Ordering::Acquire) < MUCH;
        if is_little && self.settled_times.load(Ordering::Acquire) >= MOST_TIMES {
            return Ok(());
        }
        let State::Writing(mut plain) = std::mem::replace(state, State::Done(Err(self.half()))) else {
            return Ok(());
        };
        self.settled_bytes.store(bytes, Ordering::Release);
        self.settled_times.fetch_add(1, Ordering::AcqRel);
        let common = &self.versions.common;
        let settled = common.while_wanted(asker, plain.settle()).await;
        let settled = settled.and_then(|settled| Ok(settled?));
        *state = match &settled {
            Ok(()) => State::Writing(plain),
            Err(error) => State::Done(Err(self.lasting(error))),
        };
        common.noted(&format!("write {}", self.set), settled)
    }

    /// Makes what has come a version.
    async fn complete(&self, plain: Plain, asker: Option<&Asker>) -> Result<()> {
        let common = &self.versions.common;
        let taken = common.while_wanted(asker, plain.finish()).await;
        let taken = taken.and_then(|taken| Ok(taken?));
        self.versions.listed.forget();
        let taken = common.noted(&format!("write {}", self.set), taken)?;
        say(&self.set, &taken);
        Ok(())
    }
}

fn say(set: &SetName, taken: &Taken) {
    let version = taken.version.text();
    match &taken.summary {
        Some(summary) => tracing::info!(
            "{set} has version {version}: {} bytes, {} stored",
            summary.bytes,
            summary.stored_bytes
        ),
        None => tracing::info!("{set} is as in version {version}: nothing is stored"),
    }
}

#[async_trait]
impl OpenFile for OpenPlain {
    async fn read(&self, _offset: u64, _bytes: usize, _asker: Option<&Asker>) -> Result<Bytes> {
        Err(self.refuse("it is not read by who writes it\nHINT: open it to read only"))
    }

    async fn write(&self, offset: u64, data: &Bytes, files: FilesOf, asker: Option<&Asker>) -> Result<()> {
        let mut state = self.state.lock().await;
        self.written_by(files);
        // `pg_dump` appends to what it has truncated.
        let appends = offset == AT_END && !matches!(*state, State::Untouched);
        let is_in_order = appends || offset == self.bytes.load(Ordering::Acquire);
        // What is broken off in the middle must not go on.
        let before = std::mem::replace(&mut *state, State::Done(Err(self.half())));
        let mut plain = match before {
            State::Done(Err(error)) => {
                *state = State::Done(Err(error.clone()));
                return Err(error);
            }
            State::Writing(plain) if is_in_order => plain,
            State::Untouched | State::Empty if is_in_order => self.begin(),
            _ => {
                let refused = self.refuse(IN_ORDER);
                *state = State::Done(Err(refused.clone()));
                return Err(refused);
            }
        };
        let common = &self.versions.common;
        let written = common.while_wanted(asker, plain.write(data.clone())).await;
        match written.and_then(|written| Ok(written?)) {
            Ok(()) => {
                self.bytes.fetch_add(data.len() as u64, Ordering::AcqRel);
                *state = State::Writing(plain);
                Ok(())
            }
            Err(error) => {
                *state = State::Done(Err(self.lasting(&error)));
                common.noted(&format!("write {}", self.set), Err(error))
            }
        }
    }

    /// To the length that it has, at most: `rsync` does that at its end.
    async fn truncate(&self, bytes: u64, _asker: Option<&Asker>) -> Result<()> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Done(Err(error)) => Err(error.clone()),
            State::Untouched if bytes == 0 => {
                *state = State::Empty;
                Ok(())
            }
            State::Empty | State::Writing(_) if bytes == self.bytes.load(Ordering::Acquire) => Ok(()),
            _ => {
                let refused = self.refuse(IN_ORDER);
                *state = State::Done(Err(refused.clone()));
                Err(refused)
            }
        }
    }

    async fn flush(&self, files: FilesOf, asker: Option<&Asker>) -> Result<()> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Untouched => return Ok(()),
            State::Done(outcome) => return outcome.clone(),
            State::Empty | State::Writing(_) => {}
        }
        match self.statement(&state, files, asker).await {
            Statement::None => Ok(()),
            Statement::SoFar => self.settle(&mut state, asker).await,
            Statement::Unknown(why) => {
                let unknown = Error::Unseen {
                    name: self.set.to_string(),
                    why,
                };
                self.versions.common.noted("write", Err(unknown))
            }
            Statement::Failed => {
                self.versions.common.note("write", &self.half());
                *state = State::Done(Err(self.half()));
                Err(Error::Interrupted)
            }
            Statement::Complete => {
                let before = std::mem::replace(&mut *state, State::Done(Err(self.half())));
                let plain = match before {
                    State::Writing(plain) => plain,
                    _ => self.begin(),
                };
                let outcome = self.complete(plain, asker).await;
                *state = State::Done(outcome.clone().map_err(|error| self.lasting(&error)));
                outcome
            }
        }
    }

    /// The file is durable when it is closed. What can be said before is that it has not failed.
    async fn fsync(&self, _asker: Option<&Asker>) -> Result<()> {
        match &*self.state.lock().await {
            State::Done(outcome) => outcome.clone(),
            _ => Ok(()),
        }
    }

    async fn release(&self) {
        let mut state = self.state.lock().await;
        if matches!(*state, State::Writing(_)) {
            self.versions.common.note("write", &self.half());
            *state = State::Done(Err(self.half()));
        }
        self.versions.common.plain_writes.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_close_a_statement(&self) -> bool {
        true
    }

    /// `pg_dump -Fc` goes back to its beginning where it can.
    fn is_stream(&self) -> bool {
        true
    }
}

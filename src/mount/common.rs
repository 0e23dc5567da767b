//! What every room of the mount uses: the archive and the ways to and from it, the options, the counters, the inode
//! numbers. And how a room waits, and where it notes what has failed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::archive::{self, Archive};
use crate::metrics::Metrics;
use crate::read::Reader;
use crate::staging::Staging;
use crate::store::Patience;

use super::asker::Asker;
use super::error::{Error, Result};
use super::node::{Attributes, Inodes, Kept, Kind, Node};

/// How often the process is looked at while its request waits.
const LOOK: Duration = Duration::from_millis(500);

/// How the mounted directory behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Total time of any wait for the store on behalf of a writer (promise W7).
    pub deadline: Duration,
    /// How long completing a backup may take, even while it gets on; `None`: for as long as it takes.
    pub longest: Option<Duration>,
    /// After how long without a change a version that is written as a directory is complete.
    pub quiet_after: Duration,
    /// Total time of a wait on behalf of a reader; `None`: for as long as it takes (promise R1).
    pub read_deadline: Option<Duration>,
    /// Refuse all writing.
    pub read_only: bool,
    /// Where it is mounted, to recognise who writes into it; empty when it is not known.
    pub mountpoint: PathBuf,
}

/// Waits, but not longer than the asking process lives.
pub(super) async fn while_wanted<T>(asker: Option<&Asker>, wait: impl Future<Output = T>) -> Result<T> {
    tokio::pin!(wait);
    let Some(asker) = asker else { return Ok(wait.await) };
    loop {
        tokio::select! {
            biased;
            done = &mut wait => return Ok(done),
            () = tokio::time::sleep(LOOK) => {
                if asker.doomed() {
                    return Err(Error::Interrupted);
                }
            }
        }
    }
}

/// What the rooms share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) archive: Arc<Archive>,
    pub(super) reader: Reader,
    pub(super) staging: Staging,
    pub(super) metrics: Arc<Metrics>,
    pub(super) options: Options,
    pub(super) inodes: Inodes,
    pub(super) mounted_at: Timestamp,
    pub(super) closing: AtomicBool,
    /// Plain files that are open to be written, in `files/` and `dumps/`.
    pub(super) plain_writes: AtomicUsize,
}

impl Common {
    /// Refuses new files from now on; those being written may be finished.
    pub(super) fn close_gates(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// May something new be written?
    pub(super) fn gates_open(&self) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly("is read-only"));
        }
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::ReadOnly("is being taken down"));
        }
        Ok(())
    }

    /// Of a reader.
    pub(super) fn read_patience(&self) -> Patience {
        self.options
            .read_deadline
            .map_or(Patience::Forever, Patience::for_at_most)
    }

    /// For what stands in the way of a writer.
    pub(super) fn prompt_patience(&self) -> Patience {
        Patience::for_at_most(self.options.deadline)
    }

    /// See [`while_wanted`].
    pub(super) fn while_wanted<T>(
        &self,
        asker: Option<&Asker>,
        wait: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T>> {
        while_wanted(asker, wait)
    }

    /// What a reader gets from the archive, counted.
    pub(super) async fn read(
        &self,
        asker: Option<&Asker>,
        read: impl Future<Output = std::result::Result<Bytes, Arc<archive::Error>>>,
    ) -> Result<Bytes> {
        let read = self.while_wanted(asker, read).await??;
        self.metrics
            .read_bytes
            .fetch_add(read.len() as u64, Ordering::Relaxed);
        Ok(read)
    }

    /// Notes an error in log and status, if it is worth it.
    pub(super) fn note(&self, what: &str, error: &Error) {
        if error.is_notable() {
            self.metrics.error(format!("{what}: {error}"));
            tracing::warn!("{what}: {error}");
        }
    }

    /// The same, and hands it on.
    pub(super) fn noted<T>(&self, what: &str, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.note(what, error);
        }
        outcome
    }

    /// Attributes of a directory that the mount makes.
    pub(super) fn directory(&self, node: Node) -> Attributes {
        Attributes {
            kind: Kind::Directory,
            mode: match node.is_written_in() && !self.options.read_only {
                true => 0o700,
                false => 0o500,
            },
            kept: Kept::AWhile,
            ..self.file(node, 0)
        }
    }

    /// Attributes of a file that the mount makes.
    pub(super) fn file(&self, node: Node, bytes: u64) -> Attributes {
        Attributes {
            ino: self.inodes.number(node),
            kind: Kind::File,
            bytes,
            modified: self.mounted_at.into(),
            mode: 0o400,
            owner: None,
            kept: Kept::Never,
        }
    }
}

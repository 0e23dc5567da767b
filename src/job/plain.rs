//! A version that is one file, of bytes that arrive in their order: what a process writes to a file right below `dumps/` or
//! `files/` of a mount (promise A5). What the newest version of the same name has is not stored again, wherever in it that lies.
//!
//! A task of its own begins the version with the first bytes, packs and stores them as a dump is (`super::dump::pack`), and
//! commits. Its caller hands on bytes, and waits while too many of them are on their way; it waits for as long as anything gets on,
//! and gives up when nothing has for the deadline. Whoever drops a [`Plain`] that is not finished gives the version up: nothing of
//! it is kept.

use std::io::{self, Read};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::archive::tree::TreeKind;
use crate::archive::tree::version::SetName;
use crate::archive::{self, Archive};
use crate::read::base::chunks::ChunkIndex;
use crate::store;

use super::backup;
use super::dump::identity::Identity;
use super::dump::pack::{self, Dumped, FILE_PART_BYTES, Source, Stream};
use super::dump::{DIRECTORY_MODE, MODE, Taken, attributes, root};
use super::progress::{Progress, Silent};
use super::version::{self, Draft, Told, patience};

/// Writes on their way to the packer, of 1 MiB at most each.
const WRITES: usize = 4;

/// How long a version may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long nothing may get on.
    pub deadline: Duration,
    /// How long the last step may take, even while it gets on; `None`: for as long as it takes.
    pub longest: Option<Duration>,
}

/// What can go wrong with a file that is written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// What any version may meet.
    #[error(transparent)]
    Version(Arc<version::Error>),
    /// The store does not get on.
    #[error(transparent)]
    Late(Arc<archive::Error>),
}

impl Error {
    /// The archive's own error, if it is one.
    pub fn of_archive(&self) -> Option<&archive::Error> {
        match self {
            Self::Late(error) => Some(error),
            Self::Version(error) => match &**error {
                version::Error::Archive(error) | version::Error::Copy(backup::Error::Archive(error)) => {
                    Some(error)
                }
                _ => None,
            },
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct Plain {
    set: SetName,
    place: String,
    limits: Limits,
    input: mpsc::Sender<Piece>,
    stop: Option<oneshot::Sender<&'static str>>,
    outcome: JoinHandle<Result<Taken, version::Error>>,
    gets_on: Arc<AtomicU64>,
}

/// What comes to the packer.
#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    /// All before is to be stored, and then somebody to be told.
    Pause(oneshot::Sender<()>),
    /// That was all.
    End,
}

impl Plain {
    /// Begins the next version of a name.
    pub fn begin(archive: Arc<Archive>, kind: TreeKind, set: SetName, limits: Limits) -> Self {
        let (input, pieces) = mpsc::channel(WRITES);
        let (stop, stopped) = oneshot::channel();
        let gets_on = Arc::new(AtomicU64::new(0));
        let place = archive.place().to_string();
        let making = Making {
            archive,
            kind,
            set: set.clone(),
            gets_on: gets_on.clone(),
        };
        Self {
            set,
            place,
            limits,
            input,
            stop: Some(stop),
            outcome: tokio::spawn(making.run(pieces, stopped).boxed()),
            gets_on,
        }
    }

    /// Takes the bytes that follow.
    ///
    /// # Errors
    /// Any [`Error`]: the version is given up, and is to be dropped.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let sending = self.input.send(Piece::Bytes(bytes));
        match while_it_gets_on(&self.gets_on, self.limits.deadline, sending).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(self.failure().await),
            None => Err(self.late("the store takes nothing")),
        }
    }

    /// Waits until all that has come is stored. More may follow.
    ///
    /// # Errors
    /// As [`Plain::write`].
    pub async fn settle(&mut self) -> Result<(), Error> {
        let (told, settled) = oneshot::channel();
        let settling = async {
            let _ = self.input.send(Piece::Pause(told)).await;
            settled.await
        };
        match while_it_gets_on(&self.gets_on, self.limits.deadline, settling).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(self.failure().await),
            None => Err(self.late("the store takes nothing")),
        }
    }

    /// That was all: the version is stored when this returns, or it is the same as the newest one.
    ///
    /// # Errors
    /// Any [`Error`]: there is no such version, but where the store has not said so.
    pub async fn finish(mut self) -> Result<Taken, Error> {
        let Limits { deadline, longest } = self.limits;
        let ending = async {
            let _ = self.input.send(Piece::End).await;
            (&mut self.outcome).await
        };
        let ending = while_it_gets_on(&self.gets_on, deadline, ending);
        let ended = match longest {
            Some(longest) => timeout(longest, ending).await.ok().flatten(),
            None => ending.await,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                let _ = self.stop.take().map(|stop| stop.send("the deadline"));
                (&mut self.outcome).await
            }
        };
        taken(ended)
    }

    /// Why the task has ended before its time.
    async fn failure(&mut self) -> Error {
        match taken((&mut self.outcome).await) {
            Err(error) => error,
            Ok(_) => self.late("it has ended already"),
        }
    }

    fn late(&self, why: &str) -> Error {
        let target = format!("{} in {}", self.set, self.place);
        let late = store::Error::late("write", target, self.limits.deadline, why);
        Error::Late(Arc::new(late.into()))
    }
}

fn taken(ended: Result<Result<Taken, version::Error>, tokio::task::JoinError>) -> Result<Taken, Error> {
    let ended = ended.expect("it is not aborted, and does not panic");
    ended.map_err(|error| Error::Version(Arc::new(error)))
}

/// Waits for as long as anything gets on; `None` when nothing has for the deadline.
async fn while_it_gets_on<T>(
    gets_on: &AtomicU64,
    deadline: Duration,
    wait: impl Future<Output = T>,
) -> Option<T> {
    let mut wait = pin!(wait);
    loop {
        let before = gets_on.load(Ordering::Relaxed);
        if let Ok(done) = timeout(deadline, &mut wait).await {
            return Some(done);
        }
        if gets_on.load(Ordering::Relaxed) == before {
            return None;
        }
    }
}

/// What makes the version.
struct Making {
    archive: Arc<Archive>,
    kind: TreeKind,
    set: SetName,
    /// Counts what has got on: requests, reads of what packs, parts that have arrived.
    gets_on: Arc<AtomicU64>,
}

impl Making {
    async fn run(
        self,
        pieces: mpsc::Receiver<Piece>,
        stopped: oneshot::Receiver<&'static str>,
    ) -> Result<Taken, version::Error> {
        // Who goes away does not wait for it either.
        let stopped = async { stopped.await.unwrap_or("the end of its writer") };
        let mut stopped = pin!(stopped);
        let stop = |by| version::Error::Interrupted(by);
        let mut draft = tokio::select! {
            draft = Draft::next(&self.archive, self.kind, &self.set) => draft?,
            by = &mut stopped => return Err(stop(by)),
        };
        let packed = tokio::select! {
            packed = self.pack(&mut draft, pieces) => packed,
            by = &mut stopped => Err(stop(by)),
        };
        match packed {
            Ok(dumped) => self.commit(draft, dumped, stopped).await,
            Err(error) => {
                draft.clean_up().await;
                Err(error)
            }
        }
    }

    async fn pack(
        &self,
        draft: &mut Draft<'_>,
        pieces: mpsc::Receiver<Piece>,
    ) -> Result<Dumped, version::Error> {
        draft.begin_beside_others().await?;
        self.note();
        let path = self.set.as_str().as_bytes().to_vec();
        let asked = || {
            self.note();
            patience()
        };
        let base_hash = draft.newest_hash(true);
        let index = match &draft.base {
            Some(base) => ChunkIndex::of(base.clone(), &path, asked).await?,
            None => None,
        };
        let stream = Stream {
            attributes: attributes(MODE, draft.version.at),
            path,
            memory: self.archive.memory().streams.clone(),
            part_bytes: FILE_PART_BYTES,
            index,
            identity: Identity::of_file(),
            base_hash,
            progress: Arc::new(Silent) as Arc<dyn Progress>,
        };
        let from = Incoming {
            pieces,
            rest: Bytes::new(),
            has_ended: false,
            paused: None,
            gets_on: self.gets_on.clone(),
        };
        draft.uploads.arrived = self.gets_on.clone();
        let dumped = pack::store(&self.archive, draft, stream, from).await?;
        Ok(dumped.ok_or(backup::Error::Stopped)?)
    }

    async fn commit(
        &self,
        mut draft: Draft<'_>,
        dumped: Dumped,
        stopped: impl Future<Output = &'static str>,
    ) -> Result<Taken, version::Error> {
        let base = draft.base_version();
        let collected = std::mem::take(&mut draft.uploads.collected);
        let mut taken = Taken {
            version: draft.version.clone(),
            base: base.clone(),
            summary: None,
            read_bytes: dumped.bytes,
            changed_bytes: collected.changed_bytes,
        };
        if let Some(same) = base.filter(|_| dumped.is_same) {
            taken.version = same;
            draft.clean_up().await;
            return Ok(taken);
        }
        let (tree, _) = collected.into_tree(
            draft.id.clone(),
            [root(attributes(DIRECTORY_MODE, draft.version.at))],
        )?;
        let told = Told {
            label: self.set.to_string(),
            is_plain: false,
            dump_hash: Some(dumped.hash),
            plain_file: true,
        };
        taken.summary = Some(draft.commit((Arc::new(tree), told), stopped).await?);
        Ok(taken)
    }

    fn note(&self) {
        self.gets_on.fetch_add(1, Ordering::Relaxed);
    }
}

/// What has come, for the thread that packs.
struct Incoming {
    pieces: mpsc::Receiver<Piece>,
    rest: Bytes,
    has_ended: bool,
    paused: Option<oneshot::Sender<()>>,
    gets_on: Arc<AtomicU64>,
}

impl Source for Incoming {
    fn pause(&mut self) -> Option<oneshot::Sender<()>> {
        self.paused.take()
    }
}

impl Read for Incoming {
    /// Nobody takes it for the end when the writer has gone.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.has_ended && self.paused.is_none() {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.rest = bytes,
                Some(Piece::Pause(told)) => self.paused = Some(told),
                Some(Piece::End) => self.has_ended = true,
                None => return Err(io::Error::other("its writer has gone")),
            }
        }
        self.gets_on.fetch_add(1, Ordering::Relaxed);
        let length = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

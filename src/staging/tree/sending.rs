//! Parts of a tree on their way to the store: a few at a time, and the first failure stays.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::arrived::{Arrived, Pieces};
use super::earlier::Earlier;
use super::judge::Judge;
use super::recalled::{Recalled, WHOLE_BYTES};
use crate::archive::tree::page_hashes::PageHash;
use crate::archive::tree::{Part, TreeId};
use crate::archive::{self, Archive};
use crate::codec::SeekTable;
use crate::parts::Form;
use crate::parts::part::FinishedPart;
use crate::parts::volume::Bundle;
use crate::read::page_hashes::Placed;
use crate::read::tree::TreeReader;
use crate::staging::spill::Space;
use crate::store::{Key, Patience};

/// Slices of large files packed and uploaded at once.
const SLICES: usize = 3;

/// Bundles packed and uploaded at once. They do not wait behind slices, of which there may be gigabytes in temporary files:
/// writers of small files wait for bundles.
const BUNDLES: usize = 2;

/// Why an upload failed; it stays.
pub(super) type Failure = Arc<archive::Error>;

/// Sends the parts of one tree.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) archive: Arc<Archive>,
    pub(super) id: TreeId,
    pub(super) deadline: Duration,
    slices: Semaphore,
    bundles: Semaphore,
    /// Parts that have not arrived.
    under_way: Arc<Space>,
    /// Plain bytes of bundles that are not packed yet: that waits for memory for what comes of it. With more of them than
    /// of one bundle, the tree's writers wait.
    bundled: Arc<Space>,
    failure: Mutex<Option<Failure>>,
    /// When the store has taken or given something for the last time.
    last_progress: Mutex<Instant>,
    /// Parts that were sent and are not wanted any more.
    forgotten: Mutex<Vec<Outgoing>>,
    /// Bundles that are read back.
    recalled: Recalled,
    /// What has not changed since an earlier backup is not sent.
    pub(super) earlier: Earlier,
    volumes: AtomicU32,
    /// Has anything gone out in a bundle that the tree does not hold any more?
    strays: AtomicBool,
    /// The tree is being removed: what has not begun to be sent is not.
    stopped: AtomicBool,
}

/// A part that is being sent, or has been.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    key: Key,
    done: Shared<BoxFuture<'static, Result<Arc<Arrived>, Failure>>>,
}

impl Outgoing {
    /// What has become of it, once it is stored.
    pub(super) async fn arrived(&self) -> Result<Arc<Arrived>, Failure> {
        self.done.clone().await
    }
}

/// A part that is made when there is memory for it.
pub(super) struct Unmade {
    /// What it takes at most, in bytes.
    pub(super) most_bytes: u64,
    pub(super) make: BoxFuture<'static, io::Result<Made>>,
}

/// A part that is made.
pub(super) struct Made {
    /// `None` if there is nothing to be stored.
    pub(super) part: Option<FinishedPart>,
    /// Where the bytes of its files are.
    pub(super) files: Vec<Pieces>,
}

impl Made {
    /// A bundle, which may have nothing in it, with where the bytes of its files are.
    pub(super) async fn of(bundle: Bundle, files: Vec<Pieces>, form: Form) -> io::Result<Self> {
        let pack = move || (!bundle.is_empty()).then(|| bundle.pack(form));
        let part = tokio::task::spawn_blocking(pack)
            .await
            .map_err(io::Error::other)?;
        Ok(Self { part, files })
    }
}

/// So much of a space, until it is dropped.
#[derive(Debug)]
struct Counted(Arc<Space>, u64);

impl Counted {
    fn of(space: Arc<Space>, bytes: u64) -> Self {
        space.take(bytes);
        Self(space, bytes)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.give(self.1);
    }
}

impl Sender {
    pub(super) fn new(
        archive: Arc<Archive>,
        id: TreeId,
        deadline: Duration,
        judge: Arc<dyn Judge>,
        trees: TreeReader,
    ) -> Self {
        let bundled = Space::new(archive.memory().bundle_bytes);
        Self {
            earlier: Earlier::look_for(&archive, trees, id.clone(), judge, deadline),
            archive,
            id,
            deadline,
            slices: Semaphore::new(SLICES),
            bundles: Semaphore::new(BUNDLES),
            under_way: Arc::new(Space::new(1)),
            bundled: Arc::new(bundled),
            failure: Mutex::default(),
            last_progress: Mutex::new(Instant::now()),
            forgotten: Mutex::default(),
            recalled: Recalled::default(),
            volumes: AtomicU32::new(0),
            strays: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    /// The number of a volume that begins now.
    pub(super) fn next_volume(&self) -> u32 {
        self.volumes.fetch_add(1, Ordering::Relaxed)
    }

    /// The key of a slice sent for the first time, or `again` and again.
    pub(super) fn key(&self, volume: u32, slice: u32, again: u32) -> Key {
        let extension = &self.archive.marker().codec;
        match again {
            0 => self.id.part_key(volume, slice, extension),
            _ => self.id.part_key_again(volume, slice, again, extension),
        }
    }

    /// Makes a slice and stores it, in its turn, with nobody waiting.
    pub(super) fn send(
        self: &Arc<Self>,
        key: Key,
        part: impl Future<Output = io::Result<Unmade>> + Send + 'static,
    ) -> Outgoing {
        self.send_in(|sender| &sender.slices, key, part)
    }

    fn send_in(
        self: &Arc<Self>,
        turns: fn(&Self) -> &Semaphore,
        key: Key,
        part: impl Future<Output = io::Result<Unmade>> + Send + 'static,
    ) -> Outgoing {
        let (sender, own_key) = (self.clone(), key.clone());
        let arriving = Counted::of(self.under_way.clone(), 1);
        let task = tokio::spawn(async move {
            let _arriving = arriving;
            let _turn = turns(&sender).acquire().await.expect("never closed");
            if let Some(failure) = sender.failure() {
                return Err(failure);
            }
            if sender.stopped.load(Ordering::Acquire) {
                return Err(Arc::new(
                    sender.staging_error(&own_key, "the backup was removed".into()),
                ));
            }
            let sent = sender.store(own_key, part).await;
            sent.map_err(|error| sender.fail(error))
        });
        let name = key.to_string();
        let done = async move {
            let panicked = |error: tokio::task::JoinError| archive::Error::Staging {
                name,
                reason: error.to_string(),
            };
            task.await.unwrap_or_else(|error| Err(Arc::new(panicked(error))))
        };
        Outgoing {
            key,
            done: done.boxed().shared(),
        }
    }

    /// The same for a bundle, whose plain bytes are counted until it is packed.
    pub(super) fn send_bundle(
        self: &Arc<Self>,
        key: Key,
        plain_bytes: u64,
        part: impl Future<Output = Unmade> + Send + 'static,
    ) -> Outgoing {
        let counted = Counted::of(self.bundled.clone(), plain_bytes);
        let part = async move {
            let Unmade { most_bytes, make } = part.await;
            let make = async move {
                let _counted = counted;
                make.await
            };
            Ok(Unmade {
                most_bytes,
                make: make.boxed(),
            })
        };
        self.send_in(|sender| &sender.bundles, key, part)
    }

    /// Waits until bundles have gone out.
    pub(super) async fn wait_for_bundles(&self) {
        self.bundled.wait().await;
    }

    async fn store(
        &self,
        key: Key,
        part: impl Future<Output = io::Result<Unmade>>,
    ) -> Result<Arc<Arrived>, archive::Error> {
        let staging = |error| archive::Error::staging(&key, &error);
        let Unmade { most_bytes, make } = part.await.map_err(staging)?;
        let mut space = self.archive.memory().uploads.take(most_bytes).await;
        let Made { part, files } = make.await.map_err(staging)?;
        let Some(part) = part else {
            self.note_progress();
            return Ok(Arc::new(Arrived { part: None, files }));
        };
        space.shrink_to(part.object.len() as u64);
        let described = part.described(key);
        self.archive
            .put_part(&described.key, part.object, self.patience())
            .await?;
        self.note_progress();
        let part = Some(described);
        Ok(Arc::new(Arrived { part, files }))
    }

    /// Notes a failure: the first one stays the tree's.
    pub(super) fn fail(&self, error: archive::Error) -> Failure {
        let mut failure = self.failure.lock().expect("no panic while held");
        if failure.is_none() {
            tracing::error!("{} cannot be completed any more: {error}", self.id);
        }
        failure.get_or_insert_with(|| Arc::new(error)).clone()
    }

    /// Is nothing sent any more?
    fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Acquire) || self.failure().is_some()
    }

    /// Which pages of a range of a file are where in parts that there are, by their hashes: those that need not be sent. Of
    /// a file without a path, and where nothing can be known, none is.
    pub(super) async fn kept(
        &self,
        path: Option<&[u8]>,
        range: Range<u64>,
        hashes: &[PageHash],
    ) -> Vec<Option<Placed>> {
        let mut kept = None;
        if let Some(path) = path
            && !self.is_over()
        {
            kept = self.earlier.kept(path, range, hashes).await;
            self.note_progress();
        }
        kept.unwrap_or_else(|| vec![None; hashes.len()])
    }

    /// Why this tree cannot be completed any more, if so.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.lock().expect("no panic while held").clone()
    }

    /// The store has taken or given something.
    pub(super) fn note_progress(&self) {
        *self.last_progress.lock().expect("no panic while held") = Instant::now();
    }

    pub(super) fn last_progress(&self) -> Instant {
        *self.last_progress.lock().expect("no panic while held")
    }

    /// Something went out in a bundle and has changed since, or gone.
    pub(super) fn note_stray(&self) {
        self.strays.store(true, Ordering::Release);
    }

    pub(super) fn has_strays(&self) -> bool {
        self.strays.load(Ordering::Acquire)
    }

    /// Waits for everything that has been sent so far.
    pub(super) async fn settle(&self) {
        self.under_way.wait().await;
    }

    /// Sends nothing more, and waits for what is under way.
    pub(super) async fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.settle().await;
    }

    /// A part is not wanted any more.
    pub(super) fn forget(&self, part: Outgoing) {
        self.forgotten.lock().expect("no panic while held").push(part);
    }

    /// Deletes what is not wanted any more, after its upload has ended.
    pub(super) async fn delete_forgotten(&self) -> Result<(), Failure> {
        let forgotten = std::mem::take(&mut *self.forgotten.lock().expect("no panic while held"));
        let mut keys = Vec::with_capacity(forgotten.len());
        for part in forgotten {
            if part.arrived().await?.part.is_some() {
                keys.push(part.key);
            }
        }
        let deleted = self.archive.delete_parts(&self.id, &keys, self.patience()).await;
        deleted.map_err(|error| self.fail(error))
    }

    /// Plain bytes of a part that is stored.
    pub(super) async fn read_stored(
        &self,
        part: &Part,
        plain: Range<u64>,
    ) -> Result<Vec<u8>, archive::Error> {
        if plain.is_empty() {
            return Ok(Vec::new());
        }
        let patience = self.patience();
        if part.stored_bytes <= WHOLE_BYTES {
            let recalled = self.recalled.whole(&self.archive, part, patience).await?;
            self.note_progress();
            self.check_table(part, &recalled.table)?;
            return tokio::task::spawn_blocking(move || recalled.unpack(plain))
                .await
                .expect("unpacking does not panic")
                .map_err(|damage| self.archive.damaged(&part.key, damage));
        }
        let table = Arc::new(self.archive.seek_table(&part.key, patience).await?);
        self.note_progress();
        self.check_table(part, &table)?;
        let read = self.archive.read_plain(&part.key, &table, plain, self.patience());
        read.await.inspect(|_| self.note_progress())
    }

    fn check_table(&self, part: &Part, table: &SeekTable) -> Result<(), archive::Error> {
        if table.hash() == part.hash {
            return Ok(());
        }
        Err(self.staging_error(&part.key, "it is not what was stored".into()))
    }

    pub(super) fn patience(&self) -> Patience {
        Patience::for_at_most(self.deadline)
    }

    pub(super) fn staging_error(&self, what: impl ToString, reason: String) -> archive::Error {
        archive::Error::Staging {
            name: what.to_string(),
            reason,
        }
    }
}

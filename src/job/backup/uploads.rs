//! Parts on their way to the store, several at once, and what has arrived.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::assemble::Collected;
use super::behind;
use super::pack::Packers;
use super::packed::{Built, Made};
use super::{Error, patience};
use crate::archive::tree::summary::Inventory;
use crate::archive::tree::{Tree, TreeId};
use crate::archive::{self, Archive};

/// Parts on their way to the store at once.
const UPLOADS: usize = 16;

/// How long what is on its way may take to arrive when the backup is given up.
const SETTLING: Duration = Duration::from_secs(5);

/// Parts on their way to the store. What they hold is noted when they leave: whoever describes it must not say so to
/// anybody before [`Uploads::wait`] has returned.
#[derive(Debug, Default)]
pub(in crate::job) struct Uploads {
    tasks: JoinSet<Result<(), archive::Error>>,
    inventory: JoinSet<Result<Inventory, archive::Error>>,
    /// What is stored, or on its way.
    pub(in crate::job) collected: Collected,
    /// Who waits until nothing is on its way.
    waiting: Vec<oneshot::Sender<()>>,
    /// Counts the parts that have arrived.
    pub(in crate::job) arrived: Arc<AtomicU64>,
}

impl Uploads {
    fn has_room(&self) -> bool {
        self.tasks.len() < UPLOADS
    }

    /// Is nothing on its way?
    fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Copies everything that is planned, with so many threads, unless something is `lost` before. The last parts are on their
    /// way then.
    pub(in crate::job) async fn copy(
        &mut self,
        archive: &Arc<Archive>,
        id: &TreeId,
        packers: &Arc<Packers>,
        jobs: usize,
        lost: impl Future<Output = Error>,
    ) -> Result<(), Error> {
        let (send, built) = mpsc::unbounded_channel();
        for _ in 0..jobs.max(1) {
            let (packers, send) = (packers.clone(), send.clone());
            let runtime = tokio::runtime::Handle::current();
            behind::spawn(move || packers.run(&runtime, &send)).map_err(Error::Thread)?;
        }
        drop(send);
        self.take(archive, id, built, lost).await
    }

    /// Stores what threads make until all of them have ended, unless something is `lost` before. The last parts are on their
    /// way then.
    pub(in crate::job) async fn take(
        &mut self,
        archive: &Arc<Archive>,
        id: &TreeId,
        mut built: mpsc::UnboundedReceiver<Result<Made, Error>>,
        lost: impl Future<Output = Error>,
    ) -> Result<(), Error> {
        let mut lost = pin!(lost);
        loop {
            tokio::select! {
                built = built.recv(), if self.has_room() => match built {
                    Some(built) => self.begin(archive, id, built?),
                    None => return Ok(()),
                },
                stored = self.next(), if !self.is_idle() => {
                    stored?;
                    self.tell_if_idle();
                }
                lost = &mut lost => return Err(lost),
            }
        }
    }

    /// Notes what was packed, and sends its parts.
    pub(in crate::job) fn begin(&mut self, archive: &Arc<Archive>, id: &TreeId, made: Made) {
        self.collected.add_files(made.files, made.found);
        for built in made.parts {
            self.send(archive, id, built);
        }
        self.waiting.extend(made.settled);
        self.tell_if_idle();
    }

    fn tell_if_idle(&mut self) {
        if self.is_idle() {
            self.waiting.drain(..).for_each(|waits| _ = waits.send(()));
        }
    }

    fn send(&mut self, archive: &Arc<Archive>, id: &TreeId, built: Built) {
        let key = id.part_key(built.volume, built.slice, &archive.marker().codec);
        let part = built.part.described(key.clone());
        self.collected.add_part(built.volume, built.slice, part);
        let (object, memory) = (built.part.object, built.memory);
        let (archive, arrived) = (archive.clone(), self.arrived.clone());
        self.tasks.spawn(async move {
            let stored = archive.put_part(&key, object, patience()).await;
            drop(memory);
            arrived.fetch_add(u64::from(stored.is_ok()), Ordering::Relaxed);
            stored
        });
    }

    /// Waits for one part to arrive.
    pub(in crate::job) async fn next(&mut self) -> Result<(), Error> {
        match self.tasks.join_next().await {
            Some(stored) => Ok(stored.expect("uploads do not panic")?),
            None => Ok(()),
        }
    }

    /// Waits until everything is stored.
    pub(in crate::job) async fn wait(&mut self) -> Result<(), Error> {
        while !self.tasks.is_empty() {
            self.next().await?;
        }
        Ok(())
    }

    /// Stores what tells the parts apart, beside them. A caller that does not wait to the end leaves it on its way.
    pub(in crate::job) async fn store_inventory(
        &mut self,
        archive: &Arc<Archive>,
        tree: &Arc<Tree>,
        stored_at: &OnceLock<Instant>,
    ) -> Result<Inventory, Error> {
        let (archive, tree) = (archive.clone(), tree.clone());
        self.inventory
            .spawn(async move { archive.store_inventory(&tree, patience()).await });
        self.wait().await?;
        let inventory = self.inventory.join_next().await.expect("begun above");
        stored_at.get_or_init(Instant::now);
        Ok(inventory.expect("storing does not panic")?)
    }

    /// Lets what is on its way arrive, for a moment. `false`: some of it may still arrive later.
    pub(in crate::job) async fn settle(mut self) -> bool {
        let arrived = async {
            while self.tasks.join_next().await.is_some() {}
            while self.inventory.join_next().await.is_some() {}
        };
        tokio::time::timeout(SETTLING, arrived).await.is_ok()
    }
}

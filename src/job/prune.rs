//! Removing backups that nobody wants any more, and the WAL that only they needed (promise K3).
//!
//! A plan is decided from one look (`look`, `rules`, `needed_wal`) and shown before anything is touched. Then it is
//! stored as an order ([`crate::archive::prune`]); behind that, and after a grace, everything is looked at once more, and
//! what both looks let go is removed (`deed`). Whoever makes, pins or takes over something meanwhile says so before he
//! looks for orders: so he is seen, or sees. A prune that was killed leaves its order, and the next one goes on with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::{SignedDuration, Timestamp};

use crate::archive::prune::Order;
use crate::archive::tree::begun::{Maker, Process};
use crate::archive::tree::{TreeId, TreeName};
use crate::archive::{self, Archive};
use crate::store::{ErrorKind, Key, Patience, Retention};

use super::look::Look;
use super::progress::{Phase, Progress};
use super::sweep::sweep;

mod deed;
mod needed_wal;
mod plan;
mod rules;
mod versions;

use deed::{Deed, Mode};
use plan::locked_until;

pub use deed::{Locked, Removed, Tally};
pub use plan::{Plan, Planned};
pub use rules::{Reason, Rules};

/// A prune that is not done by then ends: others may take it for dead after a day.
pub const MOST_TIME: Duration = Duration::from_secs(12 * 3600);

/// No upload takes that long: one that was begun before is nobody's any more.
const UPLOADS_LIVE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why nothing, or no more, is removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// What a backup needs cannot be known.
    #[error(
        "nothing is removed from {place}, because what backup {name} needs is not known: {reason}\n\
         HINT: bring its summary, basebackups/{name}.json (of a version of files, files/{name}.json; of a dump, dumps/{name}.json), back from a copy of the store; if that backup is of no use any \
         more, remove that object by hand, and prune again."
    )]
    Unreadable {
        /// The backup.
        name: TreeName,
        /// The archive.
        place: String,
        /// Why.
        reason: String,
    },
    /// What is to be removed cannot be announced.
    #[error(
        "nothing is removed from {place}: a prune first stores what it is about to remove, a few KiB, and there is no room for \
         them: {reason}\n\
         HINT: free some KiB on that disk, of whatever is not the archive's, and prune again; or prune as root, to whom many file \
         systems leave room that others do not get."
    )]
    NoRoom {
        /// The archive.
        place: String,
        /// Why.
        reason: String,
    },
    /// The rules name a backup that there is not.
    #[error("{place} has no backup named {name}.\nHINT: `walfs backup-list` shows those that there are.")]
    NoBackup {
        /// The name.
        name: TreeName,
        /// The archive.
        place: String,
    },
    /// Somebody took it for dead: a clock is wrong, or it was removed by hand.
    #[error(
        "nothing is removed from {place}: {order}, by which this prune said what it was about to remove, is not there any more, so \
         others may build on that.\n\
         HINT: another prune has taken this one for dead: compare the clocks of both hosts; then run it again."
    )]
    OrderGone {
        /// The archive.
        place: String,
        /// The object.
        order: Key,
    },
    /// It was stopped for very long.
    #[error(
        "this prune began more than {hours} hours ago, and has stopped: another one may have taken its place.\n\
         HINT: run it again."
    )]
    TooLate {
        /// So many.
        hours: u64,
    },
}

/// What is to be removed, and how.
#[derive(Debug)]
pub struct Prune<'a> {
    /// The archive.
    pub archive: &'a Arc<Archive>,
    /// What the operator wants to keep.
    pub rules: &'a Rules,
    /// How long what will go is still there, for those who read it.
    pub grace: Duration,
    /// Who listens.
    pub progress: &'a Arc<dyn Progress>,
    /// For each request.
    pub deadline: Duration,
}

impl Prune<'_> {
    fn patience(&self) -> Patience {
        Patience::for_at_most(self.deadline)
    }

    /// Decides, counts, and changes nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn plan(&self) -> Result<(Plan, Removed), Error> {
        let plan = self.decide(self.now().await?).await?;
        let counted = self.go_through(&plan, Mode::Count, Instant::now()).await?;
        Ok((plan, counted))
    }

    /// Removes what the rules do not want. Gives what was removed, and what stays and why.
    ///
    /// # Errors
    /// [`Error`]; what was removed before stays so, and the next run goes on.
    pub async fn run(&self) -> Result<(Plan, Removed), Error> {
        let began = Instant::now();
        sweep(self.archive, self.patience()).await?;
        self.sweep_uploads().await;
        // Before the first look: so that has all that they have left.
        let left_behind = self.orders_of_the_dead().await?;
        let first = self.decide(self.now().await?).await?;
        if first.is_empty() {
            self.end_orders(&left_behind).await?;
            return Ok((first, Removed::default()));
        }
        let order = Order {
            at: Timestamp::now(),
            process: Process::this(),
            trees: first.trees().iter().map(ToString::to_string).collect(),
            wal: first.wal_spans(),
        };
        let key = match self.archive.give_order(&order, self.patience()).await {
            Err(archive::Error::Store(error)) if error.kind == ErrorKind::Full => {
                return Err(Error::NoRoom {
                    place: self.archive.place(),
                    reason: error.message.lines().next().unwrap_or_default().to_owned(),
                });
            }
            given => given?,
        };
        let agreed = match self.look_again(&key, &first).await {
            Ok(agreed) => agreed,
            Err(error) => {
                // Nothing was touched yet.
                self.end_orders(&[key]).await?;
                return Err(error);
            }
        };
        self.stored_at(&key).await?;
        // First: whoever misses a segment finds it there.
        self.record(&agreed).await?;
        let removed = self.go_through(&agreed, Mode::Remove, began + MOST_TIME).await?;
        self.end_orders(&[key]).await?;
        self.end_orders(&left_behind).await?;
        Ok((agreed, removed))
    }

    /// What killed uploads have left is in nobody's way, and no reason to remove nothing.
    async fn sweep_uploads(&self) {
        let Some(before) = SystemTime::now().checked_sub(UPLOADS_LIVE) else {
            return;
        };
        match self.archive.store().sweep_uploads(before, self.patience()).await {
            Ok(0) => {}
            Ok(many) => tracing::warn!("removed the parts of {many} uploads that were never completed"),
            Err(error) => tracing::info!("uploads that were never completed are left alone: {error}"),
        }
    }

    /// When the order was stored, by the store's clock; that it is still there.
    async fn stored_at(&self, order: &Key) -> Result<SystemTime, Error> {
        match self.archive.store().head(order, self.patience()).await {
            Ok(meta) => Ok(meta.modified),
            Err(error) if error.kind == ErrorKind::NotFound => Err(Error::OrderGone {
                place: self.archive.place(),
                order: order.clone(),
            }),
            Err(error) => Err(archive::Error::from(error).into()),
        }
    }

    /// By the store's clock; by ours where that is told only of what is stored.
    async fn now(&self) -> Result<Timestamp, Error> {
        let told = self.archive.store().now(self.patience()).await;
        let told = told.map_err(archive::Error::from)?;
        let told = told.and_then(|told| Timestamp::try_from(told).ok());
        Ok(told.unwrap_or_else(Timestamp::now))
    }

    /// Behind the order, and after the grace, by the store's clock.
    async fn look_again(&self, key: &Key, first: &Plan) -> Result<Plan, Error> {
        let stored = self.stored_at(key).await?;
        self.progress.phase(Phase::Waiting(self.grace));
        tokio::time::sleep(self.grace).await;
        let stored = Timestamp::try_from(stored).unwrap_or(Timestamp::MIN);
        let grace = SignedDuration::try_from(self.grace).unwrap_or(SignedDuration::ZERO);
        let now = stored.checked_add(grace).unwrap_or(stored);
        Ok(self.decide(now).await?.agreed(first))
    }

    async fn decide(&self, now: Timestamp) -> Result<Plan, Error> {
        // What may stay because it is locked is only known when it is known what would go.
        let mut locked: BTreeMap<TreeId, Retention> = BTreeMap::new();
        loop {
            let mut look = Look::take(self.archive, now, self.progress, || self.patience()).await?;
            for known in look.backups.iter_mut().chain(&mut look.versions) {
                known.locked = locked.get(&known.id).copied();
            }
            let plan = Plan::new(look, self.rules, &self.archive.place())?;
            let before = locked.len();
            for known in plan.going() {
                let asked = self
                    .archive
                    .tree_locked(&known.summary, &known.id, self.patience());
                let still = asked.await?.filter(|locked| locked_until(*locked, now).is_some());
                locked.extend(still.map(|locked| (known.id.clone(), locked)));
            }
            if locked.len() == before {
                return Ok(plan);
            }
        }
    }

    async fn go_through(&self, plan: &Plan, mode: Mode, until: Instant) -> Result<Removed, Error> {
        self.progress.phase(match mode {
            Mode::Count => Phase::Listing,
            Mode::Remove => Phase::Removing,
        });
        let deed = Deed {
            archive: self.archive,
            plan,
            mode,
            progress: self.progress,
            until,
            patience: || self.patience(),
        };
        deed.run().await
    }

    /// Orders of prunes that were killed: what they had begun is in this plan.
    async fn orders_of_the_dead(&self) -> Result<Vec<Key>, Error> {
        let now = SystemTime::now();
        let orders = self.archive.orders(self.patience()).await?.into_iter();
        let dead = orders.filter(|found| found.maker(now) == Maker::Dead);
        Ok(dead.map(|found| found.key).collect())
    }

    async fn end_orders(&self, keys: &[Key]) -> Result<(), Error> {
        for key in keys {
            self.archive.end_order(key, self.patience()).await?;
        }
        Ok(())
    }

    /// Which WAL is not kept any more: otherwise it would be missing.
    async fn record(&self, plan: &Plan) -> Result<(), Error> {
        let (Some(size), spans) = (plan.size, plan.wal_spans()) else {
            return Ok(());
        };
        if spans.is_empty() {
            return Ok(());
        }
        let mut removed = self.archive.removed_wal(self.patience()).await?;
        removed.add(spans, size);
        Ok(self.archive.record_removed(removed, self.patience()).await?)
    }
}

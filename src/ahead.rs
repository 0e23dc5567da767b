//! Working ahead (promise W8): PostgreSQL archives one file at a time, so while it brings one, the next ones are
//! already compressed and sent, side by side, in the order in which they will be asked for.
//!
//! **Is it right that an object is in the archive before `cp` has brought it?** It is: a segment with a `.ready` mark is
//! finished, on disk, and what `cp` will bring; the object has passed the checks of a copied one (`ahead/flight.rs`). If its
//! `cp` never comes, the archive holds one true segment more than was acknowledged, which harms no recovery. What must
//! not be stored is what the archiver would not bring, so:
//!
//! - each is stored only when the archive has the one before it as this server wrote it: its end waits for that, and then
//!   both files must lie in the directory as they were read (ahead/table.rs). Of two servers that have parted, one is refused
//!   at the first segment in which they differ, and nothing behind it comes into the archive, whether both archive through
//!   one mount or one takes the other's place;
//! - work begins only while a copier is bringing a file that is marked ready in that directory, and where the copier
//!   can be seen in `/proc`, only if the file it reads *is* the one there, by device and inode: a given directory that
//!   belongs to another server is refused, whatever system identifier it has;
//! - the archive is never tied to a cluster ahead, only segments of the cluster that it is tied to are stored;
//! - only segments: a `.history` or `.backup` file does not say of which cluster it is. They cost a round trip each.
//!
//! **What `cp` is told** rests on what `cp` brought, and on what the store has then. Its bytes are hashed; if this process
//! has stored the same content ahead, and the store still shows it, which is asked while the bytes come, that is success
//! without another upload. If the upload is on its way, `cp` waits for it instead of sending the same again. If it failed,
//! or the content differs, the `cp` is archived as if nothing had been sent, and the store decides. What was sent ahead is
//! forgotten when it is asked for, so a later `cp` of the same name is compared with what the store has then.
//!
//! **What is in the way of nobody.** Errors ahead are logged and shown to nobody. Memory is bounded
//! ([`Memory::ahead`](crate::memory::Memory)), and taken only while there is enough; a copier never waits for it. On a slow
//! line uploads side by side would only delay the one that is waited for: fewer are sent then, see `ahead/table.rs`.
//!
//! An archive command may ask whether the file is there (`test ! -f wal/%f && cp ...`, as PostgreSQL's manual has it),
//! and must not meet what was sent ahead: `mount::wal` hides from the archiver what it has not brought.

mod flight;
mod pg_wal;
mod table;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::archive::{Archive, Error};
use crate::metrics::Metrics;
use crate::pg::WalName;
use crate::staging::forerunner::{Forerunner, Promise, promise};
use crate::store::Grant;

use flight::{Flight, Runway};
use pg_wal::PgWal;
pub use pg_wal::{Identity, Origin};
use table::{Copy, Next, Table};

/// Sends segments ahead of the archiver.
#[derive(Debug)]
pub struct Ahead {
    archive: Arc<Archive>,
    /// The directory that was given; otherwise it is found.
    given: Option<PathBuf>,
    deadline: Duration,
    metrics: Arc<Metrics>,
    runtime: Handle,
    runway: Runway,
    table: Mutex<Table>,
    /// The directory that the archiver was last seen to read from.
    found: Mutex<Option<PgWal>>,
    planning: tokio::sync::Mutex<()>,
    complained: AtomicBool,
}

impl Ahead {
    /// For an archive that is being written. `given`: the server's `pg_wal`; without it, it is where the copiers' files
    /// lie. `deadline` is that of one upload.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(
        archive: Arc<Archive>,
        given: Option<PathBuf>,
        deadline: Duration,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            runway: Runway::new(archive.clone(), deadline),
            archive,
            given,
            deadline,
            metrics,
            runtime: Handle::current(),
            table: Mutex::default(),
            found: Mutex::default(),
            planning: tokio::sync::Mutex::default(),
            complained: AtomicBool::new(false),
        })
    }

    /// A copier brings a file now: what was sent of it ahead, if anything was, and leave for those that follow, with which
    /// this begins: to be given when the file is archived. `None` for a file that nothing follows.
    ///
    /// `origin` finds the file that is being copied; it is called later, on another thread, and only if it is needed.
    pub fn brought(
        self: &Arc<Self>,
        name: WalName,
        origin: impl FnOnce() -> Option<Origin> + Send + 'static,
    ) -> Option<(Option<Forerunner>, Grant)> {
        let WalName::Segment(segment) = name else {
            return None;
        };
        let (copy, forerunner, followers) = self.table().brought(segment);
        self.runtime.spawn(self.clone().plan(copy, origin));
        Some((forerunner, followers))
    }

    /// Has this file been sent ahead, or is it being sent, and nobody has brought it yet?
    pub fn is_ahead(&self, name: WalName) -> bool {
        matches!(name, WalName::Segment(segment) if self.table().is_ahead(segment))
    }

    /// Begins as many as may be begun.
    async fn plan(self: Arc<Self>, copy: Copy, origin: impl FnOnce() -> Option<Origin> + Send + 'static) {
        // At once: a copier that has gone shows no file any more.
        let seen = tokio::task::spawn_blocking(origin);
        let origin = seen.await.expect("looking does not panic");
        // What is known is of one directory. This copy's may be another one, and another copy may have come since.
        let _alone = self.planning.lock().await;
        // Only what a copier has brought ties an archive to its cluster.
        if self.archive.known_cluster().is_none() {
            return;
        }
        let this = self.clone();
        let looking = tokio::task::spawn_blocking(move || this.look_into(copy, origin.as_ref()));
        let Some(pg_wal) = looking.await.expect("looking does not panic") else {
            return;
        };
        loop {
            let (promise, forerunner) = promise();
            let Some(next) = self.table().begin(copy, forerunner) else {
                return;
            };
            tokio::spawn(self.clone().send(pg_wal.clone(), next, promise));
        }
    }

    /// The directory the archiver reads from, after noting what waits in it.
    fn look_into(&self, copy: Copy, origin: Option<&Origin>) -> Option<PgWal> {
        let segment = self.table().brings(copy)?;
        let pg_wal = self.pg_wal(WalName::Segment(segment), origin)?;
        let version = pg_wal.version(segment).ok()?;
        if self.table().read_from(copy, version) {
            match pg_wal.ready_after(segment) {
                Ok(names) => self.table().add_names(copy, names),
                Err(error) => self.complain(&format!("what waits to be archived cannot be listed: {error}")),
            }
        }
        Some(pg_wal)
    }

    /// Seen anew for each file: two servers may archive through one mount.
    fn pg_wal(&self, current: WalName, origin: Option<&Origin>) -> Option<PgWal> {
        let found = PgWal::of(self.given.as_deref(), current, origin).unwrap_or_else(|given| {
            self.complain(&format!(
                "{} is not the directory that {current} is archived from, nothing is sent ahead\n\
                 HINT: --pg-wal must be the pg_wal of the server that archives into this mount",
                given.display()
            ));
            None
        });
        let found = found.filter(|found| found.is_ready(current))?;
        let before = self.found().replace(found.clone());
        if before.is_some_and(|before| before != found) {
            self.table().begin_anew();
        }
        Some(found)
    }

    async fn send(self: Arc<Self>, pg_wal: PgWal, next: Next, promise: Promise) {
        let name = next.name;
        match self.runway.send(&pg_wal, next).await {
            Ok(Flight::Arrived { hash, took }) => {
                self.table().learn(Some(took), self.deadline);
                promise.keep(hash);
                self.metrics.sent_ahead.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("sent ahead: {name}");
                self.complained.store(false, Ordering::Relaxed);
            }
            Ok(Flight::NotYet) => self.table().put_back(name),
            Ok(Flight::Replaced) => self.table().begin_anew(),
            Ok(Flight::NotSent) => tracing::debug!("not sent ahead: {name}"),
            Err(error) => {
                if matches!(error, Error::Store(_)) {
                    self.table().learn(None, self.deadline);
                }
                self.complain(&format!(
                    "{name} could not be sent ahead, its copy will be: {error}"
                ));
            }
        }
    }

    /// Says it once, until something has been sent again: the copiers' own errors say it each time.
    fn complain(&self, what: &str) {
        if self.complained.swap(true, Ordering::Relaxed) {
            tracing::debug!("{what}");
        } else {
            tracing::warn!("{what}");
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic while held")
    }

    fn found(&self) -> MutexGuard<'_, Option<PgWal>> {
        self.found.lock().expect("no panic while held")
    }
}

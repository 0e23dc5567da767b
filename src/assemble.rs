//! Puts the rooms together as a [`Config`] says: the store and the archive for every command, and for a mount the caches, the
//! staging, the reader, working ahead, and the directory over all of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::agent::Program;
use crate::agent::state::State;
use crate::ahead::Ahead;
use crate::archive::{self, Archive};
use crate::cache::Cache;
use crate::cache::disk::DiskCache;
use crate::config::{Config, PgWal};
use crate::http::{MOST_BODIES, Requests, Side};
use crate::job::progress::{Progress, Silent};
use crate::job::status::{Limits, Shown, Status, status};
use crate::metrics::process::Process;
use crate::metrics::{Counted, Metrics, Rooms};
use crate::mount::fs::{self, Fs, One};
use crate::overview::{Form, Looks, Overview, Seen, Watched};
use crate::read::{Reader, Together};
use crate::staging::Staging;
use crate::store::{self, Patience, Store};

mod fleet;

pub use fleet::fleet;

/// What opening an archive may end with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store did not open.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The archive did not.
    #[error(transparent)]
    Archive(#[from] archive::Error),
}

/// How carefully an archive is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// For a process that stays: the bucket is looked at first, listing included, so that what it may not do shows now.
    Long,
    /// For a command that is done soon: the bucket is looked at only if the archive's marker does not come.
    Short,
}

/// The store of the archive, not yet asked anything.
///
/// # Errors
/// What [`store::reach`] says.
pub async fn reach(config: &Config, wait: Duration) -> Result<Store, store::Error> {
    store::reach(&config.location, &config.store(wait)).await
}

/// Opens the archive. Waits for the store at most `wait`.
///
/// # Errors
/// [`Error`].
pub async fn archive(config: &Config, stay: Stay, wait: Duration) -> Result<Archive, Error> {
    let store = match stay {
        Stay::Long => store::open(&config.location, &config.store(wait)).await?,
        Stay::Short => reach(config, wait).await?,
    };
    Ok(Archive::open(store, &config.archive(), Patience::for_at_most(wait)).await?)
}

/// The store of a place, asked whether it is there.
///
/// # Errors
/// What [`store::open`] says.
pub async fn place(config: &Config) -> Result<Store, store::Error> {
    store::open(&config.location, &config.store(config.deadline)).await
}

/// The directory that a mount shows over an open archive. `longest`: how long the kernel lets a request take.
///
/// # Errors
/// The directory of the disk cache cannot be used.
///
/// # Panics
/// Outside of a runtime.
pub fn directory(
    config: &Config,
    archive: Arc<Archive>,
    mountpoint: PathBuf,
    longest: Option<Duration>,
) -> Result<Fs, std::io::Error> {
    let together = Together::new(archive.memory(), Cache::new(config.memory.cache_bytes));
    Ok(rooms(config, archive, &together, mountpoint, longest)?.into())
}

/// What a mount shows of an open archive, with the memory of its readers.
fn rooms(
    config: &Config,
    archive: Arc<Archive>,
    together: &Together,
    mountpoint: PathBuf,
    longest: Option<Duration>,
) -> Result<One, std::io::Error> {
    let disk = config.disk_cache.as_ref();
    let disk = disk.map(|(directory, bytes)| DiskCache::open(directory, *bytes));
    let reader = Reader::beside_others(archive.clone(), together, disk.transpose()?).fetching_ahead();
    let staging = Staging::new(archive.compression(), &config.staging());
    let metrics = Arc::new(Metrics::default());
    let given = match &config.pg_wal {
        PgWal::Off => None,
        PgWal::Auto => Some(None),
        PgWal::Given(directory) => Some(Some(directory.clone())),
    };
    let ahead = given
        .clone()
        .map(|given| Ahead::new(archive.clone(), given, config.deadline, metrics.clone()));
    let overview = Arc::new(StatusOf {
        archive: archive.clone(),
        pg_wal: given.clone().flatten(),
        deadline: config.deadline,
    });
    let options = fs::Options {
        deadline: config.deadline,
        longest,
        quiet_after: config.quiet_after,
        read_deadline: config.read_deadline,
        read_only: config.read_only,
        mountpoint,
    };
    Ok(One::new(archive, reader, staging, metrics, options, ahead).showing(overview))
}

/// What an agent tells to who watches, over an open archive, beside its jobs. `pg_wal`: of the server beside it, if that is known;
/// `more`: what else it counts.
pub fn watched(
    config: &Config,
    archive: &Arc<Archive>,
    pg_wal: Option<PathBuf>,
    jobs: Arc<State>,
    more: impl IntoIterator<Item = Arc<dyn Counted>>,
) -> Arc<Watched> {
    let overview = Arc::new(StatusOf {
        archive: archive.clone(),
        pg_wal,
        deadline: config.deadline,
    });
    let mut counted: Vec<Arc<dyn Counted>> = vec![
        Arc::new(Process::begun(Timestamp::now())),
        jobs,
        Arc::new(archive.store().clone()),
    ];
    counted.extend(more);
    Arc::new(Watched::new(Arc::new(Looks::new(overview)), counted))
}

/// What answers by HTTP, over an open archive. `pg_wal`: of the server beside it, if that is known; `token`: what clients have
/// to say, if anything.
pub fn http_side(
    config: &Config,
    archive: Arc<Archive>,
    (program, jobs): (Program, Arc<State>),
    (pg_wal, token): (Option<PathBuf>, Option<String>),
    stop: watch::Receiver<bool>,
) -> Side {
    let cache = Cache::new(config.memory.cache_bytes);
    let rooms = Arc::new(Rooms {
        metrics: Arc::default(),
        archive: archive.clone(),
        reader: Arc::new(Reader::new(archive.clone(), cache, None).fetching_ahead()),
        staging: Staging::new(archive.compression(), &config.staging()),
    });
    let requests = Arc::new(Requests::default());
    let more: [Arc<dyn Counted>; 2] = [rooms.clone(), requests.clone()];
    Side {
        watched: watched(config, &archive, pg_wal.clone(), jobs.clone(), more),
        jobs,
        requests,
        rooms,
        program,
        pg_wal,
        token,
        deadline: config.deadline,
        read_deadline: config.read_deadline,
        bodies: Semaphore::new(MOST_BODIES),
        backing_up: Mutex::default(),
        stop,
    }
}

/// Tells a mount what `walfs status` tells.
#[derive(Debug)]
struct StatusOf {
    archive: Arc<Archive>,
    pg_wal: Option<PathBuf>,
    deadline: Duration,
}

#[async_trait]
impl Overview for StatusOf {
    async fn look(&self) -> Result<Box<dyn Seen>, archive::Error> {
        let (limits, quiet): (_, Arc<dyn Progress>) = (Limits::default(), Arc::new(Silent));
        let look = status(
            &self.archive,
            self.pg_wal.as_deref(),
            &limits,
            &quiet,
            self.deadline,
        );
        Ok(Box::new(look.await?))
    }
}

impl Seen for Status {
    fn told(&self, form: Form, is_remembered: bool) -> String {
        let shown = match is_remembered {
            true => Shown::remembered(self),
            false => Shown::now(self),
        };
        match form {
            Form::Screen => shown.screen(),
            Form::Json => shown.json(),
            Form::Picture => shown.picture(),
            Form::Metrics => shown.metrics().text(),
        }
    }
}

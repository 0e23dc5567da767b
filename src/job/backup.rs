//! Takes a base backup: backup mode around a parallel copy of the data directory into the archive (promise B2 to B4).
//!
//! 1. Who is the server, whose is the archive, is the data directory that server's?
//! 2. The tree is begun, and backup mode: a checkpoint. What killed backups left is swept meanwhile.
//! 3. The data directory is listed, and copied by threads (`pack`); parts are stored side by side, as they come.
//! 4. `pg_control` is read, after everything else and before backup mode ends, as PostgreSQL does itself: what it says
//!    of a standby's recovery must lie inside of the WAL that the backup needs.
//! 5. Backup mode ends. The last volume has `backup_label`, `tablespace_map`, `pg_control` and `backup_manifest`.
//! 6. All parts arrive, with them what tells them apart, and the WAL. Only then the tree is committed. If the WAL does not
//!    come in time, it is committed all the same: nothing of it is wrong, it is shown as lacking WAL, and becomes complete
//!    when that arrives.
//!
//! Where the store is far away, what does not depend on each other's answers is asked and stored side by side: the server
//! makes its checkpoint while the tree is begun, and backup mode ends, with the WAL archived that makes it consistent,
//! while the last parts are on their way. The commit alone waits for everything.
//!
//! However this ends before the commit, the session ends, the server leaves backup mode, and the parts are deleted; if
//! walfs is killed, the next sweep does that.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::archive::tree::backup::{Link, Outside, OwnSegment, WalRange};
use crate::archive::tree::catalogue::{Begun, By};
use crate::archive::tree::landmarks::Unsettled;
use crate::archive::tree::summary::{Description, Inventory, Summary};
use crate::archive::tree::{Attributes, TreeId, TreeKind, TreeName};
use crate::archive::turns::Turn;
use crate::archive::{self, Archive};
use crate::job::progress::{Phase, Progress};
use crate::job::sweep::sweep;
use crate::pg::control::ControlFile;
use crate::pg::data_page::PageChecker;
use crate::pg::{Lsn, SegmentName};
use crate::read::base::{Base, Candidates};
use crate::read::tree::TreeReader;
use crate::server::{Facts, Resolved, Session, Settings, Started, Stopped};
use crate::store::Patience;

mod arrival;
pub(super) mod assemble;
pub(super) mod behind;
mod blocks;
mod ending;
mod error;
mod kept_settings;
mod local;
mod outside;
pub(super) mod pack;
pub(super) mod packed;
pub(super) mod pages;
pub(super) mod places;
pub(super) mod queue;
mod rate;
mod reading;
mod spent;
pub(super) mod uploads;
mod wal;
pub(super) mod walk;
mod whole;

pub use error::Error;
use pack::{AtWork, Packers};
use queue::Plan;
use rate::Rate;
pub use spent::{Waits, Work};
use uploads::Uploads;
pub use wal::{MissingWal, named};
use whole::Whole;

/// How long the store may be away before a backup gives up.
const STORE_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How long cleaning up after a failure may take. What is left then is swept by the next backup.
const CLEANING: Duration = Duration::from_secs(20);

/// How a backup is to be taken.
#[derive(Debug)]
pub struct Options {
    /// Its name.
    pub name: TreeName,
    /// The label that PostgreSQL keeps in `backup_label`.
    pub label: String,
    /// An immediate checkpoint?
    pub fast: bool,
    /// Store everything, whatever the archive has already?
    pub full: bool,
    /// Threads that read and pack.
    pub jobs: usize,
    /// Look at data pages, and verify their checksums, if the cluster has them?
    pub verify_checksums: bool,
    /// Source bytes a second; unlimited when absent.
    pub rate_limit: Option<u64>,
    /// How long to wait for the backup's WAL.
    pub wal_timeout: Duration,
    /// A directory whose files are kept as settings, whether the server reads them or not. Absolute.
    pub settings_dir: Option<PathBuf>,
    /// Where the primary of a standby is; otherwise the standby is asked.
    pub primary: Option<Resolved>,
    /// The turn of a schedule that it is; if another host has taken it, nothing of the backup is kept.
    pub turn: Option<Turn>,
}

/// A backup that was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Its name.
    pub name: TreeName,
    /// The earlier one that it was compared with; `None` if everything was stored.
    pub base: Option<TreeName>,
    /// What there is to know of it.
    pub summary: Summary,
    /// The WAL that has not come in time, if any: then it is not complete yet.
    pub missing_wal: Option<MissingWal>,
    /// What it took.
    pub work: Work,
}

/// Takes a backup, unless `interrupted` ends first with the name of a signal.
///
/// # Errors
/// Any [`Error`]; nothing of the backup is kept then.
pub async fn take(
    archive: &Arc<Archive>,
    server: &Resolved,
    options: &Options,
    progress: Arc<dyn Progress>,
    interrupted: impl Future<Output = &'static str>,
) -> Result<Taken, Error> {
    let mut interrupted = pin!(interrupted);
    check_label(&options.label)?;
    let mut taking = tokio::select! {
        begun = Taking::begin(archive, server, options, progress) => begun?,
        signal = &mut interrupted => return Err(Error::Interrupted(signal)),
    };
    let prepared = tokio::select! {
        prepared = taking.prepare() => prepared,
        signal = &mut interrupted => Err(Error::Interrupted(signal)),
    };
    match prepared {
        Ok(prepared) => taking.commit(prepared, interrupted).await,
        Err(error) => {
            taking.clean_up().await;
            Err(error)
        }
    }
}

fn check_label(label: &str) -> Result<(), Error> {
    if label.len() > 1024 {
        return Err(Error::BadLabel { found: "more bytes" });
    }
    if label.contains(['\n', '\r']) {
        return Err(Error::BadLabel {
            found: "several lines",
        });
    }
    Ok(())
}

fn patience() -> Patience {
    Patience::for_at_most(STORE_PATIENCE)
}

/// A backup that has everything but its commit.
struct Prepared {
    inventory: Inventory,
    description: Description,
    missing_wal: Option<MissingWal>,
    work: Work,
}

/// A backup on its way.
struct Taking<'a> {
    archive: &'a Arc<Archive>,
    options: &'a Options,
    progress: Arc<dyn Progress>,
    session: Session,
    facts: Facts,
    settings: Settings,
    control: ControlFile,
    began: Timestamp,
    /// Told when the archive knows that it has begun.
    begun: Arc<Notify>,
    id: TreeId,
    /// The backup that it builds on.
    base: Option<Arc<Base>>,
    packers: Option<AtWork>,
    began_at: Instant,
    requests_before: u64,
    /// How long copying took.
    copied: Duration,
    uploads: Uploads,
    links: Vec<Link>,
    outside: Vec<Outside>,
    /// The WAL at its beginning, as the server had it.
    own_at_start: Vec<OwnSegment>,
}

/// What there is to copy, where recovery begins, the WAL that there is by then, and what has been stored before.
type Start = (Listed, Lsn, Vec<OwnSegment>, Option<Arc<Base>>);

impl<'a> Taking<'a> {
    async fn begin(
        archive: &'a Arc<Archive>,
        server: &Resolved,
        options: &'a Options,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, Error> {
        let session = Session::open(server).await?;
        let facts = session.facts().await?;
        check_cluster(archive, &facts).await?;
        arrival::expect(&session, &facts).await?;
        let settings = session.settings().await?;
        let control = local::check(&facts)?;
        let began = Timestamp::now();
        let id = TreeId::fresh(&options.name);
        Ok(Self {
            archive,
            options,
            progress,
            session,
            facts,
            settings,
            control,
            began,
            begun: Arc::default(),
            id,
            base: None,
            packers: None,
            began_at: Instant::now(),
            requests_before: archive.store().counts().requests(),
            copied: Duration::ZERO,
            uploads: Uploads::default(),
            links: Vec::new(),
            outside: Vec::new(),
            own_at_start: Vec::new(),
        })
    }

    /// Everything but the commit.
    async fn prepare(&mut self) -> Result<Prepared, Error> {
        let (archive, begun) = (self.archive, self.begun.clone());
        let swept = async {
            // What has just been stored shows the store's time.
            begun.notified().await;
            if let Err(error) = sweep(archive, patience()).await {
                tracing::warn!(
                    "what killed backups have left is not removed, the next one will try: {error}"
                );
            }
        };
        let copied = async {
            let (stopped, control) = self.copy_all().await?;
            self.complete(stopped, control).await
        };
        match select(pin!(copied), pin!(swept)).await {
            Either::Left((Ok(prepared), swept)) => {
                swept.await;
                Ok(prepared)
            }
            Either::Left((failed, _)) => failed,
            Either::Right(((), copied)) => copied.await,
        }
    }

    /// Makes the backup exist. A request that is broken off may be done all the same, in the store or on its way there; so
    /// a signal waits for its outcome, and as long as that is not known nothing is deleted that may be part of a backup.
    /// The next sweep knows.
    async fn commit(
        self,
        Prepared {
            inventory,
            description,
            missing_wal,
            work,
        }: Prepared,
        interrupted: impl Future<Output = &'static str>,
    ) -> Result<Taken, Error> {
        let name = self.options.name.clone();
        if let Err(error) = self.check_turn().await {
            self.clean_up().await;
            return Err(error);
        }
        let outcome = {
            let committing = self.archive.commit_stored(inventory, description, patience());
            let mut committing = pin!(committing);
            tokio::select! {
                outcome = &mut committing => outcome,
                signal = interrupted => match tokio::time::timeout(CLEANING, &mut committing).await {
                    Ok(outcome) => outcome,
                    Err(_) => return Err(Error::InterruptedLast(signal)),
                },
            }
        };
        match outcome {
            Ok(summary) => Ok(Taken {
                name,
                base: self.base.map(|base| base.name().clone()),
                summary,
                missing_wal,
                work,
            }),
            Err(error) => {
                if matches!(
                    error,
                    archive::Error::TreeExists { .. }
                        | archive::Error::TreeRemoved { .. }
                        | archive::Error::TreePruned { .. }
                        | archive::Error::TreeNamePruned { .. }
                ) {
                    self.clean_up().await;
                }
                Err(error.into())
            }
        }
    }

    /// A host that was frozen may have slept through its turn (promise A2).
    async fn check_turn(&self) -> Result<(), Error> {
        match &self.options.turn {
            Some(turn) if !self.archive.is_newest(turn, patience()).await? => {
                Err(Error::NotOurTurn(turn.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Copies the data directory in backup mode; parts may still be on their way then. Gives the control file, which is
    /// copied last, and what the server said in the end.
    async fn copy_all(&mut self) -> Result<(Stopped, Whole), Error> {
        let (listed, start, own, base) = self.start().await?;
        self.base = base;
        self.own_at_start = own;
        let attributes = listed.control;
        (self.links, self.outside) = (listed.links, listed.outside);
        let began = Instant::now();
        self.copy(listed.plan, start).await?;
        self.copied = began.elapsed();
        self.progress.phase(Phase::Finishing);
        let root = self.facts.data_directory.clone();
        let (content, _) = blocking(move || local::control_file(&root)).await?;
        let stopped = self.session.stop_backup().await?;
        let control = Whole {
            path: "global/pg_control",
            attributes,
            content,
        };
        Ok((stopped, control))
    }

    /// Begins the tree and backup mode, and lists what there is to copy.
    async fn start(&self) -> Result<Start, Error> {
        self.progress.phase(Phase::Checkpoint);
        let begun = Begun {
            at: self.began,
            ..Begun::by_this_process(TreeKind::BaseBackup, By::Backup)
        };
        let begin_tree = self.archive.begin_tree(&self.id, &begun, patience());
        // A standby cancels statements that wait as long as a spread checkpoint may take, for replay goes first there.
        let fast = self.options.fast || self.facts.in_recovery;
        let begin_copy = async {
            let start = self.session.start_backup(&self.options.label, fast).await?;
            let own = self.own_at_start(start).await?;
            Ok::<_, Error>((self.list().await?, start.lsn, own))
        };
        let begin_tree = async {
            begin_tree.await?;
            self.begun.notify_one();
            Ok(())
        };
        let base = async {
            match self.options.full {
                true => Ok(None),
                false => {
                    let (reader, cluster) = (TreeReader::alone(self.archive.clone()), self.facts.system_id);
                    Ok(Base::choose(
                        self.archive,
                        &reader,
                        &self.id,
                        Candidates::Backup(Some(cluster)),
                        patience,
                    )
                    .await?)
                }
            }
        };
        let ((), (listed, start, own), base) = tokio::try_join!(begin_tree, begin_copy, base)?;
        Ok((listed, start, own, base))
    }

    /// The WAL that there is by now, where recovery from this backup begins.
    async fn own_at_start(&self, started: Started) -> Result<Vec<OwnSegment>, Error> {
        let (root, size) = (self.facts.data_directory.clone(), self.facts.segment_size);
        let (start, end) = (started.lsn, started.wal_end.max(started.lsn));
        blocking(move || {
            let (_, control) = local::control_file(&root)?;
            let timeline = control.timeline.max(control.minimum_recovery_timeline);
            wal::own_at_start(&root, size, WalRange { timeline, start, end })
        })
        .await
    }

    /// Waits for everything that a backup is made of.
    async fn complete(&mut self, stopped: Stopped, control: Whole) -> Result<Prepared, Error> {
        let mut description = self.finish(stopped, control).await?;
        let mut work = Work {
            read_bytes: self.uploads.collected.read_bytes,
            changed_bytes: self.uploads.collected.changed_bytes,
            ..Work::default()
        };
        let (tree, is_plain) = self.tree()?;
        description.plain_tar = is_plain;
        let packed_at = Instant::now();
        let (archive, tree, stored_at) = (self.archive, Arc::new(tree), OnceLock::new());
        let stored = self.uploads.store_inventory(archive, &tree, &stored_at);
        let within = wal::Within {
            stored_at: &stored_at,
            timeout: self.options.wal_timeout,
        };
        let (session, facts, primary) = (&self.session, &self.facts, self.options.primary.as_ref());
        let archived = async {
            if facts.in_recovery
                && let Some((_, end)) = description.backup.stop()
            {
                arrival::end_segment(session, facts, primary, end).await;
            }
            wal::wait(archive, &description.backup, session, within, &*self.progress).await
        };
        // At once: a standby may recycle it while it is waited for.
        let (root, backup) = (self.facts.data_directory.clone(), description.backup.clone());
        let own = blocking(move || wal::own_at_stop(&root, &backup));
        let (inventory, missing_wal, mut own) = tokio::try_join!(stored, archived, own)?;
        archive
            .check_parts(&tree.id.name(), &tree.parts, patience())
            .await?;
        // The archive may have had no WAL, and so no owner, when the backup began.
        check_cluster(archive, &self.facts).await?;
        let needed = description
            .backup
            .segments()
            .expect("the segment size was checked");
        let early = std::mem::take(&mut self.own_at_start).into_iter();
        let early = early.filter(|early| {
            needed.contains(&early.segment) && own.iter().all(|own| own.segment != early.segment)
        });
        own.extend(early.collect::<Vec<_>>());
        let compared: Vec<SegmentName> = own.iter().map(|own| own.segment).collect();
        description.backup.awaited = wal::check_own(archive, own).await?;
        let settled = archive.settle_landmarks(&mut description.backup, &compared, patience());
        settled.await.map_err(|unsettled| match unsettled {
            Unsettled::Archive(error) => error.into(),
            Unsettled::Other(segment, _) => Error::OtherWal {
                segment,
                place: archive.place(),
            },
        })?;
        let last = stored_at
            .get()
            .map_or(Duration::ZERO, |at| at.duration_since(packed_at));
        let packers = self.packers.as_ref().expect("the files have been copied");
        work.waits = packers.0.spent.held_up(self.copied, last);
        work.requests = archive.store().counts().requests() - self.requests_before;
        work.seconds = self.began_at.elapsed().as_secs_f64();
        Ok(Prepared {
            inventory,
            description,
            missing_wal,
            work,
        })
    }

    /// Lists the data directory.
    async fn list(&self) -> Result<Listed, Error> {
        let (mut files, kept) = (self.settings.files.clone(), self.options.settings_dir.clone());
        let rules = walk::Rules {
            root: self.facts.data_directory.clone(),
            major: self.facts.major,
            tablespace_directory: self.control.tablespace_directory(self.facts.major),
            log_directory: self.settings.log_directory.clone(),
            settings: files.iter().map(|file| file.path.clone()).collect(),
        };
        blocking(move || {
            let mut walked = walk::walk(&rules)?;
            for file in kept.iter().flat_map(|directory| kept_settings::files(directory)) {
                if files.iter().all(|known| known.path != file.path) {
                    files.push(file);
                }
            }
            let outside = outside::add(&mut walked, &rules.root, &files);
            Ok(Listed {
                control: walked.control.attributes,
                plan: Plan::new(walked.places, walked.sources),
                links: walked.links,
                outside,
            })
        })
        .await
    }

    /// Copies everything that was listed. The last parts are on their way then.
    async fn copy(&mut self, plan: Plan, start: Lsn) -> Result<(), Error> {
        self.progress.phase(Phase::Copying {
            files: plan.files,
            bytes: plan.bytes,
        });
        let packers = Packers::new(
            (plan, 0),
            self.base.clone(),
            self.archive.form(),
            self.page_rules(start),
            self.options.rate_limit.map(Rate::new),
            self.progress.clone(),
            self.archive.memory().packing.clone(),
        );
        let packers = Arc::new(packers);
        self.packers = Some(AtWork(packers.clone()));
        let lost = async { self.session.lost().await.into() };
        self.uploads
            .copy(self.archive, &self.id, &packers, self.options.jobs, lost)
            .await
    }

    fn page_rules(&self, start: Lsn) -> Option<pages::Rules> {
        if !self.options.verify_checksums {
            return None;
        }
        let page_bytes = self.control.block_bytes;
        if page_bytes > pages::LARGEST_PAGE_BYTES {
            tracing::warn!(
                "data pages are not looked at: this server was built with pages of {page_bytes} bytes"
            );
            return None;
        }
        Some(pages::Rules {
            page_bytes,
            file_pages: self.control.segment_blocks,
            checker: PageChecker::new(page_bytes, start, self.facts.data_checksums),
        })
    }

    /// Cleans up, for a while. A third signal is for those who cannot wait even for this.
    async fn clean_up(self) {
        let _ = tokio::time::timeout(CLEANING, self.delete()).await;
    }

    /// Ends the session and the threads, and deletes what is stored.
    async fn delete(self) {
        drop(self.packers);
        self.session.abandon().await;
        // An upload that is broken off may still arrive; one that has ended is deleted with the rest. Without the word of
        // who began it, what arrives later would be nobody's.
        if !self.uploads.settle().await {
            tracing::warn!(
                "what this backup has stored is not deleted, for some of it is still on its way; the next one will"
            );
            return;
        }
        if let Err(error) = self
            .archive
            .drop_unfinished(&self.id, Patience::for_at_most(CLEANING))
            .await
        {
            tracing::warn!("what this backup has stored is not deleted, the next one will: {error}");
        }
    }
}

/// A listed data directory.
struct Listed {
    plan: Plan,
    control: Attributes,
    links: Vec<Link>,
    outside: Vec<Outside>,
}

async fn check_cluster(archive: &Archive, facts: &Facts) -> Result<(), Error> {
    match archive.cluster_of_wal(patience()).await? {
        Some(cluster) if cluster.system_id != facts.system_id => Err(Error::WrongCluster {
            place: archive.place(),
            archived: cluster.system_id,
            offered: facts.system_id,
        }),
        _ => Ok(()),
    }
}

/// Work that waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("reading does not panic")
}

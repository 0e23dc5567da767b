//! From a mount point to a served mount, and back.
//!
//! The order, and why: the mount comes first, so that a `cp` that comes early waits instead of meeting a bare
//! directory; then privileges are dropped, because the archive's files shall belong to the archiving user; then the
//! caller opens the archive; then the kernel is answered. If anything fails on the way, the mount is taken away again.
//! At the end writers get the deadline to finish, and the mount goes when nobody uses it. It is never taken away
//! lazily: a mount that stays busy is left to its users, who get ENOTCONN once the process is gone, and the next start
//! cleans it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::linux::daemon;

use super::fs::Fs;
use super::fuse::{self, Served};
use crate::linux::kernel::{self, MountOptions, Mounted, Owner, ReadAhead, User};

/// How long users of the mount that do not write (a shell standing in it) are waited for at the end.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);

/// How often writers are looked after at the end.
const LOOK: Duration = Duration::from_millis(50);

/// A mount that nobody answers yet.
#[derive(Debug)]
pub struct Waiting {
    fuse: OwnedFd,
    mounted: Mounted,
    owner: Owner,
    /// Where this process may raise it.
    read_ahead: Option<ReadAhead>,
}

/// Where and for whom to mount.
#[derive(Debug, Clone)]
pub struct Request {
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// Shown as the device.
    pub source: String,
    /// Whom to run as, when started as root.
    pub user: Option<User>,
    /// Let others in.
    pub allow_other: bool,
    /// Refuse every change.
    pub read_only: bool,
}

/// Mounts and drops privileges. To be called before there are other threads: privileges are a thread's own.
///
/// # Errors
/// What [`kernel::prepare`], [`kernel::mount`] and [`kernel::drop_privileges`] say.
pub fn mount(request: &Request) -> Result<Waiting, kernel::Error> {
    let owner = request
        .user
        .as_ref()
        .map_or_else(Owner::of_this_process, |user| user.owner);
    let prepared = kernel::prepare(&request.mountpoint, owner)?;
    for warning in &prepared.warnings {
        tracing::warn!("{warning}");
    }
    let options = MountOptions {
        source: request.source.clone(),
        owner,
        allow_other: request.allow_other,
        read_only: request.read_only,
    };
    let (fuse, mounted) = kernel::mount(&prepared.mountpoint, &options)?;
    let read_ahead = ReadAhead::of(&mounted).ok();
    if let Some(user) = request
        .user
        .as_ref()
        .filter(|user| user.owner != Owner::of_this_process())
        && let Err(error) = kernel::drop_privileges(&user.name)
    {
        take_away(&mounted);
        return Err(error);
    }
    if let Some(user) = &request.user {
        // The AWS files are looked for there; the caller's own home is closed to this user.
        // SAFETY: there are no other threads yet that could read the environment, as this function demands.
        unsafe { std::env::set_var("HOME", &user.home) };
    }
    Ok(Waiting {
        fuse,
        mounted,
        owner,
        read_ahead,
    })
}

impl Waiting {
    /// The mount point, absolute.
    pub fn mountpoint(&self) -> &Path {
        self.mounted.path()
    }

    /// Gives the mount up, because there is nothing to show in it.
    pub fn abandon(self) {
        drop(self.fuse);
        take_away(&self.mounted);
    }

    /// Serves `fs` until a signal or until somebody unmounts. `ready` is called once the mount answers.
    ///
    /// # Errors
    /// The kernel's FUSE does not fit, or the session broke.
    pub async fn serve(
        self,
        fs: Arc<Fs>,
        deadline: Duration,
        mut signals: Signals,
        ready: impl FnOnce(),
    ) -> io::Result<()> {
        let Self {
            fuse,
            mounted,
            owner,
            read_ahead,
        } = self;
        let served = Served::new(fs.clone(), tokio::runtime::Handle::current(), owner);
        let session = match fuse::start(fuse, served) {
            Ok(session) => session,
            Err(error) => {
                take_away(&mounted);
                return Err(error);
            }
        };
        if let Some(Err(error)) = read_ahead.map(ReadAhead::raise) {
            tracing::debug!("the kernel keeps its own read-ahead: {error}");
        }
        let (ended, session_end) = oneshot::channel();
        std::thread::spawn(move || {
            let _ = ended.send(session.join().expect("a panic ends the process"));
        });
        ready();
        daemon::notify_ready();
        let looked_at = fs.clone();
        // For as long as the directory answers.
        let health = tokio::spawn(daemon::keep_watchdog_fed(async move || {
            looked_at
                .lookup(super::node::ROOT, ".walfs".as_ref(), None)
                .await
                .is_ok()
        }));
        let mut session_end = session_end;
        let outcome = tokio::select! {
            ended = &mut session_end => {
                tracing::info!("{} was unmounted", mounted.path().display());
                fs.close_gates();
                fs.end().await;
                ended.expect("the session's thread reports")
            }
            name = signals.next() => {
                tracing::info!("{name}: finishing what is in flight");
                daemon::notify_stopping();
                finish(&fs, deadline, &mut signals).await;
                // What somebody still uses is perhaps not whole.
                if take_away(&mounted) {
                    fs.end().await;
                }
                Ok(())
            }
        };
        health.abort();
        outcome
    }
}

/// The signals that end a mount in good order. From its making on, the process does not die of them.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Of a closed terminal, or of a log rotation that means somebody else: ends nothing.
    hang_up: Signal,
    hung_up: fn(),
}

impl Signals {
    /// To be made as soon as there is a runtime: a process that dies of SIGTERM leaves a dead mount behind. `hung_up` is
    /// called at each SIGHUP.
    ///
    /// # Errors
    /// The system's.
    pub fn new(hung_up: fn()) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            hung_up,
        })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hang_up.recv() => {
                    (self.hung_up)();
                    tracing::info!("SIGHUP: going on");
                }
            }
        }
    }
}

/// Lets writers finish, up to the deadline or a second signal.
async fn finish(fs: &Fs, deadline: Duration, signals: &mut Signals) {
    fs.close_gates();
    let end = Instant::now() + deadline;
    while fs.open_writes() > 0 && Instant::now() < end {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            name = signals.next() => {
                tracing::warn!("{name} again: not waiting for {} file(s) being written", fs.open_writes());
                return;
            }
        }
    }
}

/// Is it gone?
fn take_away(mounted: &Mounted) -> bool {
    let gone = mounted.unmount(BUSY_PATIENCE);
    match &gone {
        Ok(_) => tracing::info!("{} is unmounted", mounted.path().display()),
        Err(error) => tracing::warn!("the mount is left dead: {error}"),
    }
    gone.is_ok()
}

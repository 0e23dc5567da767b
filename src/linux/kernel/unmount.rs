//! Taking a mount away: ours and no other, and not while somebody uses it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::holders::holders;
use super::liveness::{Liveness, probe};
use super::table::{Device, Spot, look, mounts};
use super::{Error, c_string, fusermount};

/// How long a server may take to answer that it lives.
const ANSWER: Duration = Duration::from_secs(2);

/// Between two attempts at a busy mount.
const PAUSE: Duration = Duration::from_millis(50);

/// A mount that this process made, or was handed.
///
/// Keeps a second descriptor of the connection: the kernel answers ENOTCONN to the mount's users once the server's
/// descriptor *and* this value are gone.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    ours: Option<Ours>,
}

/// What tells our mount from a successor's on the same path. Device numbers are used again, but not while their file
/// system exists, and it exists for as long as the connection is up: so both together are proof.
#[derive(Debug)]
struct Ours {
    device: Device,
    connection: OwnedFd,
}

/// How an unmount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// It is unmounted.
    Done,
    /// It was not there any more; whatever is there now has been left alone.
    AlreadyGone,
    /// Somebody else mounted (`/dev/fd/N`), and unmounts.
    NotOurs,
}

impl Mounted {
    /// Remembers the mount just made at `path`.
    pub(super) fn by_us(path: &Path, fuse: &OwnedFd) -> Result<Self, Error> {
        let spot = look(path).map_err(|source| Error::at("look at", path, source))?;
        if !spot.is_mount_point() || !spot.mount.is_walfs() {
            return Err(Error::Covered {
                path: path.to_owned(),
            });
        }
        let connection = fuse.as_fd().try_clone_to_owned();
        let connection = connection.map_err(|source| Error::at("keep the connection of", path, source))?;
        Ok(Self {
            path: path.to_owned(),
            ours: Some(Ours {
                device: spot.mount.device,
                connection,
            }),
        })
    }

    /// Somebody else's mount, which we only serve.
    pub(super) fn by_another(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ours: None,
        }
    }

    /// The mount point, absolute and without symbolic links; `/dev/fd/N` if somebody else mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file system's device; `None` if somebody else mounted.
    pub fn device(&self) -> Option<Device> {
        self.ours.as_ref().map(|ours| ours.device)
    }

    /// Unmounts, never lazily. A mount in use is tried again until `patience` ends, at least once.
    ///
    /// # Errors
    /// [`Error::Busy`] with the holders' names, [`Error::Covered`], [`Error::Fusermount`], [`Error::System`].
    pub fn unmount(&self, patience: Duration) -> Result<Unmounted, Error> {
        match &self.ours {
            None => Ok(Unmounted::NotOurs),
            Some(ours) => patiently(&self.path, patience, || ours.stands_at(&self.path)),
        }
    }
}

impl Ours {
    /// Is it still our mount that `path` leads to?
    fn stands_at(&self, path: &Path) -> Result<bool, Error> {
        let spot = match look(path) {
            Ok(spot) => spot,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(Error::at("look at", path, source)),
        };
        let same = spot.is_mount_point() && spot.mount.device == self.device && spot.mount.is_walfs();
        match (same, self.is_up()) {
            (true, true) => Ok(true),
            // Aborted from outside, or the number is another's by now: then that other lives.
            (true, false) => Ok(ask(&spot, path)? == Liveness::Dead),
            (false, true) if self.is_listed_at(path)? => Err(Error::Covered {
                path: path.to_owned(),
            }),
            (false, _) => Ok(false),
        }
    }

    /// The kernel marks a connection with an error once its file system is gone or it was aborted.
    fn is_up(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.connection.as_raw_fd(),
            events: 0,
            revents: 0,
        };
        // SAFETY: one `pollfd`, and no time to wait.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready >= 0 && poll.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) == 0
    }

    fn is_listed_at(&self, path: &Path) -> Result<bool, Error> {
        let all = mounts().map_err(|source| Error::at("list the mounts for", path, source))?;
        Ok(all
            .iter()
            .any(|mount| mount.device == self.device && mount.mountpoint == path))
    }
}

/// For `walfs umount`: unmounts a walfs that another process serves, or takes away a dead one.
///
/// # Errors
/// [`Error::NotMounted`], [`Error::OtherFileSystem`], [`Error::Busy`], [`Error::Fusermount`], [`Error::System`].
pub fn unmount_path(path: &Path, patience: Duration) -> Result<(), Error> {
    let spot = match look(path) {
        Ok(spot) => spot,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Err(Error::NotMounted {
                path: path.to_owned(),
            });
        }
        Err(source) => return Err(Error::at("look at", path, source)),
    };
    if !spot.is_mount_point() {
        return Err(Error::NotMounted { path: spot.path });
    }
    if !spot.mount.is_walfs() {
        let Spot { path, mount, .. } = spot;
        return Err(Error::OtherFileSystem {
            path,
            fs_type: mount.fs_type,
            from: mount.source,
        });
    }
    let dead = ask(&spot, path)? == Liveness::Dead;
    let (path, id) = (spot.path.clone(), spot.mount.id);
    // While it is open it keeps the mount busy.
    drop(spot);
    if dead {
        return detach(&path);
    }
    patiently(&path, patience, || {
        Ok(look(&path).is_ok_and(|now| now.mount.id == id))
    })
    .map(drop)
}

fn ask(spot: &Spot, path: &Path) -> Result<Liveness, Error> {
    probe(spot, ANSWER).map_err(|source| Error::at("ask the mount at", path, source))
}

/// Unmounts while `stands` says that it is the right mount, until it is gone or patience ends.
fn patiently(
    path: &Path,
    patience: Duration,
    stands: impl Fn() -> Result<bool, Error>,
) -> Result<Unmounted, Error> {
    let deadline = Instant::now() + patience;
    while stands()? {
        match attempt(path)? {
            fusermount::Outcome::Done => return Ok(Unmounted::Done),
            fusermount::Outcome::Busy if Instant::now() >= deadline => {
                return Err(Error::Busy {
                    path: path.to_owned(),
                    holders: holders(path),
                });
            }
            fusermount::Outcome::Busy => sleep(PAUSE),
        }
    }
    Ok(Unmounted::AlreadyGone)
}

/// One attempt, not lazy.
fn attempt(path: &Path) -> Result<fusermount::Outcome, Error> {
    match umount(path, 0)? {
        Ok(()) => Ok(fusermount::Outcome::Done),
        Err(error) => match error.raw_os_error() {
            Some(libc::EBUSY) => Ok(fusermount::Outcome::Busy),
            Some(libc::EPERM) => fusermount::unmount(path, false),
            _ => Err(Error::at("unmount", path, error)),
        },
    }
}

/// Takes away a *dead* mount, also when somebody still has files open in it: they get ENOTCONN as before.
pub(super) fn detach(path: &Path) -> Result<(), Error> {
    match umount(path, libc::MNT_DETACH)? {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => fusermount::unmount(path, true).map(drop),
        Err(error) => Err(Error::at("take away the dead mount on", path, error)),
    }
}

fn umount(path: &Path, flags: libc::c_int) -> Result<io::Result<()>, Error> {
    let target = c_string(path)?;
    // SAFETY: a terminated string and plain flags.
    let status = unsafe { libc::umount2(target.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) };
    Ok(if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    })
}

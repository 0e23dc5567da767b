//! Mounting and unmounting, between walfs and Linux: mount(2), umount2(2), `fusermount3`, `/proc/self/mountinfo`.
//!
//! Knows nothing of archives and nothing of FUSE's protocol; hands out an open `/dev/fuse` and, later, takes the mount
//! away. Three rules shape it. A mount is never taken away lazily while it serves, because the directory under it would
//! appear and `cp` would archive into it. A mount that is not ours is left alone, also when it stands where ours stood.
//! And nothing asks a file system that may be dead or hung before it is known to be neither.

mod device;
mod fusermount;
mod holders;
mod liveness;
mod prepare;
mod table;
mod tuning;
mod unmount;
mod user;

use std::ffi::{CString, OsString};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use holders::Holder;
pub use prepare::{Prepared, prepare};
pub use table::{Device, FS_TYPE, Mount, is_in_walfs, mount_at, mounts};
pub use tuning::{ReadAhead, request_timeout};
pub use unmount::{Mounted, Unmounted, unmount_path};
pub use user::{Owner, User, drop_privileges, lookup_user};

pub(crate) use table::{field, read as read_mounts};

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Shown as the device by `mount` and `df`: the archive's place. Never contains a secret.
    pub source: String,
    /// For whom: without `allow_other` nobody else gets in, not even root.
    pub owner: Owner,
    /// Let others in, as far as the modes of directories and files allow.
    pub allow_other: bool,
    /// Refuse every change in the kernel already.
    pub read_only: bool,
}

/// Mounts, and returns the open `/dev/fuse` to serve the mount from, and what is needed to unmount it later.
///
/// As root with mount(2); where the kernel says that we may not, with the set-user-id program `fusermount3`. The mount
/// point `/dev/fd/N` means that somebody has mounted already and passed the open device; it may be taken once. Every
/// access to the new mount waits until the server has answered the kernel's first request.
///
/// # Errors
/// [`Error::NoDevice`], [`Error::NotForOthers`], [`Error::Fusermount`], [`Error::BadDescriptor`], [`Error::System`].
pub fn mount(mountpoint: &Path, options: &MountOptions) -> Result<(OwnedFd, Mounted), Error> {
    if let Some(number) = table::passed_descriptor(mountpoint) {
        let fuse = device::take(number)?;
        return Ok((fuse, Mounted::by_another(mountpoint)));
    }
    let path = table::look(mountpoint)
        .map_err(|source| Error::at("look at", mountpoint, source))?
        .path;
    let fuse = match device::mount(&path, options)? {
        Some(fuse) => fuse,
        None => fusermount::mount(&path, options)?,
    };
    let mounted = Mounted::by_us(&path, &fuse)?;
    Ok((fuse, mounted))
}

/// What went wrong between walfs and the kernel's mounts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The mount point does not exist.
    #[error("mount point {path:?} does not exist. HINT: mkdir -p {path:?} && chmod 0555 {path:?}")]
    Missing {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount point is a file.
    #[error("mount point {path:?} is not a directory. HINT: mkdir an empty directory and name that")]
    NotADirectory {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount would hide files.
    #[error(
        "mount point {path:?} is not empty: it has {}; the mount would hide that. HINT: a copy made while walfs was \
         not mounted may have landed here: move what is needed elsewhere (WAL: archive it again), then mount",
        entries.join(", ")
    )]
    NotEmpty {
        /// The mount point.
        path: PathBuf,
        /// At most three names, and `...` if there are more.
        entries: Vec<String>,
    },
    /// walfs serves there already.
    #[error(
        "walfs is already mounted on {path:?} for {from:?}{}. HINT: walfs umount {path:?}",
        if *answers { "" } else { ", and does not answer" }
    )]
    AlreadyMounted {
        /// The mount point.
        path: PathBuf,
        /// The source of the mount that is there.
        from: OsString,
        /// False if its server hangs, or will not answer this user.
        answers: bool,
    },
    /// Something that is not walfs is mounted there; it is left alone.
    #[error(
        "{path:?} carries another file system ({fs_type} from {from:?}), which is left alone. \
         HINT: walfs mounts on an empty directory without a mount, and unmounts its own: findmnt -t {FS_TYPE}"
    )]
    OtherFileSystem {
        /// The mount point.
        path: PathBuf,
        /// Its type.
        fs_type: String,
        /// Its source.
        from: OsString,
    },
    /// Nothing is mounted there.
    #[error("nothing is mounted on {path:?}. HINT: findmnt -t {FS_TYPE} shows where walfs is mounted")]
    NotMounted {
        /// The path asked for.
        path: PathBuf,
    },
    /// Something was mounted over our mount, which therefore cannot be unmounted by its path.
    #[error("{path:?} is covered by a later mount. HINT: umount that one first: findmnt {path:?}")]
    Covered {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount is in use.
    #[error(
        "{path:?} is in use by {}. HINT: unmount again when they have ended",
        holders::list(holders)
    )]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// Who uses it, as far as this user may see.
        holders: Vec<Holder>,
    },
    /// No FUSE in this kernel or container.
    #[error("cannot open /dev/fuse: {source}. HINT: modprobe fuse; in a container: --device /dev/fuse")]
    NoDevice {
        /// What the kernel said.
        source: io::Error,
    },
    /// Only root may mount for somebody else.
    #[error(
        "user {me} cannot mount for user {wanted}. HINT: start walfs as root with --user, or as that user"
    )]
    NotForOthers {
        /// The user id of this process.
        me: u32,
        /// The user id asked for.
        wanted: u32,
    },
    /// The set-user-id helper refused.
    #[error("{action} {path:?}: {said}")]
    Fusermount {
        /// `fusermount3` or `fusermount3 -u`.
        action: String,
        /// The mount point.
        path: PathBuf,
        /// What the helper said.
        said: String,
    },
    /// The descriptor passed as mount point is no FUSE connection.
    #[error("{path:?} is not an open /dev/fuse")]
    BadDescriptor {
        /// `/dev/fd/N`.
        path: PathBuf,
    },
    /// No such user.
    #[error("there is no user {name:?}. HINT: give a name or a number that `getent passwd` knows")]
    NoSuchUser {
        /// What was asked for.
        name: String,
    },
    /// The process could become root again. It must end now.
    #[error("this process is still privileged after it became user {uid}")]
    StillPrivileged {
        /// The user id asked for.
        uid: u32,
    },
    /// The kernel refused something.
    #[error("cannot {action} {path:?}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    fn at(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::System {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Paths and names go to the kernel as C strings; one with a zero byte inside would be cut short there.
fn c_string(text: impl AsRef<std::ffi::OsStr> + fmt::Debug) -> Result<CString, Error> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| {
        Error::at(
            "use the name",
            Path::new(text.as_ref()),
            io::ErrorKind::InvalidInput.into(),
        )
    })
}

//! The way in for root: open `/dev/fuse` and mount(2). And the descriptor that somebody else has opened and mounted.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Error, FS_TYPE, MountOptions, c_string};

const DEVICE: &str = "/dev/fuse";

/// Mounts as root. `None` if the kernel does not let this process: then `fusermount3` may.
pub(super) fn mount(path: &Path, options: &MountOptions) -> Result<Option<OwnedFd>, Error> {
    let fuse = match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(file) => OwnedFd::from(file),
        Err(error) if denied(&error) => return Ok(None),
        Err(source) => return Err(Error::NoDevice { source }),
    };
    match mount_device(&fuse, path, options)? {
        Ok(()) => Ok(Some(fuse)),
        Err(error) if denied(&error) => Ok(None),
        Err(source) => Err(Error::at("mount on", path, source)),
    }
}

fn denied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

/// The source is an argument of its own: whatever it contains, it cannot become an option.
fn mount_device(fuse: &OwnedFd, path: &Path, options: &MountOptions) -> Result<io::Result<()>, Error> {
    let source = c_string(&options.source)?;
    let target = c_string(path)?;
    let kind = c_string(FS_TYPE)?;
    let data = c_string(data(fuse.as_raw_fd(), options))?;
    let mut flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOATIME;
    if options.read_only {
        flags |= libc::MS_RDONLY;
    }
    // SAFETY: all five are terminated strings or plain numbers that outlive the call.
    let status = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    Ok(if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    })
}

/// `rootmode` is the root's file type, a directory's, in octal.
fn data(fuse: RawFd, options: &MountOptions) -> String {
    let owner = options.owner;
    let others = if options.allow_other { ",allow_other" } else { "" };
    format!(
        "fd={fuse},rootmode=40000,user_id={},group_id={},default_permissions{others}",
        owner.uid, owner.gid
    )
}

/// Takes over the open `/dev/fuse` with this number, which was passed to this process for that.
pub(super) fn take(number: RawFd) -> Result<OwnedFd, Error> {
    let bad = || Error::BadDescriptor {
        path: PathBuf::from(format!("/dev/fd/{number}")),
    };
    // SAFETY: only asks for the flags of whatever has this number; an unused number gives EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if number < 3 || flags < 0 {
        return Err(bad());
    }
    // SAFETY: the number is open, and by the convention of mount.fuse3 it was opened for us and is ours to close.
    let file = unsafe { File::from_raw_fd(number) };
    if !is_fuse(&file) {
        // Somebody else's after all: not ours to close.
        std::mem::forget(file);
        return Err(bad());
    }
    // SAFETY: an open descriptor and plain flags. A program that walfs starts must not keep the connection alive.
    unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) };
    Ok(file.into())
}

/// The FUSE device has the fixed number 10:229.
fn is_fuse(file: &File) -> bool {
    file.metadata()
        .is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == libc::makedev(10, 229))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::kernel::Owner;

    #[test]
    fn data_has_no_room_for_the_source() {
        let owner = Owner { uid: 26, gid: 27 };
        let mut options = MountOptions {
            source: "a,allow_other".into(),
            owner,
            allow_other: false,
            read_only: false,
        };
        assert_eq!(
            data(9, &options),
            "fd=9,rootmode=40000,user_id=26,group_id=27,default_permissions"
        );
        options.allow_other = true;
        assert!(data(9, &options).ends_with(",default_permissions,allow_other"));
    }

    #[test]
    fn descriptor_of_another_file_is_refused_and_stays_open() {
        let file = File::open("/dev/null").unwrap();
        assert!(matches!(take(file.as_raw_fd()), Err(Error::BadDescriptor { .. })));
        assert!(file.metadata().is_ok());
        assert!(matches!(take(1_000_000), Err(Error::BadDescriptor { .. })));
    }
}

//! The way in for everybody else: `fusermount3`, the set-user-id program of the package fuse3.
//!
//! It opens `/dev/fuse`, mounts, and sends the open device back over a socket whose number it finds in
//! `_FUSE_COMMFD`. It mounts only over directories that its user may write, and unmounts only its user's mounts.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Error, MountOptions};

/// Mounts, and returns the open `/dev/fuse`.
pub(super) fn mount(path: &Path, options: &MountOptions) -> Result<OwnedFd, Error> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let me = unsafe { libc::geteuid() };
    if me != options.owner.uid {
        return Err(Error::NotForOthers {
            me,
            wanted: options.owner.uid,
        });
    }
    let (ours, theirs) = UnixStream::pair().map_err(|source| Error::at("mount on", path, source))?;
    let mut command = command();
    command.arg("-o").arg(option_list(options)).arg("--").arg(path);
    pass(&mut command, theirs.as_raw_fd());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let helper = command.spawn().map_err(|error| missing(path, &error))?;
    // Ours is then the only end left besides the helper's: if it dies, `receive` sees the end and does not wait.
    drop(theirs);
    let received = receive(&ours);
    let output = helper
        .wait_with_output()
        .map_err(|source| Error::at("wait for fusermount3 on", path, source))?;
    match received {
        Ok(fuse) if output.status.success() => Ok(fuse),
        _ => Err(refused("fusermount3", path, &output.stderr)),
    }
}

/// What `unmount` met.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is unmounted.
    Done,
    /// Somebody uses it.
    Busy,
}

/// Unmounts; `lazy` only for a dead mount.
pub(super) fn unmount(path: &Path, lazy: bool) -> Result<Outcome, Error> {
    let action = if lazy { "-uz" } else { "-u" };
    let output = command()
        .arg(action)
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| missing(path, &error))?;
    if output.status.success() {
        return Ok(Outcome::Done);
    }
    if String::from_utf8_lossy(&output.stderr).contains("busy") {
        return Ok(Outcome::Busy);
    }
    Err(refused(&format!("fusermount3 {action}"), path, &output.stderr))
}

/// In plain English, so that "busy" can be read out of it.
fn command() -> Command {
    let mut command = Command::new(find());
    command.env("LC_ALL", "C").current_dir("/");
    command
}

/// `FUSERMOUNT_PATH`, then PATH, then where distributions put it.
fn find() -> PathBuf {
    if let Some(path) = env::var_os("FUSERMOUNT_PATH") {
        return PathBuf::from(path);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/bin", "/sbin", "/usr/bin"].map(PathBuf::from));
    let candidates: Vec<PathBuf> = places.map(|place| place.join("fusermount3")).collect();
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from("fusermount3"))
}

fn missing(path: &Path, error: &io::Error) -> Error {
    let said = format!("{error}. HINT: install the package fuse3, or start walfs as root");
    Error::Fusermount {
        action: "cannot start fusermount3 for".into(),
        path: path.to_owned(),
        said,
    }
}

fn refused(action: &str, path: &Path, said: &[u8]) -> Error {
    let said = String::from_utf8_lossy(said).trim().to_owned();
    let said = if said.is_empty() {
        "it failed and did not say why".to_owned()
    } else if said.contains("/dev/fuse: Permission denied") {
        format!("{said}. HINT: chmod 0666 /dev/fuse, or start walfs as root with --user")
    } else {
        said
    };
    Error::Fusermount {
        action: action.to_owned(),
        path: path.to_owned(),
        said,
    }
}

/// Here the source travels in the list of options, so its commas and backslashes are escaped.
fn option_list(options: &MountOptions) -> OsString {
    let mut list = String::from(if options.read_only { "ro" } else { "rw" });
    list.push_str(",nosuid,nodev,noatime,default_permissions,subtype=walfs");
    if options.allow_other {
        list.push_str(",allow_other");
    }
    list.push_str(",fsname=");
    for letter in options.source.chars() {
        if matches!(letter, ',' | '\\') {
            list.push('\\');
        }
        list.push(letter);
    }
    list.into()
}

/// Lets the child keep `socket`, under the same number, and tells it which.
fn pass(command: &mut Command, socket: RawFd) {
    command.env("_FUSE_COMMFD", OsStr::new(&socket.to_string()));
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe; the socket is open until then.
    unsafe {
        command.pre_exec(move || match libc::fcntl(socket, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    };
}

/// Room for one control message with one descriptor, aligned as `cmsghdr` must be.
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    bytes: [u8; 64],
}

/// Waits for the descriptor, or for the other end to be closed.
fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = Control { bytes: [0; 64] };
    // SAFETY: all-zero bytes are a valid, empty `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSliceMut` promises the layout of `iovec`.
    message.msg_iov = parts.as_mut_ptr().cast();
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    loop {
        // SAFETY: `message` points at one buffer of one byte and at `control`, both alive, both of the sizes stated.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match got {
            1.. => return descriptor(&message),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

fn descriptor(message: &libc::msghdr) -> io::Result<OwnedFd> {
    // SAFETY: `message` was filled by recvmsg; the macros stay inside its control buffer, which is aligned for them.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        let fits =
            !header.is_null() && (*header).cmsg_len >= libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        if fits && (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
            let number = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
            return Ok(OwnedFd::from_raw_fd(number));
        }
    }
    Err(io::Error::other("fusermount3 sent no descriptor"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::kernel::Owner;

    #[test]
    fn source_cannot_inject_options() {
        let owner = Owner { uid: 1, gid: 1 };
        let source = String::from(r"x,allow_other,dev\,suid");
        let options = MountOptions {
            source,
            owner,
            allow_other: false,
            read_only: true,
        };
        assert_eq!(
            option_list(&options),
            r"ro,nosuid,nodev,noatime,default_permissions,subtype=walfs,fsname=x\,allow_other\,dev\\\,suid"
        );
    }

    #[test]
    fn closed_socket_ends_the_wait() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(receive(&ours).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn byte_without_descriptor_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        io::Write::write_all(&mut theirs, b"\0").unwrap();
        assert!(receive(&ours).unwrap_err().to_string().contains("no descriptor"));
    }
}

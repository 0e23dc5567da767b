//! Is the server of a FUSE mount alive?
//!
//! The only question with a sure answer is a request: a dead mount refuses it with ENOTCONN. Two things stand in the
//! way. The kernel answers from its cache for as long as an attribute is fresh (a second after the server's death), so
//! the request must be forced. And without `allow_other` only the mount's own user may ask: root gets EACCES, dead or
//! alive, so the question is put in that user's name. A server that hangs never answers; hence a thread and patience.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::table::{Mount, Spot, statx};

/// What a mount's server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It answered, if only with an error.
    Alive,
    /// There is no server any more.
    Dead,
    /// No answer in time: it hangs, or has not begun.
    Silent,
    /// We are not the user who may ask.
    Unknown,
}

/// Asks the server of the mount at `spot`.
pub(super) fn probe(spot: &Spot, patience: Duration) -> io::Result<Liveness> {
    let handle = spot.handle.try_clone()?;
    let owner = asker(&spot.mount);
    let (answer, answered) = mpsc::sync_channel(1);
    let prober = thread::Builder::new().name("probe".into()).spawn(move || {
        // The receiver may have lost patience.
        let _ = answer.send(ask(&handle, owner));
    })?;
    let Ok(liveness) = answered.recv_timeout(patience) else {
        // Not joined: if the server hangs so does this thread, until the server ends.
        return Ok(Liveness::Silent);
    };
    // It has a user of its own. The C library changes users in all threads at once, and aborts the process if one of
    // them may not: when privileges are dropped this thread must be gone.
    prober.join().expect("asking does not panic");
    Ok(liveness)
}

/// In whose name to ask, if not in our own.
fn asker(mount: &Mount) -> Option<(u32, u32)> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    mount.owner().filter(|_| root)
}

fn ask(handle: &OwnedFd, owner: Option<(u32, u32)>) -> Liveness {
    if owner.is_some_and(|(uid, gid)| become_in_this_thread(uid, gid).is_err()) {
        return Liveness::Unknown;
    }
    match statx(handle, libc::AT_STATX_FORCE_SYNC, libc::STATX_BASIC_STATS) {
        Ok(_) => Liveness::Alive,
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOTCONN | libc::ECONNABORTED) => Liveness::Dead,
            Some(libc::EACCES) => Liveness::Unknown,
            _ => Liveness::Alive,
        },
    }
}

/// The bare system calls change one thread, where the C library's functions would change all of the process.
fn become_in_this_thread(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: plain numbers; the thread has been made for one question and ends after it.
    let status = unsafe {
        libc::syscall(libc::SYS_setresgid, gid, gid, gid) | libc::syscall(libc::SYS_setresuid, uid, uid, uid)
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

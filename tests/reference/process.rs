//! The processes that open and close files: one that lives, and one that was killed.

use std::process::{Child, Command};
use std::sync::LazyLock;

use walfs::mount::asker::Asker;

use super::operation::Closer;

/// This one.
pub(crate) fn me() -> Asker {
    Asker::of(std::process::id()).expect("a process")
}

/// As a FUSE request would name it.
pub(crate) fn asker(closer: Closer) -> Option<Asker> {
    match closer {
        Closer::Unknown => None,
        Closer::Opener => Some(me()),
        Closer::Killed => Asker::of(KILLED.id()),
    }
}

/// A process that has failed and that nobody has waited for: to the kernel it is exiting.
static KILLED: LazyLock<Child> = LazyLock::new(|| {
    let child = Command::new("false").spawn().expect("run false");
    // SAFETY: an all-zero siginfo is a valid one; waitid with WNOWAIT leaves the child as it is.
    let ended = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PID, child.id(), &mut info, libc::WEXITED | libc::WNOWAIT)
    };
    assert_eq!(ended, 0, "wait for a child");
    let dying = Asker::of(child.id()).and_then(|asker| asker.is_dying());
    assert_eq!(dying, Some(true), "a process that nobody has waited for");
    child
});

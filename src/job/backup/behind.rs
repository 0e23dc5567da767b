//! Threads that let others go first: on a machine whose cores are all busy, the server that is backed up and the daemon
//! that archives its WAL must not wait for the backup. Where a core is idle they are as quick as any.

use std::io;
use std::thread;

/// How far behind, as nice(1) counts: within a cgroup the kernel gives a thread of the usual priority about nine times as
/// much.
const NICE: libc::c_int = 10;

/// Starts a thread that stands behind those of the usual priority.
///
/// # Errors
/// The system has no room for a thread.
pub(in crate::job) fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let step_back_and_work = move || {
        step_back();
        work();
    };
    let started = thread::Builder::new()
        .name("packer".into())
        .spawn(step_back_and_work);
    started.map(drop)
}

/// On Linux the nice value is a thread's, whatever POSIX says (setpriority(2), "C library/kernel differences").
fn step_back() {
    // SAFETY: system calls without pointers; 0 is the calling thread.
    unsafe {
        // Whoever was started further behind stays there.
        let now = libc::getpriority(libc::PRIO_PROCESS, 0);
        libc::setpriority(libc::PRIO_PROCESS, 0, now.max(NICE));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn only_the_new_thread_steps_back_and_those_that_it_starts() {
        // SAFETY: a system call without pointers.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let (send, receive) = mpsc::channel();
        let and_its_own = move || {
            send.send(nice()).unwrap();
            thread::scope(|scope| scope.spawn(|| send.send(nice()).unwrap()).join().unwrap());
        };
        spawn(and_its_own).unwrap();
        for _ in 0..2 {
            assert_eq!(receive.recv().unwrap(), before.max(NICE));
        }
        assert_eq!(nice(), before);
    }
}

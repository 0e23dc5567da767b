//! Ctrl-C and SIGTERM end the benchmark, not its cleaning up: the command that runs is killed, whoever waits for it
//! panics, and everything started here is ended on the way out.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The process group of the command that runs now; 0 for none.
static RUNNING: AtomicI32 = AtomicI32::new(0);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes both signals from now on. By a handler, which is no child's, and not by a mask, which all would inherit.
pub fn watch() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler touches atomics and calls kill, both of which a signal handler may.
        unsafe {
            libc::signal(
                signal,
                on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t,
            )
        };
    }
}

/// Names the process group that a signal is to kill; 0 for none.
pub fn running(group: u32) {
    RUNNING.store(
        libc::pid_t::try_from(group).expect("a process id"),
        Ordering::SeqCst,
    );
    if INTERRUPTED.load(Ordering::SeqCst) {
        kill();
    }
}

/// Panics after a signal, which cleans up.
#[track_caller]
pub fn check() {
    assert!(!INTERRUPTED.load(Ordering::SeqCst), "interrupted");
}

extern "C" fn on_signal(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::SeqCst);
    kill();
}

fn kill() {
    let group = RUNNING.load(Ordering::SeqCst);
    if group != 0 {
        // SAFETY: kill has no memory effects; the group is of a command that was started here.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

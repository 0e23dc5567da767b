//! Ctrl-C and SIGTERM end the benchmark, not its cleaning up: the command that runs is killed, the one who waits for it
//! panics, and everything started here is ended on the way out.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

/// The process group of the command that runs now; 0 for none.
static RUNNING: AtomicU32 = AtomicU32::new(0);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes both signals from now on. Before any thread is started, so that all of them inherit it; the commands do not.
pub fn watch() {
    // SAFETY: the set is initialized by sigemptyset before anything reads it, and lives during the calls.
    let signals = unsafe {
        let mut signals = MaybeUninit::<libc::sigset_t>::zeroed().assume_init();
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, libc::SIGINT);
        libc::sigaddset(&raw mut signals, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
        signals
    };
    thread::spawn(move || {
        loop {
            let mut signal = 0;
            // SAFETY: both point to live variables of the right type.
            unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
            INTERRUPTED.store(true, Ordering::SeqCst);
            kill();
        }
    });
}

/// Names the process group that a signal is to kill; 0 for none.
pub fn running(group: u32) {
    RUNNING.store(group, Ordering::SeqCst);
    if INTERRUPTED.load(Ordering::SeqCst) {
        kill();
    }
}

/// Panics after a signal, which cleans up.
#[track_caller]
pub fn check() {
    assert!(!INTERRUPTED.load(Ordering::SeqCst), "interrupted");
}

fn kill() {
    match RUNNING.load(Ordering::SeqCst) {
        0 => {}
        group => {
            let group = libc::pid_t::try_from(group).expect("a process id");
            // SAFETY: kill has no memory effects; the group is of a command that was started here.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }
}

//! Waiting for something that another process will do: asks again until it is so. The deadlines are for what never
//! comes; no test passes or fails by how fast it was.

use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything that works takes, also on two busy cores.
pub const LONG: Duration = Duration::from_secs(120);

/// Asks `poll` until it has an answer, and returns it; `None` after `deadline`.
pub fn within<T>(deadline: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = poll() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Like [`within`] with the deadline [`LONG`]; panics, naming `what`, when it never comes.
#[track_caller]
pub fn until<T>(what: &str, poll: impl FnMut() -> Option<T>) -> T {
    match within(LONG, poll) {
        Some(found) => found,
        None => panic!("waited {} s in vain: {what}", LONG.as_secs()),
    }
}

/// The status of a child that is expected to end by itself; panics, naming `what`, when it does not.
#[track_caller]
pub fn for_exit(what: &str, child: &mut Child) -> ExitStatus {
    until(what, || child.try_wait().expect("wait for a child"))
}

/// The last `lines` lines of a log, for the report of a failure. A log that is not there is said to be so.
pub fn tail(log: &Path, lines: usize) -> String {
    match fs::read(log) {
        Err(error) => format!("(no {}: {error})", log.display()),
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            let kept = all[all.len().saturating_sub(lines)..].join("\n");
            format!("--- last lines of {}\n{kept}\n---", log.display())
        }
    }
}

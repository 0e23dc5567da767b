//! What one command costs, to itself and to the processes that work for it. CPU is read from `/proc` before and after;
//! processes that have ended in between are in their parent's count. Memory is looked at every few milliseconds.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::interrupt;
use crate::measure;

/// Between two looks at the memory of a command.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Who else works while a command runs.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// The postmaster. Its CPU and that of all its children has a column of its own.
    pub server: Option<u32>,
    /// Processes that are part of the tool (the daemon of a mount): their CPU and memory are added to the command's.
    pub workers: Vec<u32>,
    /// What archives the WAL, and the store: CPU only.
    pub helpers: Vec<u32>,
}

/// What one command cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From its start to its end.
    pub wall: Duration,
    /// CPU of the command, of its children and of [`Others::workers`].
    pub tool: Duration,
    /// CPU of [`Others::server`].
    pub server: Duration,
    /// CPU of [`Others::helpers`].
    pub helpers: Duration,
    /// The most memory that its processes had at one time: the sum of their `VmHWM`.
    pub peak_bytes: u64,
    /// Of a backup: bytes that are in the store and were not before.
    pub stored_bytes: u64,
    /// Of a restore: from its start until the restored server answered.
    pub until_answer: Duration,
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command, others: &Others) -> Cost {
    interrupt::check();
    // From here on VmHWM is of this command. Only root may say so of another user's process.
    others
        .workers
        .iter()
        .for_each(|worker| drop(fs::write(format!("/proc/{worker}/clear_refs"), "5")));
    let before = Clocks::of(others);
    let begin = Instant::now();
    #[allow(clippy::zombie_processes, reason = "waited for by wait4, for its CPU time")]
    let child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    interrupt::running(child.id());
    let ((success, own), peak_bytes) =
        while_watching(child.id(), &others.workers, || measure::wait_for(child.id()));
    interrupt::running(0);
    let wall = begin.elapsed();
    let after = Clocks::of(others);
    assert!(success, "{command:?} failed");
    Cost {
        wall,
        tool: own + after.workers.saturating_sub(before.workers),
        server: after.server.saturating_sub(before.server),
        helpers: after.helpers.saturating_sub(before.helpers),
        peak_bytes,
        ..Cost::default()
    }
}

struct Clocks {
    server: Duration,
    workers: Duration,
    helpers: Duration,
}

impl Clocks {
    fn of(others: &Others) -> Clocks {
        let sum = |processes: &[u32]| processes.iter().map(|process| cpu_of_tree(*process)).sum();
        Clocks {
            server: others.server.map(cpu_of_tree).unwrap_or_default(),
            workers: sum(&others.workers),
            helpers: sum(&others.helpers),
        }
    }
}

/// CPU time of a process, of the children it has, and of those that have ended and been waited for.
fn cpu_of_tree(process: u32) -> Duration {
    tree(process).into_iter().map(cpu_of).sum()
}

/// Fields 14 to 17 of proc(5)'s `stat`; the second one may hold spaces, so they are counted from its parenthesis.
fn cpu_of(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    let ticks: u64 = fields
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    // SAFETY: sysconf only answers a question.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Duration::from_secs_f64(ticks as f64 / per_second as f64)
}

/// A process and all its descendants.
fn tree(process: u32) -> Vec<u32> {
    let mut found = vec![process];
    let mut at = 0;
    while at < found.len() {
        let tasks = fs::read_dir(format!("/proc/{}/task", found[at]))
            .into_iter()
            .flatten()
            .flatten();
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<String> = children.collect();
        found.extend(
            children
                .iter()
                .flat_map(|list| list.split_whitespace())
                .filter_map(|id| id.parse::<u32>().ok()),
        );
        at += 1;
    }
    found
}

/// Does `work`, and says how much memory the process `root`, its descendants and `workers` had at most meanwhile.
fn while_watching<T>(root: u32, workers: &[u32], work: impl FnOnce() -> T) -> (T, u64) {
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let look = || {
        while !done.load(Ordering::Relaxed) {
            let now = tree(root)
                .into_iter()
                .chain(workers.iter().copied())
                .map(memory_of)
                .sum();
            peak.fetch_max(now, Ordering::Relaxed);
            thread::sleep(LOOK_EVERY);
        }
    };
    let worked = thread::scope(|scope| {
        scope.spawn(look);
        let worked = work();
        done.store(true, Ordering::Relaxed);
        worked
    });
    (worked, peak.into_inner())
}

/// `VmHWM` in bytes. A child that has not become the command yet still has the memory of this program: none.
fn memory_of(process: u32) -> u64 {
    let program = |process: &str| fs::read_link(format!("/proc/{process}/exe")).ok();
    if program(&process.to_string()) == program("self") {
        return 0;
    }
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Writes out what waits and empties the page cache, so that the next one reads from the disk. Only root can: `false`.
pub fn empty_page_cache() -> bool {
    // SAFETY: sync has no arguments and cannot fail.
    unsafe { libc::sync() };
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Bytes of all files beneath `dir`.
pub fn bytes_beneath(dir: &Path) -> u64 {
    files_beneath(dir)
        .iter()
        .filter_map(|file| fs::symlink_metadata(file).ok())
        .map(|data| data.len())
        .sum()
}

/// Every file beneath `dir`; what vanishes meanwhile is left out.
pub fn files_beneath(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}

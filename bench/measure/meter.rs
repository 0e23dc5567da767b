//! What a piece of work costs, to the commands it runs and to the processes that work for it.
//!
//! CPU of commands is what the kernel adds up of children that have ended and been waited for, so it is exact also for
//! commands of a few milliseconds. Some tools leave a process behind that works on (pgBackRest's asynchronous one): it
//! becomes a child of this program (`PR_SET_CHILD_SUBREAPER`) and is waited for, after the clock has stopped. CPU of
//! daemons is read from their process clocks before and after. Memory is looked at every few milliseconds.

use std::fs;
use std::io::{Read, Seek};
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::interrupt;

/// Between two looks at the memory of a command.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a process that a command has left behind may go on.
const ORPHANS_END: Duration = Duration::from_secs(60);

/// Who else works while a command runs.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// The postmaster. Its CPU and that of all its children has a column of its own.
    pub server: Option<u32>,
    /// Processes that are part of the tool: the daemon of a mount.
    pub workers: Vec<u32>,
    /// What archives the WAL, and the store: CPU only.
    pub helpers: Vec<u32>,
}

/// What a piece of work cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From its start to its end.
    pub wall: Duration,
    /// CPU of its commands, of their children, and of what they have left behind.
    pub client: Duration,
    /// CPU of [`Others::workers`].
    pub daemon: Duration,
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

impl Cost {
    /// CPU of the tool, whichever of its processes used it.
    pub fn tool(&self) -> Duration {
        self.client + self.daemon
    }
}

/// Makes this program the parent of what commands leave behind. Once, before the first measurement.
pub fn adopt_orphans() {
    // SAFETY: this option takes one number and touches no memory.
    let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    assert_eq!(
        result,
        0,
        "become a subreaper: {}",
        std::io::Error::last_os_error()
    );
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command, others: &Others) -> Cost {
    let (cost, outcome) = measure(others, || succeed(command));
    outcome.unwrap_or_else(|error| panic!("{error}"));
    cost
}

/// Does `work`, which runs commands by [`succeed`] and [`exit_of`] only, and says what it cost.
pub fn measure<T>(others: &Others, work: impl FnOnce() -> T) -> (Cost, T) {
    interrupt::check();
    // From here on VmHWM is of this work. Only root may say so of another user's process.
    others
        .workers
        .iter()
        .for_each(|worker| drop(fs::write(format!("/proc/{worker}/clear_refs"), "5")));
    let known = children(std::process::id());
    let before = Clocks::of(others);
    let begin = Instant::now();
    let ((done, wall), peak_bytes) = while_watching(&known, &others.workers, || {
        let done = work();
        let wall = begin.elapsed();
        wait_for_orphans(&known);
        (done, wall)
    });
    let after = Clocks::of(others);
    let cost = Cost {
        wall,
        client: after.client.saturating_sub(before.client),
        daemon: after.daemon.saturating_sub(before.daemon),
        server: after.server.saturating_sub(before.server),
        helpers: after.helpers.saturating_sub(before.helpers),
        peak_bytes,
        ..Cost::default()
    };
    (cost, done)
}

/// Runs a command, without a terminal, in a process group of its own that Ctrl-C kills. The error is what it said.
pub fn succeed(command: &mut Command) -> Result<(), String> {
    let (status, said) = end_of(command);
    if status.success() {
        return Ok(());
    }
    let program = command.get_program().to_string_lossy();
    Err(format!("{program} failed, {status}: {}", said.trim()))
}

/// The same for a command that fails if there is nothing to get; its exit code.
pub fn exit_of(command: &mut Command) -> ExitStatus {
    end_of(command).0
}

/// Its standard error goes to a file: a process that is left behind would keep a pipe open.
fn end_of(command: &mut Command) -> (ExitStatus, String) {
    let mut said = tempfile::tempfile().expect("make a temporary file");
    let child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().expect("share a file"))
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    interrupt::running(child.id());
    let status = child.wait().expect("wait for a command");
    interrupt::running(0);
    interrupt::check();
    (status, written(&mut said))
}

fn written(file: &mut fs::File) -> String {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .expect("read what a command said");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for children that were not there before; what does not end is killed.
fn wait_for_orphans(known: &[u32]) {
    let end = Instant::now() + ORPHANS_END;
    loop {
        let left: Vec<u32> = children(std::process::id())
            .into_iter()
            .filter(|child| !known.contains(child))
            .collect();
        for orphan in &left {
            let id = libc::pid_t::try_from(*orphan).expect("a process id");
            // SAFETY: no status is asked for; the child is ours, and nobody else knows of it.
            unsafe { libc::waitpid(id, std::ptr::null_mut(), libc::WNOHANG) };
            if Instant::now() > end {
                // SAFETY: kill has no memory effects.
                unsafe { libc::kill(id, libc::SIGKILL) };
            }
        }
        if left.is_empty() {
            return;
        }
        interrupt::check();
        thread::sleep(Duration::from_millis(5));
    }
}

struct Clocks {
    client: Duration,
    daemon: Duration,
    server: Duration,
    helpers: Duration,
}

impl Clocks {
    fn of(others: &Others) -> Clocks {
        Clocks {
            client: cpu_of_ended_children(),
            daemon: others.workers.iter().map(|worker| super::cpu_of(*worker)).sum(),
            server: others.server.map(cpu_of_tree).unwrap_or_default(),
            helpers: others.helpers.iter().map(|helper| cpu_of_tree(*helper)).sum(),
        }
    }
}

/// CPU time of all children that have been waited for, and of theirs.
fn cpu_of_ended_children() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a live variable of the right type, of which all zeros is a valid value.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    super::time(usage.ru_utime) + super::time(usage.ru_stime)
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
        found.extend(children(found[at]));
        at += 1;
    }
    found
}

/// Those whose parent it is now, whichever of its threads started them.
fn children(process: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let ids = |list: String| {
        list.split_whitespace()
            .filter_map(|id| id.parse().ok())
            .collect::<Vec<u32>>()
    };
    lists.flat_map(ids).collect()
}

/// Does `work`, and says how much memory the children that were not there before, their descendants and `workers` had at
/// most meanwhile.
fn while_watching<T>(known: &[u32], workers: &[u32], work: impl FnOnce() -> T) -> (T, u64) {
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let look = || {
        while !done.load(Ordering::Relaxed) {
            let mut new = children(std::process::id());
            new.retain(|child| !known.contains(child));
            let commands = new.into_iter().flat_map(tree);
            let now = commands.chain(workers.iter().copied()).map(memory_of).sum();
            peak.fetch_max(now, Ordering::Relaxed);
            thread::sleep(LOOK_EVERY);
        }
    };
    let worked = thread::scope(|scope| {
        scope.spawn(look);
        // A panic of the work must end the look, too.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        worked
    });
    match worked {
        Ok(worked) => (worked, peak.into_inner()),
        Err(panic) => std::panic::resume_unwind(panic),
    }
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

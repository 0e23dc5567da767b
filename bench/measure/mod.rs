//! What the benchmarks measure with: the clock, CPU time of a command and of a daemon, a daemon's memory, tables.
//!
//! CPU seconds say more than wall time on a machine that others use too; so every figure of time has both. A daemon's
//! CPU is read from its process clock before and after, so what it does after the command has ended (removing a
//! temporary file) may be missing, and what it did for another request may be in it.

// A benchmark need not use every instrument, and `pub` here means: for every benchmark.
#![allow(dead_code, unreachable_pub)]

pub mod files;
pub mod host;
pub mod interrupt;
pub mod lag;
pub mod line;
pub mod meter;

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What one command cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From its start to its end, the start of a process included.
    pub wall: Duration,
    /// User and system time of the command and of the children it has waited for.
    pub client: Duration,
    /// CPU time of the daemon meanwhile, if there is one.
    pub daemon: Duration,
}

/// Runs a command that must succeed, and says what it cost, to itself and to the process `daemon`.
pub fn run(command: &mut Command, daemon: Option<u32>) -> Cost {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let before = daemon.map(cpu_of);
    let begin = Instant::now();
    #[allow(clippy::zombie_processes, reason = "waited for by wait4, for its CPU time")]
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (success, client) = wait_for(child.id());
    let wall = begin.elapsed();
    let after = daemon.map(cpu_of);
    assert!(success, "{command:?} failed");
    let daemon = after.unwrap_or_default() - before.unwrap_or_default();
    Cost { wall, client, daemon }
}

/// Waits for a child as `wait4` does: whether it exited with 0, and its CPU time.
pub fn wait_for(process: u32) -> (bool, Duration) {
    let id = libc::pid_t::try_from(process).expect("a process id");
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to live variables of the right type; the child is ours and not waited for yet.
        let waited = unsafe { libc::wait4(id, &raw mut status, 0, usage.as_mut_ptr()) };
        if waited == id {
            break;
        }
        let error = io::Error::last_os_error();
        assert_eq!(
            error.kind(),
            io::ErrorKind::Interrupted,
            "wait for a command: {error}"
        );
    }
    // SAFETY: all zeros is a valid rusage, and wait4 has filled it.
    let usage = unsafe { usage.assume_init() };
    (status == 0, time(usage.ru_utime) + time(usage.ru_stime))
}

fn time(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}

/// CPU time of a process since its start, of all its threads, also those that have ended.
pub fn cpu_of(process: u32) -> Duration {
    let id = libc::pid_t::try_from(process).expect("a process id");
    let mut clock = 0;
    // SAFETY: the pointer is to a live variable of the right type.
    let failed = unsafe { libc::clock_getcpuclockid(id, &raw mut clock) } != 0;
    assert!(!failed, "there is no process {process}");
    read_clock(clock)
}

/// CPU time of the calling thread.
pub fn cpu_of_thread() -> Duration {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn read_clock(clock: libc::clockid_t) -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live variable of the right type.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut now) } != 0;
    assert!(
        !failed,
        "read a clock of CPU time: {}",
        io::Error::last_os_error()
    );
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Memory of a process in MiB: `VmHWM`, the most it ever had resident, or `VmRSS`, what it has now.
pub fn memory_mib(process: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("read the status of a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or_else(|| panic!("no {field} of process {process}")) / 1024.0
}

/// The middle one of some values, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A whole number from the environment.
pub fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// Whether `what` is among the words of a variable; all is, if there is no such variable.
pub fn chosen(name: &str, what: &str) -> bool {
    std::env::var(name).is_err() || named(name, what)
}

/// Whether `what` is among the words of a variable.
pub fn named(name: &str, what: &str) -> bool {
    std::env::var(name).is_ok_and(|text| text.split(',').any(|word| word.trim() == what))
}

/// Prints a table in Markdown.
pub fn print_table(title: &str, columns: &[&str], rows: &[Vec<String>]) {
    println!("\n### {title}\n\n| {} |", columns.join(" | "));
    println!("|{}|", vec!["---"; columns.len()].join("|"));
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
}

/// Prints [`machine`].
pub fn print_machine() {
    println!("{}", machine());
}

/// A figure of /proc/meminfo; 0 if it is not there.
pub fn memory_kib(key: &str) -> usize {
    let text = field("/proc/meminfo", key);
    text.trim_end_matches(" kB").parse().unwrap_or_default()
}

/// What stands behind a key in a file of `/proc`.
fn field(path: &str, key: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut values = text.lines().filter_map(|line| line.strip_prefix(key));
    let value = values.next().unwrap_or_default();
    value.trim_start_matches([' ', '\t', ':']).trim_end().to_owned()
}

/// Machine and kernel, for the head of a report.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{} cores of {}, {} GiB, Linux {}, load average {}",
        cores,
        field("/proc/cpuinfo", "model name"),
        memory_kib("MemTotal") >> 20,
        kernel.trim(),
        load.split(' ').next().unwrap_or_default()
    )
}

/// The first line that a program says of itself; `None` if there is no such program.
pub fn first_line(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| !line.is_empty()).map(str::to_owned)
}

//! Processes and threads, by their numbers: which there are, whether one is alive, and the two texts in which Linux tells
//! its state, `/proc/PID/stat` and `/proc/PID/status`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::kernel::field;

/// `PF_EXITING` of the kernel's `include/linux/sched.h`: the thread has begun to end.
const EXITING: u64 = 0x4;

/// What is used of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    state: u8,
    /// Field 4.
    pub(crate) parent: u32,
    flags: u64,
    /// Field 22: when it began, in clock ticks since the machine did.
    began_ticks: Option<u64>,
    /// Field 52: how an exiting process ends, as `wait` will say it. `None` where this user may not know.
    exit_code: Option<u32>,
}

impl Stat {
    /// `42 (a) b) S 1 42 42 0 -1 4194304 ...`: the name may hold blanks and parentheses, so the fields are counted
    /// from the last closing one.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(&line[end + 1..])
            .ok()?
            .split_ascii_whitespace();
        // Fields 3, 4, 9, 22, 30, 35 and 52.
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let flags = fields.nth(4)?.parse().ok()?;
        let began_ticks = fields.nth(12).and_then(|ticks| ticks.parse().ok());
        let is_set = |field: Option<&str>| field.is_some_and(|text| text != "0");
        // To those who may not know, the kernel says 0 in all three: where an exiting thread was in its program, that it waits,
        // and the exit code.
        let may_know = is_set(fields.nth(7)) | is_set(fields.nth(4));
        let exit_code = fields.nth(16).and_then(|code| code.parse().ok());
        Some(Self {
            state,
            parent,
            flags,
            began_ticks,
            exit_code: exit_code.filter(|_| may_know),
        })
    }

    pub(crate) fn is_exiting(&self) -> bool {
        self.flags & EXITING != 0
    }

    /// Has it begun to end by itself, and will it say that all is well?
    pub(crate) fn is_succeeding(&self) -> bool {
        self.is_exiting() && self.exit_code == Some(0)
    }

    /// Zombie, or dead but still listed.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// What is used of `/proc/PID/status`. In the sets of signals, bit 0 is signal 1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) tgid: u32,
    pending: u64,
    kept_away: u64,
}

impl Status {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let set = |key| u64::from_str_radix(field(text, key)?, 16).ok();
        Some(Self {
            tgid: field(text, "Tgid:")?.parse().ok()?,
            pending: set("SigPnd:")? | set("ShdPnd:")?,
            kept_away: set("SigBlk:")? | set("SigIgn:")? | set("SigCgt:")?,
        })
    }

    /// Does a signal wait that ends the process as soon as it leaves the kernel?
    pub(crate) fn is_ending(&self) -> bool {
        let bit = |signal: libc::c_int| 1 << (signal - 1);
        let kill = bit(libc::SIGKILL);
        let ending = bit(libc::SIGTERM) | bit(libc::SIGINT) | bit(libc::SIGQUIT) | bit(libc::SIGHUP);
        self.pending & (kill | (ending & !self.kept_away)) != 0
    }
}

fn stat(pid: u32) -> Option<Stat> {
    Stat::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Is there such a process or thread, and has it not ended? One that is hidden from this user is alive as well: `/proc` may
/// be mounted with `hidepid`.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(number @ 1..) = libc::pid_t::try_from(pid) else {
        return false;
    };
    // SAFETY: signal 0 is never sent; the kernel only looks whether it could be.
    let found = unsafe { libc::kill(number, 0) } == 0;
    let exists = found || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
    exists && !stat(pid).is_some_and(|stat| stat.is_over())
}

/// The user that this process acts as.
pub(crate) fn user() -> u32 {
    // SAFETY: geteuid only reads this process's credentials and cannot fail.
    unsafe { libc::geteuid() }
}

/// What there is to see of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// There is none, or one that has ended and was not waited for yet.
    Gone,
    /// When it began, in clock ticks since the machine did: with its number, that names it, because numbers are used again.
    Began(u64),
    /// There is one, and `/proc` does not show it to us (`hidepid`).
    Hidden,
}

impl Seen {
    pub(crate) fn of(pid: u32) -> Self {
        match stat(pid) {
            Some(stat) if stat.is_over() => Self::Gone,
            Some(stat) => stat.began_ticks.map_or(Self::Hidden, Self::Began),
            None if is_alive(pid) => Self::Hidden,
            None => Self::Gone,
        }
    }
}

/// [`Seen::Began`], or 0.
pub(crate) fn began_ticks(pid: u32) -> u64 {
    match Seen::of(pid) {
        Seen::Began(ticks) => ticks,
        Seen::Gone | Seen::Hidden => 0,
    }
}

/// Lets this process have as many files open as the system allows it: each of thousands of files that are being written may
/// have a temporary one.
pub(crate) fn allow_open_files() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls use `limit` only while they run; to raise the soft limit to the hard one is always allowed.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Where process numbers and ticks mean what they mean here: the machine since its last start, and the namespaces of
/// processes and, where the kernel has them, of clocks, because containers share a machine's boot id but neither of these.
/// `None` if that cannot be seen.
pub(crate) fn numbering() -> Option<String> {
    let namespace = |name: &str| fs::read_link(Path::new("/proc/self/ns").join(name));
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let (processes, clocks) = (namespace("pid").ok()?, namespace("time").unwrap_or_default());
    Some(format!(
        "{} {} {}",
        boot_id.trim(),
        processes.display(),
        clocks.display()
    ))
}

/// The machine's name for itself, or an empty one.
pub(crate) fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// The numbers of all processes that this user may see.
pub(crate) fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// What a process calls itself, as far as this user may see it.
pub(crate) fn name(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

/// The directory that a process works in, as far as this user may see it.
pub(crate) fn working_directory(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn as_many_files_as_the_system_allows_may_be_open() {
        allow_open_files();
        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        let line = field(&limits, "Max open files").unwrap();
        let mut limits = line.split_whitespace();
        assert!(limits.next() == limits.next(), "{line}");
    }

    #[test]
    fn a_process_is_alive_until_it_has_ended_not_until_it_was_waited_for() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        assert!(is_alive(pid) && began_ticks(pid) > 0);
        assert!(all().any(|other| other == pid));
        child.kill().unwrap();
        while is_alive(pid) {
            std::thread::yield_now();
        }
        assert_eq!(Seen::of(pid), Seen::Gone);
        child.wait().unwrap();
        assert_eq!(Seen::of(pid), Seen::Gone);
        assert!(!is_alive(pid) && !is_alive(0) && !is_alive(u32::MAX));
    }

    #[test]
    fn name_may_look_like_fields() {
        let stat = Stat::parse(b"42 (a) Z 1 (x)) S 7 42 42 0 -1 4194564 1 2\n").unwrap();
        assert_eq!(
            stat,
            Stat {
                state: b'S',
                parent: 7,
                flags: 0x40_0104,
                began_ticks: None,
                exit_code: None,
            }
        );
        assert!(stat.is_exiting() && !stat.is_succeeding());
        assert!(!stat.is_over());
    }

    #[test]
    fn only_an_exit_code_that_may_be_known_is_one() {
        let stat = |flags: u64, program: u64, waits: u64, code: u32| {
            let line = format!(
                "42 (a) S 7 42 42 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 1 0 99 0 0 1 0 0 0 0 {program} 0 0 0 0 {waits} 0 0 17 0 0 0 \
                 0 0 0 0 0 0 0 0 0 0 {code}\n"
            );
            let stat = Stat::parse(line.as_bytes()).unwrap();
            assert_eq!(stat.began_ticks, Some(99));
            stat.is_succeeding()
        };
        assert!(stat(EXITING, 4096, 0, 0) && stat(EXITING, 0, 1, 0));
        assert!(!stat(EXITING, 0, 0, 0), "it may not be known");
        assert!(!stat(EXITING, 4096, 1, 768), "exit code 3");
        assert!(!stat(EXITING, 4096, 1, 9), "a signal");
        assert!(!stat(0, 0, 1, 0), "it lives");
    }

    #[test]
    fn torn_texts_are_unknown() {
        assert_eq!(Stat::parse(b""), None);
        assert_eq!(Stat::parse(b"42 (a) S 7 42"), None);
        assert_eq!(Status::parse("Tgid:\t7\nSigPnd:\t0\n"), None);
    }

    fn status(pending: &str, blocked: &str, ignored: &str, caught: &str) -> bool {
        let text = format!(
            "Name:\tx\nTgid:\t7\nSigPnd:\t0\nShdPnd:\t{pending}\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n"
        );
        Status::parse(&text).unwrap().is_ending()
    }

    #[test]
    fn signals_that_end_a_process() {
        assert!(status("0000000000004000", "0", "0", "0"), "SIGTERM");
        assert!(status("100", "0", "0", "0"), "SIGKILL");
        assert!(status("7", "0", "0", "0"), "SIGHUP, SIGINT, SIGQUIT");
        assert!(status("6", "0", "0", "2"), "SIGQUIT, though SIGINT is caught");
        assert!(!status("4000", "4000", "0", "0"), "blocked");
        assert!(!status("4000", "0", "4000", "0"), "ignored");
        assert!(!status("4000", "0", "0", "4000"), "caught");
        assert!(!status("10000", "0", "0", "0"), "SIGCHLD");
        assert!(!status("0", "0", "0", "0"), "none");
    }
}

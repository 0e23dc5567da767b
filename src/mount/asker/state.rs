//! The two texts in which Linux tells the state of a thread: `/proc/PID/stat` and `/proc/PID/status`.

use crate::mount::kernel::field;

/// `PF_EXITING` of the kernel's `include/linux/sched.h`: the thread has begun to end.
const EXITING: u64 = 0x4;

/// What is used of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    state: u8,
    /// Field 4.
    pub(super) parent: u32,
    flags: u64,
}

impl Stat {
    /// `42 (a) b) S 1 42 42 0 -1 4194304 ...`: the name may hold blanks and parentheses, so the fields are counted
    /// from the last closing one.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(&line[end + 1..])
            .ok()?
            .split_ascii_whitespace();
        // Fields 3, 4 and 9.
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let flags = fields.nth(4)?.parse().ok()?;
        Some(Self { state, parent, flags })
    }

    pub(super) fn is_exiting(&self) -> bool {
        self.flags & EXITING != 0
    }

    /// Zombie, or dead but still listed.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// What is used of `/proc/PID/status`. In the sets of signals, bit 0 is signal 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) tgid: u32,
    pending: u64,
    kept_away: u64,
}

impl Status {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let set = |key| u64::from_str_radix(field(text, key)?, 16).ok();
        Some(Self {
            tgid: field(text, "Tgid:")?.parse().ok()?,
            pending: set("SigPnd:")? | set("ShdPnd:")?,
            kept_away: set("SigBlk:")? | set("SigIgn:")? | set("SigCgt:")?,
        })
    }

    /// Does a signal wait that ends the process as soon as it leaves the kernel?
    pub(super) fn is_ending(&self) -> bool {
        let bit = |signal: libc::c_int| 1 << (signal - 1);
        let kill = bit(libc::SIGKILL);
        let ending = bit(libc::SIGTERM) | bit(libc::SIGINT) | bit(libc::SIGQUIT) | bit(libc::SIGHUP);
        self.pending & (kill | (ending & !self.kept_away)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_may_look_like_fields() {
        let stat = Stat::parse(b"42 (a) Z 1 (x)) S 7 42 42 0 -1 4194564 1 2\n").unwrap();
        assert_eq!(
            stat,
            Stat {
                state: b'S',
                parent: 7,
                flags: 0x40_0104
            }
        );
        assert!(stat.is_exiting());
        assert!(!stat.is_over());
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

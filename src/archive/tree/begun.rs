//! Who is at an unfinished tree, and whether they still are.
//!
//! A process is known by its number, the moment it began (numbers are used again; `proc(5)`, `/proc/PID/stat`, field
//! 22), and where both mean anything: the machine since its last start, the namespace of processes and that of clocks, for
//! containers share a machine's boot id but neither numbers nor ticks. From anywhere else, and of a process that is hidden
//! from us, nothing can be told: only the store's silence shows that a maker is gone.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::TreeKind;
use super::catalogue::{Begun, By, Unfinished};

/// After how long without a stored object a maker that cannot be seen from here is taken for dead.
pub const SILENCE: Duration = Duration::from_secs(24 * 3600);

/// What has become of a maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// At work.
    Running,
    /// Not to be seen from here, but something was stored in the last 24 hours.
    Elsewhere,
    /// Gone.
    Dead,
}

impl Begun {
    /// This process, now.
    pub fn by_this_process(content: TreeKind, by: By) -> Self {
        let pid = std::process::id();
        Self {
            at: Timestamp::now(),
            content,
            by,
            boot_id: place().unwrap_or_default(),
            host: read("/proc/sys/kernel/hostname"),
            pid,
            pid_began_ticks: ticks_of(pid),
        }
    }
}

impl Unfinished {
    /// May it be swept without anybody's word, once its maker is dead? Only what says itself who began it, was never told
    /// that it is done, and cannot be a complete one that has lost its summary (promise B9).
    pub fn may_be_swept(&self) -> bool {
        let is_own = self.begun.as_ref().is_some_and(|begun| begun.by == By::Backup);
        is_own && !self.has_inventory
    }

    /// May it be a complete one that has lost its summary? Not while its maker may yet store that, nor where a mount has
    /// said why it did not.
    pub fn may_have_lost_its_summary(&self, maker: Maker) -> bool {
        self.has_inventory && self.refused.is_none() && maker == Maker::Dead
    }

    /// Is somebody still at it, as far as can be told from here at `now`?
    pub fn maker(&self, now: SystemTime) -> Maker {
        let here = place();
        let seen = self
            .begun
            .as_ref()
            .filter(|begun| here.as_ref() == Some(&begun.boot_id) && begun.pid_began_ticks > 0)
            .map(|begun| (begun, Process::of(begun.pid)));
        match seen {
            Some((begun, Process::Began(ticks))) if ticks == begun.pid_began_ticks => Maker::Running,
            Some((_, Process::Began(_) | Process::Gone)) => Maker::Dead,
            // The store's clock may be ahead: that is no silence.
            Some((_, Process::Hidden)) | None
                if now.duration_since(self.last_stored).unwrap_or_default() > SILENCE =>
            {
                Maker::Dead
            }
            Some((_, Process::Hidden)) | None => Maker::Elsewhere,
        }
    }
}

/// Where process numbers and ticks mean what they mean to us: boot id, and the namespaces of processes and, where the
/// kernel has them, of clocks. `None` if that cannot be seen.
fn place() -> Option<String> {
    let namespace = |name: &str| fs::read_link(Path::new("/proc/self/ns").join(name));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let (processes, clocks) = (namespace("pid").ok()?, namespace("time").unwrap_or_default());
    Some(format!(
        "{} {} {}",
        boot.trim(),
        processes.display(),
        clocks.display()
    ))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or(String::new(), |text| text.trim().to_owned())
}

/// When a process began, in clock ticks since boot; 0 if that cannot be seen.
fn ticks_of(pid: u32) -> u64 {
    match Process::of(pid) {
        Process::Began(ticks) => ticks,
        Process::Gone | Process::Hidden => 0,
    }
}

/// A process, by its number.
enum Process {
    /// There is none, or a zombie only, which has not been waited for yet.
    Gone,
    /// It began so many clock ticks after boot.
    Began(u64),
    /// There is one, and `/proc` does not show it to us (`hidepid`).
    Hidden,
}

impl Process {
    fn of(pid: u32) -> Self {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => Self::parse(&stat).unwrap_or(Self::Hidden),
            Err(_) if is_gone(pid) => Self::Gone,
            Err(_) => Self::Hidden,
        }
    }

    /// The name, field 2, may hold anything, so counting begins behind it.
    fn parse(stat: &str) -> Option<Self> {
        let (_, behind_name) = stat.rsplit_once(')')?;
        let mut fields = behind_name.split_ascii_whitespace();
        match fields.next()? {
            "Z" | "X" => Some(Self::Gone),
            _ => Some(Self::Began(fields.nth(18)?.parse().ok()?)),
        }
    }
}

fn is_gone(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return true;
    };
    // SAFETY: signal 0 is never sent; the kernel only looks whether it could be.
    let status = unsafe { libc::kill(pid, 0) };
    status != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tree::TreeId;

    fn tree(begun: Option<Begun>, last_stored: SystemTime) -> Unfinished {
        Unfinished {
            id: TreeId::fresh(&"monday".parse().unwrap()),
            begun,
            refused: None,
            has_inventory: false,
            last_stored,
            stored_bytes: 0,
        }
    }

    #[test]
    fn a_running_maker_is_seen_however_long_he_is_silent() {
        let now = SystemTime::now();
        let me = Begun::by_this_process(TreeKind::BaseBackup, By::Backup);
        assert!(me.pid_began_ticks > 0);
        let maker = |begun: &Begun, stored| tree(Some(begun.clone()), stored).maker(now);
        assert_eq!(maker(&me, SystemTime::UNIX_EPOCH), Maker::Running);
        let reused = Begun {
            pid_began_ticks: me.pid_began_ticks + 1,
            ..me.clone()
        };
        assert_eq!(maker(&reused, now), Maker::Dead);
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let of_child = Begun {
            pid: child.id(),
            pid_began_ticks: ticks_of(child.id()),
            ..me
        };
        assert_eq!(maker(&of_child, now), Maker::Running);
        child.kill().unwrap();
        // Dead before somebody has waited for it, and after.
        while maker(&of_child, now) != Maker::Dead {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(maker(&of_child, now), Maker::Dead);
    }

    #[test]
    fn who_cannot_be_seen_has_a_day() {
        let now = SystemTime::now();
        let foreign = Begun {
            boot_id: "elsewhere".into(),
            ..Begun::by_this_process(TreeKind::BaseBackup, By::Mount)
        };
        for begun in [Some(foreign), None] {
            let maker = |stored| tree(begun.clone(), stored).maker(now);
            assert_eq!(maker(now), Maker::Elsewhere);
            assert_eq!(maker(now - SILENCE - Duration::from_secs(1)), Maker::Dead);
            assert_eq!(maker(now + SILENCE), Maker::Elsewhere);
        }
    }
}

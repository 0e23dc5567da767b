//! Who is at an unfinished tree, and whether they still are.
//!
//! A process is known by its number, the moment it began (numbers are used again; `proc(5)`, `/proc/PID/stat`, field
//! 22), and where numbers mean anything: the machine since its last start, and the namespace of processes, for
//! containers share a machine's boot id but not its numbers. From anywhere else nobody can tell, and only time shows
//! that a maker is gone.

use std::fs;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

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
    pub fn by_this_process(by: By) -> Self {
        let pid = std::process::id();
        Self {
            at: Timestamp::now(),
            by,
            boot_id: place(),
            host: read("/proc/sys/kernel/hostname"),
            pid,
            pid_began_ticks: began_ticks(pid).unwrap_or(0),
        }
    }
}

impl Unfinished {
    /// May it be swept without anybody's word, once its maker is dead? Only what says itself who began it, and was never told
    /// that it is done.
    pub fn may_be_swept(&self) -> bool {
        self.begun.as_ref().is_some_and(|begun| begun.by == By::Backup)
    }

    /// Is somebody still at it, as far as can be told from here at `now`?
    pub fn maker(&self, now: SystemTime) -> Maker {
        match self.begun.as_ref().filter(|begun| begun.boot_id == place()) {
            Some(begun) if began_ticks(begun.pid) == Some(begun.pid_began_ticks) => Maker::Running,
            Some(_) => Maker::Dead,
            // The store's clock may be ahead: that is no silence.
            None if now.duration_since(self.last_stored).unwrap_or_default() > SILENCE => Maker::Dead,
            None => Maker::Elsewhere,
        }
    }
}

/// Where process numbers mean what they mean to us: boot id and namespace.
fn place() -> String {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!(
        "{} {}",
        read("/proc/sys/kernel/random/boot_id"),
        namespace.display()
    )
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or(String::new(), |text| text.trim().to_owned())
}

/// When a process began, in clock ticks since boot. Its name, field 2, may hold anything, so counting begins behind it.
/// `None` if there is no such process, or a zombie only, which nobody has waited for yet.
fn began_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    alive.then(|| fields.nth(18)?.parse().ok()).flatten()
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
            last_stored,
            stored_bytes: 0,
        }
    }

    #[test]
    fn a_running_maker_is_seen_however_long_he_is_silent() {
        let now = SystemTime::now();
        let me = Begun::by_this_process(By::Backup);
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
            pid_began_ticks: began_ticks(child.id()).unwrap(),
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
            ..Begun::by_this_process(By::Mount)
        };
        for begun in [Some(foreign), None] {
            let maker = |stored| tree(begun.clone(), stored).maker(now);
            assert_eq!(maker(now), Maker::Elsewhere);
            assert_eq!(maker(now - SILENCE - Duration::from_secs(1)), Maker::Dead);
            assert_eq!(maker(now + SILENCE), Maker::Elsewhere);
        }
    }
}

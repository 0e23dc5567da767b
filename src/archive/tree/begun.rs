//! Who is at an unfinished tree, and whether they still are.
//!
//! Process numbers are used again, and mean nothing on another machine or after a restart of this one: so the kernel's
//! boot id and the time at which the process began go with them (`proc(5)`, `/proc/PID/stat`, field 22).

use std::fs;

use jiff::Timestamp;

use super::catalogue::Begun;

impl Begun {
    /// This process, now.
    pub fn by_this_process() -> Self {
        let pid = std::process::id();
        Self {
            at: Timestamp::now(),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            host: read("/proc/sys/kernel/hostname"),
            pid,
            pid_began_ticks: began_ticks(pid).unwrap_or(0),
        }
    }

    /// Is it certain that its maker is not at it any more? Of another machine, nobody here can say.
    pub fn is_abandoned(&self) -> bool {
        let here = !self.boot_id.is_empty() && self.boot_id == read("/proc/sys/kernel/random/boot_id");
        here && began_ticks(self.pid) != Some(self.pid_began_ticks)
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or(String::new(), |text| text.trim().to_owned())
}

/// When a process began, in clock ticks since boot. Its name, field 2, may hold anything, so counting begins behind it.
fn began_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_have_abandoned_theirs() {
        let own = Begun::by_this_process();
        assert!(own.pid_began_ticks > 0 && !own.boot_id.is_empty());
        assert!(!own.is_abandoned());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let of_child = Begun {
            pid: child.id(),
            ..own.clone()
        };
        child.wait().unwrap();
        assert!(of_child.is_abandoned());
        let elsewhere = Begun {
            boot_id: "another".into(),
            ..of_child
        };
        assert!(!elsewhere.is_abandoned());
    }
}

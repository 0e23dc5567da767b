//! Who is at an unfinished tree, and is he still there?
//!
//! A process is known by its number, the moment it began (numbers are used again), and where numbers mean anything:
//! the machine since its last start, and the namespace of processes, for containers share a machine's boot id but not
//! its numbers. From anywhere else nobody can tell, and only time shows that a maker is gone.

use std::fs;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::archive::tree::catalogue::{Begun, Unfinished};

/// After how long without a stored object a maker that cannot be seen from here is taken for dead.
pub const SILENCE: Duration = Duration::from_secs(24 * 3600);

/// What has become of a maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// He is at work.
    Running,
    /// He cannot be seen from here, but stored something in the last 24 hours.
    Elsewhere,
    /// He is gone.
    Dead,
}

/// What this process says of itself in the trees it begins.
pub fn begun(at: Timestamp) -> Begun {
    let pid = std::process::id();
    Begun {
        at,
        boot_id: place(),
        host: whoami::hostname().unwrap_or_else(|_| "unknown".to_owned()),
        pid,
        pid_began_ticks: began_ticks(pid).unwrap_or(0),
    }
}

/// Is somebody still at this tree, as far as can be told from here at `now`?
pub fn maker_of(tree: &Unfinished, now: SystemTime) -> Maker {
    let here = tree.begun.as_ref().filter(|begun| begun.boot_id == place());
    match here {
        Some(begun) if began_ticks(begun.pid) == Some(begun.pid_began_ticks) => Maker::Running,
        Some(_) => Maker::Dead,
        None => {
            // The store's clock may be ahead: that is no silence.
            let silence = now.duration_since(tree.last_stored).unwrap_or_default();
            if silence > SILENCE {
                Maker::Dead
            } else {
                Maker::Elsewhere
            }
        }
    }
}

/// Where process numbers mean what they mean to us: boot id and namespace.
fn place() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

/// When a process began, in clock ticks since boot: the 22nd field of its `stat`. `None` if there is no such process, or
/// a zombie only, which nobody has waited for yet.
fn began_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    if rest.starts_with(['Z', 'X']) {
        return None;
    }
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tree::TreeId;

    fn tree(begun: Option<Begun>, last_stored: SystemTime) -> Unfinished {
        Unfinished {
            id: TreeId::fresh(&"monday".parse().unwrap()),
            begun,
            last_stored,
            stored_bytes: 0,
        }
    }

    #[test]
    fn a_running_maker_is_seen_however_long_he_is_silent() {
        let now = SystemTime::now();
        let me = begun(Timestamp::now());
        assert_eq!(
            maker_of(&tree(Some(me.clone()), SystemTime::UNIX_EPOCH), now),
            Maker::Running
        );
        let reused = Begun {
            pid_began_ticks: me.pid_began_ticks + 1,
            ..me.clone()
        };
        assert_eq!(maker_of(&tree(Some(reused), now), now), Maker::Dead);
        let nobody = Begun { pid: u32::MAX, ..me };
        assert_eq!(maker_of(&tree(Some(nobody), now), now), Maker::Dead);
    }

    #[test]
    fn who_cannot_be_seen_has_a_day() {
        let now = SystemTime::now();
        let foreign = Begun {
            boot_id: "elsewhere".into(),
            ..begun(Timestamp::now())
        };
        for begun in [Some(foreign), None] {
            assert_eq!(maker_of(&tree(begun.clone(), now), now), Maker::Elsewhere);
            let earlier = now - SILENCE - Duration::from_secs(1);
            assert_eq!(maker_of(&tree(begun.clone(), earlier), now), Maker::Dead);
            let ahead = now + SILENCE;
            assert_eq!(maker_of(&tree(begun, ahead), now), Maker::Elsewhere);
        }
    }
}

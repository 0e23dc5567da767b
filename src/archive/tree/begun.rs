//! Who is at an unfinished tree, and whether they still are.
//!
//! A process is known by its number, the moment it began, and where both mean anything. From anywhere else, and of a
//! process that is hidden from us, nothing can be told: only the store's silence shows that a maker is gone.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::TreeKind;
use super::catalogue::{Begun, By, Unfinished};
use crate::linux::process::{Seen, began_ticks, host_name, numbering};

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
            boot_id: numbering().unwrap_or_default(),
            host: host_name(),
            pid,
            pid_began_ticks: began_ticks(pid),
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
        let here = numbering();
        let seen = self
            .begun
            .as_ref()
            .filter(|begun| here.as_ref() == Some(&begun.boot_id) && begun.pid_began_ticks > 0)
            .map(|begun| (begun, Seen::of(begun.pid)));
        match seen {
            Some((begun, Seen::Began(ticks))) if ticks == begun.pid_began_ticks => Maker::Running,
            Some((_, Seen::Began(_) | Seen::Gone)) => Maker::Dead,
            // The store's clock may be ahead: that is no silence.
            Some((_, Seen::Hidden)) | None
                if now.duration_since(self.last_stored).unwrap_or_default() > SILENCE =>
            {
                Maker::Dead
            }
            Some((_, Seen::Hidden)) | None => Maker::Elsewhere,
        }
    }
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
            pid_began_ticks: began_ticks(child.id()),
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

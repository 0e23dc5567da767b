//! Who is at an unfinished tree, and whether they still are.
//!
//! A process is known by its number, the moment it began, and where both mean anything. From anywhere else, and of a
//! process that is hidden from us, nothing can be told: only the store's silence shows that a maker is gone.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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

/// A process, as others can know it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Where its number means something: the kernel's boot id and the namespace of processes.
    pub boot_id: String,
    /// The machine's name, for people.
    pub host: String,
    /// Its number there.
    pub pid: u32,
    /// When it began, in clock ticks since boot: numbers are used again.
    pub pid_began_ticks: u64,
}

impl Process {
    /// This one.
    pub fn this() -> Self {
        let pid = std::process::id();
        Self {
            boot_id: numbering().unwrap_or_default(),
            host: host_name(),
            pid,
            pid_began_ticks: began_ticks(pid),
        }
    }

    /// Is it still there, as far as can be told from here? `None` if it cannot be seen.
    pub fn is_alive(&self) -> Option<bool> {
        let here = numbering();
        if here.as_ref() != Some(&self.boot_id) || self.pid_began_ticks == 0 {
            return None;
        }
        match Seen::of(self.pid) {
            Seen::Began(ticks) => Some(ticks == self.pid_began_ticks),
            Seen::Gone => Some(false),
            Seen::Hidden => None,
        }
    }

    /// Is it still at what it stored last at `last_stored`? The store's clock may be ahead of `now`: that is no silence.
    pub fn maker(process: Option<&Self>, last_stored: SystemTime, now: SystemTime) -> Maker {
        let silence = now.duration_since(last_stored).unwrap_or_default();
        match process.and_then(Self::is_alive) {
            Some(true) => Maker::Running,
            Some(false) => Maker::Dead,
            None if silence > SILENCE => Maker::Dead,
            None => Maker::Elsewhere,
        }
    }
}

impl Begun {
    /// This process, now.
    pub fn by_this_process(content: TreeKind, by: By) -> Self {
        Self {
            at: Timestamp::now(),
            content,
            by,
            process: Process::this(),
        }
    }
}

impl Unfinished {
    /// May it be swept without anybody's word, once its maker is dead? Only what says itself who began it, was never told
    /// that it is done, and cannot be a complete one that has lost its summary (promise B9); and what holds nothing.
    pub fn may_be_swept(&self) -> bool {
        let is_own = self.begun.as_ref().is_some_and(|begun| begun.by == By::Backup);
        (is_own && !self.has_inventory) || self.is_nothing
    }

    /// May it become an incremental one of PostgreSQL's? Its label may not have come yet, which says so.
    pub fn may_be_incremental(&self) -> bool {
        self.begun.as_ref().is_none_or(|begun| begun.by == By::Mount)
    }

    /// May it be what a prune has left? It removes the word of who began it, and what tells the parts apart.
    pub fn may_be_remnant(&self) -> bool {
        self.begun.is_none() && !self.has_inventory && !self.is_nothing
    }

    /// May it be a complete one that has lost its summary? Not while its maker may yet store that, nor where a mount has
    /// said why it did not.
    pub fn may_have_lost_its_summary(&self, maker: Maker) -> bool {
        self.has_inventory && self.refused.is_none() && maker == Maker::Dead
    }

    /// What it would hold: a base backup, if nothing says so.
    pub fn kind(&self) -> TreeKind {
        self.begun
            .as_ref()
            .map_or(TreeKind::BaseBackup, |begun| begun.content)
    }

    /// Is somebody still at it, as far as can be told from here at `now`?
    pub fn maker(&self, now: SystemTime) -> Maker {
        let process = self.begun.as_ref().map(|begun| &begun.process);
        Process::maker(process, self.last_stored, now)
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
            builds_on: vec![],
            is_nothing: false,
            last_stored,
            stored_bytes: 0,
        }
    }

    #[test]
    fn a_running_maker_is_seen_however_long_he_is_silent() {
        let now = SystemTime::now();
        let me = Begun::by_this_process(TreeKind::BaseBackup, By::Backup);
        assert!(me.process.pid_began_ticks > 0);
        let maker = |begun: &Begun, stored| tree(Some(begun.clone()), stored).maker(now);
        assert_eq!(maker(&me, SystemTime::UNIX_EPOCH), Maker::Running);
        let with = |process| Begun {
            process,
            ..me.clone()
        };
        let reused = with(Process {
            pid_began_ticks: me.process.pid_began_ticks + 1,
            ..me.process.clone()
        });
        assert_eq!(maker(&reused, now), Maker::Dead);
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let of_child = with(Process {
            pid: child.id(),
            pid_began_ticks: began_ticks(child.id()),
            ..me.process.clone()
        });
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
        let mut foreign = Begun::by_this_process(TreeKind::BaseBackup, By::Mount);
        foreign.process.boot_id = "elsewhere".into();
        for begun in [Some(foreign), None] {
            let maker = |stored| tree(begun.clone(), stored).maker(now);
            assert_eq!(maker(now), Maker::Elsewhere);
            assert_eq!(maker(now - SILENCE - Duration::from_secs(1)), Maker::Dead);
            assert_eq!(maker(now + SILENCE), Maker::Elsewhere);
        }
    }
}

//! Who was told that a file does not exist.
//!
//! The printed `restore_command` runs `cp`, and when that fails asks for `.absent/<name>` in the same breath. If the
//! segment arrives between the two, a standby would stop with a fatal error although it was told the truth. So the
//! statement is kept for a moment for the process that started the `cp`: the shell, whose `test` is its own. Every
//! other process, and every look into `wal/`, gets the store's word of now.
//!
//! A hole is no end (promise R6). What lies behind a missing segment is looked at before its reader is told that it is
//! missing, and is kept with the statement; for whoever only asked after it, when he asks for the proof.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::pg::WalName;

/// Far longer than a shell takes from a failed `cp` to `test`, far shorter than a standby's next question (5 s).
const KEPT: Duration = Duration::from_secs(3);

/// What is known of a file that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// What lies behind it was not looked at.
    Bare,
    /// The archive ends there.
    End,
    /// It does not.
    Hole,
}

/// The statements of the last moments.
#[derive(Debug, Default)]
pub(super) struct Absences(Mutex<Vec<Told>>);

#[derive(Debug)]
struct Told {
    name: WalName,
    family: u32,
    at: Instant,
    absence: Absence,
}

impl Absences {
    /// Notes that `family` (the parent of the asking process) was told that `name` is absent.
    pub(super) fn told(&self, name: WalName, family: u32, absence: Absence) {
        let mut all = self.0.lock().expect("no panic while held");
        all.retain(|told| told.at.elapsed() < KEPT);
        all.push(Told {
            name,
            family,
            at: Instant::now(),
            absence,
        });
    }

    /// What a child of `process` was told a moment ago, if it was. The statement is used up by the question.
    pub(super) fn was_told(&self, name: WalName, process: u32) -> Option<Absence> {
        let mut all = self.0.lock().expect("no panic while held");
        all.retain(|told| told.at.elapsed() < KEPT);
        let found = all
            .iter()
            .position(|told| told.name == name && told.family == process);
        found.map(|index| all.swap_remove(index).absence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_parent_of_who_was_told_hears_it_again_and_once() {
        let absences = Absences::default();
        let name: WalName = "000000010000000000000001".parse().unwrap();
        let other: WalName = "000000010000000000000002".parse().unwrap();
        absences.told(name, 10, Absence::End);
        assert_eq!(absences.was_told(name, 11), None);
        assert_eq!(absences.was_told(other, 10), None);
        assert_eq!(absences.was_told(name, 10), Some(Absence::End));
        assert_eq!(absences.was_told(name, 10), None);
    }
}

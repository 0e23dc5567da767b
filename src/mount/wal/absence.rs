//! Who was told that a file does not exist.
//!
//! The printed `restore_command` runs `cp`, and when that fails asks for `.absent/<name>` in the same breath. If the
//! segment arrives between the two, a standby would stop with a fatal error although it was told the truth. So the
//! statement is kept for a moment for the process that started the `cp`: the shell, whose `test` is its own. Every
//! other process, and every look into `wal/`, gets the store's word of now.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::pg::WalName;

/// Far longer than a shell takes from a failed `cp` to `test`, far shorter than a standby's next question (5 s).
const KEPT: Duration = Duration::from_secs(3);

/// The statements of the last moments.
#[derive(Debug, Default)]
pub(super) struct Absences(Mutex<Vec<Told>>);

#[derive(Debug)]
struct Told {
    name: WalName,
    family: u32,
    at: Instant,
}

impl Absences {
    /// Notes that `family` (the parent of the asking process) was told that `name` is absent.
    pub(super) fn told(&self, name: WalName, family: u32) {
        let mut all = self.0.lock().expect("no panic while held");
        all.retain(|told| told.at.elapsed() < KEPT);
        all.push(Told {
            name,
            family,
            at: Instant::now(),
        });
    }

    /// Was a child of `process` told so a moment ago? The statement is used up by the question.
    pub(super) fn was_told(&self, name: WalName, process: u32) -> bool {
        let mut all = self.0.lock().expect("no panic while held");
        all.retain(|told| told.at.elapsed() < KEPT);
        let found = all
            .iter()
            .position(|told| told.name == name && told.family == process);
        found.map(|index| all.swap_remove(index)).is_some()
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
        absences.told(name, 10);
        assert!(!absences.was_told(name, 11));
        assert!(!absences.was_told(other, 10));
        assert!(absences.was_told(name, 10));
        assert!(!absences.was_told(name, 10));
    }
}

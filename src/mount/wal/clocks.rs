//! One deadline a copy (promise W7). A copier asks several questions before it writes, and each may wait for the store:
//! what it has waited already counts.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::pg::WalName;

/// Copies under way; more are rare, and the oldest is forgotten then.
const COPIES: usize = 256;

/// After a deadline the next question of a process about the same file comes at once, if it belongs to the same copy.
const SAME_COPY: Duration = Duration::from_secs(2);

/// What is left for a last try.
const LAST_TRY: Duration = Duration::from_secs(1);

/// When each writer began with its file.
#[derive(Debug, Default)]
pub(super) struct Clocks(Mutex<VecDeque<Clock>>);

#[derive(Debug)]
struct Clock {
    process: u32,
    name: WalName,
    began: Instant,
}

impl Clocks {
    /// When this process began with this file: now, if it had not.
    fn began(&self, process: u32, name: WalName, deadline: Duration) -> Instant {
        let now = Instant::now();
        let mut clocks = self.0.lock().expect("no panic while held");
        clocks.retain(|clock| now < clock.began + deadline + SAME_COPY);
        let known = clocks
            .iter()
            .find(|clock| clock.process == process && clock.name == name);
        if let Some(known) = known {
            return known.began;
        }
        if clocks.len() == COPIES {
            clocks.pop_front();
        }
        let began = now;
        clocks.push_back(Clock { process, name, began });
        began
    }

    /// Until when a process, if it is known, waits for what concerns its file.
    pub(super) fn end(&self, process: Option<u32>, name: WalName, deadline: Duration) -> Instant {
        let began = process.map_or_else(Instant::now, |process| self.began(process, name, deadline));
        began + deadline
    }

    /// What is left of that, a last try at least.
    pub(super) fn left(&self, process: Option<u32>, name: WalName, deadline: Duration) -> Duration {
        let left = self
            .end(process, name, deadline)
            .saturating_duration_since(Instant::now());
        left.max(LAST_TRY.min(deadline))
    }

    /// Is somebody within his time about to bring this file, as far as that was seen?
    pub(super) fn is_running(&self, name: WalName, deadline: Duration) -> bool {
        let clocks = self.0.lock().expect("no panic while held");
        clocks
            .iter()
            .any(|clock| clock.name == name && clock.began.elapsed() < deadline)
    }

    /// The file is archived: who brings it again begins anew.
    pub(super) fn ended(&self, name: WalName) {
        let mut clocks = self.0.lock().expect("no panic while held");
        clocks.retain(|clock| clock.name != name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(45);

    #[test]
    fn a_copy_has_one_clock_until_it_ends() {
        let clocks = Clocks::default();
        let [first, second] = [1, 2].map(|number| format!("0000000100000000{number:08X}").parse().unwrap());
        let began = clocks.began(7, first, DEADLINE);
        assert_eq!(clocks.began(7, first, DEADLINE), began);
        assert_ne!(clocks.began(8, first, DEADLINE), began);
        assert_ne!(clocks.began(7, second, DEADLINE), began);
        clocks.ended(first);
        assert_ne!(clocks.began(7, first, DEADLINE), began);
        for process in 0..2 * COPIES as u32 {
            clocks.began(process, first, DEADLINE);
        }
        assert_eq!(clocks.0.lock().unwrap().len(), COPIES);
    }
}

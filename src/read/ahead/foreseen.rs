//! Counts what reading ahead was good for.

use std::collections::VecDeque;

use crate::pg::WalName;

/// Segments that nobody has asked for yet and that are remembered: more than are ever ahead of a few readers.
const MOST: usize = 256;

/// Segments that were fetched before somebody asked for them.
#[derive(Debug, Default)]
pub(super) struct Foreseen {
    unread: VecDeque<WalName>,
    fetched: u64,
    hits: u64,
}

impl Foreseen {
    /// One is being fetched.
    pub(super) fn fetches(&mut self, name: WalName) {
        self.fetched += 1;
        if self.unread.len() == MOST {
            self.unread.pop_front();
        }
        self.unread.push_back(name);
    }

    /// One is read, which is here or not.
    pub(super) fn reads(&mut self, name: WalName, is_here: bool) {
        if let Some(at) = self.unread.iter().position(|unread| *unread == name) {
            self.unread.remove(at);
            self.hits += u64::from(is_here);
        }
    }

    /// How many were fetched, and how many of these were there when they were read.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.fetched, self.hits)
    }
}

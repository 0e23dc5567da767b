//! What a writer was told a moment ago, where it cannot be seen that it is one: its server runs in a container, or
//! `/proc` is hardened.
//!
//! A `cp` asks for the name twice, by `stat` and on its way to create it, and both look like a reader's questions. So
//! the store's "no such file" is kept for a blink: for the upload itself, which where the store judges races need not
//! look again; and for one more question of the same thread, if it has a number. No restoring process asks for the
//! same name twice in that time: once told that there is no such file it ends, or asks a second later. And as soon as the
//! name is archived here, the answer is forgotten.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::archive::wal::Looked;
use crate::pg::WalName;

/// Far longer than a copier takes from one question to the next, far shorter than a process waits for a file to come.
const BLINK: Duration = Duration::from_millis(20);

/// The answers of the last moments.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Vec<Told>>);

#[derive(Debug)]
struct Told {
    name: WalName,
    thread: u32,
    at: Instant,
    /// Not used up by a second question.
    serves: bool,
    looked: Option<Looked>,
}

impl Recent {
    /// The store has just said that there is no such file; `looked` is the same, if it will do for the
    /// upload.
    pub(super) fn absent(&self, name: WalName, thread: u32, looked: Option<Looked>) {
        self.lately().push(Told {
            name,
            thread,
            at: Instant::now(),
            serves: true,
            looked,
        });
    }

    /// Was this thread told so in this moment, once?
    pub(super) fn was_told(&self, name: WalName, thread: u32) -> bool {
        let mut all = self.lately();
        let told = all
            .iter_mut()
            .find(|told| told.name == name && told.thread == thread && told.serves);
        told.is_some_and(|told| std::mem::take(&mut told.serves))
    }

    /// What it was told, for the upload that begins now.
    pub(super) fn take_look(&self, name: WalName, thread: u32) -> Option<Looked> {
        let mut all = self.lately();
        let told = all
            .iter_mut()
            .find(|told| told.name == name && told.thread == thread);
        told.and_then(|told| told.looked.take())
    }

    /// It is archived.
    pub(super) fn archived(&self, name: WalName) {
        self.lately().retain(|told| told.name != name);
    }

    fn lately(&self) -> std::sync::MutexGuard<'_, Vec<Told>> {
        let mut all = self.0.lock().expect("no panic while held");
        all.retain(|told| told.at.elapsed() < BLINK);
        all
    }
}

//! What may be remembered of names in `wal/`: that a file is archived, because nothing archived changes; and who wrote
//! it. Absence is never remembered.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use moka::future::Cache;

use crate::archive::wal::WalMeta;
use crate::pg::WalName;

/// Long enough for the `open` after a `stat`; short enough that a pruned file is soon known to be gone.
const KEPT: Duration = Duration::from_secs(60);

/// A standby and an archiver need a handful; a reader of a whole listing must not fill the memory.
const NAMES: u64 = 4096;

/// A writer looks its file up again within moments (`install` sets its mode by name), among few others.
const WRITERS: usize = 256;

/// What is known of names.
#[derive(Debug)]
pub(super) struct Presence {
    found: Cache<WalName, WalMeta>,
    /// Process and the name it created, the latest last.
    writers: Mutex<VecDeque<(u32, WalName)>>,
    /// What was brought and archived, the latest last.
    archived: Mutex<VecDeque<WalName>>,
}

impl Default for Presence {
    fn default() -> Self {
        let found = Cache::builder().max_capacity(NAMES).time_to_live(KEPT).build();
        Self {
            found,
            writers: Mutex::default(),
            archived: Mutex::default(),
        }
    }
}

impl Presence {
    /// The store said that it is archived, and what it is.
    pub(super) async fn found(&self, name: WalName, meta: WalMeta) {
        self.found.insert(name, meta).await;
    }

    /// What the store said of it a moment ago.
    pub(super) async fn meta(&self, name: WalName) -> Option<WalMeta> {
        self.found.get(&name).await
    }

    /// A process has created a file of this name.
    pub(super) fn created(&self, name: WalName, process: u32) {
        let mut writers = self.writers.lock().expect("no panic while held");
        if writers.len() == WRITERS {
            writers.pop_front();
        }
        writers.push_back((process, name));
    }

    /// Has this process created a file of this name?
    pub(super) fn was_created_by(&self, name: WalName, process: u32) -> bool {
        self.writers
            .lock()
            .expect("no panic while held")
            .contains(&(process, name))
    }

    /// A file was brought and is archived.
    pub(super) fn archived(&self, name: WalName) {
        let mut archived = self.archived.lock().expect("no panic while held");
        if archived.len() == WRITERS {
            archived.pop_front();
        }
        archived.push_back(name);
    }

    /// Was it brought lately, and archived?
    pub(super) fn was_archived(&self, name: WalName) -> bool {
        self.archived.lock().expect("no panic while held").contains(&name)
    }
}

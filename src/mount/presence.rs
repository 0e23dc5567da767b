//! What is known to be archived: presence may be remembered, because nothing archived changes; absence never is.
//!
//! Saves the second question about a file that has just been looked up, and tells a writer's lookups apart: see
//! [`super::fs::Fs::lookup`].

use std::time::Duration;

use moka::future::Cache;

use crate::archive::wal::WalMeta;
use crate::pg::WalName;

/// Long enough for the `open` after a `stat`; short enough that a pruned file is soon known to be gone.
const KEPT: Duration = Duration::from_secs(60);

/// A standby and an archiver need a handful; a reader of a whole listing must not fill the memory.
const NAMES: u64 = 4096;

/// The names known to be archived.
#[derive(Debug)]
pub struct Presence(Cache<WalName, Option<WalMeta>>);

impl Default for Presence {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(NAMES).time_to_live(KEPT).build())
    }
}

impl Presence {
    /// The store said so, and what it is.
    pub async fn found(&self, name: WalName, meta: WalMeta) {
        self.0.insert(name, Some(meta)).await;
    }

    /// It was archived here a moment ago; what the store says of it has not been asked yet.
    pub async fn archived(&self, name: WalName) {
        self.0.insert(name, None).await;
    }

    /// Is it known to be archived?
    pub async fn is_known(&self, name: WalName) -> bool {
        self.0.get(&name).await.is_some()
    }

    /// What is known of it.
    pub async fn meta(&self, name: WalName) -> Option<WalMeta> {
        self.0.get(&name).await.flatten()
    }
}

//! Leaves of manifests, read and kept within a bound. Of all who want one, one reads it.

use std::hash::Hash;
use std::sync::Arc;

use moka::future::Cache;

use super::Trouble;
use crate::archive::tree::Part;
use crate::archive::tree::manifest::{Entries, EntryLeaf, PartLeaf};

/// What a part takes in memory, with its key.
const PART_BYTES: usize = 256;

/// The leaves last used, by the key of their manifest.
#[derive(Debug)]
pub(super) struct Leaves {
    pub(super) entries: Kept<EntryLeaf, Entries>,
    pub(super) parts: Kept<PartLeaf, Vec<Arc<Part>>>,
}

impl Leaves {
    /// Keeps leaves of so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            entries: Kept::new(bytes / 4 * 3, Entries::held_bytes),
            parts: Kept::new(bytes / 4, |parts: &Vec<Arc<Part>>| parts.len() * PART_BYTES),
        }
    }
}

/// Leaves of one kind.
#[derive(Debug)]
pub(super) struct Kept<K, L>(Cache<(Arc<str>, K), Arc<L>>)
where
    K: Hash + Eq + Send + Sync + 'static,
    L: Send + Sync + 'static;

impl<K, L> Kept<K, L>
where
    K: Copy + Hash + Eq + Send + Sync + 'static,
    L: Send + Sync + 'static,
{
    fn new(bytes: u64, held_bytes: impl Fn(&L) -> usize + Send + Sync + 'static) -> Self {
        let most = u32::try_from(bytes).unwrap_or(u32::MAX);
        let weight = move |_: &(Arc<str>, K), leaf: &Arc<L>| {
            // The one in use is kept, however large.
            u32::try_from(held_bytes(leaf)).unwrap_or(u32::MAX).min(most)
        };
        let kept = Cache::builder().max_capacity(bytes).weigher(weight);
        Self(kept.eviction_policy(moka::policy::EvictionPolicy::lru()).build())
    }

    /// A leaf, from memory or by `read`.
    pub(super) async fn get<R>(
        &self,
        manifest: &Arc<str>,
        leaf: K,
        read: impl Fn() -> R,
    ) -> Result<Arc<L>, Trouble>
    where
        R: Future<Output = Result<L, Trouble>>,
    {
        loop {
            let mut own = false;
            let read = read();
            let read = async {
                own = true;
                read.await.map(Arc::new)
            };
            match self.0.try_get_with((manifest.clone(), leaf), read).await {
                Ok(leaf) => return Ok(leaf),
                Err(trouble) if trouble.is_anothers(own) => {}
                Err(trouble) => return Err((*trouble).clone()),
            }
        }
    }
}

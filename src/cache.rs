//! Blocks of plain bytes, kept in memory up to a bound; blocks of stored bytes, kept on disk if asked.
//!
//! A cache may lose anything at any time, and knows nothing of archives: the caller names a block and passes the
//! future that fetches it. Of many callers that want the same missing block one fetches and all get it. A failure is
//! handed to those who wait and then forgotten; so is an absence: nothing absent is remembered (promise R1).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

pub mod disk;

/// Name of a block: an object, and which piece of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlockId {
    /// The object.
    pub object: Arc<str>,
    /// Which piece, in pieces of a size the caller keeps constant for the object.
    pub piece: u64,
}

/// The cache in memory.
#[derive(Debug, Clone)]
pub struct Cache {
    blocks: moka::future::Cache<(u32, BlockId), Bytes>,
    /// Whose objects are named here: two archives have objects of one name.
    scope: u32,
    /// Blocks that were asked for and here, and those that were fetched.
    counts: Arc<[AtomicU64; 2]>,
}

impl Cache {
    /// Holds at most `bytes` bytes of blocks; a block in use by a reader lives on until it is done.
    pub fn new(bytes: u64) -> Self {
        Self {
            counts: Arc::default(),
            scope: 0,
            blocks: moka::future::Cache::builder()
                .max_capacity(bytes)
                .weigher(|_, block: &Bytes| u32::try_from(block.len()).unwrap_or(u32::MAX))
                // Not the usual TinyLFU: it does not let a new block in that was asked for less often than old ones,
                // and then a restore, which reads each segment in many pieces and never again, fetches it twice.
                .eviction_policy(moka::policy::EvictionPolicy::lru())
                .build(),
        }
    }

    /// The same memory, for the objects of another archive.
    pub fn scoped(&self, scope: u32) -> Self {
        Self {
            scope,
            ..self.clone()
        }
    }

    /// The block, fetched by this or another caller if it is not there.
    ///
    /// # Errors
    /// The fetch's own error, shared between all who waited for it.
    pub async fn get<E: Send + Sync + 'static>(
        &self,
        id: BlockId,
        fetch: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Bytes, Arc<E>> {
        let entry = self
            .blocks
            .entry((self.scope, id))
            .or_try_insert_with(fetch)
            .await?;
        self.count(entry.is_fresh());
        if entry.is_fresh() {
            // Otherwise old blocks go a third of a second later, and a quick reader has ten more by then.
            self.blocks.run_pending_tasks().await;
        }
        Ok(entry.into_value())
    }

    /// The block, if it is here.
    pub async fn find(&self, id: &BlockId) -> Option<Bytes> {
        let found = self.blocks.get(&(self.scope, id.clone())).await;
        if found.is_some() {
            self.count(false);
        }
        found
    }

    fn count(&self, fetched: bool) {
        self.counts[usize::from(fetched)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many blocks were asked for and here so far, and how many had to be fetched.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        let [hits, misses] = &*self.counts;
        (hits.load(Ordering::Relaxed), misses.load(Ordering::Relaxed))
    }

    /// Is the block here? Does not count as a use of it.
    pub fn holds(&self, id: &BlockId) -> bool {
        self.blocks.contains_key(&(self.scope, id.clone()))
    }

    /// Takes a block that was fetched together with others.
    pub async fn put(&self, id: BlockId, block: Bytes) {
        self.blocks.insert((self.scope, id), block).await;
        self.blocks.run_pending_tasks().await;
    }

    /// Forgets a block.
    pub async fn forget(&self, id: &BlockId) {
        self.blocks.invalidate(&(self.scope, id.clone())).await;
    }

    /// Most bytes held.
    pub fn capacity(&self) -> u64 {
        self.blocks.policy().max_capacity().unwrap_or(u64::MAX)
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.blocks.weighted_size()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const BLOCK_BYTES: usize = 1 << 20;

    fn id(piece: u64) -> BlockId {
        let object = "wal/x".into();
        BlockId { object, piece }
    }

    async fn get(cache: &Cache, piece: u64) -> Bytes {
        let fetch = async { Ok::<_, Infallible>(vec![piece as u8; BLOCK_BYTES].into()) };
        cache.get(id(piece), fetch).await.unwrap()
    }

    /// A segment of sixteen MiB is one block and sixteen reads: the block must be there for all of them, however often
    /// the blocks before it were read.
    #[tokio::test]
    async fn the_newest_block_stays_whatever_was_read_before() {
        let cache = Cache::new(3 * BLOCK_BYTES as u64);
        for piece in 0..20 {
            get(&cache, piece).await;
            for _ in 0..15 {
                let fetched_again = async { Err::<Bytes, _>("fetched again") };
                assert_eq!(cache.get(id(piece), fetched_again).await.unwrap()[0], piece as u8);
                cache.blocks.run_pending_tasks().await;
            }
        }
    }

    #[tokio::test]
    async fn no_more_is_held_than_the_bound() {
        let cache = Cache::new(3 * BLOCK_BYTES as u64);
        for piece in 0..20 {
            get(&cache, piece).await;
            assert!(cache.blocks.iter().count() <= 3, "after piece {piece}");
        }
    }
}

//! Blocks of plain bytes, kept in memory up to a bound; blocks of stored bytes, kept on disk if asked.
//!
//! A cache may lose anything at any time, and knows nothing of archives: the caller names a block and passes the
//! future that fetches it. Of many callers that want the same missing block one fetches and all get it. A failure is
//! handed to those who wait and then forgotten; so is an absence: nothing absent is remembered (contract R1).

use std::sync::Arc;

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
pub struct Cache(moka::future::Cache<BlockId, Bytes>);

impl Cache {
    /// Holds at most `bytes` bytes of blocks; a block in use by a reader lives on until it is done.
    pub fn new(bytes: u64) -> Self {
        Self(
            moka::future::Cache::builder()
                .max_capacity(bytes)
                .weigher(|_, block: &Bytes| u32::try_from(block.len()).unwrap_or(u32::MAX))
                .build(),
        )
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
        if let Some(block) = self.0.get(&id).await {
            return Ok(block);
        }
        let found = self.0.try_get_with(id, fetch).await;
        // moka puts eviction off for up to 300 ms, in which a fast store would fill many times the bound.
        self.0.run_pending_tasks().await;
        found
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.0.weighted_size()
    }
}

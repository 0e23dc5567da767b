//! The newest version of a plain file, open to be read.

use async_trait::async_trait;
use bytes::Bytes;

use crate::mount::asker::Asker;
use crate::mount::error::Result;
use crate::mount::room::{AnyFile, OpenFile};

/// Stays the version that it was when it was opened, whatever is written meanwhile. Another opener of the same name may have
/// another version, so nothing of it is for the page cache.
#[derive(Debug)]
pub(super) struct OpenNewest(pub(super) AnyFile);

#[async_trait]
impl OpenFile for OpenNewest {
    async fn read(&self, offset: u64, bytes: usize, asker: Option<&Asker>) -> Result<Bytes> {
        self.0.read(offset, bytes, asker).await
    }
}

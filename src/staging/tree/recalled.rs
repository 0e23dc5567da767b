//! Bundles that somebody reads back while their backup is still being written: fetched whole and kept as they are
//! stored, because whoever reads one small file reads its neighbours next.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::archive::tree::Part;
use crate::archive::{self, Archive};
use crate::codec::{Damage, SeekTable};
use crate::store::{ByteRange, Key, Patience};

/// Parts of at most this size as stored are fetched whole.
pub(super) const WHOLE_BYTES: u64 = 2 << 20;

/// How many are kept.
const KEPT: usize = 2;

/// The last bundles that were read.
#[derive(Debug, Default)]
pub(super) struct Recalled(Mutex<VecDeque<(Key, Arc<Stored>)>>);

/// A whole part.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) table: SeekTable,
    bytes: Bytes,
}

impl Recalled {
    /// The whole part, by one request if it is not at hand. Whoever wants the same meanwhile waits for it.
    ///
    /// # Errors
    /// [`archive::Error::Store`], [`archive::Error::Damaged`].
    pub(super) async fn whole(
        &self,
        archive: &Archive,
        part: &Part,
        patience: Patience,
    ) -> Result<Arc<Stored>, archive::Error> {
        let mut kept = self.0.lock().await;
        if let Some((_, stored)) = kept.iter().find(|(key, _)| *key == part.key) {
            return Ok(stored.clone());
        }
        let range = ByteRange::Span(0..part.stored_bytes);
        let fetched = archive.store().get(&part.key, range, patience).await?;
        let damaged = |damage| archive.damaged(&part.key, damage);
        let table = SeekTable::of_whole(&fetched.bytes).map_err(damaged)?;
        let stored = Arc::new(Stored {
            table,
            bytes: fetched.bytes,
        });
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((part.key.clone(), stored.clone()));
        Ok(stored)
    }
}

impl Stored {
    /// Some of its plain bytes.
    ///
    /// # Errors
    /// Any [`Damage`].
    pub(super) fn unpack(&self, plain: Range<u64>) -> Result<Vec<u8>, Damage> {
        let first = self.table.frames_of(plain.clone()).start;
        let start = self.table.stored_range(first..first).start;
        self.table.unpack_range(plain, &self.bytes[start as usize..])
    }
}

//! Seek tables of parts: fetched once, proved against the manifest, kept within a bound.

use std::sync::Arc;

use moka::future::Cache;

use super::Trouble;
use crate::archive::Archive;
use crate::archive::tree::Part;
use crate::codec::{self, SeekTable, Tail};
use crate::store::{ByteRange, Patience};

/// Memory of all tables: those of some 40 GB of content.
const HELD_BYTES: u64 = 8 << 20;

/// What a table takes for each of its frames.
const FRAME_BYTES_HELD: u64 = 48;

/// The tables last used.
#[derive(Debug)]
pub(super) struct Tables(Cache<Arc<str>, Arc<SeekTable>>);

impl Default for Tables {
    fn default() -> Self {
        let weight = |_: &Arc<str>, table: &Arc<SeekTable>| {
            u32::try_from(256 + table.frames() * FRAME_BYTES_HELD).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(HELD_BYTES).weigher(weight).build())
    }
}

impl Tables {
    /// The table of a part, from memory or by one request.
    pub(super) async fn get(
        &self,
        archive: &Archive,
        part: &Part,
        patience: Patience,
    ) -> Result<Arc<SeekTable>, Trouble> {
        let key = part.key.as_str().into();
        let fetched = self.0.try_get_with(key, fetch(archive, part, patience)).await;
        fetched.map_err(|trouble| (*trouble).clone())
    }

    /// Forgets a table that may have been damaged on its way.
    pub(super) async fn forget(&self, part: &Part) {
        self.0.invalidate(part.key.as_str()).await;
    }
}

async fn fetch(archive: &Archive, part: &Part, patience: Patience) -> Result<Arc<SeekTable>, Trouble> {
    let last = ByteRange::Last(codec::trailer_bytes(part.plain_bytes));
    let tail = archive.store().get(&part.key, last, patience).await?;
    let table = match SeekTable::parse(&tail.bytes, tail.meta.stored_bytes) {
        Ok(Tail::Table(table)) => table,
        Ok(Tail::NeedLast(_)) => return Err(another()),
        Err(damage) => return Err(Trouble::Damaged(damage.to_string())),
    };
    if (table.hash(), table.plain_bytes()) != (part.hash, part.plain_bytes) {
        return Err(another());
    }
    Ok(Arc::new(table))
}

fn another() -> Trouble {
    Trouble::Damaged("it is not the object that the manifest names".into())
}

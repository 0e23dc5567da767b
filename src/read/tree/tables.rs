//! Seek tables of parts: fetched once, proved against the manifest, kept within a bound.
//!
//! A part of few stored bytes (a bundle of small files is one) is fetched whole, by one request, and kept as it is
//! stored in the cache of content: its files may be read in any other order than they lie in, and packed they take a
//! tenth of the memory.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use moka::future::Cache;

use super::{Inner, Trouble};
use crate::archive::tree::Part;
use crate::cache::BlockId;
use crate::codec::{self, SeekTable, Tail};
use crate::store::{ByteRange, Patience};

/// Stored bytes up to which a part is fetched whole: what a few round trips to a distant store cost.
const WHOLE_BYTES: u64 = 2 << 20;

/// Number of no frame: that of the whole part as stored.
const WHOLE: u64 = u64::MAX;

/// Memory of all tables: those of some 20 GB of content.
const HELD_BYTES: u64 = 4 << 20;

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
        reader: &Inner,
        part: &Part,
        patience: Patience,
    ) -> Result<Arc<SeekTable>, Trouble> {
        let key = part.key.as_str().into();
        let fetched = self.0.try_get_with(key, fetch(reader, part, patience)).await;
        fetched.map_err(|trouble| (*trouble).clone())
    }

    async fn forget(&self, part: &Part) {
        self.0.invalidate(part.key.as_str()).await;
    }
}

/// The end of a part, with its table, and how long the whole is.
async fn tail(reader: &Inner, part: &Part, patience: Patience) -> Result<(Bytes, u64), Trouble> {
    if let Some(whole) = reader.whole(part, patience).await? {
        let bytes = whole.len() as u64;
        return Ok((whole, bytes));
    }
    let last = ByteRange::Last(codec::trailer_bytes(part.plain_bytes));
    let tail = reader.archive.store().get(&part.key, last, patience).await?;
    Ok((tail.bytes, tail.meta.stored_bytes))
}

async fn fetch(reader: &Inner, part: &Part, patience: Patience) -> Result<Arc<SeekTable>, Trouble> {
    let (tail, stored_bytes) = tail(reader, part, patience).await?;
    let table = match SeekTable::parse(&tail, stored_bytes) {
        Ok(Tail::Table(table)) => table,
        Ok(Tail::NeedLast(_)) => return Err(another()),
        Err(damage) => return Err(Trouble::Damaged(damage.to_string())),
    };
    if (table.hash(), table.plain_bytes()) != (part.hash, part.plain_bytes) {
        return Err(another());
    }
    Ok(Arc::new(table))
}

impl Inner {
    /// Stored bytes of some frames of a part.
    pub(super) async fn stored(
        &self,
        part: &Part,
        range: Range<u64>,
        patience: Patience,
    ) -> Result<Bytes, Trouble> {
        match self.whole(part, patience).await? {
            Some(whole) if range.end <= whole.len() as u64 => {
                Ok(whole.slice(range.start as usize..range.end as usize))
            }
            Some(_) => Err(another()),
            None => {
                let range = ByteRange::Span(range);
                Ok(self.archive.store().get(&part.key, range, patience).await?.bytes)
            }
        }
    }

    /// All of a part as stored, if that is little.
    async fn whole(&self, part: &Part, patience: Patience) -> Result<Option<Bytes>, Trouble> {
        if part.stored_bytes > WHOLE_BYTES {
            return Ok(None);
        }
        let fetch = async {
            let fetched = self
                .archive
                .store()
                .get(&part.key, ByteRange::Whole, patience)
                .await?;
            // What has grown since is not what was stored, and must not fill the cache.
            if fetched.meta.stored_bytes != part.stored_bytes {
                return Err(another());
            }
            Ok(fetched.bytes)
        };
        let whole = self.cache.get(whole_id(part), fetch).await;
        whole
            .map(Some)
            .map_err(|trouble: Arc<Trouble>| (*trouble).clone())
    }

    /// Forgets what may have been damaged on its way.
    pub(super) async fn forget(&self, part: &Part) {
        self.tables.forget(part).await;
        self.cache.forget(&whole_id(part)).await;
    }
}

fn whole_id(part: &Part) -> BlockId {
    BlockId {
        object: part.key.as_str().into(),
        piece: WHOLE,
    }
}

fn another() -> Trouble {
    Trouble::Damaged("it is not the object that the manifest names".into())
}

//! Seek tables of parts: fetched once, proved against the manifest, kept within a bound.
//!
//! A part of few stored bytes (a bundle of small files is one) is fetched whole, by one request, and kept as it is
//! stored in the cache of content: its files may be read in any other order than they lie in, and packed they take a
//! tenth of the memory. Who reads in order gets somewhat longer ones so, too: of data that compress well a window of
//! frames is a few hundred KiB, and a request takes its time however little it brings.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use moka::future::Cache;

use super::{Inner, Reach, Trouble, WINDOW_BYTES};
use crate::archive::tree::Part;
use crate::cache::BlockId;
use crate::codec::{self, SeekTable, Tail};
use crate::store::{ByteRange, Patience};

/// Stored bytes up to which a part is fetched whole: what a few round trips to a distant store cost.
const WHOLE_BYTES: u64 = 2 << 20;

/// Number of no frame: that of the whole part as stored.
const WHOLE: u64 = u64::MAX;

/// What a table takes for each of its frames.
const FRAME_BYTES_HELD: u64 = 48;

/// The tables last used.
#[derive(Debug)]
pub(super) struct Tables(Cache<Arc<str>, Arc<SeekTable>>);

impl Tables {
    /// Keeps tables of so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let weight = |_: &Arc<str>, table: &Arc<SeekTable>| {
            u32::try_from(256 + table.frames() * FRAME_BYTES_HELD).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(bytes).weigher(weight).build())
    }

    /// The table of a part, from memory or by one request.
    pub(super) async fn get(
        &self,
        reader: &Inner,
        part: &Part,
        reach: Reach,
        patience: Patience,
    ) -> Result<Arc<SeekTable>, Trouble> {
        let key: Arc<str> = part.key.as_str().into();
        loop {
            let mut own = false;
            let fetch = async {
                own = true;
                fetch(reader, part, reach, patience).await
            };
            let fetched = self.0.try_get_with(key.clone(), fetch).await;
            match fetched {
                Ok(table) => return Ok(table),
                Err(trouble) if trouble.is_anothers(own) => {}
                Err(trouble) => return Err((*trouble).clone()),
            }
        }
    }

    async fn forget(&self, part: &Part) {
        self.0.invalidate(part.key.as_str()).await;
    }
}

/// The end of a part, with its table, and how long the whole is.
async fn tail(
    reader: &Inner,
    part: &Part,
    reach: Reach,
    patience: Patience,
) -> Result<(Bytes, u64), Trouble> {
    if let Some(whole) = reader.whole(part, reach, patience).await? {
        let bytes = whole.len() as u64;
        return Ok((whole, bytes));
    }
    let last = ByteRange::Last(codec::trailer_bytes(part.plain_bytes));
    let tail = reader.archive.store().get(&part.key, last, patience).await?;
    Ok((tail.bytes, tail.meta.stored_bytes))
}

async fn fetch(
    reader: &Inner,
    part: &Part,
    reach: Reach,
    patience: Patience,
) -> Result<Arc<SeekTable>, Trouble> {
    let (tail, stored_bytes) = tail(reader, part, reach, patience).await?;
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
        reach: Reach,
        patience: Patience,
    ) -> Result<Bytes, Trouble> {
        match self.whole(part, reach, patience).await? {
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

    /// All of a part as stored, if that is little, or here already.
    pub(super) async fn whole(
        &self,
        part: &Part,
        reach: Reach,
        patience: Patience,
    ) -> Result<Option<Bytes>, Trouble> {
        let most = if reach.in_order { WINDOW_BYTES } else { WHOLE_BYTES };
        if part.stored_bytes > most {
            return Ok(self.cache.find(&whole_id(part)).await);
        }
        loop {
            let mut own = false;
            let fetch = async {
                own = true;
                if let Some(arrival) = self.arrival(part)
                    && let Some(whole) = arrival.whole().await
                {
                    return Ok(whole);
                }
                self.fetch_whole(part, patience).await
            };
            let whole = self.cache.get(whole_id(part), fetch).await;
            match whole {
                Ok(whole) => return Ok(Some(whole)),
                Err(trouble) if trouble.is_anothers(own) => {}
                Err(trouble) => return Err((*trouble).clone()),
            }
        }
    }

    pub(super) async fn fetch_whole(&self, part: &Part, patience: Patience) -> Result<Bytes, Trouble> {
        let fetched = self
            .archive
            .store()
            .get(&part.key, ByteRange::AtMost(part.stored_bytes), patience)
            .await?;
        // What has grown since is not what was stored, and must not fill the cache.
        if fetched.meta.stored_bytes != part.stored_bytes {
            return Err(another());
        }
        Ok(fetched.bytes)
    }

    /// Is a part here whole?
    pub(super) fn has_whole(&self, part: &Part) -> bool {
        self.cache.holds(&whole_id(part))
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

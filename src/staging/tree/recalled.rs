//! Bundles that somebody reads back while their backup is still being written: fetched whole and kept as they are
//! stored, because whoever reads one small file reads its neighbours next.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::archive::tree::Part;
use crate::archive::{self, Archive};
use crate::codec::{Damage, SeekTable, Tail};
use crate::store::{ByteRange, Key, Patience};

/// Parts of at most this size as stored are fetched whole.
pub(super) const WHOLE_BYTES: u64 = 2 << 20;

/// How many are kept.
const KEPT: usize = 2;

/// The last bundles that were read.
#[derive(Debug, Default)]
pub(super) struct Recalled(Mutex<VecDeque<(Key, Arc<Stored>)>>);

/// A part as far as it was fetched: all of it, or some of its frames.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) table: SeekTable,
    /// Where in the part these bytes begin.
    pub(super) start: u64,
    pub(super) bytes: Bytes,
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
        let table = whole_table(&fetched.bytes, fetched.meta.stored_bytes).map_err(damaged)?;
        let stored = Arc::new(Stored {
            table,
            start: 0,
            bytes: fetched.bytes,
        });
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((part.key.clone(), stored.clone()));
        Ok(stored)
    }
}

fn whole_table(object: &[u8], object_bytes: u64) -> Result<SeekTable, Damage> {
    match SeekTable::parse(object, object_bytes)? {
        Tail::Table(table) => Ok(table),
        Tail::NeedLast(needed_bytes) => Err(Damage::ObjectTooShort {
            object_bytes,
            needed_bytes,
        }),
    }
}

impl Stored {
    /// Plain bytes of frames that are at hand.
    ///
    /// # Errors
    /// Any [`Damage`].
    pub(super) fn unpack(&self, plain: Range<u64>) -> Result<Vec<u8>, Damage> {
        let mut out = Vec::with_capacity((plain.end - plain.start) as usize);
        for frame in self.table.frames_of(plain.clone()) {
            let (from, place) = (
                self.table.stored_range(frame..frame + 1),
                self.table.plain_range(frame),
            );
            let mut bytes = vec![0; (place.end - place.start) as usize];
            let within = (from.start - self.start) as usize..(from.end - self.start) as usize;
            self.table.unpack(frame, &self.bytes[within], &mut bytes)?;
            let start = plain.start.saturating_sub(place.start) as usize;
            let end = (plain.end.min(place.end) - place.start) as usize;
            out.extend_from_slice(&bytes[start..end]);
        }
        Ok(out)
    }
}

//! What lies beside the content of an object: with its seek table mostly, which is asked for with some bytes before it.

use bytes::Bytes;

use crate::codec::SeekTable;
use crate::store::{self, ByteRange, Fetched, Key, Patience, Store};

/// The annex of an object, as it is stored: from its last bytes, which were fetched, or by one more request.
pub(super) async fn stored_annex(
    store: &Store,
    key: &Key,
    tail: &Fetched,
    table: &SeekTable,
    patience: Patience,
) -> Result<Bytes, store::Error> {
    let annex = table.annex_range();
    let begins = tail.meta.stored_bytes - tail.bytes.len() as u64;
    match annex.start.checked_sub(begins) {
        Some(within) => Ok(tail.bytes.slice(within as usize..(annex.end - begins) as usize)),
        None => Ok(store.get(key, ByteRange::Span(annex), patience).await?.bytes),
    }
}

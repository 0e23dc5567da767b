//! Does this store keep the condition "only if absent"?
//!
//! Some S3 servers take `If-None-Match: *`, answer 200 and overwrite; some honour it on one request and not on the
//! other. A 200 proves nothing, so the same key is written twice in each way. It does not prove that racing writers
//! get one winner: a server may check and write in two steps.

use bytes::Bytes;

use super::{Error, ErrorKind, Key, Patience, PutMode, Store};

/// Which writes keep [`PutMode::IfAbsent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// [`Store::put`] does.
    pub put: bool,
    /// [`Store::put_large`] does.
    pub complete: bool,
}

/// Finds out which writes keep [`PutMode::IfAbsent`], with an object under `probe/` that is deleted again.
///
/// # Errors
/// Those of an unconditional write: the store cannot be written at all, or gives no answer.
pub async fn probe(store: &Store, patience: Patience) -> Result<Conditions, Error> {
    if let Some(known) = store.conditions_known() {
        return Ok(known);
    }
    let key = Key::new(format!("probe/{:016x}", fastrand::u64(..)));
    store
        .put(&key, Bytes::from_static(b"first"), PutMode::Overwrite, patience)
        .await?;
    let found = try_both(store, &key, patience).await;
    let deleted = store.delete(&[key], patience).await;
    let found = found?;
    deleted?;
    Ok(found)
}

async fn try_both(store: &Store, key: &Key, patience: Patience) -> Result<Conditions, Error> {
    let second = Bytes::from_static(b"second");
    let put = store.put(key, second.clone(), PutMode::IfAbsent, patience).await;
    let parts = futures::stream::iter([Ok(second)]);
    let complete = store.put_large(key, parts, PutMode::IfAbsent, patience).await;
    Ok(Conditions {
        put: was_kept(put)?,
        complete: was_kept(complete)?,
    })
}

/// Success means ignored. A server that refuses the header as unknown does not keep it either.
fn was_kept(outcome: Result<(), Error>) -> Result<bool, Error> {
    match outcome {
        Ok(()) => Ok(false),
        Err(error) => match error.kind {
            ErrorKind::AlreadyExists => Ok(true),
            ErrorKind::Permanent => Ok(false),
            _ => Err(error),
        },
    }
}

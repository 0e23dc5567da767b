//! Why a tree was not completed when its maker wanted that: kept in its folder, for those who list the backups and
//! cannot ask the mount.
//!
//! `refused.00001.json`, the next one with the next number: an object is never written twice. Its maker removes it when
//! it is no longer so, and before the tree exists; the sweep removes it with everything else.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::TreeId;
use crate::archive::{Archive, Error};
use crate::store::{ByteRange, ErrorKind, Key, Patience, PutMode};

/// The longest word of who is at a tree, or of why it was not completed.
pub(super) const WORD_BYTES: u64 = 1 << 20;

const REFUSED: &str = "refused.";

/// The word itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// When that was.
    pub at: Timestamp,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// The key of a tree's word with that number.
pub fn key(id: &TreeId, number: u32) -> Key {
    id.key(&format!("{REFUSED}{number:05}.json"))
}

impl Archive {
    /// Stores the word of an unfinished tree. For its maker only.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn put_refused(&self, key: &Key, refused: &Refused, patience: Patience) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(refused).expect("plain data becomes JSON");
        let put = self.store().put(key, text.into(), PutMode::Overwrite, patience);
        Ok(put.await?)
    }

    /// The last word among a tree's objects, if it can be read.
    pub(super) async fn last_refused<'a>(
        &self,
        id: &TreeId,
        keys: impl Iterator<Item = &'a Key>,
        patience: Patience,
    ) -> Result<Option<Refused>, Error> {
        let prefix = format!("{}{REFUSED}", id.prefix());
        let Some(last) = keys.filter(|key| key.as_str().starts_with(&prefix)).max() else {
            return Ok(None);
        };
        match self
            .store()
            .get(last, ByteRange::AtMost(WORD_BYTES), patience)
            .await
        {
            Ok(fetched) => Ok(serde_json::from_slice(&fetched.bytes).ok()),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Damaged) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

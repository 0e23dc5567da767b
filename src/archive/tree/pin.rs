//! Backups that are kept whatever the rules of a prune say: `pins/<name>.json`, with a reason.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::refused::WORD_BYTES;
use super::{TreeId, TreeName};
use crate::archive::{Archive, Error};
use crate::store::{ByteRange, ErrorKind, Key, Patience, PutMode};

const PINS: &str = "pins/";

/// Why a backup stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its folder: a later backup of the same name is not meant.
    pub id: String,
    /// Since when.
    pub at: Timestamp,
    /// Until when; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why, in the operator's words.
    pub reason: String,
}

fn key(name: &TreeName) -> Key {
    Key::new(format!("{PINS}{name}.json"))
}

impl Archive {
    /// Pins a backup. False if a prune may be about to remove it: whether it stays is not known then.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn pin(&self, id: &TreeId, pin: &Pin, patience: Patience) -> Result<bool, Error> {
        let text = serde_json::to_vec_pretty(pin).expect("plain data becomes JSON");
        let key = key(&id.name());
        self.store()
            .put(&key, text.into(), PutMode::Overwrite, patience)
            .await?;
        let orders = self.orders(patience).await?;
        Ok(!orders.iter().any(|order| order.concerns(id)))
    }

    /// Takes the pin of that name away. False if there is none.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn unpin(&self, name: &TreeName, patience: Patience) -> Result<bool, Error> {
        let key = key(name);
        match self.store().head(&key, patience).await {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(false),
            looked => looked?,
        };
        self.store().delete(&[key], patience).await?;
        Ok(true)
    }

    /// All pins, by the name of their backup. One that cannot be read pins whatever has its name, for ever.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn pins(&self, patience: Patience) -> Result<Vec<(TreeName, Option<Pin>)>, Error> {
        let mut pins = Vec::new();
        for (key, _) in self.list_all(PINS, patience).await? {
            let name = key.as_str().strip_prefix(PINS);
            let name = name
                .and_then(|name| name.strip_suffix(".json"))
                .and_then(|name| name.parse().ok());
            let Some(name) = name else { continue };
            let most = ByteRange::AtMost(WORD_BYTES);
            let pin = match self.store().get(&key, most, patience).await {
                Ok(fetched) => serde_json::from_slice(&fetched.bytes).ok(),
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                Err(error) if error.kind == ErrorKind::Damaged => None,
                Err(error) => return Err(error.into()),
            };
            pins.push((name, pin));
        }
        Ok(pins)
    }
}

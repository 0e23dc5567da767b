//! Backups that are kept whatever the rules of a prune say: `pins/<name>.json`, with a reason.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::refused::WORD_BYTES;
use super::{TreeId, TreeName};
use crate::archive::{Archive, Error};
use crate::store::{ByteRange, ErrorKind, Key, Patience, PutMode};

/// Folder of the pins.
pub(in crate::archive) const PINS: &str = "pins";

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

impl Pin {
    /// What the object of a name says. Another backup's is none of it.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn parse(name: &TreeName, text: &[u8]) -> Result<Self, String> {
        let pin: Self = serde_json::from_slice(text).map_err(|error| format!("it is no pin: {error}"))?;
        match TreeId::parse(&pin.id) {
            Some(id) if id.name() == *name => Ok(pin),
            _ => Err(format!(
                "it pins {:?}, which is no folder of a backup {name}",
                pin.id
            )),
        }
    }

    /// Does it hold no more?
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until < now)
    }
}

/// The key of the pin of a backup.
pub fn key(name: &TreeName) -> Key {
    Key::new(format!("{PINS}/{name}.json"))
}

/// The backup that a pin's key names.
pub(in crate::archive) fn named(key: &Key) -> Option<TreeName> {
    let name = key.as_str().strip_prefix(PINS)?.strip_prefix('/')?;
    name.strip_suffix(".json")?.parse().ok()
}

/// A pin, or why it cannot be read.
pub type Found = (TreeName, Result<Pin, String>);

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
    pub async fn pins(&self, patience: Patience) -> Result<Vec<Found>, Error> {
        let mut pins = Vec::new();
        for (key, _) in self.list_all(&format!("{PINS}/"), patience).await? {
            if let Some(name) = named(&key)
                && let Some(pin) = self.read_pin(&name, patience).await?
            {
                pins.push((name, pin));
            }
        }
        Ok(pins)
    }

    /// The pin of that name, or why it cannot be read; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn read_pin(
        &self,
        name: &TreeName,
        patience: Patience,
    ) -> Result<Option<Result<Pin, String>>, Error> {
        let most = ByteRange::AtMost(WORD_BYTES);
        match self.store().get(&key(name), most, patience).await {
            Ok(fetched) => Ok(Some(Pin::parse(name, &fetched.bytes))),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind == ErrorKind::Damaged => Ok(Some(Err(error.message))),
            Err(error) => Err(error.into()),
        }
    }
}

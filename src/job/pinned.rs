//! Which backups are pinned, and why.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::archive::tree::pin;
use crate::archive::{Archive, Error};
use crate::store::Patience;

use super::listing::{Listed, State};

/// Why a backup stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// In the operator's words; or why they cannot be read.
    pub reason: String,
    /// Until when; for ever if absent.
    pub until: Option<Timestamp>,
}

/// All pins of an archive.
#[derive(Debug)]
pub struct Pins(Vec<pin::Found>);

impl Pins {
    /// Those that hold at `now`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn read(archive: &Archive, now: Timestamp, patience: Patience) -> Result<Self, Error> {
        let mut pins = archive.pins(patience).await?;
        pins.retain(|(_, pin)| !pin.as_ref().is_ok_and(|pin| pin.is_over(now)));
        Ok(Self(pins))
    }

    /// Why this backup is pinned, one of those that there are. A pin that cannot be read, or means none of them, pins what has
    /// its name, if that has a summary.
    pub fn of(&self, listed: &Listed, all: &BTreeSet<String>) -> Option<Pinned> {
        let id = listed.id();
        let is_unfinished = matches!(listed.state, State::Unfinished(..));
        let (_, pin) = self.0.iter().find(|(name, _)| *name == listed.name)?;
        let means = match pin {
            Ok(pin) if id.as_ref() == Some(&pin.id) => true,
            Ok(pin) => !is_unfinished && (id.is_none() || !all.contains(&pin.id)),
            Err(_) => !is_unfinished,
        };
        means.then(|| match pin {
            Ok(pin) => Pinned {
                reason: pin.reason.clone(),
                until: pin.until,
            },
            Err(reason) => Pinned {
                reason: format!("its pin cannot be read: {reason}"),
                until: None,
            },
        })
    }
}

/// Folders of all that there is.
pub fn ids(listed: &[Listed]) -> BTreeSet<String> {
    listed.iter().filter_map(Listed::id).collect()
}

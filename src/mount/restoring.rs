//! What those who read are told of a file in `wal/`, and for how long they wait for it.

use crate::archive::wal::WalMeta;
use crate::pg::WalName;
use crate::store::Patience;

use super::asker::{Asker, Intent};
use super::error::Error;
use super::fs::{Fs, Result};

impl Fs {
    /// Who seems to write gets an error after the deadline; whoever may be restoring waits for as long as it takes.
    fn patience(&self, intent: Intent) -> Patience {
        match intent {
            Intent::Writes | Intent::SeemsToWrite => Patience::for_at_most(self.options.deadline),
            Intent::Reads | Intent::Unknown => self.read_patience(),
        }
    }

    /// What the store says of a file. "No such file" is its own word of now. To a copier that will read all of it the
    /// answer comes with the bytes.
    pub(super) async fn archived_meta(&self, name: WalName, asker: Option<&Asker>) -> Result<WalMeta> {
        let intent = asker.map_or(Intent::Unknown, |asker| self.intent(name, asker));
        let wait = self
            .reader
            .meta(name, intent == Intent::Reads, self.patience(intent));
        let looked = self.archive.begin_look(name);
        match self.while_wanted(asker, wait).await?? {
            Some(meta) => {
                self.presence.found(name, meta).await;
                Ok(meta)
            }
            // Some of it may have been received.
            None if matches!(name, WalName::Partial(_)) => Err(Error::NotFound),
            None => {
                self.told_absent(name, asker, looked);
                if let Some(family) = asker.and_then(Asker::parent) {
                    self.absences.told(name, family);
                }
                Err(Error::NotFound)
            }
        }
    }

    /// The same, if it was found a moment ago without asking.
    pub(super) async fn known_meta(&self, name: WalName, asker: Option<&Asker>) -> Result<WalMeta> {
        match self.presence.meta(name).await {
            Some(meta) => Ok(meta),
            None => self.archived_meta(name, asker).await,
        }
    }

    pub(super) fn read_patience(&self) -> Patience {
        self.options
            .read_deadline
            .map_or(Patience::Forever, Patience::for_at_most)
    }
}

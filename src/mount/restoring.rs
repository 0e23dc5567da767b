//! What those who read are told of a file in `wal/`, and for how long they wait for it.

use std::time::Duration;

use crate::archive::wal::WalMeta;
use crate::pg::WalName;
use crate::store::Patience;

use super::asker::{Asker, Intent};
use super::error::Error;
use super::fs::{Fs, Result};
use super::node::{Attributes, Kept, Kind, Node};

/// How long a lookup waits. The kernel holds the directory meanwhile, and behind a lookup that creates all others wait;
/// so a name that is not settled by then is answered as if it were there, and who wants its attributes or its bytes
/// waits for the store's word with nothing held.
const PROMPT: Duration = Duration::from_secs(1);

impl Fs {
    /// Who seems to write gets an error after the deadline; whoever may be restoring waits for as long as it takes.
    fn patience(&self, intent: Intent, name: WalName, asker: Option<&Asker>) -> Patience {
        match intent {
            Intent::Writes | Intent::SeemsToWrite => Patience::Until(self.writers_end(name, asker)),
            Intent::Reads | Intent::Unknown => self.read_patience(),
        }
    }

    /// What the store says of a file. "No such file" is its own word of now. To a copier that will read all of it the
    /// answer comes with the bytes.
    pub(super) async fn archived_meta(&self, name: WalName, asker: Option<&Asker>) -> Result<WalMeta> {
        let intent = asker.map_or(Intent::Unknown, |asker| self.intent(name, asker));
        let patience = self.patience(intent, name, asker);
        let wait = self.reader.meta(name, intent == Intent::Reads, patience);
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

    /// Attributes of a file that is not settled yet are those of a moment, as if it were there.
    pub(super) async fn within_moment(
        &self,
        name: WalName,
        found: impl Future<Output = Result<Attributes>>,
    ) -> Result<Attributes> {
        let found = tokio::time::timeout(PROMPT, found).await;
        found.unwrap_or_else(|_| Ok(self.pending_attributes(name)))
    }

    /// Of an archived file, or else of what is received of one.
    pub(super) async fn found_attributes(
        &self,
        name: WalName,
        asker: Option<&Asker>,
        archived: impl Future<Output = Result<WalMeta>>,
    ) -> Result<Attributes> {
        match archived.await {
            Err(Error::NotFound) => self.received_attributes(name, asker).await,
            found => Ok(self.archived_attributes(name, &found?)),
        }
    }

    /// Of whom nothing can be seen, that may be a writer, who must not wait for ever before it opens the file; whoever
    /// opens it to read waits then.
    pub(super) async fn archived_attributes_for(
        &self,
        name: WalName,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        let found = self.found_attributes(name, asker, self.known_meta(name, asker));
        if asker.is_none_or(|asker| asker.program().is_none()) {
            return self.within_moment(name, found).await;
        }
        found.await
    }

    /// Of a file that the store has not told us of in time: nothing may be kept, everything is asked again.
    fn pending_attributes(&self, name: WalName) -> Attributes {
        Attributes {
            ino: self.inodes.number(Node::Archived(name)),
            kind: Kind::File,
            bytes: 0,
            modified: self.mounted_at.into(),
            mode: 0o600,
            owner: None,
            kept: Kept::Never,
        }
    }
}

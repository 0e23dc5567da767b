//! Lookups in `wal/`: a file being written, an archived one, or what is received of one; and how long they wait.

use std::ffi::OsStr;
use std::time::Duration;

use crate::archive::wal::WalMeta;
use crate::mount::asker::Asker;
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Kept, Node};
use crate::pg::WalName;

use super::Wal;
use super::absence::Absence;
use super::archived::wal_name;

/// How long a lookup waits. The kernel holds the directory meanwhile, and behind a lookup that creates all others wait;
/// so a name that is not settled by then is answered as if it were there, and who wants its attributes or its bytes
/// waits for the store's word with nothing held.
const PROMPT: Duration = Duration::from_secs(1);

impl Wal {
    /// Finds a name in `wal/` itself.
    pub(super) async fn lookup_name(&self, name: &OsStr, asker: Option<&Asker>) -> Result<Attributes> {
        if let Some(writing) = name.to_str().and_then(|name| self.writings.find(name)) {
            return Ok(writing.attributes());
        }
        let Some(name) = wal_name(name) else {
            return self.folder_attributes(self.folders.number(name).ok_or(Error::NotFound)?);
        };
        if self.archived.is_absent_for(name, asker) {
            return Err(Error::NotFound);
        }
        let found = self.found_attributes(name, asker, self.archived.meta(name, asker));
        self.within_moment(name, found).await
    }

    /// Attributes of a folder, while it is there.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn folder_attributes(&self, number: u32) -> Result<Attributes> {
        self.folders.name(number).ok_or(Error::NotFound)?;
        Ok(Attributes {
            kept: Kept::Never,
            ..self.common.directory(Node::Folder(number))
        })
    }

    /// Attributes of a file that is not settled yet are those of a moment, as if it were there.
    async fn within_moment(
        &self,
        name: WalName,
        found: impl Future<Output = Result<Attributes>>,
    ) -> Result<Attributes> {
        let found = tokio::time::timeout(PROMPT, found).await;
        found.unwrap_or_else(|_| Ok(self.pending_attributes(name)))
    }

    /// Of an archived file, or else of what is received of one.
    async fn found_attributes(
        &self,
        name: WalName,
        asker: Option<&Asker>,
        archived: impl Future<Output = Result<WalMeta>>,
    ) -> Result<Attributes> {
        match archived.await {
            Err(Error::NotFound) => self.received_attributes(name, asker).await,
            found => Ok(self.archived.attributes(name, &found?)),
        }
    }

    /// Of what `stat` shows. A process of which nothing can be seen may be a writer, which must not wait for ever before it
    /// opens the file. If it is a reader, its opening waits.
    pub(super) async fn attributes_for(&self, name: WalName, asker: Option<&Asker>) -> Result<Attributes> {
        let found = self.found_attributes(name, asker, self.archived.known_meta(name, asker));
        if asker.is_none_or(|asker| asker.program().is_none()) {
            return self.within_moment(name, found).await;
        }
        found.await
    }

    /// Of a file that the store has not told us of in time: nothing may be kept, everything is asked again.
    fn pending_attributes(&self, name: WalName) -> Attributes {
        Attributes {
            mode: 0o600,
            ..self.common.file(Node::Archived(name), 0)
        }
    }

    /// Has the store said that there is no such file, and nothing later of its timeline (promise R6)? For `.absent/`.
    ///
    /// # Errors
    /// [`Error::Archive`]: it says nothing within the deadline.
    pub(in crate::mount) async fn is_absent(&self, name: WalName, asker: Option<&Asker>) -> Result<bool> {
        let patience = self.common.prompt_patience();
        match self.archived.told_to_family(name, asker) {
            Some(Absence::End) => return Ok(true),
            Some(Absence::Hole) => return Ok(false),
            Some(Absence::Bare) => {
                // What has come since does not make untrue what was said.
                let absence = self.archived.absence(name, asker, patience).await?;
                return Ok(absence != Some(Absence::Hole));
            }
            None => {}
        }
        let found = self.common.archive.wal_meta(name, patience);
        if self.common.while_wanted(asker, found).await??.is_some() {
            return Ok(false);
        }
        match self.received_attributes(name, asker).await {
            Ok(_) => Ok(false),
            Err(Error::NotFound) => {
                let absence = self.archived.absence(name, asker, patience).await?;
                Ok(absence == Some(Absence::End))
            }
            Err(error) => Err(error),
        }
    }
}

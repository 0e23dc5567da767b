//! The archived files: what the store says of a name, who is told so, and for how long each waits for it.
//!
//! To a process that is about to bring a file it is not there, whatever the store has: what is brought is compared with
//! what is archived before anything is stored.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use crate::ahead::Ahead;
use crate::archive;
use crate::archive::wal::{Committed, Looked, WalMeta};
use crate::mount::asker::{Asker, Intent};
use crate::mount::common::Common;
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Kept, Kind, Node};
use crate::mount::room::{AnyFile, FilesOf, OpenFile};
use crate::pg::WalName;
use crate::staging::wal::WalDraft;
use crate::store::Patience;

use super::absence::{Absence, Absences};
use super::clocks::Clocks;
use super::holes::Named;
use super::presence::Presence;
use super::recent::Recent;

/// The archived files, as this mount knows them.
#[derive(Debug)]
pub(in crate::mount) struct Archived {
    pub(super) common: Arc<Common>,
    presence: Presence,
    absences: Absences,
    recent: Recent,
    pub(super) clocks: Clocks,
    pub(super) named: Named,
    ahead: Option<Arc<Ahead>>,
}

impl Archived {
    pub(in crate::mount) fn new(common: Arc<Common>, ahead: Option<Arc<Ahead>>) -> Self {
        Self {
            common,
            presence: Presence::default(),
            absences: Absences::default(),
            recent: Recent::default(),
            clocks: Clocks::default(),
            named: Named::default(),
            ahead,
        }
    }

    /// Is the file not there for this process, because it is about to bring it, or was told so a moment ago?
    pub(super) fn is_absent_for(&self, name: WalName, asker: Option<&Asker>) -> bool {
        self.is_for_creating(name, asker)
            || self.is_yet_to_come(name, asker)
            || self.was_told_absent(name, asker)
    }

    /// Is this the lookup of a known copier that is about to create the name? Then the store need not be asked: what it
    /// writes is compared with what is there before anything is stored, whatever the lookup said. The archiver's
    /// lookups cost nothing that way. What the process has created itself it is told the truth about.
    fn is_for_creating(&self, name: WalName, asker: Option<&Asker>) -> bool {
        let created = |asker: &Asker| {
            asker
                .tgid()
                .is_some_and(|process| self.presence.was_created_by(name, process))
        };
        asker.is_some_and(|asker| self.intent(name, asker) == Intent::Writes && !created(asker))
    }

    /// Is this an archive command asking after the file that it is to bring? That may have been sent ahead, now or before
    /// a restart, and `test ! -f wal/%f && cp ...` would refuse it for ever. What is brought is compared all the same. A
    /// server that restores is told the truth.
    fn is_yet_to_come(&self, name: WalName, asker: Option<&Asker>) -> bool {
        let (Some(ahead), Some(asker)) = (&self.ahead, asker) else {
            return false;
        };
        let writes = || ahead.is_ahead(name) && self.intent(name, asker) == Intent::SeemsToWrite;
        !self.presence.was_archived(name) && (writes() || asker.is_archiving(&name.to_string()))
    }

    /// Was that said to the same thread just now? One in another pid namespace has no number.
    fn was_told_absent(&self, name: WalName, asker: Option<&Asker>) -> bool {
        asker.is_some_and(|asker| self.recent.was_told(name, asker.thread()))
    }

    /// What a process that this one started was told a moment ago, if it was. The statement is used up by the question.
    pub(super) fn told_to_family(&self, name: WalName, asker: Option<&Asker>) -> Option<Absence> {
        let process = asker.and_then(Asker::tgid);
        process.and_then(|process| self.absences.was_told(name, process))
    }

    /// The store's word may serve once more, if it cannot be seen who was told it, and the upload's look as well, if the
    /// store will judge what is written; and for `.absent/`.
    fn told_absent(&self, name: WalName, asker: Option<&Asker>, looked: Looked, absence: Absence) {
        if asker.is_none_or(Asker::is_hidden) {
            let looked = Some(looked).filter(|_| self.common.archive.marker().put_if_absent);
            self.recent.absent(name, thread(asker), looked);
        }
        if let Some(family) = asker.and_then(Asker::parent) {
            self.absences.told(name, family, absence);
        }
    }

    /// What the process seems to want of a name in `wal/`.
    fn intent(&self, name: WalName, asker: &Asker) -> Intent {
        asker.intent(&self.common.options.mountpoint, "wal", &name.to_string())
    }

    /// A process that seems to write gets an error after the deadline; one that may be restoring waits for as long as it
    /// takes.
    fn patience(&self, intent: Intent, name: WalName, asker: Option<&Asker>) -> Patience {
        match intent {
            Intent::Writes | Intent::SeemsToWrite => Patience::Until(self.writers_end(name, asker)),
            Intent::Reads | Intent::Unknown => self.common.read_patience(),
        }
    }

    /// Until when a writer waits for what concerns this file.
    fn writers_end(&self, name: WalName, asker: Option<&Asker>) -> Instant {
        let process = asker.and_then(Asker::tgid);
        self.clocks.end(process, name, self.common.options.deadline)
    }

    /// What is left of that, a last try at least.
    pub(super) fn writers_deadline(&self, name: WalName, asker: Option<&Asker>) -> Duration {
        let process = asker.and_then(Asker::tgid);
        self.clocks.left(process, name, self.common.options.deadline)
    }

    /// What the store says of a file. "No such file" is its own word of now. To a copier that will read all of it the
    /// answer comes with the bytes; and a hole is waited for a moment, and named.
    pub(super) async fn meta(self: &Arc<Self>, name: WalName, asker: Option<&Asker>) -> Result<WalMeta> {
        let intent = asker.map_or(Intent::Unknown, |asker| self.intent(name, asker));
        let patience = self.patience(intent, name, asker);
        let reader = &self.common.reader;
        loop {
            let wait = reader.meta(name, intent == Intent::Reads, patience);
            let looked = self.common.archive.begin_look(name);
            if let Some(meta) = self.common.while_wanted(asker, wait).await?? {
                self.presence.found(name, meta).await;
                return Ok(meta);
            }
            let absence = match intent {
                Intent::Reads => self.absence(name, asker, patience).await?,
                Intent::Writes | Intent::SeemsToWrite | Intent::Unknown => Some(Absence::Bare),
            };
            // It has come meanwhile.
            let Some(absence) = absence else { continue };
            // Of a `.partial` some may have been received.
            if !matches!(name, WalName::Partial(_)) {
                self.told_absent(name, asker, looked, absence);
            }
            return Err(Error::NotFound);
        }
    }

    /// The same, if it was found a moment ago without asking.
    pub(in crate::mount) async fn known_meta(
        self: &Arc<Self>,
        name: WalName,
        asker: Option<&Asker>,
    ) -> Result<WalMeta> {
        match self.presence.meta(name).await {
            Some(meta) => Ok(meta),
            None => self.meta(name, asker).await,
        }
    }

    /// The same for a listing, which has a deadline. That a file is absent is not noted.
    pub(in crate::mount) async fn meta_for_listing(&self, name: WalName) -> Result<Option<WalMeta>> {
        if let Some(meta) = self.presence.meta(name).await {
            return Ok(Some(meta));
        }
        let patience = self.common.prompt_patience();
        let meta = self.common.archive.wal_meta(name, patience).await?;
        if let Some(meta) = meta {
            self.presence.found(name, meta).await;
        }
        Ok(meta)
    }

    pub(in crate::mount) fn attributes(&self, name: WalName, meta: &WalMeta) -> Attributes {
        Attributes {
            ino: self.common.inodes.number(Node::Archived(name)),
            kind: Kind::File,
            bytes: meta.bytes,
            modified: meta.modified,
            // Writable in its bits, so that a second `cp` gets as far as the comparison of contents.
            mode: 0o600,
            owner: None,
            // What was sent ahead is not shown to those who bring it, so the kernel must ask for each of them.
            kept: match self.is_ahead(name) {
                true => Kept::Never,
                false => Kept::AWhile,
            },
        }
    }

    /// Opens a file to read it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Archive`].
    pub(in crate::mount) async fn open(
        self: &Arc<Self>,
        name: WalName,
        asker: Option<&Asker>,
    ) -> Result<AnyFile> {
        let bytes = self.known_meta(name, asker).await?.bytes;
        let common = self.common.clone();
        Ok(Arc::new(OpenArchived { common, name, bytes }))
    }

    /// Was it sent ahead, and not brought yet?
    pub(super) fn is_ahead(&self, name: WalName) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.is_ahead(name))
    }

    /// A file that is brought now may have been sent ahead.
    pub(super) fn brought(&self, draft: WalDraft, asker: Option<&Asker>) -> WalDraft {
        let (name, asker) = (draft.name(), asker.cloned());
        let origin = move || asker?.origin(&name.to_string());
        let brought = self.ahead.as_ref().and_then(|ahead| ahead.brought(name, origin));
        let Some((forerunner, followers)) = brought else {
            return draft;
        };
        let draft = draft.leading(followers);
        match forerunner {
            Some(forerunner) => draft.following(forerunner, &self.common.staging),
            None => draft,
        }
    }

    /// A process begins to bring a file. It may have taken the look at the name already.
    pub(super) fn created(&self, draft: WalDraft, asker: Option<&Asker>, opener: u32) -> WalDraft {
        self.presence.created(draft.name(), opener);
        match self.recent.take_look(draft.name(), thread(asker)) {
            Some(looked) => draft.looked(async { Some(looked) }),
            None => draft,
        }
    }

    /// A file of so many plain bytes was brought and is archived.
    pub(super) fn note_archived(&self, name: WalName, bytes: u64, committed: Committed) {
        let uploaded = committed == Committed::Stored;
        self.common.metrics.archived(name.to_string(), bytes, uploaded);
        self.presence.archived(name);
        self.clocks.ended(name);
        self.recent.archived(name);
        let how = match uploaded {
            true => "archived",
            false => "archived before, the same:",
        };
        tracing::info!("{how} {name}");
    }
}

/// 0 in other pid namespaces.
fn thread(asker: Option<&Asker>) -> u32 {
    asker.map_or(0, Asker::thread)
}

pub(in crate::mount) fn wal_name(name: &OsStr) -> Option<WalName> {
    name.to_str()?.parse().ok()
}

/// What may be said of a name without asking the store, which would hold the directory: the kernel has just looked it
/// up.
pub(super) fn not_being_written(name: &OsStr) -> Error {
    match wal_name(name) {
        Some(name) => Error::immutable(name.to_string()),
        None => Error::NotFound,
    }
}

/// An archived file that is open for reading.
#[derive(Debug)]
struct OpenArchived {
    common: Arc<Common>,
    name: WalName,
    bytes: u64,
}

#[async_trait]
impl OpenFile for OpenArchived {
    async fn read(&self, offset: u64, bytes: usize, asker: Option<&Asker>) -> Result<Bytes> {
        let (reader, patience) = (&self.common.reader, self.common.read_patience());
        let read = reader.read(self.name, self.bytes, offset, bytes, patience);
        self.common.read(asker, read).await
    }

    /// The same bytes may be written again. `pg_receivewal` goes on in a `.partial` that a promoted server has archived, and
    /// fills in what is there.
    async fn write(&self, offset: u64, data: &Bytes, _: FilesOf, asker: Option<&Asker>) -> Result<()> {
        let (common, name) = (&self.common, self.name);
        let end = offset.saturating_add(data.len() as u64);
        if !matches!(name, WalName::Partial(_)) || end > self.bytes {
            return Err(Error::immutable(name.to_string()));
        }
        let patience = common.prompt_patience();
        let read = common.reader.read(name, self.bytes, offset, data.len(), patience);
        match common.while_wanted(asker, read).await?? == *data {
            true => Ok(()),
            false => {
                let place = common.archive.place();
                let other = archive::Error::OtherPartial { name, place, offset };
                common.noted("write", Err(other.into()))
            }
        }
    }
}

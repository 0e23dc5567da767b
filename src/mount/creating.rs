//! Lookups of those who are about to bring a file: to them it is not there, whatever the store has.

use crate::archive::wal::Looked;
use crate::pg::WalName;
use crate::staging::wal::WalDraft;

use super::asker::{Asker, Intent};
use super::fs::Fs;

impl Fs {
    /// Is this the lookup of a known copier that is about to create the name? Then the store need not be asked: what it
    /// writes is compared with what is there before anything is stored, whatever the lookup said. The archiver's
    /// lookups cost nothing that way. What the process has created itself it is told the truth about.
    pub(super) fn is_for_creating(&self, name: WalName, asker: Option<&Asker>) -> bool {
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
    pub(super) fn is_yet_to_come(&self, name: WalName, asker: Option<&Asker>) -> bool {
        let (Some(ahead), Some(asker)) = (&self.ahead, asker) else {
            return false;
        };
        let writes = || ahead.is_ahead(name) && self.intent(name, asker) == Intent::SeemsToWrite;
        !self.presence.was_archived(name) && (writes() || asker.is_archiving(&name.to_string()))
    }

    /// The store's word may serve once more, if it cannot be seen who was told it; and the upload's look as well, if the
    /// store will judge what is written.
    pub(super) fn told_absent(&self, name: WalName, asker: Option<&Asker>, looked: Looked) {
        if asker.is_none_or(Asker::is_hidden) {
            let looked = Some(looked).filter(|_| self.archive.marker().put_if_absent);
            self.recent.absent(name, thread(asker), looked);
        }
    }

    /// Was that said to the same thread just now? One in another pid namespace could be anybody's.
    pub(super) fn was_told_absent(&self, name: WalName, asker: Option<&Asker>) -> bool {
        asker.is_some_and(|asker| self.recent.was_told(name, asker.thread()))
    }

    /// The look at the name that its creator has taken already.
    pub(super) fn looked_before(&self, draft: WalDraft, asker: Option<&Asker>) -> WalDraft {
        match self.recent.take_look(draft.name(), thread(asker)) {
            Some(looked) => draft.looked(async { Some(looked) }),
            None => draft,
        }
    }

    /// What the process seems to want of a name in `wal/`.
    pub(super) fn intent(&self, name: WalName, asker: &Asker) -> Intent {
        asker.intent(&self.options.mountpoint, "wal", &name.to_string())
    }
}

/// 0 in other pid namespaces.
fn thread(asker: Option<&Asker>) -> u32 {
    asker.map_or(0, Asker::thread)
}

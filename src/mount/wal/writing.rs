//! Files being written in `wal/`, and who can see them.
//!
//! A file created under its final name is private to its opener: it has its own inode, is found by no other process, and
//! two openers of one name have separate versions (the orphaned `cp` of a crashed archiver is still writing when the
//! next one starts). A file under a temporary name, to be renamed, is an ordinary file of this mount: found by name,
//! opened twice, read back. So is a `.partial`, which PostgreSQL archives like a segment but `pg_receivewal` fills in
//! and renames; while it is received, another one of its name is private.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Kept, Kind};
use crate::mount::room::FilesOf;
use crate::pg::{self, WalName};
use crate::staging::Draft;
use crate::staging::received::Received;
use crate::staging::wal::WalDraft;

/// How long a file under a temporary name, with no handle, waits for its rename.
const LEFT_FOR: Duration = Duration::from_secs(3600);

/// What is being written.
#[derive(Debug)]
pub(super) enum Content {
    /// A WAL file under its final name.
    Wal(Box<WalDraft>),
    /// A `.partial` that is being filled in.
    Received(Box<Received>),
    /// Bytes under a temporary name.
    Scratch(Draft),
}

impl Content {
    /// The bytes written so far.
    pub(super) fn draft(&mut self) -> &mut Draft {
        match self {
            Self::Wal(wal) => wal.draft(),
            Self::Received(received) => received.draft(),
            Self::Scratch(draft) => draft,
        }
    }
}

/// One version of a file being written.
#[derive(Debug)]
pub(super) struct Writing {
    /// Its inode number.
    pub(super) ino: u64,
    /// The process that created it; 0 when it is not known.
    pub(super) opener: u32,
    /// When it was created.
    pub(super) created: SystemTime,
    /// Its bytes, locked while an operation is on them, a commit included.
    pub(super) content: tokio::sync::Mutex<Content>,
    /// Its length, for `stat` while the bytes are locked.
    pub(super) bytes: AtomicU64,
    /// Its writer was killed: it will be thrown away.
    pub(super) abandoned: AtomicBool,
    /// The process that was killed had opened it, or written last: no child that outlives it finishes a file whose length is
    /// not known.
    pub(super) is_half: AtomicBool,
    /// It is received, and stays what is found under its name.
    pub(super) received: AtomicBool,
    /// The name under which others find it.
    name: Mutex<Option<String>>,
    /// Whose latest write it was.
    writer: Mutex<FilesOf>,
    handles: AtomicUsize,
    /// When the last handle was closed, while there is none.
    left: Mutex<Option<Instant>>,
}

impl Writing {
    /// The name under which others find it.
    pub(super) fn name(&self) -> Option<String> {
        self.name.lock().expect("no panic while held").clone()
    }

    /// Is it one that is received?
    pub(super) fn is_received(&self) -> bool {
        self.received.load(Ordering::Acquire)
    }

    /// ... and has its receiver got it open?
    pub(super) fn is_being_received(&self) -> bool {
        self.is_received() && self.handles.load(Ordering::Acquire) > 0
    }

    pub(super) fn attributes(&self) -> Attributes {
        Attributes {
            ino: self.ino,
            kind: Kind::File,
            bytes: self.bytes.load(Ordering::Acquire),
            modified: self.created,
            mode: 0o600,
            owner: None,
            kept: Kept::Never,
        }
    }

    /// Reads back what was written.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub(super) async fn read(&self, offset: u64, bytes: usize) -> Result<Bytes> {
        let mut content = self.content.lock().await;
        let read = content.draft().read(offset, bytes).await;
        read.map_err(|error| self.staging_failed(&error))
    }

    /// Its bytes cannot be kept here.
    pub(super) fn staging_failed(&self, error: &std::io::Error) -> Error {
        crate::archive::Error::staging(self.name_for_people(), error).into()
    }

    /// No WAL file is longer than the largest segment; what would be must not cost memory.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub(super) fn check_length(&self, bytes: u64) -> Result<()> {
        if bytes <= pg::SegmentSize::MAX.bytes() {
            return Ok(());
        }
        let name = self.name_for_people();
        Err(Error::TooLong { name })
    }

    fn name_for_people(&self) -> String {
        self.name().unwrap_or_else(|| "a file being written".into())
    }

    /// Does the store have some of it, which stays?
    pub(super) async fn is_kept_in_part(&self) -> bool {
        match &*self.content.lock().await {
            Content::Received(received) => received.is_known(),
            _ => false,
        }
    }

    /// Is nothing of it lost when the mount forgets it?
    pub(super) fn is_safe(&self) -> bool {
        let content = self.content.try_lock();
        content.is_ok_and(|content| match &*content {
            Content::Received(received) => received.is_kept(),
            _ => false,
        })
    }

    /// A writer that ended without closing its file, and was not killed (a shell script that redirects its own output),
    /// was never told that nothing is archived: the log says so.
    pub(super) fn warn_of_unfinished(&self) {
        let Ok(content) = self.content.try_lock() else {
            return;
        };
        if let Content::Wal(wal) = &*content
            && wal.verdict().is_none()
            && wal.bytes() > 0
            && !matches!(wal.name(), WalName::Partial(_))
        {
            tracing::warn!(
                "{}: its writer is gone before it was whole and closed; nothing is archived",
                wal.name()
            );
        }
    }

    /// A process writes to it.
    pub(super) fn written_by(&self, files: FilesOf) {
        *self.writer.lock().expect("no panic while held") = files;
    }

    /// Is this known to be who wrote to it last?
    pub(super) fn was_written_by(&self, files: FilesOf) -> bool {
        files.is_some() && *self.writer.lock().expect("no panic while held") == files
    }
}

/// A directory that files are written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// `wal/` itself.
    Wal,
    /// The folder of this name in it.
    Folder(String),
}

impl Place {
    /// The name by which a file being written here is found.
    pub(super) fn key(&self, name: &str) -> String {
        match self {
            Self::Wal => name.to_owned(),
            Self::Folder(folder) => format!("{folder}/{name}"),
        }
    }

    /// Why a name is not given to a file here.
    pub(super) fn refusal(&self, name: &OsStr) -> Error {
        Error::BadName {
            name: self.key(&name.to_string_lossy()),
            reason: "only what lies in wal/ itself is archived".into(),
        }
    }
}

/// All files being written.
#[derive(Debug, Default)]
pub(super) struct Writings {
    by_ino: Mutex<HashMap<u64, Arc<Writing>>>,
    by_name: Mutex<HashMap<String, u64>>,
}

impl Writings {
    /// A new file with one handle; found by `visible_name`, if it has one.
    pub(super) fn create(
        &self,
        ino: u64,
        content: Content,
        visible_name: Option<String>,
        opener: u32,
    ) -> Arc<Writing> {
        self.sweep();
        let writing = Arc::new(Writing {
            ino,
            opener,
            created: SystemTime::now(),
            content: tokio::sync::Mutex::new(content),
            bytes: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            is_half: AtomicBool::new(false),
            received: AtomicBool::new(false),
            name: Mutex::new(visible_name.clone()),
            writer: Mutex::default(),
            handles: AtomicUsize::new(1),
            left: Mutex::new(None),
        });
        self.by_ino
            .lock()
            .expect("no panic while held")
            .insert(ino, writing.clone());
        if let Some(name) = visible_name {
            self.names().insert(name, ino);
        }
        writing
    }

    /// The file with that inode.
    pub(super) fn get(&self, ino: u64) -> Option<Arc<Writing>> {
        self.by_ino
            .lock()
            .expect("no panic while held")
            .get(&ino)
            .cloned()
    }

    /// The file others find under that name.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Writing>> {
        let ino = *self.names().get(name)?;
        self.get(ino)
    }

    /// The file others find under that name in a directory.
    pub(super) fn find_in(&self, place: &Place, name: &OsStr) -> Option<Arc<Writing>> {
        self.find(&place.key(name.to_str()?))
    }

    /// The names that begin so, in no order.
    pub(super) fn named(&self, beginning: &str) -> Vec<String> {
        let names = self.names();
        let named = names.keys().filter(|name| name.starts_with(beginning));
        named.cloned().collect()
    }

    /// One more handle on the file with that inode.
    pub(super) fn open(&self, ino: u64) -> Option<Arc<Writing>> {
        let writing = self.get(ino)?;
        writing.handles.fetch_add(1, Ordering::AcqRel);
        Some(writing)
    }

    /// Forgets what was left under a temporary name: a copier that meant to rename it is gone for good.
    fn sweep(&self) {
        let is_old = |writing: &Arc<Writing>| {
            let left = *writing.left.lock().expect("no panic while held");
            writing.handles.load(Ordering::Acquire) == 0 && left.is_some_and(|left| left.elapsed() > LEFT_FOR)
        };
        let all = self.by_ino.lock().expect("no panic while held");
        let old: Vec<Arc<Writing>> = all.values().filter(|writing| is_old(writing)).cloned().collect();
        drop(all);
        for writing in old {
            tracing::warn!(
                "{} was never renamed: forgotten",
                writing.name().unwrap_or_default()
            );
            self.hide(&writing);
        }
    }

    /// One handle fewer; the file goes with the last one, unless it can still be found by name and is `needed`.
    pub(super) fn close(&self, writing: &Writing, needed: bool) {
        *writing.left.lock().expect("no panic while held") = Some(Instant::now());
        let last = writing.handles.fetch_sub(1, Ordering::AcqRel) == 1;
        let abandoned = writing.abandoned.load(Ordering::Acquire) || !needed;
        if last && (abandoned || writing.name().is_none()) {
            self.hide(writing);
            self.by_ino
                .lock()
                .expect("no panic while held")
                .remove(&writing.ino);
        }
    }

    /// Takes its name away: it is unlinked, or archived under that name. It goes with its last handle.
    pub(super) fn hide(&self, writing: &Writing) {
        if let Some(name) = writing.name.lock().expect("no panic while held").take() {
            let mut names = self.names();
            if names.get(&name) == Some(&writing.ino) {
                names.remove(&name);
            }
        }
        if writing.handles.load(Ordering::Acquire) == 0 {
            self.by_ino
                .lock()
                .expect("no panic while held")
                .remove(&writing.ino);
        }
    }

    /// Gives it another temporary name; what had that name before is unlinked.
    pub(super) fn rename(&self, writing: &Arc<Writing>, name: String) {
        if let Some(old) = self.find(&name).filter(|old| old.ino != writing.ino) {
            self.hide(&old);
        }
        let mut own = writing.name.lock().expect("no panic while held");
        let mut names = self.names();
        if let Some(old_name) = own.take() {
            names.remove(&old_name);
        }
        names.insert(name.clone(), writing.ino);
        *own = Some(name);
    }

    /// How many files have a writer now.
    pub(super) fn open_files(&self) -> usize {
        let all = self.by_ino.lock().expect("no panic while held");
        all.values()
            .filter(|writing| writing.handles.load(Ordering::Acquire) > 0)
            .count()
    }

    fn names(&self) -> std::sync::MutexGuard<'_, HashMap<String, u64>> {
        self.by_name.lock().expect("no panic while held")
    }
}

/// Is this a final name whose file others must find while it is being written?
pub(super) fn is_visible_while_written(name: WalName) -> bool {
    matches!(name, WalName::Partial(_))
}

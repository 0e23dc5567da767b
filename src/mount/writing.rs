//! Files being written in `wal/`, and who can see them.
//!
//! A file created under its final name is private to its opener: it has its own inode, is found by nobody else, and
//! two openers of one name have separate versions (the orphaned `cp` of a crashed archiver is still writing when the
//! next one starts). A file under a temporary name, to be renamed, is an ordinary file of this mount: found by name,
//! opened twice, read back. So is a `.partial`, which PostgreSQL archives like a segment but `pg_receivewal` fills in
//! and renames; while it is received, another one of its name is private.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::pg::WalName;
use crate::staging::Draft;
use crate::staging::received::Received;
use crate::staging::wal::WalDraft;

/// How long a file under a temporary name, with no handle, waits for its rename.
const LEFT_FOR: Duration = Duration::from_secs(3600);

/// What is being written.
#[derive(Debug)]
pub enum Content {
    /// A WAL file under its final name.
    Wal(Box<WalDraft>),
    /// A `.partial` that is being filled in.
    Received(Box<Received>),
    /// Bytes under a temporary name.
    Scratch(Draft),
}

impl Content {
    /// The bytes written so far.
    pub fn draft(&mut self) -> &mut Draft {
        match self {
            Self::Wal(wal) => wal.draft(),
            Self::Received(received) => received.draft(),
            Self::Scratch(draft) => draft,
        }
    }
}

/// A process's table of open files, by the number that the kernel gives it in this mount; `None` when it gives none. The
/// same in all pid namespaces; a child has another one.
pub type FilesOf = Option<u64>;

/// One version of a file being written.
#[derive(Debug)]
pub struct Writing {
    /// Its inode number.
    pub ino: u64,
    /// The process that created it; 0 when it is not known.
    pub opener: u32,
    /// When it was created.
    pub created: SystemTime,
    /// Its bytes, locked while an operation is on them, a commit included.
    pub content: tokio::sync::Mutex<Content>,
    /// Its length, for `stat` while the bytes are locked.
    pub bytes: AtomicU64,
    /// Its writer was killed: it will be thrown away.
    pub abandoned: AtomicBool,
    /// It is received, and stays what is found under its name.
    pub received: AtomicBool,
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
    pub fn name(&self) -> Option<String> {
        self.name.lock().expect("no panic while held").clone()
    }

    /// Is it one that is received?
    pub fn is_received(&self) -> bool {
        self.received.load(Ordering::Acquire)
    }

    /// ... and has its receiver got it open?
    pub fn is_being_received(&self) -> bool {
        self.is_received() && self.handles.load(Ordering::Acquire) > 0
    }

    /// Somebody writes to it.
    pub fn written_by(&self, files: FilesOf) {
        *self.writer.lock().expect("no panic while held") = files;
    }

    /// Is this known to be who wrote to it last?
    pub fn was_written_by(&self, files: FilesOf) -> bool {
        files.is_some() && *self.writer.lock().expect("no panic while held") == files
    }
}

/// All files being written.
#[derive(Debug, Default)]
pub struct Writings {
    by_ino: Mutex<HashMap<u64, Arc<Writing>>>,
    by_name: Mutex<HashMap<String, u64>>,
}

impl Writings {
    /// A new file with one handle; found by `visible_name`, if it has one.
    pub fn create(
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
    pub fn get(&self, ino: u64) -> Option<Arc<Writing>> {
        self.by_ino
            .lock()
            .expect("no panic while held")
            .get(&ino)
            .cloned()
    }

    /// The file others find under that name.
    pub fn find(&self, name: &str) -> Option<Arc<Writing>> {
        let ino = *self.names().get(name)?;
        self.get(ino)
    }

    /// The names that begin so, in no order.
    pub fn named(&self, beginning: &str) -> Vec<String> {
        let names = self.names();
        let named = names.keys().filter(|name| name.starts_with(beginning));
        named.cloned().collect()
    }

    /// One more handle on a file.
    pub fn open(&self, writing: &Writing) {
        writing.handles.fetch_add(1, Ordering::AcqRel);
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
    pub fn close(&self, writing: &Writing, needed: bool) {
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
    pub fn hide(&self, writing: &Writing) {
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
    pub fn rename(&self, writing: &Arc<Writing>, name: String) {
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
    pub fn open_files(&self) -> usize {
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
pub fn is_visible_while_written(name: WalName) -> bool {
    matches!(name, WalName::Partial(_))
}

//! The archive in a local directory: one file an object, its path the key.
//!
//! Written as temporary file, fsync, link (or rename), fsync of the directory; see `dir/write.rs`. Temporary files are
//! under `.tmp/`, on the same file system, and are never listed.
//!
//! The directory that was opened is held open, and so are the folders in it (`dir/folders.rs`). If its path stops
//! leading there (a disk was unmounted), nothing is "not found" any more, and nothing is written to whatever the path
//! leads to now: every answer is a transient error until the directory is back. A disk that comes back under another
//! device number needs a new start of the process.
//!
//! Links in the path of the archive are the operator's own; below it none is followed.
//!
//! Relies on POSIX: link(2) is atomic and does not replace, fsync is true. A file system without hard links (exFAT)
//! is refused by the first put.

mod below;
mod errors;
mod folders;
mod listing;
mod nearby;
mod read;
mod upload;
mod write;

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use crate::beneath;

use super::{
    Backend, ByteRange, Claim, Conditions, Error, ErrorKind, Fetched, Key, Meta, Page, Part, PutMode, Upload,
};

/// Folder of what is not an object yet.
const TEMP_DIR: &str = ".tmp";

/// A backend over a directory.
#[derive(Debug)]
pub(super) struct Dir {
    root: Arc<Root>,
}

/// The opened directory. All its methods block.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// Held open, so that its device and inode cannot become those of another.
    below: beneath::Root,
    /// To whom all that root makes here is given: the archive is another's, who must be able to read it.
    owner: Option<(u32, u32)>,
    /// Directories whose own entries are known to be on stable storage.
    durable: Mutex<HashSet<PathBuf>>,
    /// Folders that belong to the archive, held open: without them nothing in them is "not found".
    folders: Mutex<HashMap<PathBuf, beneath::Root>>,
    /// What lies among the objects, is none, and has been named.
    odd: Mutex<HashSet<PathBuf>>,
    /// Listings that a later page may continue.
    listings: Mutex<Vec<listing::Listing>>,
}

impl Dir {
    /// Opens the directory; makes it, if `create` says so and it is not there.
    pub(super) async fn open(path: PathBuf, create: bool) -> Result<Self, Error> {
        let opened = tokio::task::spawn_blocking(move || Root::open(path, create)).await;
        let root = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(Self { root: Arc::new(root) })
    }

    /// Runs file operations where they may block. An abandoned one runs to its end.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let root = Arc::clone(&self.root);
        let done = tokio::task::spawn_blocking(move || work(&root)).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

impl Root {
    fn open(path: PathBuf, create: bool) -> Result<Self, Error> {
        let named = path.clone();
        let failed = |error: io::Error| errors::open_failed(&named, &error);
        // An absolute path: the daemon changes its working directory.
        let path = std::path::absolute(path).map_err(failed)?;
        if create && !path.exists() {
            write::make_root(&path).map_err(failed)?;
        }
        let below = beneath::Root::open(&path).map_err(failed)?;
        let meta = below.metadata(Path::new("")).map_err(failed)?;
        // SAFETY: geteuid cannot fail.
        let is_root = unsafe { libc::geteuid() } == 0;
        let owner = (is_root && meta.uid() != 0).then(|| (meta.uid(), meta.gid()));
        let root = Self {
            path,
            below,
            owner,
            durable: Mutex::default(),
            folders: Mutex::default(),
            odd: Mutex::default(),
            listings: Mutex::default(),
        };
        root.sweep(&root.path.join(TEMP_DIR));
        Ok(root)
    }

    /// By the clock of the file system: what it says of a file that never has a name. Not every one makes such (NFS).
    fn now(&self) -> Option<SystemTime> {
        let mut options = fs::OpenOptions::new();
        let nameless = options.write(true).custom_flags(libc::O_TMPFILE).open(&self.path);
        nameless.and_then(|file| file.metadata()?.modified()).ok()
    }

    /// A path of the archive as it is below the directory that was opened.
    fn inside<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.path).expect("below the root")
    }

    fn file(&self, key: &Key) -> PathBuf {
        self.path.join(key.as_str())
    }

    /// Is the directory still the one that was opened?
    fn check(&self, operation: &'static str) -> Result<(), Error> {
        let gone = |why: String| {
            let message = format!("the directory is gone ({why})\nHINT: is its disk mounted?");
            Err(Error::new(
                ErrorKind::Transient,
                operation,
                self.path.display().to_string(),
                message,
            ))
        };
        let opened = self.below.metadata(Path::new("")).map(|opened| identity(&opened));
        match fs::metadata(&self.path) {
            Ok(now) if opened.is_ok_and(|opened| opened == identity(&now)) => Ok(()),
            Ok(_) => gone("another one is in its place".into()),
            Err(error) => gone(error.to_string()),
        }
    }

    /// Where a file begins that becomes this object: on its disk.
    fn temp_dir(&self, key: &Key) -> PathBuf {
        self.disk_of(&self.file(key)).join(TEMP_DIR)
    }
}

/// Device and inode: which file it is, as long as somebody holds it open.
fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Opens a directory only to fsync it: makes its entries durable.
fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

#[async_trait]
impl Backend for Dir {
    fn place(&self) -> String {
        self.root.path.display().to_string()
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.root.path)
    }

    async fn prepare(&self, folder: &Key, claim: &Claim) -> Result<(), Error> {
        let (folder, claim) = (folder.clone(), claim.clone());
        self.blocking(move |root| root.prepare(&folder, &claim)).await
    }

    async fn settle(&self, key: &Key) -> Result<(), Error> {
        let key = key.clone();
        self.blocking(move |root| root.settle(&key)).await
    }

    async fn nearby(&self, marker: &Key) -> Vec<String> {
        let marker = marker.clone();
        let looked = self.blocking(move |root| Ok(nearby::nearby(&root.path, marker.as_str())));
        looked.await.unwrap_or_default()
    }

    async fn folders(&self) -> Result<Vec<String>, Error> {
        self.blocking(Root::folders).await
    }

    async fn has_below(&self, folder: &str, marker: &Key) -> Result<bool, Error> {
        let (folder, marker) = (folder.to_owned(), marker.clone());
        self.blocking(move |root| root.has_below(&folder, &marker)).await
    }

    async fn around(&self, marker: &Key) -> Option<String> {
        let marker = marker.clone();
        let looked = self.blocking(move |root| Ok(nearby::around(&root.path, marker.as_str())));
        looked.await.unwrap_or_default()
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), Error> {
        let key = key.clone();
        self.blocking(move |root| root.put(&key, &body, mode)).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Fetched, Error> {
        let key = key.clone();
        self.blocking(move |root| root.get(&key, range)).await
    }

    async fn get_into(&self, key: &Key, range: ByteRange, room: Vec<u8>) -> Result<Fetched, Error> {
        let key = key.clone();
        self.blocking(move |root| root.get_into(&key, range, room)).await
    }

    async fn head(&self, key: &Key) -> Result<Meta, Error> {
        let key = key.clone();
        self.blocking(move |root| root.head(&key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        let (prefix, after) = (prefix.to_owned(), after.unwrap_or_default().to_owned());
        self.blocking(move |root| root.list(&prefix, &after, limit)).await
    }

    async fn now(&self) -> Result<Option<SystemTime>, Error> {
        self.blocking(|root| Ok(root.now())).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Error> {
        let keys = keys.to_vec();
        self.blocking(move |root| keys.iter().try_for_each(|key| root.delete(key)))
            .await
    }

    async fn delete_if_same(&self, key: &Key, content: &Bytes) -> Result<bool, Error> {
        let (key, content) = (key.clone(), content.clone());
        self.blocking(move |root| root.delete_if_same(&key, &content))
            .await
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, Error> {
        let key = key.clone();
        self.blocking(move |root| root.begin_upload(&key)).await
    }

    async fn put_part(&self, upload: &Upload, number: u32, body: Bytes) -> Result<Part, Error> {
        let upload = upload.clone();
        self.blocking(move |root| root.put_part(&upload, number, &body))
            .await
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part], mode: PutMode) -> Result<(), Error> {
        let (upload, parts) = (upload.clone(), parts.to_vec());
        self.blocking(move |root| root.complete_upload(&upload, &parts, mode))
            .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), Error> {
        let upload = upload.clone();
        self.blocking(move |root| root.abort_upload(&upload)).await
    }

    fn conditions_known(&self) -> Option<Conditions> {
        Some(Conditions {
            put: true,
            complete: true,
        })
    }
}

#[cfg(test)]
mod tests;

//! The mounted directory without a mount: what the kernel would ask of it, asked by hand.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use walfs::archive::{self, Archive};
use walfs::cache::Cache;
use walfs::linux::kernel::Owner;
use walfs::memory::{Memory, Share};
use walfs::metrics::Metrics;
use walfs::mount::asker::Asker;
use walfs::mount::error::Error;
use walfs::mount::fs::{Fs, Making, Opening, Options, Result};
use walfs::mount::node::{Attributes, Kept, ROOT};
use walfs::read::Reader;
use walfs::staging::{self, Staging};
use walfs::store::{Patience, Store};

/// Longer than anything waits whose outcome is asked for.
pub const LONG: Duration = Duration::from_secs(60);

/// What a copier's files get.
pub const MAKING: Making = Making {
    mode: 0o600,
    owner: Owner { uid: 26, gid: 26 },
};

/// A directory, and the number of its `wal`.
#[derive(Debug)]
pub struct Below {
    /// The operations.
    pub fs: Arc<Fs>,
    /// Inode of `wal`.
    pub wal: u64,
}

impl Below {
    /// Opens the archive in a store, making one if there is none, as a daemon does when it starts.
    pub async fn open(store: Store, deadline: Duration) -> std::result::Result<Self, archive::Error> {
        let options = archive::Options {
            create: true,
            ..Default::default()
        };
        let archive = Archive::open(store, &options, Patience::for_at_most(deadline)).await?;
        Ok(Self::over(Arc::new(archive), deadline).await)
    }

    /// A directory over an open archive.
    pub async fn over(archive: Arc<Archive>, deadline: Duration) -> Self {
        // Little memory, so that what is being written goes through temporary files too.
        let staged = staging::Options {
            memory: Memory {
                frames: Share::new(1 << 20),
                ..Default::default()
            },
            ..Default::default()
        };
        let staging = Staging::new(archive.compression(), &staged);
        let options = Options {
            deadline,
            longest: None,
            quiet_after: LONG,
            read_deadline: Some(deadline),
            read_only: false,
            mountpoint: PathBuf::new(),
        };
        let reader = Reader::new(archive.clone(), Cache::new(64 << 20), None);
        let fs = Arc::new(Fs::new(
            archive,
            reader,
            staging,
            Arc::new(Metrics::default()),
            options,
            None,
        ));
        let wal = fs.lookup(ROOT, OsStr::new("wal"), None).await;
        let wal = wal.expect("wal is always there").ino;
        Self { fs, wal }
    }

    /// `stat wal/NAME`: attributes that do not last are asked for again, as the kernel does.
    pub async fn lookup(&self, name: &str) -> Result<Attributes> {
        let found = self.fs.lookup(self.wal, OsStr::new(name), None).await?;
        if found.kept != Kept::Never {
            return Ok(found);
        }
        self.fs.getattr(found.ino, None).await
    }

    /// `open(wal/NAME, O_WRONLY | O_CREAT | O_TRUNC)`, as the kernel takes it apart.
    pub async fn start(&self, name: &str, asker: Option<&Asker>) -> Result<u64> {
        match self.fs.lookup(self.wal, OsStr::new(name), asker).await {
            Ok(found) => self.fs.open_for(found.ino, Opening::Replace, asker).await,
            Err(Error::NotFound) => {
                let created = self.fs.create(self.wal, OsStr::new(name), MAKING, asker).await;
                created.map(|(_, handle)| handle)
            }
            Err(error) => Err(error),
        }
    }

    /// One write, as the kernel hands it on.
    pub async fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<usize> {
        let data = Bytes::copy_from_slice(data);
        self.fs.write(handle, offset, &data, None, None).await
    }

    /// What `cp` does: opens, writes pieces of 128 KiB, closes. The outcome is what a careful copier would report.
    pub async fn copy(&self, name: &str, content: &[u8]) -> Result<()> {
        let handle = self.start(name, None).await?;
        let mut outcome = Ok(());
        for (index, piece) in content.chunks(128 << 10).enumerate() {
            let offset = (index * (128 << 10)) as u64;
            outcome = outcome.and(self.write(handle, offset, piece).await.map(drop));
        }
        outcome = outcome.and(self.fs.flush(handle, None, None).await);
        self.fs.release(handle).await;
        outcome
    }

    /// `cat wal/NAME`
    pub async fn read(&self, name: &str) -> Result<Vec<u8>> {
        let found = self.lookup(name).await?;
        let bytes = usize::try_from(found.bytes).expect("a file of a test");
        Ok(self.read_part(name, 0, bytes).await?.to_vec())
    }

    /// Bytes from the middle of `wal/NAME`.
    pub async fn read_part(&self, name: &str, offset: u64, bytes: usize) -> Result<Bytes> {
        let found = self.lookup(name).await?;
        let handle = self.fs.open_for(found.ino, Opening::Read, None).await?;
        let read = self.fs.read(handle, offset, bytes, None).await;
        self.fs.release(handle).await;
        read
    }

    /// `mv`, or with `replace` off `mv -n` of a kernel that has it.
    pub async fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        let (from, to) = (OsStr::new(from), OsStr::new(to));
        self.fs.rename(self.wal, from, self.wal, to, replace, None).await
    }

    /// `ls -l wal`: names and sizes.
    pub async fn list(&self) -> Result<Vec<(String, u64)>> {
        let handle = self.fs.open_directory(self.wal).await?;
        let listed = self.list_open(handle).await;
        self.fs.release(handle).await;
        listed
    }

    async fn list_open(&self, handle: u64) -> Result<Vec<(String, u64)>> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let page = self.fs.read_directory(handle, offset).await?;
            let Some(last) = page.last() else { return Ok(all) };
            offset = last.next_offset;
            let files = page.iter().filter(|entry| !entry.attributes.is_directory());
            all.extend(files.map(|entry| {
                (
                    entry.name.clone().into_string().expect("UTF-8"),
                    entry.attributes.bytes,
                )
            }));
        }
    }
}

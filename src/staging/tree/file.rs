//! A file of a tree that is being written, small or large.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::archive::tree::{Attributes, layout};
use crate::parts::chunk::Crc;

use super::Error;
use super::large::{Large, Way};
use super::sending::Outgoing;

/// Up to this length a file is kept plain in memory, and goes into a bundle with others: 4 MiB.
const SMALL_BYTES: u64 = 4 << 20;

/// Longest hole that a writer may leave before what it writes: 64 GiB.
pub(super) const MOST_HOLE_BYTES: u64 = 64 << 30;

/// A regular file.
#[derive(Debug, Default)]
pub(crate) struct DraftFile {
    /// Locked while an operation is on its bytes.
    pub(super) content: Arc<Mutex<Content>>,
    /// Its length, for `stat` while the bytes are locked.
    bytes: AtomicU64,
    /// See [`Content::Large`].
    large: AtomicBool,
    /// How many have it open to write.
    pub(super) writers: AtomicU32,
    /// Written to since it was last closed by all?
    pub(super) touched: AtomicBool,
}

/// Where the bytes of a file are.
#[derive(Debug)]
pub(super) enum Content {
    /// All in memory.
    Small(Vec<u8>),
    /// In a bundle that is on its way.
    Bundled(Member),
    /// In a volume of its own.
    Large(Large, Option<SentAs>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Small(Vec::new())
    }
}

/// A file in a bundle.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) part: Outgoing,
    /// Which of the files that went out with it.
    pub(super) file: usize,
    pub(super) bytes: u64,
    pub(super) crc: Crc,
    pub(super) sent_as: SentAs,
}

/// What the tar headers that went out with a file say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SentAs {
    pub(super) path: Box<[u8]>,
    pub(super) attributes: Attributes,
}

impl DraftFile {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Does it have a volume of its own?
    pub(super) fn is_large(&self) -> bool {
        self.large.load(Ordering::Acquire)
    }

    pub(super) async fn write(&self, way: Way<'_>, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut content = self.content.lock().await;
        self.touched.store(true, Ordering::Release);
        let written = content.write(way, offset, data).await;
        self.note(&content);
        written
    }

    pub(super) async fn truncate(&self, way: Way<'_>, bytes: u64) -> Result<(), Error> {
        let mut content = self.content.lock().await;
        self.touched.store(true, Ordering::Release);
        let cut = content.truncate(way, bytes).await;
        self.note(&content);
        cut
    }

    fn note(&self, content: &Content) {
        self.bytes.store(content.bytes(), Ordering::Release);
        self.large
            .store(matches!(content, Content::Large(..)), Ordering::Release);
    }

    pub(super) async fn read(&self, way: Way<'_>, offset: u64, bytes: usize) -> Result<Vec<u8>, Error> {
        self.content.lock().await.read(way, offset, bytes).await
    }

    /// CRC-32C of all its bytes, which are not read for that.
    pub(super) async fn crc(&self, way: Way<'_>) -> Result<Crc, Error> {
        match &mut *self.content.lock().await {
            Content::Small(plain) => Ok(Crc::of(plain)),
            Content::Bundled(member) => Ok(member.crc),
            Content::Large(large, _) => large.crc(way).await,
        }
    }

    /// CRC-32C of one of its chunks, if that is known.
    pub(crate) async fn chunk_crc(&self, index: u64) -> Option<Crc> {
        match &*self.content.lock().await {
            Content::Large(large, _) => large.chunk_crc(index),
            _ => None,
        }
    }

    /// Nobody can reach it any more.
    pub(super) async fn forget(&self, way: Way<'_>) {
        match std::mem::take(&mut *self.content.lock().await) {
            Content::Small(_) => {}
            Content::Bundled(_) => way.sender.note_stray(),
            Content::Large(large, _) => large.forget(way.sender),
        }
    }
}

impl Content {
    fn bytes(&self) -> u64 {
        match self {
            Self::Small(plain) => plain.len() as u64,
            Self::Bundled(member) => member.bytes,
            Self::Large(large, _) => large.bytes(),
        }
    }

    async fn write(&mut self, way: Way<'_>, offset: u64, data: &[u8]) -> Result<(), Error> {
        let end = self.reachable(offset.checked_add(data.len() as u64), offset)?;
        self.fetch_back(way).await?;
        match self.grown(way, end).await? {
            Self::Small(plain) => {
                if plain.len() < end as usize {
                    plain.resize(end as usize, 0);
                }
                plain[offset as usize..end as usize].copy_from_slice(data);
                Ok(())
            }
            Self::Large(large, _) => large.write(way, offset, data).await,
            Self::Bundled(_) => unreachable!("fetched back above"),
        }
    }

    async fn truncate(&mut self, way: Way<'_>, bytes: u64) -> Result<(), Error> {
        if bytes == self.bytes() {
            return Ok(());
        }
        self.reachable(Some(bytes), bytes)?;
        if bytes == 0 && matches!(self, Self::Bundled(_)) {
            way.sender.note_stray();
            *self = Self::default();
        }
        self.fetch_back(way).await?;
        match self.grown(way, bytes).await? {
            Self::Small(plain) => {
                plain.resize(bytes as usize, 0);
                Ok(())
            }
            Self::Large(large, _) => large.truncate(way, bytes).await,
            Self::Bundled(_) => unreachable!("fetched back above"),
        }
    }

    /// May it end there, with a hole up to `offset`? Holes are stored as zeros, which somebody has to make.
    fn reachable(&self, end: Option<u64>, offset: u64) -> Result<u64, Error> {
        let near = offset <= self.bytes().saturating_add(MOST_HOLE_BYTES);
        end.filter(|end| near && *end <= layout::MAX_FILE_BYTES)
            .ok_or(Error::TooLong)
    }

    async fn read(&mut self, way: Way<'_>, offset: u64, bytes: usize) -> Result<Vec<u8>, Error> {
        let end = self.bytes().min(offset.saturating_add(bytes as u64));
        if offset >= end {
            return Ok(Vec::new());
        }
        match self {
            Self::Small(plain) => Ok(plain[offset as usize..end as usize].to_vec()),
            Self::Bundled(member) => Ok(way
                .sender
                .read_file(&member.part, member.file, offset..end)
                .await?),
            Self::Large(large, _) => large.read(way, offset, bytes).await,
        }
    }

    /// What has gone out in a bundle is about to change.
    async fn fetch_back(&mut self, way: Way<'_>) -> Result<(), Error> {
        if let Self::Bundled(member) = self {
            let all = 0..member.bytes;
            let plain = way.sender.read_file(&member.part, member.file, all).await?;
            way.sender.note_stray();
            *self = Self::Small(plain);
        }
        Ok(())
    }

    /// With room for `end` bytes.
    async fn grown(&mut self, way: Way<'_>, end: u64) -> Result<&mut Self, Error> {
        if let Self::Small(plain) = self
            && end > SMALL_BYTES
        {
            let mut large = Large::new(way.sender);
            large.write(way, 0, plain).await?;
            *self = Self::Large(large, None);
        }
        Ok(self)
    }
}

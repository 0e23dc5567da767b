//! Bytes on their way in: compressed while they arrive, held until their object is finished.
//!
//! A [`Draft`] is one version of one file being written. Its content is cut into the codec's frames; a frame is
//! packed on another core as soon as a write has run past its end, so that when the last write of a segment arrives
//! only the last frame is left to do. Writers that come back (`pg_receivewal` writes zeros first, then data) get
//! their frame unpacked again. What follows a file that was sent ahead is only hashed, until it proves to differ. Frames
//! are kept in memory up to a common budget, and beyond it packed in an unlinked temporary file, which vanishes with
//! the process: nothing staged is ever needed after a crash, because nothing staged has been acknowledged.
//!
//! This room does not know names, verdicts or the store; [`wal`] adds the rules for WAL files, [`tree`] those of any tree of
//! files, `base_backup` what makes one a base backup.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use tokio::task::{self, JoinHandle};

use crate::archive::tree::page_hashes::PageKey;
use crate::codec::{self, Compression, FRAME_BYTES};
use crate::memory::{Held, Memory};
use crate::parts::chunk::{Chunk, Chunks};
use crate::pg::wal_index::WalIndex;

pub(crate) mod base_backup;
pub mod coverage;
mod finished;
pub mod forerunner;
mod frame;
mod hashed;
pub mod received;
mod spill;
pub mod tree;
pub(crate) mod version;
pub mod wal;

use coverage::Coverage;
pub use finished::FinishedDraft;
use frame::Frame;
use hashed::Hashed;
use spill::{Kept, Known, Space, Spill};

const FRAME: u64 = FRAME_BYTES as u64;

/// Plain frames one draft keeps open, as far as memory goes; more are packed, those at the file's start first. Copiers need
/// one, `pg_receivewal` two.
const OPEN_FRAMES: usize = 4;

/// Where drafts keep what they hold.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the temporary files; must not be on the mount itself.
    pub directory: PathBuf,
    /// Of which all drafts keep their frames; beyond it these go to temporary files.
    pub memory: Memory,
    /// Bytes in temporary files above which writers of trees wait for their uploads. Writers of WAL never wait.
    pub space_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: std::env::temp_dir(),
            memory: Memory::default(),
            space_bytes: 2 << 30,
        }
    }
}

/// Makes drafts that share one memory budget and one crew of packers.
#[derive(Debug, Clone)]
pub struct Staging(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    compression: Compression,
    directory: PathBuf,
    memory: Memory,
    space: Arc<Space>,
    packers: Arc<Semaphore>,
}

impl Staging {
    /// Drafts packed with `compression`.
    pub fn new(compression: Compression, options: &Options) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self(Arc::new(Shared {
            compression,
            directory: options.directory.clone(),
            memory: options.memory.clone(),
            space: Arc::new(Space::new(options.space_bytes)),
            packers: Arc::new(Semaphore::new(cores + 1)),
        }))
    }

    /// An empty draft.
    pub fn draft(&self) -> Draft {
        self.draft_with(self.0.compression)
    }

    /// An empty draft packed otherwise than the others.
    pub fn draft_with(&self, compression: Compression) -> Draft {
        Draft {
            shared: self.0.clone(),
            compression,
            frames: Vec::new(),
            bytes: 0,
            coverage: Coverage::default(),
            spill: Arc::new(Mutex::new(Spill::new(self.0.space.clone()))),
            chunks_from: None,
            indexed: true,
            compared: false,
        }
    }

    /// Codec and level of its drafts.
    pub fn compression(&self) -> Compression {
        self.0.compression
    }

    /// Bytes in temporary files now.
    pub fn spilled_bytes(&self) -> u64 {
        self.0.space.used()
    }

    /// Waits until there is space in the temporary files.
    pub async fn wait_for_space(&self) {
        self.0.space.wait().await;
    }
}

/// One version of a file being written.
#[derive(Debug)]
pub struct Draft {
    shared: Arc<Shared>,
    compression: Compression,
    frames: Vec<Slot>,
    bytes: u64,
    coverage: Coverage,
    spill: Arc<Mutex<Spill>>,
    /// Sum up each frame as a chunk of a tree's file, the first one from this byte on?
    chunks_from: Option<(usize, PageKey)>,
    /// May it be WAL, of which an index is made?
    indexed: bool,
    /// Is its content most likely archived already? Then frames are hashed, and packed only if they must be.
    compared: bool,
}

/// One frame's worth of content, in whatever state it is.
#[derive(Debug)]
enum Slot {
    /// Never written: zeros.
    Hole,
    /// Plain; zeros where nothing was written, and beyond its end. With its memory, once it has been written to.
    Open(Frame, Option<Held>),
    /// Being packed on another thread.
    Packing(JoinHandle<io::Result<Kept>>),
    /// Packed.
    Kept(Kept),
    /// Being hashed on another thread.
    Hashing(JoinHandle<Hashed>),
    /// Hashed, as it came.
    Hashed(Hashed),
    /// Lost: it could not be packed or kept. Said again to whoever asks for it, until the file is begun anew.
    Lost(io::ErrorKind, String),
}

impl Draft {
    /// Sums up each frame as a chunk of a tree's file too, the first one without its first `skipped` bytes.
    pub fn with_chunks(mut self, skipped: usize, key: PageKey) -> Self {
        self.chunks_from = Some((skipped, key));
        self.indexed = false;
        self
    }

    /// Packs everything, and gives the chunks of a draft made [`Draft::with_chunks`]: of all bytes, each once.
    ///
    /// # Errors
    /// As [`Draft::write`].
    async fn chunks(&mut self) -> io::Result<Chunks> {
        let kept = self.keep_all().await?;
        Ok(kept.into_iter().filter_map(|frame| frame.chunk).collect())
    }

    /// All of it, and leaves an empty one behind.
    fn take_all(&mut self) -> Self {
        let empty = Staging(self.shared.clone()).draft_with(self.compression);
        std::mem::replace(self, empty)
    }

    /// Length of the file so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Which of its bytes have been written, and in which manner.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Takes bytes at an offset; a gap before them reads as zeros.
    ///
    /// # Errors
    /// Local I/O of the temporary file (disk full).
    pub async fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.take(offset, data, |bytes| Frame::Own(bytes.to_vec())).await
    }

    /// The same, without a copy of what makes a whole frame.
    ///
    /// # Errors
    /// As [`Draft::write`].
    pub async fn write_shared(&mut self, offset: u64, data: &Bytes) -> io::Result<()> {
        self.take(offset, data, |bytes| Frame::Shared(data.slice_ref(bytes)))
            .await
    }

    /// `frame` makes a frame of bytes that are all of it.
    async fn take(&mut self, offset: u64, data: &[u8], frame: impl Fn(&[u8]) -> Frame) -> io::Result<()> {
        let end = offset + data.len() as u64;
        self.bytes = self.bytes.max(end);
        self.coverage.written(offset..end);
        let mut at = offset;
        while at < end {
            let (index, within) = ((at / FRAME) as usize, (at % FRAME) as usize);
            let take = (FRAME_BYTES - within).min((end - at) as usize);
            let from = (at - offset) as usize;
            let bytes = &data[from..from + take];
            if take == FRAME_BYTES && matches!(self.slot(index), Slot::Hole) {
                // As every frame of a copier's: no need to make zeros first.
                self.frames[index] = Slot::Open(frame(bytes), None);
            } else {
                let opened = self.open_frame(index).await;
                let lost = opened.map(|plain| plain[within..within + take].copy_from_slice(bytes));
                self.lose_unless(index, lost)?;
            }
            at += take as u64;
            if within + take == FRAME_BYTES {
                self.pack(index).await?;
            }
        }
        self.limit_open_frames().await
    }

    /// A frame that could not take what was written to it is not what its writer means, whatever he makes of the error.
    fn lose_unless(&mut self, index: usize, written: io::Result<()>) -> io::Result<()> {
        written.inspect_err(|error| self.frames[index] = Slot::Lost(error.kind(), error.to_string()))
    }

    /// Sets the length; what is added reads as zeros.
    ///
    /// # Errors
    /// As [`Draft::write`].
    pub async fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        if bytes < self.bytes {
            let kept_frames = bytes.div_ceil(FRAME) as usize;
            self.frames.truncate(kept_frames);
            let within = (bytes % FRAME) as usize;
            if within > 0 && kept_frames <= self.frames.len() {
                let opened = self.open_frame(kept_frames - 1).await;
                let cut = opened.map(|plain| plain[within..].fill(0));
                self.lose_unless(kept_frames - 1, cut)?;
            }
        }
        self.bytes = bytes;
        self.coverage.truncated(bytes);
        Ok(())
    }

    /// Reads back what was written so far; short only at the end.
    ///
    /// # Errors
    /// As [`Draft::write`].
    pub async fn read(&mut self, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let end = self.bytes.min(offset + bytes as u64);
        let mut out = BytesMut::new();
        let mut at = offset;
        while at < end {
            let (index, within) = ((at / FRAME) as usize, (at % FRAME) as usize);
            let take = (FRAME_BYTES - within).min((end - at) as usize);
            match self.frames.get_mut(index) {
                None | Some(Slot::Hole) => out.resize(out.len() + take, 0),
                Some(_) => out.extend_from_slice(&self.open_frame(index).await?[within..within + take]),
            }
            at += take as u64;
        }
        self.limit_open_frames().await?;
        Ok(out.freeze())
    }

    /// Packs it otherwise from now on, also what was written before. For small files: all of it is plain until then.
    ///
    /// # Errors
    /// As [`Draft::write`]; then nothing has changed.
    pub async fn repack(&mut self, compression: Compression) -> io::Result<()> {
        if self.compression == compression {
            return Ok(());
        }
        for index in 0..self.frames.len() {
            if !matches!(self.frames[index], Slot::Hole) {
                self.open_frame(index).await?;
            }
        }
        // Not before: what is packed partly one way and partly the other cannot be finished.
        self.compression = compression;
        self.limit_open_frames().await
    }

    /// Packs what is still open and lays the object out, of a WAL segment with its index. The draft can go on afterwards.
    ///
    /// # Errors
    /// As [`Draft::write`].
    pub async fn finish(&mut self) -> io::Result<FinishedDraft> {
        let kept = self.keep_all().await?;
        let bytes = self.bytes;
        let frames_bytes = kept
            .iter()
            .map(|frame| u64::from(frame.summary.stored_bytes()))
            .sum();
        let parts: Vec<Option<Arc<WalIndex>>> = kept.iter().map(|frame| frame.index.clone()).collect();
        let annex = match &parts[..] {
            [Some(_), ..] => {
                task::spawn_blocking(move || WalIndex::annex_of(&parts, bytes, frames_bytes)).await?
            }
            _ => Vec::new(),
        };
        Ok(self.laid_out(kept, &annex))
    }

    /// The same with an annex.
    async fn finish_with(&mut self, annex: &[u8]) -> io::Result<FinishedDraft> {
        let kept = self.keep_all().await?;
        Ok(self.laid_out(kept, annex))
    }

    fn laid_out(&self, kept: Vec<Kept>, annex: &[u8]) -> FinishedDraft {
        let finished = codec::finish(self.compression, kept.iter().map(|frame| frame.summary), annex);
        let buffers = self.shared.memory.buffers.clone();
        FinishedDraft::new(kept, finished, self.spill.clone(), buffers)
    }

    /// Every frame up to the file's end, packed.
    async fn keep_all(&mut self) -> io::Result<Vec<Kept>> {
        self.compared = false;
        self.pack_all().await?;
        let mut kept = Vec::with_capacity(self.frames.len());
        for index in 0..self.frames.len() {
            kept.push(self.kept_whole(index).await?);
        }
        Ok(kept)
    }

    /// Starts packing, or hashing, every frame up to the file's end.
    async fn pack_all(&mut self) -> io::Result<()> {
        let frames = self.bytes.div_ceil(FRAME) as usize;
        self.frames.resize_with(frames, || Slot::Hole);
        for index in 0..frames {
            let plain = match self.frames[index] {
                Slot::Hole => true,
                Slot::Hashing(_) | Slot::Hashed(_) => !self.compared,
                _ => false,
            };
            if plain {
                self.open_frame(index).await?;
            }
            self.pack(index).await?;
        }
        Ok(())
    }

    fn slot(&mut self, index: usize) -> &mut Slot {
        if self.frames.len() <= index {
            self.frames.resize_with(index + 1, || Slot::Hole);
        }
        &mut self.frames[index]
    }

    /// The frame's plain bytes, for writing.
    async fn open_frame(&mut self, index: usize) -> io::Result<&mut [u8]> {
        self.slot(index);
        self.arrive(index).await;
        match &mut self.frames[index] {
            Slot::Open(..) => {}
            Slot::Hole => self.frames[index] = Slot::Open(Frame::zeros(), None),
            Slot::Hashed(_) => {
                let Slot::Hashed(Hashed { plain, .. }) =
                    std::mem::replace(&mut self.frames[index], Slot::Hole)
                else {
                    unreachable!("matched above");
                };
                self.frames[index] = Slot::Open(plain, None);
            }
            Slot::Packing(_) | Slot::Hashing(_) | Slot::Kept(_) | Slot::Lost(..) => {
                let kept = self.kept(index).await?;
                let stored = self.fetch(&kept)?;
                let mut plain = Frame::zeros();
                let room = plain.whole();
                kept.summary
                    .unpack(&stored, &mut room[..kept.summary.plain_bytes() as usize])
                    .map_err(|damage| io::Error::other(damage.to_string()))?;
                self.frames[index] = Slot::Open(plain, None);
            }
        }
        match &mut self.frames[index] {
            Slot::Open(plain, _) => Ok(plain.whole()),
            _ => unreachable!("opened above"),
        }
    }

    /// Starts packing a frame that is open, up to the file's end; or hashing it, if that will do and there is room.
    async fn pack(&mut self, index: usize) -> io::Result<()> {
        if !matches!(self.frames[index], Slot::Open(..)) {
            return Ok(());
        }
        let packer = self
            .shared
            .packers
            .clone()
            .acquire_owned()
            .await
            .expect("never closed");
        let Slot::Open(mut plain, _) = std::mem::replace(&mut self.frames[index], Slot::Hole) else {
            unreachable!("checked above");
        };
        plain.truncate(self.frame_bytes(index));
        let room = self
            .compared
            .then(|| self.shared.memory.frames.try_take(plain.len() as u64));
        if let Some(room) = room.flatten() {
            self.frames[index] = Slot::Hashing(hashed::hash(index as u64, plain, room));
            return Ok(());
        }
        let (compression, shared, spill) = (self.compression, self.shared.clone(), self.spill.clone());
        let skipped = if index == 0 {
            self.chunks_from
        } else {
            self.chunks_from.map(|(_, key)| (0, key))
        };
        let indexed = self.indexed;
        self.frames[index] = Slot::Packing(task::spawn_blocking(move || {
            let packed = codec::pack(compression, index as u64, &plain);
            let known = Known {
                chunk: skipped.and_then(|(skipped, key)| Chunk::of(&plain, skipped, key)),
                index: indexed.then(|| WalIndex::of(&plain)).flatten(),
            };
            drop(packer);
            spill::keep(&shared.memory.frames, &shared.directory, &spill, packed, known)
        }));
        Ok(())
    }

    /// Plain length of a frame: full, but for the one the file ends in.
    fn frame_bytes(&self, index: usize) -> usize {
        self.bytes.saturating_sub(index as u64 * FRAME).min(FRAME) as usize
    }

    /// As [`Draft::kept`], packed anew if the file's end has moved since.
    async fn kept_whole(&mut self, index: usize) -> io::Result<Kept> {
        let kept = self.kept(index).await?;
        if kept.summary.plain_bytes() as usize == self.frame_bytes(index) {
            return Ok(kept);
        }
        self.open_frame(index).await?;
        self.pack(index).await?;
        self.kept(index).await
    }

    /// Waits for the thread that packs or hashes a frame.
    async fn arrive(&mut self, index: usize) {
        let lost = |error: io::Error| Slot::Lost(error.kind(), error.to_string());
        // A task that has ended must not be waited for again: it would panic.
        self.frames[index] = match &mut self.frames[index] {
            Slot::Packing(packing) => match packing.await.map_err(io::Error::other).flatten() {
                Ok(kept) => Slot::Kept(kept),
                Err(error) => lost(error),
            },
            Slot::Hashing(hashing) => match hashing.await {
                Ok(hashed) => Slot::Hashed(hashed),
                Err(error) => lost(io::Error::other(error)),
            },
            _ => return,
        };
    }

    async fn kept(&mut self, index: usize) -> io::Result<Kept> {
        self.arrive(index).await;
        match &self.frames[index] {
            Slot::Kept(kept) => Ok(kept.clone()),
            Slot::Lost(kind, reason) => Err(io::Error::new(*kind, reason.clone())),
            _ => unreachable!("packed before"),
        }
    }

    fn fetch(&self, kept: &Kept) -> io::Result<Bytes> {
        spill::fetch(kept, &self.spill)
    }

    /// Packs open frames that are too many, or for which there is no memory.
    async fn limit_open_frames(&mut self) -> io::Result<()> {
        let mut open = 0;
        for index in (0..self.frames.len()).rev() {
            let Slot::Open(_, held) = &mut self.frames[index] else {
                continue;
            };
            open += 1;
            if held.is_none() {
                *held = self.shared.memory.open_frames.try_take(FRAME);
            }
            if open > OPEN_FRAMES || held.is_none() {
                self.pack(index).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

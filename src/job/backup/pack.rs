//! Makes parts of files: the threads between the data directory and the store.
//!
//! Memory is bounded by a share of the process's: a thread takes what its share of work may need before it begins, and
//! gives back what the packed part does not; the rest goes with the part until it is stored. A large file's bytes come
//! from a thread beside the one that packs (`blocks`).

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::Error;
use super::blocks::{Block, Blocks};
use super::pages::{Findings, Rules, Verifier, check_length};
use super::queue::{Opened, Plan, Queue, Work};
use super::rate::Rate;
use super::reading::read_at;
use crate::archive::tree::chunks::{self, ChunkHash};
use crate::archive::tree::{Attributes, Entry, layout};
use crate::codec::Compression;
use crate::job::progress::Progress;
use crate::memory::{Held, Share};
use crate::parts::part::FinishedPart;
use crate::parts::volume::{VolumeBuilder, file_entry};

/// How often a thread that waits for the rate looks whether it should stop.
const NAP: Duration = Duration::from_millis(100);

/// Bytes of a file, in a part, with what is known of them since they were packed.
#[derive(Debug)]
pub(super) struct PackedExtent {
    pub(super) path: Box<[u8]>,
    pub(super) attributes: Attributes,
    /// Length of the whole file.
    pub(super) file_bytes: u64,
    /// Where it begins in the file.
    pub(super) file_offset: u64,
    /// Where it begins in the part's plain content.
    pub(super) part_offset: u64,
    /// Its length.
    pub(super) bytes: u64,
    /// CRC-32C of its bytes.
    pub(super) crc32c: u32,
    /// Hashes of its chunks.
    pub(super) hashes: Vec<ChunkHash>,
}

/// A part, to be stored under volume and slice.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) volume: u32,
    pub(super) slice: u32,
    pub(super) part: FinishedPart,
    pub(super) extents: Vec<PackedExtent>,
    pub(super) found: Findings,
    /// Its memory, to be held until it is stored.
    pub(super) memory: Option<Held>,
}

/// What all threads of a backup share.
#[derive(Debug)]
pub(super) struct Packers {
    pub(super) plan: Arc<Plan>,
    pub(super) queue: Queue,
    pub(super) compression: Compression,
    pub(super) rules: Option<Rules>,
    pub(super) rate: Option<Rate>,
    pub(super) progress: Arc<dyn Progress>,
    /// Without a permit; closed when all shall end.
    stop: Semaphore,
    /// For plain bytes being packed and packed bytes being stored, together.
    memory: Share,
    blocks: Blocks,
}

impl Packers {
    pub(super) fn new(
        plan: Plan,
        compression: Compression,
        rules: Option<Rules>,
        rate: Option<Rate>,
        progress: Arc<dyn Progress>,
        memory: Share,
    ) -> Self {
        let plan = Arc::new(plan);
        Self {
            queue: Queue::new(plan.clone()),
            plan,
            compression,
            rules,
            rate,
            progress,
            stop: Semaphore::new(0),
            memory,
            blocks: Blocks::default(),
        }
    }

    /// Makes every thread end soon.
    pub(super) fn stop(&self) {
        self.stop.close();
    }

    /// One thread's work: until nothing is left, somebody stops it, or it fails, which is the last that it sends.
    pub(super) fn run(&self, runtime: &Handle, results: &mpsc::UnboundedSender<Result<Built, Error>>) {
        loop {
            let built = match self.queue.next() {
                Ok(Some(work)) => self.build(work, runtime),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            let failed = built.is_err();
            // Nobody receives any more: the backup has ended without us.
            if results.send(built).is_err() || failed {
                return;
            }
        }
    }

    fn build(&self, work: Work, runtime: &Handle) -> Result<Built, Error> {
        let mut memory = self.reserve(self.cost(&work), runtime)?;
        let mut packer = Packer {
            shared: self,
            builder: VolumeBuilder::new(self.compression),
            found: Findings::default(),
        };
        let (volume, slice, extents, part) = match work {
            Work::Bundle { volume, sources } => {
                let extents = packer.bundle(&sources)?;
                (volume, 0, extents, packer.builder.finish_bundle())
            }
            Work::Slice { volume, index, large } => {
                let extents = vec![packer.slice(index, &large)?];
                let part = packer.builder.finish_slice(index, large.bytes);
                (volume, index as u32, extents, part)
            }
        };
        memory.shrink_to(part.object.len() as u64);
        Ok(Built {
            volume,
            slice,
            part,
            extents,
            found: packer.found,
            memory: Some(memory),
        })
    }

    /// Plain bytes that a unit of work will probably have.
    fn cost(&self, work: &Work) -> u64 {
        let bytes = match work {
            Work::Bundle { sources, .. } => {
                let lengths = sources
                    .iter()
                    .map(|source| self.plan.sources[*source as usize].bytes);
                lengths.map(Option::unwrap_or_default).sum::<u64>()
                    + layout::BLOCK_BYTES * 2 * sources.len() as u64
            }
            Work::Slice { large, .. } => layout::volume_bytes(large.bytes),
        };
        bytes.clamp(1 << 20, layout::SLICE_BYTES)
    }

    fn reserve(&self, bytes: u64, runtime: &Handle) -> Result<Held, Error> {
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = self.stop.acquire() => Err(Error::Stopped),
                held = self.memory.take(bytes) => Ok(held),
            }
        })
    }

    /// Waits for its turn to read so many bytes.
    fn pace(&self, bytes: u64) -> Result<(), Error> {
        let mut wait = self
            .rate
            .as_ref()
            .map_or(Duration::ZERO, |rate| rate.wait_for(bytes, Instant::now()));
        loop {
            if self.stop.is_closed() {
                return Err(Error::Stopped);
            }
            if wait.is_zero() {
                return Ok(());
            }
            let nap = wait.min(NAP);
            thread::sleep(nap);
            wait -= nap;
        }
    }
}

/// One part in the making.
struct Packer<'a> {
    shared: &'a Packers,
    builder: VolumeBuilder,
    found: Findings,
}

impl Packer<'_> {
    fn bundle(&mut self, sources: &[u32]) -> Result<Vec<PackedExtent>, Error> {
        let mut extents = Vec::with_capacity(sources.len());
        for number in sources {
            let source = &self.shared.plan.sources[*number as usize];
            if source.bytes.is_none() {
                self.builder.begin_member(&source.directory());
            } else if let Some(mut opened) = self.shared.plan.open(*number)? {
                self.check_length(&opened);
                // One that has grown this much is a relation, whose rest the WAL has.
                opened.bytes = opened.bytes.min(layout::LARGE_BYTES);
                extents.push(self.member(&opened)?);
            }
        }
        Ok(extents)
    }

    fn member(&mut self, opened: &Opened) -> Result<PackedExtent, Error> {
        self.builder
            .begin_member(&file_entry(&opened.path, opened.attributes, opened.bytes));
        let extent = self.copy(opened, 0, opened.bytes)?;
        self.builder.end_member(opened.bytes);
        Ok(extent)
    }

    fn slice(&mut self, index: u64, large: &Opened) -> Result<PackedExtent, Error> {
        if index == 0 {
            self.check_length(large);
        }
        let file = file_entry(&large.path, large.attributes, large.bytes);
        let content = self.builder.begin_slice(index, &file);
        self.copy(large, content.start, content.end)
    }

    /// Copies a file from `start`, a chunk's, up to `end`. What is no longer there is zeros: the WAL knows better.
    fn copy(&mut self, opened: &Opened, start: u64, end: u64) -> Result<PackedExtent, Error> {
        let verifier = Verifier::of(self.shared.rules, &opened.path);
        let mut extent = PackedExtent {
            path: opened.path.clone(),
            attributes: opened.attributes,
            file_bytes: opened.bytes,
            file_offset: start,
            part_offset: self.builder.plain_bytes(),
            bytes: end - start,
            crc32c: 0,
            hashes: Vec::new(),
        };
        let shared = self.shared;
        let read = |buffer: &mut [u8], at| {
            shared.pace(buffer.len() as u64)?;
            read_at(&opened.file, buffer, at)
                .map_err(|source| Error::read(&shared.plan.places.real(&opened.path), source))
        };
        shared.blocks.each(start..end, read, |block| {
            self.pack(block, verifier.as_ref(), &opened.file, &mut extent);
        })?;
        Ok(extent)
    }

    /// Chunk by chunk, so that each is still in the processor's cache when it is looked at again.
    fn pack(
        &mut self,
        block: &mut Block,
        verifier: Option<&Verifier>,
        file: &File,
        extent: &mut PackedExtent,
    ) {
        for (at, chunk, read) in block.chunks() {
            if let Some(verifier) = verifier {
                verifier.check(&mut chunk[..read], at, file, &mut self.found);
            }
            extent.crc32c = crc32c::crc32c_append(extent.crc32c, chunk);
            extent.hashes.push(ChunkHash::of(chunk));
            self.builder.content(chunk);
            self.shared.progress.advance(chunk.len() as u64);
        }
    }

    fn check_length(&mut self, opened: &Opened) {
        if let Some(rules) = self.shared.rules {
            check_length(rules, (&opened.path, &opened.file), opened.bytes, &mut self.found);
        }
    }
}

/// A file whose content is at hand.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) path: &'static str,
    pub(super) attributes: Attributes,
    pub(super) content: Vec<u8>,
}

impl Whole {
    pub(super) fn crc32c(&self) -> u32 {
        crc32c::crc32c(&self.content)
    }

    fn entry(&self) -> Entry {
        file_entry(self.path.as_bytes(), self.attributes, self.content.len() as u64)
    }

    /// The bytes of a range that begins with a chunk, in a part.
    fn extent(&self, range: Range<u64>, part_offset: u64) -> PackedExtent {
        let file_bytes = self.content.len() as u64;
        let indices = chunks::index_of(range.start)..chunks::index_of(range.end.max(1) - 1) + 1;
        let hashes = indices.map(|index| chunks::range(index, range.end));
        let hashes = hashes.filter(|chunk| !chunk.is_empty());
        let hashes =
            hashes.map(|chunk| ChunkHash::of(&self.content[chunk.start as usize..chunk.end as usize]));
        PackedExtent {
            path: self.path.as_bytes().into(),
            attributes: self.attributes,
            file_bytes,
            file_offset: range.start,
            part_offset,
            bytes: range.end - range.start,
            crc32c: crc32c::crc32c(&self.content[range.start as usize..range.end as usize]),
            hashes: hashes.collect(),
        }
    }
}

/// One bundle of files at hand.
pub(super) fn bundle_of(compression: Compression, volume: u32, files: &[Whole]) -> Built {
    let mut builder = VolumeBuilder::new(compression);
    let extents = files.iter().map(|whole| {
        let bytes = whole.content.len() as u64;
        builder.begin_member(&whole.entry());
        let extent = whole.extent(0..bytes, builder.plain_bytes());
        builder.content(&whole.content);
        builder.end_member(bytes);
        extent
    });
    let extents = extents.collect();
    built(volume, 0, builder.finish_bundle(), extents)
}

/// A slice of the volume of a large file at hand.
pub(super) fn slice_of(compression: Compression, volume: u32, index: u64, whole: &Whole) -> Built {
    let bytes = whole.content.len() as u64;
    let mut builder = VolumeBuilder::new(compression);
    let range = builder.begin_slice(index, &whole.entry());
    let extent = whole.extent(range.clone(), builder.plain_bytes());
    builder.content(&whole.content[range.start as usize..range.end as usize]);
    built(
        volume,
        index as u32,
        builder.finish_slice(index, bytes),
        vec![extent],
    )
}

fn built(volume: u32, slice: u32, part: FinishedPart, extents: Vec<PackedExtent>) -> Built {
    Built {
        volume,
        slice,
        part,
        extents,
        found: Findings::default(),
        memory: None,
    }
}

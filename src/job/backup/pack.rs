//! Makes parts of files: the threads between the data directory and the store.
//!
//! Memory is bounded by a share of the process's: a thread takes what its share of work may need before it begins, and
//! gives back what the packed part does not; the rest goes with the part until it is stored. A large file's bytes come
//! from a thread beside the one that packs (`blocks`).

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::blocks::Blocks;
use super::packed::{Built, Made, Packed, PackedExtents};
use super::pages::{Rules, Verifier, check_length};
use super::queue::{Opened, Plan, Queue, Work};
use super::rate::Rate;
use super::reading::read_at;
use super::spent::Spent;
use super::{Error, patience};
use crate::archive::tree::layout;
use crate::job::progress::Progress;
use crate::memory::{Held, Share};
use crate::parts::Form;
use crate::parts::part::FinishedPart;
use crate::parts::volume::{VolumeBuilder, file_entry};
use crate::read::base::{Base, Comparison, Difference};

/// Changed bytes of a file that are put into a part together.
const CHANGED_BYTES: usize = 4 << 20;

/// How often a thread that waits for the rate looks whether it should stop.
const NAP: Duration = Duration::from_millis(100);

/// What all threads of a backup share.
#[derive(Debug)]
pub(in crate::job) struct Packers {
    pub(in crate::job) plan: Arc<Plan>,
    pub(in crate::job) queue: Queue,
    /// What has not changed since is not packed.
    pub(in crate::job) base: Option<Arc<Base>>,
    pub(in crate::job) form: Form,
    pub(in crate::job) rules: Option<Rules>,
    pub(in crate::job) rate: Option<Rate>,
    pub(in crate::job) progress: Arc<dyn Progress>,
    /// Without a permit; closed when all shall end.
    stop: Semaphore,
    /// For plain bytes being packed and packed bytes being stored, together.
    memory: Share,
    blocks: Blocks,
    /// For what the threads have waited.
    pub(in crate::job) spent: Spent,
}

/// The threads that copy; they end when nobody waits for them any more.
#[derive(Debug)]
pub(in crate::job) struct AtWork(pub(in crate::job) Arc<Packers>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Packers {
    /// Of a plan, whose first volume gets that number.
    pub(in crate::job) fn new(
        (plan, first_volume): (Plan, u32),
        base: Option<Arc<Base>>,
        form: Form,
        rules: Option<Rules>,
        rate: Option<Rate>,
        progress: Arc<dyn Progress>,
        memory: Share,
    ) -> Self {
        let plan = Arc::new(plan);
        Self {
            queue: Queue::new(plan.clone(), first_volume),
            plan,
            base,
            form,
            rules,
            rate,
            progress,
            stop: Semaphore::new(0),
            memory,
            blocks: Blocks::default(),
            spent: Spent::default(),
        }
    }

    /// Makes every thread end soon.
    pub(in crate::job) fn stop(&self) {
        self.stop.close();
    }

    /// One thread's work: until nothing is left, somebody stops it, or it fails, which is the last that it sends.
    pub(in crate::job) fn run(&self, runtime: &Handle, results: &mpsc::UnboundedSender<Result<Made, Error>>) {
        let packer = Packer {
            shared: self,
            runtime,
            results,
            open: None,
            volume: None,
            made: Made::default(),
        };
        if let Err(error) = self.spent.all(|| packer.run()) {
            // Nobody receives any more if the backup has ended without us.
            let _ = results.send(Err(error));
        }
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

    fn wait_for_memory(&self, bytes: u64, runtime: &Handle) -> Result<Held, Error> {
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
            self.spent.rate.add(nap);
            wait -= nap;
        }
    }
}

/// A thread that packs.
struct Packer<'a> {
    shared: &'a Packers,
    runtime: &'a Handle,
    results: &'a mpsc::UnboundedSender<Result<Made, Error>>,
    open: Option<Bundle>,
    /// The number for the part that is opened next, where it is settled.
    volume: Option<u32>,
    made: Made,
}

/// A part of small files, and of what has changed of large ones, in the making.
struct Bundle {
    volume: u32,
    builder: VolumeBuilder,
    memory: Option<Held>,
}

impl Packer<'_> {
    fn run(mut self) -> Result<(), Error> {
        while let Some(work) = self.shared.queue.next()? {
            let memory = self.take_memory(self.shared.cost(&work))?;
            match work {
                Work::Bundle { volume, sources } => self.files(volume, &sources, memory)?,
                Work::Slice { volume, index, large } => self.slice(volume, index, &large, memory)?,
            }
            self.send()?;
        }
        self.close();
        self.send()
    }

    /// Memory for the next piece of work. What others wait for must not lie in a part that waits for this.
    fn take_memory(&mut self, bytes: u64) -> Result<Held, Error> {
        if let Some(memory) = self.shared.memory.try_take(bytes) {
            return Ok(memory);
        }
        self.close();
        self.send()?;
        let shared = self.shared;
        shared
            .spent
            .on_store(|| shared.wait_for_memory(bytes, self.runtime))
    }

    fn send(&mut self) -> Result<(), Error> {
        let made = std::mem::take(&mut self.made);
        self.results.send(Ok(made)).map_err(|_| Error::Stopped)
    }

    /// The part that is open, or a new one.
    fn bundle(&mut self) -> &mut Bundle {
        let (shared, own) = (self.shared, &mut self.volume);
        self.open.get_or_insert_with(|| Bundle {
            volume: own.take().unwrap_or_else(|| shared.queue.next_volume()),
            builder: VolumeBuilder::new(shared.form),
            memory: None,
        })
    }

    /// Ends the part that is open if it is long enough.
    fn close_long(&mut self) {
        if self.open_bytes() >= layout::BUNDLE_BYTES {
            self.close();
        }
    }

    /// Ends the part that is open.
    fn close(&mut self) {
        let Some(Bundle {
            volume,
            builder,
            memory,
        }) = self.open.take()
        else {
            return;
        };
        let part = builder.finish_bundle();
        // What has come into it since the last work has none of its own yet.
        let memory = memory.or_else(|| self.shared.memory.try_take(part.object.len() as u64));
        self.built(volume, 0, part, memory);
    }

    fn built(&mut self, volume: u32, slice: u32, part: FinishedPart, mut memory: Option<Held>) {
        if let Some(memory) = &mut memory {
            memory.shrink_to(part.object.len() as u64);
        }
        self.made.parts.push(Built {
            volume,
            slice,
            part,
            memory,
        });
    }

    fn files(&mut self, volume: u32, sources: &[u32], memory: Held) -> Result<(), Error> {
        self.volume = Some(volume);
        for number in sources {
            let source = &self.shared.plan.sources[*number as usize];
            if source.bytes.is_none() {
                let directory = source.directory();
                self.bundle().builder.begin_member(&directory);
            } else if let Some(mut opened) = self.shared.plan.open(*number)? {
                self.check_length(&opened);
                // One that has grown this much is a relation, whose rest the WAL has.
                opened.bytes = opened.bytes.min(layout::LARGE_BYTES);
                self.small(&opened)?;
                self.close_long();
            }
        }
        self.volume = None;
        self.hold(memory);
        Ok(())
    }

    /// Plain bytes of the part that is open.
    fn open_bytes(&self) -> u64 {
        let open = self.open.as_ref();
        open.map_or(0, |bundle| bundle.builder.plain_bytes())
    }

    /// Keeps the memory of what is in the open part, and ends that if it is long enough.
    fn hold(&mut self, memory: Held) {
        let bytes = self.open_bytes();
        if let Some(bundle) = &mut self.open {
            match &mut bundle.memory {
                Some(held) => held.join(memory),
                none => *none = Some(memory),
            }
            if let Some(held) = &mut bundle.memory {
                held.shrink_to(bytes);
            }
        }
        self.close_long();
    }

    fn small(&mut self, opened: &Opened) -> Result<(), Error> {
        let all = 0..opened.bytes;
        if let Some(base) = &self.shared.base
            && let Some(comparison) = self.comparison(base, opened)?
        {
            return self.changes(opened, all, comparison);
        }
        let entry = file_entry(&opened.path, opened.attributes, opened.bytes);
        let mut packed = packed(opened, all.clone());
        let bundle = self.bundle();
        let volume = bundle.volume;
        bundle.builder.begin_member(&entry);
        let offset = bundle.builder.plain_bytes();
        self.each_chunk(opened, all, &mut packed, |packer, _, chunk| {
            packer.bundle().builder.content(chunk);
            Ok(())
        })?;
        self.bundle().builder.end_member(opened.bytes);
        packed.place(volume, 0, offset);
        self.made.files.push(packed);
        Ok(())
    }

    fn slice(&mut self, volume: u32, index: u64, large: &Opened, memory: Held) -> Result<(), Error> {
        if index == 0 {
            self.check_length(large);
        }
        if let Some(base) = &self.shared.base
            && let Some(comparison) = self.comparison(base, large)?
        {
            self.changes(large, layout::slice_content(index, large.bytes).0, comparison)?;
            self.hold(memory);
            return Ok(());
        }
        let mut builder = VolumeBuilder::new(self.shared.form);
        let file = file_entry(&large.path, large.attributes, large.bytes);
        let content = builder.begin_slice(index, &file);
        let offset = builder.plain_bytes();
        let mut packed = packed(large, content.clone());
        self.each_chunk(large, content, &mut packed, |_, _, chunk| {
            builder.content(chunk);
            Ok(())
        })?;
        packed.place(volume, index as u32, offset);
        self.made.files.push(packed);
        let part = builder.finish_slice(index, large.bytes);
        self.built(volume, index as u32, part, Some(memory));
        Ok(())
    }

    /// What the base has of a file.
    fn comparison<'a>(&self, base: &'a Base, opened: &Opened) -> Result<Option<Comparison<'a>>, Error> {
        let known = base.file(&opened.path, patience());
        Ok(self.shared.spent.on_store(|| self.runtime.block_on(known))?)
    }

    /// Stores what has changed of a range of a file that the base has.
    fn changes(
        &mut self,
        opened: &Opened,
        range: Range<u64>,
        mut comparison: Comparison<'_>,
    ) -> Result<(), Error> {
        let mut packed = packed(opened, range.clone());
        let mut extents = PackedExtents::default();
        self.each_chunk(opened, range, &mut packed, |packer, at, chunk| {
            let compared = comparison.push(at, chunk, patience());
            packer.runtime.block_on(compared)?;
            if comparison.changed_bytes() >= CHANGED_BYTES {
                packer.store(opened, &comparison.take(), &mut extents);
            }
            Ok(())
        })?;
        self.store(opened, &comparison.take(), &mut extents);
        (packed.extents, packed.is_plain) = (extents.extents, extents.is_plain);
        self.made.files.push(packed);
        Ok(())
    }

    /// Puts what has changed into the open part.
    fn store(&mut self, opened: &Opened, difference: &Difference, extents: &mut PackedExtents) {
        if difference.changed.is_empty() && opened.bytes > 0 {
            if !difference.pieces.is_empty() {
                extents.keep(difference);
            }
            return;
        }
        let bundle = self.bundle();
        let file = (&*opened.path, opened.attributes, opened.bytes);
        extents.store(file, difference, bundle.volume, &mut bundle.builder);
        self.close_long();
    }

    /// Hands on a range of a file, which begins with a chunk, chunk by chunk, so that each is still in the processor's
    /// cache when it is looked at again. What is no longer there is zeros: the WAL knows better.
    fn each_chunk(
        &mut self,
        opened: &Opened,
        range: Range<u64>,
        packed: &mut Packed,
        mut take: impl FnMut(&mut Self, u64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let shared = self.shared;
        let verifier = Verifier::of(shared.rules, &opened.path);
        let read = |buffer: &mut [u8], at| {
            shared.pace(buffer.len() as u64)?;
            read_at(&opened.file, buffer, at)
                .map_err(|source| Error::read(&shared.plan.places.real(&opened.path), source))
        };
        shared.blocks.each(range, read, &shared.spent, |block| {
            for (at, chunk, read) in block.chunks() {
                if let Some(verifier) = &verifier {
                    verifier.check(&mut chunk[..read], at, &opened.file, &mut self.made.found);
                }
                packed.crc32c = crc32c::crc32c_append(packed.crc32c, chunk);
                take(self, at, chunk)?;
                shared.progress.advance(chunk.len() as u64);
            }
            Ok(())
        })
    }

    fn check_length(&mut self, opened: &Opened) {
        if let Some(rules) = self.shared.rules {
            let file = (&*opened.path, &opened.file);
            check_length(rules, file, opened.bytes, &mut self.made.found);
        }
    }
}

/// A range of a file of which nothing is known yet.
fn packed(opened: &Opened, range: Range<u64>) -> Packed {
    Packed {
        path: opened.path.clone(),
        attributes: opened.attributes,
        file_bytes: opened.bytes,
        offset: range.start,
        bytes: range.end - range.start,
        crc32c: 0,
        extents: Vec::new(),
        is_plain: true,
    }
}

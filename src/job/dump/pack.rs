//! Makes parts of a dump, or of a plain file, as it arrives: cut where its content says so, and without what the base has.
//!
//! A thread reads, so that compression holds up nothing else. Memory is bounded by the share for packing: it takes what a part
//! may need before it reads for it, and what is packed keeps its own until it is stored.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use fastcdc::v2020::StreamCDC;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::identity::Identity;
use crate::archive::Archive;
use crate::archive::tree::page_hashes::PageHash;
use crate::archive::tree::{Attributes, headers, layout};
use crate::codec::ContentHash;
use crate::job::backup::packed::{Built, Made, Packed, PackedExtent};
use crate::job::backup::{Error, behind};
use crate::job::progress::Progress;
use crate::job::version::{Draft, patience};
use crate::memory::{Held, Share};
use crate::parts::Form;
use crate::parts::volume::{VolumeBuilder, pages_entry};
use crate::read::base::chunks::ChunkIndex;
use crate::read::page_hashes::Placed;

/// Bytes of a chunk: at least, on average, at most. The least is two pages, so that 16 bytes of hashes say what a chunk is. A
/// changed row costs about one chunk, and each chunk 16 bytes of memory and a hash for each 8 KiB.
const LEAST: usize = 16 << 10;
const AVERAGE: usize = 64 << 10;
const MOST: usize = 256 << 10;

/// Plain bytes after which a part of a dump is closed.
pub(super) const DUMP_PART_BYTES: u64 = layout::BUNDLE_BYTES;

/// The same of a plain file: a mount has less memory.
pub(in crate::job) const FILE_PART_BYTES: u64 = 4 << 20;

/// Places in which a dump lies, at most, 32 bytes of memory each: what comes behind is stored.
const MOST_EXTENTS: usize = 500_000;

/// What is packed, and how.
pub(in crate::job) struct Stream {
    pub(in crate::job) path: Vec<u8>,
    pub(in crate::job) attributes: Attributes,
    pub(in crate::job) memory: Share,
    /// Plain bytes after which a part is closed.
    pub(in crate::job) part_bytes: u64,
    /// What the base has.
    pub(in crate::job) index: Option<ChunkIndex>,
    /// By what it is known,
    pub(in crate::job) identity: Identity,
    /// ... and the base.
    pub(in crate::job) base_hash: Option<ContentHash>,
    pub(in crate::job) progress: Arc<dyn Progress>,
}

/// Where a stream comes from. It may pause: what has come is to be stored then, and more may follow.
pub(in crate::job) trait Source: Read {
    /// Nothing more is to be read. Whom to tell when all before is stored; `None`: that was the end.
    fn pause(&mut self) -> Option<oneshot::Sender<()>> {
        None
    }
}

impl Source for File {}

/// Packs all that comes, and has it stored. The last parts are on their way then. `None`: what came has ended too early, and
/// somebody else knows why.
///
/// # Errors
/// What reads, packs or stores.
pub(in crate::job) async fn store(
    archive: &Arc<Archive>,
    draft: &mut Draft<'_>,
    stream: Stream,
    from: impl Source + Send + 'static,
) -> Result<Option<Dumped>, Error> {
    let (results, built) = mpsc::unbounded_channel();
    let packing = Packing {
        stream,
        form: archive.form(),
        runtime: Handle::current(),
        results,
    };
    let (done, dumped) = oneshot::channel();
    let pack = move || {
        let _ = done.send(packing.run(from));
    };
    behind::spawn(pack).map_err(Error::Thread)?;
    let never = std::future::pending();
    draft.uploads.take(archive, &draft.id, built, never).await?;
    Ok(dumped.await.ok().flatten())
}

/// A stream with what packs it.
struct Packing {
    stream: Stream,
    form: Form,
    runtime: Handle,
    results: mpsc::UnboundedSender<Result<Made, Error>>,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(in crate::job) struct Dumped {
    /// By what an equal one is known.
    pub(in crate::job) hash: ContentHash,
    pub(in crate::job) bytes: u64,
    /// Is it the same as the base? Then its last part was not made.
    pub(in crate::job) is_same: bool,
}

impl Packing {
    /// Packs all that comes. `None` if it failed, which is the last that it sends, or if nobody waits for it any more.
    fn run(self, from: impl Source) -> Option<Dumped> {
        let results = self.results.clone();
        let Stream { path, attributes, .. } = &self.stream;
        let packer = Packer {
            open: None,
            volume: 0,
            header_bytes: headers::member_header(&pages_entry(path, *attributes, 0)).len() as u64,
            packed: Packed {
                path: path.as_slice().into(),
                attributes: *attributes,
                file_bytes: 0,
                offset: 0,
                bytes: 0,
                crc32c: 0,
                extents: Vec::new(),
                is_plain: false,
            },
            packing: self,
        };
        match packer.run(from) {
            Ok(dumped) => Some(dumped),
            Err(error) => {
                let _ = results.send(Err(error));
                None
            }
        }
    }
}

/// What is packed by now.
struct Packer {
    packing: Packing,
    open: Option<Open>,
    /// Number of the part that is open, or will be next.
    volume: u32,
    /// What a part has before its chunks.
    header_bytes: u64,
    /// All of the dump, and where it lies.
    packed: Packed,
}

/// The chunks of a part that is not made yet.
struct Open {
    chunks: Vec<u8>,
    lengths: Vec<usize>,
    memory: Held,
}

/// Counts what it reads: the cutter must hand on all of it.
struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for &mut Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

impl Packer {
    fn run(mut self, from: impl Source) -> Result<Dumped, Error> {
        let mut from = Counted { from, bytes: 0 };
        loop {
            for chunk in StreamCDC::new(&mut from, LEAST, AVERAGE, MOST) {
                let chunk = chunk.map_err(|error| cannot_read(error.into()))?.data;
                self.packing.stream.identity.update(&chunk);
                self.packing.stream.progress.advance(chunk.len() as u64);
                self.chunk(&chunk)?;
            }
            let Some(settled) = from.from.pause() else { break };
            self.close()?;
            let made = Made {
                settled: Some(settled),
                ..Made::default()
            };
            send(&self.packing, made)?;
        }
        if from.bytes != self.packed.bytes {
            return Err(cannot_read(io::Error::other("it was cut wrongly")));
        }
        let identity = std::mem::replace(&mut self.packing.stream.identity, Identity::of_file());
        let hash = identity.hash();
        let is_same = self.packing.stream.base_hash == Some(hash);
        if !is_same {
            self.close()?;
            self.packed.file_bytes = self.packed.bytes;
            let made = Made {
                files: vec![self.packed],
                ..Made::default()
            };
            send(&self.packing, made)?;
        }
        Ok(Dumped {
            hash,
            bytes: from.bytes,
            is_same,
        })
    }

    fn chunk(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.packed.bytes += chunk.len() as u64;
        match self.in_base(chunk)? {
            Some(place) => {
                match self.packed.extents.last_mut() {
                    Some(PackedExtent::Base(last)) if goes_on(last, &place) => last.bytes += place.bytes,
                    _ => self.packed.extents.push(PackedExtent::Base(place)),
                }
                Ok(())
            }
            None => self.keep(chunk),
        }
    }

    /// Where the base has it.
    fn in_base(&mut self, chunk: &[u8]) -> Result<Option<Placed>, Error> {
        let packing = &mut self.packing;
        let index = packing
            .stream
            .index
            .as_mut()
            .filter(|_| self.packed.extents.len() < MOST_EXTENTS);
        let Some(index) = index else { return Ok(None) };
        let hashes: Vec<PageHash> = packing.form.page_key.pages(chunk).collect();
        let found = index.find(chunk.len() as u64, &hashes, patience);
        Ok(packing.runtime.block_on(found)?)
    }

    /// Puts a chunk into the part that is open.
    fn keep(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let Packing { stream, runtime, .. } = &self.packing;
        let open = self.open.get_or_insert_with(|| Open {
            chunks: Vec::new(),
            lengths: Vec::new(),
            memory: runtime.block_on(stream.memory.take(part_memory(stream.part_bytes))),
        });
        let offset = self.header_bytes + open.chunks.len() as u64;
        open.chunks.extend_from_slice(chunk);
        open.lengths.push(chunk.len());
        let is_full = open.chunks.len() as u64 >= stream.part_bytes;
        let length = chunk.len() as u64;
        match self.packed.extents.last_mut() {
            Some(PackedExtent::Own {
                volume,
                offset: start,
                bytes,
                ..
            }) if *volume == self.volume && *start + *bytes == offset => *bytes += length,
            _ => self.packed.extents.push(PackedExtent::Own {
                volume: self.volume,
                slice: 0,
                offset,
                bytes: length,
            }),
        }
        match is_full {
            true => self.close(),
            false => Ok(()),
        }
    }

    /// Makes the part that is open: each chunk is a run of pages of its own, by which a later dump knows it.
    fn close(&mut self) -> Result<(), Error> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        let bytes = open.chunks.len() as u64;
        let mut builder = VolumeBuilder::new(self.packing.form);
        let Stream { path, attributes, .. } = &self.packing.stream;
        builder.begin_member(&pages_entry(path, *attributes, bytes));
        assert_eq!(
            builder.plain_bytes(),
            self.header_bytes,
            "headers have one length"
        );
        let mut rest = open.chunks.as_slice();
        for length in open.lengths {
            let (chunk, behind) = rest.split_at(length);
            builder.begin_run();
            builder.content(chunk);
            rest = behind;
        }
        builder.end_member(bytes);
        let part = builder.finish_bundle();
        open.memory.shrink_to(part.object.len() as u64);
        let built = Built {
            volume: self.volume,
            slice: 0,
            part,
            memory: Some(open.memory),
        };
        self.volume += 1;
        let made = Made {
            parts: vec![built],
            ..Made::default()
        };
        send(&self.packing, made)
    }
}

/// Memory for a part: its chunks, and what they become.
pub(in crate::job) const fn part_memory(part_bytes: u64) -> u64 {
    2 * (part_bytes + MOST as u64)
}

fn send(packing: &Packing, made: Made) -> Result<(), Error> {
    packing.results.send(Ok(made)).map_err(|_| Error::Stopped)
}

/// Does one place in the base lie behind the other?
fn goes_on(last: &Placed, next: &Placed) -> bool {
    last.part.key == next.part.key && last.offset + last.bytes == next.offset
}

fn cannot_read(source: io::Error) -> Error {
    Error::Read {
        path: PathBuf::from("the dump"),
        source,
        hint: String::new(),
    }
}

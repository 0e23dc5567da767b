//! A large file being written: the slices of its own volume.
//!
//! A slice that the writer has left behind is packed up and sent while it goes on. The first one waits for the file's
//! name and length, the last ones for its end. A slice that is written to after it has been sent is fetched back, and
//! what was sent is forgotten: correct for every writer, quick for those who go forward.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;

use crate::archive;
use crate::archive::tree::chunks;
use crate::archive::tree::page_hashes::{PAGE_BYTES, PageHash, PageHashes};
use crate::archive::tree::{Attributes, Entry, layout};
use crate::archive::wal::Offered;
use crate::codec::{self, FRAME_BYTES};
use crate::parts::Form;
use crate::parts::chunk::{Chunks, Crc};
use crate::parts::part::FinishedPart;
use crate::parts::volume::{Bundle, in_slices, pages_entry, slice_headers, spot};
use crate::read::page_hashes::Placed;
use crate::staging::{Draft, Staging};

use super::Error;
use super::arrived::Pieces;
use super::sending::{Made, Outgoing, Sender, Unmade};

/// How many slices the writer must have gone on before one is sent. `pg_basebackup` comes back to the header of the WAL
/// segment that it has just written into `pg_wal.tar`.
const BEHIND: u64 = 2;

/// Chunks that begin in a slice.
const SLICE_CHUNKS: u64 = layout::SLICE_BYTES / FRAME_BYTES as u64;

/// A large file.
#[derive(Debug)]
pub(super) struct Large {
    volume: u32,
    bytes: u64,
    /// By index. One that is not there is zeros.
    slices: BTreeMap<u64, Slice>,
    /// How often a slice that had been sent was taken back: makes keys that nobody has had.
    again: u32,
    /// Are all slices sent, with header and end?
    finished: bool,
    /// The slice that was written to last.
    reached: u64,
}

#[derive(Debug)]
enum Slice {
    Open(Box<Draft>),
    Sent { part: Outgoing, chunks: Chunks },
}

/// Where a file's bytes go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) staging: &'a Staging,
    pub(super) sender: &'a Arc<Sender>,
    /// The file's path in the tree, if it has one; asked for where something may be sent.
    pub(super) path: Option<&'a [u8]>,
}

impl Large {
    pub(super) fn new(sender: &Sender) -> Self {
        Self {
            volume: sender.next_volume(),
            bytes: 0,
            slices: BTreeMap::new(),
            again: 0,
            finished: false,
            reached: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(super) async fn write(&mut self, way: Way<'_>, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.unfinish(way).await?;
        let end = offset + data.len() as u64;
        for (slice, at, file) in in_slices(offset..end) {
            let bytes = &data[(file.start - offset) as usize..(file.end - offset) as usize];
            let draft = self.open(way, slice).await?;
            let written = draft.write(at, bytes).await;
            written.map_err(|error| staging(way, &error))?;
        }
        self.bytes = self.bytes.max(end);
        let (reached, _) = spot(end);
        if std::mem::replace(&mut self.reached, reached) == reached {
            return Ok(());
        }
        self.send_behind(way, reached).await
    }

    pub(super) async fn truncate(&mut self, way: Way<'_>, bytes: u64) -> Result<(), Error> {
        if bytes == self.bytes {
            return Ok(());
        }
        self.unfinish(way).await?;
        if bytes < self.bytes {
            let (last, at) = spot(bytes);
            self.forget_after(way, last);
            if self.slices.contains_key(&last) {
                let draft = self.open(way, last).await?;
                let cut = if draft.bytes() > at {
                    draft.truncate(at).await
                } else {
                    Ok(())
                };
                cut.map_err(|error| staging(way, &error))?;
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Short only at the file's end.
    pub(super) async fn read(&mut self, way: Way<'_>, offset: u64, bytes: usize) -> Result<Vec<u8>, Error> {
        let end = self.bytes.min(offset.saturating_add(bytes as u64));
        let mut out = Vec::new();
        if offset >= end {
            return Ok(out);
        }
        for (index, at, file) in in_slices(offset..end) {
            let length = (file.end - file.start) as usize;
            let target = out.len() + length;
            match self.slices.get_mut(&index) {
                None => {}
                Some(Slice::Open(draft)) => {
                    let read = draft.read(at, length).await;
                    out.extend_from_slice(&read.map_err(|error| staging(way, &error))?);
                }
                Some(Slice::Sent { part, .. }) => {
                    let start = file.start - layout::slice_content(index, self.bytes).0.start;
                    let within = start..start + length as u64;
                    out.extend(way.sender.read_file(part, 0, within).await?);
                }
            }
            out.resize(target, 0);
        }
        Ok(out)
    }

    /// CRC-32C of the file as it is now: from what was summed up when it was packed, sent or not.
    pub(super) async fn crc(&mut self, way: Way<'_>) -> Result<Crc, Error> {
        let mut whole = Crc::default();
        for index in 0..layout::slices(self.bytes) {
            let (file, at) = layout::slice_content(index, self.bytes);
            let bytes = file.end - file.start;
            whole = whole.then(match self.slices.get_mut(&index) {
                None => Crc::of_zeros(bytes),
                Some(Slice::Sent { chunks, .. }) => chunks.crc,
                Some(Slice::Open(draft)) => {
                    let chunks = content_chunks(draft, at + bytes).await;
                    chunks.map_err(|error| staging(way, &error))?.crc
                }
            });
        }
        Ok(whole)
    }

    /// CRC-32C of a chunk that has been sent.
    pub(super) fn chunk_crc(&self, index: u64) -> Option<Crc> {
        let Slice::Sent { chunks, .. } = self.slices.get(&(index / SLICE_CHUNKS))? else {
            return None;
        };
        let file = chunks::range(index, self.bytes);
        chunks.crc_of((index % SLICE_CHUNKS) as usize, file.end - file.start)
    }

    /// Sends every slice that has not been sent: the file has its name and length.
    ///
    /// # Errors
    /// [`Error::Invalid`]: its path is too long. [`Error::Archive`].
    pub(super) async fn finish(&mut self, way: Way<'_>, file: &Entry) -> Result<(), Error> {
        for index in 0..layout::slices(self.bytes) {
            if matches!(self.slices.get(&index), Some(Slice::Sent { .. })) {
                continue;
            }
            let headers = slice_headers(index, file).ok_or(Error::Invalid("the path is too long"))?;
            self.send(way, index, &headers).await?;
        }
        self.finished = true;
        Ok(())
    }

    /// Its slices, in order. Of a finished file.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Outgoing> {
        self.slices.values().map(|slice| match slice {
            Slice::Sent { part, .. } => part,
            Slice::Open(_) => unreachable!("a finished file has sent all slices"),
        })
    }

    /// Nobody wants it any more.
    pub(super) fn forget(self, sender: &Sender) {
        for slice in self.slices.into_values() {
            if let Slice::Sent { part, .. } = slice {
                sender.forget(part);
            }
        }
    }

    /// Takes header and end back: they are about to change.
    async fn unfinish(&mut self, way: Way<'_>) -> Result<(), Error> {
        if !std::mem::take(&mut self.finished) {
            return Ok(());
        }
        let (last, _) = spot(self.bytes);
        self.forget_after(way, last);
        self.open(way, 0).await?;
        if self.slices.contains_key(&last) {
            self.open(way, last).await?;
        }
        Ok(())
    }

    fn forget_after(&mut self, way: Way<'_>, last: u64) {
        for slice in self.slices.split_off(&(last + 1)).into_values() {
            if let Slice::Sent { part, .. } = slice {
                way.sender.forget(part);
                self.again += 1;
            }
        }
    }

    /// The slice's draft; fetched back if it has been sent.
    async fn open(&mut self, way: Way<'_>, index: u64) -> Result<&mut Draft, Error> {
        if let Some(Slice::Sent { part, .. }) = self.slices.get(&index) {
            let part = part.clone();
            let (file, at) = layout::slice_content(index, self.bytes);
            let plain = way.sender.read_file(&part, 0, 0..file.end - file.start).await?;
            let mut draft = Box::new(draft(way, index));
            let written = draft.write(at, &plain).await;
            written.map_err(|error| staging(way, &error))?;
            self.slices.insert(index, Slice::Open(draft));
            way.sender.forget(part);
            self.again += 1;
        }
        let slice = self.slices.entry(index);
        match slice.or_insert_with(|| Slice::Open(Box::new(draft(way, index)))) {
            Slice::Open(draft) => Ok(draft),
            Slice::Sent { .. } => unreachable!("opened above"),
        }
    }

    /// Sends the slices that a writer who is at slice `reached` has left behind.
    async fn send_behind(&mut self, way: Way<'_>, reached: u64) -> Result<(), Error> {
        let behind = self.slices.range(1..reached.saturating_sub(BEHIND - 1).max(1));
        let open = |(index, slice): (&u64, &Slice)| matches!(slice, Slice::Open(_)).then_some(*index);
        let behind: Vec<u64> = behind.filter_map(open).collect();
        for index in behind {
            self.send(way, index, &[]).await?;
        }
        Ok(())
    }

    async fn send(&mut self, way: Way<'_>, index: u64, headers: &[u8]) -> Result<(), Error> {
        self.open(way, index).await?;
        let (file, at) = layout::slice_content(index, self.bytes);
        let plain_end = layout::slice_bytes(index, self.bytes);
        let Some(Slice::Open(mut draft)) = self.slices.remove(&index) else {
            unreachable!("opened above");
        };
        let hashed = async {
            let chunks = content_chunks(&mut draft, at + file.end - file.start).await?;
            // Padding, and the end of the volume.
            draft.truncate(plain_end).await?;
            draft.write(0, headers).await?;
            Ok(chunks)
        };
        let hashed: std::io::Result<_> = hashed.await;
        let mut chunks = hashed.map_err(|error| staging(way, &error))?;
        let slice = u32::try_from(index).expect("a file has fewer slices");
        let key = way.sender.key(self.volume, slice, self.again);
        let content = Content {
            path: way.path.map(Into::into),
            file,
            at,
            hashes: std::mem::take(&mut chunks.hashes),
        };
        let form = way.sender.archive.form();
        let part = way
            .sender
            .send(key, content.pack(way.sender.clone(), *draft, form));
        self.slices.insert(index, Slice::Sent { part, chunks });
        Ok(())
    }
}

/// The chunks of a slice whose content ends at `end`: what the writer has left out there is zeros.
async fn content_chunks(draft: &mut Draft, end: u64) -> std::io::Result<Chunks> {
    draft.truncate(end).await?;
    draft.chunks().await
}

/// The content of a slice.
struct Content {
    path: Option<Box<[u8]>>,
    /// Which bytes of the file it is.
    file: Range<u64>,
    /// Where it begins in the slice.
    at: u64,
    hashes: Vec<PageHash>,
}

impl Content {
    /// Makes a part of the slice; of one of which at most half has changed, of what has.
    async fn pack(self, sender: Arc<Sender>, mut draft: Draft, form: Form) -> std::io::Result<Unmade> {
        let bytes = self.file.end - self.file.start;
        let kept = sender
            .kept(self.path.as_deref(), self.file.clone(), &self.hashes)
            .await;
        let changed = kept.iter().filter(|page| page.is_none()).count();
        if let Some(path) = &self.path
            && changed * 2 <= kept.len()
            && changed < kept.len()
        {
            // Plain and packed.
            let most_bytes = 2 * codec::most_stored_bytes(changed as u64 * PAGE_BYTES + layout::HEADER_BYTES);
            let path = path.clone();
            let make = async move {
                let plain = self.changed(&mut draft, &kept).await?;
                let mut bundle = Bundle::default();
                let mut offset = 0;
                if !plain.is_empty() {
                    let entry = pages_entry(&path, nobodys(), plain.len() as u64);
                    offset = bundle.add(entry, plain);
                }
                let files = vec![Pieces::changed(kept, bytes, offset)];
                Made::of(bundle, files, form).await
            };
            return Ok(Unmade {
                most_bytes,
                make: make.boxed(),
            });
        }
        let mut hashes = PageHashes::default();
        hashes.push(self.at, bytes, self.hashes);
        let finished = draft.finish_with(&hashes.to_annex(form.page_key)).await?;
        let most_bytes = finished.stored_bytes();
        let files = vec![Pieces::whole(self.at, bytes)];
        let read = async move {
            let part = FinishedPart {
                object: finished.read(0..finished.stored_bytes()).await?,
                plain_bytes: finished.plain_bytes(),
                hash: finished.hash(),
            };
            Ok(Made {
                part: Some(part),
                files,
            })
        };
        Ok(Unmade {
            most_bytes,
            make: read.boxed(),
        })
    }

    /// The pages that are not kept, one behind the other. Each frame is unpacked once.
    async fn changed(&self, draft: &mut Draft, kept: &[Option<Placed>]) -> std::io::Result<Vec<u8>> {
        let mut changed = Vec::new();
        let bytes = self.file.end - self.file.start;
        for start in (0..bytes).step_by(FRAME_BYTES) {
            let window = start..bytes.min(start + FRAME_BYTES as u64);
            let first = (window.start / PAGE_BYTES) as usize;
            let pages = &kept[first..(window.end.div_ceil(PAGE_BYTES)) as usize];
            if pages.iter().all(Option::is_some) {
                continue;
            }
            let length = (window.end - window.start) as usize;
            let plain = draft.read(self.at + window.start, length).await?;
            let pages = plain.chunks(PAGE_BYTES as usize).zip(pages);
            for (page, _) in pages.filter(|(_, kept)| kept.is_none()) {
                changed.extend_from_slice(page);
            }
        }
        Ok(changed)
    }
}

/// What a tar tool shows of pages: of the file itself the manifest knows more.
fn nobodys() -> Attributes {
    Attributes {
        mode: 0o600,
        uid: 0,
        gid: 0,
        modified: Timestamp::UNIX_EPOCH,
    }
}

fn draft(way: Way<'_>, index: u64) -> Draft {
    let skipped = if index == 0 { layout::HEADER_BYTES } else { 0 };
    way.staging
        .draft()
        .with_chunks(skipped as usize, way.sender.archive.page_key())
}

/// Local I/O that failed has lost bytes: the tree cannot be completed.
fn staging(way: Way<'_>, error: &std::io::Error) -> Error {
    way.sender
        .fail(archive::Error::staging(&way.sender.id, error))
        .into()
}

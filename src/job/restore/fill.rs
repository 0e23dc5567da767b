//! Brings what is missing: several parts at once, each written where its bytes belong while it is decoded.
//!
//! More are fetched than are decoded, so that those who decode do not wait for a round trip each time. Memory is bounded by
//! bytes, not by parts: what compresses well is small, and so further ahead. At worst a part has 32 MiB of stored bytes in
//! memory or on their way; each that is decoded has 4 MiB beside these, and the WAL that comes meanwhile 32 MiB.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::compare::FileWork;
use super::content::Source;
use super::error::Error;
use super::spot::Roots;
use crate::archive::tree::{Content, Tree};
use crate::beneath::Root;
use crate::job::progress::Progress;
use crate::long_write;
use crate::read::part::{Take, Wanted, read_part_in_turn};

/// So many bytes of a file are worth a system call of their own.
const LONG_BYTES: usize = 1 << 20;

/// Parts that are fetched at once for each that is decoded, as far as memory goes. A part that has compressed well is decoded
/// in some 30 ms, a core's time; with four of them on the way meanwhile, a round trip of 100 ms is hidden.
const FETCHED: usize = 4;

/// Bytes of a part, and where they go.
#[derive(Debug, Clone, Copy)]
struct Destination {
    /// Offset in the part.
    offset: u64,
    bytes: u64,
    /// The file, by its place in the list.
    file: usize,
    /// Offset in the file.
    at: u64,
}

/// Makes a file as long as it shall be, with what is right already in it.
pub(super) fn make_file(roots: &Roots, work: &FileWork) -> Result<(), Error> {
    match roots.metadata(&work.spot)? {
        Some(found) if found.is_file() && work.missing.is_empty() && found.len() == work.bytes => {
            return Ok(());
        }
        // One that its owner may not write.
        Some(found) if found.is_file() => {
            roots.on("set the mode of", &work.spot, |root, below| {
                root.set_mode(below, 0o600)
            })?;
        }
        _ => {}
    }
    // What was found right must still be there: only a file of which nothing is kept is made.
    let whole = 0..work.bytes;
    let nothing_kept = work.bytes == 0 || work.missing == [whole];
    roots.on("write", &work.spot, |root, below| {
        let file = match nothing_kept {
            true => root.create(below, 0o600)?,
            false => root.open_to_write(below)?,
        };
        file.set_len(work.bytes)
    })
}

/// Brings all missing bytes. Returns how many stored bytes were fetched for it.
pub(super) async fn fill(
    source: &Source,
    roots: &Arc<Roots>,
    files: &Arc<Vec<FileWork>>,
    jobs: usize,
    progress: &Arc<dyn Progress>,
) -> Result<u64, Error> {
    let parts = by_part(&source.tree, files);
    let jobs = jobs.max(1);
    let decoders = &Semaphore::new(jobs);
    let memory = &source.archive.memory().filling;
    let fetch = |(part, destinations): (u32, Vec<Destination>)| async move {
        let stored_bytes = source.tree.parts[part as usize].stored_bytes;
        let _held = memory.take(stored_bytes).await;
        let ranges = destinations
            .iter()
            .map(|destination| destination.offset..destination.offset + destination.bytes);
        let wanted = Wanted::of(source.tree.parts[part as usize].plain_bytes, ranges);
        let request = source.request(part, wanted, holds(&source.tree, files, &destinations));
        let writer = PartWriter {
            roots: roots.clone(),
            files: files.clone(),
            longest_bytes: destinations
                .iter()
                .map(|destination| destination.bytes)
                .max()
                .unwrap_or(0),
            destinations,
            open: Mutex::new(None),
            progress: progress.clone(),
            reached: Mutex::new(0),
        };
        let take: Arc<Take> = Arc::new(move |offset, bytes: &[u8]| writer.take(offset, bytes));
        let read = read_part_in_turn(&source.archive, &request, source.patience, decoders, take);
        Ok::<u64, Error>(read.await?)
    };
    let fetched = stream::iter(parts).map(fetch).buffer_unordered(jobs * FETCHED);
    fetched
        .try_fold(0, |sum, bytes| async move { Ok(sum + bytes) })
        .await
}

/// The missing bytes, by the parts that they are in, each part's ascending.
fn by_part(tree: &Tree, files: &[FileWork]) -> BTreeMap<u32, Vec<Destination>> {
    let mut parts: BTreeMap<u32, Vec<Destination>> = BTreeMap::new();
    for (file, work) in files.iter().enumerate() {
        let Some(Content::File { extents, .. }) = tree.entry(work.entry).map(|entry| &entry.content) else {
            continue;
        };
        let mut start = 0;
        for extent in extents {
            let end = start + extent.bytes;
            let overlapping = work
                .missing
                .iter()
                .filter(|range| range.start < end && range.end > start);
            for range in overlapping {
                let (from, to) = (range.start.max(start), range.end.min(end));
                parts.entry(extent.part).or_default().push(Destination {
                    offset: extent.offset + (from - start),
                    bytes: to - from,
                    file,
                    at: from,
                });
            }
            start = end;
        }
    }
    for destinations in parts.values_mut() {
        destinations.sort_by_key(|destination| destination.offset);
    }
    parts
}

/// Names a part's files for an error.
fn holds(tree: &Tree, files: &[FileWork], destinations: &[Destination]) -> String {
    let name = |destination: &Destination| {
        let entry = tree.entry(files[destination.file].entry);
        entry.map_or_else(String::new, |entry| {
            String::from_utf8_lossy(&entry.path).into_owned()
        })
    };
    let others = destinations.len().saturating_sub(1);
    match destinations.first().map(name) {
        Some(first) if others > 0 => format!("{first} and {others} more"),
        first => first.unwrap_or_default(),
    }
}

/// Writes a part's bytes where they belong.
#[derive(Debug)]
struct PartWriter {
    roots: Arc<Roots>,
    files: Arc<Vec<FileWork>>,
    /// By their offsets. They may lie in one another: two files may have bytes of a base in common.
    destinations: Vec<Destination>,
    longest_bytes: u64,
    /// The file that was written last: the next bytes are often its, too.
    open: Mutex<Option<(usize, File)>>,
    progress: Arc<dyn Progress>,
    /// How far this part has come, so that what is read once more is not counted twice.
    reached: Mutex<u64>,
}

impl PartWriter {
    fn take(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let first = self
            .destinations
            .partition_point(|destination| destination.offset + self.longest_bytes <= offset);
        let mut open = self.open.lock().expect("no panic while held");
        let mut written_bytes = 0;
        let mut run: Option<Run> = None;
        for destination in self.destinations[first..]
            .iter()
            .take_while(|destination| destination.offset < end)
            .filter(|destination| destination.offset + destination.bytes > offset)
        {
            let (from, to) = (
                destination.offset.max(offset),
                (destination.offset + destination.bytes).min(end),
            );
            let content = &bytes[(from - offset) as usize..(to - offset) as usize];
            let at = destination.at + (from - destination.offset);
            if open.as_ref().is_none_or(|(file, _)| *file != destination.file) {
                begin_to_store(open.as_ref(), run.take());
            }
            self.write(&mut open, destination.file, at, content)?;
            let end = at + content.len() as u64;
            let known = run.get_or_insert(Run {
                begin: at,
                end,
                bytes: 0,
            });
            known.begin = known.begin.min(at);
            known.end = known.end.max(end);
            known.bytes += content.len();
            written_bytes += to - from;
        }
        begin_to_store(open.as_ref(), run);
        let mut reached = self.reached.lock().expect("no panic while held");
        if end > *reached {
            *reached = end;
            self.progress.advance(written_bytes);
        }
        Ok(())
    }

    fn write(
        &self,
        open: &mut Option<(usize, File)>,
        file: usize,
        at: u64,
        content: &[u8],
    ) -> io::Result<()> {
        let spot = &self.files[file].spot;
        if open.as_ref().is_none_or(|(number, _)| *number != file) {
            let opened = self.roots.on("write", spot, Root::open_to_write)?;
            *open = Some((file, opened));
        }
        let (_, target) = open.as_ref().expect("opened just now");
        long_write::write_all_at(target, content, at)
            .map_err(Error::at("write", &self.roots.bases.path(spot)))?;
        Ok(())
    }
}

/// Bytes of a file that were written one after the other; between them may be others.
#[derive(Debug)]
struct Run {
    begin: u64,
    end: u64,
    bytes: usize,
}

/// Tells the kernel to begin writing many bytes to the disk, so that the fsync at the end finds little to wait for. Only a
/// hint: that fsync is what counts, so it is no matter if the file system does not know it.
fn begin_to_store(open: Option<&(usize, File)>, run: Option<Run>) {
    let (Some((_, file)), Some(run)) = (open, run) else {
        return;
    };
    if run.bytes < LONG_BYTES {
        return;
    }
    // SAFETY: a system call on an open descriptor, without pointers.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            run.begin as libc::off64_t,
            (run.end - run.begin) as libc::off64_t,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}

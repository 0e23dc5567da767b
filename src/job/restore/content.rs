//! Bytes of single files of a backup: small ones whole, large ones in order.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use super::error::Error;
use crate::archive::Archive;
use crate::archive::tree::summary::Summary;
use crate::archive::tree::{Content, Entry, Extent, Tree, TreeName};
use crate::read::part::{PartRequest, Take, Wanted, read_part};
use crate::store::Patience;

/// Runs of bytes that wait to be read.
const AHEAD: usize = 2;

/// A backup that is read from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub archive: Arc<Archive>,
    pub backup: TreeName,
    pub summary: Summary,
    pub tree: Arc<Tree>,
    pub patience: Patience,
}

impl Source {
    /// All of a file of at most `most` bytes; `None` if the backup does not have it.
    pub(super) async fn small(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, Error> {
        let number = self.tree.find(path.as_bytes());
        let Some(entry) = number.and_then(|number| self.tree.entry(number)) else {
            return Ok(None);
        };
        self.whole(entry, most).await.map(Some)
    }

    /// All of a file of at most `most` bytes.
    pub(super) async fn whole(&self, entry: &Entry, most: u64) -> Result<Vec<u8>, Error> {
        if entry.bytes() > most {
            return Err(Error::Content {
                backup: self.backup.clone(),
                file: String::from_utf8_lossy(&entry.path).into_owned(),
                reason: format!("it has {} bytes, expected at most {most}", entry.bytes()),
            });
        }
        let whole = Arc::new(Mutex::new(Vec::with_capacity(entry.bytes() as usize)));
        let sink = whole.clone();
        self.in_order(entry, move |bytes| {
            sink.lock().expect("no panic while held").extend_from_slice(bytes);
            Ok(())
        })
        .await?;
        Ok(std::mem::take(&mut *whole.lock().expect("no panic while held")))
    }

    /// A file as a stream. To be read on a thread for blocking work; the bytes are fetched meanwhile.
    pub(super) fn stream(&self, entry: &Entry) -> Stream {
        let (sender, runs) = sync_channel(AHEAD);
        let (source, entry, entry_bytes) = (self.clone(), entry.clone(), entry.bytes());
        tokio::spawn(async move {
            let sink = sender.clone();
            let sent = source
                .in_order(&entry, move |bytes| send(&sink, Ok(bytes.to_vec())))
                .await;
            if let Err(error) = sent {
                // Sending waits for the reader.
                let _ = tokio::task::spawn_blocking(move || send(&sender, Err(error))).await;
            }
        });
        Stream {
            runs,
            run: io::Cursor::new(Vec::new()),
            missing_bytes: entry_bytes,
        }
    }

    /// What a request for a part names.
    pub(super) fn request(&self, part: u32, wanted: Wanted, holds: String) -> PartRequest {
        PartRequest {
            backup: self.backup.clone(),
            part: self.tree.parts[part as usize].clone(),
            wanted,
            holds,
        }
    }

    /// Hands on a file's bytes in order, each once.
    async fn in_order(
        &self,
        entry: &Entry,
        sink: impl Fn(&[u8]) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let Content::File { extents, .. } = &entry.content else {
            return Ok(());
        };
        let sink = Arc::new(sink);
        for extent in extents {
            let range = extent.offset..extent.offset + extent.bytes;
            let wanted = Wanted::of(self.tree.parts[extent.part as usize].plain_bytes, [range]);
            let holds = String::from_utf8_lossy(&entry.path).into_owned();
            let request = self.request(extent.part, wanted, holds);
            let take = in_turn(*extent, sink.clone());
            read_part(&self.archive, &request, self.patience, take).await?;
        }
        Ok(())
    }
}

/// Hands on the extent's bytes, and nothing a second time if the part is read once more.
fn in_turn(extent: Extent, sink: Arc<impl Fn(&[u8]) -> io::Result<()> + Send + Sync + 'static>) -> Arc<Take> {
    let done = Mutex::new(extent.offset);
    Arc::new(move |offset, bytes: &[u8]| {
        let mut done = done.lock().expect("no panic while held");
        let here: Range<u64> = offset..offset + bytes.len() as u64;
        let (from, to) = (
            (*done).max(here.start),
            here.end.min(extent.offset + extent.bytes),
        );
        if from < to {
            sink(&bytes[(from - offset) as usize..(to - offset) as usize])?;
            *done = to;
        }
        Ok(())
    })
}

type Run = Result<Vec<u8>, Error>;

/// Fails if nobody reads any more.
fn send(sender: &SyncSender<Run>, run: Run) -> io::Result<()> {
    sender
        .send(run)
        .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
}

/// Bytes of a file, in order.
#[derive(Debug)]
pub(super) struct Stream {
    runs: Receiver<Run>,
    run: io::Cursor<Vec<u8>>,
    missing_bytes: u64,
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.run.read(into)?;
            if bytes > 0 || into.is_empty() {
                return Ok(bytes);
            }
            match self.runs.recv() {
                Ok(run) => {
                    let run = run?;
                    self.missing_bytes -= run.len() as u64;
                    self.run = io::Cursor::new(run);
                }
                Err(_) if self.missing_bytes > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(_) => return Ok(0),
            }
        }
    }
}

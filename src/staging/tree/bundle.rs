//! Small files, put together.
//!
//! A file that was closed waits until another one has been closed after it: writers give a file its name and its time
//! last. Then it goes out with others, one object for many of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::OwnedMutexGuard;

use crate::archive::tree::{self, Entry, layout};
use crate::codec;
use crate::staging::chunk::Chunks;
use crate::staging::part::PartBuilder;

use super::file::{Content, DraftFile, Member, SentAs};
use super::sending::{Outgoing, Unmade};
use super::{Error, TreeDraft};

/// Plain bytes of a bundle. They are in memory while it grows, for each tree that is being written: so these bundles are
/// smaller than those of a backup that reads its files when their time comes.
pub(super) const BUNDLE_BYTES: u64 = layout::BUNDLE_BYTES / 2;

/// Files after which a bundle is closed, however small they are.
const BUNDLE_FILES: usize = 4096;

/// Files that were closed and have not been sent.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The one closed last.
    latest: Option<Closed>,
    small: Vec<u32>,
    small_bytes: u64,
}

/// A file nobody has open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    pub(super) number: u32,
    pub(super) bytes: u64,
    pub(super) large: bool,
}

/// What is to be sent now.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Small files, for one bundle.
    pub(super) bundle: Vec<u32>,
    /// A large file.
    pub(super) large: Option<u32>,
}

impl Queue {
    /// Notes that a file was closed.
    pub(super) fn close(&mut self, file: Closed) -> Ready {
        let mut ready = Ready::default();
        let before = self
            .latest
            .replace(file)
            .filter(|before| before.number != file.number);
        match before {
            Some(before) if before.large => ready.large = Some(before.number),
            Some(before) => {
                self.small.push(before.number);
                self.small_bytes += before.bytes;
            }
            None => {}
        }
        if self.small_bytes >= BUNDLE_BYTES || self.small.len() >= BUNDLE_FILES {
            self.small_bytes = 0;
            ready.bundle = std::mem::take(&mut self.small);
        }
        ready
    }
}

impl TreeDraft {
    /// Sends what a closed file has made ready.
    pub(super) async fn send_ready(&self, ready: Ready) -> Result<(), Error> {
        if let Some(number) = ready.large {
            self.finish_large(number).await?;
        }
        if !ready.bundle.is_empty() {
            self.send_bundle(&ready.bundle, Vec::new()).await?;
        }
        Ok(())
    }

    /// Sends those of these files that are small and nobody has open to write, behind `members`, which are headers of
    /// directories and links. Gives the bundle back, unless there is nothing in it.
    pub(super) async fn send_bundle(
        &self,
        files: &[u32],
        members: Vec<u8>,
    ) -> Result<Option<Outgoing>, Error> {
        // One at a time: each locks many files.
        let _alone = self.bundling.lock().await;
        let mut plain = members;
        let mut placed = Vec::new();
        // A file that was closed, opened again and closed again is in the list twice, and can be locked once.
        let files: BTreeSet<u32> = files.iter().copied().collect();
        for number in files {
            let Some((file, entry)) = self.closed_file(number) else {
                continue;
            };
            let content = file.content.clone().lock_owned().await;
            let Content::Small(bytes) = &*content else {
                continue;
            };
            let entry = with_bytes(entry, bytes.len() as u64);
            plain.extend(layout::member_header(&entry));
            let offset = plain.len() as u64;
            plain.extend_from_slice(bytes);
            plain.resize(plain.len() + layout::padding(bytes.len() as u64) as usize, 0);
            placed.push((content, offset, sent_as(&entry)));
        }
        if plain.is_empty() {
            return Ok(None);
        }
        plain.resize(plain.len() + layout::END_BYTES as usize, 0);
        Ok(Some(self.send_plain(plain.into(), placed)))
    }

    fn send_plain(&self, plain: Bytes, placed: Vec<(OwnedMutexGuard<Content>, u64, SentAs)>) -> Outgoing {
        let key = self.sender.key(self.sender.next_volume(), 0, 0);
        let (compression, packed) = (self.staging.compression(), plain.clone());
        let packing = async move {
            let pack = move || {
                let mut builder = PartBuilder::new(compression);
                builder.push(&packed);
                builder.finish()
            };
            tokio::task::spawn_blocking(pack)
                .await
                .map_err(std::io::Error::other)
        };
        let part = Unmade {
            most_bytes: codec::stored_bytes_uncompressed(plain.len() as u64),
            make: packing.boxed(),
        };
        let part = self.sender.send_bundle(key, plain.len() as u64, part);
        for (mut content, offset, sent_as) in placed {
            let Content::Small(bytes) = &*content else {
                unreachable!("locked since it was looked at");
            };
            *content = Content::Bundled(Member {
                part: part.clone(),
                offset,
                bytes: bytes.len() as u64,
                chunks: Chunks::of(bytes),
                sent_as,
            });
        }
        part
    }

    /// Sends what is left of a large file.
    pub(super) async fn finish_large(&self, number: u32) -> Result<(), Error> {
        let Some((file, entry)) = self.closed_file(number) else {
            return Ok(());
        };
        let mut content = file.content.lock().await;
        let Content::Large(large, sent) = &mut *content else {
            return Ok(());
        };
        if large.is_finished() {
            return Ok(());
        }
        let entry = with_bytes(entry, large.bytes());
        let header = layout::large_header(&entry).ok_or(Error::Invalid("the path is too long"))?;
        large.finish(self.way(), header).await?;
        *sent = Some(sent_as(&entry));
        Ok(())
    }

    /// A file with a name that is not being written, unless the tree is being completed as it is.
    fn closed_file(&self, number: u32) -> Option<(Arc<DraftFile>, Entry)> {
        let names = self.names();
        let file = super::file(&names, number).ok()?;
        let entry = Entry {
            path: names.path(number)?.into(),
            attributes: names.attributes(number).ok()?,
            content: tree::Content::File {
                bytes: 0,
                extents: [].into(),
            },
        };
        (self.is_completing() || file.writers.load(std::sync::atomic::Ordering::Acquire) == 0)
            .then_some((file, entry))
    }
}

fn with_bytes(mut entry: Entry, bytes: u64) -> Entry {
    entry.content = tree::Content::File {
        bytes,
        extents: [].into(),
    };
    entry
}

fn sent_as(entry: &Entry) -> SentAs {
    SentAs {
        path: entry.path.clone(),
        attributes: entry.attributes,
    }
}

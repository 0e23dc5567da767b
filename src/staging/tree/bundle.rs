//! Small files, put together.
//!
//! A file that was closed waits until another one has been closed after it: writers give a file its name and its time
//! last. Then it goes out with others, one object for many of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::OwnedMutexGuard;

use crate::archive::tree::page_hashes::{PAGE_BYTES, PageHash};
use crate::archive::tree::{Attributes, Entry};
use crate::codec;
use crate::parts::chunk::Crc;
use crate::parts::volume::{Bundle, file_entry, pages_entry};

use super::arrived::Pieces;
use super::file::{Content, DraftFile, Member, SentAs};
use super::large::Way;
use super::sending::{Made, Outgoing, Sender, Unmade};
use super::{Error, TreeDraft};

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
    /// Notes that a file was closed. Small ones go out when they have `bundle_bytes` together.
    pub(super) fn close(&mut self, file: Closed, bundle_bytes: u64) -> Ready {
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
        if self.small_bytes >= bundle_bytes || self.small.len() >= BUNDLE_FILES {
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

    /// Sends those of these files that are small and that nothing has open to write, behind `nodes`, which are directories
    /// and links. Gives the bundle back, unless there is nothing in it.
    pub(super) async fn send_bundle(
        &self,
        files: &[u32],
        nodes: Vec<Entry>,
    ) -> Result<Option<Outgoing>, Error> {
        // One at a time: each locks many files.
        let _alone = self.bundling.lock().await;
        // A file that was closed, opened again and closed again is in the list twice, and can be locked once.
        let files: BTreeSet<u32> = files.iter().copied().collect();
        let mut small = Vec::new();
        for number in files {
            let Some((file, path, attributes)) = self.closed_file(number) else {
                continue;
            };
            let content = file.content.clone().lock_owned().await;
            if matches!(&*content, Content::Small(_)) {
                small.push((content, SentAs { path, attributes }));
            }
        }
        Ok(self.send_small(nodes, small))
    }

    /// Without a wait, behind which contents that are taken out of their files could be lost.
    fn send_small(
        &self,
        nodes: Vec<Entry>,
        small: Vec<(OwnedMutexGuard<Content>, SentAs)>,
    ) -> Option<Outgoing> {
        let (mut files, mut placed) = (Vec::new(), Vec::new());
        for (mut content, sent_as) in small {
            let Content::Small(mut plain) = std::mem::take(&mut *content) else {
                unreachable!("locked since it was looked at");
            };
            plain.shrink_to_fit();
            let (bytes, crc) = (plain.len() as u64, Crc::of(&plain));
            placed.push((content, bytes, crc, sent_as.clone()));
            files.push((sent_as, plain));
        }
        if nodes.is_empty() && files.is_empty() {
            return None;
        }
        let part = self.send_files(nodes, files);
        for (file, (mut content, bytes, crc, sent_as)) in placed.into_iter().enumerate() {
            *content = Content::Bundled(Member {
                part: part.clone(),
                file,
                bytes,
                crc,
                sent_as,
            });
        }
        Some(part)
    }

    fn send_files(&self, nodes: Vec<Entry>, files: Vec<(SentAs, Vec<u8>)>) -> Outgoing {
        let key = self.sender.key(self.sender.next_volume(), 0, 0);
        let form = self.sender.archive.form();
        let plain_bytes = files.iter().map(|(_, plain)| plain.len() as u64).sum();
        let sender = self.sender.clone();
        let part = async move {
            let (bundle, files) = bundle_of(&sender, nodes, files).await;
            let most_bytes = codec::most_stored_bytes(bundle.plain_bytes());
            Unmade {
                most_bytes,
                make: Made::of(bundle, files, form).boxed(),
            }
        };
        self.sender.send_bundle(key, plain_bytes, part)
    }

    /// Sends what is left of a large file.
    pub(super) async fn finish_large(&self, number: u32) -> Result<(), Error> {
        let Some((file, path, attributes)) = self.closed_file(number) else {
            return Ok(());
        };
        let mut content = file.content.lock().await;
        let Content::Large(large, sent) = &mut *content else {
            return Ok(());
        };
        if large.is_finished() {
            return Ok(());
        }
        let entry = file_entry(&path, attributes, large.bytes());
        let way = Way {
            path: Some(&path),
            ..self.way()
        };
        large.finish(way, &entry).await?;
        *sent = Some(SentAs { path, attributes });
        Ok(())
    }

    /// A file that has a name and is not being written, unless the tree is being completed as it is.
    fn closed_file(&self, number: u32) -> Option<(Arc<DraftFile>, Box<[u8]>, Attributes)> {
        let names = self.names();
        let file = super::file(&names, number).ok()?;
        let (path, attributes) = (names.path(number)?.into(), names.attributes(number).ok()?);
        (self.is_completing() || file.writers.load(std::sync::atomic::Ordering::Acquire) == 0)
            .then_some((file, path, attributes))
    }
}

/// A bundle of directories, links and files; of these what no earlier backup has. And where the bytes of each file are.
async fn bundle_of(
    sender: &Sender,
    nodes: Vec<Entry>,
    files: Vec<(SentAs, Vec<u8>)>,
) -> (Bundle, Vec<Pieces>) {
    let mut bundle = Bundle::default();
    for node in nodes {
        bundle.add(node, Vec::new());
    }
    let mut placed = Vec::with_capacity(files.len());
    for (SentAs { path, attributes }, plain) in files {
        let bytes = plain.len() as u64;
        let hashes: Vec<PageHash> = sender.archive.page_key().pages(&plain).collect();
        let kept = sender.kept(Some(&path), 0..bytes, &hashes).await;
        if kept.iter().all(Option::is_none) {
            let offset = bundle.add(file_entry(&path, attributes, bytes), plain);
            placed.push(Pieces::whole(offset, bytes));
            continue;
        }
        let pages = plain.chunks(PAGE_BYTES as usize).zip(&kept);
        let changed = pages.filter(|(_, kept)| kept.is_none());
        let changed: Vec<u8> = changed.flat_map(|(page, _)| page).copied().collect();
        let offset = match changed.is_empty() {
            true => 0,
            false => bundle.add(pages_entry(&path, attributes, changed.len() as u64), changed),
        };
        placed.push(Pieces::changed(kept, bytes, offset));
    }
    (bundle, placed)
}

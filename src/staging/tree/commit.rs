//! Completing a tree: everything is sent, everything is stored, and then it exists.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use crate::archive;
use crate::archive::tree::summary::{Backup, Method, Object, SUMMARY_VERSION, Summary};
use crate::archive::tree::{Attributes, Content, Entry, Extent, Part, Tree, chunks::ChunkHash, layout};
use crate::store::Key;

use super::bundle::{BUNDLE_BYTES, Closed};
use super::file::{self, SentAs};
use super::names::{Kind, NameError};
use super::sending::Outgoing;
use super::{Error, State, TreeDraft, tablespaces};

/// The parts of a tree, each once.
#[derive(Debug, Default)]
struct Parts {
    parts: Vec<Part>,
    places: HashMap<Key, u32>,
}

impl Parts {
    async fn place(&mut self, part: &Outgoing) -> Result<u32, Error> {
        let part = part.stored().await?;
        let next = self.parts.len() as u32;
        let place = *self.places.entry(part.key.clone()).or_insert(next);
        if place == next {
            self.parts.push((*part).clone());
        }
        Ok(place)
    }
}

/// What becomes of a file in the manifest.
#[derive(Debug, Default)]
struct Placed {
    bytes: u64,
    extents: Vec<Extent>,
    chunks: Vec<ChunkHash>,
    sent_as: Option<SentAs>,
}

impl TreeDraft {
    /// Makes the tree a complete backup, or says why it is none, in an operation that began then. The caller holds the
    /// state, so nothing changes.
    pub(super) async fn complete(
        &self,
        state: &mut State,
        method: Method,
        began: Instant,
    ) -> Result<(), Error> {
        let completed = self.try_to_complete(state, method, began).await;
        if let Err(error) = &completed {
            let noted = self.note_refusal(error);
            if timeout_at(self.end_of_patience(began), noted).await.is_err() {
                tracing::warn!("{}: the store does not take why it is not complete", self.name);
            }
        }
        completed
    }

    async fn try_to_complete(&self, state: &mut State, method: Method, began: Instant) -> Result<(), Error> {
        let mapped = tablespaces::mapped(&self.names(), &self.options.directory)
            .map_err(|reason| self.no_backup(reason))?;
        let backup = self.while_it_gets_on(began, self.recognise(&mapped)).await?;
        self.completing.store(true, Ordering::Release);
        let moved = tablespaces::move_home(&mut self.names(), &mapped);
        let stored = match moved {
            Ok(()) => self.while_it_gets_on(began, self.store(backup, method)).await,
            Err(error) => Err(error.into()),
        };
        self.completing.store(false, Ordering::Release);
        let summary =
            stored.inspect_err(|error| tracing::error!("{} is not complete: {error}", self.name))?;
        *state = State::Complete;
        self.complete.store(true, Ordering::Release);
        tracing::info!(
            "{} is complete: {} files, {} bytes, {} stored",
            self.name,
            summary.files,
            summary.bytes,
            summary.stored_bytes
        );
        Ok(())
    }

    async fn store(&self, backup: Backup, method: Method) -> Result<Summary, Error> {
        let last = self.send_rest().await?;
        let (tree, hashes, tidy) = self.stored_tree(last).await?;
        self.sender.settle().await;
        self.still_sound()?;
        self.sender.delete_forgotten().await?;
        self.forget_refusal().await?;
        let files = tree.entries().iter();
        let files = files.filter(|entry| matches!(entry.content, Content::File { .. }));
        let summary = Summary {
            summary_version: SUMMARY_VERSION,
            id: tree.id.to_string(),
            manifest: unknown_yet(),
            chunks: unknown_yet(),
            mode: 0,
            files: files.count() as u64,
            bytes: tree.bytes(),
            stored_bytes: 0,
            began: self.began,
            finished: Timestamp::now(),
            method,
            plain_tar: tidy && !self.sender.has_strays(),
            backup,
            written_by: concat!("walfs ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        // Each of its requests gets the deadline, and begins when the one before it has got on.
        let patience = || {
            self.sender.note_progress();
            self.sender.patience()
        };
        let archive = &self.sender.archive;
        let committed = archive.commit_tree(&tree, hashes, summary, patience).await;
        committed.map_err(|error| self.sender.fail(error).into())
    }

    /// Sends everything that has not been sent: small files in bundles, directories and links with the last,
    /// which is given back: it may hold no file.
    async fn send_rest(&self) -> Result<Option<Outgoing>, Error> {
        let (files, members) = self.files_and_members()?;
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for Closed { number, bytes, large } in files {
            if large {
                self.finish_large(number).await?;
                continue;
            }
            batch.push(number);
            batch_bytes += bytes;
            if batch_bytes >= BUNDLE_BYTES {
                self.send_bundle(&std::mem::take(&mut batch), Vec::new()).await?;
                batch_bytes = 0;
                // Not more at once than a writer may have on its way.
                self.sender.wait_for_bundles().await;
                self.still_sound()?;
            }
        }
        self.send_bundle(&batch, members).await
    }

    /// Every file, by path, with its length and whether it is large; and the headers of all else.
    fn files_and_members(&self) -> Result<(Vec<Closed>, Vec<u8>), NameError> {
        let names = self.names();
        let mut paths: Vec<(Vec<u8>, u32)> = names
            .all()
            .filter_map(|(number, _)| Some((names.path(number)?, number)))
            .collect();
        paths.sort();
        let (mut files, mut members) = (Vec::new(), Vec::new());
        for (path, number) in paths {
            let content = match names.kind(number)? {
                Kind::File(file) => {
                    files.push(Closed {
                        number,
                        bytes: file.bytes(),
                        large: file.is_large(),
                    });
                    continue;
                }
                Kind::Directory(_) => Content::Directory,
                Kind::Symlink(target) => Content::Symlink(target.clone()),
            };
            members.extend(layout::member_header(&Entry {
                path: path.into(),
                attributes: names.attributes(number)?,
                content,
            }));
        }
        Ok((files, members))
    }

    /// The tree as the manifest has it, once all is stored; its chunk hashes; and whether it went out under the names
    /// and attributes that it has.
    async fn stored_tree(&self, last: Option<Outgoing>) -> Result<(Tree, Vec<ChunkHash>, bool), Error> {
        let mut parts = Parts::default();
        if let Some(last) = last {
            parts.place(&last).await?;
        }
        let mut entries = Vec::new();
        let mut hashes: HashMap<Box<[u8]>, Vec<ChunkHash>> = HashMap::new();
        let mut tidy = true;
        for (path, attributes, kind) in self.nodes()? {
            let content = match kind {
                Kind::Directory(_) => Content::Directory,
                Kind::Symlink(target) => Content::Symlink(target),
                Kind::File(file) => {
                    let placed = self.placed(&file, &mut parts).await?;
                    let sent_as = SentAs {
                        path: path.clone(),
                        attributes,
                    };
                    tidy &= placed.sent_as == Some(sent_as);
                    hashes.insert(path.clone(), placed.chunks);
                    Content::File {
                        bytes: placed.bytes,
                        extents: placed.extents.into(),
                    }
                }
            };
            entries.push(Entry {
                path,
                attributes,
                content,
            });
        }
        let tree = Tree::new(self.sender.id.clone(), parts.parts, entries);
        let tree = tree.map_err(|error| self.sender.fail(self.broken(&error)))?;
        let ordered = tree.entries().iter();
        let ordered = ordered.filter_map(|entry| hashes.remove(&entry.path)).flatten();
        let ordered = ordered.collect();
        Ok((tree, ordered, tidy))
    }

    /// All that has a name, without holding the names.
    #[expect(clippy::type_complexity, reason = "path, attributes and what it is")]
    fn nodes(&self) -> Result<Vec<(Box<[u8]>, Attributes, Kind<Arc<file::DraftFile>>)>, NameError> {
        let names = self.names();
        let mut nodes = Vec::new();
        for (number, kind) in names.all() {
            let kind = match kind {
                Kind::Directory(_) => Kind::Directory(Default::default()),
                Kind::Symlink(target) => Kind::Symlink(target.clone()),
                Kind::File(file) => Kind::File(file.clone()),
            };
            let Some(path) = names.path(number) else { continue };
            nodes.push((path.into(), names.attributes(number)?, kind));
        }
        Ok(nodes)
    }

    async fn placed(&self, file: &file::DraftFile, parts: &mut Parts) -> Result<Placed, Error> {
        let content = file.content.lock().await;
        match &*content {
            file::Content::Small(_) => Err(self.sender.fail(self.broken(&"a file was not sent")).into()),
            file::Content::Bundled(member) => {
                let part = parts.place(&member.part).await?;
                let extent = Extent {
                    part,
                    offset: member.offset,
                    bytes: member.bytes,
                };
                Ok(Placed {
                    bytes: member.bytes,
                    extents: Some(extent)
                        .filter(|extent| extent.bytes > 0)
                        .into_iter()
                        .collect(),
                    chunks: member.chunks.hashes.clone(),
                    sent_as: Some(member.sent_as.clone()),
                })
            }
            file::Content::Large(large, sent_as) => {
                let (slices, chunks) = large.extents();
                let mut extents = Vec::with_capacity(slices.len());
                for slice in slices {
                    extents.push(Extent {
                        part: parts.place(&slice.part).await?,
                        offset: slice.offset,
                        bytes: slice.bytes,
                    });
                }
                // Also what holds nothing but the end of the volume must be stored.
                for part in large.parts() {
                    parts.place(part).await?;
                }
                Ok(Placed {
                    bytes: large.bytes(),
                    extents,
                    chunks,
                    sent_as: sent_as.clone(),
                })
            }
        }
    }

    fn broken(&self, reason: &dyn std::fmt::Display) -> archive::Error {
        self.sender.staging_error(&self.name, reason.to_string())
    }
}

/// Filled in when it is stored.
fn unknown_yet() -> Object {
    Object {
        plain_bytes: 0,
        stored_bytes: 0,
        hash: String::new(),
    }
}

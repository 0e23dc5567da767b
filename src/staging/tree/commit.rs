//! Completing a tree: everything is sent, everything is stored, and then it exists.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, timeout_at};

use crate::archive;
use crate::archive::tree::summary::{Description, Method, Summary};
use crate::archive::tree::{Attributes, Content, Entry, Tree};
use crate::parts::tree::TreeBuilder;

use super::bundle::Closed;
use super::file::{self, SentAs};
use super::judge::{Followed, Verdict, Written};
use super::names::{Kind, NameError};
use super::sending::Outgoing;
use super::{Error, State, TreeDraft};

impl TreeDraft {
    /// Makes the tree complete, or says why it is not, in an operation that began then. The caller holds the
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
        let judged = self.judge.judge(Written { draft: self, method });
        let Verdict {
            description,
            followed,
        } = self.while_it_gets_on(began, judged).await?;
        self.completing.store(true, Ordering::Release);
        let stored = match self.follow(&followed) {
            Ok(()) => self.while_it_gets_on(began, self.store(description)).await,
            Err(error) => Err(error.into()),
        };
        self.completing.store(false, Ordering::Release);
        let summary =
            stored.inspect_err(|error| tracing::error!("{} is not complete: {error}", self.name))?;
        *state = State::Complete;
        self.complete.store(true, Ordering::Release);
        match summary {
            Some(summary) => tracing::info!(
                "{} is complete: {} files, {} bytes, {} stored",
                self.name,
                summary.files,
                summary.bytes,
                summary.stored_bytes
            ),
            None => tracing::info!("{} is as the version before: nothing is stored", self.name),
        }
        Ok(())
    }

    fn follow(&self, links: &[Followed]) -> Result<(), NameError> {
        let mut names = self.names();
        links
            .iter()
            .try_for_each(|Followed { link, directory }| names.follow_link(link, directory))
    }

    /// `None`: it is the same as an earlier one, which is enough.
    async fn store(&self, mut description: Description) -> Result<Option<Summary>, Error> {
        let last = self.send_rest().await?;
        let (tree, tidy) = self.stored_tree(last).await?;
        self.sender.settle().await;
        self.still_sound()?;
        self.sender.delete_forgotten().await?;
        self.forget_refusal().await?;
        if self.is_there_already(&tree).await? {
            let dropped = self
                .sender
                .archive
                .drop_unfinished(&self.sender.id, self.sender.patience());
            return match dropped.await {
                Ok(()) => Ok(None),
                Err(error) => Err(self.sender.fail(error).into()),
            };
        }
        description.plain_tar = tidy && !self.sender.has_strays();
        // Each of its requests gets the deadline, and begins when the one before it has got on.
        let patience = || {
            self.sender.note_progress();
            self.sender.patience()
        };
        let archive = &self.sender.archive;
        let committed = async {
            let inventory = archive.store_inventory(&tree, patience()).await?;
            if tree.stored_bytes_by_tree().len() > 1 {
                archive.check_parts(&self.name, &tree.parts, patience()).await?;
            }
            archive.commit_stored(inventory, description, patience()).await
        };
        let committed = committed.await.map_err(|error| self.sender.fail(error))?;
        Ok(Some(committed))
    }

    /// Is it the same as an earlier tree, and is that enough?
    async fn is_there_already(&self, tree: &Tree) -> Result<bool, Error> {
        let base = self.sender.earlier.found();
        let Some(base) = base.filter(|base| self.judge.is_enough(base.name())) else {
            return Ok(false);
        };
        let patience = || {
            self.sender.note_progress();
            self.sender.patience()
        };
        let same = base.is_same_as(tree, patience).await;
        same.map_err(|error| self.sender.fail(error).into())
    }

    /// Sends everything that has not been sent: small files in bundles, directories and links with the last,
    /// which is given back: it may hold no file.
    async fn send_rest(&self) -> Result<Option<Outgoing>, Error> {
        let (files, nodes) = self.files_and_nodes()?;
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for Closed { number, bytes, large } in files {
            if large {
                self.finish_large(number).await?;
                continue;
            }
            batch.push(number);
            batch_bytes += bytes;
            if batch_bytes >= self.sender.archive.memory().bundle_bytes {
                self.send_bundle(&std::mem::take(&mut batch), Vec::new()).await?;
                batch_bytes = 0;
                // Not more at once than a writer may have on its way.
                self.sender.wait_for_bundles().await;
                self.still_sound()?;
            }
        }
        self.send_bundle(&batch, nodes).await
    }

    /// Every file, by path, with its length and whether it is large; and all else.
    fn files_and_nodes(&self) -> Result<(Vec<Closed>, Vec<Entry>), NameError> {
        let names = self.names();
        let mut paths: Vec<(Vec<u8>, u32)> = names
            .all()
            .filter_map(|(number, _)| Some((names.path(number)?, number)))
            .collect();
        paths.sort();
        let (mut files, mut nodes) = (Vec::new(), Vec::new());
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
            nodes.push(Entry {
                path: path.into(),
                attributes: names.attributes(number)?,
                content,
            });
        }
        Ok((files, nodes))
    }

    /// The tree as the manifest has it, once all is stored; and whether it went out under the names and attributes that it
    /// has.
    async fn stored_tree(&self, last: Option<Outgoing>) -> Result<(Tree, bool), Error> {
        let mut builder = TreeBuilder::default();
        if let Some(last) = last
            && let Some(part) = &last.arrived().await?.part
        {
            builder.part(part);
        }
        let mut tidy = true;
        for (path, attributes, kind) in self.nodes()? {
            let content = match kind {
                Kind::Directory(_) => Content::Directory,
                Kind::Symlink(target) => Content::Symlink(target),
                Kind::File(file) => {
                    tidy &= self.add_file(&mut builder, path, attributes, &file).await?;
                    continue;
                }
            };
            builder.node(Entry {
                path,
                attributes,
                content,
            });
        }
        let built = builder.build(self.sender.id.clone());
        let tree = built.map_err(|error| self.sender.fail(self.broken(&error)))?;
        Ok((tree, tidy))
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

    /// Was the file sent under this name, with these attributes?
    async fn add_file(
        &self,
        builder: &mut TreeBuilder,
        path: Box<[u8]>,
        attributes: Attributes,
        file: &file::DraftFile,
    ) -> Result<bool, Error> {
        let (mut extents, mut own) = (Vec::new(), true);
        let (bytes, sent_as) = match &*file.content.lock().await {
            file::Content::Small(_) => {
                return Err(self.sender.fail(self.broken(&"a file was not sent")).into());
            }
            file::Content::Bundled(member) => {
                let arrived = member.part.arrived().await?;
                if let Some(part) = &arrived.part {
                    builder.part(part);
                }
                extents.extend(arrived.extents(member.file, builder));
                own &= arrived.files[member.file].are_own();
                (member.bytes, Some(member.sent_as.clone()))
            }
            file::Content::Large(large, sent_as) => {
                for part in large.parts() {
                    let arrived = part.arrived().await?;
                    if let Some(part) = &arrived.part {
                        builder.part(part);
                    }
                    extents.extend(arrived.extents(0, builder));
                    own &= arrived.files[0].are_own();
                }
                (large.bytes(), sent_as.clone())
            }
        };
        let as_it_is = SentAs {
            path: path.clone(),
            attributes,
        };
        builder.file(path, attributes, bytes, extents);
        Ok(own && sent_as == Some(as_it_is))
    }

    fn broken(&self, reason: &dyn std::fmt::Display) -> archive::Error {
        self.sender.staging_error(&self.name, reason.to_string())
    }
}

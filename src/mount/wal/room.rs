//! What may be done in `wal/` and its folders.

use std::ffi::OsString;
use std::sync::Arc;

use async_trait::async_trait;

use crate::mount::asker::Asker;
use crate::mount::directory::{Entries, numbered};
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Node};
use crate::mount::room::{AnyFile, Making, Named, Opening, Room};
use crate::pg::WalName;

use super::Wal;
use super::archived::not_being_written;
use super::write::{Target, acceptable};
use super::writing::Writing;

impl Wal {
    /// What is being written under this number.
    ///
    /// # Errors
    /// [`Error::Stale`]: its last writer has left since the name was looked up.
    fn writing(&self, ino: u64) -> Result<Arc<Writing>> {
        self.writings.get(ino).ok_or(Error::Stale)
    }

    fn list_folder(&self, number: u32) -> impl Iterator<Item = (OsString, Attributes)> {
        let names = self.folders.content(number, &self.writings).into_iter();
        names.filter_map(|(name, key)| Some((name.into(), self.writings.find(&key)?.attributes())))
    }
}

#[async_trait]
impl Room for Arc<Wal> {
    async fn lookup(&self, (parent, name): Named<'_>, asker: Option<&Asker>) -> Result<Attributes> {
        match parent {
            Node::Wal => self.lookup_name(name, asker).await,
            Node::Folder(_) => {
                let place = self.folders.place(parent).ok_or(Error::NotFound)?;
                let found = self.writings.find_in(&place, name).ok_or(Error::NotFound)?;
                Ok(found.attributes())
            }
            _ => Err(Error::NotDirectory),
        }
    }

    async fn getattr(&self, node: Node, asker: Option<&Asker>) -> Result<Attributes> {
        match node {
            Node::Archived(name) => self.attributes_for(name, asker).await,
            Node::Writing(ino) => Ok(self.writing(ino)?.attributes()),
            Node::Folder(number) => self.folder_attributes(number),
            node => Ok(self.common.directory(node)),
        }
    }

    /// What is archived is opened to be written again, when its bytes are compared, never replaced (promise W4); or else to
    /// be read.
    async fn open(&self, node: Node, opening: Opening, asker: Option<&Asker>) -> Result<AnyFile> {
        match (node, opening) {
            (Node::Archived(name), Opening::Replace) => {
                self.common.gates_open()?;
                Ok(self.opened(self.start_writing(Target::Final(name), asker)))
            }
            (Node::Archived(name), _) => match (self.archived.open(name, asker).await, name) {
                (Err(Error::NotFound), WalName::Partial(segment)) => {
                    let to_write = opening == Opening::Write;
                    Ok(self.opened(self.open_received(segment, to_write, asker).await?))
                }
                (opened, _) => opened,
            },
            (Node::Writing(ino), Opening::Replace) => self.replace(self.writing(ino)?, asker).await,
            (Node::Writing(ino), _) => self.reopen(ino),
            _ => Err(Error::IsDirectory),
        }
    }

    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        match node {
            Node::Wal => self.open_listing().await,
            Node::Folder(number) => Ok(Arc::new(numbered(self.list_folder(number), 0))),
            _ => Err(Error::NotDirectory),
        }
    }

    fn parent(&self, directory: Node) -> Result<Node> {
        Ok(match directory {
            Node::Folder(_) => Node::Wal,
            _ => Node::Root,
        })
    }

    async fn create(
        &self,
        at: Named<'_>,
        _making: Making,
        asker: Option<&Asker>,
    ) -> Result<(Attributes, AnyFile)> {
        match at {
            (Node::Wal, name) => {
                self.common.gates_open()?;
                let target = self.common.noted("create", acceptable(name))?;
                let writing = self.start_writing(target, asker);
                Ok((writing.attributes(), self.opened(writing)))
            }
            (folder @ Node::Folder(_), name) => {
                let place = self.folders.place(folder).ok_or(Error::NotFound)?;
                self.common.noted("create", Err(place.refusal(name)))
            }
            _ => Err(self.refuse_change(at)),
        }
    }

    async fn make_directory(
        &self,
        at: Named<'_>,
        _making: Making,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        match at {
            (Node::Wal, name) => {
                self.common.gates_open()?;
                self.folder_attributes(self.folders.make(name, asker)?)
            }
            _ => Err(self.refuse_change(at)),
        }
    }

    async fn rename(
        &self,
        from: Named<'_>,
        to: Named<'_>,
        replace: bool,
        asker: Option<&Asker>,
    ) -> Result<()> {
        self.rename_writing(from, to, replace, asker).await
    }

    /// Only of a file that is being written under a temporary name.
    async fn unlink(&self, at: Named<'_>) -> Result<()> {
        let place = self.folders.place(at.0);
        let place = place.ok_or_else(|| self.refuse_change(at))?;
        match self.writings.find_in(&place, at.1) {
            Some(writing) if !writing.is_kept_in_part().await => {
                self.writings.hide(&writing);
                Ok(())
            }
            _ => Err(not_being_written(at.1)),
        }
    }

    async fn remove_directory(&self, at: Named<'_>) -> Result<()> {
        match at {
            (Node::Wal, name) => self.folders.remove(name, &self.writings),
            _ => Err(self.refuse_change(at)),
        }
    }

    async fn truncate(&self, node: Node, bytes: u64, asker: Option<&Asker>) -> Result<()> {
        match node {
            Node::Writing(ino) => self.truncate_writing(&*self.writing(ino)?, bytes, asker).await,
            _ => Err(Error::immutable("an archived file")),
        }
    }

    /// A success without effect, as with modes: `cp -p` of a file that has an access control list must not fail, or the
    /// archiver stops there for ever.
    fn forget_extended_attribute(&self) -> Result<()> {
        Ok(())
    }
}

//! What the mount makes itself: its top directory, `.walfs/`, and `.absent/`, where a name exists when the store says that
//! it does *not* exist in `wal/`.

use std::ffi::OsStr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::asker::Asker;
use super::common::Common;
use super::directory::{Entries, numbered};
use super::error::{Error, Result};
use super::node::{Attributes, Node, OwnFile};
use super::room::{AnyFile, Named, OpenFile, Opening, Room};
use super::wal::Wal;
use super::wal::archived::wal_name;

mod status;

/// The directories of the mount.
const TOP: [(&str, Node); 4] = [
    ("wal", Node::Wal),
    ("basebackups", Node::Basebackups),
    (".absent", Node::Absent),
    (".walfs", Node::Own),
];

/// The files in `.walfs/`.
const FILES: [(&str, Node); 2] = [
    ("status.json", Node::OwnFile(OwnFile::Status)),
    ("version", Node::OwnFile(OwnFile::Version)),
];

/// `/`, `.walfs/`, `.absent/`
#[derive(Debug)]
pub(super) struct Own {
    pub(super) common: Arc<Common>,
    pub(super) wal: Arc<Wal>,
}

impl Own {
    /// What a file holds now; `None` for a directory.
    fn text(&self, node: Node) -> Option<String> {
        match node {
            Node::OwnFile(OwnFile::Version) => Some(status::version()),
            Node::OwnFile(OwnFile::Status) => Some(status::status(&self.common, self.wal.open_writes())),
            Node::AbsentFile(_) => Some(String::new()),
            _ => None,
        }
    }

    fn attributes(&self, node: Node) -> Attributes {
        match self.text(node) {
            Some(text) => self.common.file(node, text.len() as u64),
            None => self.common.directory(node),
        }
    }

    /// An answer that does not come is no proof, and this question may fail: the `restore_command` that asks it then
    /// stops the recovery, restartably.
    async fn proof_of_absence(&self, name: &OsStr, asker: Option<&Asker>) -> Result<Node> {
        let name = wal_name(name).ok_or(Error::NotFound)?;
        match self.wal.is_absent(name, asker).await? {
            true => Ok(Node::AbsentFile(name)),
            false => Err(Error::NotFound),
        }
    }
}

/// What is listed in a directory.
fn children(node: Node) -> Result<&'static [(&'static str, Node)]> {
    match node {
        Node::Root => Ok(&TOP),
        Node::Own => Ok(&FILES),
        Node::Absent => Ok(&[]),
        _ => Err(Error::NotDirectory),
    }
}

#[async_trait]
impl Room for Own {
    async fn lookup(&self, (parent, name): Named<'_>, asker: Option<&Asker>) -> Result<Attributes> {
        if parent == Node::Absent {
            return Ok(self.attributes(self.proof_of_absence(name, asker).await?));
        }
        let found = children(parent)?.iter().find(|(known, _)| *known == name);
        let (_, node) = found.ok_or(Error::NotFound)?;
        Ok(self.attributes(*node))
    }

    async fn getattr(&self, node: Node, _asker: Option<&Asker>) -> Result<Attributes> {
        Ok(self.attributes(node))
    }

    async fn open(&self, node: Node, opening: Opening, _asker: Option<&Asker>) -> Result<AnyFile> {
        let text = self.text(node).ok_or(Error::IsDirectory)?;
        match opening {
            Opening::Replace => Err(Error::immutable("this file")),
            Opening::Read | Opening::Write => Ok(Arc::new(OpenText(text.into()))),
        }
    }

    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        let shown = children(node)?
            .iter()
            .map(|(name, node)| (name.into(), self.attributes(*node)));
        Ok(Arc::new(numbered(shown, 0)))
    }
}

/// A text made when it was opened.
#[derive(Debug)]
struct OpenText(Bytes);

#[async_trait]
impl OpenFile for OpenText {
    async fn read(&self, offset: u64, bytes: usize, _asker: Option<&Asker>) -> Result<Bytes> {
        let text = &self.0;
        let start = text.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        Ok(text.slice(start..text.len().min(start.saturating_add(bytes))))
    }
}

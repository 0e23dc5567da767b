//! What the mount makes itself: its top directory, `.walfs/`, and `.absent/`, where a name exists when the store says that
//! it does *not* exist in `wal/`.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
use crate::archive::tree::TreeKind;
use crate::metrics::exposition::Exposition;
use crate::overview::{Form, Looks};

pub(super) mod mounted;

/// The directories of the mount.
const TOP: [(&str, Node); 6] = [
    ("wal", Node::Wal),
    ("basebackups", Node::Basebackups),
    ("files", Node::Versions(TreeKind::Files)),
    ("dumps", Node::Versions(TreeKind::Dump)),
    (".absent", Node::Absent),
    (".walfs", Node::Own),
];

/// The files in `.walfs/`.
const FILES: [(&str, Node); 6] = [
    ("metrics.prom", Node::OwnFile(OwnFile::Status(Form::Metrics))),
    ("mount.json", Node::OwnFile(OwnFile::Mount)),
    ("status.json", Node::OwnFile(OwnFile::Status(Form::Json))),
    ("status.svg", Node::OwnFile(OwnFile::Status(Form::Picture))),
    ("status.txt", Node::OwnFile(OwnFile::Status(Form::Screen))),
    ("version", Node::OwnFile(OwnFile::Version)),
];

/// `/`, `.walfs/`, `.absent/`
#[derive(Debug)]
pub(super) struct Own {
    pub(super) common: Arc<Common>,
    pub(super) wal: Arc<Wal>,
    /// Without one there are no files that tell of the archive.
    pub(super) looks: Option<Looks>,
}

impl Own {
    /// What a file holds now, as far as no store is asked; `None` for a directory.
    fn text(&self, node: Node) -> Option<String> {
        match node {
            Node::OwnFile(OwnFile::Version) => Some(mounted::version()),
            Node::OwnFile(OwnFile::Mount) => Some(mounted::state(&self.common, self.open_writes())),
            Node::AbsentFile(_) => Some(String::new()),
            _ => None,
        }
    }

    /// Files being written now.
    pub(super) fn open_writes(&self) -> usize {
        self.wal.open_writes() + self.common.plain_writes.load(Ordering::Relaxed)
    }

    /// The state of the archive.
    async fn told(&self, form: Form, asker: Option<&Asker>) -> Result<String> {
        let looks = self.looks.as_ref().ok_or(Error::NotFound)?;
        let told = self.common.while_wanted(asker, looks.told(form)).await?;
        if form == Form::Metrics {
            let archive = told.unwrap_or_else(|_| Exposition::unread().text());
            return Ok(archive + &mounted::metrics(&self.common, self.open_writes()));
        }
        Ok(told?)
    }

    fn attributes(&self, node: Node) -> Attributes {
        match (self.text(node), node, &self.looks) {
            (Some(text), _, _) => self.common.file(node, text.len() as u64),
            (None, Node::OwnFile(OwnFile::Status(form)), Some(looks)) => {
                self.common.file(node, looks.bytes(form))
            }
            _ => self.common.directory(node),
        }
    }

    /// What is listed in a directory.
    fn children(&self, node: Node) -> Result<impl Iterator<Item = (&'static str, Node)>> {
        let all: &[_] = match node {
            Node::Root => &TOP,
            Node::Own => &FILES,
            Node::Absent => &[],
            _ => return Err(Error::NotDirectory),
        };
        let is_there =
            |node: &Node| self.looks.is_some() || !matches!(node, Node::OwnFile(OwnFile::Status(_)));
        Ok(all.iter().copied().filter(move |(_, node)| is_there(node)))
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

#[async_trait]
impl Room for Own {
    async fn lookup(&self, (parent, name): Named<'_>, asker: Option<&Asker>) -> Result<Attributes> {
        if parent == Node::Absent {
            return Ok(self.attributes(self.proof_of_absence(name, asker).await?));
        }
        let found = self.children(parent)?.find(|(known, _)| *known == name);
        let (_, node) = found.ok_or(Error::NotFound)?;
        Ok(self.attributes(node))
    }

    async fn getattr(&self, node: Node, _asker: Option<&Asker>) -> Result<Attributes> {
        Ok(self.attributes(node))
    }

    async fn open(&self, node: Node, opening: Opening, asker: Option<&Asker>) -> Result<AnyFile> {
        if opening == Opening::Replace {
            return Err(Error::immutable("this file"));
        }
        let text = match node {
            Node::OwnFile(OwnFile::Status(form)) => self.told(form, asker).await?,
            _ => self.text(node).ok_or(Error::IsDirectory)?,
        };
        Ok(Arc::new(OpenText::new(text)))
    }

    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        let shown = self
            .children(node)?
            .map(|(name, node)| (name.into(), self.attributes(node)));
        Ok(Arc::new(numbered(shown, 0)))
    }
}

/// A text made when it was opened.
#[derive(Debug)]
pub(super) struct OpenText(Bytes);

impl OpenText {
    pub(super) fn new(text: String) -> Self {
        Self(text.into())
    }
}

#[async_trait]
impl OpenFile for OpenText {
    async fn read(&self, offset: u64, bytes: usize, _asker: Option<&Asker>) -> Result<Bytes> {
        let text = &self.0;
        let start = text.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        Ok(text.slice(start..text.len().min(start.saturating_add(bytes))))
    }
}

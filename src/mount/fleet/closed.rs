//! What is seen of an archive that does not open: a directory with `.walfs/error.txt`. Any other name in it waits while the
//! store is away, and is an error otherwise; it is never absent.

use std::sync::Arc;

use async_trait::async_trait;

use crate::archive;
use crate::mount::asker::Asker;
use crate::mount::directory::{Entries, numbered};
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Node, OwnFile, fixed};
use crate::mount::own::OpenText;
use crate::mount::room::{AnyFile, Named, Opening, Room};
use crate::mount::section::Section;

use super::Fleet;
use super::member::Member;

/// An archive that does not open.
#[derive(Debug)]
pub(super) struct Closed {
    fleet: Arc<Fleet>,
    member: Arc<Member>,
    error: Arc<archive::Error>,
}

impl Closed {
    pub(super) fn new(fleet: Arc<Fleet>, member: Arc<Member>, error: Arc<archive::Error>) -> Self {
        Self { fleet, member, error }
    }

    fn text(&self) -> String {
        format!("archive {} is not shown: {}\n", self.member.name, self.error)
    }

    fn attributes(&self, node: Node) -> Attributes {
        match node {
            Node::OwnFile(_) => self.fleet.file(node, self.text().len() as u64),
            _ => self.fleet.directory(node),
        }
    }
}

impl Section for Closed {
    fn node(&self, number: u64) -> Option<Node> {
        let is_here = |node: &Node| matches!(node, Node::Root | Node::Own | Node::OwnFile(OwnFile::Error));
        fixed(number).filter(is_here)
    }

    fn room(&self, _node: Node) -> &dyn Room {
        self
    }

    fn note(&self, what: &str, error: &Error) {
        self.member.note(what, error);
    }
}

#[async_trait]
impl Room for Closed {
    async fn lookup(&self, (parent, name): Named<'_>, asker: Option<&Asker>) -> Result<Attributes> {
        match parent {
            Node::Root if name == ".walfs" => Ok(self.attributes(Node::Own)),
            Node::Own if name == "error.txt" => Ok(self.attributes(Node::OwnFile(OwnFile::Error))),
            Node::Own => Err(Error::NotFound),
            _ => {
                let one = self.fleet.opened(&self.member, asker).await?;
                one.room(parent).lookup((parent, name), asker).await
            }
        }
    }

    async fn getattr(&self, node: Node, _asker: Option<&Asker>) -> Result<Attributes> {
        Ok(self.attributes(node))
    }

    async fn open(&self, node: Node, opening: Opening, _asker: Option<&Asker>) -> Result<AnyFile> {
        match (node, opening) {
            (Node::OwnFile(_), Opening::Read) => Ok(Arc::new(OpenText::new(self.text()))),
            (Node::OwnFile(_), _) => Err(Error::immutable("this file")),
            _ => Err(Error::IsDirectory),
        }
    }

    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        let (name, held) = match node {
            Node::Root => (".walfs", Node::Own),
            Node::Own => ("error.txt", Node::OwnFile(OwnFile::Error)),
            _ => return Err(Error::NotDirectory),
        };
        Ok(Arc::new(numbered([(name.into(), self.attributes(held))], 0)))
    }

    fn refuse_change(&self, _at: Named<'_>) -> Error {
        Error::Archive(self.error.clone())
    }
}

//! The directory over several archives: one directory for each, and `.walfs/version`.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use crate::archive;
use crate::mount::asker::Asker;
use crate::mount::common::while_wanted;
use crate::mount::directory::{Entries, numbered};
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Node, OwnFile, fixed};
use crate::mount::own::{OpenText, mounted};
use crate::mount::room::{AnyFile, Making, Named, Opening, Room};
use crate::mount::section::Section;
use crate::store;

use super::Fleet;
use super::member::Member;

const OWN: &str = ".walfs";
const VERSION: &str = "version";

impl Fleet {
    /// The archive of a name, on the store's word; if that gives none, because it is known, or listed.
    async fn named(&self, name: &OsStr) -> Result<Arc<Member>> {
        let name = name.to_str().ok_or(Error::NotFound)?;
        let known = self.known(name);
        if let Some(known) = known.as_ref().filter(|known| known.was_just_seen()) {
            return Ok(known.clone());
        }
        let member = match (self.archives.is_one(name).await, known) {
            (Ok(true), _) => self.note_name(name),
            (Ok(false), _) => None,
            (Err(_), Some(known)) => Some(known),
            (Err(_), None) => self
                .listed()
                .await?
                .into_iter()
                .find(|member| member.name == name),
        };
        let member = member.ok_or(Error::NotFound)?;
        member.note_seen();
        Ok(member)
    }

    /// All archives that there are now, by their names.
    async fn listed(&self) -> Result<Vec<Arc<Member>>> {
        let known: HashSet<String> = self.members().named.keys().cloned().collect();
        let listed = self.archives.list(&known).await;
        let mut names = listed.map_err(|error: store::Error| Error::from(archive::Error::from(error)))?;
        names.sort();
        Ok(names.iter().filter_map(|name| self.note_name(name)).collect())
    }

    fn of_top(&self, node: Node) -> Attributes {
        match node {
            Node::OwnFile(_) => self.file(node, mounted::version().len() as u64),
            Node::Root if !self.read_only => Attributes {
                mode: 0o700,
                ..self.directory(node)
            },
            _ => self.directory(node),
        }
    }
}

fn bad_name(name: &OsStr) -> Error {
    Error::BadName {
        name: name.to_string_lossy().into_owned(),
        reason: "an archive's has letters, digits and - . _ = + @, and begins with no dot".into(),
    }
}

impl Section for Fleet {
    fn node(&self, number: u64) -> Option<Node> {
        let is_here = |node: &Node| matches!(node, Node::Root | Node::Own | Node::OwnFile(OwnFile::Version));
        fixed(number).filter(is_here)
    }

    fn room(&self, _node: Node) -> &dyn Room {
        self
    }

    fn note(&self, what: &str, error: &Error) {
        if error.is_notable() {
            tracing::warn!("{what}: {error}");
        }
    }
}

#[async_trait]
impl Room for Fleet {
    async fn lookup(&self, (parent, name): Named<'_>, asker: Option<&Asker>) -> Result<Attributes> {
        match parent {
            Node::Root if name == OWN => Ok(self.of_top(Node::Own)),
            Node::Root => {
                let member = while_wanted(asker, self.named(name)).await??;
                Ok(self.of_member(&member))
            }
            Node::Own if name == VERSION => Ok(self.of_top(Node::OwnFile(OwnFile::Version))),
            Node::Own => Err(Error::NotFound),
            _ => Err(Error::NotDirectory),
        }
    }

    /// Makes an archive: a typing error makes none, for nothing else does (promise B13).
    async fn make_directory(
        &self,
        (parent, name): Named<'_>,
        _making: Making,
        _asker: Option<&Asker>,
    ) -> Result<Attributes> {
        if parent != Node::Root || self.read_only || self.closing.load(Ordering::Acquire) {
            return Err(Error::ReadOnly("is read-only"));
        }
        let text = name.to_str().ok_or_else(|| bad_name(name))?;
        match self.archives.make(text).await {
            Err(archive::Error::NotAnArchive { .. }) => return Err(bad_name(name)),
            made => made?,
        }
        let member = self.note_name(text).ok_or(Error::Unsupported)?;
        member.note_seen();
        Ok(self.of_member(&member))
    }

    async fn getattr(&self, node: Node, _asker: Option<&Asker>) -> Result<Attributes> {
        Ok(self.of_top(node))
    }

    async fn open(&self, node: Node, opening: Opening, _asker: Option<&Asker>) -> Result<AnyFile> {
        match (node, opening) {
            (Node::OwnFile(_), Opening::Read) => Ok(Arc::new(OpenText::new(mounted::version()))),
            (Node::OwnFile(_), _) => Err(Error::immutable("this file")),
            _ => Err(Error::IsDirectory),
        }
    }

    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        if node == Node::Own {
            let version = self.of_top(Node::OwnFile(OwnFile::Version));
            return Ok(Arc::new(numbered([(VERSION.into(), version)], 0)));
        }
        let own = (OsString::from(OWN), self.of_top(Node::Own));
        let members = self.listed().await?;
        let shown = members
            .iter()
            .map(|member| (OsString::from(&member.name), self.of_member(member)));
        Ok(Arc::new(numbered(std::iter::once(own).chain(shown), 0)))
    }
}

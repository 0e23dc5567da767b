//! Brings a dump back: its bytes, in their order, each proved before it is handed on.

use std::io;
use std::sync::Arc;

use crate::archive::tree::summary::Summary;
use crate::archive::tree::version::Version;
use crate::archive::{self, Archive};
use crate::job::progress::{Phase, Progress};
use crate::read::tree::TreeReader;
use crate::read::tree::stored::{StoredFile, StoredTree};
use crate::store::Patience;

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// What takes it.
    #[error("cannot write the dump: {0}")]
    Write(io::Error),
}

/// A dump that is to be read.
#[derive(Debug)]
pub struct Restore<'a> {
    /// The archive.
    pub archive: &'a Arc<Archive>,
    /// Which version.
    pub version: &'a Version,
    /// What there is to know of it.
    pub summary: &'a Summary,
    /// Who listens.
    pub progress: &'a Arc<dyn Progress>,
    /// For each request.
    pub patience: fn() -> Patience,
}

impl Restore<'_> {
    /// Hands on all of it, and says how many bytes that were.
    ///
    /// # Errors
    /// Any [`Error`]; what was handed on before is right.
    pub async fn run(&self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<u64, Error> {
        let reader = TreeReader::alone(self.archive.clone());
        let name = self.version.tree();
        let tree = reader.open(&name, self.summary, (self.patience)()).await?;
        let file = self.file(&tree).await?;
        self.progress.phase(Phase::Restoring { bytes: file.bytes });
        let mut at = 0;
        while at < file.bytes {
            let read = reader
                .read(&tree, &file, at, READ_BYTES, (self.patience)())
                .await
                .map_err(|error| self.damaged(&error.to_string()))?;
            if read.is_empty() {
                return Err(self.damaged("it is shorter than its length"));
            }
            take(&read).map_err(Error::Write)?;
            at += read.len() as u64;
            self.progress.advance(read.len() as u64);
        }
        Ok(at)
    }

    /// The one file of a dump.
    async fn file(&self, tree: &StoredTree) -> Result<StoredFile, Error> {
        let first = tree.first_child(b"", (self.patience)()).await?;
        let children = tree.children(b"", first, (self.patience)()).await?;
        let file = children.first().and_then(|child| child.file());
        file.ok_or_else(|| self.damaged("it has no file"))
    }

    fn damaged(&self, reason: &str) -> Error {
        let name = self.version.tree();
        Error::Archive(self.archive.tree_damaged(&name, "the dump", reason.to_owned()))
    }
}

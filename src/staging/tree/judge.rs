//! Who tells what a tree is to be, and whether it is: handed in by whoever begins one.
//!
//! A tree that is written knows names and bytes, and nothing of what they mean. Its judge says which files it takes, when
//! its writers mean it to be complete, and what is known of it then.

use std::fmt;
use std::sync::{Arc, MutexGuard};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::archive::Archive;
use crate::archive::tree::summary::{Description, Method};
use crate::archive::tree::{TreeKind, TreeName};
use crate::parts::chunk::Crc;
use crate::read::base::Candidates;
use crate::store::Patience;

pub(crate) use super::file::DraftFile;
use super::names::{Kind, Names};
use super::{Error, TreeDraft};

/// Directories, links and files of a tree that is being written.
pub(crate) type TreeNames = Names<Arc<DraftFile>>;

/// Judges the trees of one kind.
#[async_trait]
pub(crate) trait Judge: fmt::Debug + Send + Sync {
    /// What its trees hold.
    fn kind(&self) -> TreeKind;

    /// Which earlier trees one may build on.
    fn candidates(&self) -> Candidates<'_>;

    /// Is nothing to be kept of one that is the same as that earlier tree?
    fn is_enough(&self, earlier: &TreeName) -> bool;

    /// May a file or link of that name come into that directory of the tree?
    ///
    /// # Errors
    /// [`Error::NotTaken`].
    fn admit(&self, tree: &TreeName, names: &TreeNames, place: (u32, &[u8])) -> Result<(), Error>;

    /// Is the rename from one place to another the one by which a writer ends the tree?
    fn is_last(&self, from: (u32, &[u8]), to: (u32, &[u8])) -> bool;

    /// How far its writers are, by the names that are there.
    fn signs(&self, names: &TreeNames) -> Signs;

    /// Is it what it is to be?
    ///
    /// # Errors
    /// [`Error::Refused`] says what is missing or does not fit. [`Error::Archive`], [`Error::Name`].
    async fn judge(&self, tree: Written<'_>) -> Result<Verdict, Error>;
}

/// How far the writers of a tree are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signs {
    /// They have begun something that must not be taken for done before it is complete.
    pub(crate) begun: bool,
    /// Why it is not complete although its directory is synced: they will end it by [`Judge::is_last`].
    pub(crate) ending: Option<&'static str>,
    /// They say that all is there.
    pub(crate) claimed: bool,
}

/// What is known of a tree that is what it is to be.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// For its summary. Whether it is plain tar is found when all is stored.
    pub(crate) description: Description,
    /// Links in whose place the directory is stored that they lead to.
    pub(crate) followed: Vec<Followed>,
}

/// A link to a directory of the same tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Followed {
    /// Path of the link.
    pub(crate) link: Vec<u8>,
    /// Path of the directory.
    pub(crate) directory: Vec<u8>,
}

/// A tree as its judge sees it. Nothing in it changes meanwhile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written<'a> {
    pub(super) draft: &'a TreeDraft,
    pub(super) method: Method,
}

impl<'a> Written<'a> {
    /// Its name.
    pub(crate) fn name(self) -> &'a TreeName {
        &self.draft.name
    }

    /// When it was begun.
    pub(crate) fn began(self) -> Timestamp {
        self.draft.began
    }

    /// How its writers have ended it.
    pub(crate) fn method(self) -> Method {
        self.method
    }

    /// Where it will be.
    pub(crate) fn archive(self) -> &'a Archive {
        &self.draft.sender.archive
    }

    /// How long a request to the archive may take.
    pub(crate) fn patience(self) -> Patience {
        self.draft.sender.patience()
    }

    /// Its names, which are locked while they are held.
    pub(crate) fn names(self) -> MutexGuard<'a, TreeNames> {
        self.draft.names()
    }

    /// The file with that path.
    pub(crate) fn file(self, path: &[u8]) -> Option<Arc<DraftFile>> {
        let names = self.names();
        match names.kind(names.find(path)?) {
            Ok(Kind::File(file)) => Some(file.clone()),
            _ => None,
        }
    }

    /// Some bytes of a file; short only at its end.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub(crate) async fn read(self, file: &DraftFile, offset: u64, bytes: usize) -> Result<Vec<u8>, Error> {
        file.read(self.draft.way(), offset, bytes).await
    }

    /// CRC-32C of a file, which is not read for that.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub(crate) async fn crc(self, file: &DraftFile) -> Result<Crc, Error> {
        file.crc(self.draft.way()).await
    }

    /// It is not complete, for that reason.
    pub(crate) fn refused(self, reason: impl Into<String>) -> Error {
        self.draft.refused(reason)
    }
}

//! `basebackups/`: complete base backups as directories, those that are being written, and `LATEST`.
//!
//! A backup is here once its summary is, by whatever mount or command: the store is asked at every opening of the
//! directory and for every name that is not known. What was found is remembered for a minute, because nothing complete
//! changes; absence never is. The names wait for the store no longer than a writer does, because a process that creates
//! a directory here stands behind them. What is *in* a complete backup is [`browse`], in one that is being written [`drafting`].

use std::ffi::OsString;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::archive::tree::{LATEST, TreeKind};

use super::asker::Asker;
use super::common::Common;
use super::directory::{Entries, numbered};
use super::error::{Error, Result};
use super::node::{Attributes, Node};
use super::room::{Making, Named, Room};
use super::wal::archived::Archived;

mod browse;
pub(super) mod complete;
pub(super) mod drafting;
mod drafts;
mod latest;
mod loaded;
pub(super) mod slots;

use browse::Browser;
use complete::Complete;
use drafting::Drafting;
use latest::Latest;

/// `basebackups/`
#[derive(Debug)]
pub(super) struct Basebackups {
    common: Arc<Common>,
    complete: Arc<Complete>,
    latest: Arc<Latest>,
    browser: Arc<Browser>,
    drafting: Arc<Drafting>,
}

impl Basebackups {
    /// `archived`: the segments that backups need.
    pub(super) fn new(common: Arc<Common>, archived: Arc<Archived>) -> Self {
        let complete = Arc::new(Complete::new(common.clone()));
        let latest = Arc::new(Latest::new(common.clone(), complete.clone()));
        Self {
            browser: Arc::new(Browser::new(common.clone(), archived, complete.clone())),
            drafting: Arc::new(Drafting::new(common.clone(), latest.clone())),
            complete,
            latest,
            common,
        }
    }

    /// The complete ones, and other trees by the same means.
    pub(super) fn complete(&self) -> Arc<Complete> {
        self.complete.clone()
    }

    /// What shows complete ones, and other trees.
    pub(super) fn browser(&self) -> Arc<dyn Room> {
        self.browser.clone()
    }

    /// What takes trees that are written.
    pub(super) fn drafting(&self) -> Arc<Drafting> {
        self.drafting.clone()
    }

    /// Was a backup written through this mount?
    pub(super) fn is_written_to(&self) -> bool {
        self.drafting.is_used()
    }

    /// The room of a node: each kind of backup is one.
    pub(super) fn room(&self, node: Node) -> &dyn Room {
        match node {
            Node::Tree(_) => &*self.browser,
            Node::Draft(_) => &self.drafting,
            _ => self,
        }
    }

    /// Everything in `basebackups/`, without `.` and `..`.
    async fn list(&self) -> Result<Vec<(OsString, Attributes)>> {
        let mut found = self.drafting.list_all();
        found.extend(self.complete.list().await?);
        match self.latest.attributes(None).await {
            Ok(latest) => found.push((LATEST.into(), latest)),
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        Ok(found)
    }
}

#[async_trait]
impl Room for Basebackups {
    async fn lookup(&self, (parent, name): Named<'_>, asker: Option<&Asker>) -> Result<Attributes> {
        if parent != Node::Basebackups {
            return Err(Error::NotDirectory);
        }
        if name == LATEST {
            return self.latest.attributes(asker).await;
        }
        let name = name.to_str().and_then(|name| name.parse().ok());
        let name = name.ok_or(Error::NotFound)?;
        if let Some(draft) = self.drafting.named(&name) {
            return Ok(draft);
        }
        let found = self.complete.named(TreeKind::BaseBackup, &name, asker).await?;
        Ok(self.complete.attributes(&found))
    }

    async fn getattr(&self, node: Node, asker: Option<&Asker>) -> Result<Attributes> {
        match node {
            Node::Latest => self.latest.attributes(asker).await,
            node => Ok(self.common.directory(node)),
        }
    }

    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        if node != Node::Basebackups {
            return Err(Error::NotDirectory);
        }
        let entries = self.common.noted("list basebackups", self.list().await)?;
        Ok(Arc::new(numbered(entries, 0)))
    }

    /// Begins a backup.
    async fn make_directory(
        &self,
        at: Named<'_>,
        making: Making,
        _asker: Option<&Asker>,
    ) -> Result<Attributes> {
        match at {
            (Node::Basebackups, name) => self.drafting.begin(name, making).await,
            _ => Err(self.refuse_change(at)),
        }
    }

    /// Removes a backup that is not complete, with all that is stored of it.
    async fn remove_directory(&self, at: Named<'_>) -> Result<()> {
        match at {
            (Node::Basebackups, name) => self.drafting.remove(name).await,
            _ => Err(self.refuse_change(at)),
        }
    }

    async fn read_link(&self, node: Node, asker: Option<&Asker>) -> Result<Bytes> {
        match node {
            Node::Latest => Ok(self.latest.name(asker).await?.to_string().into()),
            _ => Err(Error::wrong_kind("a file")),
        }
    }
}

//! The objects of a folder, one by one, and of two folders of the same name side by side.

use std::collections::VecDeque;
use std::time::Duration;

use crate::archive::object::{Folder, Object};
use crate::archive::{Archive, Error};
use crate::store::{Key, Meta, Patience};

/// What a listing shows of an object.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) key: Key,
    pub(super) meta: Meta,
    pub(super) object: Object,
}

/// A listing that is gone through.
struct Listing<'a> {
    archive: &'a Archive,
    folder: Folder,
    wait: Duration,
    ready: VecDeque<Listed>,
    after: Option<Key>,
    is_done: bool,
}

impl Listing<'_> {
    async fn first(&mut self) -> Result<Option<&Listed>, Error> {
        while self.ready.is_empty() && !self.is_done {
            let patience = Patience::for_at_most(self.wait);
            let page = self
                .archive
                .list_folder(self.folder, self.after.as_ref(), patience)
                .await?;
            self.after = page.entries.last().map(|(key, _)| key.clone());
            self.is_done = !page.more || self.after.is_none();
            let known = page.entries.into_iter().filter_map(|(key, meta)| {
                let object = self.archive.object(&key)?;
                Some(Listed { key, meta, object })
            });
            self.ready.extend(known);
        }
        Ok(self.ready.front())
    }
}

/// Both listings of a folder.
pub(super) struct Pages<'a> {
    from: Listing<'a>,
    to: Listing<'a>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(from: &'a Archive, to: &'a Archive, folder: Folder, wait: Duration) -> Self {
        let listing = |archive| Listing {
            archive,
            folder,
            wait,
            ready: VecDeque::new(),
            after: None,
            is_done: false,
        };
        Self {
            from: listing(from),
            to: listing(to),
        }
    }

    /// The next object of the original, with what the copy has under its key.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) async fn next(&mut self) -> Result<Option<(Listed, Option<Meta>)>, Error> {
        self.from.first().await?;
        let Some(next) = self.from.ready.pop_front() else {
            return Ok(None);
        };
        while self.to.first().await?.is_some_and(|there| there.key < next.key) {
            self.to.ready.pop_front();
        }
        let there = self.to.first().await?.filter(|there| there.key == next.key);
        let there = there.map(|there| there.meta.clone());
        Ok(Some((next, there)))
    }

    /// So many of the next ones that the copy has not.
    ///
    /// # Errors
    /// As [`Pages::next`].
    pub(super) async fn missing(&mut self, most: usize) -> Result<Vec<Listed>, Error> {
        let mut missing = Vec::new();
        while missing.len() < most
            && let Some((next, there)) = self.next().await?
        {
            if there.is_none() {
                missing.push(next);
            }
        }
        Ok(missing)
    }
}

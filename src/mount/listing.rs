//! One open directory: what `readdir` goes through.
//!
//! The kernel holds the directory's lock while `readdir` waits, and nothing can be created in the directory meanwhile:
//! an archiving `cp` would wait for the store's listing. So the listing is made when the directory is opened, which
//! holds no lock, up to [`HELD_ENTRIES`]. What is beyond is listed page by page as the reader goes on, the next page
//! already on its way; of those pages only the one being read is in memory, and for each page before it the place where
//! it began, because the kernel may ask again for an offset it has already been past. A listing is complete or an
//! error: a page that the store does not deliver ends it with EIO.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::archive::wal::{WalCursor, WalMeta, WalPage};
use crate::archive::{self, Archive};
use crate::pg::WalName;
use crate::store::Patience;

use super::error::Error;

/// Offsets: page number above, position in the page below.
const POSITION_BITS: u32 = 16;

/// So many are listed when the directory is opened: some 6 MB, and archives of 1.5 TB of WAL.
pub const HELD_ENTRIES: usize = 100_000;

/// What is listed, and how to go on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// The archived file.
    pub name: WalName,
    /// Its attributes.
    pub meta: WalMeta,
    /// The offset to ask with for what follows.
    pub next_offset: u64,
}

/// An open listing of `wal/`.
#[derive(Debug)]
pub struct WalListing {
    archive: Arc<Archive>,
    deadline: std::time::Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where each page known so far begins; the first at the start.
    starts: Vec<Option<WalCursor>>,
    /// The first pages, from the opening.
    held: Vec<Arc<WalPage>>,
    current: Option<(usize, Arc<WalPage>)>,
    ahead: Option<(usize, JoinHandle<Result<WalPage, archive::Error>>)>,
}

impl WalListing {
    /// A listing whose every page must come within `deadline`; waits for its first [`HELD_ENTRIES`].
    ///
    /// # Errors
    /// [`Error::Archive`]: the store did not deliver them.
    pub async fn open(archive: Arc<Archive>, deadline: std::time::Duration) -> Result<Self, Error> {
        let state = State {
            starts: vec![None],
            held: Vec::new(),
            current: None,
            ahead: None,
        };
        let listing = Self {
            archive,
            deadline,
            state: Mutex::new(state),
        };
        listing.hold_first().await?;
        Ok(listing)
    }

    async fn hold_first(&self) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        let mut entries = 0;
        while state.held.len() < state.starts.len() && entries < HELD_ENTRIES {
            let number = state.held.len();
            let page = self.page(&mut state, number).await?;
            entries += page.entries.len();
            state.held.push(page);
        }
        Ok(())
    }

    /// The rest of the page that `offset` is in, or of the next one that is not empty; empty at the end.
    ///
    /// # Errors
    /// [`Error::Archive`]: the store did not deliver the page.
    pub async fn from(&self, offset: u64) -> Result<Vec<Listed>, Error> {
        let mut state = self.state.lock().await;
        let mut page_number = (offset >> POSITION_BITS) as usize;
        let mut position = offset as usize & ((1 << POSITION_BITS) - 1);
        while page_number < state.starts.len() {
            let page = self.page(&mut state, page_number).await?;
            if position < page.entries.len() {
                return Ok(listed(&page, page_number, position));
            }
            (page_number, position) = (page_number + 1, 0);
        }
        Ok(Vec::new())
    }

    async fn page(&self, state: &mut State, number: usize) -> Result<Arc<WalPage>, Error> {
        if let Some(page) = state.held.get(number) {
            return Ok(page.clone());
        }
        if let Some((current, page)) = &state.current
            && *current == number
        {
            return Ok(page.clone());
        }
        let page = match state.ahead.take() {
            Some((ahead, page)) if ahead == number => page.await.expect("listing does not panic")?,
            _ => self
                .fetch(state.starts[number].clone())
                .await
                .expect("listing does not panic")?,
        };
        if let Some(next) = &page.next {
            if state.starts.len() == number + 1 {
                state.starts.push(Some(next.clone()));
            }
            state.ahead = Some((number + 1, self.fetch(Some(next.clone()))));
        }
        let page = Arc::new(page);
        state.current = Some((number, page.clone()));
        Ok(page)
    }

    fn fetch(&self, from: Option<WalCursor>) -> JoinHandle<Result<WalPage, archive::Error>> {
        let (archive, deadline) = (self.archive.clone(), self.deadline);
        tokio::spawn(async move {
            archive
                .list_wal(from.as_ref(), Patience::for_at_most(deadline))
                .await
        })
    }
}

fn listed(page: &WalPage, page_number: usize, position: usize) -> Vec<Listed> {
    let base = (page_number as u64) << POSITION_BITS;
    let at = |index: usize| base + index as u64 + 1;
    page.entries[position..]
        .iter()
        .enumerate()
        .map(|(index, &(name, meta))| Listed {
            name,
            meta,
            next_offset: at(position + index),
        })
        .collect()
}

//! One open directory: what `readdir` goes through.
//!
//! The kernel holds the directory's lock while `readdir` waits, and nothing can be created in the directory meanwhile:
//! an archiving `cp` would wait for the store's listing. Opening holds no lock, so it waits for the first page, which is
//! enough for an answer; the others are fetched from then on, at most [`AHEAD`] before their reader, and leave nothing
//! behind but the place where each began, because the kernel may ask again for an offset it has already been past.
//!
//! A reader that is quicker than the store still does not wait in `readdir` for long. Of a page that is followed by
//! another one, the last `HELD_BACK` names are kept until that has come; when there are no others, they go out one at
//! a time, each after a `moment`, so that over and over the kernel lets go of the directory, and a process that
//! creates something comes first. They last for longer than a page may take.
//!
//! A listing is complete or an error: a page that the store does not deliver ends it with EIO.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::archive::wal::{WalCursor, WalMeta, WalPage};
use crate::archive::{self, Archive};
use crate::mount::common::Common;
use crate::mount::directory::{Entries, Entry};
use crate::mount::error::Error;
use crate::pg::WalName;
use crate::store::Patience;

use super::Wal;
use super::archived::Archived;
use super::receiving::RECEIVED_BASE;

/// Offsets: page number above, position in the page below.
const POSITION_BITS: u32 = 16;

/// Pages that are fetched before a reader asks for them: half a megabyte.
pub const AHEAD: usize = 8;

/// Pages in the reader's hands: the one that it reads, the one before it, and the next one.
const IN_HAND: usize = 3;

/// Names that are left for a store that is slow or away: with what [`moment`] says, enough for two minutes.
const HELD_BACK: usize = 300;

/// The first and the longest wait for a page while there are names.
const MOMENTS: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];

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
    deadline: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where each page known so far begins; the first at the start.
    starts: Vec<Option<WalCursor>>,
    in_hand: VecDeque<(usize, Arc<WalPage>)>,
    coming: Option<Coming>,
    /// Since when the reader could have used a page that has not come.
    waiting_since: Option<Instant>,
}

/// Pages that are being fetched, one after the other.
#[derive(Debug)]
struct Coming {
    /// Of the one that comes next.
    number: usize,
    pages: mpsc::Receiver<Result<WalPage, archive::Error>>,
    fetching: JoinHandle<()>,
}

impl WalListing {
    /// A listing whose every page must come within `deadline`; waits for the first one.
    ///
    /// # Errors
    /// [`Error::Archive`]: the store did not deliver it.
    pub async fn open(archive: Arc<Archive>, deadline: Duration) -> Result<Self, Error> {
        let state = State {
            starts: vec![None],
            in_hand: VecDeque::new(),
            coming: None,
            waiting_since: None,
        };
        let listing = Self {
            archive,
            deadline,
            state: Mutex::new(state),
        };
        listing.page(&mut *listing.state.lock().await, 0).await?;
        Ok(listing)
    }

    /// Some of the names from `offset` on; none at the end.
    ///
    /// # Errors
    /// [`Error::Archive`]: the store did not deliver them. [`Error::Stale`]: nothing begins at this offset any more.
    pub async fn from(&self, offset: u64) -> Result<Vec<Listed>, Error> {
        let mut state = self.state.lock().await;
        let mut number = (offset >> POSITION_BITS) as usize;
        let mut position = offset as usize & ((1 << POSITION_BITS) - 1);
        loop {
            let page = self.page(&mut state, number).await?;
            let left = page.entries.len().saturating_sub(position);
            if page.next.is_none() {
                return Ok(listed(&page, number, position, left));
            }
            if left > 0 {
                let many = self.may_go_out(&mut state, number, left).await?;
                return Ok(listed(&page, number, position, many));
            }
            (number, position) = (number + 1, 0);
        }
    }

    /// How many of the names that are `left` of a page which is not the last one; at least one.
    async fn may_go_out(&self, state: &mut State, number: usize, left: usize) -> Result<usize, Error> {
        let wait = match left {
            ..=HELD_BACK => moment(state.waiting_since.get_or_insert_with(Instant::now).elapsed()),
            _ => Duration::ZERO,
        };
        match tokio::time::timeout(wait, self.page(state, number + 1)).await {
            Ok(next) => {
                state.waiting_since = None;
                next.map(|_| left)
            }
            Err(_) => Ok(left.saturating_sub(HELD_BACK).max(1)),
        }
    }

    /// A page. A caller that stops waiting for it finds it later.
    async fn page(&self, state: &mut State, number: usize) -> Result<Arc<WalPage>, Error> {
        if let Some((_, page)) = state.in_hand.iter().find(|(known, _)| *known == number) {
            return Ok(page.clone());
        }
        let coming = match &mut state.coming {
            Some(coming) if coming.number == number => coming,
            other => {
                let from = state.starts.get(number).ok_or(Error::Stale)?.clone();
                other.insert(Coming::begin(self.archive.clone(), self.deadline, from, number))
            }
        };
        let page = coming.pages.recv().await;
        match page.expect("the last page is not followed by one that is asked for") {
            Ok(page) => Ok(state.took(number, page)),
            Err(error) => {
                // The next caller asks the store again.
                state.coming = None;
                Err(error.into())
            }
        }
    }
}

impl State {
    fn took(&mut self, number: usize, page: WalPage) -> Arc<WalPage> {
        self.waiting_since = None;
        self.coming = self.coming.take().filter(|_| page.next.is_some());
        self.coming.iter_mut().for_each(|coming| coming.number += 1);
        if page.next.is_some() && self.starts.get(number + 1) != Some(&page.next) {
            // It is new, or a name has come in between since it was read first, and moved all that follow.
            self.starts.truncate(number + 1);
            self.starts.push(page.next.clone());
            self.in_hand.retain(|(known, _)| *known < number);
        }
        let page = Arc::new(page);
        self.in_hand.push_back((number, page.clone()));
        if self.in_hand.len() > IN_HAND {
            self.in_hand.pop_front();
        }
        page
    }
}

impl Coming {
    fn begin(archive: Arc<Archive>, deadline: Duration, from: Option<WalCursor>, number: usize) -> Self {
        // One is in the hands of the fetching task.
        let (send, pages) = mpsc::channel(AHEAD - 1);
        let fetching = tokio::spawn(fetch(archive, deadline, from, send));
        Self {
            number,
            pages,
            fetching,
        }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.fetching.abort();
    }
}

/// Hands over pages until the last one or the first error.
async fn fetch(
    archive: Arc<Archive>,
    deadline: Duration,
    mut from: Option<WalCursor>,
    pages: mpsc::Sender<Result<WalPage, archive::Error>>,
) {
    loop {
        let page = archive
            .list_wal(from.as_ref(), Patience::for_at_most(deadline))
            .await;
        from = page.as_ref().ok().and_then(|page| page.next.clone());
        if pages.send(page).await.is_err() || from.is_none() {
            return;
        }
    }
}

/// How long to wait this time, after having waited so long for the same page: briefly for a store that answers, and
/// growing, so that [`HELD_BACK`] times are enough for one that does not.
fn moment(waited: Duration) -> Duration {
    let [first, longest] = MOMENTS;
    (waited / 32).clamp(first, longest)
}

fn listed(page: &WalPage, number: usize, position: usize, many: usize) -> Vec<Listed> {
    let base = (number as u64) << POSITION_BITS;
    let names = page.entries.iter().enumerate().skip(position).take(many);
    names
        .map(|(index, &(name, meta))| Listed {
            name,
            meta,
            next_offset: base + index as u64 + 1,
        })
        .collect()
}

/// `wal/`, open: the archived files, page by page, and behind them what is received.
#[derive(Debug)]
struct OpenWal {
    common: Arc<Common>,
    archived: Arc<Archived>,
    listing: WalListing,
    received: Vec<Entry>,
}

impl Wal {
    /// Opens `wal/`.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub(super) async fn open_listing(&self) -> Result<Arc<dyn Entries>, Error> {
        let listing = WalListing::open(self.common.archive.clone(), self.common.options.deadline);
        let listed = tokio::try_join!(listing, self.list_received());
        let (listing, received) = self.common.noted("list wal", listed)?;
        Ok(Arc::new(OpenWal {
            common: self.common.clone(),
            archived: self.archived.clone(),
            listing,
            received,
        }))
    }
}

#[async_trait]
impl Entries for OpenWal {
    async fn from(&self, offset: u64) -> Result<Vec<Entry>, Error> {
        if offset >= RECEIVED_BASE {
            return Ok(received_from(&self.received, offset));
        }
        let listed = self.common.noted("list wal", self.listing.from(offset).await)?;
        if listed.is_empty() {
            return Ok(received_from(&self.received, RECEIVED_BASE));
        }
        let entry = |listed: &Listed| Entry {
            name: listed.name.to_string().into(),
            attributes: self.archived.attributes(listed.name, &listed.meta),
            next_offset: listed.next_offset,
        };
        Ok(listed.iter().map(entry).collect())
    }
}

/// Those of what is received that follow an offset.
fn received_from(received: &[Entry], offset: u64) -> Vec<Entry> {
    let seen = (offset - RECEIVED_BASE) as usize;
    received.iter().skip(seen).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_held_back_last_for_longer_than_a_page_may_take() {
        let waited = (0..HELD_BACK).fold(Duration::ZERO, |waited, _| waited + moment(waited));
        assert!(waited > Duration::from_secs(2 * 45), "{waited:?}");
    }
}

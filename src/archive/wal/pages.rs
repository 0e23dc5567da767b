//! The listing of the WAL, gone through in order. A store that lists from any place is asked for several stretches at once:
//! a million segments are a thousand pages, and one after the other they take half a minute from a store that is far.
//!
//! Segments follow each other; so behind a page that they fill, where later ones lie is known without asking. Each stretch is
//! listed up to the beginning of the next one, whatever else lies in it. Stretches grow from round to round. One behind the
//! last segment costs a request. A directory gives its names in no order, and is gone through as it comes.

use std::collections::VecDeque;

use futures::{StreamExt, TryStreamExt, stream};

use super::{WalCursor, WalMeta};
use crate::archive::{Archive, Error};
use crate::pg::{SegmentName, SegmentSize, Timeline, WalName};
use crate::store::Patience;

/// Stretches that are listed at once.
const STRETCHES: u64 = 8;

/// Pages of a stretch, at first and at most: what is listed ahead is in memory.
const PAGES: (u64, u64) = (1, 16);

/// Segments of a stretch for each page of a thousand names: some have a `.backup` file beside them.
const SEGMENTS_OF_A_PAGE: u64 = 990;

/// Archived files, ascending by name.
pub type Entries = Vec<(WalName, WalMeta)>;

/// Goes through the listing.
#[derive(Debug)]
pub struct WalPages<'a, P> {
    archive: &'a Archive,
    size: SegmentSize,
    patience: P,
    /// What was listed ahead.
    ready: VecDeque<Entries>,
    next: Next,
    /// Of a stretch.
    pages: u64,
}

/// What comes behind that.
#[derive(Debug)]
enum Next {
    /// A page from there on, or from the beginning.
    Page(Option<WalCursor>),
    /// Stretches, the first of which begins there: behind this segment, most likely.
    Stretches(WalCursor, Timeline, u64),
    Nothing,
}

impl Archive {
    /// Goes through the archived files from a place on. Each request gets its own patience.
    pub fn wal_pages<P: Fn() -> Patience>(
        &self,
        from: Option<WalCursor>,
        size: SegmentSize,
        patience: P,
    ) -> WalPages<'_, P> {
        WalPages {
            archive: self,
            size,
            patience,
            ready: VecDeque::new(),
            next: Next::Page(from),
            pages: PAGES.0,
        }
    }
}

impl<P: Fn() -> Patience> WalPages<'_, P> {
    /// The next files; `None` behind the last.
    ///
    /// # Errors
    /// [`Error::Store`]: a listing is complete or an error, never silently short.
    pub async fn next(&mut self) -> Result<Option<Entries>, Error> {
        loop {
            if let Some(entries) = self.ready.pop_front() {
                return Ok(Some(entries));
            }
            self.next = match std::mem::replace(&mut self.next, Next::Nothing) {
                Next::Nothing => return Ok(None),
                Next::Page(from) => self.page(from).await?,
                Next::Stretches(from, timeline, number) => self.stretches(from, timeline, number).await?,
            };
        }
    }

    async fn page(&mut self, from: Option<WalCursor>) -> Result<Next, Error> {
        let page = self.archive.list_wal(from.as_ref(), (self.patience)()).await?;
        let follows = self.is_filled(&page.entries);
        self.ready.push_back(page.entries);
        Ok(match (page.next, follows) {
            (None, _) => Next::Nothing,
            (Some(next), Some(last)) if self.archive.store().directory().is_none() => {
                Next::Stretches(next, last.timeline, last.number(self.size))
            }
            (next, _) => Next::Page(next),
        })
    }

    /// The last segment of a page that segments of one timeline fill.
    fn is_filled(&self, entries: &Entries) -> Option<SegmentName> {
        let segment = |entry: Option<&(WalName, WalMeta)>| match entry?.0 {
            WalName::Segment(segment) => Some(segment),
            _ => None,
        };
        let (first, last) = (segment(entries.first())?, segment(entries.last())?);
        let apart = last.number(self.size).checked_sub(first.number(self.size))?;
        (first.timeline == last.timeline && apart < 2 * entries.len() as u64).then_some(last)
    }

    async fn stretches(&mut self, from: WalCursor, timeline: Timeline, last: u64) -> Result<Next, Error> {
        let segments = self.pages * SEGMENTS_OF_A_PAGE;
        self.pages = PAGES.1.min(self.pages * 2);
        let behind = (1..=STRETCHES).map_while(|stretch| {
            let number = last.checked_add(1 + stretch * segments)?;
            Some(WalCursor::before(SegmentName::from_number(
                timeline, number, self.size,
            )?))
        });
        let bounds: Vec<WalCursor> = std::iter::once(from).chain(behind).collect();
        let pairs: Vec<(WalCursor, WalCursor)> = bounds
            .iter()
            .cloned()
            .zip(bounds.iter().skip(1).cloned())
            .collect();
        let stretches = stream::iter(pairs).map(|(from, until)| self.stretch(from, until));
        let listed: Vec<Stretch> = stretches.buffered(STRETCHES as usize).try_collect().await?;
        let firsts: Vec<Option<WalName>> = listed.iter().map(Stretch::first).collect();
        for (at, Stretch { pages, behind }) in listed.into_iter().enumerate() {
            let last = pages.iter().rev().find_map(|page| page.last());
            let last = last.map(|(name, _)| WalCursor(self.archive.wal_key(*name).as_str().to_owned()));
            self.ready.extend(pages);
            let Some(behind) = behind else {
                return Ok(Next::Nothing);
            };
            // Segments have come meanwhile: of those before what a later stretch shows some may be missing here.
            let first = firsts[at + 1..].iter().find_map(|first| *first);
            if first.is_some_and(|first| first != behind) {
                return Ok(Next::Page(last.or_else(|| Some(bounds[at].clone()))));
            }
        }
        Ok(Next::Page(bounds.into_iter().next_back()))
    }

    /// What lies between two places.
    async fn stretch(&self, from: WalCursor, until: WalCursor) -> Result<Stretch, Error> {
        let (mut pages, mut from) = (Vec::new(), Some(from));
        while let Some(at) = from {
            let mut page = self.archive.list_wal(Some(&at), (self.patience)()).await?;
            let within =
                |(name, _): &(WalName, WalMeta)| self.archive.wal_key(*name).as_str() <= until.0.as_str();
            let end = page.entries.partition_point(within);
            let behind = page.entries.get(end).map(|(name, _)| *name);
            page.entries.truncate(end);
            pages.push(page.entries);
            if behind.is_some() {
                return Ok(Stretch { pages, behind });
            }
            from = page.next;
        }
        Ok(Stretch { pages, behind: None })
    }
}

/// What lies between two places.
#[derive(Debug)]
struct Stretch {
    pages: Vec<Entries>,
    /// The first file behind it.
    behind: Option<WalName>,
}

impl Stretch {
    /// The first file in it, or behind it.
    fn first(&self) -> Option<WalName> {
        let mut entries = self.pages.iter().flatten();
        entries.next().map(|(name, _)| *name).or(self.behind)
    }
}

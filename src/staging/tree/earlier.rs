//! What earlier backups have of a tree that is being written, as far as that is known soon enough.
//!
//! The base is looked for from the tree's begin on, while its writer waits for a checkpoint. What goes out before it is known,
//! and waits no longer for it, is sent; so is everything once the store has failed to answer, and once so many pieces lie
//! apart that they would take too much memory: nothing here can fail a tree.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::archive::Archive;
use crate::archive::tree::TreeId;
use crate::archive::tree::page_hashes::PageHash;
use crate::read::base::Base;
use crate::read::page_hashes::Placed;
use crate::read::tree::TreeReader;
use crate::store::Patience;

use super::judge::Judge;

/// How long what goes out waits for the base, from the tree's begin on, and an answer about pages is waited for: no more than a
/// quarter of the deadline, within which a writer must get on.
const MOST_WAIT: Duration = Duration::from_secs(20);

/// Pieces of earlier parts that one tree points to, at most: some 60 bytes each, with what becomes of them.
const MOST_PIECES: u64 = 500_000;

#[derive(Debug)]
pub(super) struct Earlier {
    base: watch::Receiver<Option<Option<Arc<Base>>>>,
    looking: JoinHandle<()>,
    /// What goes out waits for the base until then.
    until: Instant,
    wait: Duration,
    /// Is nothing asked any more?
    given_up: AtomicBool,
    pieces: AtomicU64,
}

impl Drop for Earlier {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Earlier {
    /// Begins to look for the base of `maker`, of which that is the judge.
    pub(super) fn look_for(
        archive: &Arc<Archive>,
        trees: TreeReader,
        maker: TreeId,
        judge: Arc<dyn Judge>,
        deadline: Duration,
    ) -> Self {
        let wait = MOST_WAIT.min(deadline / 4);
        let (found, base) = watch::channel(None);
        let archive = archive.clone();
        let looking = tokio::spawn(async move {
            let patience = || Patience::for_at_most(deadline);
            let chosen = Base::choose(&archive, &trees, &maker, judge.candidates(), patience).await;
            let chosen = chosen.unwrap_or_else(|error| {
                tracing::warn!("everything is stored, whatever earlier backups have: {error}");
                None
            });
            found.send_replace(Some(chosen));
        });
        Self {
            base,
            looking,
            until: Instant::now() + wait,
            wait,
            given_up: AtomicBool::new(false),
            pieces: AtomicU64::new(0),
        }
    }

    /// The base, if it is known by now.
    pub(super) fn found(&self) -> Option<Arc<Base>> {
        self.base.borrow().clone().flatten()
    }

    /// Which pages of a range of a file are where; `None` if it is not known.
    pub(super) async fn kept(
        &self,
        path: &[u8],
        range: Range<u64>,
        hashes: &[PageHash],
    ) -> Option<Vec<Option<Placed>>> {
        if self.given_up.load(Ordering::Acquire) {
            return None;
        }
        let mut base = self.base.clone();
        let known = tokio::time::timeout_at(self.until, base.wait_for(Option::is_some)).await;
        let base = known.ok()?.ok()?.clone().flatten()?;
        let kept = base
            .kept(path, range, hashes, Patience::for_at_most(self.wait))
            .await;
        let kept = kept.unwrap_or_else(|error| {
            self.give_up(&error.to_string());
            None
        })?;
        let apart = kept.windows(2).filter(|pair| !follow(&pair[0], &pair[1])).count() as u64 + 1;
        if self.pieces.fetch_add(apart, Ordering::AcqRel) > MOST_PIECES {
            self.give_up("its pages lie too far apart");
            return None;
        }
        Some(kept)
    }

    fn give_up(&self, why: &str) {
        if !self.given_up.swap(true, Ordering::AcqRel) {
            tracing::warn!("what follows is stored whole, whatever earlier backups have: {why}");
        }
    }
}

/// Are these pages one piece?
fn follow(page: &Option<Placed>, next: &Option<Placed>) -> bool {
    match (page, next) {
        (None, None) => true,
        (Some(page), Some(next)) => {
            Arc::ptr_eq(&page.part, &next.part) && page.offset + page.bytes == next.offset
        }
        _ => false,
    }
}

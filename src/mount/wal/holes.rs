//! A missing segment with later ones of its timeline in the archive (promise R6), and a timeline without its history: named
//! in the log, and waited for if somebody is about to bring it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::absence::Absence;
use super::archived::Archived;
use crate::archive::wal::Behind;
use crate::mount::asker::Asker;
use crate::mount::error::Result;
use crate::pg::{SegmentName, Timeline, WalName};
use crate::store::Patience;

/// A standby asks every few seconds; the log says it again after that.
const EVERY: Duration = Duration::from_secs(60);

/// More names than this are not remembered.
const NAMES: usize = 256;

/// What the log has named.
#[derive(Debug, Default)]
pub(super) struct Named(Mutex<BTreeMap<WalName, Instant>>);

impl Named {
    /// Is it time to name it, for the first time or again?
    fn is_due(&self, name: WalName) -> bool {
        let mut named = self.0.lock().expect("no panic while held");
        named.retain(|_, at| at.elapsed() < EVERY);
        if named.contains_key(&name) {
            return false;
        }
        if named.len() < NAMES {
            named.insert(name, Instant::now());
        }
        true
    }
}

impl Archived {
    /// Is a file that the store has just said not to be there the end of its timeline? Waits for a segment that is about to
    /// come, `None` if it has come; names a hole.
    ///
    /// # Errors
    /// [`Error::Archive`](crate::mount::error::Error::Archive), [`Error::Interrupted`](crate::mount::error::Error::Interrupted).
    pub(super) async fn absence(
        self: &Arc<Self>,
        name: WalName,
        asker: Option<&Asker>,
        patience: Patience,
    ) -> Result<Option<Absence>> {
        let segment = match name {
            WalName::Segment(segment) => segment,
            WalName::History(timeline) => {
                self.look_for_segments(timeline);
                return Ok(Some(Absence::End));
            }
            WalName::Partial(_) | WalName::Backup(..) => return Ok(Some(Absence::End)),
        };
        let archive = &self.common.archive;
        let settled = archive.settled_behind(segment, self.is_coming(segment), patience);
        Ok(match self.common.while_wanted(asker, settled).await?? {
            Behind::End => Some(Absence::End),
            Behind::Come => None,
            Behind::Hole(hole) => Some(self.no_end(name, hole.to_string())),
            Behind::Pruned(pruned) => Some(self.no_end(name, pruned.to_string())),
        })
    }

    fn no_end(&self, name: WalName, message: String) -> Absence {
        if self.named.is_due(name) {
            tracing::warn!("{message}");
        }
        self.common.metrics.error(message);
        Absence::Hole
    }

    /// Is this mount about to store the segment? No longer than one file may take.
    fn is_coming(&self, segment: SegmentName) -> impl Fn() -> bool + Send {
        let (name, deadline, began) = (
            WalName::Segment(segment),
            self.common.options.deadline,
            Instant::now(),
        );
        move || began.elapsed() < deadline && (self.is_ahead(name) || self.clocks.is_running(name, deadline))
    }

    /// Nobody waits for it: without its history a timeline is none for PostgreSQL, and what the log says helps the operator.
    fn look_for_segments(self: &Arc<Self>, timeline: Timeline) {
        let archived = self.clone();
        tokio::spawn(async move {
            let common = &archived.common;
            let lost = common.archive.lost_history(timeline, common.prompt_patience());
            match lost.await {
                Ok(Some(lost)) if archived.named.is_due(WalName::History(timeline)) => {
                    tracing::warn!("{lost}")
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!("segments of timeline {timeline} could not be looked for: {error}")
                }
            }
        });
    }
}

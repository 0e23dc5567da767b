//! Two timelines that both go on from one place (promise B12): noticed when either of them is archived.
//!
//! A `.history` file that comes when its parent has gone on shows the fork by itself. If the parent goes on later, its
//! segments show it: after one was brought the archive is asked, behind it and once a minute at most, whether a later
//! timeline has left this one. Another mount may have archived that, so it is not enough to know what came through here.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::receivers::{Receivers, look_for_received};
use crate::archive::wal::{Child, Fork};
use crate::metrics::{ForkFound, Metrics};
use crate::mount::common::Common;
use crate::pg::{SegmentName, Timeline, WalName};
use crate::staging::wal::WalDraft;

/// How often a timeline that is archived is looked behind.
const EVERY: Duration = Duration::from_secs(60);

/// What is known of the timeline that is archived; servers archive one at a time.
#[derive(Debug, Default)]
pub(super) struct Forks {
    known: Mutex<Option<Known>>,
    /// Who else may bring WAL.
    pub(super) receivers: Arc<Receivers>,
}

#[derive(Debug)]
struct Known {
    /// Of this timeline, the latest that was brought.
    segment: SegmentName,
    looked_at: Instant,
    children: Vec<Child>,
}

impl Forks {
    /// A segment was brought: those that have left its timeline, as far as is known, and whether it is time to look again,
    /// which is then up to the caller.
    fn brought(&self, segment: SegmentName) -> (Vec<Child>, bool) {
        let mut known = self.known.lock().expect("no panic while held");
        match &mut *known {
            Some(known) if known.segment.timeline == segment.timeline => {
                known.segment = segment;
                let is_due = known.looked_at.elapsed() > EVERY;
                if is_due {
                    known.looked_at = Instant::now();
                }
                (known.children.clone(), is_due)
            }
            other => {
                *other = Some(Known {
                    segment,
                    looked_at: Instant::now(),
                    children: Vec::new(),
                });
                (Vec::new(), true)
            }
        }
    }

    /// Those that have left a timeline; gives the latest segment that was brought of it.
    fn learn(&self, timeline: Timeline, children: &[Child]) -> Option<SegmentName> {
        let mut known = self.known.lock().expect("no panic while held");
        let known = known
            .as_mut()
            .filter(|known| known.segment.timeline == timeline)?;
        known.children = children.to_vec();
        Some(known.segment)
    }
}

/// A file is archived.
pub(super) fn look_for_forks(forks: &Arc<Forks>, common: &Arc<Common>, wal: &WalDraft) {
    if let Some(fork) = wal.fork() {
        tell(&common.metrics, &fork);
    }
    if let WalName::Segment(segment) = wal.name() {
        segment_archived(forks, common, segment);
    }
}

/// A segment is archived, by a copier or as it was received.
pub(super) fn segment_archived(forks: &Arc<Forks>, common: &Arc<Common>, segment: SegmentName) {
    look_for_received(&forks.receivers, common, segment);
    let (children, is_due) = forks.brought(segment);
    if is_due {
        look_behind(forks.clone(), common.clone(), segment);
    } else {
        let common = common.clone();
        // The child has gone its way before most segments that come: then there is nothing to ask.
        if !children.is_empty() {
            tokio::spawn(async move { tell_all(&common, &children, segment).await });
        }
    }
}

fn look_behind(forks: Arc<Forks>, common: Arc<Common>, segment: SegmentName) {
    tokio::spawn(async move {
        let patience = common.prompt_patience();
        match common.archive.children_of(segment.timeline, patience).await {
            Ok(children) => {
                let latest = forks.learn(segment.timeline, &children).unwrap_or(segment);
                tell_all(&common, &children, latest).await;
            }
            Err(error) => tracing::debug!("later timelines could not be looked at: {error}"),
        }
    });
}

async fn tell_all(common: &Common, children: &[Child], segment: SegmentName) {
    for child in children {
        match common
            .archive
            .fork(*child, segment, common.prompt_patience())
            .await
        {
            Ok(fork) => fork.iter().for_each(|fork| tell(&common.metrics, fork)),
            Err(error) => tracing::debug!(
                "whether timeline {} forks could not be looked at: {error}",
                child.timeline
            ),
        }
    }
}

/// Says it once, in the log and in `mount.json`.
fn tell(metrics: &Metrics, fork: &Fork) {
    let is_new = metrics.fork(ForkFound {
        parent_timeline: fork.parent.0,
        child_timeline: fork.child.0,
        left_at: fork.at.to_string(),
        parent_goes_on_with: fork.beyond.to_string(),
    });
    if is_new {
        tracing::warn!("{fork}");
    }
}

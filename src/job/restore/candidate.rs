//! A backup that recovery could begin with.

use super::error::Error;
use super::timelines::Timelines;
use super::way::Way;
use crate::archive::tree::TreeName;
use crate::archive::tree::summary::Summary;
use crate::pg::{Lsn, SegmentSize, Timeline};

/// Where it ends is known.
#[derive(Debug, Clone)]
pub(in crate::job) struct Candidate {
    pub name: TreeName,
    pub summary: Summary,
    /// The timeline on which it ends, and where.
    pub own: Timeline,
    pub stop: Lsn,
}

impl Candidate {
    /// `None` if it names no WAL.
    pub(in crate::job) fn new(name: TreeName, summary: Summary) -> Option<Self> {
        let (own, stop) = summary.backup.stop()?;
        Some(Self {
            name,
            summary,
            own,
            stop,
        })
    }

    /// Does the way go through its end?
    pub(super) fn is_on(&self, way: &Way) -> bool {
        way.check_through(self.own, self.stop).is_ok()
    }

    /// The size of its segments.
    ///
    /// # Errors
    /// [`Error::Content`] if it is none.
    pub(super) fn segment_size(&self) -> Result<SegmentSize, Error> {
        SegmentSize::new(self.summary.backup.segment_bytes).map_err(|error| Error::Content {
            backup: self.name.clone(),
            file: "its summary".into(),
            reason: error.to_string(),
        })
    }

    /// The way that ends on its own timeline, which needs no history to be followed.
    pub(super) fn own_way(&self, timelines: &Timelines) -> Way {
        let known = timelines.way(self.own, true);
        known.unwrap_or_else(|| Way::new(self.own, &[]))
    }
}

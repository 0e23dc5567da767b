//! One of several ends, as the operator is told of it.

use std::fmt;
use std::time::SystemTime;

use crate::pg::{Lsn, SegmentName, Timeline};

/// An end that recovery can come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Its timeline.
    pub timeline: Timeline,
    /// Which timeline it left, and where; `None` for one that is known from its beginning.
    pub forked: Option<(Timeline, Lsn)>,
    /// Its last archived segment.
    pub last: Option<SegmentName>,
    /// The last one behind it of which there is the beginning: received, or archived as `.partial`.
    pub received: Option<SegmentName>,
    /// When its last WAL was archived or received, by the store's clock.
    pub newest: Option<SystemTime>,
}

impl fmt::Display for Branch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "timeline {}", self.timeline)?;
        if let Some((parent, fork)) = self.forked {
            write!(out, ", forked from timeline {parent} at {fork}")?;
        }
        match (self.last, self.received) {
            (Some(last), None) => write!(out, ", archived up to {last}")?,
            (Some(last), Some(behind)) => write!(out, ", archived up to {last}, begun in {behind}")?,
            (None, Some(received)) => write!(out, ", begun in {received}")?,
            (None, None) => out.write_str(", with no segment of its own")?,
        }
        let newest = self.newest.and_then(|time| jiff::Timestamp::try_from(time).ok());
        newest.map_or(Ok(()), |time| write!(out, ", the newest at {time:.0}"))
    }
}

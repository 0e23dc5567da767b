//! Which timelines have something that was received, complete or not: it is WAL of its timeline as an archived segment is.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::{Fragment, RECEIVING};
use crate::archive::{Archive, Error};
use crate::pg::{SegmentName, Timeline};
use crate::store::Patience;

impl Archive {
    /// The first segment of each timeline of which something was received. Lists the beginning of each timeline only.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn first_received(&self, patience: Patience) -> Result<BTreeMap<Timeline, SegmentName>, Error> {
        let mut found = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let prefix = format!("{RECEIVING}/");
            let page = self.store.list(&prefix, after.as_deref(), 1000, patience).await?;
            let fragment = |key| Fragment::parse(key, &self.marker.codec);
            let fragments = page.entries.iter().filter_map(|(key, _)| fragment(key));
            for segment in fragments
                .filter(|found| found.bytes() > 0)
                .map(|found| found.segment)
            {
                found.entry(segment.timeline).or_insert(segment);
            }
            let (true, Some((key, _))) = (page.more, page.entries.last()) else {
                return Ok(found);
            };
            let last = fragment(key).map(|last| last.segment.timeline);
            let seen = last.filter(|last| found.contains_key(last));
            after = Some(match seen.and_then(|last| last.0.checked_add(1)) {
                Some(next) => format!("{RECEIVING}/{next:08X}"),
                None => key.as_str().to_owned(),
            });
        }
    }

    /// The first segment of a timeline of which something was received; behind this one, if it is given.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn next_received(
        &self,
        timeline: Timeline,
        behind: Option<SegmentName>,
        patience: Patience,
    ) -> Result<Option<SegmentName>, Error> {
        let prefix = format!("{RECEIVING}/{:08X}", timeline.0);
        // Behind all of the segment's own keys.
        let mut after = behind.map(|segment| format!("{RECEIVING}/{segment}~"));
        loop {
            let page = self.store.list(&prefix, after.as_deref(), 16, patience).await?;
            let fragments = page
                .entries
                .iter()
                .filter_map(|(key, _)| Fragment::parse(key, &self.marker.codec));
            let found = fragments
                .filter(|found| found.bytes() > 0)
                .map(|found| found.segment)
                .next();
            match page.entries.last() {
                Some((last, _)) if found.is_none() && page.more => after = Some(last.as_str().to_owned()),
                _ => return Ok(found),
            }
        }
    }

    /// The last segment of which something was received, from this one on, on its timeline and up to this one; and when the
    /// newest of all that was.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn received_from(
        &self,
        from: SegmentName,
        up_to: Option<SegmentName>,
        patience: Patience,
    ) -> Result<Option<(SegmentName, SystemTime)>, Error> {
        let mut found: Option<(SegmentName, SystemTime)> = None;
        let (prefix, after) = (
            format!("{RECEIVING}/{:08X}", from.timeline.0),
            format!("{RECEIVING}/{from}"),
        );
        self.each_received_after(&prefix, Some(after), patience, |fragment, object| {
            if fragment.bytes() > 0 && up_to.is_none_or(|last| fragment.segment <= last) {
                let newest = found.map_or(object.modified, |(_, newest)| newest.max(object.modified));
                found = Some((fragment.segment, newest));
            }
        })
        .await?;
        Ok(found)
    }
}

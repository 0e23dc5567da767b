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

    /// The last segment of which something was received, from this one on and on its timeline; and when the newest of all
    /// that was.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn received_from(
        &self,
        from: SegmentName,
        patience: Patience,
    ) -> Result<Option<(SegmentName, SystemTime)>, Error> {
        let mut found: Option<(SegmentName, SystemTime)> = None;
        let (prefix, after) = (
            format!("{RECEIVING}/{:08X}", from.timeline.0),
            format!("{RECEIVING}/{from}"),
        );
        self.each_received_after(&prefix, Some(after), patience, |fragment, object| {
            if fragment.bytes() > 0 {
                let newest = found.map_or(object.modified, |(_, newest)| newest.max(object.modified));
                found = Some((fragment.segment, newest));
            }
        })
        .await?;
        Ok(found)
    }
}

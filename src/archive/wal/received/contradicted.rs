//! Is what was received of a segment in the one that was archived? Another server may have archived that.

use std::collections::HashSet;

use super::Prefix;
use crate::archive::wal::Found;
use crate::archive::{Archive, Error};
use crate::pg::{SegmentName, WalName};
use crate::store::Patience;

impl Archive {
    /// So many bytes of an archived segment were received otherwise; `None` if none were. One request where nothing is
    /// kept of it.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn received_otherwise(
        &self,
        segment: SegmentName,
        patience: Patience,
    ) -> Result<Option<u64>, Error> {
        let fragments = self.received(segment, patience).await?;
        // What others lead on from is proved by these.
        let led_on: HashSet<(u64, Prefix)> = fragments
            .iter()
            .filter(|fragment| fragment.bytes() > 0)
            .map(|fragment| (fragment.range.start, fragment.before))
            .collect();
        let ends = fragments
            .iter()
            .map(|fragment| (fragment.range.end, fragment.after));
        let ends: HashSet<(u64, Prefix)> = ends.filter(|end| end.0 > 0 && !led_on.contains(end)).collect();
        if ends.is_empty() {
            return Ok(None);
        }
        let name = WalName::Segment(segment);
        let Found::Archived(table) = self.look(name, patience).await? else {
            return Ok(None);
        };
        for (bytes, after) in ends {
            let is_same = bytes <= table.plain_bytes()
                && Prefix::of(self.hash_of_first(name, &table, bytes, patience).await?) == after;
            if !is_same {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

//! Does what was received of a segment hang together? A fragment that is lost cuts off those behind it, whose commits were
//! acknowledged as well.

use std::collections::BTreeMap;

use super::{Fragment, RECEIVING};
use crate::archive::{Archive, Error};
use crate::pg::SegmentName;
use crate::store::Patience;

/// Segments that are told.
const MOST_SEGMENTS: usize = 100_000;

/// What was received of a segment and does not follow what is there of its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "what was received of it, or archived as .partial, is there up to byte {from} and then, up to byte {until}, only in pieces \
     that do not follow, or are damaged"
)]
pub struct Torn {
    /// So many first bytes are there.
    pub from: u64,
    /// Up to here something was received.
    pub until: u64,
}

impl Torn {
    /// With so many first bytes there from elsewhere; `None`: nothing lies behind these.
    pub fn behind(self, bytes: u64) -> Option<Self> {
        let from = self.from.max(bytes);
        (from < self.until).then_some(Self { from, ..self })
    }

    /// By what the names of a segment's fragments say. Those that overlap are proved to belong together only by their bytes.
    pub(super) fn of(fragments: &[Fragment]) -> Option<Self> {
        let mut from = 0;
        let mut after = None;
        loop {
            let leads = |fragment: &&Fragment| {
                let (range, before) = (&fragment.range, fragment.before);
                range.end > from
                    && (range.start < from || range.start == from && after.is_none_or(|it| it == before))
            };
            let next = fragments.iter().filter(leads).max_by_key(|next| next.range.end);
            let Some(next) = next else { break };
            from = next.range.end;
            after = Some(next.after);
        }
        let until = fragments.iter().map(|fragment| fragment.range.end).max()?;
        Self { from, until }.behind(0)
    }
}

impl Archive {
    /// Segments of which something was received, archived since or not, and where that is torn; of very many the first ones.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn received_segments(
        &self,
        patience: Patience,
    ) -> Result<BTreeMap<SegmentName, Option<Torn>>, Error> {
        let mut found = BTreeMap::new();
        let mut own: Vec<Fragment> = Vec::new();
        let mut settle = |own: &mut Vec<Fragment>| {
            if let Some(first) = own.first()
                && found.len() < MOST_SEGMENTS
            {
                found.insert(first.segment, Torn::of(own));
            }
            own.clear();
        };
        self.each_received(&format!("{RECEIVING}/"), patience, |fragment, _| {
            if own.first().is_some_and(|first| first.segment != fragment.segment) {
                settle(&mut own);
            }
            if fragment.bytes() > 0 {
                own.push(fragment);
            }
        })
        .await?;
        settle(&mut own);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Prefix;
    use super::*;

    fn torn(fragments: &[(u64, u64)]) -> Option<(u64, u64)> {
        let fragment = |&(start, end): &(u64, u64)| Fragment {
            segment: "000000010000000000000003".parse().unwrap(),
            range: start..end,
            file_bytes: 1 << 20,
            before: Prefix(start),
            after: Prefix(end),
        };
        let fragments: Vec<Fragment> = fragments.iter().map(fragment).collect();
        Torn::of(&fragments).map(|torn| (torn.from, torn.until))
    }

    #[test]
    fn a_lost_fragment_cuts_off_those_behind_it() {
        assert_eq!(torn(&[]), None);
        assert_eq!(torn(&[(0, 10), (10, 20), (5, 30)]), None);
        assert_eq!(torn(&[(0, 10), (20, 30)]), Some((10, 30)));
        assert_eq!(torn(&[(8, 10)]), Some((0, 10)));
        let part = Torn { from: 10, until: 30 };
        assert_eq!(part.behind(20), Some(Torn { from: 20, until: 30 }));
        assert_eq!(part.behind(30), None);
    }
}

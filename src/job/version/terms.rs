//! By what every version of a name is stored, whatever it is of.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::archive::tree::Attributes;
use crate::linux::kernel::Owner;

/// How a version is stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// Store everything, whatever earlier versions have, and if nothing has changed too.
    pub full: bool,
    /// After so many in a row that build on earlier ones, the next one that stores anything stores everything.
    pub max_incrementals: Option<u32>,
    /// So does the first one after the newest that stands alone has become older than this.
    pub max_span: Option<Duration>,
    /// To whom all that is in it belongs; `None`: to whom it does.
    pub owner: Option<Owner>,
}

impl Terms {
    /// Is anything limited?
    pub(super) fn has_limits(&self) -> bool {
        self.max_incrementals.is_some() || self.max_span.is_some()
    }

    /// Has the next version to stand alone? Of each version, the newest first, when it is of, and whether it builds on others.
    pub(super) fn is_due(&self, versions: impl Iterator<Item = (Timestamp, bool)>, now: Timestamp) -> bool {
        let (mut followers, mut span) = (0, SignedDuration::ZERO);
        for (at, builds_on_others) in versions {
            span = now.duration_since(at);
            if !builds_on_others {
                break;
            }
            followers += 1;
        }
        let is_long = |most| SignedDuration::try_from(most).is_ok_and(|most| span > most);
        self.max_incrementals.is_some_and(|most| followers >= most) || self.max_span.is_some_and(is_long)
    }
}

/// The same of another owner, if it shall have one.
pub(in crate::job) fn owned(attributes: Attributes, owner: Option<Owner>) -> Attributes {
    match owner {
        Some(Owner { uid, gid }) => Attributes {
            uid,
            gid,
            ..attributes
        },
        None => attributes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_due(terms: Terms, versions: &[(&str, bool)]) -> bool {
        let versions = versions
            .iter()
            .map(|(at, builds_on)| (at.parse().unwrap(), *builds_on));
        terms.is_due(versions, "2026-11-30T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn after_so_many_or_so_long_one_stands_alone() {
        let versions = [
            ("2026-11-30T03:00:00Z", true),
            ("2026-11-29T03:00:00Z", true),
            ("2026-11-28T03:00:00Z", false),
            ("2026-11-27T03:00:00Z", true),
        ];
        let most = |count| Terms {
            max_incrementals: Some(count),
            ..Terms::default()
        };
        assert!(is_due(most(2), &versions) && !is_due(most(3), &versions));
        assert!(is_due(most(0), &versions[2..]) && !is_due(most(1), &versions[2..]));
        let span = |hours: u64| Terms {
            max_span: Some(Duration::from_secs(hours * 3600)),
            ..Terms::default()
        };
        assert!(is_due(span(56), &versions) && !is_due(span(58), &versions));
        // The one that stood alone is pruned: it was older than those that are left.
        assert!(is_due(span(20), &versions[..2]) && !is_due(span(40), &versions[..2]));
        assert!(!is_due(Terms::default(), &versions) && !is_due(span(1), &[]));
    }
}

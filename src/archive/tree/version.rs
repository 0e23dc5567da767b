//! Versions of something that is stored again and again under one name: the tree `etc@2026-11-30T030000Z` is a version of the
//! files `etc`. Those of one name are as old as their names say: later ones sort behind.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

use super::{LATEST, TreeName};

/// What stands between name and version.
const AT: char = '@';

/// How a version is written: the time in UTC, as backups are named.
const FORM: &str = "%Y-%m-%dT%H%M%SZ";

/// Longest name of a set, in bytes: a version has its place in the name of a tree.
const MAX_SET_BYTES: usize = 80;

/// Name of what has versions: as that of a tree, without `@`, at most 80 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName(String);

impl SetName {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the tree that is its version of that moment.
    ///
    /// # Panics
    /// Never: both parts are those of a name.
    pub fn version(&self, at: Timestamp) -> TreeName {
        let text = format!("{self}{AT}{}", at.strftime(FORM));
        text.parse().expect("a set's name and a time are a tree's name")
    }

    /// The moment for a version that is made at `now`: behind all that there are, whatever their clocks said.
    pub fn next(&self, there: impl Iterator<Item = Timestamp>, now: Timestamp) -> Timestamp {
        let newest = there.max();
        let behind = newest.and_then(|newest| newest.checked_add(SignedDuration::from_secs(1)).ok());
        behind.map_or(now, |behind| now.max(behind))
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A text that cannot name what has versions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} cannot name files: expected letters, digits and any of -._:+=, beginning with a letter or digit, at most \
     {MAX_SET_BYTES} bytes, and not {LATEST}.\nHINT: etc, for example."
)]
pub struct SetNameError {
    /// What was read.
    pub text: String,
}

impl FromStr for SetName {
    type Err = SetNameError;

    fn from_str(text: &str) -> Result<Self, SetNameError> {
        let sane = text.len() <= MAX_SET_BYTES && !text.contains(AT) && text.parse::<TreeName>().is_ok();
        sane.then(|| Self(text.to_owned())).ok_or_else(|| SetNameError {
            text: text.to_owned(),
        })
    }
}

/// Which version of what a tree is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Of what.
    pub set: SetName,
    /// Of when, in whole seconds.
    pub at: Timestamp,
}

impl Version {
    /// That which a tree's name tells; `None`: it is no version.
    pub fn of(name: &TreeName) -> Option<Self> {
        let (set, at) = name.as_str().split_once(AT)?;
        let at = DateTime::strptime(FORM, at).ok()?;
        let version = Self {
            set: set.parse().ok()?,
            at: at.to_zoned(TimeZone::UTC).ok()?.timestamp(),
        };
        (version.tree() == *name).then_some(version)
    }

    /// Its text, without the name of the set.
    pub fn text(&self) -> String {
        self.at.strftime(FORM).to_string()
    }

    /// The tree that it is.
    pub fn tree(&self) -> TreeName {
        self.set.version(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_back_from_the_name_of_its_tree() {
        let set: SetName = "etc".parse().unwrap();
        let at: Timestamp = "2026-11-30T03:00:00Z".parse().unwrap();
        let tree = set.version(at);
        assert_eq!(tree.as_str(), "etc@2026-11-30T030000Z");
        let version = Version::of(&tree).unwrap();
        assert_eq!((&version.set, version.at), (&set, at));
        assert_eq!(version.text(), "2026-11-30T030000Z");
        for other in [
            "etc",
            "etc@",
            "etc@monday",
            "a@b@2026-11-30T030000Z",
            "etc@2026-11-30T030000Z.5",
        ] {
            assert_eq!(Version::of(&other.parse().unwrap()), None, "{other}");
        }
        for bad in ["", "a@b", "LATEST", "a/b", &"x".repeat(81)] {
            assert!(bad.parse::<SetName>().is_err(), "{bad:?} was taken");
        }
        assert!(
            "x".repeat(80)
                .parse::<SetName>()
                .unwrap()
                .version(at)
                .as_str()
                .len()
                <= 100
        );
    }

    #[test]
    fn the_next_version_is_behind_all_that_there_are() {
        let set: SetName = "etc".parse().unwrap();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        assert_eq!(set.next([].into_iter(), at(5)), at(5));
        assert_eq!(set.next([at(3), at(1)].into_iter(), at(5)), at(5));
        assert_eq!(set.next([at(5), at(1)].into_iter(), at(5)), at(6));
        assert_eq!(set.next([at(100)].into_iter(), at(5)), at(101));
    }
}

//! Stored trees: a directory with all its files, as one thing that is there whole or not at all.
//!
//! Base backups are trees, and so are versions of files and dumps ([`version`]). A tree consists of
//!
//! - *parts*, `trees/<id>/<volume>.<slice>.tar.<codec>`: stored objects whose content, put together in the order of
//!   their names, is an ordinary tar stream. Small files share a part, large ones are cut over several ([`layout`]). Each
//!   carries the hashes of the pages in it, by which a later backup or a restore finds what has not changed
//!   ([`page_hashes`]);
//! - a *manifest*, `trees/<id>/manifest.<codec>`: every file with its attributes and its extents ([`manifest`]);
//! - the *summary*, `basebackups/<name>.json` (the folder says what the tree holds, [`TreeKind`]), written last and only
//!   if absent: with it the tree exists ([`summary`]). What makes it a base backup is in there ([`backup`]).
//!
//! Each names the next by key and hash, so that whoever has the summary can prove every byte. Parts are never
//! rewritten. The id is the name and a random number: what a killed backup has left behind can never be mixed with a
//! second try of the same name, and of two that race for one name the store's put-if-absent picks the winner.
//!
//! An extent names a part by its place in the manifest's list, and that list holds whole keys: a manifest may point
//! into parts of an earlier tree.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::store::{Key, is_plain};

pub mod backup;
pub mod begun;
pub mod catalogue;
pub mod chunks;
mod claim;
pub mod combined;
pub mod ended;
mod entry;
mod folders;
pub mod headers;
pub mod intact;
pub mod landmarks;
pub mod layout;
pub mod manifest;
mod needed;
pub mod page_hashes;
pub mod pin;
pub mod refused;
mod stop_time;
pub mod summary;
mod text;
pub mod unfinished;
pub mod version;

pub use entry::{Attributes, Content, Entry, Extent, Part, Tree, TreeError};
pub(crate) use entry::{below, split};

/// Folder of the summaries of base backups, and their directory in the mount.
pub const BASEBACKUPS: &str = TreeKind::BaseBackup.folder();

/// Folder of the summaries of versions of files, and their directory in the mount.
pub const FILES: &str = TreeKind::Files.folder();

/// Folder of the summaries of dumps, and their directory in the mount.
pub const DUMPS: &str = TreeKind::Dump.folder();

/// Folder of everything else of every tree.
pub const TREES: &str = "trees";

/// What the file name of a part has, and that of nothing else.
const PART: &str = ".tar.";

/// The name that stands for the newest complete backup.
pub const LATEST: &str = "LATEST";

/// What a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreeKind {
    /// A base backup of a cluster.
    BaseBackup,
    /// A version of a directory with files, whatever they are. It needs no WAL.
    Files,
    /// A dump of a database, or of what a cluster has beside its databases: a version, too.
    Dump,
}

impl TreeKind {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::BaseBackup, Self::Files, Self::Dump];

    /// Folder of the summaries of these trees. Names are unique in it.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::BaseBackup => "basebackups",
            Self::Files => "files",
            Self::Dump => "dumps",
        }
    }
}

/// Longest name of a tree, in bytes.
const MAX_NAME_BYTES: usize = 100;

/// Name of a tree: letters and digits of any script, and `-._:+@=,`, beginning with a letter or digit, at most 100
/// bytes, not `LATEST`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeName(String);

impl TreeName {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Key of the summary, which is the tree's existence.
    pub fn summary_key(&self, kind: TreeKind) -> Key {
        Key::new(format!("{}/{self}.json", kind.folder()))
    }
}

impl fmt::Display for TreeName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A text that cannot name a backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} cannot name a backup: expected letters, digits and any of -._:+@=, beginning with a letter or digit, at \
     most {MAX_NAME_BYTES} bytes, and not {LATEST}.\nHINT: monday, or 2026-11-21T0300, for example."
)]
pub struct TreeNameError {
    /// What was read.
    pub text: String,
}

impl FromStr for TreeName {
    type Err = TreeNameError;

    fn from_str(text: &str) -> Result<Self, TreeNameError> {
        let sane = text.len() <= MAX_NAME_BYTES
            && text.chars().next().is_some_and(char::is_alphanumeric)
            && text.chars().all(is_plain)
            && !text.eq_ignore_ascii_case(LATEST);
        sane.then(|| Self(text.to_owned())).ok_or_else(|| TreeNameError {
            text: text.to_owned(),
        })
    }
}

/// Name of a tree's folder: the tree's name, a dot, and 16 random hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(String);

impl TreeId {
    /// An id nobody has had.
    pub fn fresh(name: &TreeName) -> Self {
        Self(format!("{name}.{:016x}", fastrand::u64(..)))
    }

    /// The id of a text, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, random) = text.rsplit_once('.')?;
        let sane = random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
        (sane && name.parse::<TreeName>().is_ok()).then(|| Self(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the tree it was made for.
    pub fn name(&self) -> TreeName {
        let (name, _) = self.0.rsplit_once('.').expect("checked when it was made");
        TreeName(name.to_owned())
    }

    /// Key of an object in the tree's folder.
    pub fn key(&self, file: &str) -> Key {
        Key::new(format!("{TREES}/{self}/{file}"))
    }

    /// What the keys of everything in the tree's folder begin with.
    pub fn prefix(&self) -> String {
        format!("{TREES}/{self}/")
    }

    /// Key of a part: slice `slice` of volume `volume`, both counted from 0. In order of volume and slice, which is the
    /// order of the keys' bytes, the parts are one tar stream.
    pub fn part_key(&self, volume: u32, slice: u32, extension: &str) -> Key {
        self.key(&format!("{volume:06}.{slice:05}.tar.{extension}"))
    }

    /// Key of a part that takes the place of one that was stored before: another name, in the same place of that order.
    pub fn part_key_again(&self, volume: u32, slice: u32, again: u32, extension: &str) -> Key {
        self.key(&format!("{volume:06}.{slice:05}.{again:04}.tar.{extension}"))
    }
}

impl TreeId {
    /// Is this the name of a part in a tree's folder?
    pub(super) fn is_part(file: &str, codec: &str) -> bool {
        let numbers = file.strip_suffix(codec).and_then(|file| file.strip_suffix(PART));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        numbers.is_some_and(|numbers| {
            (2..=3).contains(&numbers.split('.').count()) && numbers.split('.').all(is_number)
        })
    }
}

impl fmt::Display for TreeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in [
            "monday",
            "2026-11-21T03:00:00+01",
            "a",
            "9.x_y-z",
            "host=höst,by@me",
        ] {
            let name = good.parse::<TreeName>().unwrap();
            assert_eq!(name.as_str(), good);
            assert_eq!(
                TreeId::parse(TreeId::fresh(&name).as_str()).map(|id| id.name()),
                Some(name)
            );
        }
        for bad in [
            "",
            ".hidden",
            "-x",
            "a/b",
            "LATEST",
            "latest",
            "a b",
            "a%20b",
            "a'b",
            "a\u{1b}[2J",
            "a\u{fffd}",
            &"x".repeat(101),
            &"ä".repeat(51),
        ] {
            assert!(bad.parse::<TreeName>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_id_is_read_back() {
        let name: TreeName = "mon.day".parse().unwrap();
        let id = TreeId::fresh(&name);
        assert_eq!(TreeId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(id.name(), name);
        assert_eq!(TreeId::parse("monday"), None);
        let key = id.part_key(3, 12, "lz4");
        assert_eq!(key.as_str(), format!("trees/{id}/000003.00012.tar.lz4"));
        let again = id.part_key_again(3, 12, 1, "lz4");
        assert!(id.part_key(3, 11, "lz4") < again && again < id.part_key(3, 13, "lz4"));
    }
}

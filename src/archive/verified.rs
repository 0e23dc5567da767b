//! What `walfs verify` remembers: which objects were proved, when, and what was found (promise K6).
//!
//! `verified/<time>.<16 random digits>.<codec>`: each run puts one new object with all that is known then, and deletes those
//! that it has read. Two runs at once leave two; the next one takes the newer date of each. It is a hint and nothing else:
//! what it does not say is verified again, and of another place, or another name of this one, it says only what was found.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::tree::summary::Summary;
use super::{Archive, Error, put_mode};
use crate::codec;
use crate::store::{ByteRange, ErrorKind, Key, Patience};

/// Folder of the records.
pub(super) const VERIFIED: &str = "verified";

/// The version that this program writes and reads.
const VERSION: u32 = 1;

/// Most bytes of text in a record.
const MOST_BYTES: u64 = 16 << 20;

/// Records that are read; each run leaves one.
const MOST_RECORDS: usize = 64;

/// Ranges in a record. Those checked longest ago go first.
pub const MOST_RANGES: usize = 20_000;

/// Findings in a record.
pub const MOST_FOUND: usize = 1000;

/// All objects between two keys, as one run after the other has proved them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedRange {
    /// When the run began that proved them: none of them was read before.
    pub at: Timestamp,
    /// Key of the first.
    pub from: String,
    /// Key of the last.
    pub to: String,
    /// How many they are.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// When the newest of them was stored, by the store's clock. What is newer was not among them.
    pub newest: Timestamp,
}

/// An object that was not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// When it was found last.
    pub at: Timestamp,
    /// Its key.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// What that costs, in sentences.
    pub costs: Vec<String>,
    /// Folders of backups that cannot be restored whole with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<String>,
}

/// What was found that keeps backups from being restored whole, by their folders.
#[derive(Debug, Clone, Default)]
pub struct FoundInBackups(BTreeMap<String, Found>);

impl FoundInBackups {
    /// Why this backup cannot be, in words. One that was stored since under the same name is another.
    pub fn of(&self, summary: &Summary) -> Option<String> {
        let found = self.0.get(&summary.id)?;
        Some(format!("`walfs verify` found {}: {}", found.object, found.reason))
    }

    /// Those first in which nothing was found.
    pub fn behind<T>(&self, mut backups: Vec<T>, of: impl Fn(&T) -> &Summary) -> Vec<T> {
        backups.sort_by_cached_key(|backup| self.of(of(backup)).is_some());
        backups
    }
}

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checks {
    /// When it was put together.
    pub at: Timestamp,
    /// The place whose objects were read.
    pub place: String,
    /// Ascending and apart from each other.
    pub ranges: Vec<CheckedRange>,
    /// Ascending by object.
    pub found: Vec<Found>,
}

/// A line of the text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Verified(Head),
    Checked(CheckedRange),
    Found(Found),
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    at: Timestamp,
    place: String,
    by: String,
}

impl Checks {
    fn to_text(&self) -> Vec<u8> {
        let head = Head {
            version: VERSION,
            at: self.at,
            place: self.place.clone(),
            by: concat!("walfs ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let lines = std::iter::once(Line::Verified(head))
            .chain(self.ranges.iter().cloned().map(Line::Checked))
            .chain(self.found.iter().cloned().map(Line::Found));
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line).expect("plain data becomes JSON");
            text.push(b'\n');
        }
        text
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let mut lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let read = |line: &[u8]| serde_json::from_slice::<Line>(line).map_err(|error| error.to_string());
        let mut checks = match lines.next().map(read).transpose()? {
            Some(Line::Verified(head)) if head.version == VERSION => Self {
                at: head.at,
                place: head.place,
                ..Self::default()
            },
            Some(Line::Verified(head)) => return Err(format!("it has version {}", head.version)),
            _ => return Err("it does not begin as a record of checks".into()),
        };
        for line in lines {
            match read(line)? {
                Line::Checked(range) => checks.ranges.push(range),
                Line::Found(found) => checks.found.push(found),
                Line::Verified(_) => return Err("it begins twice".into()),
            }
            if checks.ranges.len() > MOST_RANGES || checks.found.len() > MOST_FOUND {
                return Err("it has more lines than any".into());
            }
        }
        let ascends = checks.ranges.is_sorted_by(|one, next| one.to < next.from)
            && checks.ranges.iter().all(|range| range.from <= range.to);
        ascends
            .then_some(checks)
            .ok_or_else(|| "its ranges are not in order".into())
    }
}

/// A record of checks, or why it cannot be read.
pub type Record = (Key, Result<Checks, String>);

impl Archive {
    /// Keys of the objects that the last verifications found damaged.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn found_damaged(&self, patience: Patience) -> Result<BTreeSet<String>, Error> {
        Ok(self.found(patience).await?.map(|found| found.object).collect())
    }

    /// What they found in backups.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn found_in_backups(&self, patience: Patience) -> Result<FoundInBackups, Error> {
        let found = self.found(patience).await?;
        let named = found.flat_map(|mut found| {
            let backups = std::mem::take(&mut found.backups);
            backups.into_iter().map(move |id| (id, found.clone()))
        });
        Ok(FoundInBackups(named.collect()))
    }

    async fn found(&self, patience: Patience) -> Result<impl Iterator<Item = Found>, Error> {
        // Also of another place: one directory has many names, and who copies it takes what is damaged along.
        let records = self.checks(patience).await?.into_iter();
        let records = records.filter_map(|(_, record)| record.ok());
        Ok(records.flat_map(|record| record.found))
    }

    /// The newest records of checks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn checks(&self, patience: Patience) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        let listed = self.list_all(&format!("{VERIFIED}/"), patience).await?;
        let own = listed.into_iter().filter(|(key, _)| self.is_record(key));
        // In the order of their names, which is that of time.
        for (key, _) in own.rev().take(MOST_RECORDS) {
            let most = ByteRange::AtMost(codec::most_stored_bytes(MOST_BYTES));
            let read = match self.store.get(&key, most, patience).await {
                Ok(fetched) => codec::unpack_at_most(&fetched.bytes, MOST_BYTES)
                    .map_err(|damage| damage.to_string())
                    .and_then(|text| Checks::parse(&text)),
                // Another run has put its own in its place.
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                Err(error) if error.kind == ErrorKind::Damaged => Err(error.message),
                Err(error) => return Err(error.into()),
            };
            records.push((key, read));
        }
        Ok(records)
    }

    /// `verified/20261130T084246Z.5f0c8a9be2d41763.lz4`: nothing else in that folder is ours.
    fn is_record(&self, key: &Key) -> bool {
        let name = key
            .as_str()
            .strip_prefix(VERIFIED)
            .and_then(|name| name.strip_prefix('/'));
        let fields: Vec<&str> = name.unwrap_or_default().split('.').collect();
        let [at, random, codec] = fields[..] else {
            return false;
        };
        at.len() == 16
            && at.ends_with('Z')
            && random.len() == 16
            && random.bytes().all(|byte| byte.is_ascii_hexdigit())
            && codec == self.marker.codec
    }

    /// Stores a new record.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn put_checks(&self, checks: &Checks, patience: Patience) -> Result<Key, Error> {
        let at = checks.at.strftime("%Y%m%dT%H%M%SZ");
        let key = format!("{VERIFIED}/{at}.{:016x}.{}", fastrand::u64(..), self.marker.codec);
        let key = Key::new(key);
        let (object, _) = codec::pack_all(self.compression, &checks.to_text());
        let mode = put_mode(self.marker.put_if_absent);
        match self.store.put(&key, object, mode, patience).await {
            // The answer to our own first try was lost: nobody else has this name.
            Err(error) if error.kind == ErrorKind::AlreadyExists => {}
            put => put?,
        }
        Ok(key)
    }

    /// Deletes records that were read, and whose word is in a newer one.
    ///
    /// # Errors
    /// [`Error::Store`]: it may be forbidden; they are in nobody's way.
    pub async fn delete_checks(&self, keys: &[Key], patience: Patience) -> Result<(), Error> {
        let own: Vec<Key> = keys.iter().filter(|key| self.is_record(key)).cloned().collect();
        Ok(self.store.delete(&own, patience).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: &str, to: &str) -> CheckedRange {
        CheckedRange {
            at: Timestamp::UNIX_EPOCH,
            from: from.into(),
            to: to.into(),
            objects: 2,
            bytes: 3,
            newest: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_record_is_read_back_and_what_is_none_is_refused() {
        let mut checks = Checks {
            at: Timestamp::UNIX_EPOCH,
            place: "s3://bucket/prefix".into(),
            ranges: vec![range("wal/1", "wal/2"), range("wal/4", "wal/4")],
            found: vec![Found {
                at: Timestamp::UNIX_EPOCH,
                object: "wal/3".into(),
                reason: "it is gone".into(),
                costs: vec!["much".into()],
                backups: vec!["monday.0123456789abcdef".into()],
            }],
        };
        assert_eq!(Checks::parse(&checks.to_text()), Ok(checks.clone()));
        assert!(Checks::parse(b"").is_err() && Checks::parse(b"{}\n").is_err());
        checks.ranges.push(range("wal/3", "wal/5"));
        assert!(Checks::parse(&checks.to_text()).is_err());
    }
}

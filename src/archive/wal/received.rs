//! What was received of a segment that is not complete yet: `pg_receivewal` fills it in, and each `fsync` must be true.
//!
//! An archived file never changes, so what grows is kept beside `wal/`, in *fragments*: objects of their own, each of some
//! bytes of the segment, put once and deleted when a longer fragment or the complete segment has them. A fragment's key says
//! which bytes it has, and a hash of all bytes up to its beginning and up to its end: so fragments prove that they belong
//! to each other, whoever has put them, and whatever others have deleted meanwhile.
//!
//! ```text
//! receiving/SEGMENT.FROM-TO.LENGTH.BEFORE-AFTER.lz4
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::{Archive, Committed, Error, WalMeta};
use crate::archive::put_mode;
use crate::codec::{self, ContentHash, Damage};
use crate::pg::{SegmentName, SegmentSize, Timeline, WalName};
use crate::store::{ByteRange, ErrorKind, Key, Meta, Patience};

mod contradicted;
mod timelines;
mod torn;

pub use torn::Torn;

/// Folder of the fragments.
pub(in crate::archive) const RECEIVING: &str = "receiving";

/// The most plain bytes a fragment may have.
pub const MAX_FRAGMENT_BYTES: u64 = 16 << 20;

/// Sum of all bytes of a segment before some place of it: 64 bits of their BLAKE3, the first 16 digits of what `b3sum`
/// prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix(u64);

impl Prefix {
    fn of(hash: ContentHash) -> Self {
        let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
        Self(u64::from_be_bytes(*first))
    }
}

/// Bytes of a segment from its beginning on, summed up.
#[derive(Debug, Clone, Default)]
pub struct Prefixes {
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Prefixes {
    /// Adds the bytes that follow.
    pub fn add(&mut self, plain: &[u8]) {
        self.hasher.update(plain);
        self.bytes += plain.len() as u64;
    }

    /// How many there are so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Their hash.
    pub fn hash(&self) -> ContentHash {
        ContentHash::from_bytes(*self.hasher.finalize().as_bytes())
    }

    /// The sum of them.
    pub fn prefix(&self) -> Prefix {
        Prefix::of(self.hash())
    }
}

/// A part of a segment that is being received. Its name says all there is to know of it but its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// The segment.
    pub segment: SegmentName,
    /// Which bytes of it; none in the fragment that only says that the file was made.
    pub range: Range<u64>,
    /// Length of the whole file, zeros behind what was received included.
    pub file_bytes: u64,
    /// Of all bytes before it.
    pub before: Prefix,
    /// ... and its own.
    pub after: Prefix,
}

impl Fragment {
    fn key(&self, codec: &str) -> Key {
        let (from, to) = (self.range.start, self.range.end);
        Key::new(format!(
            "{RECEIVING}/{}.{from:08x}-{to:08x}.{:08x}.{:016x}-{:016x}.{codec}",
            self.segment, self.file_bytes, self.before.0, self.after.0
        ))
    }

    /// `None` for an object that is no fragment, or claims what none can be.
    pub(in crate::archive) fn parse(key: &Key, codec: &str) -> Option<Self> {
        let name = key.as_str().strip_prefix(RECEIVING)?.strip_prefix('/')?;
        let [segment, range, file_bytes, prefixes, found] =
            name.split('.').collect::<Vec<_>>().try_into().ok()?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let ((from, to), (before, after)) = (range.split_once('-')?, prefixes.split_once('-')?);
        let fragment = Self {
            segment: segment.parse().ok()?,
            range: number(from)?..number(to)?,
            file_bytes: number(file_bytes)?,
            before: Prefix(number(before)?),
            after: Prefix(number(after)?),
        };
        let size = SegmentSize::new(fragment.file_bytes).ok()?;
        let sane = fragment.range.start <= fragment.range.end
            && fragment.range.end <= fragment.file_bytes
            && fragment.bytes() <= MAX_FRAGMENT_BYTES
            && fragment.segment.valid_for(size)
            && found == codec;
        (sane && fragment.key(codec) == *key).then_some(fragment)
    }

    /// How many bytes of the segment it has.
    pub fn bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

impl Archive {
    /// All fragments of a segment, by where they begin.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn received(&self, segment: SegmentName, patience: Patience) -> Result<Vec<Fragment>, Error> {
        let mut fragments = Vec::new();
        self.each_received(&format!("{RECEIVING}/{segment}."), patience, |fragment, _| {
            fragments.push(fragment);
        })
        .await?;
        Ok(fragments)
    }

    /// What was received last on each timeline, if the complete segment is not archived: at most one name a timeline,
    /// and no more than 16.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn last_received(&self, patience: Patience) -> Result<Vec<(SegmentName, WalMeta)>, Error> {
        let mut last: BTreeMap<Timeline, (SegmentName, WalMeta)> = BTreeMap::new();
        self.each_received(&format!("{RECEIVING}/"), patience, |fragment, object| {
            let found = (fragment.segment, fragment_meta(&fragment, object));
            let known = last.entry(fragment.segment.timeline).or_insert(found);
            // In the order of names: whatever comes later is at least as new.
            *known = found;
        })
        .await?;
        let mut incomplete = Vec::new();
        for (segment, meta) in last.into_values().rev().take(16) {
            if self
                .wal_meta(WalName::Segment(segment), patience)
                .await?
                .is_none()
            {
                incomplete.push((segment, meta));
            }
        }
        Ok(incomplete)
    }

    /// Has something of this segment been received, and is not complete? What `stat` shows of it: the length of the file
    /// that was laid out.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn received_meta(
        &self,
        segment: SegmentName,
        patience: Patience,
    ) -> Result<Option<WalMeta>, Error> {
        let mut found: Option<WalMeta> = None;
        self.each_received(
            &format!("{RECEIVING}/{segment}."),
            patience,
            |fragment, object| {
                let meta = fragment_meta(&fragment, object);
                let newest = found.map_or(meta.modified, |known| known.modified.max(meta.modified));
                found = Some(WalMeta {
                    modified: newest,
                    ..meta
                });
            },
        )
        .await?;
        let complete = match found {
            Some(_) => self.wal_meta(WalName::Segment(segment), patience).await?,
            None => None,
        };
        Ok(found.filter(|_| complete.is_none()))
    }

    async fn each_received(
        &self,
        prefix: &str,
        patience: Patience,
        take: impl FnMut(Fragment, &Meta),
    ) -> Result<(), Error> {
        self.each_received_after(prefix, None, patience, take).await
    }

    async fn each_received_after(
        &self,
        prefix: &str,
        mut after: Option<String>,
        patience: Patience,
        mut take: impl FnMut(Fragment, &Meta),
    ) -> Result<(), Error> {
        loop {
            let page = self.store.list(prefix, after.as_deref(), 1000, patience).await?;
            for (key, meta) in &page.entries {
                if let Some(fragment) = Fragment::parse(key, &self.marker.codec) {
                    take(fragment, meta);
                }
            }
            match page.entries.last() {
                Some((last, _)) if page.more => after = Some(last.as_str().to_owned()),
                _ => return Ok(()),
            }
        }
    }

    /// Stores a fragment. `Ok` means: the store has all of it; [`Committed::Stored`], that nobody else can have put it.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Damaged`] if what lies under its key already is not it.
    pub async fn put_fragment(
        &self,
        fragment: &Fragment,
        plain: Bytes,
        patience: Patience,
    ) -> Result<Committed, Error> {
        let space = self.memory.uploads.take(2 * plain.len() as u64).await;
        let (compression, content) = (self.compression, plain.clone());
        let packing = tokio::task::spawn_blocking(move || codec::pack_all(compression, &content).0);
        let body = packing.await.expect("packing does not panic");
        let key = fragment.key(&self.marker.codec);
        let put = self
            .store
            .put(&key, body, put_mode(self.marker.put_if_absent), patience);
        let put = put.await;
        drop(space);
        match put {
            // The answer to an earlier try was lost, or another process has received the same.
            Err(error) if error.kind == ErrorKind::AlreadyExists => {
                self.fetch_fragment(fragment, patience).await?;
                self.store.settle(&key, patience).await?;
                Ok(Committed::AlreadyThere)
            }
            put => {
                put?;
                Ok(match self.marker.put_if_absent {
                    true => Committed::Stored,
                    false => Committed::AlreadyThere,
                })
            }
        }
    }

    /// The bytes of a fragment, proved to be as many as it says and whole. That they are the right ones, only the sum of
    /// all up to its end proves.
    ///
    /// # Errors
    /// [`Error::Store`], also `NotFound`: a longer fragment may have come instead. [`Error::Damaged`].
    pub async fn fetch_fragment(&self, fragment: &Fragment, patience: Patience) -> Result<Vec<u8>, Error> {
        let _space = self.memory.uploads.take(2 * fragment.bytes()).await;
        let key = fragment.key(&self.marker.codec);
        // Nothing packed is longer than what is not packed, but for some bytes a frame.
        let most_bytes = codec::stored_bytes_uncompressed(fragment.bytes()) + (64 << 10);
        let range = ByteRange::First(most_bytes);
        let fetched = self.store.get(&key, range, patience).await?;
        let plain = codec::unpack_all(&fetched.bytes).map_err(|damage| self.damaged(&key, damage))?;
        if plain.len() as u64 != fragment.bytes() {
            let damage = Damage::ObjectTooShort {
                object_bytes: plain.len() as u64,
                needed_bytes: fragment.bytes(),
            };
            return Err(self.damaged(&key, damage));
        }
        Ok(plain)
    }

    /// Deletes fragments whose bytes are stored elsewhere.
    ///
    /// # Errors
    /// [`Error::Store`]: it may be forbidden; they are in nobody's way.
    pub async fn forget_fragments(&self, fragments: &[Fragment], patience: Patience) -> Result<(), Error> {
        let keys: Vec<Key> = fragments
            .iter()
            .map(|fragment| fragment.key(&self.marker.codec))
            .collect();
        Ok(self.store.delete(&keys, patience).await?)
    }
}

fn fragment_meta(fragment: &Fragment, object: &Meta) -> WalMeta {
    WalMeta {
        bytes: fragment.file_bytes,
        stored_bytes: object.stored_bytes,
        modified: object.modified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(range: Range<u64>) -> Fragment {
        Fragment {
            segment: "000000010000000A000000FE".parse().unwrap(),
            range,
            file_bytes: 16 << 20,
            before: Prefix(0xAF),
            after: Prefix(u64::MAX),
        }
    }

    #[test]
    fn a_fragment_is_known_by_its_key() {
        let fragment = fragment(0x2000..0x4001);
        let key = fragment.key("lz4");
        let expected = "receiving/000000010000000A000000FE.00002000-00004001.01000000.\
                        00000000000000af-ffffffffffffffff.lz4";
        assert_eq!(key.as_str(), expected);
        assert_eq!(Fragment::parse(&key, "lz4"), Some(fragment));
        assert_eq!(Fragment::parse(&key, "zst"), None);
    }

    /// S8: sizes are claims.
    #[test]
    fn s8_a_key_that_claims_what_no_fragment_can_be_is_none() {
        let whole = 16 << 20;
        for bad in [
            fragment(Range { start: 2, end: 1 }),
            fragment(0..whole + 1),
            Fragment {
                file_bytes: 1 << 40,
                ..fragment(0..1)
            },
            Fragment {
                file_bytes: 1 << 30,
                ..fragment(0..MAX_FRAGMENT_BYTES + 1)
            },
        ] {
            assert_eq!(Fragment::parse(&bad.key("lz4"), "lz4"), None, "{bad:?}");
        }
        let upper = Key::new(
            fragment(0xA..0xB)
                .key("lz4")
                .as_str()
                .replace("0000000a-", "0000000A-"),
        );
        assert_eq!(Fragment::parse(&upper, "lz4"), None);
    }

    #[test]
    fn a_prefix_is_what_b3sum_prints_first() {
        let mut prefixes = Prefixes::default();
        assert_eq!(prefixes.prefix(), Prefix(0xaf13_49b9_f5f9_a1a6));
        prefixes.add(b"walfs");
        let hash = ContentHash::of(b"walfs").to_string();
        assert_eq!(format!("{:016x}", prefixes.prefix().0), hash[..16]);
        assert_eq!(prefixes.bytes(), 5);
    }
}

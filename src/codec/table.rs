//! Reading: the seek table, and any frame by it.
//!
//! The table lies at the end of the object, so a reader fetches the last bytes, learns whether they were enough, and
//! then knows where each frame is. Everything that can be wrong with the table is found when it is parsed, including
//! that its values lead to the content hash; everything that can be wrong with a frame is found when it is unpacked.

use std::ops::Range;

use super::format::{
    Annex, Container, ENTRY_BYTES, Entry, FOOTER_BYTES, Footer, HEADER_BYTES, frames_of, header,
    trailer_bytes,
};
use super::frame::{Expected, MAX_STORED_BYTES};
use super::{ContentHash, Damage, FRAME_BYTES, hash};

/// Answer to the last bytes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// They held the whole table.
    Table(SeekTable),
    /// They are right so far and too few: this many of the object's last bytes hold the table. Never more than the
    /// object has.
    NeedLast(u64),
}

/// Where each frame of an object is, and how to prove it. Offsets count from the start of the object or content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeekTable {
    container: Container,
    hash: ContentHash,
    plain_bytes: u64,
    annex: Annex,
    entries: Vec<Entry>,
    /// Where each frame begins in the object, and where the last one ends.
    starts: Vec<u64>,
}

impl SeekTable {
    /// Reads the table from `tail`, the last bytes of an object of `object_bytes`.
    ///
    /// [`super::trailer_bytes`] tells how many bytes to fetch where the size of the content is known.
    ///
    /// # Errors
    ///
    /// Every [`Damage`] that is not about a single frame's bytes.
    pub fn parse(tail: &[u8], object_bytes: u64) -> Result<Tail, Damage> {
        let tail_bytes = tail.len() as u64;
        let least = trailer_bytes(0);
        if object_bytes < least {
            return Err(Damage::ObjectTooShort {
                object_bytes,
                needed_bytes: least,
            });
        }
        if tail_bytes > object_bytes {
            return Err(Damage::ObjectLength {
                object_bytes,
                expected_bytes: tail_bytes,
            });
        }
        let Some(footer) = tail.last_chunk::<FOOTER_BYTES>() else {
            return Ok(Tail::NeedLast(least));
        };
        let footer = Footer::parse(footer)?;
        let needed_bytes = trailer_bytes(footer.plain_bytes);
        if needed_bytes > object_bytes {
            return Err(Damage::ObjectTooShort {
                object_bytes,
                needed_bytes,
            });
        }
        if needed_bytes > tail_bytes {
            return Ok(Tail::NeedLast(needed_bytes));
        }
        let trailer = &tail[(tail_bytes - needed_bytes) as usize..];
        Self::from_trailer(&footer, trailer, object_bytes).map(Tail::Table)
    }

    /// Reads the table of an object that is at hand whole.
    ///
    /// # Errors
    ///
    /// As [`SeekTable::parse`].
    pub fn of_whole(object: &[u8]) -> Result<Self, Damage> {
        let object_bytes = object.len() as u64;
        match Self::parse(object, object_bytes)? {
            Tail::Table(table) => Ok(table),
            Tail::NeedLast(needed_bytes) => Err(Damage::ObjectTooShort {
                object_bytes,
                needed_bytes,
            }),
        }
    }

    fn from_trailer(footer: &Footer, trailer: &[u8], object_bytes: u64) -> Result<Self, Damage> {
        let (head, _) = trailer.split_at(trailer.len() - FOOTER_BYTES);
        let entries = read_entries(footer, head)?;
        let starts = add_up(&entries)?;
        let frames_bytes = starts.last().map_or(0, |end| *end);
        let expected_bytes = frames_bytes + footer.annex.stored_bytes() + trailer.len() as u64;
        if object_bytes != expected_bytes {
            return Err(Damage::ObjectLength {
                object_bytes,
                expected_bytes,
            });
        }
        let Footer {
            container,
            hash: expected,
            plain_bytes,
            annex,
            ..
        } = *footer;
        let found = hash::root(&entries.iter().map(|entry| entry.value).collect::<Vec<_>>());
        if found != expected {
            return Err(Damage::TableHash { expected, found });
        }
        Ok(Self {
            container,
            hash: found,
            plain_bytes,
            annex,
            entries,
            starts,
        })
    }

    /// BLAKE3 of the content.
    pub const fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Size of the content.
    pub const fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Number of frames; frames are numbered from 0.
    pub const fn frames(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The frame that holds the plain byte at `offset`; `None` at and beyond the end of the content.
    pub fn frame_of(&self, offset: u64) -> Option<u64> {
        (offset < self.plain_bytes).then_some(offset / FRAME_BYTES as u64)
    }

    /// The frames that hold any of these plain bytes; an empty range if none does.
    pub fn frames_of(&self, plain: Range<u64>) -> Range<u64> {
        let end = plain.end.min(self.plain_bytes);
        if plain.start >= end {
            0..0
        } else {
            plain.start / FRAME_BYTES as u64..frames_of(end)
        }
    }

    /// The one range of the object that these frames fill.
    ///
    /// # Panics
    ///
    /// If there are no such frames.
    pub fn stored_range(&self, frames: Range<u64>) -> Range<u64> {
        self.starts[frames.start as usize]..self.starts[frames.end as usize]
    }

    /// The range of the object that its annex fills; an empty one if it has none.
    pub fn annex_range(&self) -> Range<u64> {
        let start = self.starts.last().map_or(0, |end| *end);
        start..start + self.annex.stored_bytes()
    }

    /// The annex, out of the bytes of [`SeekTable::annex_range`], verified; empty if there is none.
    ///
    /// # Errors
    ///
    /// [`Damage::AnnexHeader`], `AnnexChecksum`, `ObjectTooShort`.
    pub fn annex<'a>(&self, stored: &'a [u8]) -> Result<&'a [u8], Damage> {
        let needed_bytes = self.annex.stored_bytes();
        if stored.len() as u64 != needed_bytes {
            return Err(Damage::ObjectTooShort {
                object_bytes: stored.len() as u64,
                needed_bytes,
            });
        }
        if stored.is_empty() {
            return Ok(stored);
        }
        let (found, annex) = stored.split_at(HEADER_BYTES);
        if found != self.annex.header() {
            return Err(Damage::AnnexHeader { found: found.into() });
        }
        let (expected, found) = (self.annex.crc32c, crc32c::crc32c(annex));
        if found != expected {
            return Err(Damage::AnnexChecksum { expected, found });
        }
        Ok(annex)
    }

    /// The range of the content that a frame holds: never empty.
    ///
    /// # Panics
    ///
    /// If there is no such frame.
    pub fn plain_range(&self, frame: u64) -> Range<u64> {
        assert!(frame < self.frames(), "frame {frame} of {}", self.frames());
        let start = frame * FRAME_BYTES as u64;
        start..self.plain_bytes.min(start + FRAME_BYTES as u64)
    }

    /// The stored bytes of a frame, out of bytes that begin with frame `first`.
    ///
    /// # Errors
    ///
    /// [`Damage::ObjectTooShort`] if they end before it does.
    ///
    /// # Panics
    ///
    /// If there is no such frame, or it lies before `first`.
    pub fn cut<'a>(&self, frame: u64, stored: &'a [u8], first: u64) -> Result<&'a [u8], Damage> {
        let origin = self.starts[first as usize];
        let range = self.stored_range(frame..frame + 1);
        let (start, end) = (range.start - origin, range.end - origin);
        stored
            .get(start as usize..end as usize)
            .ok_or(Damage::ObjectTooShort {
                object_bytes: stored.len() as u64,
                needed_bytes: end,
            })
    }

    /// Verifies and unpacks a frame from its stored bytes into `plain`: checksum, length, and its value in the tree.
    ///
    /// # Errors
    ///
    /// [`Damage::FrameLength`], `FrameChecksum`, `FrameContent` or `FrameHash`; then `plain` holds nothing of use.
    ///
    /// # Panics
    ///
    /// If there is no such frame, or `plain` does not have the length of its [`SeekTable::plain_range`].
    pub fn unpack(&self, frame: u64, stored: &[u8], plain: &mut [u8]) -> Result<(), Damage> {
        let place = self.plain_range(frame);
        assert_eq!(
            plain.len() as u64,
            place.end - place.start,
            "room for frame {frame}"
        );
        let (entry, alone) = (&self.entries[frame as usize], self.entries.len() == 1);
        Expected {
            container: self.container,
            index: frame,
            alone,
            entry,
        }
        .unpack(stored, plain)
    }

    /// Verifies neighbouring frames and keeps nothing of them. `stored` begins with the first of them.
    ///
    /// # Errors
    ///
    /// As [`SeekTable::unpack`] and [`SeekTable::cut`].
    ///
    /// # Panics
    ///
    /// If there are no such frames.
    pub fn verify(&self, frames: Range<u64>, stored: &[u8]) -> Result<(), Damage> {
        let (first, mut plain) = (frames.start, Vec::new());
        for frame in frames {
            let place = self.plain_range(frame);
            plain.resize((place.end - place.start) as usize, 0);
            self.unpack(frame, self.cut(frame, stored, first)?, &mut plain)?;
        }
        Ok(())
    }

    /// BLAKE3 of the content's beginning: of so many frames, and of `rest`, the first bytes of the frame behind them.
    ///
    /// # Panics
    ///
    /// If there are fewer frames, or `rest` is empty: without it the hash is another one's.
    pub fn hash_of_first(&self, frames: u64, rest: &[u8]) -> ContentHash {
        assert!(!rest.is_empty(), "{frames} frames");
        let whole = self.entries[..frames as usize].iter().map(|entry| entry.value);
        let behind = hash::table_value(frames, frames == 0, rest);
        hash::root(&whole.chain([behind]).collect::<Vec<_>>())
    }

    /// Verifies and unpacks neighbouring frames. `stored` begins with the first of them, and so does `plain`.
    ///
    /// # Errors
    ///
    /// As [`SeekTable::unpack`] and [`SeekTable::cut`].
    ///
    /// # Panics
    ///
    /// If there are no such frames, or `plain` has no room for them.
    pub fn unpack_frames(&self, frames: Range<u64>, stored: &[u8], plain: &mut [u8]) -> Result<(), Damage> {
        let (first, mut rest) = (frames.start, plain);
        for frame in frames {
            let (place, bytes) = (self.plain_range(frame), self.cut(frame, stored, first)?);
            let (content, behind) = rest.split_at_mut((place.end - place.start) as usize);
            self.unpack(frame, bytes, content)?;
            rest = behind;
        }
        Ok(())
    }

    /// Verifies and unpacks the bytes of a range of the content, as far as there are any. `stored` begins with the first
    /// frame of [`SeekTable::frames_of`] the range. Memory grows with what has been proved, not with what is claimed.
    ///
    /// # Errors
    ///
    /// As [`SeekTable::unpack`] and [`SeekTable::cut`].
    pub fn unpack_range(&self, plain: Range<u64>, stored: &[u8]) -> Result<Vec<u8>, Damage> {
        let frames = self.frames_of(plain.clone());
        let begin = frames.start * FRAME_BYTES as u64;
        let mut out = Vec::new();
        for frame in frames.clone() {
            let place = self.plain_range(frame);
            let start = out.len();
            out.resize(start + (place.end - place.start) as usize, 0);
            self.unpack(frame, self.cut(frame, stored, frames.start)?, &mut out[start..])?;
        }
        out.truncate(plain.end.saturating_sub(begin).min(out.len() as u64) as usize);
        out.drain(..(plain.start.saturating_sub(begin) as usize).min(out.len()));
        Ok(out)
    }
}

/// The entries of a trailer without its footer, checked as bytes.
fn read_entries(footer: &Footer, head: &[u8]) -> Result<Vec<Entry>, Damage> {
    let (found, entries) = head
        .split_first_chunk::<HEADER_BYTES>()
        .expect("a trailer has its header");
    if *found != header(frames_of(footer.plain_bytes)) {
        return Err(Damage::TableHeader { found: *found });
    }
    let (expected, found) = (footer.table_crc32c, crc32c::crc32c(head));
    if found != expected {
        return Err(Damage::TableChecksum { expected, found });
    }
    let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
    Ok(entries.iter().map(Entry::from_bytes).collect())
}

/// Where each frame begins and the last one ends.
fn add_up(entries: &[Entry]) -> Result<Vec<u64>, Damage> {
    let mut starts = Vec::with_capacity(entries.len() + 1);
    let mut end = 0;
    starts.push(end);
    for (entry, frame) in entries.iter().zip(0..) {
        if !(1..=MAX_STORED_BYTES).contains(&entry.stored_bytes) {
            return Err(Damage::FrameSize {
                frame,
                stored_bytes: entry.stored_bytes,
                at_most: MAX_STORED_BYTES,
            });
        }
        end += u64::from(entry.stored_bytes);
        starts.push(end);
    }
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, pack_all};

    fn three_frames() -> (Vec<u8>, bytes::Bytes, SeekTable) {
        let plain: Vec<u8> = (0..2 * FRAME_BYTES + 77).map(|at| (at / 999) as u8).collect();
        let object = pack_all(Compression::default(), &plain).0;
        let Ok(Tail::Table(table)) = SeekTable::parse(&object, object.len() as u64) else {
            panic!("no table")
        };
        (plain, object, table)
    }

    #[test]
    fn a_short_tail_says_what_it_needs() {
        let (_, object, table) = three_frames();
        let all = object.len() as u64;
        let last = |bytes: u64| SeekTable::parse(&object[object.len() - bytes as usize..], all);
        assert_eq!(last(0), Ok(Tail::NeedLast(104)));
        assert_eq!(last(95), Ok(Tail::NeedLast(104)));
        assert_eq!(last(96), Ok(Tail::NeedLast(224)));
        assert_eq!(last(223), Ok(Tail::NeedLast(224)));
        assert_eq!(last(trailer_bytes(table.plain_bytes())), Ok(Tail::Table(table)));
    }

    #[test]
    fn offsets_find_their_frames() {
        let (plain, _, table) = three_frames();
        let (frame, end) = (FRAME_BYTES as u64, plain.len() as u64);
        let found = [0, frame - 1, frame, end - 1, end, u64::MAX].map(|offset| table.frame_of(offset));
        assert_eq!(found, [Some(0), Some(0), Some(1), Some(2), None, None]);
        assert_eq!(table.frames_of(frame - 1..frame + 1), 0..2);
        assert_eq!(table.frames_of(frame..frame + 1), 1..2);
        assert_eq!(table.frames_of(0..u64::MAX), 0..3);
        assert!(table.frames_of(end..u64::MAX).is_empty() && table.frames_of(5..5).is_empty());
        assert_eq!(table.plain_range(2), 2 * frame..end);
    }

    #[test]
    fn one_request_serves_neighbouring_frames() {
        let (plain, object, table) = three_frames();
        let span = table.stored_range(1..3);
        let fetched = &object[span.start as usize..span.end as usize];
        for frame in [2, 1] {
            let place = table.plain_range(frame);
            let mut content = vec![0; (place.end - place.start) as usize];
            let stored = table.cut(frame, fetched, 1).unwrap();
            table.unpack(frame, stored, &mut content).unwrap();
            assert_eq!(content, plain[place.start as usize..place.end as usize]);
        }
        let short = table.cut(2, &fetched[..fetched.len() - 1], 1);
        assert!(matches!(short, Err(Damage::ObjectTooShort { .. })), "{short:?}");
    }

    #[test]
    fn the_hash_of_a_beginning_is_that_of_its_bytes() {
        let (plain, _, table) = three_frames();
        for end in [1, 100, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES, plain.len()] {
            let frames = (end - 1) / FRAME_BYTES;
            let found = table.hash_of_first(frames as u64, &plain[frames * FRAME_BYTES..end]);
            assert_eq!(found, ContentHash::of(&plain[..end]), "{end} bytes");
        }
    }

    #[test]
    fn a_range_of_the_content_is_cut_out_of_its_frames() {
        let (plain, object, table) = three_frames();
        let (frame, end) = (FRAME_BYTES as u64, plain.len() as u64);
        for range in [
            0..end,
            0..1,
            frame - 1..frame + 1,
            frame..end,
            end - 1..end + 9,
            5..5,
            end..end + 1,
        ] {
            let frames = table.frames_of(range.clone());
            let stored = &object[table.stored_range(frames).start as usize..];
            let expected = &plain[(range.start.min(end)) as usize..range.end.min(end) as usize];
            assert_eq!(
                table.unpack_range(range.clone(), stored).unwrap(),
                expected,
                "{range:?}"
            );
        }
        assert_eq!(SeekTable::of_whole(&object), Ok(table));
    }

    #[test]
    fn a_frame_of_another_place_is_refused() {
        let (_, object, table) = three_frames();
        let stored = table.stored_range(0..1);
        let frame = &object[stored.start as usize..stored.end as usize];
        let found = table.unpack(1, frame, &mut vec![0; FRAME_BYTES]).unwrap_err();
        assert!(
            matches!(found, Damage::FrameChecksum { .. } | Damage::FrameLength { .. }),
            "{found}"
        );
    }
}

//! A part of a stored tree, made in one go from bytes that arrive in order.
//!
//! For makers that have the bytes at hand: `walfs backup` reading a data directory, a bundle of small files that were
//! written through the mount.

use bytes::Bytes;

use crate::archive::tree::Part;
use crate::codec::{Compression, ContentHash, FRAME_BYTES, ObjectBuilder};
use crate::store::Key;

/// Why writing the object cannot fail.
const MEMORY: &str = "memory takes all";

/// Packs a part as its plain bytes arrive.
#[derive(Debug)]
pub struct PartBuilder {
    /// What does not fill a frame yet.
    open: Vec<u8>,
    /// What is packed, as it will be stored: the bytes are held once.
    object: ObjectBuilder<Vec<u8>>,
}

/// A part, ready to be stored.
#[derive(Debug, Clone)]
pub struct FinishedPart {
    /// The object.
    pub object: Bytes,
    /// Length of its plain content, in bytes.
    pub plain_bytes: u64,
    /// Hash of its plain content.
    pub hash: ContentHash,
}

impl PartBuilder {
    /// An empty part.
    pub fn new(compression: Compression) -> Self {
        Self {
            open: Vec::with_capacity(FRAME_BYTES),
            object: ObjectBuilder::new(compression, Vec::new()),
        }
    }

    /// Plain bytes so far: where the next ones will lie.
    pub fn plain_bytes(&self) -> u64 {
        (self.object.frames() * FRAME_BYTES + self.open.len()) as u64
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut plain: &[u8]) {
        while !plain.is_empty() {
            if self.open.is_empty() && plain.len() >= FRAME_BYTES {
                let (frame, rest) = plain.split_at(FRAME_BYTES);
                self.object.push(frame).expect(MEMORY);
                plain = rest;
                continue;
            }
            let take = plain.len().min(FRAME_BYTES - self.open.len());
            self.open.extend_from_slice(&plain[..take]);
            plain = &plain[take..];
            if self.open.len() == FRAME_BYTES {
                self.pack_open();
            }
        }
    }

    /// Completes the part, with what is known of its pages.
    pub fn finish(mut self, annex: &[u8]) -> FinishedPart {
        if !self.open.is_empty() {
            self.pack_open();
        }
        let (object, finished) = self.object.finish(annex).expect(MEMORY);
        FinishedPart {
            object: object.into(),
            plain_bytes: finished.plain_bytes,
            hash: finished.hash,
        }
    }

    fn pack_open(&mut self) {
        self.object.push(&self.open).expect(MEMORY);
        self.open.clear();
    }
}

impl FinishedPart {
    /// What a manifest says of it, stored under `key`.
    pub fn described(&self, key: Key) -> Part {
        Part {
            key,
            plain_bytes: self.plain_bytes,
            stored_bytes: self.object.len() as u64,
            hash: self.hash,
            // The tree that is made of it counts.
            used_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_part() {
        let plain: Vec<u8> = (0..3 * FRAME_BYTES + 12_345).map(|at| (at / 100) as u8).collect();
        let (object, hash) = crate::codec::pack_all(Compression::default(), &plain);
        for piece in [1000, FRAME_BYTES, 2 * FRAME_BYTES + 1, plain.len()] {
            let mut builder = PartBuilder::new(Compression::default());
            plain.chunks(piece).for_each(|piece| builder.push(piece));
            assert_eq!(builder.plain_bytes(), plain.len() as u64);
            let part = builder.finish(&[]);
            assert_eq!(
                (part.hash, part.plain_bytes),
                (hash, plain.len() as u64),
                "pieces of {piece}"
            );
            assert_eq!(part.object, object);
        }
    }
}

//! A part of a stored tree, made in one go from bytes that arrive in order.
//!
//! For those who have the bytes at hand: `walfs backup` reading a data directory, a bundle of small files that were
//! written through the mount. Everything here computes and nothing waits, so it belongs on a thread for blocking work.

use bytes::Bytes;

use crate::archive::tree::Part;
use crate::codec::{self, Compression, ContentHash, FRAME_BYTES, FrameSummary};
use crate::store::Key;

/// Packs a part as its plain bytes arrive.
#[derive(Debug)]
pub struct PartBuilder {
    compression: Compression,
    /// What does not fill a frame yet.
    open: Vec<u8>,
    /// What is packed, as it will be stored: the bytes are held once.
    object: Vec<u8>,
    frames: Vec<FrameSummary>,
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
            compression,
            open: Vec::with_capacity(FRAME_BYTES),
            object: Vec::new(),
            frames: Vec::new(),
        }
    }

    /// Plain bytes so far: where the next ones will lie.
    pub fn plain_bytes(&self) -> u64 {
        (self.frames.len() * FRAME_BYTES + self.open.len()) as u64
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut plain: &[u8]) {
        while !plain.is_empty() {
            if self.open.is_empty() && plain.len() >= FRAME_BYTES {
                let (frame, rest) = plain.split_at(FRAME_BYTES);
                self.pack(frame);
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

    /// Completes the part.
    pub fn finish(mut self) -> FinishedPart {
        if !self.open.is_empty() {
            self.pack_open();
        }
        let sealed = codec::seal(self.compression, self.frames);
        self.object.extend_from_slice(&sealed.trailer);
        FinishedPart {
            object: self.object.into(),
            plain_bytes: sealed.plain_bytes,
            hash: sealed.hash,
        }
    }

    fn pack_open(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        self.pack(&open);
        open.clear();
        self.open = open;
    }

    fn pack(&mut self, plain: &[u8]) {
        let frame = codec::pack(self.compression, self.frames.len() as u64, plain);
        self.object.extend_from_slice(&frame.stored);
        self.frames.push(frame.summary);
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_part() {
        let plain: Vec<u8> = (0..3 * FRAME_BYTES + 12_345).map(|at| (at / 100) as u8).collect();
        let (object, hash) = codec::pack_all(Compression::default(), &plain);
        for piece in [1000, FRAME_BYTES, 2 * FRAME_BYTES + 1, plain.len()] {
            let mut builder = PartBuilder::new(Compression::default());
            plain.chunks(piece).for_each(|piece| builder.push(piece));
            assert_eq!(builder.plain_bytes(), plain.len() as u64);
            let part = builder.finish();
            assert_eq!(
                (part.hash, part.plain_bytes),
                (hash, plain.len() as u64),
                "pieces of {piece}"
            );
            assert_eq!(part.object, object);
        }
    }
}

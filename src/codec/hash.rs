//! The content hash, plain BLAKE3, put together from values of the frames.
//!
//! BLAKE3 hashes a binary tree over 1 KiB chunks. A frame's content is a power of two in size and starts at a multiple
//! of it, so it is one subtree; its *node* (BLAKE3's "chaining value") depends on the content and its offset alone.
//! Merging the nodes of all frames gives the hash of the whole content: frames can be hashed in any order, and a
//! table of nodes that leads to the right root proves each of them.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::FRAME_BYTES;

/// BLAKE3 of plain content: what `b3sum` prints. Shown and read as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Hash of content that is at hand whole.
    pub fn of(plain: &[u8]) -> Self {
        Self(*blake3::hash(plain).as_bytes())
    }

    /// Hash of all that is read.
    ///
    /// # Errors
    /// Those of reading.
    pub fn of_all(content: impl Read) -> io::Result<Self> {
        let mut hasher = Hasher::new();
        hasher.update_reader(content)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The hash with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ContentHash({self})")
    }
}

/// A text that is no content hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a content hash of 64 hex digits")]
pub struct HashTextError {
    /// What was read.
    pub text: String,
}

impl FromStr for ContentHash {
    type Err = HashTextError;

    fn from_str(text: &str) -> Result<Self, HashTextError> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| HashTextError {
            text: text.to_owned(),
        })?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// What a frame adds to the hash of the whole content: enough to compare contents, nothing to store them.
///
/// A tree of one frame has no inner nodes: its root is finished differently, and cannot be told from the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHash {
    pub(super) node: ChainingValue,
    /// Of frame 0: the content hash, should there be no other frame.
    pub(super) alone: Option<ContentHash>,
}

impl FrameHash {
    /// Of the frame that starts at plain offset `index * FRAME_BYTES`.
    pub fn of(index: u64, content: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher
            .set_input_offset(index * FRAME_BYTES as u64)
            .update(content);
        Self {
            alone: (index == 0).then(|| ContentHash(*hasher.finalize().as_bytes())),
            node: hasher.finalize_non_root(),
        }
    }

    /// The hash of the content whose frames these are, all of them and in order.
    pub fn whole(frames: &[Self]) -> ContentHash {
        match frames {
            [
                Self {
                    alone: Some(hash), ..
                },
            ] => *hash,
            _ => root(&frames.iter().map(|frame| frame.node).collect::<Vec<_>>()),
        }
    }
}

/// The value that the table holds for a frame: its node, or the content hash if it is `alone`.
pub(super) fn table_value(index: u64, alone: bool, content: &[u8]) -> ChainingValue {
    match FrameHash::of(index, content) {
        FrameHash {
            alone: Some(hash), ..
        } if alone => hash.0,
        FrameHash { node, .. } => node,
    }
}

/// The content hash that the values of a table lead to.
pub(super) fn root(values: &[ChainingValue]) -> ContentHash {
    match values {
        [] => ContentHash::of(&[]),
        [alone] => ContentHash(*alone),
        _ => {
            let (left, right) = halves(values);
            ContentHash(*merge_subtrees_root(&node(left), &node(right), Mode::Hash).as_bytes())
        }
    }
}

/// The node over one or more frames. Recurses to the binary logarithm of their number.
fn node(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [one] => *one,
        _ => {
            let (left, right) = halves(values);
            merge_subtrees_non_root(&node(left), &node(right), Mode::Hash)
        }
    }
}

/// Where BLAKE3 splits two or more subtrees: to the left the largest power of two that leaves something.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_hash_is_read_back() {
        let hash = ContentHash::of(b"walfs");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for text in [
            "",
            "00",
            &"g".repeat(64),
            &"0".repeat(65),
            "é".repeat(32).as_str(),
        ] {
            assert!(text.parse::<ContentHash>().is_err(), "{text:?} was taken");
        }
    }

    /// All small numbers of frames, each with a last frame that is short, of one byte and full.
    #[test]
    fn nodes_lead_to_the_plain_blake3() {
        let content: Vec<u8> = (0..9 * FRAME_BYTES)
            .map(|at| (at / 7) as u8 ^ (at >> 16) as u8)
            .collect();
        for frames in 2..=9 {
            for last in [1, 1025, FRAME_BYTES] {
                let plain = &content[..(frames - 1) * FRAME_BYTES + last];
                let values: Vec<_> = plain
                    .chunks(FRAME_BYTES)
                    .zip(0..)
                    .map(|(content, index)| table_value(index, false, content))
                    .collect();
                let hashes: Vec<_> = plain
                    .chunks(FRAME_BYTES)
                    .zip(0..)
                    .map(|(content, index)| FrameHash::of(index, content))
                    .collect();
                assert_eq!(FrameHash::whole(&hashes), ContentHash::of(plain));
                assert_eq!(
                    FrameHash::whole(&hashes[..1]),
                    ContentHash::of(&plain[..FRAME_BYTES])
                );
                assert_eq!(
                    root(&values),
                    ContentHash::of(plain),
                    "{frames} frames, {last} bytes in the last"
                );
            }
        }
    }
}

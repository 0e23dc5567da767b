//! What can be wrong with a stored object, each finding a sentence with its facts.
//!
//! A caller adds the object's name, which this room does not know.

use super::ContentHash;

/// Bytes that are not what an undamaged object would have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Found before a byte of it was read.
    #[error("{reason}")]
    NoObject {
        /// What is there, and what was expected.
        reason: String,
    },
    /// Fewer bytes than the smallest object, or than its table.
    #[error("the object has {object_bytes} bytes, at least {needed_bytes} were expected")]
    ObjectTooShort {
        /// Bytes there are.
        object_bytes: u64,
        /// Bytes there must be at least.
        needed_bytes: u64,
    },
    /// Whole, but not what its name promises.
    #[error("its content has {found_bytes} bytes, {expected_bytes} were expected")]
    PlainBytes {
        /// Bytes its name promises.
        expected_bytes: u64,
        /// Bytes of its content.
        found_bytes: u64,
    },
    /// The object does not end in the footer's magic: cut short, or never written by walfs.
    #[error("the object does not end in a walfs footer: its last 8 bytes are \"{}\"", found.escape_ascii())]
    BadMagic {
        /// The last 8 bytes.
        found: [u8; 8],
    },
    /// The footer is of another format version.
    #[error(
        "the object has format version {version}, this walfs reads version {}",
        super::format::VERSION
    )]
    UnknownVersion {
        /// Version in the footer.
        version: u32,
    },
    /// The footer's bytes are not those that were written.
    #[error("the footer's checksum is {found:08x}, expected {expected:08x}")]
    FooterChecksum {
        /// CRC32C stored in the footer.
        expected: u32,
        /// CRC32C of the footer's bytes.
        found: u32,
    },
    /// The codec is none that this version knows.
    #[error("the footer names codec {code}, known are 1 (LZ4) and 2 (zstd)")]
    UnknownCodec {
        /// Code in the footer.
        code: u8,
    },
    /// The frame size is not the one of this version.
    #[error(
        "the footer states frames of 2^{log2} bytes, expected 2^{}",
        super::format::FRAME_LOG2
    )]
    UnknownFrameSize {
        /// Binary logarithm of the frame size in the footer.
        log2: u8,
    },
    /// Bytes that must be zero in this version are not: encrypted, or written by a newer walfs.
    #[error("the footer's reserved bytes are in use: the object is encrypted or needs a newer walfs")]
    ReservedInUse,
    /// The number of frames does not follow from the size of the content.
    #[error("the footer states {frames} frames for {plain_bytes} bytes of content")]
    FrameCount {
        /// Frames in the footer.
        frames: u32,
        /// Plain bytes in the footer.
        plain_bytes: u64,
    },
    /// The seek table's own frame header is wrong.
    #[error("the seek table does not begin with its frame header: found \"{}\"", found.escape_ascii())]
    TableHeader {
        /// The 8 bytes in its place.
        found: [u8; 8],
    },
    /// The seek table's bytes are not those that were written.
    #[error("the seek table's checksum is {found:08x}, expected {expected:08x}")]
    TableChecksum {
        /// CRC32C stored in the footer.
        expected: u32,
        /// CRC32C of the table's bytes.
        found: u32,
    },
    /// No content of that size has such an annex.
    #[error("the footer states an annex of {annex_bytes} bytes for {plain_bytes} bytes of content")]
    AnnexLength {
        /// Bytes of the annex in the footer.
        annex_bytes: u32,
        /// Plain bytes in the footer.
        plain_bytes: u64,
    },
    /// The annex's own frame header is wrong.
    #[error("the annex does not begin with its frame header: found \"{}\"", found.escape_ascii())]
    AnnexHeader {
        /// The bytes in its place.
        found: Vec<u8>,
    },
    /// The annex's bytes are not those that were written.
    #[error("the annex's checksum is {found:08x}, expected {expected:08x}")]
    AnnexChecksum {
        /// CRC32C stored in the footer.
        expected: u32,
        /// CRC32C of the annex's bytes.
        found: u32,
    },
    /// A frame's stored size in the table is impossible.
    #[error("the seek table states {stored_bytes} bytes for frame {frame}, possible are 1 to {at_most}")]
    FrameSize {
        /// Frame, from 0.
        frame: u64,
        /// Its size in the table.
        stored_bytes: u32,
        /// The largest size possible.
        at_most: u32,
    },
    /// Frames, annex, table and footer together are not the whole object.
    #[error("the object has {object_bytes} bytes, its seek table accounts for {expected_bytes}")]
    ObjectLength {
        /// Bytes there are.
        object_bytes: u64,
        /// Bytes of all frames, annex, table and footer.
        expected_bytes: u64,
    },
    /// The table's tree does not lead to the content hash.
    #[error("the seek table leads to content hash {found}, the footer states {expected}")]
    TableHash {
        /// Hash in the footer.
        expected: ContentHash,
        /// Root of the values in the table.
        found: ContentHash,
    },
    /// The bytes at hand for a frame are more or fewer than the frame has.
    #[error("frame {frame} has {found_bytes} stored bytes, expected {expected_bytes}")]
    FrameLength {
        /// Frame, from 0.
        frame: u64,
        /// Stored bytes it should have.
        expected_bytes: u64,
        /// Stored bytes given.
        found_bytes: u64,
    },
    /// A frame's stored bytes are not those that were written.
    #[error("the checksum of frame {frame} is {found:08x}, expected {expected:08x}")]
    FrameChecksum {
        /// Frame, from 0.
        frame: u64,
        /// CRC32C in the seek table.
        expected: u32,
        /// CRC32C of the stored bytes.
        found: u32,
    },
    /// A frame's stored bytes do not decompress to its part of the content.
    #[error("frame {frame} does not unpack: {reason}")]
    FrameContent {
        /// Frame, from 0.
        frame: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A frame unpacks to other content than was packed.
    #[error("the hash of frame {frame} is {found}, expected {expected}")]
    FrameHash {
        /// Frame, from 0.
        frame: u64,
        /// Value in the seek table.
        expected: ContentHash,
        /// Value of what it unpacked to.
        found: ContentHash,
    },
}

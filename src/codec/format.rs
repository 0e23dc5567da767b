//! The bytes of the trailer, field by field, and the arithmetic of its size.
//!
//! All numbers are little endian. Behind the frames an object may have an *annex*: bytes of its maker's, which mean what
//! the kind of object says. The annex and the trailer are one *skippable frame* each, which LZ4 and zstd tools pass over:
//!
//! ```text
//! offset      bytes  field
//! 0           4      skippable magic 56 2A 4D 18 (0x184D2A56)
//! 4           4      bytes of the annex
//! 8                  the annex
//! ```
//!
//! and the trailer:
//!
//! ```text
//! offset      bytes  field
//! 0           4      skippable magic 57 2A 4D 18 (0x184D2A57)
//! 4           4      bytes that follow: 40 * frames + 96
//! 8           40     entry of frame 0:  stored bytes u32, CRC32C of the stored bytes u32, tree value [32]
//! ...                entries of the other frames
//! 8+40*frames 96     footer
//! ```
//!
//! The footer, always the last 96 bytes of the object:
//!
//! ```text
//! offset  bytes  field
//! 0       8      plain bytes of the content
//! 8       4      frames
//! 12      1      codec: 1 LZ4, 2 zstd
//! 13      1      binary logarithm of the frame size: 18
//! 14      2      sealing, 0: none (room for encryption)
//! 16      32     content hash: BLAKE3 of the plain content
//! 48      4      bytes of the annex, 0: there is none
//! 52      4      CRC32C of the annex, 0: there is none
//! 56      20     reserved, zero (room for encryption)
//! 76      4      CRC32C of the trailer up to the footer
//! 80      4      format version: 1
//! 84      4      CRC32C of the footer's bytes 0 to 83
//! 88      8      magic "walfsobj"
//! ```
//!
//! This file turns fields into bytes and back; whether the fields fit the object is `table.rs`'s question.

use super::{ContentHash, Damage, FRAME_BYTES};

/// Binary logarithm of [`FRAME_BYTES`].
pub(super) const FRAME_LOG2: u8 = 18;
/// Version of the object format this code writes and reads.
pub(super) const VERSION: u32 = 1;
/// Bytes of the trailer before its first entry.
pub(super) const HEADER_BYTES: usize = 8;
/// Bytes of one entry of the seek table.
pub(super) const ENTRY_BYTES: usize = 40;
/// Bytes of the footer.
pub(super) const FOOTER_BYTES: usize = 96;

const SKIPPABLE_MAGIC: u32 = 0x184D_2A57;
const ANNEX_MAGIC: u32 = 0x184D_2A56;
const MAGIC: [u8; 8] = *b"walfsobj";

/// Where each field of the footer begins.
mod at {
    pub(super) const PLAIN_BYTES: usize = 0;
    pub(super) const FRAMES: usize = 8;
    pub(super) const CODEC: usize = 12;
    pub(super) const FRAME_LOG2: usize = 13;
    pub(super) const SEALING: usize = 14;
    pub(super) const HASH: usize = 16;
    pub(super) const ANNEX_BYTES: usize = 48;
    pub(super) const ANNEX_CRC: usize = 52;
    pub(super) const RESERVED: usize = 56;
    pub(super) const TABLE_CRC: usize = 76;
    pub(super) const VERSION: usize = 80;
    pub(super) const FOOTER_CRC: usize = 84;
    pub(super) const MAGIC: usize = 88;
}

/// Most frames whose entries a skippable frame can hold.
const MAX_FRAMES: u64 = (u32::MAX as u64 - FOOTER_BYTES as u64) / ENTRY_BYTES as u64;

/// Largest content of one object: a little over 25 TiB.
pub const MAX_PLAIN_BYTES: u64 = MAX_FRAMES * FRAME_BYTES as u64;

/// Frames that hold `plain_bytes` of content.
pub const fn frames_of(plain_bytes: u64) -> u64 {
    plain_bytes.div_ceil(FRAME_BYTES as u64)
}

/// Bytes that follow the frames of an object with this content: what to ask of its end to parse it in one request.
/// 2664 for a segment of 16 MiB.
pub const fn trailer_bytes(plain_bytes: u64) -> u64 {
    trailer_bytes_for(frames_of(plain_bytes))
}

/// Bytes of a trailer with so many entries.
pub(super) const fn trailer_bytes_for(frames: u64) -> u64 {
    frames * ENTRY_BYTES as u64 + (HEADER_BYTES + FOOTER_BYTES) as u64
}

/// Longest annex of an object with so much content.
pub(super) const fn most_annex_bytes(plain_bytes: u64) -> u64 {
    plain_bytes / 32
}

/// The annex of an object, as its footer has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Annex {
    pub(super) bytes: u32,
    pub(super) crc32c: u32,
}

impl Annex {
    pub(super) fn of(annex: &[u8]) -> Self {
        Self {
            bytes: u32::try_from(annex.len()).expect("an annex is a small part of its content"),
            crc32c: crc32c::crc32c(annex),
        }
    }

    /// Bytes of its skippable frame; 0 if there is none.
    pub(super) const fn stored_bytes(self) -> u64 {
        match self.bytes {
            0 => 0,
            bytes => HEADER_BYTES as u64 + bytes as u64,
        }
    }

    /// The first bytes of its skippable frame.
    pub(super) fn header(self) -> [u8; HEADER_BYTES] {
        skippable(ANNEX_MAGIC, self.bytes)
    }
}

/// The kind of frames in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    /// Also of uncompressed objects.
    Lz4,
    Zstd,
}

impl Container {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// What the seek table knows of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Size of the frame in the object.
    pub(super) stored_bytes: u32,
    /// CRC32C of these bytes.
    pub(super) crc32c: u32,
    /// BLAKE3 node of the frame's content at its offset; the content hash if the frame is the only one.
    pub(super) value: [u8; 32],
}

impl Entry {
    pub(super) fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..4].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.crc32c.to_le_bytes());
        bytes[8..].copy_from_slice(&self.value);
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Self {
        Self {
            stored_bytes: u32_at(bytes, 0),
            crc32c: u32_at(bytes, 4),
            value: array_at(bytes, 8),
        }
    }
}

/// The first bytes of a trailer whose payload is so long.
pub(super) fn header(frames: u64) -> [u8; HEADER_BYTES] {
    let payload =
        u32::try_from(trailer_bytes_for(frames) - HEADER_BYTES as u64).expect("frames within MAX_FRAMES");
    skippable(SKIPPABLE_MAGIC, payload)
}

fn skippable(magic: u32, payload: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..4].copy_from_slice(&magic.to_le_bytes());
    bytes[4..].copy_from_slice(&payload.to_le_bytes());
    bytes
}

/// The fields of the footer that can differ from object to object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) plain_bytes: u64,
    pub(super) container: Container,
    pub(super) hash: ContentHash,
    pub(super) annex: Annex,
    /// CRC32C of the trailer's header and entries.
    pub(super) table_crc32c: u32,
}

impl Footer {
    pub(super) fn to_bytes(self) -> [u8; FOOTER_BYTES] {
        let frames = u32::try_from(frames_of(self.plain_bytes)).expect("content within MAX_PLAIN_BYTES");
        let mut bytes = [0; FOOTER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(at::PLAIN_BYTES, &self.plain_bytes.to_le_bytes());
        put(at::FRAMES, &frames.to_le_bytes());
        put(at::CODEC, &[self.container.code()]);
        put(at::FRAME_LOG2, &[FRAME_LOG2]);
        put(at::HASH, self.hash.as_bytes());
        put(at::ANNEX_BYTES, &self.annex.bytes.to_le_bytes());
        put(at::ANNEX_CRC, &self.annex.crc32c.to_le_bytes());
        put(at::TABLE_CRC, &self.table_crc32c.to_le_bytes());
        put(at::VERSION, &VERSION.to_le_bytes());
        put(at::MAGIC, &MAGIC);
        let crc = crc32c::crc32c(&bytes[..at::FOOTER_CRC]);
        bytes[at::FOOTER_CRC..at::MAGIC].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8; FOOTER_BYTES]) -> Result<Self, Damage> {
        check_envelope(bytes)?;
        check_constants(bytes)?;
        let code = bytes[at::CODEC];
        let plain_bytes = u64::from_le_bytes(array_at(bytes, at::PLAIN_BYTES));
        let frames = u32_at(bytes, at::FRAMES);
        if plain_bytes > MAX_PLAIN_BYTES || frames_of(plain_bytes) != u64::from(frames) {
            return Err(Damage::FrameCount { frames, plain_bytes });
        }
        Ok(Self {
            plain_bytes,
            container: Container::from_code(code).ok_or(Damage::UnknownCodec { code })?,
            hash: ContentHash::from_bytes(array_at(bytes, at::HASH)),
            annex: read_annex(bytes, plain_bytes)?,
            table_crc32c: u32_at(bytes, at::TABLE_CRC),
        })
    }
}

fn read_annex(bytes: &[u8; FOOTER_BYTES], plain_bytes: u64) -> Result<Annex, Damage> {
    let annex = Annex {
        bytes: u32_at(bytes, at::ANNEX_BYTES),
        crc32c: u32_at(bytes, at::ANNEX_CRC),
    };
    let possible =
        u64::from(annex.bytes) <= most_annex_bytes(plain_bytes) && (annex.bytes > 0 || annex.crc32c == 0);
    match possible {
        true => Ok(annex),
        false => Err(Damage::AnnexLength {
            annex_bytes: annex.bytes,
            plain_bytes,
        }),
    }
}

/// Magic, version and checksum: only then do the other fields mean anything.
fn check_envelope(bytes: &[u8; FOOTER_BYTES]) -> Result<(), Damage> {
    let (magic, version) = (array_at(bytes, at::MAGIC), u32_at(bytes, at::VERSION));
    if magic != MAGIC {
        return Err(Damage::BadMagic { found: magic });
    }
    // Before the checksum: another version may compute it differently.
    if version != VERSION {
        return Err(Damage::UnknownVersion { version });
    }
    let (expected, found) = (
        u32_at(bytes, at::FOOTER_CRC),
        crc32c::crc32c(&bytes[..at::FOOTER_CRC]),
    );
    if found != expected {
        return Err(Damage::FooterChecksum { expected, found });
    }
    Ok(())
}

/// Fields with one right value in this version.
fn check_constants(bytes: &[u8; FOOTER_BYTES]) -> Result<(), Damage> {
    let log2 = bytes[at::FRAME_LOG2];
    if log2 != FRAME_LOG2 {
        return Err(Damage::UnknownFrameSize { log2 });
    }
    let mut reserved = bytes[at::SEALING..at::HASH]
        .iter()
        .chain(&bytes[at::RESERVED..at::TABLE_CRC]);
    if reserved.any(|&byte| byte != 0) {
        return Err(Damage::ReservedInUse);
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

/// `N` bytes from a place that the caller knows to be inside.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..]
        .first_chunk()
        .expect("fields lie inside their structure")
}

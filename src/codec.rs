//! The bytes of a stored object: independent frames, then a seek table that stock decompressors skip.
//!
//! Content is cut in *frames* of [`FRAME_BYTES`]; each is packed by itself, in any order and on
//! any thread ([`pack()`]), and [`finish`] makes the trailer that ends the object. A reader parses the trailer once
//! ([`SeekTable::parse`], which proves it against the content's hash) and from then on unpacks any frame alone, each
//! proving itself against the table. `docs/format.md` has every byte and why it is there.
//!
//! This room is pure: byte slices in, byte slices out. No I/O, no async, no names of objects, nothing of PostgreSQL.
//! Whatever bytes a parser is given, it answers with content that is right or with [`Damage`]; it never panics on
//! them and never allocates more than the object's own size justifies.

mod compression;
mod damage;
mod format;
mod frame;
mod hash;
mod pack;
mod table;

use bytes::Bytes;

pub use compression::{Compression, CompressionError};
pub use damage::Damage;
pub use format::{MAX_PLAIN_BYTES, frames_of, trailer_bytes};
pub use frame::{most_stored_bytes, plain_bytes_uncompressed, stored_bytes_uncompressed};
pub use hash::{ContentHash, FrameHash, HashTextError};
pub use pack::{Finished, FrameSummary, ObjectBuilder, Packed, finish, pack};
pub use table::{SeekTable, Tail};

/// Plain bytes in each frame but the last, which may have fewer: 256 KiB.
///
/// A power of two of at least 1024, so that each frame is a subtree of the content's BLAKE3 tree.
pub const FRAME_BYTES: usize = 1 << format::FRAME_LOG2;

/// Makes a whole stored object of `plain`, on this thread.
///
/// For small content; staging packs frame by frame. The hash equals [`ContentHash::of`]`(plain)`.
pub fn pack_all(compression: Compression, plain: &[u8]) -> (Bytes, ContentHash) {
    let mut builder = ObjectBuilder::new(compression, Vec::new());
    let written = plain
        .chunks(FRAME_BYTES)
        .try_for_each(|content| builder.push(content));
    let (object, finished) = written
        .and_then(|()| builder.finish(&[]))
        .expect("memory takes all");
    (object.into(), finished.hash)
}

/// Gives back the content of a whole stored object, verified.
///
/// Memory grows with the content that has been proved so far, not with the size the object claims.
///
/// # Errors
///
/// Any [`Damage`]: every byte of the object is covered by a checksum or has one right value.
pub fn unpack_all(stored: &[u8]) -> Result<Vec<u8>, Damage> {
    unpack_at_most(stored, MAX_PLAIN_BYTES)
}

/// As [`unpack_all`], of an object that somebody else has stored: nothing is unpacked of more than `most_bytes`.
///
/// # Errors
///
/// As [`unpack_all`]; [`Damage::PlainBytes`].
pub fn unpack_at_most(stored: &[u8], most_bytes: u64) -> Result<Vec<u8>, Damage> {
    let table = SeekTable::of_whole(stored)?;
    if table.plain_bytes() > most_bytes {
        return Err(Damage::PlainBytes {
            expected_bytes: most_bytes,
            found_bytes: table.plain_bytes(),
        });
    }
    let annex = table.annex_range();
    table.annex(&stored[annex.start as usize..annex.end as usize])?;
    table.unpack_range(0..table.plain_bytes(), stored)
}

#[cfg(test)]
mod tests;

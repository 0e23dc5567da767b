//! How the tar stream of a tree is cut into parts. Pure; its headers are in [`headers`](super::headers).
//!
//! A *volume* is a piece of tar stream that ends with two blocks of zeros, as a tar file does; `tar -i` reads one behind
//! the other. There are two kinds:
//!
//! - a *bundle* of small files: one part, `<volume>.00000`;
//! - one *large* file, behind [`HEADER_BYTES`] of headers, and cut every [`SLICE_BYTES`]: parts `<volume>.00000`,
//!   `<volume>.00001` and so on, which can be made, stored and fetched side by side and in any order. The headers have a
//!   fixed size so that a file can be sent on its way before its name and length are final: only the first slice has to
//!   wait for them.

/// Bytes of headers in front of a large file: one data page, so that all later cuts lie between pages.
pub const HEADER_BYTES: u64 = 8192;

/// Plain bytes of a slice of a large file's volume, the headers counted with the first: 32 MiB.
///
/// Large enough that a request's round trip is small beside its transfer, small enough that a few fit into memory and
/// that one file of 1 GiB keeps all cores and connections busy.
pub const SLICE_BYTES: u64 = 32 << 20;

/// Plain bytes after which a bundle is closed.
pub const BUNDLE_BYTES: u64 = 16 << 20;

/// Files longer than this have a volume of their own, where the length is known in time.
pub const LARGE_BYTES: u64 = SLICE_BYTES - HEADER_BYTES;

/// Longest file: a slice's number has five digits in its key.
pub const MAX_FILE_BYTES: u64 = 100_000 * SLICE_BYTES - HEADER_BYTES - END_BYTES - BLOCK_BYTES;

/// A tar block.
pub const BLOCK_BYTES: u64 = 512;

/// What ends a volume.
pub const END_BYTES: u64 = 2 * BLOCK_BYTES;

/// Zeros that fill a file's last block.
pub const fn padding(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES) - bytes
}

/// Plain bytes of a large file's volume.
pub const fn volume_bytes(file_bytes: u64) -> u64 {
    HEADER_BYTES + file_bytes + padding(file_bytes) + END_BYTES
}

/// Number of slices of a large file's volume.
pub const fn slices(file_bytes: u64) -> u64 {
    volume_bytes(file_bytes).div_ceil(SLICE_BYTES)
}

/// Plain bytes of slice `index` of a large file's volume, whose last one is shorter.
pub const fn slice_bytes(index: u64, file_bytes: u64) -> u64 {
    let rest = volume_bytes(file_bytes) - index * SLICE_BYTES;
    if rest < SLICE_BYTES { rest } else { SLICE_BYTES }
}

/// Which bytes of a file of `file_bytes` lie in slice `index` of its own volume, and where in the slice they begin.
pub fn slice_content(index: u64, file_bytes: u64) -> (std::ops::Range<u64>, u64) {
    let start = (index * SLICE_BYTES).saturating_sub(HEADER_BYTES);
    let end = ((index + 1) * SLICE_BYTES - HEADER_BYTES).min(file_bytes);
    (start.min(end)..end, if index == 0 { HEADER_BYTES } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_the_file() {
        for bytes in [
            1,
            LARGE_BYTES - 1536,
            LARGE_BYTES,
            LARGE_BYTES + 1,
            3 * SLICE_BYTES,
            1 << 30,
        ] {
            let mut at = 0;
            for index in 0..slices(bytes) {
                let (content, offset) = slice_content(index, bytes);
                assert_eq!(content.start, at, "slice {index} of {bytes}");
                assert_eq!(offset, if index == 0 { HEADER_BYTES } else { 0 });
                at = content.end;
            }
            assert_eq!(at, bytes);
        }
    }
}

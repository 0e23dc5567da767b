//! The CRC-32C of the bytes of a record, by that of its pieces.

use super::walk::RECORD_HEADER_BYTES;

/// CRC-32C of some bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crc(pub u32);

impl Crc {
    /// Of these bytes and of so many behind them.
    pub(super) fn and(self, next: Self, next_bytes: usize) -> Self {
        Self(crc32c::crc32c_combine(self.0, next.0, next_bytes))
    }

    /// Without the first of so many bytes, which are at hand.
    pub(super) fn without(self, first: &[u8], bytes: usize) -> Self {
        // The sum of two CRCs of the same length is linear: what is left is the difference.
        let rest = bytes - first.len();
        Self(crc32c::crc32c_combine(crc32c::crc32c(first), 0, rest) ^ self.0)
    }

    /// Is a record with this header and this body another one than was written?
    pub(super) fn contradicts(self, header: &[u8]) -> bool {
        let Some(header) = header.first_chunk::<RECORD_HEADER_BYTES>() else {
            return false;
        };
        let (covered, expected) = header.split_at(RECORD_HEADER_BYTES - 4);
        crc32c::crc32c_append(self.0, covered).to_le_bytes() != expected
    }
}

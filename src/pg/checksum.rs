//! Checksums of data pages (`checksum_impl.h`), which [`data_page`](super::data_page) compares.
//!
//! The page, its checksum taken as 0, is a table of 32 columns of 32-bit numbers. Each column is hashed for itself, in
//! the manner of FNV-1a with one more shift; the hashes and the number of the page are combined by exclusive or; and
//! of that the remainder by 65535, plus 1, is the checksum. The columns are there for vector instructions, without
//! which this would be the slowest part of a backup.

const COLUMNS: usize = 32;
const ROW_BYTES: usize = COLUMNS * 4;
const FNV_PRIME: u32 = 16_777_619;

/// Where each column's hash begins (`checksumBaseOffsets`).
const OFFSETS: [u32; COLUMNS] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

/// The checksum that a page should state (`pg_checksum_page`). The page's length is a block size.
pub(super) fn page_checksum(page: &[u8], block_number: u32) -> u16 {
    let (rows, rest) = page.as_chunks::<ROW_BYTES>();
    debug_assert!(rest.is_empty(), "a page is a whole number of rows");
    let mixed = hash(rows) ^ block_number;
    u16::try_from(mixed % 65535 + 1).expect("a remainder by 65535 is at most 65534")
}

fn hash(rows: &[[u8; ROW_BYTES]]) -> u32 {
    let (first, others) = rows.split_first().expect("a page has rows");
    let mut without_checksum = *first;
    without_checksum[8..10].fill(0);
    let mut sums = OFFSETS;
    mix(&mut sums, &without_checksum);
    for row in others {
        mix(&mut sums, row);
    }
    mix(&mut sums, &[0; ROW_BYTES]);
    mix(&mut sums, &[0; ROW_BYTES]);
    sums.iter().fold(0, |all, sum| all ^ sum)
}

#[inline(always)]
fn mix(sums: &mut [u32; COLUMNS], row: &[u8; ROW_BYTES]) {
    let (values, _) = row.as_chunks::<4>();
    for (sum, value) in sums.iter_mut().zip(values) {
        let mixed = *sum ^ u32::from_le_bytes(*value);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A page that is zeros but for these bytes.
    fn page(runs: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        for (at, run) in runs {
            bytes[*at..at + run.len()].copy_from_slice(run);
        }
        bytes
    }

    /// Block 1 of `base/1/3080` as `initdb -k` of PostgreSQL 15 makes it: changed at 0/145ED70, checksum C4DF.
    pub(in crate::pg) fn index_page() -> Vec<u8> {
        let header = b"\x70\xED\x45\x01\xDF\xC4\0\0\x1C\0\xE0\x1F\xF0\x1F\x04\x20\0\0\0\0\xE0\x9F\x20";
        page(&[(4, header), (8164, b"\x01\0\x10\0\xF7\x34"), (8188, b"\x03")])
    }

    /// Block 1 of `base/5/2753_fsm` of the same cluster.
    pub(in crate::pg) fn free_space_page() -> Vec<u8> {
        let header = b"\xCD\x5C\x01\xE7\xD1\0\0\x18\0\0\x20\0\x20\x04\x20";
        let tree = b"\x0F\x0F\0\x0F\0\0\0\x0F\0\0\0\0\0\0\0\x0F";
        let mut runs: Vec<(usize, &[u8])> = vec![(5, header), (28, tree)];
        runs.extend([59, 91, 155, 283, 539, 1051, 2075, 4123].map(|at| (at, &b"\x0F"[..])));
        page(&runs)
    }

    #[test]
    fn pages_that_postgresql_15_wrote() {
        for (page, stated) in [(index_page(), 0xC4DF), (free_space_page(), 0xD1E7)] {
            assert_eq!(page_checksum(&page, 1), stated);
        }
    }

    /// Column after column, as the algorithm is described, not as it is fast.
    fn by_columns(page: &[u8], block_number: u32) -> u16 {
        let mut all = block_number;
        for (column, offset) in OFFSETS.iter().enumerate() {
            let values = (0..page.len() / ROW_BYTES).map(|row| row * ROW_BYTES + column * 4);
            let values = values.map(|at| match at {
                8 => u32::from_le_bytes([0, 0, page[10], page[11]]),
                _ => u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]),
            });
            all ^= values.chain([0, 0]).fold(*offset, |sum, value| {
                let mixed = u64::from(sum ^ value);
                ((mixed * u64::from(FNV_PRIME)) as u32) ^ (mixed as u32 >> 17)
            });
        }
        (all % 65535) as u16 + 1
    }

    proptest! {
        #[test]
        fn every_block_size(power in 10..=15_u32, seed: u64, block_number: u32) {
            let mut random = fastrand::Rng::with_seed(seed);
            let page: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(1 << power).collect();
            prop_assert_eq!(page_checksum(&page, block_number), by_columns(&page, block_number));
        }
    }
}

//! The memory of a process (promise S3): one total, which is divided here and nowhere else.
//!
//! Each room is given its share with the archive or the staging that it works on, and asks it before it makes bytes. What a
//! share cannot give is waited for, done without, or put into a temporary file. Of the usual total the division is, in MiB:
//!
//! | share | of 256 | why so much |
//! |---|---|---|
//! | uploads | 50 | an incompressible slice of a base backup and a segment, or three segments; half is kept for the next ones |
//! | ahead | 33 of these | two segments that are sent before their `cp`; the rest is for a `cp`, which never waits for them |
//! | frames | 10 | most of a segment that does not compress, while it is written; the rest goes to temporary files |
//! | open frames | 8 | eight files that a writer fills in pieces, with four frames each; the rest goes to temporary files |
//! | stored | 40 | one object of 16 MiB for a reader who waits, one or more ahead of a recovery |
//! | pieces | 32 | two pieces of 16 MiB that are unpacked: the one that is asked for, and the next one |
//! | cache | 34 | both of these once they are verified, and frames of base backups |
//! | indexes, leaves, tables | 3, 9, 4 | three base backups of a million files; 55,000 files of these; 20 GB of content |
//! | bundles | 2 × 6 | small files of a base backup that is written: one bundle fills, one is packed |
//! | streams | 34 beside | files that are written in `dumps/` and `files/`: a part of each of four |
//! | packing | 128 | `walfs backup` alone: four slices of 32 MiB, plain or packed |
//! | filling | 132 | `walfs restore` alone: four slices as they are stored |
//!
//! A process takes or restores a backup, or serves a mount; one that does both at once [divides the total](Memory::in_two)
//! first. What a mount leaves of it is for what is not counted: the program, requests of the kernel, a second base backup that
//! is written, what the allocator keeps. That is 40 MiB of the usual total, whose shares are hardly ever all full: so
//! what is written in `dumps/` has its share of these. Smaller shares are full at times, and who waits too long for one goes
//! without, so that a smaller total leaves a quarter of what it lacks, too.

mod allocator;
mod buffers;
mod share;

pub(crate) use allocator::give_back_freed;
pub use buffers::Buffers;
pub(crate) use buffers::Filling;
pub use share::{Held, Share};

const MIB: u64 = 1 << 20;

/// The total that the division is made for, in bytes.
const USUAL_BYTES: u64 = 256 * MIB;

/// The least total, in bytes: with less, what must be in memory as a whole does not fit.
const LEAST_BYTES: u64 = 160 * MIB;

/// What a mount leaves of the usual total for what is not counted, in bytes.
const UNCOUNTED_BYTES: u64 = 40 * MIB;

/// An incompressible slice of a base backup, with what its frames and its table add.
const SLICE_BYTES: u64 = 32 * MIB + MIB / 4;

/// Plain bytes of a segment of the usual size, and of a piece of larger ones: fetched and verified together.
pub const PIECE_BYTES: u64 = 16 * MIB;

/// What an object may be longer than its content, in bytes: headers of frames and the table of a 32 MiB segment.
pub(crate) const OVERHEAD_BYTES: u64 = 64 << 10;

/// Room for a piece that does not compress.
const WHOLE_BYTES: u64 = 17 * MIB;

/// Shares of one total. Clones are the same shares.
#[derive(Debug, Clone)]
pub struct Memory {
    /// The total, in bytes.
    pub total_bytes: u64,
    /// Bodies of uploads.
    pub uploads: Share,
    /// Segments that are sent ahead, from packing on. They count as uploads as well.
    pub ahead: Share,
    /// Frames of files that are being written: packed, or only hashed.
    pub frames: Share,
    /// Frames of files that are being written: plain, because more is expected.
    pub open_frames: Share,
    /// Objects on their way to readers, as they are stored.
    pub stored: Share,
    /// How many pieces are unpacked at once.
    pub pieces: usize,
    /// Bytes of verified content that are kept.
    pub cache_bytes: u64,
    /// Bytes of indexes of manifests that are kept: of base backups that are looked at.
    pub index_bytes: u64,
    /// Bytes of leaves of manifests that are kept.
    pub leaf_bytes: u64,
    /// Bytes of seek tables of base backups that are kept.
    pub table_bytes: u64,
    /// Bytes of small files of a base backup that go out together.
    pub bundle_bytes: u64,
    /// Parts of files that are written in `dumps/` and `files/`, plain and packed.
    pub streams: Share,
    /// Parts that `walfs backup` makes, plain and packed.
    pub packing: Share,
    /// Parts that `walfs restore` fetches, as they are stored.
    pub filling: Share,
    /// Blocks that come from uploads and from the kernel, to be used again.
    pub buffers: Buffers,
}

/// A total that is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} MiB of memory are too little: segments that are archived and restored, and a slice of a base backup, are in it as a \
     whole\nHINT: --memory {}MiB is the least, {}MiB the usual",
    given_bytes / MIB, LEAST_BYTES / MIB, USUAL_BYTES / MIB
)]
pub struct TooLittle {
    given_bytes: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self::divided(USUAL_BYTES)
    }
}

impl Memory {
    /// Divides a total of so many bytes.
    ///
    /// # Errors
    /// [`TooLittle`].
    pub fn new(total_bytes: u64) -> Result<Self, TooLittle> {
        if total_bytes < LEAST_BYTES {
            return Err(TooLittle {
                given_bytes: total_bytes,
            });
        }
        Ok(Self::divided(total_bytes))
    }

    /// Divides the total of a process to which none was given: half of what its control group allows, in bytes, because
    /// the group's page cache, the kernel's buffers and the program itself count there as well; no more than the usual.
    pub fn usual(allowed_bytes: Option<u64>) -> Self {
        let half = allowed_bytes.map_or(USUAL_BYTES, |bytes| bytes / 2);
        Self::divided(half.clamp(LEAST_BYTES, USUAL_BYTES))
    }

    /// For a process that takes backups while it serves a mount: what the mount has, five eighths, and what the backups
    /// have, of which one is taken at a time.
    ///
    /// # Errors
    /// [`TooLittle`] for both.
    pub fn in_two(&self) -> Result<[Self; 2], TooLittle> {
        let of_mount = self.total_bytes / 8 * 5;
        let mount = Self::new(of_mount).map_err(|_| TooLittle {
            given_bytes: self.total_bytes,
        })?;
        Ok([mount, Self::divided(self.total_bytes - of_mount)])
    }

    /// For one of so many archives that a mount has open at once: the shares are the same, and of manifests each keeps its
    /// part. Where contents are cached is for the mount to share.
    pub fn of_one_of(&self, archives: u64) -> Self {
        Self {
            index_bytes: self.index_bytes / archives,
            leaf_bytes: self.leaf_bytes / archives,
            table_bytes: self.table_bytes / archives,
            ..self.clone()
        }
    }

    fn divided(total_bytes: u64) -> Self {
        let of_total = |mib: u64| total_bytes / (USUAL_BYTES / MIB) * mib;
        // An upload cannot be made smaller. The others divide what it leaves.
        let uploads = of_total(50).max(SLICE_BYTES);
        let uncounted = UNCOUNTED_BYTES + USUAL_BYTES.saturating_sub(total_bytes) / 4;
        let rest = total_bytes.saturating_sub(uncounted + uploads);
        let of_rest = |mib: u64| rest / ((USUAL_BYTES - UNCOUNTED_BYTES) / MIB - 50) * mib;
        Self {
            total_bytes,
            uploads: Share::new(uploads),
            ahead: Share::new(of_total(33).min(uploads - PIECE_BYTES - OVERHEAD_BYTES)),
            frames: Share::new(of_rest(10)),
            open_frames: Share::new(of_rest(8)),
            stored: Share::new(of_rest(40).max(WHOLE_BYTES)),
            pieces: (of_rest(32) / PIECE_BYTES).max(1) as usize,
            cache_bytes: of_rest(34).max(WHOLE_BYTES),
            index_bytes: of_rest(3),
            leaf_bytes: of_rest(9),
            table_bytes: of_rest(4),
            bundle_bytes: of_rest(6),
            streams: Share::new(of_total(34)),
            packing: Share::new(of_total(128)),
            filling: Share::new(of_total(132)),
            buffers: Buffers::of_bytes(uploads as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a base backup that is written holds beside its bundles: two that are read back, and four windows of which the
    /// sums are made.
    const READ_BACK_BYTES: u64 = 12 * MIB;

    /// All that a mount may hold while a base backup is written into it.
    fn of_a_mount(memory: &Memory) -> u64 {
        let shares = [
            &memory.uploads,
            &memory.frames,
            &memory.open_frames,
            &memory.stored,
        ];
        let shares: u64 = shares.map(Share::bytes).iter().sum();
        let kept = memory.cache_bytes + memory.index_bytes + memory.leaf_bytes + memory.table_bytes;
        shares + kept + memory.pieces as u64 * PIECE_BYTES + 2 * memory.bundle_bytes + READ_BACK_BYTES
    }

    #[test]
    fn the_usual_total_is_divided_as_the_table_says() {
        let memory = Memory::default();
        let shares = [
            &memory.uploads,
            &memory.ahead,
            &memory.frames,
            &memory.open_frames,
            &memory.stored,
            &memory.packing,
            &memory.filling,
        ];
        assert_eq!(
            shares.map(|share| share.bytes() / MIB),
            [50, 33, 10, 8, 40, 128, 132]
        );
        let kept = [
            memory.cache_bytes,
            memory.index_bytes,
            memory.leaf_bytes,
            memory.table_bytes,
            memory.bundle_bytes,
        ];
        assert_eq!(kept.map(|bytes| bytes / MIB), [34, 3, 9, 4, 6]);
        assert_eq!((memory.pieces, of_a_mount(&memory) / MIB), (2, 214));
    }

    #[test]
    fn every_total_has_room_for_its_shares_and_each_share_for_one_of_its_things() {
        for total_mib in (160..=200).chain([255, 256, 257, 300, 512, 1000, 4096, 1 << 20]) {
            let memory = Memory::new(total_mib * MIB).unwrap();
            let counted = of_a_mount(&memory) + UNCOUNTED_BYTES;
            assert!(counted <= memory.total_bytes, "{total_mib} MiB");
            let whole = [&memory.uploads, &memory.packing, &memory.filling];
            assert!(whole.iter().all(|share| share.bytes() >= SLICE_BYTES));
            let piece = [memory.stored.bytes(), memory.cache_bytes, memory.ahead.bytes()];
            assert!(piece.iter().all(|bytes| *bytes > PIECE_BYTES), "{total_mib} MiB");
        }
    }

    #[test]
    fn a_total_that_is_too_small_is_refused_with_the_least_one() {
        let refused = Memory::new(LEAST_BYTES - 1).unwrap_err().to_string();
        assert!(
            refused.contains("159 MiB") && refused.contains("HINT: --memory 160MiB"),
            "{refused}"
        );
    }

    #[test]
    fn half_of_what_the_control_group_allows_is_used_within_the_bounds() {
        let usual = |allowed| Memory::usual(allowed).total_bytes;
        assert_eq!(usual(None), USUAL_BYTES);
        assert_eq!(usual(Some(8 << 30)), USUAL_BYTES);
        assert_eq!(usual(Some(400 * MIB)), 200 * MIB);
        assert_eq!(usual(Some(100 * MIB)), LEAST_BYTES);
    }

    #[test]
    fn a_mount_and_a_backup_in_one_process_share_the_total() {
        let [mount, backup] = Memory::default().in_two().unwrap();
        assert_eq!(mount.total_bytes + backup.total_bytes, USUAL_BYTES);
        assert!(of_a_mount(&mount) + backup.packing.bytes() < USUAL_BYTES);
        assert!(backup.packing.bytes() > SLICE_BYTES && mount.in_two().is_err());
    }
}

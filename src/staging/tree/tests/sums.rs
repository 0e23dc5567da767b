//! Checksums of files written in every way, against those of plain buffers.

use crate::pg::backup_manifest::{ChecksumAlgorithm, Summer};

use super::*;

impl Both {
    async fn drafted(&self, name: &str) -> Arc<DraftFile> {
        file(&self.draft.names(), self.numbers[name]).unwrap()
    }

    /// What was summed up in passing is the content's, and so is what is read back.
    async fn check_sums(&self) {
        let (mut wanted, mut expected) = (Vec::new(), Vec::new());
        for (name, content) in &self.files {
            let drafted = self.drafted(name).await;
            let found = drafted.crc(self.draft.way()).await.unwrap();
            assert_eq!(found.value(), crc32c::crc32c(content), "{name}");
            for algorithm in [ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Sha512] {
                wanted.push((drafted.clone(), algorithm));
                expected.push(Summer::of(algorithm, content));
            }
        }
        assert_eq!(
            self.written().read_back::<Summer>(wanted).await.unwrap(),
            expected
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_in_every_way() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = Both::begin(&archive).await;
    both.whole("empty", b"").await;
    both.whole("forward", &content(3_000_000, 1)).await;
    both.create("backward").await;
    for at in (0..10).rev() {
        both.write("backward", at * 1000, &content(1000, at)).await;
    }
    both.create("overlapping").await;
    for at in [0, 500, 100, 4000] {
        both.write("overlapping", at, &content(1000, at)).await;
    }
    both.truncate("overlapping", 4100).await;
    both.truncate("overlapping", 9000).await;
    both.check_sums().await;
    both.close("backward").await;
    both.close("overlapping").await;
    // These make the others go out.
    for index in 0..6 {
        both.whole(&format!("f{index}"), &content(4 << 20, index)).await;
    }
    both.check_sums().await;
    both.reopen("forward").await;
    both.write("forward", 100, b"after it was sent").await;
    both.check_sums().await;
    both.close("forward").await;
    both.finish().await;
    both.check_sums().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_in_every_way() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = Both::begin(&archive).await;
    both.whole("grown", &content(5 << 20, 1)).await;
    // Its end falls on the end of a slice.
    both.whole("exact", &content(SLICE as usize - 8192, 2)).await;
    both.create("backward").await;
    for at in (0..36_u64).rev() {
        both.write("backward", at << 20, &content(1 << 20, at)).await;
    }
    both.create("holes").await;
    both.write("holes", 2 * SLICE + 5, b"a whole slice is a hole")
        .await;
    both.write("holes", 300_000, &content(300_000, 3)).await;
    both.check_sums().await;
    both.truncate("holes", SLICE + 77).await;
    both.check_sums().await;
    both.truncate("holes", 3 * SLICE).await;
    both.write("holes", 300_100, &content(900_000, 4)).await;
    both.close("backward").await;
    both.close("holes").await;
    both.whole("next", b"makes it go out").await;
    both.check_sums().await;
    both.reopen("backward").await;
    both.write("backward", 5, b"in a slice that was sent").await;
    both.truncate("backward", (36 << 20) - 1).await;
    both.close("backward").await;
    both.check_sums().await;
    both.finish().await;
    both.check_sums().await;
}

/// Writes, cuts, closings and openings at random, around the ends of frames and slices.
#[tokio::test(flavor = "multi_thread")]
async fn files_at_random() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut both = Both::begin(&archive).await;
        both.create("f").await;
        let most = if seed % 2 == 0 {
            9_000_000
        } else {
            SLICE + 9_000_000
        };
        for _ in 0..30 {
            let near = random.u64(0..most) / 262_144 * 262_144;
            let at = near.saturating_sub(random.u64(0..20_000));
            match random.u8(0..6) {
                0 => both.truncate("f", at).await,
                1 => {
                    both.close("f").await;
                    both.whole(&format!("other{}", random.u32(..)), b"x").await;
                    both.reopen("f").await;
                }
                2 => both.check_sums().await,
                _ => {
                    let bytes = random.usize(1..600_000);
                    both.write("f", at, &content(bytes, random.u64(..))).await;
                }
            }
        }
        both.check_sums().await;
        both.close("f").await;
        both.check_sums().await;
    }
}

//! Checksums of files written in every way, against those of plain buffers; and trees against their manifests.

use std::time::SystemTime;

use crate::pg::backup_manifest::{Checksum, ChecksumAlgorithm, FileLine, Manifest, Summer};

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
        assert_eq!(self.draft.read_back(wanted).await.unwrap(), expected);
    }
}

/// The manifest of what files should be.
fn manifest_of<'a>(
    algorithm: Option<ChecksumAlgorithm>,
    files: impl IntoIterator<Item = (&'a str, &'a Vec<u8>)>,
) -> Manifest {
    let mut writer = Writer::new(ManifestVersion::V1);
    for (name, content) in files {
        writer.file(&FileLine {
            path: name.as_bytes(),
            bytes: content.len() as u64,
            modified: SystemTime::UNIX_EPOCH,
            checksum: algorithm.map(|algorithm| Summer::of(algorithm, content)).as_ref(),
        });
    }
    let before = writer.take();
    Manifest::parse(&[before, writer.finish(&[])].concat()).unwrap()
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

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_what_its_manifest_says_or_not() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = Both::begin(&archive).await;
    both.whole("large", &content(5 << 20, 1)).await;
    both.whole("small", &content(5000, 2)).await;
    both.whole("other", &content(5000, 3)).await;
    both.whole("postgresql.auto.conf", b"").await;
    use ChecksumAlgorithm::{Crc32c, Sha224, Sha256, Sha384, Sha512};
    let all = [
        None,
        Some(Crc32c),
        Some(Sha224),
        Some(Sha256),
        Some(Sha384),
        Some(Sha512),
    ];
    let manifests = all.map(|algorithm| {
        let files = both.files.iter();
        manifest_of(algorithm, files.map(|(name, content)| (&name[..], content)))
    });
    for manifest in &manifests {
        both.draft.verify(manifest, &[]).await.unwrap();
    }
    // As pg_basebackup -R does.
    both.reopen("postgresql.auto.conf").await;
    both.write("postgresql.auto.conf", 0, b"primary_conninfo = ''\n")
        .await;
    both.close("postgresql.auto.conf").await;
    for name in ["large", "small"] {
        both.reopen(name).await;
        both.write(name, 2500, b"four").await;
        both.close(name).await;
    }
    for (algorithm, manifest) in all.into_iter().zip(&manifests) {
        let verified = both.draft.verify(manifest, &[]).await;
        let Some(algorithm) = algorithm else {
            verified.unwrap();
            continue;
        };
        let sums: Vec<&Checksum> = manifest
            .files
            .iter()
            .filter_map(|file| file.checksum.as_ref())
            .collect();
        match verified.unwrap_err() {
            Error::WrongContent {
                path,
                algorithm: name,
                expected,
                found,
                others,
                ..
            } => {
                assert_eq!((&path[..], name, others), ("large", algorithm.name(), 1));
                assert_eq!(expected, sums[0].digits());
                assert_eq!(found, Summer::of(algorithm, &both.files["large"]).digits());
            }
            error => panic!("{error}"),
        }
    }
    both.draft.unlink(ROOT, b"small").await.unwrap();
    let error = both.draft.verify(&manifests[1], &[]).await.unwrap_err();
    assert!(
        matches!(error, Error::NoBackup { .. }) && error.to_string().contains("small"),
        "{error}"
    );
}

/// A tar file with these members, as the server writes them.
fn tar_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Members of all lengths, one of them over the end of a slice, and a tablespace; then single bytes of them changed.
#[tokio::test(flavor = "multi_thread")]
async fn members_of_tar_files_are_what_the_manifest_says_or_not() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = Both::begin(&archive).await;
    let mut members: Vec<(&str, Vec<u8>)> = vec![
        ("backup_label", LABEL.into()),
        ("base/5/empty", Vec::new()),
        ("base/5/small", content(5000, 1)),
        ("postgresql.auto.conf", b"changed by -R".into()),
        ("base/5/medium", content(1_000_000, 2)),
        ("base/5/large", content(SLICE as usize + 5_000_001, 3)),
        ("global/pg_control", content(8192, 4)),
    ];
    let space = vec![("PG_15_202209061/5/1", content(70_000, 5))];
    let tar = tar_of(&members);
    both.whole("base.tar", &tar).await;
    both.whole("16384.tar", &tar_of(&space)).await;
    both.whole("next", b"makes them go out").await;
    members[3].1.clear();
    let mut listed = members.clone();
    listed.push(("pg_tblspc/16384/PG_15_202209061/5/1", space[0].1.clone()));
    use ChecksumAlgorithm::{Crc32c, Sha256};
    let manifests = [Crc32c, Sha256].map(|algorithm| {
        let files = listed.iter();
        manifest_of(Some(algorithm), files.map(|(name, content)| (*name, content)))
    });
    for manifest in &manifests {
        both.draft.verify_tars(manifest).await.unwrap();
    }
    let begin = |name: &str| {
        let wanted = &members.iter().find(|member| member.0 == name).unwrap().1;
        let found = tar.windows(wanted.len()).position(|window| window == wanted);
        found.unwrap() as u64
    };
    let large = begin("base/5/large");
    for (name, at) in [
        ("base/5/small", begin("base/5/small") + 2500),
        ("base/5/large", large),
        ("base/5/large", large + 20_000_000),
        ("base/5/large", large + SLICE + 5_000_000),
        ("global/pg_control", begin("global/pg_control") + 8191),
    ] {
        for flip in [0xFF, 0] {
            both.reopen("base.tar").await;
            both.write("base.tar", at, &[tar[at as usize] ^ flip]).await;
            both.close("base.tar").await;
            both.whole(&format!("next{at}-{flip}"), b"").await;
            for manifest in &manifests {
                match (flip, both.draft.verify_tars(manifest).await) {
                    (0, verified) => verified.unwrap(),
                    (_, Err(Error::WrongContent { path, others: 0, .. })) => assert_eq!(path, name),
                    (_, verified) => panic!("{name} at {at}: {verified:?}"),
                }
            }
        }
    }
    // It has not arrived whole.
    both.reopen("base.tar").await;
    for bytes in [tar.len() as u64 - 8192, large + 77, 100] {
        both.truncate("base.tar", bytes).await;
        let error = both.draft.verify_tars(&manifests[0]).await.unwrap_err();
        assert!(matches!(error, Error::NoBackup { .. }), "{error}");
    }
    both.close("base.tar").await;
}

//! Backups as PostgreSQL's tools write them, and trees against their manifests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::archive::Archive;
use crate::archive::tree::backup::Shape;
use crate::pg::backup_manifest::{
    Checksum, ChecksumAlgorithm, FileLine, Manifest, ManifestVersion, Summer, WalRange, Writer,
};
use crate::pg::{Lsn, SystemId, Timeline};
use crate::staging::tree::names::NameError;
use crate::staging::tree::tests::{Both, SLICE, archive, attributes, content, draft, patience, stored};

use super::*;

const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2024-01-01 00:00:00 UTC
LABEL: demo
START TIMELINE: 1
";

fn judge() -> Arc<BaseBackup> {
    Arc::new(BaseBackup {
        directory: b"/mnt/basebackups/monday".to_vec(),
    })
}

async fn backup(archive: &Arc<Archive>) -> Both {
    Both::judged(archive, judge()).await
}

/// A `base.tar` as far as anybody looks at it.
fn base_tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(LABEL.len() as u64);
    builder
        .append_data(&mut header, "backup_label", LABEL.as_bytes())
        .unwrap();
    builder.into_inner().unwrap()
}

fn manifest() -> Vec<u8> {
    let range = WalRange {
        timeline: Timeline(1),
        start: Lsn(0x200_0028),
        end: Lsn(0x200_0100),
    };
    Writer::new(ManifestVersion::V2(SystemId(77))).finish(&[range])
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

/// As `pg_basebackup -Ft` does it.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_tar_files_is_recognised() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = backup(&archive).await;
    both.whole("base.tar", &base_tar()).await;
    both.whole("backup_manifest.tmp", &manifest()).await;
    both.end("backup_manifest.tmp", "backup_manifest").await;
    let (summary, _, files) = stored(&archive).await;
    assert!(files == both.files);
    assert_eq!((summary.backup.shape, summary.plain_tar), (Shape::Tar, true));
    assert_eq!(summary.backup.label, "demo");
    assert_eq!(summary.backup.system_identifier, Some(SystemId(77)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_backup_is_not_completed() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let draft = draft(&archive, Duration::from_secs(45), judge()).await;
    let made = draft.create(ROOT, MANIFEST_TMP, attributes()).await.unwrap();
    draft.write(made.number, 0, &manifest()).await.unwrap();
    draft.close(made.number, true).await;
    draft.sync(ROOT).await.unwrap();
    let refused = draft.rename((ROOT, MANIFEST_TMP), (ROOT, MANIFEST), true).await;
    assert!(matches!(refused, Err(tree::Error::Refused { .. })), "{refused:?}");
    assert!(draft.lookup(ROOT, MANIFEST_TMP).is_ok() && !draft.is_complete());
    assert!(matches!(
        draft.remove().await,
        Err(tree::Error::Name(NameError::NotEmpty))
    ));
    draft.unlink(ROOT, MANIFEST_TMP).await.unwrap();
    draft.remove().await.unwrap();
    assert_eq!(archive.unfinished_trees(patience()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_what_its_manifest_says_or_not() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = backup(&archive).await;
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
        Candidate(both.written()).verify(manifest, &[]).await.unwrap();
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
        let verified = Candidate(both.written()).verify(manifest, &[]).await;
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
            } => {
                assert_eq!((&path[..], name, others), ("large", algorithm.name(), 1));
                assert_eq!(expected, sums[0].digits());
                assert_eq!(found, Summer::of(algorithm, &both.files["large"]).digits());
            }
            error => panic!("{error}"),
        }
    }
    both.draft.unlink(ROOT, b"small").await.unwrap();
    let error = Candidate(both.written())
        .verify(&manifests[1], &[])
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::NoBackup(_)) && error.to_string().contains("small"),
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
    let mut both = backup(&archive).await;
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
        Candidate(both.written()).verify_tars(manifest).await.unwrap();
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
                match (flip, Candidate(both.written()).verify_tars(manifest).await) {
                    (0, verified) => assert!(verified.unwrap().is_some(), "the control file"),
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
        let error = Candidate(both.written())
            .verify_tars(&manifests[0])
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NoBackup(_)), "{error}");
    }
    both.close("base.tar").await;
}

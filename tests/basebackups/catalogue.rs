//! Which backups there are: complete ones, unfinished ones, damaged ones, and what `LATEST` means (promise B2, B7).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use walfs::archive::tree::begun::Process;
use walfs::archive::tree::catalogue::{BackupWal, Begun, By};
use walfs::archive::tree::summary::{Description, Summary};
use walfs::archive::tree::{Attributes, Content, Entry, Extent, Tree, TreeId, TreeKind, TreeName};
use walfs::archive::{self, Archive, Error};
use walfs::codec::Compression;
use walfs::parts::part::PartBuilder;
use walfs::pg::Lsn;
use walfs::store::Patience;

use crate::common::below::{Below, LONG};
use crate::common::made_up::{self, description};
use crate::common::scripted::Scripted;
use crate::common::wal;

const SYSTEM: u64 = 7_300_000_000_000_000_001;
const SEGMENT_BYTES: u32 = 1 << 20;

fn patience() -> Patience {
    Patience::for_at_most(LONG)
}

fn name(text: &str) -> TreeName {
    text.parse().expect("a name")
}

fn begun() -> Begun {
    Begun {
        at: Timestamp::UNIX_EPOCH,
        content: TreeKind::BaseBackup,
        by: By::Backup,
        process: Process {
            boot_id: "another".into(),
            host: "elsewhere".into(),
            pid: 1,
            pid_began_ticks: 2,
        },
    }
}

async fn open(backend: &Arc<Scripted>) -> Archive {
    let options = archive::Options {
        create: true,
        ..Default::default()
    };
    Archive::open(backend.store(), &options, patience())
        .await
        .expect("an archive")
}

/// A tree of one file of a few bytes that needs segment 2; what `begin_tree` said, stored but for its commit.
async fn stored(archive: &Archive, text: &str, content: &[u8]) -> (Tree, Description) {
    let id = TreeId::fresh(&name(text));
    archive
        .begin_tree(&id, &begun(), patience())
        .await
        .expect("begun");
    let mut builder = PartBuilder::new(Compression::default());
    builder.push(content);
    let part = builder.finish(&[]);
    let key = id.part_key(0, 0, "lz4");
    archive
        .put_part(&key, part.object.clone(), patience())
        .await
        .expect("stored");
    let attributes = Attributes {
        mode: 0o700,
        uid: 1,
        gid: 1,
        modified: Timestamp::UNIX_EPOCH,
    };
    let file = Content::File {
        bytes: content.len() as u64,
        extents: [Extent {
            part: 0,
            offset: 0,
            bytes: content.len() as u64,
        }]
        .into(),
    };
    let entry = |path: &[u8], content| Entry {
        path: path.into(),
        attributes,
        content,
    };
    let entries = vec![entry(b"", Content::Directory), entry(b"file", file)];
    let tree = Tree::new(id, vec![part.described(key)], entries).expect("a tree");
    (tree, description())
}

async fn commit(archive: &Archive, tree: &Tree, description: Description) -> Result<Summary, Error> {
    made_up::commit(archive, tree, description, patience()).await
}

async fn unfinished(archive: &Archive) -> Vec<TreeId> {
    let found = archive.unfinished_trees(patience()).await.expect("a listing");
    found.into_iter().map(|tree| tree.id).collect()
}

/// B2: "A backup is listed as complete ... only when every byte is in the store, its manifest is". B7: and stays.
#[tokio::test]
async fn b2_a_tree_is_there_from_its_commit_on() {
    let backend = Scripted::map(true);
    let archive = open(&backend).await;
    let (tree, begun_as) = stored(&archive, "monday", b"content").await;
    assert_eq!(archive.trees(TreeKind::BaseBackup, patience()).await.unwrap(), []);
    assert_eq!(unfinished(&archive).await, std::slice::from_ref(&tree.id));
    let committed = commit(&archive, &tree, begun_as).await.unwrap();
    assert_eq!(unfinished(&archive).await, []);
    let found = archive
        .summary(TreeKind::BaseBackup, &name("monday"), patience())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found, committed);
    assert!(found.stored_bytes > 0 && found.stored_bytes >= found.manifest.stored_bytes);
    let read = archive.tree(&name("monday"), &found, patience()).await.unwrap();
    assert_eq!(*read, tree);

    // B7: nobody takes its name, and nobody drops it.
    let again = archive
        .begin_tree(&TreeId::fresh(&name("monday")), &begun(), patience())
        .await;
    assert!(matches!(again, Err(Error::TreeLacksWal { .. })), "{again:?}");
    let dropped = archive.drop_unfinished(&tree.id, patience()).await;
    assert!(matches!(dropped, Err(Error::TreeExists { .. })), "{dropped:?}");
    assert!(archive.tree(&name("monday"), &found, patience()).await.is_ok());
}

/// Two at one name at the same time: each has its own folder, one wins, the other is told and harms nothing.
#[tokio::test]
async fn b7_of_two_with_one_name_one_wins() {
    for honours_conditions in [true, false] {
        let backend = Scripted::map(honours_conditions);
        let archive = open(&backend).await;
        let (first, first_summary) = stored(&archive, "monday", b"first").await;
        let (second, second_summary) = stored(&archive, "monday", b"second").await;
        let won = commit(&archive, &second, second_summary).await.unwrap();
        let lost = commit(&archive, &first, first_summary).await.unwrap_err();
        assert!(matches!(lost, Error::TreeExists { .. }), "{lost}");
        assert_eq!(
            archive
                .summary(TreeKind::BaseBackup, &name("monday"), patience())
                .await
                .unwrap(),
            Some(won)
        );
        assert_eq!(unfinished(&archive).await, std::slice::from_ref(&first.id));
        archive.drop_unfinished(&first.id, patience()).await.unwrap();
        assert_eq!(unfinished(&archive).await, []);
        let left = backend.objects();
        assert!(
            !left.keys().any(|key| key.starts_with(&first.id.prefix())),
            "{:?}",
            left.keys()
        );
        assert!(left.contains_key(second.parts[0].key.as_str()));
    }
}

/// What a killed backup left is told apart from others of any name, and goes whole.
#[tokio::test]
async fn b2_what_a_killed_backup_left_is_found_and_dropped() {
    let backend = Scripted::map(true);
    let archive = open(&backend).await;
    let mut left = Vec::new();
    for text in ["a", "a.b", "a-b", "monday", "monday.1"] {
        left.push(stored(&archive, text, text.as_bytes()).await.0.id);
    }
    let (tree, whole) = stored(&archive, "kept", b"kept").await;
    commit(&archive, &tree, whole).await.unwrap();
    let mut expected = left.clone();
    expected.sort_by_key(TreeId::prefix);
    assert_eq!(unfinished(&archive).await, expected);
    let described = archive.unfinished_trees(patience()).await.unwrap();
    assert!(
        described
            .iter()
            .all(|tree| tree.begun == Some(begun()) && tree.stored_bytes > 0)
    );
    for id in &left {
        archive.drop_unfinished(id, patience()).await.unwrap();
    }
    assert_eq!(unfinished(&archive).await, []);
    assert!(
        backend
            .objects()
            .keys()
            .all(|key| !key.starts_with("trees/") || key.starts_with(&tree.id.prefix()))
    );
}

/// B2: "and LATEST moves, only when ... every WAL segment from its start to its stop is; what is missing is named".
#[tokio::test]
async fn b2_latest_waits_for_the_wal() {
    let backend = Scripted::map(true);
    let archive = Arc::new(open(&backend).await);
    let (tree, summary) = stored(&archive, "monday", b"1").await;
    let summary = commit(&archive, &tree, summary).await.unwrap();
    let missing = archive.backup_wal(&summary, patience()).await.unwrap();
    let BackupWal::Missing(segments) = missing else {
        panic!("{missing:?}")
    };
    let needed = wal::segment_name(1, 2, SEGMENT_BYTES);
    assert_eq!(
        segments.iter().map(ToString::to_string).collect::<Vec<_>>(),
        std::slice::from_ref(&needed)
    );
    assert_eq!(archive.latest(patience()).await.unwrap(), None);

    let below = Below::over(archive.clone(), LONG).await;
    let segment = wal::segment(&needed, SYSTEM, SEGMENT_BYTES, 1);
    below.copy(&needed, &segment).await.unwrap();
    assert_eq!(
        archive.backup_wal(&summary, patience()).await.unwrap(),
        BackupWal::Complete
    );
    let latest = archive.latest(patience()).await.unwrap().expect("one");
    assert_eq!(latest.0, name("monday"));

    // A newer one that lacks its WAL does not take its place; one that brings its own does.
    for (text, own, expected) in [("tuesday", false, "monday"), ("wednesday", true, "wednesday")] {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let (tree, mut newer) = stored(&archive, text, b"2").await;
        newer.backup.wal[0].start = Lsn(0x900028);
        newer.backup.wal[0].end = Lsn(0x900100);
        if own {
            newer.backup.own_wal = newer.backup.segments().unwrap();
        }
        commit(&archive, &tree, newer).await.unwrap();
        assert_eq!(
            archive.latest(patience()).await.unwrap().unwrap().0,
            name(expected)
        );
    }
}

/// B2: an object without a byte is no segment, whether a few are asked for or many compared with the listing.
#[tokio::test]
async fn b2_an_empty_segment_is_missing() {
    for segments in [3, 100] {
        let backend = Scripted::map(true);
        let archive = Arc::new(open(&backend).await);
        let below = Below::over(archive.clone(), LONG).await;
        let names: Vec<String> = (2..2 + segments)
            .map(|number| wal::segment_name(1, number, SEGMENT_BYTES))
            .collect();
        for name in &names {
            let segment = wal::segment(name, SYSTEM, SEGMENT_BYTES, 1);
            below.copy(name, &segment).await.unwrap();
        }
        let (tree, mut whole) = stored(&archive, "monday", b"1").await;
        whole.backup.wal[0].end = Lsn((1 + segments) * u64::from(SEGMENT_BYTES) + 0x100);
        let whole = commit(&archive, &tree, whole).await.unwrap();
        let wal = || archive.backup_wal(&whole, patience());
        assert_eq!(wal().await.unwrap(), BackupWal::Complete, "{segments}");
        for empty in [0, names.len() / 2, names.len() - 1] {
            let key = format!("wal/{}.lz4", names[empty]);
            let object = backend.objects().remove(&key).expect("it is there");
            backend.set(&key, Some(Bytes::new()));
            let missing = BackupWal::Missing(vec![whole.backup.segments().unwrap()[empty]]);
            assert_eq!(wal().await.unwrap(), missing, "{empty} of {segments}");
            assert_eq!(archive.latest(patience()).await.unwrap(), None);
            backend.set(&key, Some(object));
        }
        assert!(archive.latest(patience()).await.unwrap().is_some());
    }
}

/// R3 for backups: an object that is cut, changed, exchanged or gone is told with the backup's name.
#[tokio::test]
async fn r3_damage_is_told_by_backup_and_object() {
    let backend = Scripted::map(true);
    let archive = open(&backend).await;
    for text in ["monday", "tuesday"] {
        let (tree, summary) = stored(&archive, text, text.as_bytes()).await;
        commit(&archive, &tree, summary).await.unwrap();
    }
    let summary = archive
        .summary(TreeKind::BaseBackup, &name("monday"), patience())
        .await
        .unwrap()
        .unwrap();
    let other = archive
        .summary(TreeKind::BaseBackup, &name("tuesday"), patience())
        .await
        .unwrap()
        .unwrap();
    let key = |summary: &Summary, file: &str| format!("trees/{}/{file}", summary.id);
    let manifest = key(&summary, "manifest.lz4");
    let whole = backend.objects()[&manifest].clone();
    let mut flipped = whole.to_vec();
    flipped[20] ^= 1;
    let exchanged = backend.objects()[&key(&other, "manifest.lz4")].clone();
    let hurt = [
        None,
        Some(whole.slice(..whole.len() - 1)),
        Some(Bytes::from(flipped)),
        Some(exchanged),
    ];
    for bytes in hurt {
        backend.set(&manifest, bytes);
        let read = archive.tree(&name("monday"), &summary, patience()).await;
        let error = read.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::TreeDamaged { .. }), "{text}");
        assert!(text.contains("backup monday") && text.contains("HINT"), "{text}");
    }
    backend.set(&manifest, Some(whole));
    // A summary under another name, or cut: told in the list, and the others are still listed.
    let text = backend.objects()["basebackups/tuesday.json"].clone();
    for hurt in [text.slice(..text.len() / 2), text.clone()] {
        backend.set("basebackups/monday.json", Some(hurt));
        let all = archive.summaries(TreeKind::BaseBackup, patience()).await.unwrap();
        let states: Vec<(&str, bool)> = all
            .iter()
            .map(|(name, read)| (name.as_str(), read.is_ok()))
            .collect();
        assert_eq!(states, [("monday", false), ("tuesday", true)]);
        // Its folder may be a complete backup's, for all that can be known: it is not swept.
        assert_eq!(unfinished(&archive).await, []);
    }
}

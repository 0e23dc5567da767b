//! Reading of complete backups, without the kernel: what it asks of the store, and what damage does (promise R3). On
//! both kinds of store; the backup is a directory made up for it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;
use walfs::archive::{self, Archive};
use walfs::mount::error::Error;
use walfs::mount::node::{Attributes, ROOT};
use walfs::pg::Lsn;
use walfs::store::{self, Counts, Location, Patience, Store};

use crate::common::below::{Below, LONG};
use crate::common::packed::{backup, pack};
use crate::common::s3::S3Server;
use crate::common::scripted::Scripted;

pub(super) const MIB: u64 = 1 << 20;

/// What the kernel asks for at once, unless told otherwise.
const KERNEL_BYTES: usize = 128 << 10;

/// Bytes that neither compress nor repeat.
pub(super) fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut chance = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| chance.u8(..))
        .take(bytes as usize)
        .collect()
}

pub(super) async fn archive(store: Store) -> Archive {
    let create = archive::Options {
        create: true,
        ..Default::default()
    };
    let archive = Archive::open(store, &create, Patience::for_at_most(LONG)).await;
    archive.expect("open the archive")
}

/// The backup `monday` of a directory, seen by a mount that knows nothing yet.
pub(super) async fn browse(store: Store, directory: &Path) -> Browser {
    let needed = backup(MIB, Lsn(0x20_0028), Lsn(0x20_0100));
    pack(&archive(store.clone()).await, "monday", directory, needed).await;
    Browser::over(store).await
}

pub(super) struct Browser {
    pub(super) below: Below,
    store: Store,
}

impl Browser {
    pub(super) async fn over(store: Store) -> Self {
        let archive = Arc::new(archive(store.clone()).await);
        let below = Below::over(archive, LONG).await;
        Self { below, store }
    }

    async fn find(&self, path: &str) -> Result<Attributes, Error> {
        let mut found = self.below.fs.getattr(ROOT, None).await?;
        for name in path.split('/') {
            found = self.below.fs.lookup(found.ino, OsStr::new(name), None).await?;
        }
        Ok(found)
    }

    pub(super) async fn open(&self, path: &str) -> Result<u64, Error> {
        let found = self.find(path).await?;
        self.below
            .fs
            .open_for(found.ino, walfs::mount::fs::Opening::Read, None)
            .await
    }

    /// The whole of a file, as the kernel asks for it.
    async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.read_by(path, KERNEL_BYTES).await
    }

    /// The same, so many bytes at once.
    pub(super) async fn read_by(&self, path: &str, bytes: usize) -> Result<Vec<u8>, Error> {
        let handle = self.open(path).await?;
        let mut content = Vec::new();
        loop {
            let at = content.len() as u64;
            let read = self.below.fs.read(handle, at, bytes, None).await?;
            content.extend_from_slice(&read);
            if read.len() < bytes {
                return Ok(content);
            }
        }
    }

    /// Names and attributes of a directory, as often as it takes.
    async fn list(&self, path: &str) -> Result<Vec<(String, Attributes)>, Error> {
        let directory = self.find(path).await?;
        let handle = self.below.fs.open_directory(directory.ino).await?;
        let (mut found, mut offset) = (Vec::new(), 0);
        loop {
            let answer = self.below.fs.read_directory(handle, offset).await?;
            let Some(last) = answer.last() else {
                return Ok(found);
            };
            offset = last.next_offset;
            let names = answer.into_iter();
            found.extend(names.map(|entry| (entry.name.into_string().expect("UTF-8"), entry.attributes)));
        }
    }

    /// What was asked of the store meanwhile.
    pub(super) fn since(&self, before: &Counts) -> (u64, u64) {
        let now = self.store.counts();
        assert_eq!(now.puts, before.puts);
        (
            now.gets - before.gets,
            now.heads + now.lists - before.heads - before.lists,
        )
    }
}

/// A directory in the store's own directory, or a bucket in this process; whatever it is is gone with the last field.
pub(super) struct Kinds {
    local: TempDir,
    server: S3Server,
    keys: TempDir,
}

impl Kinds {
    pub(super) fn new() -> Self {
        let make = || tempfile::tempdir().expect("make a directory");
        Self {
            local: make(),
            server: S3Server::start(),
            keys: make(),
        }
    }

    pub(super) async fn stores(&self) -> [Store; 2] {
        let keys = self.keys.path().join("credentials");
        let text = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            self.server.access_key(),
            self.server.secret_key()
        );
        fs::write(&keys, text).expect("write the keys");
        let options = store::Options {
            endpoint: Some(self.server.endpoint()),
            region: Some("us-east-1".into()),
            credentials_file: Some(keys),
            ..Default::default()
        };
        let bucket = Location::parse(&format!("s3://{}/p", self.server.bucket())).expect("a place");
        let local = Location::Dir(self.local.path().to_owned());
        [
            store::open(&local, &options).await.expect("open the directory"),
            store::open(&bucket, &options).await.expect("open the bucket"),
        ]
    }
}

/// 64 MiB in three slices: one request a read at random, once the seek tables are there; a few to read all in order.
#[tokio::test(flavor = "multi_thread")]
async fn reads_ask_for_what_they_need() {
    let content = noise(7, 64 * MIB);
    let directory = tempfile::tempdir().expect("make a directory");
    fs::write(directory.path().join("relation"), &content).expect("write a file");
    let kinds = Kinds::new();
    for store in kinds.stores().await {
        let browser = browse(store.clone(), directory.path()).await;
        let handle = browser
            .open("basebackups/monday/relation")
            .await
            .expect("open it");
        let page = |offset| browser.below.fs.read(handle, offset, 8192, None);
        for slice in 0..3 {
            page(slice * 32 * MIB - slice.min(1) * 8192)
                .await
                .expect("read a page");
        }
        // Far from each other: each in a frame of its own.
        for place in (2..64).step_by(3).map(|mib| mib * MIB + 614_400) {
            let before = store.counts();
            let read = page(place).await.expect("read a page");
            assert!(read == content[place as usize..][..8192], "at {place}");
            assert_eq!(browser.since(&before), (1, 0), "at {place}");
            assert!(
                store.counts().bytes_in - before.bytes_in < 300 << 10,
                "at {place}"
            );
        }
        let before = store.counts();
        let fresh = Browser::over(store.clone()).await;
        assert!(fresh.read("basebackups/monday/relation").await.expect("read it") == content);
        let (gets, others) = fresh.since(&before);
        // Two to open the archive, summary, manifest, three tables, and windows of 4 MiB.
        assert!((20..=33).contains(&gets), "{gets} requests");
        assert!(others <= 1, "{others} questions");
    }
}

/// Ten thousand files in twenty directories: nothing is asked for any of them, however often they are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn looking_at_files_asks_nothing() {
    let directory = tempfile::tempdir().expect("make a directory");
    for inside in 0..20 {
        let inside = directory.path().join(format!("d{inside}"));
        fs::create_dir(&inside).expect("make a directory");
        for file in 0..500 {
            fs::write(inside.join(format!("f{file}")), vec![b'x'; file]).expect("write a file");
        }
    }
    let kinds = Kinds::new();
    for store in kinds.stores().await {
        let browser = browse(store.clone(), directory.path()).await;
        let before = store.counts();
        let mut seen = 0;
        for (name, _) in browser.list("basebackups/monday").await.expect("list it") {
            if name.starts_with('.') {
                continue;
            }
            let files = browser
                .list(&format!("basebackups/monday/{name}"))
                .await
                .expect("list it");
            for (file, listed) in files.iter().filter(|(file, _)| file.starts_with('f')) {
                let found = browser.find(&format!("basebackups/monday/{name}/{file}")).await;
                assert_eq!(found.expect("find it"), *listed);
                assert_eq!(listed.bytes, file[1..].parse::<u64>().expect("a number"));
                seen += 1;
            }
        }
        assert_eq!(seen, 10_000);
        // The summary and the manifest.
        assert_eq!(browser.since(&before), (2, 0));
    }
}

/// `cp -a` reads files in an order of its own, and more of them than the cache holds plain: a part is fetched a few times
/// at most, not once for each file.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_in_any_order_cost_few_requests() {
    let directory = tempfile::tempdir().expect("make a directory");
    let mut names: Vec<String> = (0..6_000).map(|number| format!("f{number}")).collect();
    for name in &names {
        let content = name.repeat((16 << 10) / name.len());
        fs::write(directory.path().join(name), content).expect("write a file");
    }
    fastrand::Rng::with_seed(9).shuffle(&mut names);
    let kinds = Kinds::new();
    for store in kinds.stores().await {
        let browser = browse(store.clone(), directory.path()).await;
        let parts = store
            .list("trees/", None, 1000, Patience::for_at_most(LONG))
            .await
            .expect("a listing")
            .entries
            .iter()
            .filter(|(key, _)| key.as_str().contains(".tar."))
            .count();
        let before = store.counts();
        for name in &names {
            let content = browser.read(&format!("basebackups/monday/{name}")).await;
            let expected = name.repeat((16 << 10) / name.len());
            assert!(content.expect("read it") == expected.as_bytes(), "{name}");
        }
        let (gets, _) = browser.since(&before);
        assert!(gets <= 4 * parts as u64 + 2, "{gets} requests for {parts} parts");
    }
}

/// Readers of one place fetch it once, and get the same.
#[tokio::test(flavor = "multi_thread")]
async fn many_readers_fetch_once() {
    let content = noise(8, 3 * MIB);
    let directory = tempfile::tempdir().expect("make a directory");
    fs::write(directory.path().join("relation"), &content).expect("write a file");
    let store = Scripted::map(true).store();
    let browser = browse(store.clone(), directory.path()).await;
    let handle = browser
        .open("basebackups/monday/relation")
        .await
        .expect("open it");
    let before = store.counts();
    let reads = (0..50).map(|_| browser.below.fs.read(handle, MIB, 8192, None));
    for read in futures::future::join_all(reads).await {
        assert!(read.expect("read a page") == content[MIB as usize..][..8192]);
    }
    assert_eq!(browser.since(&before), (2, 0), "the table and the frame");
}

/// A needed segment is seen in `pg_wal` once it is archived, and reads as in `wal/`.
#[tokio::test(flavor = "multi_thread")]
async fn pg_wal_shows_what_is_archived() {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::create_dir_all(directory.path().join("pg_wal/archive_status")).expect("make a directory");
    let store = Scripted::map(true).store();
    let browser = browse(store, directory.path()).await;
    let names = async || -> Vec<String> {
        let listed = browser.list("basebackups/monday/pg_wal").await.expect("list it");
        let mut names: Vec<_> = listed.into_iter().map(|(name, _)| name).skip(2).collect();
        names.sort();
        names
    };
    assert_eq!(names().await, ["archive_status"]);
    assert!(matches!(
        browser.find("basebackups/LATEST").await,
        Err(Error::NotFound)
    ));
    let segment = crate::common::wal::segment_name(1, 2, MIB as u32);
    let path = format!("basebackups/monday/pg_wal/{segment}");
    assert!(matches!(browser.find(&path).await, Err(Error::NotFound)));
    let content = crate::common::wal::segment(&segment, 7, MIB as u32, 1);
    browser.below.copy(&segment, &content).await.expect("archive it");
    assert_eq!(names().await, [&segment, "archive_status"]);
    assert!(browser.read(&path).await.expect("read it") == content);
    let other = crate::common::wal::segment_name(1, 3, MIB as u32);
    browser
        .below
        .copy(&other, &crate::common::wal::segment(&other, 7, MIB as u32, 1))
        .await
        .expect("archive it");
    assert_eq!(names().await, [&segment, "archive_status"]);
}

/// Whatever happens to an object of a backup: the right bytes, or an error that names the backup, and the file if there
/// is one. Files in other objects are still read.
#[tokio::test(flavor = "multi_thread")]
async fn r3_damaged_backups_are_errors_that_name_them() {
    let directory = tempfile::tempdir().expect("make a directory");
    let large = noise(9, 33 * MIB);
    let small = noise(10, 700_000);
    fs::write(directory.path().join("large"), &large).expect("write a file");
    fs::write(directory.path().join("small"), &small).expect("write a file");
    let whole = Scripted::map(true);
    browse(whole.store(), directory.path()).await;
    let objects = whole.objects();
    let stored = |such: &str| -> Vec<&String> { objects.keys().filter(|key| key.contains(such)).collect() };
    let parts = stored(".tar.");
    assert_eq!(parts.len(), 3, "{parts:?}");
    let manifest = stored("manifest.")[0];
    for key in parts.iter().copied().chain([manifest]) {
        let others = parts
            .iter()
            .copied()
            .find(|other| *other != key)
            .expect("another part");
        for (damage, damaged) in damages(&objects[key], &objects[others]) {
            let browser = damaged_browser(&objects, key, damaged).await;
            let mut errors = 0;
            for (name, content) in [("large", &large), ("small", &small)] {
                match browser.read(&format!("basebackups/monday/{name}")).await {
                    Ok(read) => assert!(read == *content, "{key}, {damage}: wrong bytes of {name}"),
                    Err(error) => {
                        let text = error.to_string();
                        assert_eq!(error.errno(), libc::EIO, "{key}, {damage}: {text}");
                        assert!(
                            text.contains("backup monday") && text.contains(key.as_str()),
                            "{key}, {damage}: {text}"
                        );
                        assert!(key == manifest || text.contains(name), "{key}, {damage}: {text}");
                        errors += 1;
                    }
                }
            }
            assert_eq!(errors, if key == manifest { 2 } else { 1 }, "{key}, {damage}");
        }
    }
}

async fn damaged_browser(objects: &BTreeMap<String, Bytes>, key: &str, damaged: Option<Bytes>) -> Browser {
    let backend = Scripted::map(true);
    for (other, bytes) in objects {
        backend.set(other, Some(bytes.clone()));
    }
    backend.set(key, damaged);
    Browser::over(backend.store()).await
}

fn damages(object: &Bytes, other: &Bytes) -> Vec<(String, Option<Bytes>)> {
    let length = object.len();
    let mut all = vec![
        ("deleted".to_owned(), None),
        ("another object".into(), Some(other.clone())),
        ("zeros".into(), Some(vec![0; length].into())),
    ];
    for place in [0, 5, length / 3, length - 200, length - 90, length - 1] {
        all.push((format!("cut to {place}"), Some(object.slice(..place))));
        let mut flipped = object.to_vec();
        flipped[place] ^= 0x10;
        all.push((format!("byte {place} flipped"), Some(flipped.into())));
    }
    all
}

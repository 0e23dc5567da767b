//! Complete backups read from one end to the other, without the kernel: what that asks of the store where parts have become
//! small by compression, and what damage and errors ahead of the reader do (promise R3). On both kinds of store.

use std::fs;

use tempfile::TempDir;

use super::reading::{Browser, Kinds, MIB, browse, noise};
use crate::common::scripted::Scripted;

const PATH: &str = "basebackups/monday/relation";

/// What a copier has the kernel ask for at once.
const COPIER_BYTES: usize = 1 << 20;

/// Bytes of which one in ten is left by compression.
fn compressible(seed: u64, bytes: u64) -> Vec<u8> {
    let blocks =
        (0..bytes.div_ceil(64 << 10)).flat_map(|number| noise(seed << 32 | number, 6 << 10).repeat(11));
    blocks.take(bytes as usize).collect()
}

fn relation(content: &[u8]) -> TempDir {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::write(directory.path().join("relation"), content).expect("write a file");
    directory
}

/// 160 MiB in six slices: each is one request, besides those by which it shows that the reader goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_compresses_well_is_fetched_by_the_part() {
    let content = compressible(1, 160 * MIB);
    let directory = relation(&content);
    let kinds = Kinds::new();
    for store in kinds.stores().await {
        let browser = browse(store.clone(), directory.path()).await;
        for (bytes, first) in [(COPIER_BYTES, 2), (128 << 10, 4)] {
            // Nothing of it is known to a mount of its own.
            let fresh = Browser::over(store.clone()).await;
            let before = store.counts();
            assert!(fresh.read_by(PATH, bytes).await.expect("read it") == content);
            let (gets, _) = fresh.since(&before);
            // The summary and the manifest; the parts.
            assert!(gets <= 2 + first + 6, "{gets} requests of {bytes} bytes each");
            let received = store.counts().bytes_in - before.bytes_in;
            assert!(
                received < 20 * MIB,
                "{received} bytes for a tenth of {}",
                content.len()
            );
        }
        drop(browser);
    }
}

/// Damage in what was fetched before anybody came for it is the error of who comes.
#[tokio::test(flavor = "multi_thread")]
async fn r3_damage_ahead_of_a_reader_is_his_error() {
    let content = compressible(2, 70 * MIB);
    let directory = relation(&content);
    let whole = Scripted::map(true);
    browse(whole.store(), directory.path()).await;
    let objects = whole.objects();
    let parts: Vec<&String> = objects.keys().filter(|key| key.contains(".tar.")).collect();
    for key in parts {
        let length = objects[key].len();
        if length < 100_000 {
            continue;
        }
        let mut damages = vec![None, Some(objects[key].slice(..length / 2))];
        for place in [0, length / 3, length - 100] {
            let mut flipped = objects[key].to_vec();
            flipped[place] ^= 0x10;
            damages.push(Some(flipped.into()));
        }
        for damaged in damages {
            let backend = Scripted::map(true);
            for (other, bytes) in &objects {
                backend.set(other, Some(bytes.clone()));
            }
            backend.set(key, damaged);
            let browser = Browser::over(backend.store()).await;
            let error = browser.read_by(PATH, COPIER_BYTES).await.expect_err("damaged");
            let text = error.to_string();
            assert_eq!(error.errno(), libc::EIO, "{text}");
            assert!(
                text.contains("backup monday") && text.contains(key.as_str()),
                "{text}"
            );
        }
    }
}

/// What is asked for ahead of the reader is not to be had then: he asks for it himself.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_ahead_of_a_reader_is_not_his() {
    let content = compressible(3, 160 * MIB);
    let directory = relation(&content);
    let backend = Scripted::map(true);
    let browser = browse(backend.store(), directory.path()).await;
    let slice = |key: &str| key.contains(".tar.") && !key.contains(".00000.tar.");
    let objects = backend.objects().into_iter();
    let slices: Vec<_> = objects.filter(|(key, _)| slice(key)).collect();
    assert_eq!(slices.len(), 5);
    for (key, _) in &slices {
        backend.set(key, None);
    }
    let handle = browser.open(PATH).await.expect("open it");
    let read = async |mib: u64| {
        let range = mib * MIB..(mib + 1) * MIB;
        let read = browser
            .below
            .fs
            .read(handle, range.start, COPIER_BYTES, None)
            .await;
        let expected = &content[range.start as usize..range.end as usize];
        assert!(read.expect("read it") == expected, "at {mib} MiB");
    };
    backend.answers();
    read(0).await;
    let mut failed = 0;
    while failed < 3 {
        let answers = backend.answers();
        failed += answers.iter().filter(|answer| answer.error.is_some()).count();
        tokio::task::yield_now().await;
    }
    for (key, bytes) in slices {
        backend.set(&key, Some(bytes));
    }
    for mib in 1..160 {
        read(mib).await;
    }
}

//! Death at any moment (promise S2): an archive is made and files are brought to it, and after every single call to
//! the store everything is dropped, as `kill -9` or a power cut would. A new start finds whatever was acknowledged,
//! shows nothing that is not whole, and can go on.
//!
//! The local directory syncs before it answers, so what it holds after a call is what a power cut leaves; what a put
//! cut short leaves is a temporary file.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::runtime::Runtime;

use crate::common::below::{Below, LONG};
use crate::common::scripted::Scripted;
use crate::common::wal;

const SYSTEM: u64 = 7_300_000_000_000_000_001;
const SEGMENT_BYTES: u32 = 1 << 20;

fn files() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = (1..=3)
        .map(|number| wal::segment_name(1, number, SEGMENT_BYTES))
        .map(|name| (name.clone(), wal::segment(&name, SYSTEM, SEGMENT_BYTES, 1)))
        .collect();
    files.insert(2, ("00000002.history".into(), wal::history(1, "0/3000000")));
    files
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Brings the files one after the other, noting which were acknowledged.
async fn archive(backend: &Arc<Scripted>, files: &[(String, Vec<u8>)], acknowledged: &Mutex<Vec<String>>) {
    let below = Below::open(backend.store(), LONG)
        .await
        .expect("open the archive");
    for (name, content) in files {
        below
            .copy(name, content)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        acknowledged.lock().unwrap().push(name.clone());
    }
}

/// Archives until the store dies; then nothing of this process is left. How many files were acknowledged, and did the
/// store live to the end?
fn until_death(backend: &Arc<Scripted>, files: &[(String, Vec<u8>)]) -> (Vec<String>, bool) {
    let acknowledged = Mutex::default();
    let lived = runtime().block_on(async {
        tokio::select! {
            () = archive(backend, files, &acknowledged) => true,
            () = backend.dead() => false,
        }
    });
    (acknowledged.into_inner().unwrap(), lived)
}

/// The new start: what is there, and that it can go on.
fn after_death(backend: &Arc<Scripted>, files: &[(String, Vec<u8>)], acknowledged: &[String]) {
    runtime().block_on(async {
        let below = Below::open(backend.store(), LONG).await.expect("open again");
        let listed: Vec<String> = below
            .list()
            .await
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        for name in acknowledged {
            assert!(listed.contains(name), "{name} was acknowledged and is not there");
        }
        for name in &listed {
            let (_, content) = files
                .iter()
                .find(|(known, _)| known == name)
                .expect("one of ours");
            assert!(below.read(name).await.unwrap() == *content, "{name} is not whole");
        }
        drop(below);
        archive(backend, files, &Mutex::default()).await;
        let below = Below::open(backend.store(), LONG).await.unwrap();
        for (name, content) in files {
            assert!(
                below.read(name).await.unwrap() == *content,
                "{name} is not what was brought"
            );
        }
    });
}

/// `make` opens what is stored there, or begins anew for another number.
fn dies_everywhere(make: impl Fn(usize) -> (Arc<Scripted>, Box<dyn Fn() -> Arc<Scripted>>)) {
    let files = files();
    for done in [false, true] {
        for calls in 0.. {
            let (backend, again) = make(calls * 2 + usize::from(done));
            backend.die_after(calls, done);
            let (acknowledged, lived) = until_death(&backend, &files);
            drop(backend);
            after_death(&again(), &files, &acknowledged);
            if lived {
                assert!(calls > 12, "only {calls} calls were made: nothing was tested");
                break;
            }
        }
    }
}

#[test]
fn s2_local_directory() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().to_owned();
    dies_everywhere(move |number| {
        let path = root.join(number.to_string());
        let open = move |path: &Path| runtime().block_on(Scripted::directory(path));
        let backend = open(&path);
        (backend, Box::new(move || open(&path)))
    });
}

#[test]
fn s2_store_with_and_without_conditions() {
    for honours_conditions in [true, false] {
        dies_everywhere(|_| {
            let backend = Scripted::map(honours_conditions);
            let objects = backend.clone();
            let again = move || {
                let next = Scripted::map(honours_conditions);
                for (key, bytes) in objects.objects() {
                    next.set(&key, Some(bytes));
                }
                next
            };
            (backend, Box::new(again))
        });
    }
}

/// A put that was cut short has left a temporary file, of any length: it is no file of the archive.
#[test]
fn s2_temporary_files_of_a_power_cut_are_not_seen() {
    let place = tempfile::tempdir().unwrap();
    let files = files();
    runtime().block_on(async {
        let backend = Scripted::directory(place.path()).await;
        archive(&backend, &files, &Mutex::default()).await;
    });
    let stored = fs::read(place.path().join(format!("wal/{}.lz4", files[0].0))).unwrap();
    for (number, bytes) in [0, 1, 1000, stored.len()].into_iter().enumerate() {
        let left = place.path().join(format!(".tmp/walfs-{number:016x}.tmp"));
        fs::write(left, &stored[..bytes]).unwrap();
    }
    let backend = runtime().block_on(Scripted::directory(place.path()));
    after_death(&backend, &files, &[]);
    let listed = runtime().block_on(async {
        let below = Below::open(backend.store(), LONG).await.unwrap();
        below.list().await.unwrap()
    });
    assert_eq!(listed.len(), files.len());
}

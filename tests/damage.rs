//! Damage to stored objects (promise R3): whatever happens to one, reading gives the bytes that were archived, or an
//! error that names the object. Never other bytes, never a file that is short and looks whole, and never "no such file"
//! for an object that is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use walfs::codec::{SeekTable, Tail};
use walfs::mount::error::Error;

use crate::common::below::{Below, LONG};
use crate::common::scripted::Scripted;
use crate::common::wal;

const SYSTEM: u64 = 7_300_000_000_000_000_001;
const SEGMENT_BYTES: u32 = 1 << 20;

/// The skippable frame at the end of an object: 8 bytes, 40 for each of the segment's 4 frames, 96 for the footer.
const TABLE_BYTES: usize = 8 + 4 * 40 + 96;

type Objects = BTreeMap<String, Bytes>;
type Contents = BTreeMap<String, Vec<u8>>;

fn contents() -> Contents {
    let segment = |number| wal::segment_name(1, number, SEGMENT_BYTES);
    let pages = |name: &str| wal::segment(&name[..24], SYSTEM, SEGMENT_BYTES, 1);
    let backup = format!(
        "START WAL LOCATION: 0/200028 (file {0})\nSTOP WAL LOCATION: 0/200138 (file {0})\nCHECKPOINT LOCATION: 0/200028\n\
         BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-28 12:00:00 UTC\nLABEL: x\n\
         START TIMELINE: 1\nSTOP TIME: 2026-11-28 12:00:01 UTC\nSTOP TIMELINE: 1\n",
        segment(2)
    );
    let partial = format!("{}.partial", segment(3));
    [
        (segment(1), pages(&segment(1))),
        (segment(2), pages(&segment(2))),
        (partial.clone(), pages(&partial)),
        ("00000002.history".into(), wal::history(1, "0/3000000")),
        (format!("{}.00000028.backup", segment(2)), backup.into_bytes()),
    ]
    .into()
}

/// An archive of these files, as its objects.
async fn archived(contents: &Contents) -> Objects {
    let backend = Scripted::map(true);
    let below = Below::open(backend.store(), LONG).await.unwrap();
    for (name, content) in contents {
        below.copy(name, content).await.unwrap();
    }
    backend.objects()
}

/// What is done to an object, in words, and what it is then; `None`: it is gone.
fn damages(object: &Bytes, other: &Bytes) -> Vec<(String, Option<Bytes>)> {
    let mut all = vec![
        ("deleted".to_owned(), None),
        ("empty".into(), Some(Bytes::new())),
        ("zeros".into(), Some(vec![0; object.len()].into())),
        ("another object".into(), Some(other.clone())),
        ("twice".into(), Some([&object[..], &object[..]].concat().into())),
    ];
    for bytes in places(object.len()) {
        all.push((format!("cut to {bytes} bytes"), Some(object.slice(..bytes))));
        let mut flipped = object.to_vec();
        flipped[bytes] ^= 1 << (bytes % 8);
        all.push((format!("byte {bytes} flipped"), Some(flipped.into())));
    }
    all
}

/// Frame header, block size, block, later frames, the table's header, entries and footer, the last byte; of a short
/// object every byte.
fn places(length: usize) -> Vec<usize> {
    if length < 600 {
        return (0..length).collect();
    }
    let table = length - TABLE_BYTES;
    let footer = length - 96;
    let mut places = vec![
        0,
        3,
        4,
        5,
        6,
        7,
        10,
        11,
        5000,
        length / 4,
        length / 2,
        table - 5,
        table - 1,
    ];
    places.extend((table..footer).step_by(7));
    places.extend(footer..length);
    places
}

/// Is but the index of a segment another one, which is a hint?
fn only_in_annex(object: &Bytes, damaged: &Bytes) -> bool {
    let table = match SeekTable::parse(object, object.len() as u64) {
        Ok(Tail::Table(table)) if damaged.len() == object.len() => table,
        _ => return false,
    };
    let annex = table.annex_range();
    let mut other = (0_u64..)
        .zip(object.iter().zip(damaged))
        .filter(|(_, (one, two))| one != two);
    other.all(|(at, _)| annex.contains(&at))
}

async fn opened(objects: &Objects) -> (Arc<Scripted>, Result<Below, walfs::archive::Error>) {
    let backend = Scripted::map(true);
    for (key, bytes) in objects {
        backend.set(key, Some(bytes.clone()));
    }
    let below = Below::open(backend.store(), LONG).await;
    (backend, below)
}

fn changed(objects: &Objects, key: &str, damaged: Option<Bytes>) -> Objects {
    let mut objects = objects.clone();
    match damaged {
        Some(bytes) => objects.insert(key.to_owned(), bytes),
        None => objects.remove(key),
    };
    objects
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_damaged_files_are_errors_that_name_the_object() {
    let contents = contents();
    let objects = archived(&contents).await;
    let names: Vec<&String> = contents.keys().collect();
    for (index, name) in names.iter().enumerate() {
        let key = format!("wal/{name}.lz4");
        let other = &objects[&format!("wal/{}.lz4", names[(index + 1) % names.len()])];
        for (damage, damaged) in damages(&objects[&key], other) {
            let gone = damaged.is_none();
            let is_hint = damaged
                .as_ref()
                .is_some_and(|damaged| only_in_annex(&objects[&key], damaged));
            let (_, below) = opened(&changed(&objects, &key, damaged)).await;
            match below.unwrap().read(name).await {
                Ok(read) if is_hint => assert_eq!(read, contents[*name], "{key}, {damage}"),
                Ok(_) => panic!("{key}, {damage}: it was read"),
                Err(Error::NotFound) => assert!(gone, "{key}, {damage}: it is there"),
                Err(Error::Archive(error)) => {
                    assert!(!gone, "{key}, {damage}: {error}");
                    let text = error.to_string();
                    assert!(text.contains(&key), "{key}, {damage}: does not name it: {text}");
                }
                Err(error) => panic!("{key}, {damage}: {error}"),
            }
        }
    }
}

/// Every other file is still read.
#[tokio::test(flavor = "multi_thread")]
async fn r3_damage_stays_where_it_is() {
    let contents = contents();
    let objects = archived(&contents).await;
    for damaged in contents.keys() {
        let key = format!("wal/{damaged}.lz4");
        let zeros = Bytes::from(vec![0; objects[&key].len()]);
        let (_, below) = opened(&changed(&objects, &key, Some(zeros))).await;
        let below = below.unwrap();
        assert_eq!(below.list().await.unwrap().len(), contents.len());
        for (name, content) in contents.iter().filter(|(name, _)| *name != damaged) {
            assert!(
                below.read(name).await.unwrap() == *content,
                "{name}, with {damaged} damaged"
            );
        }
    }
}

/// Of the two small objects about the archive a change may be harmless (a digit of the archive's random name). Then
/// everything reads as before; a file that is there is never said to be absent.
#[tokio::test(flavor = "multi_thread")]
async fn r3_damaged_markers_make_no_wrong_bytes() {
    let contents = contents();
    let objects = archived(&contents).await;
    for (key, other) in [("walfs.json", "cluster.json"), ("cluster.json", "walfs.json")] {
        for (damage, damaged) in damages(&objects[key], &objects[other]) {
            let fatal = damaged
                .as_ref()
                .is_none_or(|bytes| bytes.len() < objects[key].len() - 1);
            let (_, below) = opened(&changed(&objects, key, damaged)).await;
            let below = match below {
                Ok(below) => below,
                Err(error) => {
                    let text = error.to_string();
                    assert!(names_it(&text, key), "{key}, {damage}: does not name it: {text}");
                    continue;
                }
            };
            assert!(!fatal || key == "cluster.json", "{key}, {damage}: it was opened");
            for (name, content) in &contents {
                match below.read(name).await {
                    Ok(read) => assert!(read == *content, "{key}, {damage}: {name} has other bytes"),
                    Err(Error::NotFound) => panic!("{key}, {damage}: {name} is said to be absent"),
                    Err(error) => {
                        let text = error.to_string();
                        let named = text.contains(key) || text.contains(&format!("wal/{name}"));
                        assert!(named, "{key}, {damage}: {name}: {text}");
                    }
                }
            }
        }
    }
}

/// By its key, or by the one field of it that does not fit.
fn names_it(text: &str, key: &str) -> bool {
    text.contains(key) || text.contains("format version") || text.contains("is compressed with")
}

/// A marker that is lost is not made anew over somebody's files: with another codec none of them would be found.
#[tokio::test(flavor = "multi_thread")]
async fn r1_lost_marker_does_not_make_an_empty_archive() {
    let objects = archived(&contents()).await;
    for lost in [&["walfs.json"][..], &["walfs.json", "cluster.json"]] {
        let mut left = objects.clone();
        lost.iter().for_each(|key| drop(left.remove(*key)));
        let (backend, below) = opened(&left).await;
        let text = below.expect_err("opened").to_string();
        assert!(text.contains("walfs.json"), "{text}");
        assert_eq!(backend.objects(), left);
    }
}

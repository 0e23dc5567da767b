//! Directories as the kernel reads them, without the kernel: what comes in which answer, and what it costs the store.

use std::fs::{self, File};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use walfs::archive::{self, Archive};
use walfs::cache::Cache;
use walfs::metrics::Metrics;
use walfs::mount::directory::Entry;
use walfs::mount::fs::{self as mounted, Fs};
use walfs::mount::node::ROOT;
use walfs::read::Reader;
use walfs::staging::Staging;
use walfs::store::{self, Location, Patience};

use super::common::wal;

const DEADLINE: Duration = Duration::from_secs(45);

/// An archive of so many segments of one byte each, which is enough for a listing, and its directory unmounted.
async fn directory_of(count: u64, place: &TempDir) -> (Fs, Arc<Archive>) {
    let location = Location::parse(place.path().to_str().unwrap()).unwrap();
    let store = store::open(&location, &store::Options::default()).await.unwrap();
    let create = archive::Options {
        create: true,
        ..Default::default()
    };
    let open = || Archive::open(store.clone(), &create, Patience::for_at_most(DEADLINE));
    open().await.unwrap();
    let cluster =
        r#"{"system_identifier": "7", "segment_bytes": 16777216, "first_file": "000000010000000000000001"}"#;
    fs::write(place.path().join("cluster.json"), cluster).unwrap();
    for name in wal::segment_names(1, 1, count) {
        File::create(place.path().join(format!("wal/{name}.lz4"))).unwrap();
    }
    let archive = Arc::new(open().await.unwrap());
    let options = mounted::Options {
        deadline: DEADLINE,
        longest: None,
        quiet_after: Duration::from_secs(60),
        read_deadline: None,
        read_only: false,
        mountpoint: Default::default(),
    };
    let reader = Reader::new(archive.clone(), Cache::new(1 << 20), None);
    let staging = Staging::new(archive.compression(), &Default::default());
    let fs = Fs::new(
        archive.clone(),
        reader,
        staging,
        Arc::new(Metrics::default()),
        options,
        None,
    );
    (fs, archive)
}

/// Every answer of a directory that is read to its end, as a kernel with endless room would take them.
async fn answers(fs: &Fs, name: &str) -> Vec<Vec<Entry>> {
    let ino = fs.lookup(ROOT, name.as_ref(), None).await.unwrap().ino;
    let handle = fs.open_directory(ino).await.unwrap();
    answers_from(fs, handle, 0).await
}

async fn answers_from(fs: &Fs, handle: u64, mut offset: u64) -> Vec<Vec<Entry>> {
    let mut answers = Vec::new();
    loop {
        let answer = fs.read_directory(handle, offset).await.unwrap();
        let Some(last) = answer.last() else { return answers };
        offset = last.next_offset;
        answers.push(answer);
    }
}

/// After a first answer of `.` and `..` alone the kernel asked for names without attributes, and `ls -l` for those of
/// each of the first thousand files: twenty seconds for a store that is twenty milliseconds away.
#[tokio::test]
async fn the_first_answer_has_segments_in_it() {
    let place = TempDir::new().unwrap();
    let (fs, archive) = directory_of(1500, &place).await;
    let before = archive.store().counts();
    let answers = answers(&fs, "wal").await;
    assert!(answers[0].len() > 2, "the dots, and nothing else");
    let names: Vec<&str> = answers
        .iter()
        .flatten()
        .map(|entry| entry.name.to_str().unwrap())
        .collect();
    let expected = wal::segment_names(1, 1, 1500);
    assert_eq!(names[..2], [".", ".."]);
    assert!(names[2..].iter().eq(expected.iter()), "{names:?}");
    let after = archive.store().counts();
    assert_eq!((after.lists - before.lists, after.heads - before.heads), (3, 0));
}

/// The kernel takes as many entries as it has room for and comes back with the offset of the last one.
#[tokio::test]
async fn a_directory_can_be_continued_after_every_entry() {
    let place = TempDir::new().unwrap();
    let (fs, _archive) = directory_of(3, &place).await;
    for name in ["wal", ".walfs", ".absent"] {
        let whole = answers(&fs, name).await.concat();
        let ino = fs.lookup(ROOT, name.as_ref(), None).await.unwrap().ino;
        let handle = fs.open_directory(ino).await.unwrap();
        for (index, entry) in whole.iter().enumerate() {
            let rest = fs.read_directory(handle, entry.next_offset).await.unwrap();
            assert_eq!(rest, whole[index + 1..], "{name} after {:?}", entry.name);
        }
    }
}

/// A reader goes back to a page that is not in memory any more, and a name has come into it meanwhile: none that he has
/// seen before is missing, although all that follow have moved.
#[tokio::test]
async fn nothing_is_lost_behind_a_name_that_came_in_between() {
    let place = TempDir::new().unwrap();
    let (fs, _archive) = directory_of(3500, &place).await;
    let ino = fs.lookup(ROOT, "wal".as_ref(), None).await.unwrap().ino;
    let handle = fs.open_directory(ino).await.unwrap();
    let before = answers_from(&fs, handle, 0).await.concat();
    let new = "0000000100000000000000FF.00000028.backup";
    let stored = walfs::codec::stored_bytes_uncompressed(100);
    let object = File::create(place.path().join(format!("wal/{new}.lz4"))).unwrap();
    object.set_len(stored).unwrap();
    let again = answers_from(&fs, handle, 0).await.concat();
    let name = |entry: &Entry| entry.name.clone().into_string().unwrap();
    let mut expected: Vec<String> = before.iter().map(name).chain([new.to_owned()]).collect();
    expected[2..].sort_by_key(|name| format!("{name}.lz4"));
    assert_eq!(again.iter().map(name).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn an_empty_archive_is_an_empty_directory() {
    let place = TempDir::new().unwrap();
    let (fs, _archive) = directory_of(0, &place).await;
    let names: Vec<String> = answers(&fs, "wal")
        .await
        .concat()
        .into_iter()
        .map(|entry| entry.name.into_string().unwrap())
        .collect();
    assert_eq!(names, [".", ".."]);
}

//! What only this backend has: crashes, directories that vanish, modes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn opened(scratch: &TempDir) -> Root {
    Root::open(scratch.path().join("archive"), true).unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text)
}

fn put(root: &Root, name: &str, body: &str) -> Result<(), Error> {
    root.put(&key(name), body.as_bytes(), PutMode::IfAbsent)
}

fn kind<T>(outcome: Result<T, Error>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn temp_files(root: &Root) -> usize {
    fs::read_dir(root.temp_dir(&key("x"))).unwrap().count()
}

fn names(root: &Root) -> Vec<String> {
    let page = root.list("", "", 1000).unwrap();
    page.entries.iter().map(|(key, _)| key.to_string()).collect()
}

#[test]
fn only_the_owner_gets_in() {
    let scratch = scratch();
    let root = opened(&scratch);
    put(&root, "a/b/c", "x").unwrap();
    assert_eq!(mode(&root.path), 0o700);
    assert_eq!(mode(&root.path.join("a/b")), 0o700);
    assert_eq!(mode(&root.path.join("a/b/c")), 0o600);
    assert_eq!(mode(&root.temp_dir(&key("x"))), 0o700);
}

#[test]
fn a_stored_object_has_one_name() {
    let scratch = scratch();
    let root = opened(&scratch);
    put(&root, "a/1", "x").unwrap();
    root.put(&key("a/2"), b"x", PutMode::Overwrite).unwrap();
    assert_eq!(kind(put(&root, "a/2", "y")), Some(ErrorKind::AlreadyExists));
    assert_eq!(fs::metadata(root.path.join("a/1")).unwrap().nlink(), 1);
    assert_eq!(temp_files(&root), 0);
}

#[test]
fn leftovers_of_a_crash_are_no_objects_and_go_after_a_day() {
    let scratch = scratch();
    let root = opened(&scratch);
    put(&root, "wal/1", "x").unwrap();
    let upload = root.begin_upload(&key("wal/2")).unwrap();
    root.put_part(&upload, 1, b"part").unwrap();
    // A crash between link and unlink leaves a second name; one in the middle of writing leaves half a file.
    let linked = root.temp_dir(&key("x")).join("walfs-0123456789abcdef.tmp");
    fs::hard_link(root.path.join("wal/1"), &linked).unwrap();
    let half = root.temp_dir(&key("x")).join("walfs-fedcba9876543210.tmp");
    fs::write(&half, "hal").unwrap();
    let foreign = root.temp_dir(&key("x")).join("notes.tmp");
    fs::write(&foreign, "mine").unwrap();
    let young = root.temp_dir(&key("x")).join("walfs-00000000000000aa.tmp");
    fs::write(&young, "somebody is writing").unwrap();
    let folder = root.temp_dir(&key("x")).join(&upload.id);
    let past = SystemTime::now() - Duration::from_secs(25 * 3600);
    for old in [&linked, &half, &foreign, &folder] {
        fs::File::open(old).unwrap().set_modified(past).unwrap();
    }
    assert_eq!(names(&root), ["wal/1"]);
    let root = opened(&scratch);
    assert!(!linked.exists() && !half.exists() && !folder.exists());
    assert!(foreign.exists() && young.exists());
    assert_eq!(
        root.get(&key("wal/1"), ByteRange::AtMost(u64::MAX))
            .unwrap()
            .bytes,
        "x"
    );
}

#[test]
fn one_of_many_writers_wins() {
    let scratch = scratch();
    let root = opened(&scratch);
    for round in 0..20 {
        let name = format!("new-{round}/x");
        let write = |writer: usize| put(&root, &name, &writer.to_string());
        let outcomes: Vec<Result<(), Error>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..32).map(|writer| scope.spawn(move || write(writer))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<usize> = (0..32).filter(|writer| outcomes[*writer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        let stored = root.get(&key(&name), ByteRange::AtMost(u64::MAX)).unwrap().bytes;
        assert_eq!(stored, winners[0].to_string());
    }
    assert_eq!(temp_files(&root), 0);
}

/// A disk that is unmounted leaves an empty directory, or none.
#[test]
fn a_directory_that_went_away_has_nothing_to_say() {
    let scratch = scratch();
    let root = opened(&scratch);
    put(&root, "wal/1", "x").unwrap();
    let away = scratch.path().join("away");
    for instead in [false, true] {
        fs::rename(&root.path, &away).unwrap();
        if instead {
            fs::create_dir(&root.path).unwrap();
        }
        for name in ["wal/1", "wal/2"] {
            assert_eq!(kind(root.head(&key(name))), Some(ErrorKind::Transient));
            assert_eq!(
                kind(root.get(&key(name), ByteRange::AtMost(u64::MAX))),
                Some(ErrorKind::Transient)
            );
            assert_eq!(kind(put(&root, name, "y")), Some(ErrorKind::Transient));
            assert_eq!(kind(root.delete(&key(name))), Some(ErrorKind::Transient));
        }
        assert_eq!(kind(root.list("", "", 10)), Some(ErrorKind::Transient));
        assert_eq!(kind(root.begin_upload(&key("wal/3"))), Some(ErrorKind::Transient));
        if instead {
            // Not even a folder was made on the wrong disk.
            fs::remove_dir(&root.path).unwrap();
        }
        fs::rename(&away, &root.path).unwrap();
        assert_eq!(kind(root.head(&key("wal/2"))), Some(ErrorKind::NotFound));
        assert_eq!(names(&root), ["wal/1"]);
    }
}

/// S6: neither what is written nor what is swept goes through a link that took a folder's place, at once or while we run.
#[test]
fn s6_a_link_in_place_of_a_folder_is_not_followed() {
    let scratch = scratch();
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let root = opened(&scratch);
    put(&root, "a/b/1", "x").unwrap();
    for folder in ["a", "a/b", TEMP_DIR] {
        let place = root.path.join(folder);
        let away = scratch.path().join("away");
        fs::rename(&place, &away).unwrap();
        std::os::unix::fs::symlink(&outside, &place).unwrap();
        assert!(put(&root, "a/b/2", "y").is_err(), "{folder}");
        let upload = root.begin_upload(&key("a/b/3"));
        let done = upload.and_then(|upload| {
            let part = root.put_part(&upload, 1, b"z")?;
            root.complete_upload(&upload, &[part], PutMode::IfAbsent)
        });
        assert!(done.is_err(), "{folder}");
        let left = outside.join("walfs-0123456789abcdef.tmp");
        let old = SystemTime::now() - Duration::from_secs(3 * 86400);
        fs::File::create(&left).unwrap().set_modified(old).unwrap();
        root.sweep(&place);
        let names: Vec<_> = fs::read_dir(&outside).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{folder}: {names:?}");
        fs::remove_file(left).unwrap();
        fs::remove_file(&place).unwrap();
        fs::rename(&away, &place).unwrap();
    }
    put(&root, "a/b/2", "y").unwrap();
}

/// S8: what `mkfs` makes for root is nobody's.
#[test]
fn s8_lost_and_found_is_passed_over() {
    let scratch = scratch();
    let root = opened(&scratch);
    put(&root, "wal/1", "x").unwrap();
    fs::create_dir(root.path.join("wal/lost+found")).unwrap();
    fs::write(root.path.join("wal/lost+found/x"), "x").unwrap();
    assert_eq!(names(&root), ["wal/1"]);
}

#[test]
fn folders_removed_while_we_run_are_made_again() {
    let scratch = scratch();
    let root = opened(&scratch);
    put(&root, "a/b/1", "x").unwrap();
    fs::remove_dir_all(root.path.join("a")).unwrap();
    fs::remove_dir_all(root.temp_dir(&key("x"))).unwrap();
    put(&root, "a/b/1", "y").unwrap();
    assert_eq!(
        root.get(&key("a/b/1"), ByteRange::AtMost(u64::MAX))
            .unwrap()
            .bytes,
        "y"
    );
}

#[test]
fn what_is_no_file_is_no_object() {
    let scratch = scratch();
    let root = opened(&scratch);
    put(&root, "a/1", "x").unwrap();
    for absent in ["a", "a/1/2", "a/2"] {
        assert_eq!(
            kind(root.head(&key(absent))),
            Some(ErrorKind::NotFound),
            "{absent}"
        );
        assert_eq!(
            kind(root.get(&key(absent), ByteRange::AtMost(u64::MAX))),
            Some(ErrorKind::NotFound),
            "{absent}"
        );
    }
    // A name cannot be both: the one that came first stays.
    assert_eq!(kind(put(&root, "a", "y")), Some(ErrorKind::AlreadyExists));
    assert_eq!(kind(put(&root, "a/1/2", "y")), Some(ErrorKind::Permanent));
}

#[test]
fn foreign_files_are_not_listed() {
    let scratch = scratch();
    let root = opened(&scratch);
    put(&root, "wal/1", "x").unwrap();
    for foreign in ["wal/with space", "wal/it~", "wal/a\nb"] {
        fs::write(root.path.join(foreign), "x").unwrap();
    }
    std::os::unix::fs::symlink("nowhere", root.path.join("wal/2")).unwrap();
    assert_eq!(names(&root), ["wal/1"]);
}

#[test]
fn nobody_lists_outside() {
    let scratch = scratch();
    let root = opened(&scratch);
    fs::write(scratch.path().join("outside"), "x").unwrap();
    for prefix in ["../", "/", "//", "a/../../"] {
        assert_eq!(root.list(prefix, "", 10).unwrap().entries, [], "{prefix}");
    }
}

#[test]
fn a_new_listing_sees_what_was_stored_since_the_last_one() {
    let scratch = scratch();
    let root = opened(&scratch);
    for name in ["1", "2", "3"] {
        put(&root, name, "x").unwrap();
    }
    let first = root.list("", "", 2).unwrap();
    assert!(first.more);
    fs::remove_file(root.path.join("3")).unwrap();
    let rest = root.list("", "2", 2).unwrap();
    assert_eq!((rest.entries.len(), rest.more), (0, false));
    put(&root, "4", "x").unwrap();
    assert_eq!(names(&root), ["1", "2", "4"]);
    assert_eq!(root.list("", "2", 2).unwrap().entries.len(), 1);
}

#[test]
fn abandoned_listings_do_not_pile_up() {
    let scratch = scratch();
    let root = opened(&scratch);
    for number in 0..20 {
        put(&root, &format!("{number:02}"), "x").unwrap();
    }
    for start in 0..15 {
        assert!(root.list("", &format!("{start:02}"), 1).unwrap().more);
    }
    assert!(root.listings.lock().unwrap().len() <= 4);
}

#[test]
fn a_part_that_rotted_is_no_object() {
    let scratch = scratch();
    let root = opened(&scratch);
    let upload = root.begin_upload(&key("x")).unwrap();
    let part = root.put_part(&upload, 1, b"part").unwrap();
    fs::write(root.temp_dir(&key("x")).join(&upload.id).join("00001"), "bart").unwrap();
    let outcome = root.complete_upload(&upload, std::slice::from_ref(&part), PutMode::IfAbsent);
    assert_eq!(kind(outcome), Some(ErrorKind::Damaged));
    assert_eq!(kind(root.head(&key("x"))), Some(ErrorKind::NotFound));
    root.abort_upload(&upload).unwrap();
    root.abort_upload(&upload).unwrap();
    assert_eq!(
        kind(root.complete_upload(&upload, &[part], PutMode::IfAbsent)),
        Some(ErrorKind::NotFound)
    );
}

#[test]
fn opening_says_what_is_wrong() {
    let scratch = scratch();
    let missing = scratch.path().join("not/there");
    assert_eq!(
        kind(Root::open(missing.clone(), false)),
        Some(ErrorKind::Permanent)
    );
    // What is above an archive is never made: it may be a mount point whose disk is missing.
    assert_eq!(kind(Root::open(missing, true)), Some(ErrorKind::Permanent));
    let root = Root::open(scratch.path().join("there"), true).unwrap();
    put(&root, "file", "x").unwrap();
    assert_eq!(
        kind(Root::open(root.path.join("file"), true)),
        Some(ErrorKind::Permanent)
    );
}

#[test]
fn errnos_are_what_they_mean() {
    let kind = |errno| errors::kind_of(&io::Error::from_raw_os_error(errno));
    assert_eq!(kind(libc::ENOENT), ErrorKind::NotFound);
    assert_eq!(kind(libc::EEXIST), ErrorKind::AlreadyExists);
    assert_eq!(kind(libc::EACCES), ErrorKind::Denied);
    assert_eq!(kind(libc::EROFS), ErrorKind::ReadOnly);
    assert_eq!(kind(libc::ENOSPC), ErrorKind::Full);
    for hiccup in [
        libc::EIO,
        libc::ESTALE,
        libc::EMFILE,
        libc::ETIMEDOUT,
        libc::ENOTCONN,
    ] {
        assert_eq!(kind(hiccup), ErrorKind::Transient);
    }
}

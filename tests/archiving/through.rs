//! `walfs wal-push --mount` and `wal-fetch --mount`: the same promises, kept by the daemon that runs.

use std::fs;
use std::process::Output;

use super::rig::{Rig, SMALL, Source};
use crate::common::s3::Operation;
use crate::common::user::said;
use crate::common::walfs::{Options, walfs};

/// Runs `walfs` as the user of the mount.
fn run(rig: &Rig, arguments: &[&str]) -> Output {
    let mut command = walfs(&rig.world, rig.user());
    command.args(arguments).output().expect("run walfs")
}

fn mountpoint(rig: &Rig) -> String {
    rig.mount.path().display().to_string()
}

fn push(rig: &Rig, source: &Source, more: &[&str]) -> Output {
    let path = source.path.to_str().expect("ASCII");
    run(
        rig,
        &[&["wal-push", path, "--mount", &mountpoint(rig)], more].concat(),
    )
}

fn fetch(rig: &Rig, name: &str, more: &[&str]) -> (Output, Option<Vec<u8>>) {
    let to = rig.world.owned_dir("to").join("RECOVERYXLOG");
    let _ = fs::remove_file(&to);
    let path = to.to_str().expect("ASCII");
    let output = run(
        rig,
        &[&["wal-fetch", name, path, "--mount", &mountpoint(rig)], more].concat(),
    );
    let left = fs::read_dir(rig.world.path().join("to")).expect("list").count();
    let content = fs::read(&to).ok();
    assert_eq!(left, usize::from(content.is_some()), "it left something");
    (output, content)
}

#[track_caller]
fn ended_with(output: &Output, code: i32, words: &[&str]) {
    let message = said(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(
        words.iter().all(|word| message.contains(word)),
        "{words:?} in: {message}"
    );
}

/// W1, W3, W4, through the mount: what it calls archived is, and the rest is refused.
#[test]
fn w1_wal_push_through_a_mount_keeps_the_same_promises() {
    for rig in Rig::both_kinds() {
        let (first, history) = (rig.segment(1, 1), rig.history(1));
        for source in [&first, &first, &history] {
            ended_with(&push(&rig, source, &[]), 0, &[]);
            rig.assert_archived(source);
        }
        let other = rig.segment(1, 2);
        ended_with(&push(&rig, &other, &[]), 1, &[&other.name, "File exists", "HINT"]);
        rig.assert_archived(&first);
        let whole = rig.segment(2, 2);
        for bytes in [0, SMALL as usize / 2] {
            let cut = rig.source(&whole.name, whole.content[..bytes].to_vec());
            ended_with(&push(&rig, &cut, &[]), 1, &[&whole.name]);
            rig.assert_absent(&whole.name);
        }
        ended_with(
            &push(&rig, &rig.source("notes.txt", b"x".to_vec()), &[]),
            1,
            &["notes.txt"],
        );
        ended_with(&push(&rig, &whole, &[]), 0, &[]);
        rig.assert_archived(&whole);
    }
}

/// R2: 1 is the store's own word, and what comes is whole.
#[test]
fn r2_wal_fetch_through_a_mount_says_absent_only_when_it_is() {
    for rig in Rig::both_kinds() {
        let source = rig.segment(1, 1);
        rig.archive(&source);
        let (output, content) = fetch(&rig, &source.name, &[]);
        ended_with(&output, 0, &[]);
        assert!(content.as_ref() == Some(&source.content));
        let absent = rig.segment(2, 2).name;
        for name in [absent.as_str(), "00000002.history"] {
            let (output, content) = fetch(&rig, name, &[]);
            ended_with(&output, 1, &[name, "not archived"]);
            assert!(content.is_none());
        }
    }
}

/// One look and one upload: nothing is asked of the store that the daemon knows.
#[test]
fn a_push_through_a_mount_costs_a_look_and_an_upload() {
    let rig = Rig::s3(&[]);
    rig.archive(&rig.segment(1, 1));
    let source = rig.segment(2, 2);
    let requests = || rig.server().count(|_| true);
    let before = requests();
    ended_with(&push(&rig, &source, &[]), 0, &[]);
    assert_eq!(requests() - before, 2);
    assert_eq!(rig.uploads(&source.name), 1);
    let looks = rig
        .server()
        .count(|request| request.operation == Operation::Get && request.key.contains(&source.name));
    assert_eq!(looks, 1);
}

/// W9: without a mount nothing is written where it would be, and a named archive is the other way.
#[test]
fn w9_without_the_mount_the_archive_itself_is_taken_or_nothing() {
    let mut rig = Rig::local();
    let (first, second) = (rig.segment(1, 1), rig.segment(2, 2));
    rig.archive(&first);
    rig.mount.terminate();
    ended_with(&push(&rig, &second, &[]), 1, &["not mounted", "HINT"]);
    ended_with(&fetch(&rig, &first.name, &[]).0, 255, &["not mounted", "HINT"]);
    assert_eq!(fs::read_dir(rig.mount.path()).expect("list").count(), 0);
    let archive = rig.world.archive().display().to_string();
    let directly = ["--archive", archive.as_str()];
    ended_with(&push(&rig, &second, &directly), 0, &["not mounted", "directly"]);
    assert!(rig.stored(&second.name).as_ref() == Some(&second.content));
    let (output, content) = fetch(&rig, &second.name, &directly);
    ended_with(&output, 0, &[]);
    assert!(content.as_ref() == Some(&second.content));
    // With an archive named, a refusal comes with its reason.
    rig.mount.restart();
    let other = rig.segment(1, 3);
    ended_with(&push(&rig, &other, &directly), 1, &["different content", "HINT"]);
}

/// R1 and W1: of a mount and an archive that are not the same, one is wrong. Neither is taken.
#[test]
fn r1_another_archive_than_that_of_the_mount_is_an_error() {
    for rig in Rig::both_kinds() {
        let source = rig.segment(1, 1);
        let other = rig.world.owned_dir("other").display().to_string();
        for archive in [other.as_str(), "s3://elsewhere/cluster"] {
            let named = ["--archive", archive];
            let words = ["shows the archive", archive, "HINT"];
            ended_with(&push(&rig, &source, &named), 1, &words);
            ended_with(&fetch(&rig, &source.name, &named).0, 255, &words);
        }
        rig.assert_absent(&source.name);
        assert_eq!(fs::read_dir(&other).expect("list").count(), 0);
    }
}

/// W1: the same directory by another name is the same archive.
#[test]
fn w1_a_link_to_the_archive_of_the_mount_is_the_same_archive() {
    let rig = Rig::local();
    let links = rig.world.owned_dir("links");
    let link = links.join("archive");
    std::os::unix::fs::symlink(rig.world.archive(), &link).expect("make a link");
    let path = link.display().to_string();
    let linked = Options::of(&rig.world, &path)
        .at(&rig.world.owned_dir("mnt2"))
        .mount();
    let real = rig.world.archive().display().to_string();
    for (number, (mount, archive)) in (1..).zip([(&rig.mount, &path), (&linked, &real), (&linked, &path)]) {
        let source = rig.segment(number, number);
        let through = mount.path().display().to_string();
        let file = source.path.to_str().expect("ASCII");
        let output = run(
            &rig,
            &["wal-push", file, "--mount", &through, "--archive", archive],
        );
        ended_with(&output, 0, &[]);
        assert!(!said(&output).contains("directly"), "{}", said(&output));
        rig.assert_archived(&source);
    }
}

/// O1: what the daemon said of the file, what became of the daemon, which file is not there.
#[test]
fn o1_what_failed_through_a_mount_is_said() {
    let mut rig = Rig::local();
    rig.archive(&rig.segment(1, 1));
    ended_with(
        &push(&rig, &rig.segment(1, 2), &[]),
        1,
        &["different content", "HINT"],
    );
    let mut gone = rig.segment(2, 2);
    gone.path.set_file_name("0000000100000000000000B0");
    ended_with(
        &push(&rig, &gone, &[]),
        1,
        &["cannot read", "0000000100000000000000B0"],
    );
    rig.mount.kill9();
    ended_with(&push(&rig, &rig.segment(3, 3), &[]), 1, &["died", "walfs mount"]);
}

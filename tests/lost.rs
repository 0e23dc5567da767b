//! A local archive that has lost something: what is left is neither taken over by another cluster (promise W5) nor thrown
//! away (promise B9), and is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use super::common::basebackup::Site;
use super::common::user::{User, said};
use super::common::wal;
use super::common::walfs::{Mount, walfs};
use super::common::world::World;

const SEGMENT_BYTES: u32 = 1 << 20;

/// Two clusters.
const OURS: u64 = 7_000_000_000_000_000_001;
const THEIRS: u64 = 7_000_000_000_000_000_002;

struct Archiver<'a>(&'a World);

impl Archiver<'_> {
    fn push(&self, number: u64, cluster: u64) -> Output {
        let name = wal::segment_name(1, number, SEGMENT_BYTES);
        self.push_file(&name, &wal::segment(&name, cluster, SEGMENT_BYTES, number))
    }

    fn push_file(&self, name: &str, content: &[u8]) -> Output {
        let file = self.0.owned_file(name, content);
        let mut push = walfs(self.0, &User::postgres());
        push.args(["wal-push", "--deadline", "10s", "--archive"]);
        push.arg(self.0.archive()).arg(file).output().expect("run walfs")
    }
}

#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

#[track_caller]
fn is_refused(output: &Output, words: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    for word in words {
        assert!(said(output).contains(word), "no {word:?} in: {}", said(output));
    }
}

fn object(world: &World, name: &str) -> PathBuf {
    world.archive().join(format!("wal/{name}.lz4"))
}

/// W5: the first segment ties an archive, and one that comes after the tie was lost is not the first.
#[test]
fn w5_an_archive_that_lost_its_cluster_is_not_another_ones() {
    let world = World::new("untied");
    let archiver = Archiver(&world);
    drop(Mount::local(&world));
    // A history may be the first file of an archive, and names no cluster.
    succeeds(&archiver.push_file("00000002.history", &wal::history(1, "0/3000000")));
    succeeds(&archiver.push(1, OURS));
    let tie = world.archive().join("cluster.json");
    fs::remove_file(&tie).expect("lose it");

    let lost = ["cluster.json", "it is missing, although", "HINT: bring it back"];
    is_refused(&archiver.push(2, THEIRS), &lost);
    is_refused(&archiver.push(2, OURS), &lost);
    let mount = Mount::local(&world);
    let (first, second) = (
        wal::segment_name(1, 1, SEGMENT_BYTES),
        wal::segment_name(1, 2, SEGMENT_BYTES),
    );
    let source = world.owned_file(&second, &wal::segment(&second, THEIRS, SEGMENT_BYTES, 2));
    let copied = mount.user().shell(r#"cp "$1" "$2/""#, &[&source, &mount.wal()]);
    assert!(!copied.status.success(), "another cluster's segment was archived");
    mount.wait_for_log("HINT: bring it back");
    drop(mount);
    assert!(!tie.exists() && !object(&world, &second).exists());

    // As the hint says it.
    let text = format!(
        r#"{{"system_identifier": "{OURS}", "segment_bytes": {SEGMENT_BYTES}, "first_file": "{first}"}}"#
    );
    fs::write(&tie, text).expect("write it anew");
    User::postgres().own(&tie);
    is_refused(&archiver.push(2, THEIRS), &["system identifier"]);
    succeeds(&archiver.push(2, OURS));
    assert!(Path::new(&object(&world, &second)).exists());
}

/// The line of a backup in `backup-list`.
#[track_caller]
fn line(site: &Site<'_>, name: &str) -> String {
    let output = site.walfs("backup-list").output().expect("run walfs");
    succeeds(&output);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    found.unwrap_or_else(|| panic!("no {name} in: {text}")).to_owned()
}

/// B9: without its summary a complete backup looks like one that was killed. It may be the only copy of something.
#[test]
fn b9_a_backup_that_lost_its_summary_is_kept_and_named() {
    let world = World::new("unsummed");
    let site = Site::local(&world);
    let taken = site.backup("w1");
    let id = taken["id"].as_str().expect("an id");
    let stored = || site.place.keys(&format!("trees/{id}"));
    let (whole, summaries) = (stored(), world.archive().join("basebackups"));
    assert!(whole.len() > 3, "{whole:?}");
    let summary = summaries.join("w1.json");
    let text = fs::read(&summary).expect("read the summary");
    let bring_back = || {
        fs::write(&summary, &text).expect("bring it back");
        User::postgres().own(&summary);
    };

    fs::remove_file(&summary).expect("lose it");
    site.backup("w2");
    assert_eq!(stored(), whole, "the next backup removed some of it");
    let mount = Mount::local(&world);
    mount.wait_for_log("may be a complete backup whose summary, basebackups/w1.json, is missing: it stays");
    drop(mount);
    assert_eq!(stored(), whole, "a mount removed some of it");
    let shown = line(&site, "w1");
    for word in [
        "summary missing",
        "basebackups/w1.json",
        "walfs backup-discard w1",
    ] {
        assert!(shown.contains(word), "no {word:?} in: {shown}");
    }
    assert_eq!(site.state("w1").as_deref(), Some("summary missing"));
    assert_eq!(site.state("w2").as_deref(), Some("complete"));
    bring_back();
    assert_eq!(site.state("w1").as_deref(), Some("complete"));

    // In its place lies what is none.
    fs::remove_file(&summary).expect("lose it");
    User::postgres().make_dir(&summary);
    site.backup("w3");
    assert_eq!(stored(), whole, "the next backup removed some of it");
    let shown = line(&site, "w1");
    assert!(
        shown.contains("damaged: ") && shown.contains("it is a directory"),
        "{shown}"
    );
    let discard = || {
        site.walfs("backup-discard")
            .arg("w1")
            .output()
            .expect("run walfs")
    };
    assert_eq!(discard().status.code(), Some(1));
    assert_eq!(stored(), whole, "it was discarded, and may be complete");
    fs::remove_dir(&summary).expect("remove it");

    // All of them are gone, and the folder's mark with them.
    let away = world.path().join("away");
    fs::rename(&summaries, &away).expect("take the folder away");
    User::postgres().make_dir(&summaries);
    let refused = site.walfs("backup-list").output().expect("run walfs");
    is_refused(
        &refused,
        &["it is empty", "HINT: ", "trees", "bring back what it held"],
    );
    assert!(!said(&refused).contains("remove it"), "{}", said(&refused));
    fs::remove_dir(&summaries).expect("remove it all the same");
    site.backup("w4");
    assert_eq!(stored(), whole, "the next backup removed some of it");
    for lost in ["w1", "w2", "w3"] {
        assert_eq!(site.state(lost).as_deref(), Some("summary missing"), "{lost}");
    }

    // The operator's word.
    succeeds(&discard());
    assert!(stored().is_empty(), "{:?}", stored());
    assert_eq!(site.state("w1"), None);
}

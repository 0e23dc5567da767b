//! A local archive that has lost something: what is left is neither taken over by another cluster (promise W5) nor thrown
//! away (promise B9), and is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

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

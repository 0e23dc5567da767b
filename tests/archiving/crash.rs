//! `kill -9` of walfs at any moment: what was acknowledged is there, nothing half-written can be seen.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::rig::{Rig, Source};
use crate::common::wait;
use crate::common::wal;

/// S2: "`kill -9` of walfs at any moment ...: after restart everything acknowledged is there, nothing half-written is
/// visible". Ten times a store.
#[test]
fn s2_walfs_killed_at_random_moments_loses_nothing() {
    for mut rig in Rig::both_kinds() {
        let mut acknowledged: Vec<Source> = Vec::new();
        for number in 1..=10 {
            let source = rig.sized_segment(number, wal::SEGMENT_BYTES, number);
            let mut cp = rig.start_cp(&source);
            thread::sleep(Duration::from_micros(fastrand::u64(..250_000)));
            rig.mount.kill9();
            let success = wait::for_exit("cp to end", &mut cp).success();
            rig.mount.restart();
            if success {
                rig.assert_archived(&source);
            }
            // Without an acknowledgement it is there whole or not at all; S3 may still be taking what it was sent.
            rig.archive(&source);
            acknowledged.push(source);
        }
        let names: Vec<String> = acknowledged.iter().map(|source| source.name.clone()).collect();
        assert_eq!(rig.mount.list(), names);
        acknowledged.iter().for_each(|source| rig.assert_archived(source));
    }
}

/// Every file under a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("list a directory");
    let paths = entries.map(|entry| entry.expect("list a directory").path());
    paths
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// S2, for the local store: temporary files of the dead do no harm, and are not there for ever.
#[test]
fn s2_leftovers_of_a_dead_walfs_do_no_harm() {
    let mut rig = Rig::local();
    let first = rig.segment(1, 1);
    rig.archive(&first);
    rig.mount.kill9();
    let temporary = rig.world.archive().join(".tmp");
    rig.user().make_dir(&temporary);
    for name in ["left-over", "000000010000000000000002", "wal"] {
        fs::write(temporary.join(name), "half").expect("leave something");
        rig.user().own(&temporary.join(name));
    }
    rig.mount.restart();
    assert_eq!(rig.mount.list(), std::slice::from_ref(&first.name));
    let second = rig.segment(2, 2);
    rig.archive(&second);
    rig.assert_archived(&first);
    // What is not temporary is a marker or an object.
    let kept: Vec<PathBuf> = files(&rig.world.archive())
        .into_iter()
        .filter(|path| !path.starts_with(&temporary) && !path.ends_with(".archive_id"))
        .collect();
    assert_eq!(kept.len(), 4, "{kept:?}");
}

/// W1, "link without replacing": no temporary file outlives a success or a failure.
#[test]
fn w1_a_living_walfs_leaves_no_temporary_files() {
    let rig = Rig::local();
    rig.archive(&rig.segment(1, 1));
    rig.archive(&rig.history(1));
    rig.refuse(&rig.segment(1, 2));
    let half = rig.user().shell(
        r#"head -c 9000 "$1" > "$2""#,
        &[&rig.segment(2, 2).path, &rig.target(&rig.segment(2, 2).name)],
    );
    assert!(!half.status.success());
    let temporary = rig.world.archive().join(".tmp");
    let left = if temporary.exists() {
        files(&temporary)
    } else {
        Vec::new()
    };
    assert!(left.is_empty(), "{left:?}");
}

//! Prune, verify, copy and status of dumps, beside files and backups.

use std::fs;

use serde_json::Value;

use super::rig::{NOISE, Rig};
use crate::common::user::said;
use crate::common::walfs::walfs;

fn step(rig: &Rig, number: u32) {
    let from = number * 100 + 1;
    rig.sql(
        "app",
        &format!("UPDATE t SET noise = {NOISE} FROM generate_series({from}, {from} + 50) i WHERE id = i"),
    );
}

#[test]
fn k3_prune_keeps_of_each_name_what_the_rules_want_and_what_that_needs() {
    let rig = Rig::local("dumps-prune");
    rig.fill("app", 20_000);
    let mut told = Vec::new();
    for number in 0..5 {
        step(&rig, number);
        rig.dump("app");
        told.push(rig.told("app"));
    }
    // Files of the same name are another row.
    let source = rig.world.owned_dir("source");
    fs::write(source.join("one"), "one").expect("write");
    rig.user.own(&source.join("one"));
    rig.succeeds("files", &["app", &source.display().to_string()]);
    rig.succeeds("dump", &["--globals"]);
    let before = rig.versions("app");
    rig.succeeds("backup-pin", &["--reason", "kept", &format!("app@{}", before[0])]);
    let pruned = rig.succeeds("prune", &["--grace", "1s", "--json", "--keep-last", "2"]);
    let pruned: Value = serde_json::from_str(&pruned).expect("JSON");
    let backups = pruned["backups"].as_array().expect("a list");
    let gone = backups.iter().filter(|backup| backup["goes"] == true);
    assert!(gone.clone().all(|backup| backup["content"] == "dump"), "{pruned}");
    assert_eq!(gone.count(), 2);
    let left = [&before[..1], &before[3..]].concat();
    assert_eq!(rig.versions("app"), left);
    for (version, told) in before
        .iter()
        .zip(&told)
        .filter(|(version, _)| left.contains(version))
    {
        assert!(rig.restored(&format!("app/{version}")) == *told, "{version}");
    }
    assert_eq!(rig.versions("globals").len(), 1);
    assert_eq!(rig.succeeds("files-list", &["--json"]).lines().count(), 1);
    rig.succeeds("verify", &[]);
    // What is left is what the next one builds on.
    step(&rig, 7);
    let next = rig.dump("app");
    assert!(next["stored_bytes"].as_u64() < Some(1 << 20), "{next}");
    assert!(rig.restored("app") == rig.told("app"));
}

#[test]
fn k7_status_and_a_copy_have_dumps_too() {
    let rig = Rig::local("dumps-copy");
    rig.fill("app", 1000);
    rig.dump("app");
    let status = rig.run("status", &["--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let files = &status["files"][0];
    assert_eq!(
        (&files["content"], &files["name"]),
        (&"dump".into(), &"app".into())
    );
    assert_eq!(files["versions"], 1);
    let screen = rig.run("status", &[]);
    assert!(
        said(&screen).contains("dumps      app: 1 versions"),
        "{}",
        said(&screen)
    );
    let copy = rig.world.owned_dir("copy");
    let mut copying = walfs(&rig.world, &rig.user);
    copying
        .args(["copy", "--create"])
        .args([&rig.world.archive(), &copy]);
    let output = copying.output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let mut verify = walfs(&rig.world, &rig.user);
    let output = verify
        .args(["verify", "--archive"])
        .arg(&copy)
        .output()
        .expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let mut restore = walfs(&rig.world, &rig.user);
    let file = rig.world.owned_dir("from-copy").join("app.dump");
    let output = restore
        .args(["dump-restore", "app"])
        .arg(&file)
        .arg("--archive")
        .arg(&copy)
        .output();
    let output = output.expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    assert!(rig.restored_from(&file) == rig.told("app"));
}

/// K7: metrics tell of dumps and files as of backups: how many, how large, how old, by name.
#[test]
fn k7_metrics_tell_of_each_name() {
    let rig = Rig::local("dumps-metrics");
    rig.fill("app", 500);
    rig.dump("app");
    rig.sql("app", "DELETE FROM t WHERE id < 10");
    rig.dump("app");
    let source = rig.world.owned_dir("source").display().to_string();
    rig.succeeds("files", &["etc", &source]);
    // Nothing is archived, and that is told by the exit code.
    let output = rig.run("status", &["--metrics"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "walfs_versions{content=\"dumps\",name=\"app\"} 2\n",
        "walfs_versions{content=\"files\",name=\"etc\"} 1\n",
        "walfs_versions_lacking{content=\"dumps\",name=\"app\"} 0\n",
        "walfs_versions_stored_bytes{content=\"dumps\",name=\"app\"} ",
        "walfs_version_newest_timestamp_seconds{content=\"dumps\",name=\"app\"} ",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn r3_a_damaged_dump_is_an_error_and_the_next_one_is_whole() {
    let rig = Rig::local("dumps-damaged");
    rig.fill("app", 20_000);
    rig.dump("app");
    let part = rig.damage_part("/app@");
    let file = rig.world.owned_dir("damaged").join("app.dump");
    let failed = rig.run("dump-restore", &["app", &file.display().to_string()]);
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    assert!(
        said(&failed).contains(&part) && !file.exists(),
        "{}",
        said(&failed)
    );
    let found = rig.run("verify", &[]);
    assert_eq!(found.status.code(), Some(1));
    assert!(said(&found).contains("app@"), "{}", said(&found));
    // What is known to be damaged is stored again, although nothing has changed.
    assert_eq!(rig.dump("app")["unchanged"], false);
    assert!(rig.restored("app") == rig.told("app"));
    assert_eq!(rig.dump("app")["unchanged"], true);
}

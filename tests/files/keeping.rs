//! Prune, verify and copy of versions, beside backups, which they do not disturb nor are disturbed by.

use serde_json::Value;

use super::rig::Rig;
use crate::common::basebackup::{Place, Site};
use crate::common::user::User;
use crate::common::versions::Versions;
use crate::common::world::World;

/// Changes something, so that the next version is another one.
fn step(rig: &Rig, number: u64) {
    rig.noise(&format!("file{}", number % 3), 200_000, number);
    rig.change(&format!("echo {number} > number"));
}

#[test]
fn k3_prune_keeps_of_each_name_what_the_rules_want_and_what_that_needs() {
    let rig = Rig::local("files-prune");
    let mut told = Vec::new();
    for number in 0..6 {
        step(&rig, number);
        rig.store("etc");
        told.push(rig.told(&rig.source));
    }
    rig.store("other");
    let before = rig.versions("etc");
    let prune = |arguments: &[&str]| -> Value {
        let all = [&["--grace", "1s", "--json"], arguments].concat();
        serde_json::from_str(&rig.succeeds("prune", &all)).expect("JSON")
    };
    let plan = prune(&["--keep-last", "2", "--dry-run"]);
    let going = |plan: &Value| {
        let backups = plan["backups"].as_array().expect("a list").clone();
        backups.iter().filter(|backup| backup["goes"] == true).count()
    };
    assert_eq!((going(&plan), rig.versions("etc").len()), (4, 6));
    assert_eq!(going(&prune(&["--keep-last", "2"])), 4);
    assert_eq!(rig.versions("etc"), before[4..]);
    assert_eq!(rig.versions("other").len(), 1);
    for (version, told) in before.iter().zip(&told).skip(4) {
        assert_eq!(
            rig.told(&rig.restore(&format!("etc/{version}"))),
            *told,
            "{version}"
        );
    }
    rig.succeeds("verify", &[]);
    // What is left is what the next one builds on; a rule that names a backup says nothing of files.
    step(&rig, 7);
    rig.store("etc");
    let plan = prune(&["--keep-last", "1"]);
    assert_eq!(going(&plan), 2);
    assert_eq!(rig.told(&rig.restore("etc")), rig.told(&rig.source));
    rig.succeeds("verify", &[]);
    assert_eq!(going(&prune(&["--keep-last", "1"])), 0);
}

#[test]
fn k3_what_verify_has_found_damaged_takes_the_place_of_none() {
    let rig = Rig::local("files-prune-damaged");
    let mut told = Vec::new();
    for number in 0..4 {
        step(&rig, number);
        rig.store("etc");
        told.push(rig.told(&rig.source));
        if number == 2 {
            rig.damage_part(&format!("/etc@{}.", rig.versions("etc")[2]));
            assert_eq!(rig.run("verify", &[]).status.code(), Some(1));
        }
    }
    let before = rig.versions("etc");
    // Nor under another name of the same directory, and a look at something else makes nobody forget it.
    let other = format!("{}/", rig.world.archive().display());
    let by_other = |arguments: &[&str]| {
        let mut walfs = crate::common::walfs::walfs(&rig.world, &rig.user);
        let output = walfs.args(arguments).args(["--archive", &other]).output();
        output.expect("run walfs")
    };
    let plans = || {
        let planned = by_other(&[
            "prune",
            "--grace",
            "1s",
            "--keep-last",
            "2",
            "--dry-run",
            "--json",
        ]);
        let plan: Value = serde_json::from_slice(&planned.stdout).expect("JSON");
        let backups = plan["backups"].as_array().expect("a list").clone();
        let goes: Vec<bool> = backups.iter().map(|backup| backup["goes"] == true).collect();
        goes
    };
    assert_eq!(plans(), [true, false, false, false]);
    assert!(by_other(&["verify", "--wal"]).status.success());
    assert_eq!(plans(), [true, false, false, false]);
    rig.succeeds("prune", &["--grace", "1s", "--keep-last", "2"]);
    assert_eq!(rig.versions("etc"), before[1..]);
    for number in [1, 3] {
        let restored = rig.restore(&format!("etc/{}", before[number]));
        assert_eq!(rig.told(&restored), told[number], "{number}");
    }
}

#[test]
fn k3_versions_and_backups_do_not_disturb_each_other() {
    let world = World::new("files-beside");
    let rig = Rig::new(World::new("files-beside2"), Place::Local(world.archive()));
    let site = Site::local(&world);
    for number in 0..3 {
        step(&rig, number);
        rig.store("etc");
        let changed = site.server.psql(
            "CREATE TABLE IF NOT EXISTS t AS SELECT generate_series(1, 20000) AS i; \
             UPDATE t SET i = i + 1 WHERE i % 7 = 0",
        );
        changed.expect("change the database");
        site.backup(&format!("backup{number}"));
    }
    let listed = site.list();
    assert!(
        listed.iter().all(|backup| backup["state"] == "complete"),
        "{listed:?}"
    );
    assert_eq!(listed.len(), 3);
    let mut prune = site.walfs("prune");
    let output = prune
        .args(["--grace", "1s", "--keep-last", "1"])
        .output()
        .expect("run walfs");
    assert!(output.status.success(), "{}", crate::common::user::said(&output));
    assert_eq!((site.list().len(), rig.versions("etc").len()), (1, 1));
    assert_eq!(rig.told(&rig.restore("etc")), rig.told(&rig.source));
    let verify = site.walfs("verify").output().expect("run walfs");
    assert!(verify.status.success(), "{}", crate::common::user::said(&verify));
    // The copy has both.
    let copy = world.owned_dir("copy");
    let mut copying = crate::common::walfs::walfs(&world, &User::postgres());
    copying.args(["copy", "--create"]).args([&world.archive(), &copy]);
    let output = copying.output().expect("run walfs");
    assert!(output.status.success(), "{}", crate::common::user::said(&output));
    let there = Rig {
        archive: Versions::new(World::new("files-copy"), Place::Local(copy), "files"),
        source: rig.source.clone(),
    };
    assert_eq!(there.told(&there.restore("etc")), rig.told(&rig.source));
    there.succeeds("verify", &[]);
}

#[test]
fn k3_a_pinned_version_stays() {
    let rig = Rig::local("files-pin");
    let mut told = Vec::new();
    for number in 0..3 {
        step(&rig, number);
        rig.store("etc");
        told.push(rig.told(&rig.source));
    }
    let versions = rig.versions("etc");
    let pinned = format!("etc@{}", versions[0]);
    rig.succeeds("backup-pin", &["--reason", "before the upgrade", &pinned]);
    rig.succeeds("prune", &["--grace", "1s", "--keep-last", "1"]);
    assert_eq!(rig.versions("etc"), [versions[0].clone(), versions[2].clone()]);
    assert_eq!(rig.told(&rig.restore(&format!("etc/{}", versions[0]))), told[0]);
    rig.succeeds("verify", &[]);
    rig.succeeds("backup-unpin", &[&pinned]);
    rig.succeeds("prune", &["--grace", "1s", "--keep-last", "1"]);
    assert_eq!(rig.versions("etc"), versions[2..]);
    assert_eq!(rig.told(&rig.restore("etc")), told[2]);
    rig.succeeds("verify", &[]);
}

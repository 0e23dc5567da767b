//! What goes wrong while a version is stored, and what has gone wrong with one that is: nothing is called whole that is not.

use std::fs;
use std::process::{Child, Stdio};

use super::rig::Rig;
use crate::common::postgres::send;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::Options;

/// A run in the background, slow enough to be met.
fn begin(rig: &Rig, arguments: &[&str]) -> Child {
    let mut run = rig.walfs("files");
    run.args(arguments).arg(&rig.source);
    let run = run.stdout(Stdio::piped()).stderr(Stdio::piped());
    run.spawn().expect("run walfs")
}

#[test]
fn s2_a_signal_leaves_nothing() {
    let rig = Rig::local("files-signal");
    for number in 0..8 {
        rig.noise(&format!("large{number}"), 40 << 20, number);
    }
    let run = begin(&rig, &["--jobs", "1", "etc"]);
    let begun = wait::within(wait::LONG, || {
        let keys = rig.place.keys("trees");
        keys.iter().any(|key| key.ends_with("begun.json")).then_some(())
    });
    assert!(begun.is_some(), "nothing was begun");
    send(run.id(), libc::SIGINT);
    let output = run.wait_with_output().expect("wait for walfs");
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert_eq!((rig.place.keys("trees"), rig.versions("etc")), (vec![], vec![]));
}

#[test]
fn s2_two_runs_at_once_are_whole_each() {
    let rig = Rig::local("files-two");
    rig.noise("one", 5 << 20, 1);
    for round in 0..5 {
        rig.change(&format!("echo {round} > number"));
        let runs = [begin(&rig, &["etc"]), begin(&rig, &["etc"])];
        let outputs = runs.map(|run| run.wait_with_output().expect("wait for walfs"));
        assert!(outputs.iter().any(|output| output.status.success()));
        for output in outputs.iter().filter(|output| !output.status.success()) {
            assert!(said(output).contains("another run"), "{}", said(output));
        }
        assert_eq!(
            rig.told(&rig.restore("etc")),
            rig.told(&rig.source),
            "round {round}"
        );
    }
    rig.succeeds("verify", &[]);
}

#[test]
fn b2_what_cannot_be_read_is_named_and_nothing_is_kept() {
    let rig = Rig::local("files-denied");
    rig.noise("open", 1000, 1);
    rig.noise("closed", 1000, 2);
    let closed = rig.source.join("closed");
    let mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&closed, mode).expect("set the mode");
    };
    mode(0o000);
    let output = rig.run("files", &["etc", &rig.source.display().to_string()]);
    assert!(!output.status.success());
    let text = said(&output);
    assert!(
        text.contains(&closed.display().to_string()) && text.contains("HINT"),
        "{text}"
    );
    assert_eq!((rig.place.keys("trees"), rig.versions("etc")), (vec![], vec![]));
    mode(0o400);
    rig.store("etc");
}

#[test]
fn b5_a_version_that_has_lost_something_is_told_and_not_built_on() {
    let rig = Rig::local("files-lost");
    rig.noise("large", 40 << 20, 1);
    rig.store("etc");
    let whole = rig.told(&rig.source);
    let before = rig.world.owned_dir("before").display().to_string();
    rig.change(&format!("rsync -a ./ {before}/ && echo two > number"));
    rig.store("etc");
    let versions = rig.versions("etc");
    let newest = format!("/etc@{}.", versions[1]);
    let keys = rig.place.keys("trees").into_iter();
    let part = keys
        .filter(|key| key.contains(&newest))
        .find(|key| key.contains(".tar."));
    fs::remove_file(rig.world.archive().join(part.expect("a part"))).expect("remove a part");
    assert!(rig.succeeds("files-list", &[]).contains(&versions[1]));
    let status = rig.run("status", &[]);
    assert_eq!(status.status.code(), Some(3), "{}", said(&status));
    assert!(said(&status).contains("does not read whole"), "{}", said(&status));
    let verify = rig.run("verify", &[]);
    assert_eq!(verify.status.code(), Some(1), "{}", said(&verify));
    // The rules want one that is whole.
    rig.succeeds("prune", &["--grace", "1s", "--keep-last", "1", "--dry-run"]);
    let plan = rig.succeeds("prune", &["--grace", "1s", "--keep-last", "1", "--json"]);
    assert!(!plan.contains(r#""goes":true"#), "{plan}");
    assert_eq!(rig.told(&rig.restore(&format!("etc/{}", versions[0]))), whole);
    // The next one is whole, although it is as the version is that was built on.
    rig.change(&format!("rsync -a --delete {before}/ ./"));
    assert_eq!(rig.told(&rig.source), whole);
    assert_eq!(rig.store("etc")["unchanged"], false);
    assert_eq!(rig.told(&rig.restore("etc")), rig.told(&rig.source));
}

#[test]
fn b5_what_was_found_damaged_is_stored_again() {
    let rig = Rig::local("files-rotten");
    rig.noise("one", 5 << 20, 1);
    rig.store("etc");
    rig.damage_part("/etc@");
    assert_eq!(rig.run("verify", &[]).status.code(), Some(1));
    assert_eq!(rig.store("etc")["unchanged"], false);
    assert_eq!(rig.told(&rig.restore("etc")), rig.told(&rig.source));
    assert_eq!(rig.store("etc")["unchanged"], true);
}

#[test]
fn k3_nothing_is_removed_as_long_as_a_version_cannot_be_known() {
    let rig = Rig::local("files-unknown");
    for number in 0..3 {
        rig.change(&format!("echo {number} > number"));
        rig.store("etc");
    }
    let summaries = rig.place.keys("files");
    fs::write(rig.world.archive().join(&summaries[1]), "{}").expect("damage a summary");
    let refused = rig.run("prune", &["--grace", "1s", "--keep-last", "1"]);
    assert!(!refused.status.success());
    assert!(said(&refused).contains("is not known"), "{}", said(&refused));
    assert_eq!(rig.place.keys("files"), summaries);
    assert!(said(&rig.run("files-list", &[])).contains("checksum"));
    assert_eq!(rig.told(&rig.restore("etc")), rig.told(&rig.source));
}

#[test]
fn a5_status_of_an_archive_of_files_alone_is_well() {
    let rig = Rig::local("files-status");
    rig.noise("one", 1000, 1);
    rig.store("etc");
    let told = rig.succeeds("status", &[]);
    assert!(
        told.contains("etc: 1 versions") && told.contains("All is well"),
        "{told}"
    );
    let told: serde_json::Value = serde_json::from_str(&rig.succeeds("status", &["--json"])).expect("JSON");
    assert_eq!(
        (&told["files"][0]["name"], &told["files"][0]["versions"]),
        (&"etc".into(), &1.into())
    );
}

#[test]
fn s6_another_file_system_is_entered_when_that_is_asked_for() {
    let rig = Rig::local("files-cross");
    rig.noise("one", 1000, 1);
    let inner = rig.source.join("inner");
    fs::create_dir(&inner).expect("make a directory");
    let other = rig.world.owned_dir("other");
    let mount = Options::of(&rig.world, &other.display().to_string())
        .at(&inner)
        .mount();
    let told = rig.store("etc");
    assert_eq!(told["left_out"]["file_systems"]["first"][0], "inner");
    let restored = rig.restore("etc");
    assert!(restored.join("inner").is_dir() && !restored.join("inner/wal").exists());
    rig.succeeds("files", &["--cross", "etc", &rig.source.display().to_string()]);
    let restored = rig.restore("etc");
    assert!(restored.join("inner/wal").is_dir());
    drop(mount);
}

#[test]
fn s7_owners_come_back() {
    let mut rig = Rig::local("files-owners");
    rig.change("echo x > of_postgres && mkdir d && ln -s x d/l");
    rig.archive.user = User::caller();
    rig.change("echo y > of_root && chmod 4755 of_root");
    rig.store("etc");
    let restored = rig.restore("etc");
    assert_eq!(rig.told(&restored), rig.told(&rig.source));
}

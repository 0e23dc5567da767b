//! `walfs prune` that is killed, beside backups that go on, are stopped, or begin (promise K3).

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::Value;

use super::incremental::{Files, assert_same, restored};
use super::pruning::{
    assert_nothing_unneeded, assert_restores, complete, content, going, named_parts, objects, prune, row,
    try_prune,
};
use crate::common::basebackup::{Place, Site};
use crate::common::clock;
use crate::common::postgres::send;
use crate::common::s3::{Action, Operation, Rule, S3Server};
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::world::World;

/// Killed at each of its requests that change something, and finished by the next one.
#[test]
fn k3_a_prune_killed_anywhere_is_finished_by_the_next() {
    let world = World::new("killed");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!()
    };
    let mut files = Files::new(&site, 23);
    for bytes in [3 << 20, 100_000] {
        files.make(bytes);
    }
    row(&site, &mut files, 4);
    let before = objects(&site.place);
    let arguments = ["--keep-last", "1"];
    let done = prune(&site, &arguments);
    assert_eq!(going(&done), ["b0", "b1", "b2"]);
    let after = content(&site.place);
    let put_back = || {
        for key in objects(&site.place).into_keys() {
            server.remove(&format!("pg/main/{key}"));
        }
        for (key, object) in &before {
            server.put_object(&format!("pg/main/{key}"), object.clone());
        }
    };
    let mut killed = 0;
    for operation in [Operation::Put, Operation::Delete, Operation::DeleteMany] {
        for nth in 1.. {
            put_back();
            // Odd ones are done all the same.
            let action = match nth % 2 {
                0 => Action::Hang,
                _ => Action::Delay(std::time::Duration::from_millis(300)),
            };
            let rule = server.add_rule(Rule::new(action).operation(operation).nth(nth));
            let mut prune = site.walfs("prune");
            prune.args(["--grace", "1s"]).args(arguments);
            let mut prune = prune.spawn().expect("run walfs");
            let hit = wait::within(wait::LONG, || {
                let ended = prune.try_wait().expect("look at it").is_some();
                (server.hits(rule) > 0 || ended).then(|| server.hits(rule) > 0)
            });
            let _ = prune.kill();
            prune.wait().expect("wait for it");
            if nth % 2 == 1 && hit == Some(true) {
                std::thread::sleep(std::time::Duration::from_millis(400));
            }
            server.remove_rule(rule);
            if hit != Some(true) {
                break;
            }
            killed += 1;
            // Nothing half there is called a backup, and the one that stays can be restored.
            let listed = complete(&site);
            assert!(
                listed.contains(&"b3".to_owned()),
                "{operation:?} {nth}: {listed:?}"
            );
            for name in &listed {
                let shown = site.walfs("backup-show").arg(name).output().expect("run walfs");
                assert!(shown.status.success(), "{operation:?} {nth}: {}", said(&shown));
            }
            let again = try_prune(&site, &arguments);
            assert!(again.status.success(), "{operation:?} {nth}: {}", said(&again));
            assert_eq!(content(&site.place), after, "{operation:?} {nth}");
            let orders = site.place.keys("prune");
            assert!(
                orders.iter().all(|key| key.ends_with(".done.json")),
                "{operation:?} {nth}: {orders:?}"
            );
        }
    }
    assert!(killed >= 8, "{killed}");
    assert_nothing_unneeded(&site.place);
    assert_restores(&site, 3);
}

/// A backup that is stopped between its parts is whole when it goes on: what it builds on waits for it.
#[test]
fn k3_what_a_stopped_backup_builds_on_stays() {
    let world = World::new("frozen");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 24);
    for _ in 0..30 {
        files.make(300_000);
    }
    row(&site, &mut files, 1);
    let mut slow = site.slow_backup("slow", "1MiB");
    wait::until("it to say what it builds on", || {
        let keys = site.place.keys("trees");
        keys.iter().any(|key| key.contains("/base.b0.")).then_some(())
    });
    send(slow.id(), libc::SIGSTOP);
    let copy = world.path().join("copy1");
    let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[&files.root, &copy]);
    assert!(copied.status.success(), "{}", said(&copied));
    site.server.archive_all();
    site.backup("next");
    // Whatever the clock of the prune says.
    for seconds in [3600, -3600] {
        let mut ahead = site.walfs("prune");
        ahead.env("LD_PRELOAD", clock::ahead(&world, seconds));
        ahead.args(["--grace", "1s", "--json", "--keep-last", "1"]);
        let pruned = ahead.output().expect("run walfs");
        assert!(pruned.status.success(), "{}", said(&pruned));
        let done: Value = serde_json::from_slice(&pruned.stdout).expect("JSON");
        assert_eq!(going(&done), Vec::<String>::new(), "{done}");
    }
    let done = prune(&site, &["--keep-last", "1"]);
    assert_eq!(going(&done), Vec::<String>::new(), "{done}");
    assert_eq!(done["wal_held_by"], "slow", "{done}");
    assert!(
        done.to_string()
            .contains("slow, which is unfinished, builds on it"),
        "{done}"
    );
    send(slow.id(), libc::SIGCONT);
    let status = wait::for_exit("the backup to end", &mut slow);
    assert!(status.success());
    let done = prune(&site, &["--keep-last", "2"]);
    assert_eq!(going(&done), ["b0"], "{done}");
    assert_eq!(complete(&site).len(), 2);
    let data = restored(&site, "slow");
    assert_same(&User::caller(), &data.join("kept_by_us"), &copy);
    assert_nothing_unneeded(&site.place);
}

/// The other order: it is stopped before it has said what it builds on, and finds that gone.
#[test]
fn k3_a_backup_does_not_build_on_what_is_being_pruned() {
    let world = World::new("late");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!()
    };
    let mut files = Files::new(&site, 25);
    files.make(300_000);
    row(&site, &mut files, 2);
    let rule = server.add_rule(Rule::new(Action::Hang).operation(Operation::Put).key("/base.b1."));
    let late = site.slow_backup_with("late", &["--json"]);
    wait::until("it to be stopped", || (server.hits(rule) > 0).then_some(()));
    let other = site.try_backup("other", &["--full"]);
    assert!(other.status.success(), "{}", said(&other));
    // b1 is what it has chosen, and nobody can know.
    let done = prune(&site, &["--keep-last", "1"]);
    assert_eq!(going(&done), ["b0", "b1"], "{done}");
    server.remove_rule(rule);
    let output = late.wait_with_output().expect("wait for it");
    assert!(output.status.success(), "{}", said(&output));
    let taken: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_ne!(taken["base"], "b1");
    let data = restored(&site, "late");
    let kept = data.join("kept_by_us");
    assert_same(&User::caller(), &kept, &files.root);
    let mut left = complete(&site);
    left.sort();
    assert_eq!(left, ["late", "other"]);
}

/// Backups and prunes at one moment, again and again: what is complete is whole.
#[test]
fn k3_backups_and_prunes_side_by_side() {
    let world = World::new("beside");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let mut files = Files::new(&site, 29);
    for _ in 0..8 {
        files.make(200_000);
    }
    site.backup("first");
    for round in 0..8 {
        for _ in 0..10 {
            files.change();
        }
        let backups = ["x", "y"].map(|which| site.slow_backup_with(&format!("{which}{round}"), &["--json"]));
        let prunes = ["1", "2"].map(|last| {
            let mut prune = site.walfs("prune");
            prune.args(["--grace", "1s", "--json", "--keep-last", last]);
            prune.stdout(Stdio::null()).spawn().expect("run walfs")
        });
        for backup in backups {
            let output = backup.wait_with_output().expect("wait for it");
            assert!(output.status.success(), "round {round}: {}", said(&output));
        }
        for mut prune in prunes {
            assert!(
                wait::for_exit("the prune to end", &mut prune).success(),
                "round {round}"
            );
        }
        // What is called complete has every part that its manifest names.
        let listed = complete(&site);
        assert!(!listed.is_empty());
        let there: BTreeSet<String> = site.place.keys("trees").into_iter().collect();
        let missing: Vec<String> = named_parts(&site.place).difference(&there).cloned().collect();
        assert_eq!(missing, Vec::<String>::new(), "round {round}");
    }
    let newest = complete(&site).pop().expect("a backup");
    let data = restored(&site, &newest);
    assert_same(&User::caller(), &data.join("kept_by_us"), &files.root);
    prune(&site, &["--keep-last", "1"]);
    assert_nothing_unneeded(&site.place);
}

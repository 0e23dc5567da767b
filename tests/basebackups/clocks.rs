//! Times that are a bound only, or of a clock that was wrong: no window, day or target is taken from them (promises B8, K3).

use std::fs;
use std::process::Output;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use walfs::archive::tree::ended::{Ended, KnownFrom};
use walfs::archive::tree::summary::Summary;

use super::pruning::prune;
use crate::common::basebackup::Site;
use crate::common::clock;
use crate::common::postgres::{StopMode, send};
use crate::common::user::said;
use crate::common::wait;
use crate::common::world::World;

/// When the summary of a backup says that it ended.
fn ended(site: &Site<'_>, name: &str) -> Timestamp {
    let path = site.world.archive().join(format!("basebackups/{name}.json"));
    let summary = Summary::parse(&fs::read(&path).expect("read the summary"));
    summary.expect("a summary").backup.ended.at
}

/// Says so; no `.backup` file says more.
fn set_ended(site: &Site<'_>, name: &str, at: Timestamp, known_from: KnownFrom) {
    let path = site.world.archive().join(format!("basebackups/{name}.json"));
    let mut summary = Summary::parse(&fs::read(&path).expect("read the summary")).expect("a summary");
    summary.backup.ended = Ended { at, known_from };
    if summary.backup.ended.is_exact() {
        summary.finished = at;
    }
    fs::write(&path, summary.to_text()).expect("write the summary");
    let keys = site.place.keys("wal").into_iter();
    for key in keys.filter(|key| key.contains(".backup")) {
        fs::remove_file(site.world.archive().join(key)).expect("remove a .backup file");
    }
}

fn days_ago(days: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(24 * days)
}

/// A moment with nothing else in its second, by the server's clock.
fn moment(site: &Site<'_>) -> String {
    site.server.query("SELECT pg_sleep(1.2)");
    let now = site.server.query("SELECT clock_timestamp() AT TIME ZONE 'UTC'");
    site.server.query("SELECT pg_sleep(1.2)");
    format!("{}Z", now.trim().replace(' ', "T"))
}

fn insert(site: &Site<'_>, number: u32) {
    site.server.query(&format!("INSERT INTO t VALUES ({number})"));
    site.server.archive_all();
}

fn would_restore(site: &Site<'_>, name: &str, target: &str) -> Output {
    let dir = site.world.owned_dir("restored").display().to_string();
    let mut restore = site.walfs("restore");
    let restore = restore.args(["--dry-run", "--target-time", target, name, &dir]);
    restore.output().expect("run walfs")
}

#[track_caller]
fn restores(site: &Site<'_>, name: &str, target: &str, expected: &str) -> String {
    let output = would_restore(site, name, target);
    let text = said(&output);
    assert!(
        output.status.success() && text.contains(&format!("would restore {expected} to")),
        "{text}"
    );
    text
}

fn why(told: &Value, name: &str) -> String {
    let backups = told["backups"].as_array().expect("backups");
    let found = backups.iter().find(|backup| backup["name"] == name);
    found.expect("the backup")["why"].to_string()
}

fn going(told: &Value) -> Vec<String> {
    let backups = told["backups"].as_array().expect("backups").iter();
    let going = backups.filter(|backup| backup["goes"] == true);
    going
        .map(|backup| backup["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// B8: a backup of which only a bound is known is restored to a time if its WAL shows that it lies before it.
#[test]
fn b8_a_bound_is_proved_by_the_wal() {
    let world = World::new("bound");
    let site = Site::local(&world);
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 300000) AS id");
    site.backup("b0");
    insert(&site, 1);
    let began = Timestamp::now();
    let mut slow = site.slow_backup("s1", "2MiB");
    wait::until("its first part", || {
        let keys = site.place.keys("trees");
        let part = |key: &String| key.contains("/s1.") && key.contains(".tar.");
        keys.iter().any(part).then_some(())
    });
    send(slow.id(), libc::SIGSTOP);
    let during = moment(&site);
    insert(&site, 2);
    send(slow.id(), libc::SIGCONT);
    assert!(wait::for_exit("the backup to end", &mut slow).success());
    let behind = moment(&site);
    insert(&site, 3);
    set_ended(&site, "s1", began, KnownFrom::Start);
    let text = restores(&site, "LATEST", &during, "b0");
    assert!(text.contains("s1 is passed over"), "{text}");
    let named = would_restore(&site, "s1", &during);
    assert_eq!(named.status.code(), Some(1), "{}", said(&named));
    assert!(
        said(&named).contains("cannot be recovered to"),
        "{}",
        said(&named)
    );
    let text = restores(&site, "LATEST", &behind, "s1");
    assert!(!text.contains("passed over"), "{text}");
}

/// B8: where the clock of a later backup stands before that of an earlier one, the WAL decides.
#[test]
fn b8_a_clock_that_contradicts_the_order_is_proved_by_the_wal() {
    let world = World::new("behind");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("b0");
    insert(&site, 1);
    let between = moment(&site);
    insert(&site, 2);
    site.backup("s1");
    let behind = moment(&site);
    insert(&site, 3);
    let wrong = ended(&site, "b0") - SignedDuration::from_mins(10);
    set_ended(&site, "s1", wrong, KnownFrom::Server);
    let text = restores(&site, "LATEST", &between, "b0");
    assert!(text.contains("s1 is passed over"), "{text}");
    let text = restores(&site, "s1", &between, "s1");
    assert!(
        text.contains("one of the two clocks was wrong") && text.contains("HINT: LATEST"),
        "{text}"
    );
    restores(&site, "LATEST", &behind, "s1");
    // Its WAL is lost: nobody knows, and the one before it will do.
    let segments = site.place.keys("wal");
    let lost = segments.iter().filter(|key| !key.contains("history")).nth(2);
    let path = world.archive().join(lost.expect("a segment"));
    let content = fs::read(&path).expect("read it");
    fs::remove_file(&path).expect("lose it");
    let text = said(&would_restore(&site, "LATEST", &behind));
    assert!(!text.contains("would restore s1"), "{text}");
    fs::write(&path, content).expect("bring it back");
}

/// K3: what begins a window ended before it, and a bound says nothing of that.
#[test]
fn k3_a_bound_begins_no_window() {
    let world = World::new("bound-window");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    for (number, name) in (1..).zip(["b0", "s1"]) {
        site.backup(name);
        insert(&site, number);
    }
    set_ended(&site, "b0", days_ago(9), KnownFrom::Server);
    set_ended(&site, "s1", days_ago(8), KnownFrom::Start);
    let done = prune(&site, &["--keep-days", "7"]);
    assert_eq!(going(&done), Vec::<String>::new(), "{done}");
    assert!(
        why(&done, "b0").contains("the last 7 days begin with it"),
        "{done}"
    );
    assert_eq!(done["backups"][1]["ended_known_from"], "start", "{done}");
    // With an end that is known the window begins with it.
    set_ended(&site, "s1", days_ago(8), KnownFrom::Server);
    assert_eq!(going(&prune(&site, &["--keep-days", "7"])), ["b0"]);
}

/// K3: what a clock that is ahead has dated takes no day from the others, stays, and is told.
#[test]
fn k3_what_is_dated_ahead_takes_no_day() {
    let world = World::new("ahead-days");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    let days = [-365, -366, -367, 4, 3, 2, 1];
    for (number, days) in (0..).zip(days) {
        let name = format!("b{number}");
        site.backup(&name);
        insert(&site, number);
        set_ended(&site, &name, days_ago(days), KnownFrom::Server);
    }
    let done = prune(&site, &["--keep-daily", "3"]);
    assert_eq!(going(&done), ["b3"], "{done}");
    for name in ["b0", "b1", "b2"] {
        assert!(why(&done, name).contains("its clock was ahead"), "{done}");
    }
    // Nor is it the newest one for as long as that was: nobody would hear that backups have ended (K7).
    let mut status = site.walfs("status");
    let told = said(
        &status
            .args(["--backup-max-age", "12h"])
            .output()
            .expect("run walfs"),
    );
    assert!(told.contains("the newest is b6"), "{told}");
    assert!(told.contains("the newest complete backup is 24 h old"), "{told}");
    for name in ["b0", "b1", "b2"] {
        assert!(
            told.contains(&format!("backup {name} says that it ended")),
            "{told}"
        );
    }
}

/// K5: recovery to a time stops at a transaction of a clock that was ahead: what it leaves behind is told before.
#[test]
fn k5_what_recovery_to_a_time_does_not_reach_is_told() {
    let world = World::new("ahead-once");
    let mut site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("b0");
    insert(&site, 1);
    site.server.stop(StopMode::Fast);
    let library = clock::ahead(&world, 3600).display().to_string();
    site.server.start_with(&[("LD_PRELOAD", library)]);
    insert(&site, 2);
    site.server.stop(StopMode::Fast);
    site.server.start();
    insert(&site, 3);
    let target = moment(&site);
    insert(&site, 4);
    let missed = |target: &str| {
        let mut find = site.walfs("wal-find");
        let found = find
            .args(["--json", "--time", target])
            .output()
            .expect("run walfs");
        let found: Value = serde_json::from_slice(&found.stdout).expect("JSON");
        found["missed"]["lsn"].as_str().map(str::to_owned)
    };
    let text = restores(&site, "LATEST", &target, "b0");
    let lsn = missed(&target).expect("what is missed");
    assert!(
        text.contains("a clock was ahead, or has gone back") && text.contains(&lsn),
        "{text}"
    );
    // A backup behind that begins with all of it.
    site.backup("b1");
    let target = moment(&site);
    insert(&site, 5);
    let text = restores(&site, "LATEST", &target, "b1");
    assert!(!text.contains("a clock was ahead"), "{text}");
}

/// K3: a dry run tells ages by the clock that the deed goes by, the store's.
#[test]
fn k3_a_dry_run_goes_by_the_stores_clock() {
    let world = World::new("dry-clock");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    for (number, name) in (1..).zip(["b1", "b2", "b3"]) {
        site.backup(name);
        insert(&site, number);
    }
    let plan = |rules: &[&str], ahead: Option<i64>| {
        let mut prune = site.walfs("prune");
        if let Some(seconds) = ahead {
            prune.env("LD_PRELOAD", clock::ahead(site.world, seconds));
        }
        let output = prune.args(["--json", "--dry-run"]).args(rules).output();
        let output = output.expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let month = 30 * 24 * 3600;
    for rules in [
        &["--keep-days", "7"][..],
        &["--keep-last", "2", "--pitr-days", "7"],
    ] {
        for seconds in [month, -month] {
            let told = plan(rules, Some(seconds));
            assert_eq!(told, plan(rules, None), "{seconds}");
        }
    }
}

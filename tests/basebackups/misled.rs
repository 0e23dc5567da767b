//! What may mislead: clocks that had gone back, a backup of another cluster, WAL that was removed on purpose, what was found damaged.

use std::fs;
use std::path::Path;
use std::process::Output;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use walfs::archive::tree::summary::Summary;
use walfs::codec::unpack_all;

use super::pruning::{prune, try_prune};
use crate::common::basebackup::{Place, Site};
use crate::common::clock;
use crate::common::postgres::{Options, StopMode};
use crate::common::user::{User, said};
use crate::common::walfs::Mount;
use crate::common::world::World;

fn run(site: &Site<'_>, command: &str, arguments: &[&str]) -> Output {
    let mut walfs = site.walfs(command);
    walfs.args(arguments).output().expect("run walfs")
}

/// As of the clocks of server and host at its end.
fn ended(site: &Site<'_>, name: &str, at: Timestamp) {
    rewrite(site, name, |summary| {
        (summary.backup.ended.at, summary.finished) = (at, at)
    });
}

fn rewrite(site: &Site<'_>, name: &str, change: impl FnOnce(&mut Summary)) {
    let path = site.world.archive().join(format!("basebackups/{name}.json"));
    let mut summary = Summary::parse(&fs::read(&path).expect("read the summary")).expect("a summary");
    change(&mut summary);
    fs::write(&path, summary.to_text()).expect("write the summary");
}

fn names(listed: &[Value]) -> Vec<&str> {
    let names = listed
        .iter()
        .map(|backup| backup["name"].as_str().expect("a name"));
    names.collect()
}

/// K3, B8: a backup that was taken while the server's clock stood in the past is not as old as that.
#[test]
fn k3_a_backup_of_a_clock_that_had_gone_back_is_as_old_as_those_before_it() {
    let world = World::new("clock");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    for (number, name) in ["b1", "b2", "b3", "b4"].iter().enumerate() {
        site.backup(name);
        site.server.query(&format!("INSERT INTO t VALUES ({number})"));
        site.server.archive_all();
    }
    let days_ago = |days: i64| Timestamp::now() - SignedDuration::from_hours(24 * days);
    ended(&site, "b1", days_ago(40));
    ended(&site, "b2", days_ago(20));
    ended(&site, "b3", days_ago(9000));
    let target = days_ago(27).to_string();
    let restore = |name: &str| {
        let dir = world.owned_dir("restored");
        let restored = run(
            &site,
            "restore",
            &[
                "--dry-run",
                "--target-time",
                &target,
                name,
                &dir.display().to_string(),
            ],
        );
        assert!(restored.status.success(), "{}", said(&restored));
        said(&restored)
    };
    let latest = restore("LATEST");
    assert!(latest.contains("would restore b1"), "{latest}");
    assert!(latest.contains("b3 is passed over"), "{latest}");
    assert!(restore("b3").contains("one of the two clocks was wrong"));
    let kept = prune(&site, &["--keep-days", "30"]);
    assert_eq!(kept["removed"]["backup_objects"], 0, "{kept}");
    // Only what lies before the oldest.
    assert_eq!(kept["removed"]["wal_objects"], 1, "{kept}");
}

/// B8: of one clock that was ahead once, the backups behind it are not doubted.
#[test]
fn b8_a_clock_that_was_ahead_once_is_outvoted() {
    let world = World::new("ahead");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    for number in 1..=5 {
        site.backup(&format!("b{number}"));
        site.server.query(&format!("INSERT INTO t VALUES ({number})"));
        site.server.archive_all();
    }
    let days_ago = |days: i64| Timestamp::now() - SignedDuration::from_hours(24 * days);
    for (name, days) in [("b1", 40), ("b2", 5), ("b3", 30), ("b4", 20), ("b5", 1)] {
        ended(&site, name, days_ago(days));
    }
    let (dir, target) = (
        world.owned_dir("restored").display().to_string(),
        days_ago(9).to_string(),
    );
    let restored = run(
        &site,
        "restore",
        &["--dry-run", "--target-time", &target, "LATEST", &dir],
    );
    let text = said(&restored);
    assert!(
        restored.status.success() && text.contains("b4") && !text.contains("b1"),
        "{text}"
    );
}

/// B8: a backup ended when the server says so, whatever the clock of the machine that took it.
#[test]
fn b8_a_backup_ends_by_the_servers_clock() {
    let world = World::new("apart");
    let site = Site::local(&world);
    let mut backup = site.walfs("backup");
    backup.env("LD_PRELOAD", clock::ahead(&world, -1200));
    let taken = backup.args(["--json", "b1"]).output().expect("run walfs");
    assert!(taken.status.success(), "{}", said(&taken));
    let taken: Value = serde_json::from_slice(&taken.stdout).expect("JSON");
    let ended = taken["backup"]["ended"]["at"].as_str().expect("a time");
    let ended: Timestamp = ended.parse().expect("a time");
    assert!(
        Timestamp::now().duration_since(ended).as_secs().abs() < 600,
        "{taken}"
    );
}

/// K3, B8: where the clocks of server and host are days behind, the store's tells how old a backup may be at most.
#[test]
fn k3_backups_of_a_machine_that_was_days_behind_are_as_young_as_the_store_says() {
    let world = World::new("behind");
    let site = Site::local(&world);
    let behind = SignedDuration::from_hours(24 * 5);
    for name in ["b1", "b2"] {
        let mut backup = site.walfs("backup");
        backup.env("LD_PRELOAD", clock::ahead(&world, -behind.as_secs()));
        let taken = backup.arg(name).output().expect("run walfs");
        assert!(taken.status.success(), "{}", said(&taken));
        rewrite(&site, name, |summary| summary.backup.ended.at -= behind);
        site.server.archive_all();
    }
    let kept = prune(&site, &["--keep-days", "3"]);
    assert_eq!(kept["removed"]["backup_objects"], 0, "{kept}");
    let kept = prune(&site, &["--keep-days", "0"]);
    assert_ne!(kept["removed"]["backup_objects"], 0, "{kept}");
}

/// K3, K7: a backup whose own WAL recovery cannot read is kept, and so is the newest from which a server starts.
#[test]
fn k3_a_backup_whose_own_wal_is_damaged_takes_the_place_of_none() {
    let world = World::new("own-wal");
    world.owned_dir("cache");
    let site = Site::local(&world);
    for name in ["b1", "b2", "b3"] {
        site.server.query(&format!(
            "CREATE TABLE {name} AS SELECT n, md5(n::text) FROM generate_series(1, 3000) n"
        ));
        site.backup(name);
    }
    site.server.archive_all();
    let listed = run(&site, "backup-show", &["--json", "b3"]);
    let shown: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let start = shown["backup"]["wal"][0]["start"].as_str().expect("a position");
    let segment = site.server.query(&format!("SELECT pg_walfile_name('{start}')"));
    let object = world.archive().join("wal").join(format!("{segment}.lz4"));
    let kept = fs::read(&object).expect("read a segment");
    // Damaged in the store, which `verify` has found.
    let mut damaged = kept.clone();
    damaged[300] ^= 0x55;
    fs::write(&object, &damaged).expect("damage a segment");
    assert_eq!(run(&site, "verify", &[]).status.code(), Some(1));
    let planned = try_prune(&site, &["--keep-last", "1", "--dry-run"]);
    assert!(planned.status.success(), "{}", said(&planned));
    let stays = |output: &Output| -> Vec<String> {
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let backups = plan["backups"].as_array().expect("backups").iter();
        let stays = backups.filter(|backup| !backup["why"].as_array().expect("reasons").is_empty());
        stays
            .map(|backup| backup["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(stays(&planned), ["b2", "b3"], "{}", said(&planned));
    // Damaged before it was archived, which nobody has looked for.
    let mut content = unpack_all(&kept).expect("a segment");
    content[40..8192].fill(0);
    let again = world.owned_file(&segment, &content);
    fs::remove_file(&object).expect("remove a segment");
    for record in fs::read_dir(world.archive().join("verified"))
        .expect("list")
        .flatten()
    {
        fs::remove_file(record.path()).expect("remove a record");
    }
    let pushed = run(&site, "wal-push", &[again.to_str().expect("text")]);
    assert!(pushed.status.success(), "{}", said(&pushed));
    let done = try_prune(&site, &["--keep-last", "1"]);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(stays(&done), ["b2", "b3"], "{}", said(&done));
    let status = run(&site, "status", &["--json"]);
    let told: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(told["recoverable"][0]["backup"], "b2", "{told}");
}

/// K7: nor is a restore begun of which `verify` has found that it cannot be ended.
#[test]
fn k7_a_backup_that_was_found_damaged_is_refused_before_anything_is_touched() {
    let world = World::new("found-tree");
    let site = Site::local(&world);
    site.server
        .query("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 3000) n");
    site.backup("b1");
    site.server.archive_all();
    let keys = site.place.keys("trees").into_iter();
    let part = keys
        .filter(|key| key.ends_with(".tar.lz4"))
        .max_by_key(|key| site.place.object(key).len());
    let path = world.archive().join(part.expect("a part"));
    let kept = fs::read(&path).expect("read a part");
    let mut damaged = kept.clone();
    damaged[5000] ^= 1;
    fs::write(&path, damaged).expect("damage a part");
    let dir = world.owned_dir("restored").display().to_string();
    let restore = || run(&site, "restore", &["--dry-run", "LATEST", &dir]);
    assert_eq!(run(&site, "verify", &[]).status.code(), Some(1));
    assert_eq!(restore().status.code(), Some(1), "{}", said(&restore()));
    fs::write(&path, kept).expect("bring it back");
    assert!(restore().status.success(), "{}", said(&restore()));
}

/// K5: nor does a damaged object lead on, once that is known; one that is right again is fine.
#[test]
fn k5_what_verify_has_found_is_asked_before_a_restore() {
    let world = World::new("found");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("b1");
    for number in 0..3 {
        site.server.query(&format!("INSERT INTO t VALUES ({number})"));
        site.server.archive_all();
    }
    let keys = site.place.keys("wal").into_iter();
    let segments: Vec<String> = keys.filter(|key| key.len() == "wal/".len() + 24 + 4).collect();
    let path = world.archive().join(&segments[segments.len() - 2]);
    let kept = fs::read(&path).expect("read a segment");
    let mut damaged = kept.clone();
    damaged[40] ^= 1;
    fs::write(&path, damaged).expect("damage a segment");
    assert_eq!(run(&site, "verify", &[]).status.code(), Some(1));
    let dir = world.owned_dir("restored").display().to_string();
    let restore = || run(&site, "restore", &["--dry-run", "LATEST", &dir]);
    let refused = restore();
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("is damaged"), "{}", said(&refused));
    fs::write(&path, kept).expect("bring it back");
    assert!(restore().status.success(), "{}", said(&restore()));
}

fn copy_all(from: &Path, to: &Path) {
    let user = User::postgres();
    let copied = user.shell("cp -a \"$1\"/* \"$2\"", &[from, to]);
    assert!(copied.status.success(), "{}", said(&copied));
}

/// W5: what somebody has brought from another archive is no backup here, and takes the place of none.
#[test]
fn w5_a_backup_of_another_cluster_counts_for_nobody() {
    let (world, others) = (World::new("own"), World::new("foreign"));
    let site = Site::local(&world);
    let options = Options {
        segment_mib: 1,
        data_checksums: false,
        ..Options::default()
    };
    let other = Site::with(&others, Place::Local(others.archive()), &options);
    for (site, name) in [(&site, "own"), (&other, "foreign")] {
        site.server.query("CREATE TABLE t (id int)");
        site.backup(name);
        site.server.query("INSERT INTO t VALUES (1)");
        site.server.archive_all();
    }
    assert_ne!(site.server.system_identifier(), other.server.system_identifier());
    for folder in ["basebackups", "trees"] {
        copy_all(&others.archive().join(folder), &world.archive().join(folder));
    }
    assert_eq!(site.state("foreign").as_deref(), Some("damaged"));
    let status = run(&site, "status", &[]);
    assert_eq!(status.status.code(), Some(3), "{}", said(&status));
    let verified = run(&site, "verify", &[]);
    assert_eq!(verified.status.code(), Some(1), "{}", said(&verified));
    assert!(said(&verified).contains("is of cluster"), "{}", said(&verified));
    let pruned = try_prune(&site, &["--keep-last", "1"]);
    assert_eq!(pruned.status.code(), Some(1), "{}", said(&pruned));
    assert!(said(&pruned).contains("foreign"), "{}", said(&pruned));
    assert_eq!(site.state("own").as_deref(), Some("complete"));
    let mount = Mount::local(&world);
    let listed = mount
        .user()
        .shell("readlink \"$1\"/basebackups/LATEST", &[mount.path()]);
    assert!(said(&listed).contains("own"), "{}", said(&listed));
}

fn last_segment(site: &Site<'_>) -> String {
    let keys = site.place.keys("wal").into_iter();
    let mut names = keys.filter_map(|key| Some(key.strip_prefix("wal/")?.strip_suffix(".lz4")?.to_owned()));
    names.rfind(|name| name.len() == 24).expect("a segment")
}

/// R6: WAL that a prune has removed is no proof that the archive ends there.
#[test]
fn r6_where_a_prune_has_removed_wal_the_archive_does_not_end() {
    let world = World::new("pruned-end");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("old");
    site.server.query("INSERT INTO t VALUES (1)");
    site.server.archive_all();
    let segment = last_segment(&site);
    let pruned = format!("{{\"wal\": [{{\"first\": \"{segment}\", \"last\": \"{segment}\"}}]}}");
    let fetch = || {
        let into = world.path().join("fetched").display().to_string();
        run(&site, "wal-fetch", &[&segment, &into])
    };
    fs::remove_file(world.archive().join(format!("wal/{segment}.lz4"))).expect("remove it");
    assert_eq!(fetch().status.code(), Some(1), "{}", said(&fetch()));
    let records = world.owned_dir("archive/prune");
    let record = records.join("0000000000000001.done.json");
    fs::write(&record, pruned).expect("write a record");
    User::postgres().own(&record);
    let fetched = fetch();
    assert_eq!(fetched.status.code(), Some(255), "{}", said(&fetched));
    assert!(
        said(&fetched).contains("`walfs prune` has removed it"),
        "{}",
        said(&fetched)
    );
    let mount = Mount::local(&world);
    let absent = mount.user().shell(
        "cp \"$1\" \"$2\" || test -e \"$3\"",
        &[
            &mount.wal().join(&segment),
            &world.path().join("x"),
            &mount.path().join(".absent").join(&segment),
        ],
    );
    assert!(!absent.status.success(), "{}", said(&absent));
    mount.wait_for_log("has removed it");
}

/// K5: a target in WAL that was pruned is told as that, whenever what lies before it was archived.
#[test]
fn k5_a_target_in_pruned_wal_is_told_so() {
    let world = World::new("pruned-target");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("b1");
    let before = world.archive().join(format!("wal/{}.lz4", last_segment(&site)));
    site.server.query("INSERT INTO t VALUES (1)");
    site.server.archive_all();
    let segment = last_segment(&site);
    let target = site.server.query("SELECT clock_timestamp()");
    site.server.query("INSERT INTO t VALUES (2)");
    site.server.archive_all();
    fs::remove_file(world.archive().join(format!("wal/{segment}.lz4"))).expect("remove it");
    let records = world.owned_dir("archive/prune");
    let record = records.join("0000000000000001.done.json");
    let pruned = format!("{{\"wal\": [{{\"first\": \"{segment}\", \"last\": \"{segment}\"}}]}}");
    fs::write(&record, pruned).expect("write a record");
    User::postgres().own(&record);
    // As of a copy that was made later.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let file = fs::File::options()
        .write(true)
        .open(before)
        .expect("open a segment");
    file.set_modified(later).expect("set its time");
    let dir = world.owned_dir("restored").display().to_string();
    let restore = ["--dry-run", "--target-time", &target, "b1", &dir];
    let refused = run(&site, "restore", &restore);
    let message = said(&refused);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(
        message.contains("`walfs prune` has removed") && message.contains("--immediate"),
        "{message}"
    );
    assert!(!message.contains("without a target"), "{message}");
}

/// K8: what the copy still has when the original is pruned, would be missing if it went.
#[test]
fn k8_what_the_copy_still_has_is_not_told_as_pruned() {
    let world = World::new("copy-kept");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("b1");
    for number in 0..4 {
        site.server.query(&format!("INSERT INTO t VALUES ({number})"));
        site.server.archive_all();
    }
    site.backup("b2");
    site.server.archive_all();
    let to = world.owned_dir("copy");
    let copy = || {
        let mut copy = crate::common::walfs::walfs(&world, &User::postgres());
        copy.args([
            "copy",
            "--create",
            &site.place.archive(),
            &to.display().to_string(),
        ]);
        let copied = copy.output().expect("run walfs");
        assert!(copied.status.success(), "{}", said(&copied));
    };
    copy();
    let before = Place::Local(to.clone()).keys("wal");
    let pruned = prune(&site, &["--keep-last", "1"]);
    assert!(pruned["removed"]["wal_objects"].as_u64() > Some(2), "{pruned}");
    copy();
    let copied = Place::Local(to.clone());
    assert!(before.iter().all(|key| copied.keys("wal").contains(key)));
    let is_segment = |key: &&String| key.len() == "wal/".len() + 24 + 4;
    let kept = site.place.keys("wal");
    let gone = before
        .iter()
        .filter(is_segment)
        .filter(|key| !kept.contains(key))
        .nth(1);
    fs::remove_file(to.join(gone.expect("a segment that the original lost"))).expect("lose it");
    let mut verify = crate::common::walfs::walfs(&world, &User::postgres());
    let verified = verify
        .args(["wal-verify", "--archive", &to.display().to_string()])
        .output();
    let verified = verified.expect("run walfs");
    assert_ne!(verified.status.code(), Some(0), "{}", said(&verified));
    // What comes back from the copy is not pruned any more.
    let mut back = crate::common::walfs::walfs(&world, &User::postgres());
    back.args(["copy", &to.display().to_string(), &site.place.archive()]);
    let back = back.output().expect("run walfs");
    let there = site.place.keys("wal");
    let mut returned = before.iter().filter(|key| is_segment(key) && there.contains(key));
    assert!(returned.clone().count() > 2, "{}", said(&back));
    let lost = returned.nth(1).expect("a segment");
    fs::remove_file(world.archive().join(lost)).expect("lose it");
    let verified = run(&site, "wal-verify", &[]);
    assert_ne!(verified.status.code(), Some(0), "{}", said(&verified));
}

/// K8: what the copy has lost is missing there, also when the original needs it no more. What was pruned before it could be
/// copied is not.
#[test]
fn k8_what_the_copy_has_lost_is_not_told_as_pruned() {
    let world = World::new("copy-lost");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    for name in ["b1", "b2", "b3"] {
        site.backup(name);
        for number in 0..3 {
            site.server.query(&format!("INSERT INTO t VALUES ({number})"));
            site.server.archive_all();
        }
    }
    let verified = |to: &Path| {
        let mut verify = crate::common::walfs::walfs(&world, &User::postgres());
        let verified = verify
            .args(["wal-verify", "--archive", &to.display().to_string()])
            .output();
        verified.expect("run walfs")
    };
    let copy = |to: &Path| {
        let mut copy = crate::common::walfs::walfs(&world, &User::postgres());
        copy.args(["copy", "--create", &site.place.archive()]);
        let copied = copy.arg(to).output().expect("run walfs");
        assert!(copied.status.success(), "{}", said(&copied));
    };
    let (early, late) = (world.owned_dir("early"), world.owned_dir("late"));
    copy(&early);
    // Of the older ones only what makes them consistent: the WAL between is gone, and comes to no copy.
    let pruned = prune(&site, &["--keep-last", "3", "--pitr-days", "0"]);
    assert!(pruned["removed"]["wal_objects"].as_u64() > Some(2), "{pruned}");
    copy(&late);
    assert!(verified(&late).status.success(), "{}", said(&verified(&late)));
    let kept = site.place.keys("wal");
    let is_segment = |key: &String| key.len() == "wal/".len() + 24 + 4;
    let gone = Place::Local(early.clone()).keys("wal").into_iter();
    let gone: Vec<String> = gone
        .filter(is_segment)
        .filter(|key| !kept.contains(key))
        .collect();
    fs::remove_file(early.join(&gone[1])).expect("lose one");
    for round in ["lost", "copied again", "the original has pruned all of it"] {
        let missing = verified(&early);
        assert_ne!(missing.status.code(), Some(0), "{round}: {}", said(&missing));
        copy(&early);
        prune(&site, &["--keep-last", "1"]);
    }
    copy(&late);
    assert!(verified(&late).status.success(), "{}", said(&verified(&late)));
}

/// K7: a server at rest has nothing to end; what it ends is archived, or not.
#[test]
fn k7_check_of_a_server_at_rest_is_no_guess() {
    let world = World::new("rest");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.server.archive_all();
    assert!(run(&site, "check", &["--timeout", "60s"]).status.success());
    site.server.archive_with("true");
    site.server.reload();
    let checked = run(&site, "check", &["--timeout", "2s"]);
    assert_eq!(checked.status.code(), Some(1), "{}", said(&checked));
}

/// B4, K3, K7: damaged pages of the newest backup are told by all who speak of it, and the last backup without any stays.
#[test]
fn b4_damaged_pages_of_the_newest_backup_are_told() {
    let world = World::new("bad-newest");
    let mut site = Site::local(&world);
    site.server.pgbench_init(1);
    site.backup("whole");
    site.server.query("CHECKPOINT");
    let path = site
        .server
        .query("SELECT pg_relation_filepath('pgbench_accounts')");
    site.server.stop(StopMode::Fast);
    let file = site.server.data().join(&path);
    let mut bytes = fs::read(&file).expect("read the relation");
    bytes[7 * 8192 + 4000] ^= 1;
    fs::write(&file, bytes).expect("damage the relation");
    site.server.start();
    let taken = site.try_backup("marked", &[]);
    assert_eq!(taken.status.code(), Some(3), "{}", said(&taken));
    let status = run(&site, "status", &[]);
    assert_eq!(status.status.code(), Some(3), "{}", said(&status));
    let text = said(&status);
    assert!(
        text.contains("marked") && text.contains("damaged on the server") && text.contains("whole"),
        "{text}"
    );
    let kept = prune(&site, &["--keep-last", "1"]);
    assert!(kept.to_string().contains("without damaged pages"), "{kept}");
    assert_eq!(names(&site.list()), ["whole", "marked"]);
    let dir = world.owned_dir("restored").display().to_string();
    let restored = run(&site, "restore", &["--dry-run", "LATEST", &dir]);
    assert!(
        said(&restored).contains("1 pages were damaged"),
        "{}",
        said(&restored)
    );
}

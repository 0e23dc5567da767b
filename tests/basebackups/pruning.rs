//! What `walfs prune` removes, and what it does not (promise K3).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use std::process::Output;

use serde_json::Value;
use walfs::codec::unpack_all;

use super::incremental::{Files, assert_same, restored};
use crate::common::basebackup::{Place, Site};
use crate::common::postgres::{Postgres, newest};
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::Mount;
use crate::common::world::World;

pub(super) fn try_prune(site: &Site<'_>, arguments: &[&str]) -> Output {
    let mut prune = site.walfs("prune");
    prune.args(["--grace", "1s", "--json"]).args(arguments);
    prune.output().expect("run walfs")
}

#[track_caller]
pub(super) fn prune(site: &Site<'_>, arguments: &[&str]) -> Value {
    let output = try_prune(site, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Names of those that a plan lets go.
pub(super) fn going(plan: &Value) -> Vec<String> {
    let backups = plan["backups"].as_array().expect("backups").iter();
    let going = backups.filter(|backup| backup["goes"] == true);
    going
        .map(|backup| backup["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// Names of complete backups; there are no others.
#[track_caller]
pub(super) fn complete(site: &Site<'_>) -> Vec<String> {
    let listed = site.list();
    assert!(
        listed.iter().all(|backup| backup["state"] == "complete"),
        "{listed:?}"
    );
    let name = |backup: &Value| backup["name"].as_str().expect("a name").to_owned();
    listed.iter().map(name).collect()
}

/// Every object of the archive that is not its own description.
pub(super) fn objects(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let folders = ["wal", "basebackups", "trees", "pins", "prune", "receiving"];
    let keys = folders.iter().flat_map(|folder| place.keys(folder));
    keys.map(|key| {
        let object = place.object(&key);
        (key, object)
    })
    .collect()
}

/// Without what prunes say of themselves.
pub(super) fn content(place: &Place) -> BTreeSet<String> {
    let keys = objects(place).into_keys();
    keys.filter(|key| !key.starts_with("prune/")).collect()
}

/// The parts that the manifests of all backups name, read without walfs.
pub(super) fn named_parts(place: &Place) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for key in place.keys("basebackups") {
        let summary: Value = serde_json::from_slice(&place.object(&key)).expect("a summary");
        let id = summary["id"].as_str().expect("an id");
        let manifest = place.object(&format!("trees/{id}/manifest.lz4"));
        let text = unpack_all(&manifest).expect("a manifest");
        for line in String::from_utf8_lossy(&text).lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            named.extend(line["part"]["key"].as_str().map(str::to_owned));
        }
    }
    named
}

/// No part is there that no backup names, and none is missing.
#[track_caller]
pub(super) fn assert_nothing_unneeded(place: &Place) {
    let parts = place.keys("trees").into_iter();
    let parts: BTreeSet<String> = parts.filter(|key| key.ends_with(".tar.lz4")).collect();
    assert_eq!(parts, named_parts(place));
}

fn segments(place: &Place) -> Vec<String> {
    let names = place.keys("wal").into_iter();
    let names = names.map(|key| key["wal/".len()..].trim_end_matches(".lz4").to_owned());
    names.filter(|name| name.len() == 24).collect()
}

/// The segment in which a backup starts, or stops.
fn segment_of(site: &Site<'_>, name: &str, end: &str) -> String {
    let listed = site.list();
    let backup = listed.iter().find(|backup| backup["name"] == name);
    let wal = &backup.expect("the backup")["backup"]["wal"][0];
    let (high, low) = wal[end]
        .as_str()
        .expect("a position")
        .split_once('/')
        .expect("a slash");
    let (high, low) = (
        u64::from_str_radix(high, 16).expect("hexadecimal"),
        u64::from_str_radix(low, 16).expect("hexadecimal"),
    );
    let number = ((high << 32) + low - u64::from(end == "end")) >> 20;
    format!("00000001{:08X}{:08X}", number >> 12, number & 0xfff)
}

/// Backups in a row, with a copy of the files as they were at each.
pub(super) fn row(site: &Site<'_>, files: &mut Files, count: u32) {
    for round in 0..count {
        site.backup(&format!("b{round}"));
        let copy = site.world.path().join(format!("copy{round}"));
        let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[&files.root, &copy]);
        assert!(copied.status.success(), "{}", said(&copied));
        for _ in 0..25 {
            files.change();
        }
        site.server
            .query("CREATE TABLE IF NOT EXISTS t (id int); INSERT INTO t VALUES (1)");
        site.server.archive_all();
    }
}

#[track_caller]
pub(super) fn assert_restores(site: &Site<'_>, round: u32) {
    let data = restored(site, &format!("b{round}"));
    let copy = site.world.path().join(format!("copy{round}"));
    assert_same(&User::caller(), &data.join("kept_by_us"), &copy);
    fs::remove_dir_all(&data).expect("remove what was restored");
}

/// What is left is what it was, nothing is left that is not needed, and a second run changes nothing.
#[test]
fn k3_ten_in_a_row_are_pruned_to_two() {
    let world = World::new("ten");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 21);
    for bytes in [34 << 20, 3 << 20, 100, 8192] {
        files.make(bytes);
    }
    row(&site, &mut files, 10);
    let before = objects(&site.place);
    let planned = prune(&site, &["--keep-last", "2", "--dry-run"]);
    assert_eq!(objects(&site.place), before, "--dry-run changed something");
    let done = prune(&site, &["--keep-last", "2"]);
    let told = |told: &Value| (going(told), told["removed"].clone(), told["wal"].clone());
    assert_eq!(told(&planned), told(&done), "plan and deed");
    assert_eq!(
        going(&done),
        (0..8).map(|round| format!("b{round}")).collect::<Vec<_>>()
    );
    assert_eq!(complete(&site), ["b8", "b9"]);
    assert_nothing_unneeded(&site.place);
    assert_eq!(segments(&site.place)[0], segment_of(&site, "b8", "start"));
    let removed = before.len() - objects(&site.place).len();
    let told = &done["removed"];
    let number = |name: &str| told[name].as_u64().expect("a number");
    // Beside them eight summaries went, and a record came.
    assert_eq!(
        number("backup_objects") + number("wal_objects") + 8 - 1,
        removed as u64,
        "{told}"
    );
    let mount = Mount::local(&world);
    for round in [8, 9] {
        assert_restores(&site, round);
        let shown = mount.path().join(format!("basebackups/b{round}/kept_by_us"));
        assert_same(mount.user(), &shown, &world.path().join(format!("copy{round}")));
    }
    let verified = site.walfs("wal-verify").output().expect("run walfs");
    assert!(verified.status.success(), "{}", said(&verified));

    let verified = site.walfs("verify").output().expect("run walfs");
    assert!(verified.status.success(), "{}", said(&verified));

    let after = objects(&site.place);
    let again = prune(&site, &["--keep-last", "2"]);
    assert_eq!(going(&again), Vec::<String>::new());
    assert_eq!(objects(&site.place), after, "the second run changed something");
    let taken = site.backup("later");
    assert_eq!(taken["base"], "b9");
    prune(&site, &["--keep-last", "1"]);
    assert_eq!(complete(&site), ["later"]);
    assert_nothing_unneeded(&site.place);
}

/// `--pitr-days`: of older backups only what makes them consistent. They are restored as they were at their end.
#[test]
fn k3_old_backups_keep_their_own_wal_only() {
    let world = World::new("pitr");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 22);
    files.make(100_000);
    row(&site, &mut files, 4);
    let done = prune(&site, &["--keep-last", "3", "--pitr-days", "0"]);
    assert_eq!(going(&done), ["b0"]);
    let (first, last) = (segment_of(&site, "b3", "start"), segments(&site.place));
    let own: BTreeSet<String> = ["b1", "b2"]
        .iter()
        .flat_map(|name| ["start", "end"].map(|end| segment_of(&site, name, end)))
        .collect();
    let kept: BTreeSet<String> = last.iter().filter(|name| **name < first).cloned().collect();
    assert_eq!(kept, own);
    assert_eq!(complete(&site), ["b1", "b2", "b3"]);
    let verified = site.walfs("wal-verify").output().expect("run walfs");
    assert!(verified.status.success(), "{}", said(&verified));
    assert!(said(&verified).contains("pruned"), "{}", said(&verified));
    let verified = site.walfs("verify").output().expect("run walfs");
    assert!(verified.status.success(), "{}", said(&verified));

    let data = world.owned_dir("restored").join("data");
    let restore = |target: &[&str]| {
        let mut restore = site.walfs("restore");
        restore.args(["--no-archiving", "--no-sync", "b1"]).args(target);
        restore.arg(&data).output().expect("run walfs")
    };
    // Not to the end of the WAL: that is told before anything is touched.
    let refused = restore(&[]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("--immediate"), "{}", said(&refused));
    assert!(!data.exists());
    let restored = restore(&["--immediate"]);
    assert!(restored.status.success(), "{}", said(&restored));
    assert_same(
        &User::caller(),
        &data.join("kept_by_us"),
        &world.path().join("copy1"),
    );
    let mut server = Postgres::start_as_it_is(data.parent().expect("its directory"), newest(), &[]);
    // At its target it waits, open for reading.
    let paused = "SELECT CASE WHEN pg_is_wal_replay_paused() THEN 'paused' END";
    let paused = wait::within(wait::LONG, || {
        let is_paused = server.psql(paused).is_ok_and(|answer| answer == "paused");
        assert!(server.is_running(), "{}", server.log());
        is_paused.then_some(())
    });
    assert!(paused.is_some(), "{}", server.log());
    server.query("SELECT count(*) FROM t");
    // Nothing is removed twice, and nothing that was removed is missing then.
    let after = objects(&site.place);
    prune(&site, &["--keep-last", "3", "--pitr-days", "0"]);
    assert_eq!(objects(&site.place), after);
}

/// What a killed backup claimed goes with it: the plan says so, too.
#[test]
fn k3_a_dry_run_tells_what_the_deed_does() {
    let world = World::new("told");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 30);
    for _ in 0..30 {
        files.make(300_000);
    }
    row(&site, &mut files, 1);
    let mut killed = site.slow_backup("killed", "1MiB");
    wait::until("it to say what it builds on", || {
        let keys = site.place.keys("trees");
        keys.iter().any(|key| key.contains("/base.b0.")).then_some(())
    });
    killed.kill().expect("kill walfs");
    killed.wait().expect("wait for walfs");
    site.server.archive_all();
    // The next backup would sweep.
    let full = site.try_backup("next", &["--full"]);
    assert!(full.status.success(), "{}", said(&full));
    let mut killed = site.slow_backup("again", "1MiB");
    wait::until("it to say what it builds on", || {
        let keys = site.place.keys("trees");
        keys.iter().any(|key| key.contains("/base.next.")).then_some(())
    });
    killed.kill().expect("kill walfs");
    killed.wait().expect("wait for walfs");
    let whole = site.try_backup("last", &["--full"]);
    assert!(whole.status.success(), "{}", said(&whole));
    let planned = prune(&site, &["--keep-last", "1", "--dry-run"]);
    let done = prune(&site, &["--keep-last", "1"]);
    assert_eq!(going(&planned), ["b0", "next"], "{planned}");
    assert_eq!(
        (going(&planned), &planned["removed"]),
        (going(&done), &done["removed"])
    );
    assert_eq!(complete(&site), ["last"]);
}

/// A pin holds a backup, and what it builds on; and only that backup, not one that comes under its name.
#[test]
fn k3_a_pinned_backup_stays() {
    let world = World::new("pinned");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 26);
    files.make(300_000);
    row(&site, &mut files, 3);
    let run = |command: &str, arguments: &[&str]| {
        let mut walfs = site.walfs(command);
        walfs.args(arguments).output().expect("run walfs")
    };
    let pinned = run("backup-pin", &["b1", "--reason", "before the upgrade"]);
    assert!(pinned.status.success(), "{}", said(&pinned));
    let missing = run("backup-pin", &["none", "--reason", "x"]);
    assert_eq!(missing.status.code(), Some(1), "{}", said(&missing));
    let listed = said(&run("backup-list", &[]));
    let line = |name: &str| {
        listed
            .lines()
            .find(|line| line.starts_with(name))
            .expect("a line")
    };
    assert!(
        line("b1").ends_with("complete; pinned: before the upgrade"),
        "{listed}"
    );
    assert!(line("b0").ends_with("complete"), "{listed}");
    let told: Vec<Value> = site
        .list()
        .iter()
        .map(|listed| listed["pinned"].clone())
        .collect();
    assert_eq!(told, [Value::Null, "before the upgrade".into(), Value::Null]);
    let shown = said(&run("backup-show", &["b1"]));
    assert!(shown.contains("pinned             before the upgrade"), "{shown}");
    let done = prune(&site, &["--keep-last", "1"]);
    assert_eq!(going(&done), ["b0"]);
    assert!(done.to_string().contains("pinned: before the upgrade"), "{done}");
    assert_restores(&site, 1);
    let unpinned = run("backup-unpin", &["b1"]);
    assert!(unpinned.status.success(), "{}", said(&unpinned));
    assert_eq!(run("backup-unpin", &["b1"]).status.code(), Some(1));
    for wrong in [
        &["b1", "--reason", "audit", "--until", "2020-01-01 00:00:00Z"][..],
        &["b1", "--reason", " "],
    ] {
        let refused = run("backup-pin", wrong);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    }
    let until = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2)).to_string();
    let soon = run("backup-pin", &["b1", "--reason", "audit", "--until", &until]);
    assert!(soon.status.success(), "{}", said(&soon));
    let told: String = serde_json::from_value(site.list()[0]["pinned_until"].clone()).expect("a time");
    assert_eq!(told, until);
    let held = prune(&site, &["--keep-last", "1", "--dry-run"]);
    assert_eq!(going(&held), Vec::<String>::new());
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(going(&prune(&site, &["--keep-last", "1"])), ["b1"]);
    assert_nothing_unneeded(&site.place);
    assert_restores(&site, 2);
}

/// Of what rests on it, a backup is not believed by its length: its manifest is read, and what `walfs verify` found counts.
#[test]
fn k3_a_damaged_newest_backup_does_not_take_the_others_with_it() {
    let world = World::new("rotten");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 31);
    files.make(300_000);
    row(&site, &mut files, 3);
    let flip = |key: &str, at: usize| {
        let path = world.archive().join(key);
        let mut object = fs::read(&path).expect("read an object");
        object[at] ^= 1;
        fs::write(&path, object).expect("damage it");
    };
    let of_newest = |end: &str| {
        let keys = site.place.keys("trees").into_iter();
        let mut keys = keys.filter(|key| key.starts_with("trees/b2.") && key.ends_with(end));
        keys.next().expect("an object")
    };
    let manifest = of_newest("manifest.lz4");
    flip(&manifest, 30);
    let planned = prune(&site, &["--keep-last", "1", "--dry-run"]);
    assert!(!going(&planned).contains(&"b1".to_owned()), "{planned}");
    flip(&manifest, 30);
    let part = of_newest(".tar.lz4");
    flip(&part, 30);
    let verified = site.walfs("verify").output().expect("run walfs");
    assert_eq!(verified.status.code(), Some(1), "{}", said(&verified));
    let done = prune(&site, &["--keep-last", "1"]);
    assert_eq!(going(&done), ["b0"], "{done}");
    assert_restores(&site, 1);
}

/// In the words of wal-g and pgGlaskugel, which remove nothing until they are told twice.
#[test]
fn k3_the_words_of_others() {
    let world = World::new("words");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 28);
    files.make(100_000);
    row(&site, &mut files, 4);
    let run = |command: &str, arguments: &[&str]| {
        let mut walfs = site.walfs(command);
        walfs.args(arguments).output().expect("run walfs")
    };
    let before = objects(&site.place);
    for (command, arguments, goes) in [
        ("delete", &["retain", "2"][..], 2),
        ("delete", &["retain", "FULL", "3"], 1),
        ("delete", &["before", "b3"], 3),
        ("cleanup", &["--retain", "1"], 3),
    ] {
        let shown = run(command, arguments);
        assert!(shown.status.success(), "{}", said(&shown));
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert_eq!(text.matches("would go").count(), goes, "{arguments:?}: {text}");
    }
    for wrong in [&["retain", "many"][..], &["everything", "now"], &["retain"]] {
        assert_eq!(run("delete", wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(objects(&site.place), before);
    let done = run(
        "delete",
        &["before", "FIND_FULL", "b2", "--confirm", "--grace", "1s"],
    );
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(complete(&site), ["b2", "b3"]);
}

/// B9: what has lost its summary goes by nobody's rule, nor what it builds on; what cannot be read stops everything.
#[test]
fn b9_what_is_not_understood_stays() {
    let world = World::new("not_understood");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 27);
    files.make(300_000);
    row(&site, &mut files, 3);
    let summary = world.archive().join("basebackups/b1.json");
    let text = fs::read(&summary).expect("read the summary");
    fs::remove_file(&summary).expect("remove the summary");
    prune(&site, &["--keep-last", "1"]);
    fs::write(&summary, &text).expect("put it back");
    User::postgres().own(&summary);
    assert_restores(&site, 1);
    assert_restores(&site, 2);

    fs::write(&summary, &text[..text.len() / 2]).expect("cut it");
    let before = objects(&site.place);
    let refused = try_prune(&site, &["--keep-last", "1"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("b1"), "{}", said(&refused));
    assert_eq!(objects(&site.place), before);
    let unknown = try_prune(&site, &["--keep-from", "none"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", said(&unknown));
    for usage in [&["--pitr-days", "3"][..], &[]] {
        let output = try_prune(&site, usage);
        assert_ne!(output.status.code(), Some(0), "{usage:?}: {}", said(&output));
    }
    assert_eq!(objects(&site.place), before);
}

/// K3: a later backup does not point to a part of a pruned one of which it needs little, so that the part goes.
#[test]
fn k3_parts_of_which_little_is_alive_are_left() {
    let world = World::new("sparse");
    let site = Site::local(&world);
    site.server.query(
        "CREATE TABLE t AS SELECT n, repeat(md5(random()::text), 10) AS noise FROM generate_series(1, 120000) n",
    );
    // No scan changes a page from here on.
    site.server.query("VACUUM FREEZE t");
    site.backup("b0");
    let of_first = || {
        let keys = site.place.keys("trees").into_iter();
        let parts = keys.filter(|key| key.starts_with("trees/b0.") && key.contains(".tar."));
        parts.collect::<BTreeSet<String>>()
    };
    // All but a twentieth of the chunks of 32 pages.
    site.server
        .query("DELETE FROM t WHERE ((ctid::text::point)[0]::int / 32) % 20 <> 0");
    let second = site.backup("b1");
    // As long as the first one is there, its parts are needed.
    let third = site.backup("b2");
    let builds_on = |backup: &Value| backup["builds_on"].to_string().contains("b0.");
    assert!(builds_on(&second) && builds_on(&third), "{third}");
    let pruned = prune(&site, &["--keep-from", "b1"]);
    assert_eq!(going(&pruned), ["b0"]);
    let kept = of_first();
    // The base of this one, b2, stored little itself: no more than a tenth of that is stored again.
    site.backup("b3");
    prune(&site, &["--keep-last", "1"]);
    assert_eq!(of_first(), kept);
    // b4 stores much; so what is left of sparse parts goes into b5.
    site.server.query(
        "CREATE TABLE u AS SELECT n, repeat(md5(random()::text), 10) FROM generate_series(1, 120000) n",
    );
    site.backup("b4");
    site.backup("b5");
    prune(&site, &["--keep-last", "1"]);
    let left = of_first();
    assert!(
        left.is_subset(&kept) && left.len() < kept.len(),
        "{left:?} of {kept:?}"
    );
    assert_eq!(complete(&site), ["b5"]);
    let verified = site.walfs("verify").output().expect("run walfs");
    assert!(verified.status.success(), "{}", said(&verified));
}

/// S1: on a full disk a prune cannot say what it is about to remove, removes nothing, and says what helps.
#[test]
fn s1_a_prune_on_a_full_disk_says_what_helps() {
    let world = World::new("full");
    let (disk, user) = (world.owned_dir("archive"), User::postgres());
    let options = format!("size=40m,mode=0700,uid={},gid={}", user.uid, user.gid);
    let mut mount = std::process::Command::new("mount");
    let mounted = mount
        .args(["-t", "tmpfs", "-o", &options, "none"])
        .arg(&disk)
        .status();
    assert!(mounted.expect("run mount").success());
    let site = Site::local(&world);
    let mut files = Files::new(&site, 31);
    files.make(100_000);
    row(&site, &mut files, 2);
    let filler = disk.join("filler");
    let filled = User::caller().shell("! cp /dev/zero \"$1\"", &[&filler]);
    assert!(filled.status.success(), "{}", said(&filled));
    let pruned = try_prune(&site, &["--keep-last", "1"]);
    assert_eq!(pruned.status.code(), Some(1), "{}", said(&pruned));
    let text = said(&pruned);
    assert!(
        text.contains("a prune first stores") && text.contains("HINT: free some KiB"),
        "{text}"
    );
    assert_eq!(complete(&site).len(), 2);
    fs::remove_file(&filler).expect("make room");
    assert_eq!(going(&prune(&site, &["--keep-last", "1"])), ["b0"]);
}

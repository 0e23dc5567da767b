//! What pins and prunes say in the archive: damaged, forged, of nothing. It is named (promise K6), and no prune does harm by it
//! (promise K3).

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use super::incremental::Files;
use super::pruning::{assert_restores, going, objects, prune, row, try_prune};
use crate::common::basebackup::{Place, Site};
use crate::common::clock;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::walfs;
use crate::common::world::World;

const PIN: &str = "pins/b0.json";

#[track_caller]
fn run(site: &Site<'_>, command: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut walfs = site.walfs(command);
    let output = walfs.args(arguments).output().expect("run walfs");
    (output.status.code(), said(&output))
}

#[track_caller]
fn pin(site: &Site<'_>, name: &str) {
    let (code, told) = run(site, "backup-pin", &[name, "--reason", "the audit"]);
    assert_eq!(code, Some(0), "{told}");
}

/// What `verify` finds: the objects, and all that is said.
#[track_caller]
fn found(site: &Site<'_>, arguments: &[&str]) -> (Vec<String>, String) {
    let mut verify = site.walfs("verify");
    let output = verify.arg("--json").args(arguments).output().expect("run walfs");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let findings = told["findings"].as_array().expect("a list").iter();
    let found: Vec<String> = findings
        .map(|finding| finding["object"].as_str().expect("a key").to_owned())
        .collect();
    let code = Some(i32::from(!found.is_empty()));
    assert_eq!(output.status.code(), code, "{}", said(&output));
    (found, told.to_string())
}

fn write(world: &World, key: &str, text: &[u8]) {
    let path = world.archive().join(key);
    fs::write(&path, text).expect("write an object");
    User::postgres().own(&path);
}

/// Full ones: none builds on the other.
fn full(site: &Site<'_>, names: &[&str]) {
    for name in names {
        site.server
            .query("CREATE TABLE IF NOT EXISTS t (id int); INSERT INTO t VALUES (1)");
        let taken = site.try_backup(name, &["--full"]);
        assert!(taken.status.success(), "{}", said(&taken));
    }
}

/// However little a run reads, it reads these.
const LITTLE: [&[&str]; 4] = [&[], &["--sample", "0"], &["--budget", "0"], &["--max-age", "9d"]];

#[test]
fn k6_a_pin_of_no_backup_is_named() {
    let world = World::new("pinless");
    let site = Site::local(&world);
    full(&site, &["b0", "b1"]);
    pin(&site, "b0");
    assert_eq!(found(&site, &[]).0, Vec::<String>::new());
    // By hand: no prune does that.
    let remove = "rm -r \"$1\"/trees/b0.* \"$1\"/basebackups/b0.json";
    let removed = User::caller().shell(remove, &[&world.archive()]);
    assert!(removed.status.success(), "{}", said(&removed));
    for arguments in LITTLE {
        let (objects, told) = found(&site, arguments);
        assert_eq!(objects, [PIN], "{told}");
        assert!(
            told.contains("backup b0 is no longer pinned: there is none"),
            "{told}"
        );
    }
    // One that came under its name is not what was pinned, and stays all the same.
    full(&site, &["b0", "b2"]);
    let (objects, told) = found(&site, &[]);
    assert_eq!(objects, [PIN], "{told}");
    assert!(
        told.contains("backup b0 is no longer pinned: no prune removes the other one"),
        "{told}"
    );
    assert_eq!(going(&prune(&site, &["--keep-last", "1"])), ["b1"]);
    assert_eq!(run(&site, "backup-unpin", &["b0"]).0, Some(0));
    assert_eq!(found(&site, &[]).0, Vec::<String>::new());
    // Nor does one that is over pin anything.
    let over = r#"{"id":"b9.0123456789abcdef","at":"2026-01-01T00:00:00Z","until":"2026-02-01T00:00:00Z","reason":"x"}"#;
    write(&world, "pins/b9.json", over.as_bytes());
    assert_eq!(found(&site, &[]).0, Vec::<String>::new());
}

/// One that cannot be read holds what has its name, and so does one that has another's words.
#[test]
fn k3_a_damaged_pin_holds() {
    let world = World::new("damaged-pin");
    let site = Site::local(&world);
    full(&site, &["b0", "b1", "b2"]);
    pin(&site, "b0");
    pin(&site, "b1");
    // The WAL before them.
    prune(&site, &["--keep-last", "3"]);
    let (whole, other) = (site.place.object(PIN), site.place.object("pins/b1.json"));
    let forged = String::from_utf8_lossy(&whole).replace("b0.", "../b0.");
    for (number, damaged) in [&whole[..whole.len() / 2], &other, forged.as_bytes(), b""]
        .into_iter()
        .enumerate()
    {
        write(&world, PIN, damaged);
        let before = objects(&site.place);
        for arguments in LITTLE.into_iter().chain([&["--backups"][..], &["b0"]]) {
            let (found, told) = found(&site, arguments);
            assert_eq!(found, [PIN], "{number}: {told}");
            assert!(
                told.contains("`walfs backup-pin b0` says it anew"),
                "{number}: {told}"
            );
        }
        for arguments in [&["--wal"][..], &["b1"]] {
            assert_eq!(found(&site, arguments).0, Vec::<String>::new(), "{number}");
        }
        let pruned = try_prune(&site, &["--keep-last", "1"]);
        assert!(pruned.status.success(), "{number}: {}", said(&pruned));
        assert!(
            said(&pruned).contains("its pin cannot be read"),
            "{number}: {}",
            said(&pruned)
        );
        assert!(objects(&site.place) == before, "{number}: {}", said(&pruned));

        // A copy that has lost it would be pruned.
        let copy = Place::Local(world.owned_dir(&format!("copies{number}")).join("copy"));
        let copying = || {
            let mut walfs = walfs(&world, &User::postgres());
            walfs.args(["copy", "--create", &site.place.archive(), &copy.archive()]);
            let output = walfs.output().expect("run walfs");
            (output.status.code(), said(&output))
        };
        let (code, told) = copying();
        assert_eq!(code, Some(1), "{number}: {told}");
        assert!(
            told.contains("pins/b0.json is not copied: it cannot be read"),
            "{number}: {told}"
        );
        assert_eq!(copy.keys("basebackups").len(), 3);
        pin(&site, "b0");
        assert_eq!(copying().0, Some(0), "{number}");
        assert_eq!(copy.object(PIN), site.place.object(PIN));
        assert_eq!(found(&site, &[]).0, Vec::<String>::new());
    }
}

/// What was removed on purpose is then told as missing; nothing else comes of it.
#[test]
fn k3_a_record_of_a_prune_that_cannot_be_read() {
    let world = World::new("record");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 41);
    files.make(100_000);
    row(&site, &mut files, 4);
    let rules = ["--keep-last", "3", "--pitr-days", "0"];
    assert_eq!(going(&prune(&site, &rules)), ["b0"]);
    let record = site.place.keys("prune").pop().expect("a record");
    let whole = site.place.object(&record);
    let forged = String::from_utf8_lossy(&whole).replace("\"00000001", "\"../00000001");
    for damaged in [&whole[..whole.len() - 1], forged.as_bytes(), b"{}"] {
        write(&world, &record, damaged);
        for arguments in [&["--wal"][..], &["--sample", "0"]] {
            let (found, told) = found(&site, arguments);
            assert!(found.contains(&record), "{told}");
            assert!(found.iter().any(|object| object.starts_with("wal/")), "{told}");
            assert!(told.contains("removed cannot be told from a loss"), "{told}");
        }
        let (code, told) = run(&site, "wal-verify", &[]);
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains(&record) && told.contains("HINT: "), "{told}");
        let before = objects(&site.place);
        assert_eq!(going(&prune(&site, &rules)), Vec::<String>::new());
        assert!(objects(&site.place) == before, "the prune removed something");
    }
    assert_restores(&site, 3);
    write(&world, &record, &whole);
    assert_eq!(found(&site, &[]).0, Vec::<String>::new());
    assert_eq!(run(&site, "wal-verify", &[]).0, Some(0));
    // As the hint says it.
    write(&world, &record, b"");
    fs::remove_file(world.archive().join(&record)).expect("remove it");
    assert_eq!(going(&prune(&site, &["--keep-last", "1"])), ["b1", "b2"]);
    assert_eq!(found(&site, &[]).0, Vec::<String>::new());
    assert_eq!(run(&site, "wal-verify", &[]).0, Some(0));
    assert_restores(&site, 3);
}

/// A prune on another host, with a clock that is days ahead, takes this one for dead and ends its order. What is not announced
/// any more is not removed.
#[test]
fn k3_a_prune_whose_order_was_ended_removes_nothing() {
    let world = World::new("ended");
    let site = Site::local(&world);
    full(&site, &["b0", "b1", "b2"]);
    prune(&site, &["--keep-last", "3"]);
    let mut slow = site.walfs("prune");
    slow.args(["--keep-last", "1", "--grace", "8s"]);
    let slow = slow
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run walfs");
    let is_order = |key: &String| key.ends_with(".order.json");
    let order = wait::until("its order", || {
        site.place.keys("prune").into_iter().find(is_order)
    });
    // As if it were of another host: nobody sees from here that it is at work.
    let text = String::from_utf8(site.place.object(&order)).expect("text");
    let order_text: Value = serde_json::from_str(&text).expect("JSON");
    let boot_id = order_text["boot_id"].as_str().expect("a boot id");
    write(&world, &order, text.replace(boot_id, "another").as_bytes());
    let before = site.place.keys("trees");
    let mut other = site.walfs("prune");
    other.env("LD_PRELOAD", clock::ahead(&world, 2 * 24 * 3600));
    other.args(["--keep-last", "3", "--grace", "1s"]);
    let output = other.output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        !site.place.keys("prune").contains(&order),
        "the order was not ended"
    );
    let output = slow.wait_with_output().expect("wait for it");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = said(&output);
    assert!(
        told.contains(&order) && told.contains("HINT: another prune"),
        "{told}"
    );
    assert_eq!(site.place.keys("trees"), before);
    assert_eq!(going(&prune(&site, &["--keep-last", "1"])), ["b0", "b1"]);
}

//! Beginnings of segments, archived as `.partial` or received: WAL like any other (promises W1, W4, R6). It is restored where
//! it goes on, and a hole before it, or in it, is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::basebackup::Site;
use crate::common::postgres::Postgres;
use crate::common::recovery::Recovery;
use crate::common::user::said;
use crate::common::version::newest;
use crate::common::walfs::Mount;
use crate::common::world::World;
use crate::common::{wait, wal};

const SEGMENT_BYTES: usize = 1 << 20;

fn current_segment(site: &Site<'_>) -> String {
    site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())")
}

fn content(site: &Site<'_>, segment: &str) -> Vec<u8> {
    fs::read(site.server.data().join("pg_wal").join(segment)).expect("read WAL")
}

fn try_push(site: &Site<'_>, name: &str, content: &[u8]) -> Output {
    let file = site.world.owned_file(name, content);
    site.walfs("wal-push").arg(&file).output().expect("run walfs")
}

#[track_caller]
fn push(site: &Site<'_>, name: &str, content: &[u8]) {
    let pushed = try_push(site, name, content);
    assert!(pushed.status.success(), "{}", said(&pushed));
}

/// The first bytes of a segment, as `pg_receivewal` brings them: laid out if nothing of it is there, filled in, closed.
#[track_caller]
fn receive(site: &Site<'_>, mount: &Mount, segment: &str, bytes: usize) {
    let bytes = site.world.owned_file("bytes", &content(site, segment)[..bytes]);
    let partial = mount.wal().join(format!("{segment}.partial"));
    let lay_out = format!("head -c {SEGMENT_BYTES} /dev/zero > \"$1\"");
    let line =
        format!("{{ test -e \"$1\" || {lay_out}; }} && exec 3<> \"$1\" && cat \"$2\" >&3 && exec 3>&-");
    let output = mount.user().shell(&line, &[&partial, &bytes]);
    assert!(output.status.success(), "{}", said(&output));
}

fn restore(site: &Site<'_>, data: &Path, arguments: &[&str]) -> Output {
    let mut restore = site.walfs("restore");
    restore.args(["--no-archiving", "--no-sync"]).args(arguments);
    restore.arg("LATEST").arg(data).output().expect("run walfs")
}

/// The rows of `t` after a restore and a recovery.
#[track_caller]
fn rows(site: &Site<'_>, name: &str, arguments: &[&str]) -> String {
    let dir = site.world.owned_dir(name);
    let output = restore(site, &dir.join("data"), arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    let mut back = Postgres::start_as_it_is(&dir, newest(), &site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    back.query("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t")
}

#[track_caller]
fn refuses(site: &Site<'_>, arguments: &[&str], words: &[&str]) {
    let data = site.world.path().join("pg/none");
    let output = restore(site, &data, arguments);
    let message = said(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    assert!(message.contains("HINT: ") && !data.exists(), "{message}");
    for word in words {
        assert!(message.contains(word), "{arguments:?}: {word}: {message}");
    }
}

fn run(site: &Site<'_>, command: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = site.walfs(command).args(arguments).output().expect("run walfs");
    (output.status.code(), said(&output))
}

/// A backup, a table, and each of these rows in a segment of its own, archived; then more of them in the current one.
fn with_rows<'a>(world: &'a World, archived: u32) -> (Site<'a>, Vec<String>) {
    let site = Site::local(world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    let mut segments = Vec::new();
    for id in 1..=archived {
        site.server.query(&format!("INSERT INTO t VALUES ({id})"));
        segments.push(current_segment(&site));
        site.server.archive_all();
    }
    (site, segments)
}

fn object(site: &Site<'_>, name: &str) -> PathBuf {
    site.world.archive().join(format!("wal/{name}.lz4"))
}

/// A standby was promoted in the middle of a segment, archived the beginning of that, and was lost before its timeline's first
/// segment was full.
#[test]
fn w1_an_archived_partial_is_restored() {
    let world = World::new("partial-restored");
    let (site, _) = with_rows(&world, 1);
    site.server.query("INSERT INTO t VALUES (2)");
    site.server.query("SELECT pg_create_restore_point('tail')");
    site.server.query("INSERT INTO t VALUES (3)");
    let (segment, fork) = (
        current_segment(&site),
        site.server.query("SELECT pg_current_wal_lsn()"),
    );
    push(&site, &format!("{segment}.partial"), &content(&site, &segment));
    push(&site, "00000002.history", &wal::history(1, &fork));
    assert_eq!(rows(&site, "latest", &[]), "1 2 3");
    assert_eq!(rows(&site, "one", &["--target-timeline", "1"]), "1 2 3");
    assert_eq!(rows(&site, "two", &["--target-timeline", "2"]), "1 2 3");
    assert_eq!(
        rows(
            &site,
            "tail",
            &["--target-name", "tail", "--target-action", "promote"]
        ),
        "1 2"
    );
    let (code, told) = run(&site, "wal-find", &["--restore-point", "tail"]);
    assert!(code == Some(0) && told.contains(&segment), "{told}");
}

/// What the parent has behind the fork is not of the timeline that was chosen.
#[test]
fn b12_of_a_parents_partial_only_what_lies_before_the_fork_is_restored() {
    let world = World::new("partial-cut");
    let (site, _) = with_rows(&world, 1);
    site.server.query("INSERT INTO t VALUES (2)");
    let fork = site.server.query("SELECT pg_current_wal_lsn()");
    site.server.query("INSERT INTO t VALUES (3)");
    let segment = current_segment(&site);
    push(&site, &format!("{segment}.partial"), &content(&site, &segment));
    push(&site, "00000002.history", &wal::history(1, &fork));
    assert_eq!(rows(&site, "two", &["--target-timeline", "2"]), "1 2");
    assert_eq!(rows(&site, "one", &["--target-timeline", "1"]), "1 2 3");
}

/// Two standbys, promoted one after the other: the second one's beginning of the segment has more of the same WAL.
#[test]
fn w4_a_longer_partial_of_the_same_wal_is_archived() {
    let world = World::new("partial-longer");
    let (site, _) = with_rows(&world, 1);
    site.server.query("INSERT INTO t VALUES (2)");
    let segment = current_segment(&site);
    let name = format!("{segment}.partial");
    let short = content(&site, &segment);
    site.server.query("INSERT INTO t VALUES (3)");
    let long = content(&site, &segment);
    push(&site, &name, &short);
    let archived = fs::read(object(&site, &name)).expect("read it");
    for content in [&long, &long, &short] {
        push(&site, &name, content);
    }
    assert!(fs::read(object(&site, &name)).expect("read it") == archived);
    let mut other = long.clone();
    // In the first record.
    other[60] ^= 1;
    let refused = try_push(&site, &name, &other);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert_eq!(rows(&site, "back", &[]), "1 2 3");
}

/// Behind the hole lies only the beginning of a segment.
#[test]
fn r6_a_hole_before_a_beginning_is_no_end() {
    for kind in ["archived", "received"] {
        let world = World::new(&format!("hole-before-{kind}"));
        let (site, segments) = with_rows(&world, 2);
        site.server.query("INSERT INTO t VALUES (3)");
        let (missing, last) = (&segments[1], current_segment(&site));
        match kind {
            "archived" => push(&site, &format!("{last}.partial"), &content(&site, &last)),
            _ => {
                let mount = Mount::local(&world);
                receive(&site, &mount, &last, 98_304);
                fs::remove_file(object(&site, missing)).expect("lose a segment");
                let line = "test ! -e \"$1\"/wal/\"$2\" && test ! -e \"$1\"/.absent/\"$2\"";
                let asked = mount.user().shell(line, &[mount.path(), Path::new(missing)]);
                assert!(asked.status.success(), "{}", said(&asked));
                drop(mount);
            }
        }
        let _ = fs::remove_file(object(&site, missing));
        let to = world.path().join("pg/fetched");
        let (code, message) = run(&site, "wal-fetch", &[missing, &to.display().to_string()]);
        assert_eq!(code, Some(255), "{kind}: {message}");
        assert!(message.contains(&format!("{last}.partial")), "{message}");
        let (code, message) = run(&site, "wal-verify", &[]);
        assert!(
            code == Some(1) && message.contains(missing),
            "{kind}: {code:?}: {message}"
        );
        refuses(&site, &[], &[missing, "--up-to-gap"]);
        assert_eq!(rows(&site, "back", &["--up-to-gap"]), "1");
        let (code, message) = run(&site, "wal-find", &[]);
        assert!(code == Some(0) && message.contains(missing), "{kind}: {message}");
        assert!(
            message.contains(&format!("in {}, on timeline", segments[0])),
            "{message}"
        );
    }
}

/// A fragment of what was received is lost: what lies behind it was acknowledged as well.
#[test]
fn r6_a_lost_fragment_is_named() {
    let world = World::new("lost-fragment");
    let (site, _) = with_rows(&world, 1);
    site.server.query("INSERT INTO t VALUES (2)");
    let segment = current_segment(&site);
    let mount = Mount::local(&world);
    // Each is so much shorter than the one before that they stay apart.
    for bytes in [524_288, 655_360, 688_128] {
        receive(&site, &mount, &segment, bytes);
    }
    drop(mount);
    assert_eq!(rows(&site, "whole", &[]), "1 2");
    let fragments = site.place.keys("receiving");
    let fragment = |from: &str| {
        let found = fragments
            .iter()
            .find(|key| key.contains(from))
            .expect("a fragment");
        world.archive().join(found)
    };
    for from in [".00080000-", ".00000000-00080000."] {
        let (path, aside) = (fragment(from), world.path().join("aside"));
        fs::rename(&path, &aside).expect("lose a fragment");
        refuses(&site, &[], &[&segment, "--up-to-gap"]);
        let (code, message) = run(&site, "wal-verify", &[]);
        assert!(code == Some(1) && message.contains(&segment), "{from}: {message}");
        let (code, message) = run(&site, "wal-find", &[]);
        assert!(
            code == Some(0) && message.contains(&format!("{segment} is missing")),
            "{from}: {message}"
        );
        fs::rename(&aside, &path).expect("find it");
    }
    fs::remove_file(fragment(".00080000-")).expect("lose a fragment");
    assert_eq!(rows(&site, "back", &["--up-to-gap"]), "1 2");
}

/// One damaged fragment is as good as a lost one: only what lies behind it is out of reach.
#[test]
fn r6_a_damaged_fragment_is_a_lost_one() {
    let world = World::new("bad-fragment");
    let (site, _) = with_rows(&world, 1);
    site.server.query("INSERT INTO t VALUES (2)");
    let segment = current_segment(&site);
    let mount = Mount::local(&world);
    for bytes in [524_288, 655_360, 688_128] {
        receive(&site, &mount, &segment, bytes);
    }
    drop(mount);
    let fragments = site.place.keys("receiving");
    let damaged = |from: &str, check: &dyn Fn(&str)| {
        let key = fragments
            .iter()
            .find(|key| key.contains(from))
            .expect("a fragment");
        let path = world.archive().join(key);
        let whole = fs::read(&path).expect("read it");
        let mut bad = whole.clone();
        bad[15] ^= 1;
        fs::write(&path, bad).expect("damage it");
        check(key);
        fs::write(&path, whole).expect("mend it");
    };
    for (from, up_to) in [(".00080000-", 0x80000), (".00000000-00080000.", 0)] {
        damaged(from, &|key| {
            refuses(
                &site,
                &[],
                &[&segment, &format!("up to byte {up_to}"), "--up-to-gap"],
            );
            let (code, message) = run(&site, "wal-find", &[]);
            assert!(
                code == Some(0) && message.contains(&format!("{segment} is missing")),
                "{from}: {message}"
            );
            assert!(message.contains(key), "{from}: {message}");
            let (code, message) = run(&site, "status", &[]);
            assert!(
                code == Some(3) && message.contains(&format!("{segment} is missing")),
                "{from}: {message}"
            );
            let (code, message) = run(&site, "verify", &[]);
            assert!(code == Some(1) && message.contains(key), "{from}: {message}");
        });
    }
    damaged(".00080000-", &|_| {
        assert_eq!(rows(&site, "back", &["--up-to-gap"]), "1 2");
    });
    // One without WAL says only that there is a file.
    damaged(".00000000-00000000.", &|key| {
        let (_, message) = run(&site, "verify", &[]);
        assert!(
            message.contains(key) && message.contains("nothing is lost"),
            "{message}"
        );
        assert!(!message.contains("recovers no further"), "{message}");
        assert_eq!(rows(&site, "whole", &[]), "1 2");
    });
}

/// So is an archived `.partial` that is damaged.
#[test]
fn r6_a_damaged_partial_is_a_lost_one() {
    let world = World::new("bad-partial");
    let (site, _) = with_rows(&world, 1);
    site.server.query("INSERT INTO t VALUES (2)");
    let segment = current_segment(&site);
    let partial = format!("{segment}.partial");
    push(&site, &partial, &content(&site, &segment));
    let path = object(&site, &partial);
    let whole = fs::read(&path).expect("read it");
    for at in [15, whole.len() - 10] {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        fs::remove_file(&path).expect("damage it");
        fs::write(&path, bad).expect("damage it");
        let read = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&path, read).expect("let it be read");
        refuses(&site, &[], &[&partial, "damaged", "--up-to-gap"]);
        for (command, expected) in [("wal-find", 0), ("status", 3)] {
            let (code, message) = run(&site, command, &[]);
            assert!(
                code == Some(expected) && message.contains(&format!("{segment} is missing")),
                "{command}: {message}"
            );
            assert!(message.contains(&partial), "{command}: {message}");
        }
    }
    assert_eq!(rows(&site, "back", &["--up-to-gap"]), "1");
}

/// The listing shows that an object cannot be a segment.
#[test]
fn r3_an_object_that_is_too_short_is_named_before_a_restore() {
    let world = World::new("cut-segment");
    let (site, segments) = with_rows(&world, 3);
    for (number, bytes) in [(1, 0), (1, 100), (2, 0)] {
        let path = object(&site, &segments[number]);
        let whole = fs::read(&path).expect("read it");
        fs::remove_file(&path).expect("cut it");
        fs::write(&path, &whole[..bytes]).expect("cut it");
        let (code, message) = run(&site, "wal-verify", &[]);
        assert_eq!(code, Some(1), "{message}");
        assert!(
            message.contains(&segments[number]) && message.contains("damaged"),
            "{message}"
        );
        refuses(&site, &[], &[&segments[number], &format!("{bytes} bytes")]);
        fs::remove_file(&path).expect("mend it");
        fs::write(&path, &whole).expect("mend it");
        let read = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&path, read).expect("let it be read");
    }
    assert_eq!(rows(&site, "back", &[]), "1 2 3");
}

/// Whose the WAL is is not known any more: nothing is said of it as if there were none.
#[test]
fn r6_wal_without_its_cluster_json_is_an_error() {
    let world = World::new("no-cluster");
    let (site, segments) = with_rows(&world, 2);
    push(&site, "00000002.history", &wal::history(1, "0/F0000028"));
    fs::remove_file(world.archive().join("cluster.json")).expect("lose it");
    fs::remove_file(object(&site, &segments[1])).expect("lose a segment");
    let to = world.path().join("pg/fetched").display().to_string();
    for (command, arguments, expected) in [
        ("wal-verify", &[][..], 1),
        ("wal-find", &[], 1),
        (
            "restore",
            &["--no-archiving", "--dry-run", "LATEST", "/nowhere/data"],
            1,
        ),
        ("wal-fetch", &[&segments[1], &to], 255),
    ] {
        let (code, message) = run(&site, command, arguments);
        assert_eq!(code, Some(expected), "{command}: {message}");
        assert!(
            message.contains("cluster.json") && message.contains("HINT"),
            "{command}: {message}"
        );
    }
}

/// A moment that lies behind a hole is not recoverable from any backup before it.
#[test]
fn k5_what_lies_behind_a_hole_is_told_so() {
    let world = World::new("find-hole");
    let (site, segments) = with_rows(&world, 2);
    site.server.query("INSERT INTO t VALUES (3)");
    site.server.query("SELECT pg_create_restore_point('far')");
    site.server.archive_all();
    let missing = &segments[1];
    fs::remove_file(object(&site, missing)).expect("lose a segment");
    let find = |arguments: &[&str]| {
        let output = site
            .walfs("wal-find")
            .arg("--json")
            .args(arguments)
            .output()
            .expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        let line = String::from_utf8_lossy(&output.stdout)
            .lines()
            .next()
            .map(str::to_owned);
        serde_json::from_str::<serde_json::Value>(&line.expect("a line")).expect("JSON")
    };
    let end = find(&[]);
    assert_eq!(end["last_commit"]["segment"], *segments[0], "{end}");
    assert_eq!(end["hole"], **missing, "{end}");
    let point = find(&["--restore-point", "far"]);
    assert_eq!(point["behind_hole"], **missing, "{point}");
    refuses(&site, &["--target-name", "far"], &[missing]);
    // Whoever begins behind it needs none of it.
    site.backup("tuesday");
    let end = find(&[]);
    assert!(
        end["hole"].is_null() && end["last_commit"]["segment"] != *segments[0],
        "{end}"
    );
}

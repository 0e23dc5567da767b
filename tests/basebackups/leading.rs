//! Where recovery comes through archived WAL and where it does not (promises K5, K6, K7): past damaged pages and records, from one
//! timeline into the next, behind the record of a switch; and up to which position.

use std::fs;
use std::process::Output;

use jiff::Timestamp;
use serde_json::Value;
use walfs::codec::{Compression, pack_all, unpack_all};

use crate::common::basebackup::Site;
use crate::common::postgres::{Postgres, newest};
use crate::common::recovery::Recovery;
use crate::common::user::said;
use crate::common::world::World;
use crate::common::{wait, wal};

const PAGE: usize = 8192;

fn run(site: &Site<'_>, command: &str, arguments: &[&str]) -> Output {
    let mut walfs = site.walfs(command);
    walfs.args(arguments).output().expect("run walfs")
}

fn asked(site: &Site<'_>, command: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(site, command, arguments);
    (output.status.code(), said(&output))
}

fn push(site: &Site<'_>, name: &str, content: &[u8]) {
    let file = site.world.owned_file(name, content);
    let (code, told) = asked(site, "wal-push", &[file.to_str().expect("text")]);
    assert_eq!(code, Some(0), "{name}: {told}");
}

/// A record that begins on one timeline ends on the next: each segment by itself is right.
#[test]
fn k6_verify_looks_from_the_first_segment_of_a_timeline_back_into_its_parent() {
    for damage in [false, true] {
        let world = World::new("forked-wal");
        world.owned_dir("cache");
        let site = Site::local(&world);
        site.server.query("CREATE TABLE t (id int)");
        site.backup("monday");
        site.server
            .query("INSERT INTO t SELECT generate_series(1, 60000)");
        let fork = site.server.query("SELECT pg_current_wal_insert_lsn()");
        let last = site.server.query(&format!("SELECT pg_walfile_name('{fork}')"));
        site.server.archive_all();
        let object = |name: &str| world.archive().join(format!("wal/{name}.lz4"));
        let mut content = unpack_all(&fs::read(object(&last)).expect("a segment")).expect("WAL");
        assert_eq!(content[2] & 1, 1, "no record goes on in it");
        // The standby that is promoted has replayed all of it, and begins its own in the same segment.
        for entry in fs::read_dir(world.archive().join("wal")).expect("list").flatten() {
            if entry.file_name().to_string_lossy().as_ref() >= last.as_str() {
                fs::remove_file(entry.path()).expect("remove a segment");
            }
        }
        content[41] ^= u8::from(damage);
        let own = format!("00000002{}", &last[8..]);
        push(&site, "00000002.history", &wal::history(1, &fork));
        push(&site, &own, &content);
        let (code, told) = asked(&site, "verify", &[]);
        if !damage {
            assert_eq!(code, Some(0), "{told}");
            continue;
        }
        assert_eq!(code, Some(1), "{told}");
        let named = format!("wal/{own}.lz4");
        assert!(
            told.contains(&named) && told.contains("from the timeline that its own has left"),
            "{told}"
        );
        assert!(
            told.contains("backup monday recovers no further than") && told.contains("on timeline 2"),
            "{told}"
        );
        let dir = world.owned_dir("restored").display().to_string();
        let (code, refused) = asked(&site, "restore", &["--dry-run", "LATEST", &dir]);
        assert_eq!(code, Some(1), "{refused}");
    }
}

/// What lies behind the record of a switch nobody reads: no server, no restore, no verify.
#[test]
fn k6_what_lies_behind_a_switch_is_no_finding() {
    let world = World::new("behind-switch");
    world.owned_dir("cache");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    site.server.query("INSERT INTO t VALUES (1)");
    let segment = site
        .server
        .query("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    site.server.archive_all();
    let object = world.archive().join(format!("wal/{segment}.lz4"));
    let mut content = unpack_all(&fs::read(&object).expect("a segment")).expect("WAL");
    let last_page = content.len() - PAGE;
    assert_eq!(content[last_page..], [0; PAGE], "it is full");
    content[last_page + 3] ^= 1;
    fs::remove_file(object).expect("remove a segment");
    push(&site, &segment, &content);
    let (code, told) = asked(&site, "verify", &[]);
    assert_eq!(code, Some(0), "{told}");
    let dir = world.owned_dir("restored").display().to_string();
    let (code, told) = asked(&site, "restore", &["--dry-run", "LATEST", &dir]);
    assert_eq!(code, Some(0), "{told}");
}

/// What lies under the name of a segment and is another one leads nowhere, whatever its pages are by themselves.
#[test]
fn k6_another_segment_under_the_name_of_one_leads_nowhere() {
    let world = World::new("another-segment");
    world.owned_dir("cache");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    let mut names = Vec::new();
    for id in 0..3 {
        site.server.query(&format!("INSERT INTO t VALUES ({id})"));
        names.push(
            site.server
                .query("SELECT pg_walfile_name(pg_current_wal_insert_lsn())"),
        );
        site.server.archive_all();
    }
    let object = |name: &str| world.archive().join(format!("wal/{name}.lz4"));
    fs::remove_file(object(&names[1])).expect("remove a segment");
    fs::copy(object(&names[0]), object(&names[1])).expect("put another in its place");
    let dir = world.owned_dir("restored").display().to_string();
    let (code, said) = asked(&site, "verify", &[]);
    assert!(code == Some(1) && said.contains(&names[1]), "{said}");
    let (code, said) = asked(&site, "restore", &["--dry-run", "LATEST", &dir]);
    assert!(code == Some(1) && said.contains(&names[1]), "{said}");
}

/// Each segment that is not the last leads on, or nobody says that all is well: neither one of which the first page is of no version
/// that there is, nor one of which the rest was lost.
#[test]
fn k6_a_segment_with_others_behind_it_is_whole() {
    for (name, damage) in [
        ("version", (|bytes| bytes[0] ^= 0x20) as fn(&mut [u8])),
        ("half", |bytes| bytes[1 << 19..].fill(0)),
        ("last", |bytes| bytes[127 * PAGE..][..PAGE / 2].fill(0)),
    ] {
        let world = World::new(&format!("not-whole-{name}"));
        world.owned_dir("cache");
        let site = Site::local(&world);
        site.server.query("CREATE TABLE t (id int)");
        site.backup("monday");
        let at = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
        site.server.query("INSERT INTO t VALUES (1)");
        site.server.archive_all();
        site.server.query("INSERT INTO t VALUES (2)");
        let segment = site.server.query(at);
        site.server
            .query("INSERT INTO t SELECT generate_series(1, 60000)");
        assert_ne!(site.server.query(at), segment, "it is not full");
        site.server.archive_all();
        let object = world.archive().join(format!("wal/{segment}.lz4"));
        let mut content = unpack_all(&fs::read(&object).expect("a segment")).expect("WAL");
        damage(&mut content);
        fs::remove_file(object).expect("remove a segment");
        push(&site, &segment, &content);
        let dir = world.owned_dir("restored").display().to_string();
        let restore = ["--dry-run", "LATEST", &dir];
        for (command, arguments) in [
            ("restore", &restore[..]),
            ("verify", &[]),
            ("restore", &restore[..]),
        ] {
            let (code, said) = asked(&site, command, arguments);
            assert!(
                code == Some(1) && said.contains(&segment),
                "{name}, {command}: {said}"
            );
        }
    }
}

/// What the parent has behind the fork is not the child's, under whose name it lies.
#[test]
fn k6_the_first_segment_of_a_timeline_is_its_own_behind_the_fork() {
    let world = World::new("parents-segment");
    world.owned_dir("cache");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    site.server.archive_all();
    site.server.query("INSERT INTO t VALUES (1)");
    let fork = site.server.query("SELECT pg_current_wal_insert_lsn()");
    let segment = site.server.query(&format!("SELECT pg_walfile_name('{fork}')"));
    site.server.query("INSERT INTO t SELECT generate_series(1, 1000)");
    site.server.archive_all();
    let object = world.archive().join(format!("wal/{segment}.lz4"));
    let content = unpack_all(&fs::read(&object).expect("a segment")).expect("WAL");
    let own = format!("00000002{}", &segment[8..]);
    push(&site, "00000002.history", &wal::history(1, &fork));
    push(&site, &own, &content);
    let (code, said) = asked(&site, "verify", &[]);
    assert!(
        code == Some(1) && said.contains(&own) && said.contains("are of timeline 1"),
        "{said}"
    );
}

/// K6: a page without a head between others is no end of the WAL.
#[test]
fn k6_an_empty_page_inside_a_segment_is_found() {
    let world = World::new("empty-page");
    let site = Site::local(&world);
    site.backup("b1");
    site.server
        .query("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 30000) n");
    site.server.archive_all();
    let keys = site.place.keys("wal").into_iter();
    let whole = |key: &String| key.len() == "wal/".len() + 24 + 4;
    let largest = keys.filter(whole).max_by_key(|key| site.place.object(key).len());
    let path = world.archive().join(largest.expect("a segment"));
    let mut content = unpack_all(&fs::read(&path).expect("read a segment")).expect("a segment");
    assert!(content[60 * 8192..][..8] != [0; 8], "it is not that full");
    content[50 * 8192..51 * 8192].fill(0);
    fs::write(&path, pack_all(Compression::default(), &content).0).expect("write a segment");
    let verified = run(&site, "verify", &[]);
    assert_eq!(verified.status.code(), Some(1), "{}", said(&verified));
}

/// Something of a segment was lost before it was archived, and WAL was archived behind it.
struct Holed<'a> {
    site: Site<'a>,
    segment: String,
    /// Before it was written, and behind all of it.
    times: [String; 2],
}

impl Holed<'_> {
    /// Damages what a segment has from its 20th page on.
    fn new(world: &World, damage: fn(&mut [u8])) -> Holed<'_> {
        let site = Site::local(world);
        site.server.query("CREATE TABLE t (id int)");
        site.backup("b1");
        let now = || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let now = site.server.query("SELECT clock_timestamp()");
            std::thread::sleep(std::time::Duration::from_millis(20));
            now
        };
        site.server.query("INSERT INTO t VALUES (1)");
        let before = now();
        site.server.query("INSERT INTO t VALUES (2)");
        site.server.archive_all();
        let kept = site.server.query("SHOW archive_command");
        site.server.archive_with("/bin/false");
        site.server.reload();
        std::thread::sleep(std::time::Duration::from_millis(500));
        site.server.query("INSERT INTO t VALUES (3)");
        let segment = site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
        site.server
            .query("INSERT INTO t SELECT generate_series(4, 40000)");
        let behind = now();
        site.server.query("INSERT INTO t VALUES (40001)");
        let path = site.server.data().join("pg_wal").join(&segment);
        let mut bytes = fs::read(&path).expect("read a segment");
        assert_ne!(bytes[127 * 8192..][..8], [0; 8], "it is not full");
        damage(&mut bytes[20 * 8192..]);
        fs::write(&path, bytes).expect("write a segment");
        site.server.archive_with(&kept);
        site.server.reload();
        site.server.archive_all();
        Holed {
            site,
            segment,
            times: [before, behind],
        }
    }

    fn restore(&self, arguments: &[&str]) -> Output {
        let dir = self.site.world.owned_dir("restored").display().to_string();
        let all = [&["--dry-run"], arguments, &["LATEST", &dir]].concat();
        run(&self.site, "restore", &all)
    }
}

/// K5, K7: what comes behind a hole inside of a segment does not come back, and nobody says that it does.
#[test]
fn k5_recovery_ends_at_a_hole_inside_a_segment_and_that_is_said() {
    let world = World::new("holed");
    world.owned_dir("cache");
    let holed = Holed::new(&world, |bytes| bytes[..8192].fill(0));
    let [before, behind] = &holed.times;
    // Before anybody has read it back, and once that is remembered.
    for is_verified in [false, true] {
        for arguments in [&["--target-time", behind][..], &[]] {
            let refused = holed.restore(arguments);
            let message = said(&refused);
            assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {message}");
            assert!(
                message.contains(&holed.segment) && message.contains("HINT: ") && message.contains("hole"),
                "{arguments:?}: {message}"
            );
        }
        let reached = holed.restore(&["--target-time", before]);
        assert!(reached.status.success(), "{}", said(&reached));
        let status = run(&holed.site, "status", &["--json"]);
        let told: Value = serde_json::from_slice(&status.stdout).expect("JSON");
        let commit = told["recoverable"][0]["last_commit"].as_str().expect("a time");
        let commit: Timestamp = commit.parse().expect("a time");
        let lost: Timestamp = holed.site.server.query(&format!("SELECT to_char(timestamptz '{behind}' AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")).parse().expect("a time");
        assert!(commit < lost, "{told}");
        assert!(told["troubles"].to_string().contains(&holed.segment), "{told}");
        let screen = run(&holed.site, "status", &[]);
        assert_eq!(screen.status.code(), Some(3), "{}", said(&screen));
        let found = run(&holed.site, "wal-find", &[]);
        assert!(said(&found).contains(&holed.segment), "{}", said(&found));
        if !is_verified {
            let verified = run(&holed.site, "verify", &[]);
            assert_eq!(verified.status.code(), Some(1), "{}", said(&verified));
        }
    }
    // Who says so gets what lies before it.
    let dir = world.owned_dir("up_to_it");
    let data = dir.join("data");
    let mut restore = holed.site.walfs("restore");
    restore.args(["--up-to-gap", "--no-archiving", "--no-sync", "LATEST"]);
    let restored = restore.arg(&data).output().expect("run walfs");
    assert!(restored.status.success(), "{}", said(&restored));
    let mut back = Postgres::start_as_it_is(&dir, newest(), &holed.site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT min(id), max(id) FROM t WHERE id < 4"), "1|3");
    assert_eq!(back.query("SELECT count(*) FROM t WHERE id = 40001"), "0");
}

/// K5, K6, K7: nor does what comes behind a record that is not what was written: half a page was lost, or one bit, or one of the
/// record that ends in the next segment.
#[test]
fn k5_recovery_ends_at_a_damaged_record_and_that_is_said() {
    for (name, damage) in [
        ("half", (|bytes| bytes[4096..8192].fill(0)) as fn(&mut [u8])),
        ("bit", |bytes| bytes[5000] ^= 1),
        ("across", |bytes| bytes[bytes.len() - 8] ^= 1),
    ] {
        let world = World::new(&format!("broken-{name}"));
        world.owned_dir("cache");
        let holed = Holed::new(&world, damage);
        let [before, behind] = &holed.times;
        for arguments in [&["--target-time", behind][..], &[]] {
            let refused = holed.restore(arguments);
            let message = said(&refused);
            assert_eq!(refused.status.code(), Some(1), "{name}, {arguments:?}: {message}");
            assert!(message.contains(&holed.segment), "{name}: {message}");
        }
        let reached = holed.restore(&["--target-time", before]);
        assert!(reached.status.success(), "{name}: {}", said(&reached));
        let screen = run(&holed.site, "status", &[]);
        assert_eq!(screen.status.code(), Some(3), "{name}: {}", said(&screen));
        assert!(
            said(&screen).contains(&holed.segment),
            "{name}: {}",
            said(&screen)
        );
        let verified = run(&holed.site, "verify", &[]);
        assert_eq!(verified.status.code(), Some(1), "{name}: {}", said(&verified));
        assert!(
            said(&verified).contains("record") && said(&verified).contains("recovery ends there"),
            "{name}: {}",
            said(&verified)
        );
        // It is right up to its 20th page.
        let verified = said(&verified);
        let until = verified
            .split("recovers no further than ")
            .nth(1)
            .expect("a position");
        let until = until.split(' ').next().expect("a position");
        let page = format!("SELECT pg_wal_lsn_diff('{until}', '0/0')::bigint % 1048576 / 8192");
        let page: u64 = holed.site.server.query(&page).parse().expect("a number");
        assert!((19..=127).contains(&page), "{name}: {verified}");
        // What verify has found makes nobody forget it.
        let refused = holed.restore(&[]);
        assert_eq!(refused.status.code(), Some(1), "{name}: {}", said(&refused));
        let screen = run(&holed.site, "status", &[]);
        assert!(
            !said(&screen).contains("is whole up to"),
            "{name}: {}",
            said(&screen)
        );
    }
}

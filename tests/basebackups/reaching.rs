//! What the archived WAL says of itself: the last recoverable moment, where something is, and which targets recovery cannot
//! reach (promise K5).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use jiff::Timestamp;
use serde_json::Value;
use walfs::codec::{Compression, pack_all, unpack_all};

use crate::common::basebackup::{Place, Site};
use crate::common::postgres::Options;
use crate::common::user::said;
use crate::common::version::installed_versions;
use crate::common::wait;
use crate::common::walfs::Mount;
use crate::common::world::World;

/// Bytes of the annex, as the footer says, and of the object.
fn annex_bytes(object: &[u8]) -> (u32, usize) {
    let field = object[object.len() - 48..].first_chunk().expect("a footer");
    (u32::from_le_bytes(*field), object.len())
}

/// The archived segments.
fn segments(world: &World) -> Vec<PathBuf> {
    let listed = fs::read_dir(world.archive().join("wal")).expect("list the archive");
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.expect("a name").path()).collect();
    paths.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.len() == 24 + ".lz4".len())
    });
    paths.sort();
    paths
}

fn try_find(site: &Site<'_>, arguments: &[&str]) -> Output {
    let mut find = site.walfs("wal-find");
    find.arg("--json").args(arguments).output().expect("run walfs")
}

/// What `wal-find --json` says, line by line.
#[track_caller]
fn find(site: &Site<'_>, arguments: &[&str]) -> Vec<Value> {
    let output = try_find(site, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn dry(site: &Site<'_>, backup: &str, arguments: &[&str]) -> Output {
    let mut restore = site.walfs("restore");
    restore
        .args(["--no-archiving", "--dry-run", "--json"])
        .args(arguments);
    let data = site.world.path().join("pg/none");
    let output = restore.arg(backup).arg(&data).output().expect("run walfs");
    assert!(!data.exists());
    output
}

#[track_caller]
fn would(site: &Site<'_>, backup: &str, arguments: &[&str]) -> String {
    let output = dry(site, backup, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    report["backup"].as_str().expect("a name").to_owned()
}

#[track_caller]
fn refuses(site: &Site<'_>, backup: &str, arguments: &[&str], texts: &[&str]) {
    let output = dry(site, backup, arguments);
    let message = said(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    assert!(message.contains("HINT: "), "{message}");
    for text in texts {
        assert!(message.contains(text), "{arguments:?}: {text}: {message}");
    }
}

fn now(site: &Site<'_>) -> String {
    let now = site
        .server
        .query("SELECT pg_sleep(0.05), clock_timestamp() AT TIME ZONE 'UTC' || '+00', pg_sleep(0.05)");
    now.trim_matches('|').to_owned()
}

fn moment(text: &str) -> Timestamp {
    text.replace(' ', "T").parse().expect("a time")
}

/// A transaction of its own, and its number.
fn insert(site: &Site<'_>, id: u32) -> String {
    let insert = format!("BEGIN; INSERT INTO t VALUES ({id}); SELECT pg_current_xact_id(); COMMIT");
    site.server.query(&insert)
}

/// What was done, and where each of it is.
struct Story {
    times: [String; 2],
    xid: String,
    aborted: String,
    relation: String,
    segments: [String; 2],
}

fn current_segment(site: &Site<'_>) -> String {
    site.server
        .query("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
}

fn told(site: &Site<'_>) -> Story {
    let server = &site.server;
    server.query("CREATE TABLE t (id int)");
    let path = server.query("SELECT pg_relation_filepath('t')");
    server.archive_all();
    let first = now(site);
    let xid = insert(site, 1);
    server.query("SELECT pg_create_restore_point('one')");
    let one = current_segment(site);
    server.archive_all();
    let second = now(site);
    let aborted = server
        .query("BEGIN; INSERT INTO t SELECT generate_series(1, 5000); SELECT pg_current_xact_id(); ROLLBACK");
    server.query("CHECKPOINT");
    server.query("CREATE TABLE other AS SELECT generate_series(1, 20000) AS id");
    server.query("SELECT pg_create_restore_point('two')");
    let two = current_segment(site);
    server.archive_all();
    Story {
        times: [first, second],
        xid,
        aborted,
        relation: path.trim_start_matches("base/").to_owned(),
        segments: [one, two],
    }
}

#[track_caller]
fn is_found(site: &Site<'_>, story: &Story) {
    let end = &find(site, &[])[0];
    let last: Timestamp = end["last_commit"]["time"]
        .as_str()
        .expect("a time")
        .parse()
        .expect("a time");
    assert!(
        last > moment(&story.times[1]) && last < moment(&now(site)),
        "{end}"
    );
    let xid = &find(site, &["--xid", &story.xid])[0];
    assert_eq!(
        (&xid["kind"], &xid["segment"]),
        (&"commit".into(), &story.segments[0].clone().into())
    );
    let committed: Timestamp = xid["time"].as_str().expect("a time").parse().expect("a time");
    assert!(committed > moment(&story.times[0]) && committed < moment(&story.times[1]));
    assert_eq!(find(site, &["--xid", &story.aborted])[0]["kind"], "abort");
    let points = find(site, &["--restore-point"]);
    let names: Vec<&str> = points.iter().filter_map(|point| point["name"].as_str()).collect();
    // The tests' own way to switch makes one, too.
    let own: Vec<&str> = names.into_iter().filter(|name| *name != "switch").collect();
    assert_eq!(own, ["one", "two"]);
    let two = &find(site, &["--restore-point", "two"])[0];
    assert_eq!(two["segment"], *story.segments[1]);
    // The only commit between the two moments.
    let around = &find(site, &["--time", &story.times[0]])[0];
    assert_eq!(around["after"]["xid"].to_string(), story.xid, "{around}");
    let around = &find(site, &["--time", &story.times[1]])[0];
    assert_eq!(around["before"]["xid"].to_string(), story.xid, "{around}");
    assert_eq!(around["after"]["xid"].to_string(), story.aborted, "{around}");
    let touched = find(site, &["--relation", &story.relation]);
    let touched: Vec<&str> = touched
        .iter()
        .filter_map(|line| line["segment"].as_str())
        .collect();
    assert!(touched.contains(&&*story.segments[0]), "{touched:?}");
    for nothing in [
        ["--xid", "4000000000"],
        ["--restore-point", "three"],
        ["--relation", "1/1"],
    ] {
        assert_eq!(try_find(site, &nothing).status.code(), Some(1), "{nothing:?}");
    }
}

/// "known from the WAL itself": of every PostgreSQL, by the index in the object, and by the WAL where there is none.
#[test]
fn k5_what_is_in_the_wal_is_found() {
    for version in installed_versions() {
        let world = World::new(&format!("find-{}", version.major));
        let options = Options {
            version,
            segment_mib: 1,
            ..Options::default()
        };
        let site = Site::with(&world, Place::Local(world.archive()), &options);
        let story = told(&site);
        for path in segments(&world) {
            let (annex, object) = annex_bytes(&fs::read(&path).expect("read an object"));
            assert!(
                annex > 48 && (annex as usize) < object / 8,
                "{}: {annex} of {object}",
                path.display()
            );
        }
        is_found(&site, &story);
        // A damaged index is as none.
        for (number, path) in segments(&world).iter().enumerate() {
            let mut object = fs::read(path).expect("read an object");
            let (annex, _) = annex_bytes(&object);
            let table = u32::from_le_bytes(*object[object.len() - 88..].first_chunk().expect("frames"));
            let begin = object.len() - 104 - 40 * table as usize - annex as usize;
            assert_eq!(object[begin..begin + 4], *b"wali");
            if number % 2 == 0 {
                object[begin + 50] ^= 1;
            } else {
                // As an earlier walfs has stored it.
                object = pack_all(Compression::default(), &unpack_all(&object).expect("an object"))
                    .0
                    .into();
            }
            fs::remove_file(path).expect("replace an object");
            fs::write(path, object).expect("replace an object");
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .expect("let it be read");
        }
        is_found(&site, &story);
    }
}

/// Whatever way a segment takes: copied, renamed, sent ahead, received.
#[test]
fn k5_every_way_in_brings_an_index() {
    let world = World::new("index-ways");
    let site = Site::local(&world);
    site.server.archive_with("/bin/false");
    site.server.reload();
    site.server.query("CREATE TABLE t (id int)");
    for id in 1..=6 {
        insert(&site, id);
        site.server.query("SELECT pg_switch_wal()");
    }
    let mount = Mount::local(&world);
    // Whether it was sent ahead or copied depends on which is quicker.
    let command = mount.archive_command();
    site.server.archive_with(&command);
    site.server.reload();
    site.server.archive_all();
    let copied = segments(&world).pop().expect("a segment");
    let renamed = copied.file_stem().expect("a name").to_string_lossy().into_owned();
    let content = unpack_all(&fs::read(&copied).expect("an object")).expect("an object");
    let file = world.owned_file("segment", &content);
    fs::remove_file(&copied).expect("forget a segment");
    site.server.archive_with("/bin/false");
    site.server.reload();
    let moves = "cp \"$1\" \"$2.tmp\" && mv \"$2.tmp\" \"$2\"";
    let output = mount.user().shell(moves, &[&file, &mount.wal().join(&renamed)]);
    assert!(output.status.success(), "{}", said(&output));
    let all = segments(&world);
    assert!(all.len() > 6);
    for path in all {
        let (annex, _) = annex_bytes(&fs::read(&path).expect("read an object"));
        assert!(annex > 48, "{}", path.display());
    }
}

/// "A target that the archive cannot reach is refused before anything is touched."
#[test]
fn k5_a_target_that_cannot_be_reached_is_refused() {
    let world = World::new("unreachable");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    let before = insert(&site, 0);
    site.server.query("SELECT pg_create_restore_point('early')");
    site.backup("monday");
    let early = now(&site);
    let xid = insert(&site, 1);
    site.server.query("SELECT pg_create_restore_point('here')");
    let lsn = site.server.current_lsn();
    site.server.archive_all();
    let late = now(&site);
    let behind = site.server.query(&format!(
        "SELECT pg_current_wal_lsn() - 4096 FROM pg_sleep(0) WHERE '{lsn}' <> ''"
    ));
    for target in [
        ["--target-time", &early],
        ["--target-xid", &xid],
        ["--target-name", "here"],
        ["--target-lsn", &lsn],
    ] {
        assert_eq!(would(&site, "LATEST", &target), "monday", "{target:?}");
    }
    let ends = ["recovery ended before", "the last commit is of", "ends at"];
    for target in [
        ["--target-time", &late],
        ["--target-time", "2099-01-01 00:00:00+00"],
        ["--target-xid", "4000000"],
        ["--target-name", "nowhere"],
        ["--target-lsn", &behind],
    ] {
        for backup in ["LATEST", "monday"] {
            refuses(&site, backup, &target, &ends);
        }
    }
    refuses(
        &site,
        "monday",
        &["--target-name", "early"],
        &["behind the backup"],
    );
    refuses(
        &site,
        "monday",
        &["--target-xid", &before],
        &["behind the backup"],
    );
    // A standby's server may bring it.
    let standby = dry(&site, "LATEST", &["--standby", "--target-time", &late]);
    assert!(
        standby.status.success() && said(&standby).contains("does not reach"),
        "{}",
        said(&standby)
    );
    // What comes later makes it reachable.
    insert(&site, 2);
    site.server.archive_all();
    assert_eq!(would(&site, "LATEST", &["--target-time", &late]), "monday");
    // And so it is, in PostgreSQL.
    let data = world.owned_dir("back").join("data");
    let mut restore = site.walfs("restore");
    restore.args([
        "--no-archiving",
        "--target-time",
        &late,
        "--target-action",
        "promote",
    ]);
    let output = restore.arg("LATEST").arg(&data).output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    opened(&site, &data, "1");
}

#[track_caller]
fn opened(site: &Site<'_>, data: &Path, rows: &str) {
    use crate::common::postgres::Postgres;
    use crate::common::recovery::Recovery;
    let dir = data.parent().expect("a directory");
    let mut back = Postgres::start_as_it_is(dir, crate::common::version::newest(), &site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT max(id) FROM t"), rows);
}

/// "LATEST is the newest complete backup that can reach the target": of names and transactions the WAL tells when they were.
#[test]
fn k5_latest_ends_before_a_name_or_a_transaction() {
    let world = World::new("latest-name");
    let site = Site::local(&world);
    let server = &site.server;
    server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    let first = insert(&site, 1);
    server.query("SELECT pg_create_restore_point('one')");
    site.backup("tuesday");
    let second = insert(&site, 2);
    server.query("SELECT pg_create_restore_point('two')");
    server.archive_all();
    for (target, backup) in [
        (["--target-name", "one"], "monday"),
        (["--target-name", "two"], "tuesday"),
        (["--target-xid", &first], "monday"),
        (["--target-xid", &second], "tuesday"),
    ] {
        assert_eq!(would(&site, "LATEST", &target), backup, "{target:?}");
    }
    refuses(
        &site,
        "tuesday",
        &["--target-name", "one"],
        &["behind the backup"],
    );
    refuses(
        &site,
        "LATEST",
        &["--target-name", "three"],
        &["no such restore point"],
    );
}

/// Whatever is done with the images of pages, which every version tells differently: the blocks of the table, and no
/// other.
#[test]
fn k5_the_blocks_that_are_told_are_those_that_were_touched() {
    for version in installed_versions() {
        let major = version.major;
        let world = World::new(&format!("blocks-{major}"));
        let options = Options {
            version,
            segment_mib: 1,
            ..Options::default()
        };
        let site = Site::with(&world, Place::Local(world.archive()), &options);
        let server = &site.server;
        server.configure(&[("wal_compression", "on"), ("autovacuum", "off")]);
        server.reload();
        server.query("CREATE TABLE t AS SELECT generate_series(1, 9000) AS id, 'some text' AS text");
        let path = server.query("SELECT pg_relation_filepath('t')");
        server.archive_all();
        for _ in 0..2 {
            server.query("CHECKPOINT");
            server.query("UPDATE t SET text = text || '.' WHERE id % 3 = 0");
        }
        server.archive_all();
        let blocks: u64 = server.number("SELECT pg_relation_size('t') / 8192");
        let mut touched = vec![false; blocks as usize];
        for line in find(&site, &["--relation", path.trim_start_matches("base/")]) {
            assert_eq!(line["all_known"], true, "{major}: {line}");
            for fork in line["forks"].as_array().expect("forks") {
                for run in fork["blocks"].as_array().expect("runs") {
                    let end = |at: usize| run[at].as_u64().expect("a block") as usize;
                    if fork["fork"] == "main" {
                        assert!(end(1) < touched.len(), "{major}: {line}");
                        touched[end(0)..=end(1)].fill(true);
                    }
                }
            }
        }
        // A table grows by several pages at once since PostgreSQL 16: some have never been used.
        let used =
            server.query("SELECT string_agg(DISTINCT ((ctid::text::point)[0])::int::text, ' ') FROM t");
        let used: Vec<usize> = used
            .split(' ')
            .map(|block| block.parse().expect("a block"))
            .collect();
        assert!(
            used.len() > 20 && used.iter().all(|block| touched[*block]),
            "{major}: {touched:?}"
        );
    }
}

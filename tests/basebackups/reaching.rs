//! What the archived WAL says of itself: the last recoverable moment, where something is, and which targets recovery cannot
//! reach (promise K5).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use jiff::Timestamp;
use serde_json::Value;
use walfs::archive::tree::summary::Summary;
use walfs::archive::wal::Offered;
use walfs::codec::{Compression, pack_all, unpack_all};
use walfs::staging::{self, Staging};

use crate::common::basebackup::{Place, Site};
use crate::common::postgres::Options;
use crate::common::user::said;
use crate::common::version::installed_versions;
use crate::common::walfs::Mount;
use crate::common::world::World;
use crate::common::{wait, wal};

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

/// Looked at are the last 8192 segments; what lies before these is not said to be nowhere.
#[test]
fn k5_a_target_too_far_back_to_be_looked_for_is_not_refused() {
    let world = World::new("far-back");
    let site = Site::local(&world);
    site.backup("monday");
    site.server.query("SELECT pg_create_restore_point('early')");
    site.server.archive_all();
    let last = segments(&world).pop().expect("a segment");
    let name = last.file_name().expect("a name").to_string_lossy().into_owned();
    let number = u64::from_str_radix(&name[16..24], 16).expect("hex");
    let whole = unpack_all(&fs::read(&last).expect("read it")).expect("an object");
    let numbers: Vec<u64> = (number + 1..number + 8300).collect();
    std::thread::scope(|scope| {
        for numbers in numbers.chunks(numbers.len().div_ceil(4)) {
            scope.spawn(|| idle_segments(last.parent().expect("a directory"), &whole[..40], numbers));
        }
    });
    let output = dry(&site, "monday", &["--target-name", "early"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("is not known"), "{}", said(&output));
    refuses(&site, "monday", &["--target-lsn", "F/0"], &["does not reach"]);
}

/// Archives segments of 1 MiB that have nothing but the switch to the next one. `header` is that of any segment of the cluster.
fn idle_segments(wal: &Path, header: &[u8], numbers: &[u64]) {
    let staging = Staging::new(Compression::default(), &staging::Options::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut content = vec![0; 1 << 20];
    content[..40].copy_from_slice(header);
    // Its length, and what it is: XLOG_SWITCH.
    (content[40], content[56]) = (24, 0x40);
    let crc = crc32c::crc32c(&content[40..60]);
    content[60..64].copy_from_slice(&crc.to_le_bytes());
    for number in numbers {
        content[8..16].copy_from_slice(&(number << 20).to_le_bytes());
        let object = runtime.block_on(async {
            let mut draft = staging.draft();
            draft.write(0, &content).await.expect("take it");
            let object = draft.finish().await.expect("pack it");
            object.read(0..object.stored_bytes()).await.expect("read it")
        });
        let name = wal::segment_name(1, *number, 1 << 20);
        fs::write(wal.join(format!("{name}.lz4")), object).expect("archive it");
    }
}

/// The number of a prepared transaction stands behind all else in the record of its end, which may be long and go over pages.
#[test]
fn k5_a_prepared_transaction_with_a_long_record_is_found() {
    let world = World::new("long-prepared");
    let mut site = Site::local(&world);
    site.server.configure(&[("max_prepared_transactions", "5")]);
    site.server.restart();
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    let begun = site.server.query(
        "BEGIN; INSERT INTO t VALUES (1); SELECT pg_current_xact_id();
         DO $$ BEGIN FOR k IN 1..60 LOOP EXECUTE 'CREATE TABLE z' || k || '(a text primary key)'; END LOOP; END $$;
         PREPARE TRANSACTION 'long'",
    );
    let xid = begun.lines().next().expect("a number").to_owned();
    site.server.query("COMMIT PREPARED 'long'");
    site.server.query("INSERT INTO t VALUES (2)");
    site.server.archive_all();
    assert_eq!(find(&site, &["--xid", &xid])[0]["xid"].to_string(), xid);
    assert_eq!(would(&site, "monday", &["--target-xid", &xid]), "monday");
}

/// A commit of more than half a million subtransactions begins in one segment, goes on through all of the next, and ends behind
/// that.
#[test]
fn k5_a_commit_over_several_segments_is_found() {
    let world = World::new("long-commit");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    insert(&site, 1);
    let begun = site.server.query(
        "BEGIN; INSERT INTO t VALUES (2); SELECT pg_current_xact_id(); CREATE TEMPORARY TABLE s (id int);
         DO $$ BEGIN FOR k IN 1..540000 LOOP BEGIN INSERT INTO s VALUES (1); EXCEPTION WHEN OTHERS THEN NULL; END;
         END LOOP; END $$; COMMIT",
    );
    let xid = begun.lines().next().expect("a number").to_owned();
    site.server.archive_all();
    let found = find(&site, &["--xid", &xid]);
    assert_eq!(found[0]["xid"].to_string(), xid, "{found:?}");
    assert_eq!(would(&site, "monday", &["--target-xid", &xid]), "monday");
    let time = found[0]["time"].as_str().expect("a time");
    let around = &find(&site, &["--time", time])[0];
    assert_eq!(around["before"]["xid"].to_string(), xid, "{around}");
}

/// A clock was set back: from the newest backup that ended before a time nothing later comes, and from an older one it does.
#[test]
fn b8_an_older_backup_is_taken_if_the_newest_does_not_reach_a_time() {
    let world = World::new("clock-back");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    let time = now(&site);
    insert(&site, 1);
    site.backup("tuesday");
    site.server.archive_all();
    // As a clock would say that had been set back in between.
    let path = world.archive().join("basebackups/tuesday.json");
    let mut summary = Summary::parse(&fs::read(&path).expect("read it")).expect("a summary");
    let earlier = moment(&time) - jiff::SignedDuration::from_millis(10);
    (summary.backup.ended.at, summary.finished) = (earlier, earlier);
    fs::remove_file(&path).expect("replace it");
    fs::write(&path, summary.to_text()).expect("replace it");
    let read = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&path, read).expect("let it be read");
    assert_eq!(would(&site, "LATEST", &["--target-time", &time]), "monday");
    refuses(&site, "tuesday", &["--target-time", &time], &["does not reach"]);
    refuses(
        &site,
        "LATEST",
        &["--target-time", "2099-01-01 00:00:00+00"],
        &["does not reach"],
    );
}

//! `walfs restore` (promise B6): a real server's backup comes back, recovers to where it was told, and what cannot be
//! restored is refused before anything is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::basebackup::{Place, Site, balanced};
use crate::common::postgres::{Options, Postgres, newest};
use crate::common::recovery::Recovery;
use crate::common::s3::S3Server;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::world::World;

impl Site<'_> {
    /// `walfs restore BACKUP dir/data`, as postgres. Restored servers archive nothing: the original goes on.
    fn restoring(&self, backup: &str, dir: &Path, arguments: &[&str]) -> Command {
        let mut restore = self.walfs("restore");
        restore
            .args(["--json", "--no-archiving"])
            .args(arguments)
            .arg(backup)
            .arg(dir.join("data"));
        restore
    }

    fn try_restore(&self, backup: &str, dir: &Path, arguments: &[&str]) -> Output {
        User::postgres().make_dir(dir);
        self.restoring(backup, dir, arguments)
            .output()
            .expect("run walfs")
    }

    #[track_caller]
    fn restore(&self, backup: &str, dir: &Path, arguments: &[&str]) -> Value {
        let output = self.try_restore(backup, dir, arguments);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// `pg_verifybackup` without any flag: the WAL is there, too.
    #[track_caller]
    fn verify_whole(&self, data: &Path) {
        let output = self
            .server
            .program("pg_verifybackup")
            .arg(data)
            .output()
            .expect("run pg_verifybackup");
        assert!(output.status.success(), "{}", said(&output));
    }

    /// Starts a restored directory as it is; `env` of the store is what its `wal-fetch` finds.
    fn start(&self, dir: &Path) -> Postgres {
        Postgres::start_as_it_is(dir, newest(), &self.place.env())
    }
}

/// Waits for the end of recovery, or for its pause at the target, and returns what the query says then.
#[track_caller]
fn recovered(server: &mut Postgres, query: &str) -> String {
    let paused = "SELECT NOT pg_is_in_recovery() OR pg_get_wal_replay_pause_state() = 'paused'";
    wait::until("the recovery", || {
        (server.psql(paused).as_deref() == Ok("t")).then_some(())
    });
    server.query(query)
}

/// Refused with this in the message and a HINT, and nothing touched.
#[track_caller]
fn assert_refused(output: &Output, text: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    let message = said(output);
    assert!(message.contains(text) && message.contains("HINT: "), "{message}");
}

/// Every file below a directory: its content's hash, mode and time.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, (String, u32)> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).expect("look at a file");
        let content = if meta.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .expect("list")
                    .map(|entry| entry.expect("a name").path()),
            );
            "directory".into()
        } else if meta.is_symlink() {
            fs::read_link(&path).expect("read a link").display().to_string()
        } else {
            blake3::hash(&fs::read(&path).expect("read a file")).to_string()
        };
        let inside = path.strip_prefix(dir).expect("below").to_owned();
        found.insert(inside, (content, meta.permissions().mode()));
    }
    found
}

fn comes_back(world: &World, place: Place) {
    let site = Site::new(world, place);
    let server = &site.server;
    server.pgbench_init(6);
    let space = world.owned_dir("space");
    server.query(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
    server.query("CREATE TABLE there TABLESPACE fast AS SELECT generate_series(1, 50000) AS id");
    let mut load = server.pgbench(600, 2);
    site.backup("monday");
    load.kill().expect("kill pgbench");
    load.wait().expect("wait for pgbench");
    server.query("CREATE TABLE last AS SELECT 1 AS id");
    server.archive_all();
    let before = balanced(server);

    let dir = world.path().join("back");
    let elsewhere = world.owned_dir("space's \\ copy");
    let mapping = format!("{}={}", space.display(), elsewhere.display());
    let report = site.restore("LATEST", &dir, &["--tablespace-mapping", &mapping]);
    assert_eq!(report["backup"], "monday");
    assert_eq!(report["wal_gap"], Value::Null);
    site.verify_whole(&dir.join("data"));
    let mut back = site.start(&dir);
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(balanced(&back), before);
    assert_eq!(back.query("SELECT count(*) FROM there"), "50000");
    assert_eq!(back.query("SELECT count(*) FROM last"), "1");
    let location = back.query("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'");
    assert_eq!(Path::new(&location), elsewhere);
}

#[test]
fn b6_a_backup_comes_back_from_a_directory() {
    let world = World::new("restore");
    comes_back(&world, Place::Local(world.archive()));
}

#[test]
fn b6_a_backup_comes_back_from_s3() {
    let world = World::new("restore-s3");
    comes_back(&world, Place::S3(S3Server::start()));
}

/// "settings for latest, time, LSN, name, transaction id or immediate".
#[test]
fn b6_recovery_ends_where_it_was_told() {
    let world = World::new("targets");
    let site = Site::local(&world);
    let server = &site.server;
    server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    server.query("INSERT INTO t VALUES (1)");
    let lsn = server.current_lsn();
    let time =
        server.query("SELECT pg_sleep(0.1), clock_timestamp() AT TIME ZONE 'UTC' || '+00', pg_sleep(0.1)");
    let time = time.trim_matches('|').to_owned();
    server.query("SELECT pg_create_restore_point('one''s')");
    let xid = server.query("BEGIN; INSERT INTO t VALUES (2); SELECT pg_current_xact_id(); COMMIT");
    server.query("INSERT INTO t VALUES (3)");
    site.backup("tuesday");
    server.query("INSERT INTO t VALUES (4)");
    server.archive_all();
    let count = "SELECT count(*) FROM t";
    for (case, (arguments, rows)) in [
        (&["--target-time", &time][..], "1"),
        (&["--target-lsn", &lsn], "1"),
        (&["--target-name", "one's"], "1"),
        (&["--target-xid", &xid], "2"),
        (&["--target-xid", &xid, "--target-exclusive"], "1"),
        (&["--immediate"], "0"),
        (&["--target-lsn", &lsn, "--target-action", "promote"], "1"),
        (&[], "4"),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = world.path().join(format!("back-{case}"));
        site.restore("monday", &dir, arguments);
        let mut back = site.start(&dir);
        assert_eq!(recovered(&mut back, count), rows, "{arguments:?}");
        back.kill9();
    }
    // LATEST is the newest that ends before the target.
    for (target, backup) in [
        (&["--target-lsn", &lsn][..], "monday"),
        (&["--target-time", &time], "monday"),
        (&[], "tuesday"),
    ] {
        let dir = world.path().join("dry");
        let report = site.restore("LATEST", &dir, &[target, &["--dry-run"]].concat());
        assert_eq!(report["backup"], backup, "{target:?}");
        assert!(!dir.join("data").exists());
    }
    let dir = world.path().join("refused");
    assert_refused(
        &site.try_restore("tuesday", &dir, &["--target-lsn", &lsn]),
        "consistent only from",
    );
    assert_refused(
        &site.try_restore("tuesday", &dir, &["--target-time", &time]),
        "consistent only from",
    );
    assert_refused(
        &site.try_restore("LATEST", &dir, &["--target-lsn", "0/1"]),
        "no complete backup that ends before",
    );
    assert_refused(
        &site.try_restore("monday", &dir, &["--target-lsn", "F/0"]),
        "does not reach F/0",
    );
    assert_refused(
        &site.try_restore("monday", &dir, &["--target-timeline", "7"]),
        "00000007.history",
    );
    assert!(!dir.join("data").exists());
}

/// "over the remains of an old one (only what differs is fetched)": and then it is the same as a fresh restore.
#[test]
fn b6_delta_fetches_only_what_differs() {
    let world = World::new("delta");
    let store = S3Server::start();
    let site = Site::new(&world, Place::S3(store));
    let server = &site.server;
    server.pgbench_init(6);
    let path = server.query("SELECT pg_relation_filepath('pgbench_accounts')");
    site.backup("monday");
    let (fresh, old) = (world.path().join("fresh"), world.path().join("old"));
    site.restore("monday", &fresh, &[]);
    site.restore("monday", &old, &[]);
    // A server has worked on it, a page was torn, files were added, removed, cut and replaced by links.
    let mut used = site.start(&old);
    assert_eq!(
        used.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        used.log()
    );
    used.query("CREATE TABLE new AS SELECT generate_series(1, 1000) AS id");
    used.kill9();
    let data = old.join("data");
    let relation = fs::OpenOptions::new()
        .write(true)
        .open(data.join(&path))
        .expect("open the relation");
    relation.write_all_at(&[7; 8192], 40 << 20).expect("damage it");
    fs::remove_file(data.join("PG_VERSION")).expect("remove a file");
    std::os::unix::fs::symlink("/etc/passwd", data.join("PG_VERSION")).expect("put a link in its place");
    fs::create_dir(data.join("base/77")).expect("add a directory");
    fs::write(data.join("base/77/1"), "x").expect("add a file");
    User::postgres().own(&data.join("base/77"));

    // A directory moved away, with a link in its place: the link goes, and nothing is taken for what lay behind it.
    fs::rename(data.join("pg_xact"), old.join("moved")).expect("move a directory");
    std::os::unix::fs::symlink(old.join("moved"), data.join("pg_xact")).expect("put a link in its place");

    let refused = site.try_restore("monday", &old, &[]);
    assert_refused(&refused, "is not empty");
    // The WAL that the copy has written is nowhere else, and is not to be lost.
    let refused = site.try_restore("monday", &old, &["--delta"]);
    assert_refused(&refused, "WAL that is not in");
    let dry = site.restore("monday", &old, &["--delta", "--set-aside-wal", "--dry-run"]);
    assert!(dry["removed"].to_string().contains("base/77"), "{dry}");
    assert!(data.join("base/77/1").exists());
    let report = site.restore("monday", &old, &["--delta", "--set-aside-wal"]);
    let number = |name: &str| report[name].as_u64().expect("a number");
    assert!(number("kept_bytes") * 10 > number("bytes") * 8, "{report}");
    let stored: usize = site
        .place
        .keys("trees")
        .iter()
        .map(|key| site.place.object(key).len())
        .sum();
    assert!(
        number("fetched_bytes") * 2 < stored as u64,
        "{report}, stored: {stored}"
    );
    assert_eq!(snapshot(&data), snapshot(&fresh.join("data")));
    assert_eq!(
        fs::read_to_string("/etc/passwd")
            .expect("read it")
            .lines()
            .next()
            .map(|_| ()),
        Some(())
    );
    site.verify_whole(&data);
}

/// "can be interrupted and run again": and what an interruption leaves is nothing that a server starts from.
#[test]
fn b6_a_killed_restore_goes_on() {
    let world = World::new("resume");
    let site = Site::local(&world);
    site.server.pgbench_init(4);
    site.backup("monday");
    let fresh = world.path().join("fresh");
    site.restore("monday", &fresh, &[]);
    let dir = world.path().join("back");
    User::postgres().make_dir(&dir);
    let mut killed = 0;
    for round in 0..12 {
        let mut restore = site.restoring("monday", &dir, &["--jobs", "1"]);
        let mut restore = restore
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run walfs");
        wait::until("it to begin", || {
            let ended = restore.try_wait().expect("wait for walfs").is_some();
            (ended || dir.join("data/walfs-restore.json").exists()).then_some(())
        });
        std::thread::sleep(Duration::from_millis(30 * round));
        restore.kill().expect("kill walfs");
        if restore.wait().expect("wait for walfs").success() {
            break;
        }
        killed += 1;
        if dir.join("data/global/pg_control").exists() {
            break;
        }
        let mut server = site.start(&dir);
        assert_eq!(
            server.recovery_within(wait::LONG),
            Recovery::Failed,
            "it started in round {round}"
        );
    }
    assert!(killed > 0, "it was never interrupted");
    // The last kill may have come between the last file and the removal of the mark.
    if !dir.join("data/global/pg_control").exists() || dir.join("data/walfs-restore.json").exists() {
        site.restore("monday", &dir, &[]);
    }
    assert_eq!(snapshot(&dir.join("data")), snapshot(&fresh.join("data")));
    site.verify_whole(&dir.join("data"));
}

/// "A data directory with its backup_label removed must not start silently".
#[test]
fn b6_without_its_label_it_does_not_start() {
    let world = World::new("label");
    let site = Site::local(&world);
    site.backup("monday");
    let dir = world.path().join("back");
    site.restore("monday", &dir, &["--immediate"]);
    fs::remove_file(dir.join("data/backup_label")).expect("remove the label");
    fs::remove_file(dir.join("data/recovery.signal")).expect("remove the signal");
    let mut server = site.start(&dir);
    assert_eq!(server.recovery_within(wait::LONG), Recovery::Failed);
    assert!(
        server
            .log()
            .contains("could not locate a valid checkpoint record"),
        "{}",
        server.log()
    );
}

/// O1: what cannot be restored is refused, with the file's name and what to do, and nothing is touched.
#[test]
fn o1_what_cannot_be_restored_is_refused() {
    let world = World::new("refused");
    let mut site = Site::local(&world);
    site.server.pgbench_init(1);
    let taken = site.backup("monday");
    let dir = world.path().join("back");
    assert_refused(
        &site.try_restore("sunday", &dir, &[]),
        "no complete backup named sunday",
    );

    // A server that runs, whatever is allowed.
    let running = site
        .restoring("monday", &world.path().join("pg"), &["--delta"])
        .output();
    let running = running.expect("run walfs");
    assert!(said(&running).contains("server runs"), "{}", said(&running));
    assert!(running.status.code() == Some(1) && site.server.is_running());
    // Another cluster.
    let other = Postgres::init(&world.path().join("other"), &Options::default());
    let output = site.try_restore("monday", &world.path().join("other"), &["--delta"]);
    assert_refused(&output, "belongs to the cluster with system identifier");
    assert!(other.data().join("global/pg_control").exists());
    // Files of somebody.
    User::postgres().make_dir(&dir.join("data"));
    fs::write(dir.join("data/precious"), "x").expect("write a file");
    assert_refused(&site.try_restore("monday", &dir, &[]), "is not empty");
    assert_refused(
        &site.try_restore("monday", &dir, &["--delta"]),
        "not a data directory",
    );
    assert_eq!(fs::read_dir(dir.join("data")).expect("list").count(), 1);
    fs::remove_file(dir.join("data/precious")).expect("remove it");

    // A part that was changed: the object is named, and the file.
    let parts = site
        .place
        .keys(&format!("trees/{}", taken["id"].as_str().expect("an id")));
    let part = world
        .archive()
        .join(parts.iter().find(|key| key.contains(".tar.")).expect("a part"));
    let whole = fs::read(&part).expect("read a part");
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    let replace = |content: &[u8]| {
        fs::remove_file(&part).expect("remove the part");
        fs::write(&part, content).expect("write the part");
        User::postgres().own(&part);
    };
    replace(&changed);
    let output = site.try_restore("monday", &dir, &[]);
    assert_refused(
        &output,
        part.file_name().and_then(|name| name.to_str()).expect("ASCII"),
    );
    assert!(!dir.join("data/global/pg_control").exists());
    fs::remove_file(&part).expect("remove the part");
    assert_refused(&site.try_restore("monday", &dir, &[]), "it is not there");
    fs::write(&part, &whole).expect("bring it back");
    User::postgres().own(&part);
    site.restore("monday", &dir, &[]);
    site.verify_whole(&dir.join("data"));

    // WAL that is needed and gone.
    let start = taken["backup"]["wal"][0]["start"]
        .as_str()
        .expect("a position")
        .to_owned();
    let segment = site.server.query(&format!("SELECT pg_walfile_name('{start}')"));
    fs::remove_file(world.archive().join(format!("wal/{segment}.lz4"))).expect("remove a segment");
    let output = site.try_restore("monday", &world.path().join("again"), &[]);
    assert_refused(&output, &segment);
    assert!(!world.path().join("again/data").exists());
}

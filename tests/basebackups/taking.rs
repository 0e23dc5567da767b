//! Taking backups with `walfs backup`: what stock tools bring back is a cluster that starts, recovers and is whole.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use crate::common::basebackup::{Place, Site, balanced};
use crate::common::postgres::{Options, Postgres, StopMode, newest, send};
use crate::common::recovery::Recovery;
use crate::common::s3::{Action, Logged, Operation, Rule, S3Server};
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::world::World;

/// B2, B3, B4 and R5 in one: under load, with a tablespace, an unlogged table, odd names and a relation of several
/// slices; unpacked by stock tools, verified, started, recovered to the end, balanced.
fn comes_back(world: &World, place: Place) {
    let site = Site::new(world, place);
    let server = &site.server;
    server.pgbench_init(6);
    let space = world.owned_dir("space");
    server.query(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
    server.query("CREATE TABLE there TABLESPACE fast AS SELECT generate_series(1, 50000) AS id");
    server.query("CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 1000) AS id");
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff\n name");
    fs::write(server.data().join(odd), "odd").expect("write a file with an odd name");
    User::postgres().own(&server.data().join(odd));
    let large = "SELECT pg_relation_size('pgbench_accounts') > 64 << 20";
    assert_eq!(server.query(large), "t", "a relation of several slices");

    let mut load = server.pgbench(600, 2);
    let taken = site.backup("monday");
    load.kill().expect("kill pgbench");
    load.wait().expect("wait for pgbench");
    assert_eq!(taken["complete"], true);
    assert_eq!(taken["backup"]["pages"]["bad"], 0);
    assert!(
        taken["backup"]["pages"]["verified"].as_u64() > Some(5000),
        "{taken:#}"
    );
    assert_eq!(site.state("monday").as_deref(), Some("complete"));
    server.query("CREATE TABLE last AS SELECT 1 AS id");
    server.archive_all();
    let before = balanced(server);

    let dir = world.path().join("back");
    let data = site.unpack(&taken, &dir);
    site.verify(&data);
    assert_eq!(fs::read(data.join(odd)).expect("the odd file"), b"odd");
    let unlogged = server.query("SELECT pg_relation_filepath('unlogged')");
    assert!(!data.join(&unlogged).exists() && data.join(format!("{unlogged}_init")).exists());
    // Where it was is the old server's: it goes elsewhere.
    let oid = server.query("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'");
    let moved = dir.join("space");
    fs::rename(data.join("pg_tblspc").join(&oid), &moved).expect("move the tablespace");
    fs::write(
        data.join("tablespace_map"),
        format!("{oid} {}\n", moved.display()),
    )
    .expect("remap it");
    let settings = [("restore_command", site.restore_command())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut back = Postgres::recovering(&dir, newest(), &settings);
    back.start_recovery();
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(balanced(&back), before);
    assert_eq!(back.query("SELECT count(*) FROM there"), "50000");
    assert_eq!(back.query("SELECT count(*) FROM unlogged"), "0");
    assert_eq!(back.query("SELECT count(*) FROM last"), "1");
}

#[test]
fn b3_a_backup_under_load_comes_back_from_a_directory() {
    let world = World::new("taking");
    comes_back(&world, Place::Local(world.archive()));
}

#[test]
fn b3_a_backup_under_load_comes_back_from_s3() {
    let world = World::new("taking-s3");
    comes_back(&world, Place::S3(S3Server::start()));
}

/// B4: "a bad page is reported by file and block, and marks the backup".
#[test]
fn b4_a_bad_page_is_named_and_marks_the_backup() {
    let world = World::new("bad-page");
    let mut site = Site::local(&world);
    site.server.pgbench_init(1);
    site.server.query("CHECKPOINT");
    let path = site
        .server
        .query("SELECT pg_relation_filepath('pgbench_accounts')");
    site.server.stop(StopMode::Fast);
    flip(&site.server.data().join(&path), 7 * 8192 + 4000);
    site.server.start();
    let output = site.try_backup("marked", &[]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains(&format!("block 7 of {path}")),
        "{}",
        said(&output)
    );
    let listed = &site.list()[0];
    assert_eq!(listed["state"], "complete");
    assert_eq!(listed["backup"]["pages"]["bad"], 1);
    assert_eq!(listed["backup"]["pages"]["first_bad"][0]["path"], path.as_str());
    assert_eq!(listed["backup"]["pages"]["first_bad"][0]["block"], 7);
    let silent = site.try_backup("silent", &["--no-verify-checksums"]);
    assert_eq!(silent.status.code(), Some(0), "{}", said(&silent));
}

/// B2: "A killed backup is visibly incomplete, harms nothing and is swept later"; a running one is never touched.
#[test]
fn b2_a_killed_backup_is_incomplete_and_swept() {
    let world = World::new("killed");
    let site = Site::local(&world);
    site.server.pgbench_init(2);
    let mut running = site.slow_backup("running", "128KiB");
    wait::until("it to be listed", || site.state("running"));
    for round in 0..3 {
        let mut killed = site.slow_backup(&format!("killed-{round}"), "1MiB");
        wait::until("it to be listed", || site.state(&format!("killed-{round}")));
        std::thread::sleep(std::time::Duration::from_millis(fastrand::u64(0..1500)));
        killed.kill().expect("kill walfs");
        killed.wait().expect("wait for walfs");
        assert_eq!(
            site.state(&format!("killed-{round}")).as_deref(),
            Some("incomplete")
        );
        let maker = &find(&site, &format!("killed-{round}"))["maker"];
        assert_eq!(maker["state"], "abandoned");
    }
    wait::until("the killed sessions to end", || {
        (site.sessions() == 1).then_some(())
    });
    assert_eq!(find(&site, "running")["maker"]["state"], "running");
    let taken = site.backup("after");
    assert_eq!(taken["complete"], true);
    assert_eq!(
        site.state("killed-0")
            .or(site.state("killed-1"))
            .or(site.state("killed-2")),
        None
    );
    assert_eq!(
        site.state("running").as_deref(),
        Some("incomplete"),
        "a running one was touched"
    );
    assert!(
        running.try_wait().expect("look at it").is_none(),
        "it ended early"
    );
    running.kill().expect("kill walfs");
    running.wait().expect("wait for walfs");
}

/// O1: Ctrl-C and SIGTERM end it; nothing is left, in the archive or the server. S9: a terminal that is gone does not end it.
#[test]
fn o1_a_signal_ends_a_backup_and_leaves_nothing() {
    let world = World::new("signal");
    let site = Site::local(&world);
    site.server.pgbench_init(4);
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let mut backup = site.slow_backup("stopped", "8MiB");
        wait::until("parts to be stored", || {
            (site.place.keys("trees").len() > 1).then_some(())
        });
        send(backup.id(), signal);
        let status = wait::for_exit("walfs to end", &mut backup);
        let mut text = String::new();
        backup
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut text)
            .expect("read it");
        assert_eq!(status.code(), Some(code), "{text}");
        assert_eq!(site.place.keys("trees"), [""; 0]);
        wait::until("the session to end", || (site.sessions() == 0).then_some(()));
    }
    let mut backup = site.slow_backup("goes-on", "8MiB");
    wait::until("parts to be stored", || {
        (site.place.keys("trees").len() > 1).then_some(())
    });
    send(backup.id(), libc::SIGHUP);
    assert_eq!(wait::for_exit("walfs to end", &mut backup).code(), Some(0));
    assert_eq!(site.state("goes-on").as_deref(), Some("complete"));
}

/// O1: a second signal, as `timeout -s INT` sends it, does not cut the cleaning up short.
#[test]
fn o1_a_second_signal_leaves_the_cleaning_up_to_its_end() {
    let world = World::new("twice");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!("made so")
    };
    site.server.pgbench_init(2);
    let mut backup = site.slow_backup("stopped", "8MiB");
    wait::until("parts to be stored", || {
        (site.place.keys("trees").len() > 2).then_some(())
    });
    let delay = Action::Delay(std::time::Duration::from_secs(1));
    server.add_rule(Rule::new(delay).operation(Operation::List).key("trees"));
    let before = server.count(|request| request.operation == Operation::List);
    send(backup.id(), libc::SIGINT);
    wait::until("it to clean up", || {
        (server.count(|request| request.operation == Operation::List) > before).then_some(())
    });
    send(backup.id(), libc::SIGINT);
    let status = wait::for_exit("walfs to end", &mut backup);
    let mut text = String::new();
    let mut stderr = backup.stderr.take().expect("piped");
    stderr.read_to_string(&mut text).expect("read it");
    assert_eq!(status.code(), Some(130), "{text}");
    assert!(text.contains("cleaning up"), "{text}");
    assert_eq!(site.place.keys("trees"), [""; 0]);
}

/// B2: "A backup is listed as complete [...] only when every byte is in the store". The request that makes it exist is on its
/// way when the signal comes: the store does it all the same, so nothing may be deleted.
#[test]
fn b2_a_signal_during_the_last_request_leaves_a_whole_backup() {
    let world = World::new("last");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!("made so")
    };
    let last =
        |request: &Logged| request.operation == Operation::Put && request.key.contains("basebackups/late");
    let delay = Action::Delay(std::time::Duration::from_secs(3));
    server.add_rule(Rule::new(delay).operation(Operation::Put).key("basebackups/late"));
    let mut backup = site.slow_backup_with("late", &[]);
    server.wait_for(1, last);
    send(backup.id(), libc::SIGINT);
    let status = wait::for_exit("walfs to end", &mut backup);
    wait::until("the request to be answered", || {
        (server.count(|request| last(request) && request.status.is_some()) > 0).then_some(())
    });
    assert_eq!(status.code(), Some(0), "it is taken");
    assert_eq!(site.state("late").as_deref(), Some("complete"));
    let data = site.unpack(&find(&site, "late"), &world.path().join("unpacked"));
    site.verify(&data);
}

/// B2: "A killed backup [...] harms nothing": that what it left cannot be taken away is a warning, and no reason against a
/// backup.
#[test]
fn b2_a_sweep_that_fails_is_a_warning() {
    let world = World::new("unswept");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!("made so")
    };
    site.backup("before");
    wait::until("the archiver to be done with the store", || {
        site.server.ready_segments().is_empty().then_some(())
    });
    // Whoever waits for a store that does not answer is told so.
    let late = Rule::new(Action::Delay(std::time::Duration::from_secs(5))).times(1);
    server.add_rule(late.key("walfs.json"));
    let told = site.try_backup("told", &[]);
    assert!(
        told.status.success() && said(&told).contains("does not answer yet"),
        "{}",
        said(&told)
    );
    let denied = Rule::new(Action::error(403, "AccessDenied"));
    let denied = server.add_rule(denied.operation(Operation::List).key("trees"));
    let output = site.try_backup("taken", &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(server.hits(denied) > 0, "nobody looked");
    assert!(said(&output).contains("is not removed"), "{}", said(&output));
    server.clear_rules();
    assert_eq!(site.state("taken").as_deref(), Some("complete"));
}

/// B2: "every WAL segment from its start to its stop is [there]; what is missing is named".
#[test]
fn b2_missing_wal_is_named_with_its_cause() {
    let world = World::new("missing-wal");
    let site = Site::local(&world);
    site.server.archive_all();
    site.server.configure(&[("archive_command", "false")]);
    site.server.reload();
    let output = site.try_backup("lacking", &["--wal-timeout", "2s"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let listed = &site.list()[0];
    assert_eq!(listed["state"], "WAL missing");
    let missing = listed["missing_wal"][0].as_str().expect("a name").to_owned();
    let text = said(&output);
    assert!(
        text.contains(&missing) && text.contains("archiver fails"),
        "{text}"
    );
    let again = site.try_backup("lacking", &[]);
    assert!(
        said(&again).contains("missing") && !said(&again).contains("never changed"),
        "{}",
        said(&again)
    );
    let latest = site
        .walfs("backup-show")
        .arg("LATEST")
        .output()
        .expect("run walfs");
    assert_eq!(
        latest.status.code(),
        Some(1),
        "LATEST moved to what is not complete: {}",
        said(&latest)
    );
    site.server
        .configure(&[("archive_command", &site.archive_command())]);
    site.server.reload();
    wait::until("the WAL to arrive", || {
        (site.state("lacking").as_deref() == Some("complete")).then_some(())
    });
}

/// W5, for backups: another cluster's archive is refused before anything is read.
#[test]
fn w5_another_clusters_archive_is_refused() {
    let world = World::new("wrong-cluster");
    let site = Site::local(&world);
    site.server.archive_all();
    let options = Options {
        segment_mib: 1,
        ..Options::default()
    };
    let mut other = Postgres::init(&world.path().join("other"), &options);
    other.start();
    let mut backup = site.walfs("backup");
    let output = backup
        .env("PGHOST", world.path().join("other"))
        .output()
        .expect("run walfs");
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains(&other.system_identifier().to_string()), "{text}");
    assert!(
        text.contains(&site.server.system_identifier().to_string()),
        "{text}"
    );
    assert_eq!(site.list().len(), 0);
    assert_eq!(site.place.keys("trees"), [""; 0]);
}

/// B3: from a standby, whose last segment the primary brings.
#[test]
fn b3_a_standby_is_backed_up() {
    let world = World::new("from-standby");
    let site = Site::local(&world);
    let mut standby = standby(&site, &world, &[]);
    let (dir, restore) = (world.path().join("standby"), site.restore_command());
    // A restart point, so that there is a checkpoint to begin from; and WAL that the backup ends in.
    site.server.query("CHECKPOINT");
    site.server.archive_all();
    let mut backup = site.walfs("backup");
    backup
        .env("PGHOST", &dir)
        .args(["--json", "--full", "from-standby"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut backup = backup.spawn().expect("run walfs");
    let status = wait::until("the backup to end", || {
        site.server.archive_all();
        backup.try_wait().expect("wait for walfs")
    });
    let output = backup.wait_with_output().expect("read what it said");
    assert!(status.success(), "{}", said(&output));
    let taken: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(taken["backup"]["from_standby"], true);
    standby.kill9();

    let again = world.path().join("again");
    let data = site.unpack(&taken, &again);
    site.verify(&data);
    fs::remove_file(data.join("standby.signal")).expect("a copy of a standby has its signal");
    let back = Postgres::recover(&again, newest(), &restore);
    balanced(&back);
}

/// A standby of the site's server, in `standby`, that follows it by the archive, with more settings.
pub(super) fn standby(site: &Site<'_>, world: &World, more: &[(&str, &str)]) -> Postgres {
    site.server.pgbench_init(1);
    let taken = site.backup("first");
    site.server.archive_all();
    standby_of(site, &taken, &world.path().join("standby"), more)
}

/// A standby out of a backup, in `dir`, that follows by the archive, with more settings.
pub(super) fn standby_of(
    site: &Site<'_>,
    taken: &serde_json::Value,
    dir: &Path,
    more: &[(&str, &str)],
) -> Postgres {
    site.unpack(taken, dir);
    let restore = site.restore_command();
    let settings = [("restore_command", &*restore), ("hot_standby", "on")];
    let mut standby = Postgres::recovering(dir, newest(), &[&settings, more].concat());
    let data = standby.data();
    fs::rename(data.join("recovery.signal"), data.join("standby.signal")).expect("make it a standby");
    standby.start();
    standby
}

/// B3: "a standby's promotion during the backup makes it fail".
#[test]
fn b3_a_promotion_fails_the_backup() {
    let world = World::new("promoted");
    let site = Site::local(&world);
    let standby = standby(&site, &world, &[]);
    site.server.query("CHECKPOINT");
    site.server.archive_all();
    let mut backup = site.walfs("backup");
    backup
        .env("PGHOST", world.path().join("standby"))
        .args(["--rate-limit", "1MiB", "half-way"])
        .stderr(Stdio::piped());
    let backup = backup.spawn().expect("run walfs");
    wait::until("the backup to be at work", || {
        let at_work =
            "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_backup_start' AND state = 'idle'";
        (standby.query(at_work) != "0").then_some(())
    });
    standby.promote();
    let output = backup.wait_with_output().expect("read what it said");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("promoted"), "{}", said(&output));
    let left: Vec<_> = site
        .list()
        .into_iter()
        .filter(|listed| listed["name"] == "half-way")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[track_caller]
fn find(site: &Site<'_>, name: &str) -> serde_json::Value {
    let listed = site.list().into_iter().find(|listed| listed["name"] == name);
    listed.unwrap_or_else(|| panic!("{name} is not listed"))
}

fn flip(path: &Path, at: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("open the relation");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("change it");
}

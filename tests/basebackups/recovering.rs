//! `walfs restore` where the way is not straight: WAL with a gap, a standby, another owner, tar files, somebody else at
//! the same directory, an archive that may not be read (promise B6, O1, S1).

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::mounted::Site as Mounted;
use crate::common::basebackup::{Place, Site};
use crate::common::postgres::Postgres;
use crate::common::recovery::Recovery;
use crate::common::s3::{Action, Operation, Rule, S3Server};
use crate::common::user::{User, is_root, said};
use crate::common::version::newest;
use crate::common::wait;
use crate::common::walfs::{Options, walfs};
use crate::common::world::World;

/// `walfs restore BACKUP DIR`, as postgres, of a server that archives nothing.
fn restoring(site: &Site, directory: &Path, arguments: &[&str]) -> Command {
    let mut restore = site.walfs("restore");
    restore
        .arg("--no-archiving")
        .args(arguments)
        .arg("LATEST")
        .arg(directory);
    restore
}

fn try_restore(site: &Site, directory: &Path, arguments: &[&str]) -> Output {
    restoring(site, directory, arguments).output().expect("run walfs")
}

#[track_caller]
fn restore(site: &Site, directory: &Path, arguments: &[&str]) {
    let output = try_restore(site, directory, arguments);
    assert!(output.status.success(), "{}", said(&output));
}

#[track_caller]
fn assert_refused(output: &Output, texts: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    let message = said(output);
    assert!(message.contains("HINT: "), "{message}");
    assert!(
        texts.iter().all(|text| message.contains(text)),
        "{texts:?}: {message}"
    );
}

/// A directory in which postgres may make the data directory.
fn room(world: &World, name: &str) -> PathBuf {
    world.owned_dir(name)
}

#[track_caller]
fn recovered(dir: &Path, site: &Site) -> Postgres {
    let mut back = Postgres::start_as_it_is(dir, newest(), &site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    back
}

/// "checks first that all the WAL it needs is there": a gap on the way to the target is named, and nothing touched.
#[test]
fn b6_a_gap_on_the_way_is_refused() {
    let world = World::new("gap");
    let site = Site::local(&world);
    let server = &site.server;
    server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    let mut segments = Vec::new();
    for round in 1..=3 {
        server.query(&format!("INSERT INTO t VALUES ({round})"));
        segments.push(server.query("SELECT pg_walfile_name(pg_current_wal_lsn())"));
        server.archive_all();
    }
    let (lsn, time) = (server.current_lsn(), "2099-01-01 00:00:00+00");
    fs::remove_file(world.archive().join(format!("wal/{}.lz4", segments[1]))).expect("remove a segment");
    server.query("INSERT INTO t VALUES (4)");
    server.archive_all();
    let dir = room(&world, "back");
    let data = dir.join("data");
    for target in [&[][..], &["--target-lsn", &lsn], &["--target-time", time]] {
        assert_refused(&try_restore(&site, &data, target), &[&segments[1], "--up-to-gap"]);
        assert!(!data.exists(), "{target:?}");
    }
    restore(&site, &data, &["--up-to-gap"]);
    assert_eq!(
        recovered(&dir, &site).query("SELECT string_agg(id::text, ' ') FROM t"),
        "1"
    );
}

/// "recovery.signal and settings": or a standby, which follows.
#[test]
fn b6_a_standby_follows() {
    let world = World::new("standby");
    let site = Site::local(&world);
    let server = &site.server;
    server.query("CREATE TABLE t AS SELECT 1 AS id");
    site.backup("monday");
    let dir = room(&world, "back");
    let conninfo = format!("host={} user=postgres", world.path().join("pg").display());
    restore(
        &site,
        &dir.join("data"),
        &["--standby", "--primary-conninfo", &conninfo],
    );
    assert!(dir.join("data/standby.signal").exists() && !dir.join("data/recovery.signal").exists());
    let standby = Postgres::start_as_it_is(&dir, newest(), &site.place.env());
    wait::until("the standby to stream", || {
        (standby.psql("SELECT status FROM pg_stat_wal_receiver").as_deref() == Ok("streaming")).then_some(())
    });
    server.query("INSERT INTO t VALUES (2)");
    wait::until("the row to arrive", || {
        (standby.psql("SELECT count(*) FROM t").as_deref() == Ok("2")).then_some(())
    });
    assert_eq!(standby.query("SELECT pg_is_in_recovery()"), "t");
}

/// "permissions right": root gives everything to whom it is told, or to whom it was.
#[test]
fn b6_root_gives_the_files_to_their_owner() {
    if !is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let world = World::new("owner");
    let site = Site::local(&world);
    site.backup("monday");
    for (arguments, owner) in [
        (&["--owner", "nobody"][..], User::named("nobody")),
        (&[], User::postgres()),
    ] {
        let data = world.path().join(&owner.name);
        let mut restore = walfs(&world, &User::caller());
        restore
            .args(["restore", "--no-archiving", "--archive"])
            .arg(world.archive());
        let output = restore
            .args(arguments)
            .arg("LATEST")
            .arg(&data)
            .output()
            .expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        let files = files(&data);
        assert!(files.len() > 500);
        for path in files {
            let found = fs::symlink_metadata(&path).expect("look at a file");
            assert_eq!(
                (found.uid(), found.gid()),
                (owner.uid, owner.gid),
                "{}",
                path.display()
            );
            let mode = found.mode() & 0o777;
            assert!(mode & 0o077 == 0, "{}: {mode:o}", path.display());
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (vec![directory.to_owned()], vec![directory.to_owned()]);
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(&path).expect("list a directory") {
            let entry = entry.expect("a name").path();
            if entry.is_dir() {
                left.push(entry.clone());
            }
            found.push(entry);
        }
    }
    found
}

/// "can be interrupted and run again", of a backup in tar files too.
#[test]
fn b6_a_killed_restore_of_tar_files_ends_right() {
    let site = Mounted::new("tarred", Options::local);
    site.take("tar", &["-Ft", "-Xstream"]);
    let dir = room(&site.world, "back");
    let data = dir.join("data");
    let restoring = || {
        let mut restore = walfs(&site.world, &site.mount.user().clone());
        restore
            .args(["restore", "--no-archiving", "--archive"])
            .arg(site.world.archive());
        restore.arg("tar").arg(&data);
        restore
    };
    let mut killed = 0;
    for round in 0..6 {
        let mut restore = restoring();
        let mut restore = restore
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run walfs");
        wait::until("files to be there", || {
            let ended = restore.try_wait().expect("wait for walfs").is_some();
            (ended || data.join("base").exists()).then_some(())
        });
        std::thread::sleep(Duration::from_millis(20 * round));
        restore.kill().expect("kill walfs");
        if restore.wait().expect("wait for walfs").success() {
            break;
        }
        killed += 1;
        // What an unfinished one has left of itself goes.
        fs::write(data.join("stranger"), "x").expect("write a file");
    }
    assert!(killed > 0, "it was never interrupted");
    if !data.join("global/pg_control").exists() {
        let output = restoring().output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        assert!(!data.join("stranger").exists());
    }
    let verified = site
        .server
        .program("pg_verifybackup")
        .arg("-e")
        .arg(&data)
        .output();
    let verified = verified.expect("run pg_verifybackup");
    assert!(
        said(&verified).contains("backup successfully verified"),
        "{}",
        said(&verified)
    );
    let mut back = Postgres::start_as_it_is(&dir, newest(), &[]);
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT count(*) FROM pgbench_accounts"), "400000");
    back.kill9();
    knows_a_tablespace_in_compressed_tar_files(&site, &dir);
}

/// Its place is told in base.tar.gz only.
fn knows_a_tablespace_in_compressed_tar_files(site: &Mounted, dir: &Path) {
    let space = site.world.owned_dir("space");
    let server = &site.server;
    server.query(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
    server.query("CREATE TABLE there TABLESPACE fast AS SELECT generate_series(1, 5000) AS id");
    site.take("packed", &["-Ft", "-z", "-Xfetch"]);
    // What WAL there is in a compressed tar file nobody has looked at.
    server.archive_all();
    let restoring = |arguments: &[&str]| {
        let mut restore = walfs(&site.world, &site.mount.user().clone());
        restore
            .args(["restore", "--no-archiving", "--archive"])
            .arg(site.world.archive());
        restore.args(arguments).arg("packed").arg(dir.join("data"));
        restore.output().expect("run walfs")
    };
    fs::remove_dir_all(dir.join("data")).expect("remove what was restored");
    let place = space.display().to_string();
    assert_refused(&restoring(&[]), &[&place, "is not empty"]);
    let elsewhere = dir.join("space");
    let output = restoring(&[
        "--tablespace-mapping",
        &format!("{place}={}", elsewhere.display()),
    ]);
    assert!(output.status.success(), "{}", said(&output));
    let mut back = Postgres::start_as_it_is(dir, newest(), &[]);
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT count(*) FROM there"), "5000");
}

/// Two at once would write into each other's files.
#[test]
fn b6_two_restores_into_one_directory_are_refused() {
    let world = World::new("two");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    site.backup("monday");
    let Place::S3(store) = &site.place else {
        unreachable!("made so")
    };
    let hang = Rule::new(Action::Hang).operation(Operation::Get).key("trees/");
    let hanging = store.add_rule(hang);
    let dir = room(&world, "back");
    let data = world.owned_dir("back/data");
    let mut first = restoring(&site, &data, &[]);
    let first = first
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run walfs");
    // Not what the backup has read.
    wait::until("the first one to read", || {
        (store.hits(hanging) > 0).then_some(())
    });
    assert_refused(&try_restore(&site, &data, &[]), &["another `walfs restore`"]);
    store.clear_rules();
    let first = first.wait_with_output().expect("wait for walfs");
    assert!(first.status.success(), "{}", said(&first));
    recovered(&dir, &site);
}

/// What `--delta` removes must never be the archive.
#[test]
fn b6_a_directory_in_the_archive_or_around_it_is_refused() {
    let world = World::new("inside");
    let site = Site::local(&world);
    site.backup("monday");
    // Its `.backup` file may still be on its way.
    site.server.archive_all();
    let before = files(&world.archive()).len();
    for directory in [
        world.archive().join("back"),
        world.archive().join("wal"),
        world.path().into(),
    ] {
        assert_refused(
            &try_restore(&site, &directory, &["--delta"]),
            &["lie in one another"],
        );
    }
    assert_eq!(files(&world.archive()).len(), before);
}

/// B2 and B7: what is restored into the mount would become a backup there, and LATEST move to it.
#[test]
fn b6_a_directory_in_the_mount_is_refused() {
    let site = Mounted::local("into-mount");
    site.take("x", &["-Xfetch"]);
    let mut command = walfs(&site.world, site.mount.user());
    command.arg("restore").arg("--archive").arg(site.world.archive());
    let output = command
        .arg("x")
        .arg(site.backup("again"))
        .output()
        .expect("run walfs");
    assert_refused(&output, &["in a mount of walfs", "HINT"]);
    assert_eq!(site.latest().as_deref(), Some("x"));
    site.shell("test ! -e \"$1\"", &[&site.backup("again")]);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("set a mode");
}

/// O1, S1: who may not read or write the archive, or has no room in it, hears it at once and with a hint.
#[test]
fn o1_an_archive_that_is_closed_or_full_is_said_with_a_hint() {
    let world = World::new("closed");
    let site = Site::local(&world);
    site.server.pgbench_init(2);
    site.backup("monday");
    site.server.archive_all();
    let data = room(&world, "back").join("data");
    let trees = world.archive().join("trees");
    set_mode(&trees, 0o000);
    let denied = try_restore(&site, &data, &[]);
    set_mode(&trees, 0o700);
    assert_refused(&denied, &["Permission denied", "chown"]);

    for folder in ["trees", "wal", ".tmp"] {
        set_mode(&world.archive().join(folder), 0o500);
    }
    let denied = site.try_backup("tuesday", &[]);
    let pushed = push_next_segment(&site);
    for folder in ["trees", "wal", ".tmp"] {
        set_mode(&world.archive().join(folder), 0o700);
    }
    assert_refused(&denied, &["Permission denied", "chown"]);
    assert!(
        pushed.contains("Permission denied") && pushed.contains("HINT"),
        "{pushed}"
    );

    // What is in the way of --delta is told by whose it is.
    restore(&site, &data, &[]);
    fs::remove_file(data.join("backup_label")).expect("remove a file");
    set_mode(&data.join("base"), 0o000);
    let denied = try_restore(&site, &data, &["--delta"]);
    set_mode(&data.join("base"), 0o700);
    assert_refused(&denied, &["Permission denied", "chmod"]);
}

/// What the server hears of its archive_command.
fn push_next_segment(site: &Site) -> String {
    site.server
        .query("CREATE TABLE pushed AS SELECT 1; SELECT pg_switch_wal()");
    site.server.wait_for_log("archive command failed");
    site.server.log()
}

/// S1: "Disk full", here the archive's own.
#[test]
fn s1_a_full_archive_is_said_with_a_hint() {
    if !is_root() {
        eprintln!("skipped: only root can mount a small disk");
        return;
    }
    let world = World::new("small");
    let uid = User::postgres().uid;
    let options = format!("size=12M,mode=0700,uid={uid}");
    let mut mount = Command::new("mount");
    let mounted = mount
        .args(["-t", "tmpfs", "-o", &options, "none"])
        .arg(world.archive());
    let mounted = mounted.output().expect("run mount");
    assert!(mounted.status.success(), "{}", said(&mounted));
    let site = Site::local(&world);
    site.server.query("SELECT pg_switch_wal()");
    wait::until("a segment to be archived", || {
        world.archive().join("wal").exists().then_some(())
    });
    site.server
        .query("CREATE TABLE t AS SELECT sha512(i::text::bytea) FROM generate_series(1, 200000) i");
    let full = site.try_backup("monday", &[]);
    assert_refused(&full, &["No space left on device", "make room"]);
    site.server.wait_for_log("No space left on device");
    assert!(
        site.server.log().contains("HINT: make room"),
        "{}",
        site.server.log()
    );
    let listed = site.list();
    assert!(
        listed.iter().all(|backup| backup["state"] != "complete"),
        "{listed:?}"
    );
}

//! The harness itself: a real server archives into a plain directory by `cp`, is lost, and comes back by `cp`; the
//! copy tools copy; Garage starts, dies and starts. A failure here is one of the harness, not of walfs.

use std::fs;
use std::path::Path;

use crate::common::garage::Garage;
use crate::common::postgres::{self, Options, Postgres, StopMode, Version};
use crate::common::recovery::Recovery;
use crate::common::user::{User, said};
use crate::common::wal;
use crate::common::world::World;
use crate::common::{copiers, wait};

/// Commands that archive to, and restore from, a plain directory.
fn plain_commands(archive: &Path) -> (String, String) {
    let archive = archive.display();
    (format!("cp %p {archive}/%f"), format!("cp {archive}/%f %p"))
}

#[test]
fn every_installed_postgresql_is_lost_and_recovered_to_the_last_row() {
    for version in postgres::installed_versions() {
        let world = World::new("lost");
        let (archive_command, restore_command) = plain_commands(&world.archive());
        let options = Options {
            version: version.clone(),
            segment_mib: 1,
            ..Options::default()
        };
        let mut server = Postgres::init(&world.path().join("pg"), &options);
        server.archive_with(&archive_command);
        server.start();
        server.pgbench_init(1);

        let mut load = server.pgbench(3, 2);
        server.copy_data_dir(&world.path().join("copy"));
        assert!(wait::for_exit("pgbench to end", &mut load).success());
        server.query("CREATE TABLE last AS SELECT 'committed' AS word");
        let rows = "SELECT count(*) FROM pgbench_history";
        let expected: u64 = server.number(rows);
        let last = server.archive_all();
        let stats = server.archiver_stats();
        assert_eq!((stats.last_archived_wal, stats.failed_count), (last.clone(), 0));
        assert!(server.done_segments().contains(&last));
        server.destroy();

        let recovered = Postgres::recover(&world.path().join("copy"), version, &restore_command);
        assert_eq!(recovered.number::<u64>(rows), expected);
        assert!(expected > 0, "pgbench did nothing");
        assert_eq!(recovered.query("SELECT word FROM last"), "committed");
        assert_eq!(
            recovered.query("SELECT timeline_id FROM pg_control_checkpoint()"),
            "2"
        );
    }
}

/// One from another Debian runs with its own libraries: each of its programs must find them, and its share of files.
#[test]
fn every_installed_postgresql_has_working_tools() {
    let whole = postgres::installed_versions().into_iter();
    for version in whole.filter(Version::has_tools) {
        let world = World::new("tools");
        let mut server = Postgres::init(&world.path().join("pg"), &Options::of(version));
        server.start();
        server.pgbench_init(1);
        let backup = world.owned_dir("backup");
        // Before the backup, whose checkpoint may recycle it.
        let segment = server.data().join("pg_wal").join(server.switch_wal());
        run(&server, "pg_waldump", &["-n", "3"], &segment);
        run(
            &server,
            "pg_basebackup",
            &["-c", "fast", "-X", "fetch", "-D"],
            &backup,
        );
        run(&server, "pg_verifybackup", &[], &backup);
        let database = Path::new("postgres");
        let checked = run(
            &server,
            "pg_amcheck",
            &["--install-missing", "-v", "-d"],
            database,
        );
        assert!(checked.contains("pgbench_accounts"), "{checked}");

        server.stop(StopMode::Fast);
        let control = run(&server, "pg_controldata", &["-D"], server.data());
        assert!(control.contains("Data page checksum version"), "{control}");
        run(&server, "pg_checksums", &["--check", "-D"], server.data());
        // It finds postgres beside itself.
        let sockets = format!("-k {}", world.path().join("pg").display());
        let start = ["start", "-w", "-l", "/dev/null", "-o", &sockets, "-D"];
        run(&server, "pg_ctl", &start, server.data());
        run(&server, "pg_ctl", &["stop", "-w", "-D"], server.data());
    }
}

/// What PostgreSQL runs belongs to the system, and must not get the libraries of a server from another Debian.
#[test]
fn no_installed_postgresql_gives_its_libraries_to_the_archive_command() {
    for version in postgres::installed_versions() {
        let world = World::new("libraries");
        let mut server = Postgres::init(&world.path().join("pg"), &Options::of(version));
        let out = world.owned_dir("out");
        server.archive_with(&format!(
            "cat /proc/self/maps /proc/self/environ > {}/cat",
            out.display()
        ));
        server.start();
        let bin = server.version.bin.display().to_string();
        server.archive_all();
        let seen = fs::read(out.join("cat")).expect("read what the archive command saw");
        let seen = String::from_utf8_lossy(&seen);
        assert!(seen.contains("/libc.so.6"), "{seen}");
        assert!(!seen.contains("LD_"), "{bin}: {seen}");
        let maps = seen.lines().filter_map(|line| line.split_whitespace().nth(5));
        for library in maps.filter(|path| path.contains("/libc.so.6")) {
            assert!(
                library.starts_with("/usr/lib/") || library.starts_with("/lib/"),
                "{library}"
            );
        }
    }
}

/// Runs a program of the server's version, whose last argument is `path`, and returns both its outputs.
#[track_caller]
fn run(server: &Postgres, name: &str, arguments: &[&str], path: &Path) -> String {
    let mut program = server.program(name);
    let output = program.args(arguments).arg(path).output().expect("run a program");
    let major = server.version.major;
    assert!(output.status.success(), "{name} of {major}: {}", said(&output));
    said(&output)
}

/// The default is off until 17 and on since 18: what a test asks for is what it gets.
#[test]
fn every_installed_postgresql_has_the_checksums_that_were_asked_for() {
    // A server alone is an older one, whose initdb knows the word as 15's does.
    let whole = postgres::installed_versions().into_iter();
    for version in whole.filter(Version::has_tools) {
        for (data_checksums, stated) in [(true, "on"), (false, "off")] {
            let world = World::new("checksums");
            let options = Options {
                data_checksums,
                ..Options::of(version.clone())
            };
            let mut server = Postgres::init(&world.path().join("pg"), &options);
            server.start();
            assert_eq!(server.query("SHOW data_checksums"), stated, "{}", version.major);
        }
    }
}

#[test]
fn a_fatal_restore_command_fails_the_recovery() {
    let world = World::new("fatal");
    let mut server = Postgres::init(&world.path().join("pg"), &Options::default());
    server.start();
    server.copy_data_dir(&world.path().join("copy"));
    server.destroy();
    let settings = [("restore_command", "exit 255")];
    let mut copy = Postgres::recovering(&world.path().join("copy"), postgres::newest(), &settings);
    copy.start_recovery();
    assert_eq!(copy.recovery_within(wait::LONG), Recovery::Failed);
    assert!(
        copy.log().contains("exit 255") || copy.log().contains("exit code 255"),
        "{}",
        copy.log()
    );
}

#[test]
fn a_killed_server_starts_again_with_its_rows() {
    let world = World::new("killed");
    let mut server = Postgres::init(
        &world.path().join("pg"),
        &Options {
            segment_mib: 2,
            ..Options::default()
        },
    );
    server.start();
    server.query("CREATE TABLE kept AS SELECT 1 AS one");
    server.kill9();
    assert!(!server.is_running());
    server.start();
    assert_eq!(server.query("SELECT one FROM kept"), "1");
    assert_eq!(server.query("SHOW wal_segment_size"), "2MB");
}

#[test]
fn made_segments_have_the_header_of_real_ones() {
    let world = World::new("header");
    let mut server = Postgres::init(&world.path().join("pg"), &Options::default());
    server.start();
    let name = server.switch_wal();
    let real = fs::read(server.data().join("pg_wal").join(&name)).expect("read a segment");
    let made = wal::segment(&name, server.system_identifier(), wal::SEGMENT_BYTES, 7);
    assert_eq!(real.len(), made.len());
    // Not the magic of another version, nor whether and how much of a record goes on from the page before.
    let comparable = |content: &[u8]| [&[content[2] & !1], &content[3..16], &content[24..40]].concat();
    assert_eq!(comparable(&made), comparable(&real));
    assert_eq!(
        made,
        wal::segment(&name, server.system_identifier(), wal::SEGMENT_BYTES, 7)
    );
    assert_ne!(
        made,
        wal::segment(&name, server.system_identifier(), wal::SEGMENT_BYTES, 8)
    );
}

#[test]
fn pg_receivewal_brings_the_segments_that_were_written() {
    let world = World::new("receive");
    let mut server = Postgres::init(
        &world.path().join("pg"),
        &Options {
            segment_mib: 1,
            ..Options::default()
        },
    );
    server.start();
    let into = world.owned_dir("into");
    let mut receiver = server.receive_wal(&into);
    wait::until("pg_receivewal to stream", || {
        let streaming = server.query("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'");
        (streaming == "1").then_some(())
    });
    let name = server.switch_wal();
    wait::until("the segment to arrive", || {
        into.join(&name).exists().then_some(())
    });
    receiver.kill().expect("kill pg_receivewal");
    receiver.wait().expect("wait for pg_receivewal");
    let content = |path| fs::read(path).expect("read a segment");
    assert!(content(into.join(&name)) == content(server.data().join("pg_wal").join(&name)));
}

#[test]
fn every_copier_copies_and_tells_of_a_place_it_may_not_write() {
    let world = World::new("copiers");
    let user = User::postgres();
    let name = wal::segment_name(1, 300, wal::SEGMENT_BYTES);
    assert_eq!(name, "00000001000000010000002C");
    let content = wal::segment(&name, 42, 1 << 20, 1);
    let from = world.owned_file("from", &content);
    let (open, closed) = (world.owned_dir("open"), world.path().join("mnt"));
    for copier in copiers::all(&world) {
        let to = open.join(&name);
        let output = copier.copy(&user, &from, &to);
        assert!(output.status.success(), "{}: {}", copier.name, said(&output));
        assert!(
            fs::read(&to).expect("read the copy") == content,
            "{} changed the bytes",
            copier.name
        );
        fs::remove_file(&to).expect("remove the copy");
        let refused = copier.copy(&user, &from, &closed.join(&name));
        assert!(!refused.status.success(), "{}: {}", copier.name, said(&refused));
    }
}

#[test]
fn garage_serves_again_after_a_kill() {
    let world = World::new("garage");
    let mut garage = Garage::start(&world.path().join("garage"), false);
    let endpoint = garage.endpoint();
    garage.kill9();
    garage.restart();
    assert_eq!(garage.endpoint(), endpoint);
    garage.pause();
    garage.resume();
}

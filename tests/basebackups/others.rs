//! Two servers with one system identifier, a copy and its original, that archive under the same names into one archive: no
//! backup of the one is called complete by the WAL of the other (promise B2). WAL in `base.tar` and in compressed tar files is
//! not compared, and a backup without WAL has none: there the records tell that a backup knows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::mounted;
use crate::common::basebackup::Site;
use crate::common::postgres::{Options as ServerOptions, Postgres, StopMode, newest, send};
use crate::common::recovery::Session;
use crate::common::user::{User, said};
use crate::common::version::{Version, installed_versions};
use crate::common::wait;
use crate::common::walfs::{Options, walfs};
use crate::common::world::World;

/// B2: "*and* every WAL segment from its start to its stop is": that of this server, not another one's under the same
/// names.
#[test]
fn b2_the_wal_of_another_server_makes_no_backup_complete() {
    let world = World::new("others");
    let mut site = Site::local(&world);
    let copy = copy_of(&world, &mut site.server);
    site.server.start();
    write_and_archive(&site.server, 4);
    site.server.stop(StopMode::Fast);
    let _other = start_copy(&copy);
    let output = backup_of_copy(&site, &copy);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("other content") && text.contains("HINT"), "{text}");
    assert_eq!(site.state("nightly"), None, "{text}");
}

/// B2: also not when it comes after the backup has been stored without its WAL.
#[test]
fn b2_the_wal_of_another_server_completes_no_backup_later() {
    let world = World::new("others-later");
    let mut site = Site::local(&world);
    let copy = copy_of(&world, &mut site.server);
    let mut other = start_copy(&copy);
    other.configure(&[("archive_command", "false")]);
    other.reload();
    let output = backup_of_copy(&site, &copy);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(
        site.state("nightly").as_deref(),
        Some("WAL missing"),
        "{}",
        said(&output)
    );
    other.stop(StopMode::Fast);
    site.server.start();
    write_and_archive(&site.server, 4);
    assert_eq!(site.state("nightly").as_deref(), Some("damaged"));
    for name in ["LATEST", "nightly"] {
        let mut restore = site.walfs("restore");
        let output = restore.arg(name).arg(world.owned_dir(name)).output();
        let output = output.expect("run walfs");
        assert_eq!(output.status.code(), Some(1), "{name}: {}", said(&output));
        assert!(
            said(&output).contains("another server") && said(&output).contains("HINT"),
            "{name}: {}",
            said(&output)
        );
    }
}

/// B2: also not when the server has recycled its own by then, whose archive command has thrown it away.
#[test]
fn b2_what_a_server_has_recycled_need_not_be_what_is_archived() {
    let world = World::new("others-recycled");
    let mut site = Site::local(&world);
    let copy = copy_of(&world, &mut site.server);
    let other = start_copy(&copy);
    other.configure(&[("archive_command", "/bin/true")]);
    other.reload();
    let backup = start_backup_of_copy(&site, &copy, "2m");
    wait::until("the backup's files to be stored", || {
        let keys = site.place.keys("trees");
        keys.iter().any(|key| key.contains("manifest.")).then_some(())
    });
    let needed = other.query("SELECT pg_walfile_name(redo_lsn) FROM pg_control_checkpoint()");
    wait::until("its WAL to be recycled", || {
        other.query("CREATE TABLE IF NOT EXISTS more AS SELECT 1 AS id; INSERT INTO more VALUES (1)");
        other.switch_wal();
        other.query("CHECKPOINT");
        (!other.data().join("pg_wal").join(&needed).exists()).then_some(())
    });
    site.server.start();
    write_and_archive(&site.server, 12);
    let output = backup.wait_with_output().expect("read what it said");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("other content"), "{}", said(&output));
    assert_eq!(site.state("nightly"), None, "{}", said(&output));
}

/// B2: also not a backup that brings its own, for a restored server asks the archive first.
#[test]
fn b2_a_backups_own_wal_is_compared_with_what_is_archived() {
    let mut site = mounted::Site::local("others-mounted");
    let copy = copy_of(&site.world, &mut site.server);
    site.server.start();
    write_and_archive(&site.server, 12);
    site.server.stop(StopMode::Fast);
    let mut other = start_copy(&copy);
    other.configure(&[("archive_command", "false")]);
    other.reload();
    let take = |name: &str, arguments: &[&str]| take_of_copy(&site, &copy, name, arguments);
    for (name, arguments) in [
        ("stream", &["-Xstream", "--no-clean"][..]),
        ("fetch", &["-Xfetch", "--no-clean"]),
        ("tar", &["-Xstream", "-Ft", "--no-clean"]),
    ] {
        let output = take(name, arguments);
        assert!(!output.status.success(), "{name}: {}", said(&output));
        assert!(
            site.mount.log().contains("other content"),
            "{name}: {}",
            site.mount.log()
        );
        assert_eq!(site.listed(name)["state"], "incomplete", "{name}");
    }
    // What is not archived yet is compared when it comes.
    for _ in 0..16 {
        other.query("CREATE TABLE IF NOT EXISTS more AS SELECT 1 AS id; INSERT INTO more VALUES (1)");
        other.switch_wal();
    }
    let output = take("early", &["-Xstream"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(site.listed("early")["state"], "complete");
    assert_eq!(site.latest().as_deref(), Some("early"));
    other.stop(StopMode::Fast);
    site.server.start();
    write_and_archive(&site.server, 20);
    assert_eq!(site.listed("early")["state"], "damaged");
    assert_eq!(site.latest(), None);
}

/// B2: also where another server's WAL is in the middle of much that is not archived yet.
#[test]
fn b2_a_backups_own_wal_is_compared_in_the_middle() {
    let mut site = mounted::Site::local("others-middle");
    let copy = copy_of(&site.world, &mut site.server);
    let keep = [("archive_command", "false"), ("wal_keep_size", "1GB")];
    site.server.configure(&keep);
    site.server.start();
    write_segments(&site.server, 40);
    let other = start_copy(&copy);
    other.configure(&keep);
    other.reload();
    let directory = site.backup("stream");
    let mut backup = site.server.program("pg_basebackup");
    backup.env("PGHOST", &copy).arg("-D").arg(&directory);
    backup.args(["-c", "fast", "-Xstream", "--no-clean", "--max-rate=4M"]);
    backup.stdout(Stdio::piped()).stderr(Stdio::piped());
    let backup = backup.spawn().expect("run pg_basebackup");
    wait::until("the copy to have begun", || {
        mounted::directory_has(&site, &directory, "base/1/1259")
    });
    send(backup.id(), libc::SIGSTOP);
    let middle = other.query(
        "SELECT pg_walfile_name(redo_lsn + 12 * setting::numeric) FROM pg_control_checkpoint(), pg_settings
         WHERE name = 'wal_segment_size'",
    );
    write_segments(&other, 30);
    let from = site.server.data().join("pg_wal").join(&middle);
    site.shell("cp \"$1\" \"$2\"", &[&from, &site.mount.wal().join(&middle)]);
    send(backup.id(), libc::SIGCONT);
    let output = backup.wait_with_output().expect("read what it said");
    assert!(!output.status.success(), "{}", said(&output));
    let log = site.mount.log();
    assert!(log.contains("other content") && log.contains(&middle), "{log}");
    assert_eq!(site.latest(), None);
}

/// S7, B2: nor a copy made by hand, of a server that ran or was stopped: its own WAL stays where it is.
#[test]
fn s7_a_copys_own_wal_stays_where_another_servers_is_archived() {
    let mut site = mounted::Site::local("others-by-hand");
    let copy = copy_of(&site.world, &mut site.server);
    site.server.start();
    write_and_archive(&site.server, 12);
    site.server.stop(StopMode::Fast);
    let mut other = start_copy(&copy);
    other.configure(&[("archive_command", "false")]);
    other.reload();
    let (hot, cold) = (site.backup("hot"), site.backup("cold"));
    let session = Session::start_backup(&other);
    let copied = "cp -a \"$1\" \"$2\" 2>/dev/null; test -f \"$2\"/global/pg_control";
    site.shell(copied, &[other.data(), &hot]);
    let (label, _) = session.stop_backup();
    let stop = stop_of(&other);
    let label = site.world.owned_file("backup_label", &label);
    site.shell("cp \"$1\" \"$2\"/backup_label", &[&label, &hot]);
    other.stop(StopMode::Fast);
    site.shell("cp -a \"$1\" \"$2\"", &[other.data(), &cold]);
    for (name, directory, arguments) in [
        ("hot", &hot, &["--stop-lsn", &stop][..]),
        ("cold", &cold, &["--dry-run"]),
        ("cold", &cold, &[]),
    ] {
        let wal = || site.shell("cd \"$1\"/pg_wal && md5sum 0*", &[directory]).stdout;
        let before = wal();
        let mut finish = walfs(&site.world, site.mount.user());
        finish.arg("backup-finish").args(arguments).arg(directory);
        let output = finish.output().expect("run walfs");
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(
            text.contains("another server") && text.contains("HINT"),
            "{name}: {text}"
        );
        assert_eq!(wal(), before, "{name}: {text}");
        assert_eq!(site.listed(name)["state"], "incomplete", "{name}");
    }
}

/// B2, B8: nor is one complete, or restored, that has no WAL which could be compared; `LATEST` is one whose WAL is there.
#[test]
fn b2_a_backup_without_wal_is_not_restored_with_another_servers() {
    let mut site = mounted::Site::local("others-unseen");
    site.take("good", &["-Xnone"]);
    let copy = copy_of(&site.world, &mut site.server);
    let mut other = start_copy(&copy);
    other.configure(&[("archive_command", "/bin/true")]);
    other.reload();
    for _ in 0..8 {
        other.query("CREATE TABLE IF NOT EXISTS more AS SELECT 1 AS id; INSERT INTO more VALUES (1)");
        other.switch_wal();
    }
    for (name, arguments) in UNSEEN {
        let output = take_of_copy(&site, &copy, name, arguments);
        assert!(output.status.success(), "{name}: {}", said(&output));
    }
    other.stop(StopMode::Fast);
    site.server.start();
    write_and_archive(&site.server, 24);
    let restore = |name: &str, code: i32| {
        let to = site.world.owned_dir(&format!("to-{name}")).join("data");
        let mut restore = site.mount.command(&site.world, "restore");
        restore.args(["--no-archiving", "--no-sync", name]).arg(&to);
        let output = restore.output().expect("run walfs");
        let text = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), Some(code), "{name}: {text}");
        assert_eq!(to.exists(), code == 0, "{name}: {text}");
        text
    };
    for (name, _) in UNSEEN {
        assert_eq!(site.listed(name)["state"], "damaged", "{name}");
        let text = restore(name, 1);
        assert!(
            text.contains("another server") && text.contains("HINT"),
            "{name}: {text}"
        );
    }
    let text = restore("LATEST", 0);
    assert!(text.contains("passed over") && text.contains("good"), "{text}");
    assert_eq!(site.latest().as_deref(), Some("good"));
}

/// B2: nor is one complete for which another server's WAL is archived already.
#[test]
fn b2_a_backup_without_wal_is_refused_where_another_servers_is() {
    let mut site = mounted::Site::local("others-archived");
    let copy = copy_of(&site.world, &mut site.server);
    site.server.start();
    write_and_archive(&site.server, 12);
    site.server.stop(StopMode::Fast);
    let other = start_copy(&copy);
    other.configure(&[("archive_command", "/bin/true")]);
    other.reload();
    for (name, arguments) in UNSEEN {
        let output = take_of_copy(&site, &copy, name, &[arguments, &["--no-clean"]].concat());
        let log = site.mount.log();
        assert!(!output.status.success(), "{name}: {}\n{log}", said(&output));
        assert!(log.contains("another server's WAL"), "{name}: {log}");
        assert_eq!(site.listed(name)["state"], "incomplete", "{name}");
    }
}

/// B2: nor is a backup of a standby, which ends with no record of its own, and whose first checkpoint both servers have.
#[test]
fn b2_a_standbys_backup_is_not_completed_by_another_servers_wal() {
    let mut site = mounted::Site::local("others-standby");
    let copy = copy_of(&site.world, &mut site.server);
    let follower = site.world.owned_dir("follower");
    site.shell("cp -a \"$1\" \"$2\"", &[&copy.join("data"), &follower]);
    let other = start_copy(&copy);
    other.configure(&[("archive_command", "/bin/true")]);
    other.reload();
    let standby = start_following(&follower, newest(), &other);
    other.query("CREATE TABLE more AS SELECT generate_series(1, 1000) AS id");
    follows(&standby, &other);
    for (name, arguments) in UNSEEN {
        // Its own WAL is in base.tar, which is not compared.
        let output = take_of_copy(&site, &follower, name, arguments);
        assert!(output.status.success(), "{name}: {}", said(&output));
    }
    site.server.start();
    // Long records: few positions are the end of one.
    site.server.query(
        "CREATE TABLE long (line text); ALTER TABLE long ALTER line SET STORAGE PLAIN;
         INSERT INTO long SELECT repeat('x', 7000) FROM generate_series(1, 3000)",
    );
    site.server.archive_all();
    for (name, _) in UNSEEN {
        assert_eq!(site.listed(name)["state"], "damaged", "{name}");
    }
    assert_eq!(site.latest(), None);
}

/// B2: wherever it ends, a backup of a standby is completed by the WAL of its own server.
#[test]
fn b2_a_standbys_backup_is_completed_by_its_own_servers_wal() {
    let versions = installed_versions();
    for version in [&versions[0], &versions[versions.len() - 1]] {
        let mut site = mounted::Site::of("own-standby", version.clone(), Options::local);
        let copy = copy_of(&site.world, &mut site.server);
        site.server.start();
        let standby = start_following(&copy, version.clone(), &site.server);
        let mut names = Vec::new();
        let unseen = UNSEEN.iter().cycle();
        for (round, (_, arguments)) in (0..15).zip(unseen) {
            site.server.query(&format!(
                "CREATE TABLE of_{round} AS SELECT repeat('x', {round} * 7) FROM generate_series(1, {round} * 211)"
            ));
            if round % 4 == 3 {
                site.server.switch_wal();
            }
            follows(&standby, &site.server);
            if round % 5 == 4 {
                site.server.query("CHECKPOINT");
                follows(&standby, &site.server);
            }
            let name = format!("round-{round}");
            let output = take_of_copy(&site, &copy, &name, arguments);
            assert!(
                output.status.success(),
                "{name}: {}\n{}",
                said(&output),
                site.mount.log()
            );
            names.push(name);
        }
        site.server.archive_all();
        for name in names {
            assert_eq!(site.listed(&name)["state"], "complete", "{name}");
        }
    }
}

/// Starts what `copy_of` has made as a standby.
fn start_following(copy: &Path, version: Version, server: &Postgres) -> Postgres {
    let data = copy.join("data");
    let sockets = server.data().parent().expect("a directory").display();
    let follow = format!("primary_conninfo = 'host={sockets} user=postgres'");
    let follow =
        "touch \"$1\"/standby.signal && echo \"$2\" >> \"$1\"/postgresql.conf".replace("$2", &follow);
    let output = User::postgres().shell(&follow, &[&data]);
    assert!(output.status.success(), "{}", said(&output));
    Postgres::start_as_it_is(copy, version, &[])
}

fn follows(standby: &Postgres, server: &Postgres) {
    let position = server.current_lsn();
    wait::until("the standby to follow", || {
        let followed = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        (standby.psql(&followed).ok().as_deref() == Some("t")).then_some(())
    });
}

/// W5: a backup of another cluster is none of this archive, also where its manifest does not say whose it is, as before
/// PostgreSQL 17.
#[test]
fn w5_a_tar_file_says_whose_it_is() {
    let mut versions = installed_versions().into_iter();
    let version = versions
        .find(|version| version.major < 17)
        .expect("an older server");
    let site = mounted::Site::of("others-tar", version.clone(), Options::local);
    write_and_archive(&site.server, 20);
    let place = site.world.path().join("stranger");
    let mut stranger = Postgres::init(&place, &ServerOptions::of(version));
    let archive = [("archive_mode", "on"), ("archive_command", "/bin/true")];
    stranger.configure(&archive);
    stranger.start();
    write_segments(&stranger, 4);
    for (name, arguments) in UNSEEN {
        let output = take_of_copy(&site, &place, name, &[arguments, &["--no-clean"]].concat());
        let log = site.mount.log();
        assert!(!output.status.success(), "{name}: {}\n{log}", said(&output));
        assert_eq!(site.listed(name)["state"], "incomplete", "{name}: {log}");
    }
    let own = stranger.system_identifier().to_string();
    assert!(site.mount.log().contains(&own), "{}", site.mount.log());
}

/// W5: nor is one restored that came before the archive had any WAL, whose first segment was another cluster's.
#[test]
fn w5_a_backup_is_not_restored_with_the_wal_of_another_cluster() {
    let world = World::new("others-first");
    let mount = Options::local(&world).mount();
    let start = |name: &str, archive_command: &str| {
        let mut server = Postgres::init(&world.path().join(name), &ServerOptions::of(newest()));
        server.configure(&[("archive_mode", "on"), ("archive_command", archive_command)]);
        server.start();
        server
    };
    let stranger = start("stranger", "/bin/true");
    write_segments(&stranger, 6);
    let mut backup = stranger.program("pg_basebackup");
    backup.args(["-c", "fast", "-Xstream", "-D"]);
    backup.arg(mount.path().join("basebackups/early"));
    let output = backup.output().expect("run pg_basebackup");
    assert!(output.status.success(), "{}", said(&output));
    let owner = start("owner", &mount.archive_command());
    write_and_archive(&owner, 1);
    let to = world.owned_dir("to").join("data");
    let mut restore = mount.command(&world, "restore");
    let output = restore.args(["early"]).arg(&to).output().expect("run walfs");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for server in [&stranger, &owner] {
        assert!(text.contains(&server.system_identifier().to_string()), "{text}");
    }
    assert!(!to.exists(), "{text}");
}

/// Backups whose WAL cannot be compared with what is archived.
const UNSEEN: [(&str, &[&str]); 5] = [
    ("plain", &["-Xnone"]),
    ("tar", &["-Xnone", "-Ft"]),
    ("fetched", &["-Xfetch", "-Ft"]),
    ("packed", &["-Xstream", "-Ft", "-z"]),
    ("packed-fetched", &["-Xfetch", "-Ft", "-z"]),
];

/// `pg_basebackup` of the copy, into the mount.
fn take_of_copy(site: &mounted::Site, copy: &Path, name: &str, arguments: &[&str]) -> Output {
    let mut backup = site.server.program("pg_basebackup");
    backup.env("PGHOST", copy).args(["-c", "fast", "-D"]);
    backup.arg(site.backup(name)).args(arguments);
    backup.output().expect("run pg_basebackup")
}

/// Where a server's last backup ended, by the file that it has written of that.
fn stop_of(server: &Postgres) -> String {
    let names = fs::read_dir(server.data().join("pg_wal")).expect("list pg_wal");
    let mut paths = names.flatten().map(|entry| entry.path());
    let path = paths.find(|path| path.extension().is_some_and(|it| it == "backup"));
    let text = fs::read_to_string(path.expect("a .backup file")).expect("read it");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("STOP WAL LOCATION: "));
    let stop = line.and_then(|line| line.split(' ').next()).expect("a position");
    stop.to_owned()
}

/// Stops the server, whose WAL is archived, and copies it: two that have one system identifier.
pub(super) fn copy_of(world: &World, server: &mut Postgres) -> PathBuf {
    server.pgbench_init(1);
    server.archive_all();
    server.stop(StopMode::Fast);
    let copy = world.owned_dir("copy");
    let status = Command::new("cp")
        .args(["-a"])
        .arg(server.data())
        .arg(copy.join("data"))
        .status();
    assert!(status.expect("run cp").success());
    copy
}

pub(super) fn start_copy(copy: &Path) -> Postgres {
    let other = Postgres::start_as_it_is(copy, newest(), &[]);
    wait::until("the copy to be open", || other.psql("SELECT 1").ok());
    other.query("CREATE TABLE of_the_copy (id int)");
    other
}

fn write_and_archive(server: &Postgres, segments: u32) {
    write_segments(server, segments);
    server.archive_all();
}

fn write_segments(server: &Postgres, segments: u32) {
    for round in 0..segments {
        server.query(&format!(
            "DROP TABLE IF EXISTS original_{round}; CREATE TABLE original_{round} (id int)"
        ));
        server.switch_wal();
    }
}

fn backup_of_copy(site: &Site<'_>, copy: &Path) -> Output {
    let backup = start_backup_of_copy(site, copy, "5s");
    backup.wait_with_output().expect("read what it said")
}

fn start_backup_of_copy(site: &Site<'_>, copy: &Path, wal_timeout: &str) -> Child {
    let mut backup = site.walfs("backup");
    backup
        .env("PGHOST", copy)
        .args(["--fast", "--wal-timeout", wal_timeout, "nightly"]);
    backup.stdout(Stdio::piped()).stderr(Stdio::piped());
    backup.spawn().expect("run walfs")
}

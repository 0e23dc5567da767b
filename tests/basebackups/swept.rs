//! What is true of a backup while others sweep, discard, archive and remove: complete is said of what is there.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::common::basebackup::{Place, Site};
use crate::common::postgres::{Postgres, StopMode, newest, send};
use crate::common::s3::{Action, Logged, Operation, Rule, S3Server};
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::BINARY;
use crate::common::world::World;

/// K3, B2: a running backup is left alone by another one that cannot see its process: `/proc` hides it, or shows other
/// times.
#[test]
fn b2_a_running_backup_that_cannot_be_seen_is_left_alone() {
    let world = World::new("unseen");
    let site = Site::local(&world);
    site.server.pgbench_init(1);
    let mut slow = slow_by_root(&site, "slow");
    wait::until("it to be listed", || site.state("slow"));
    let hidden = [
        "-m",
        "sh",
        "-c",
        "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"",
        "sh",
    ];
    let later = ["-T", "--boottime", "100000", "--fork"];
    for (name, apart) in [("hidden", &hidden[..]), ("later", &later[..])] {
        let output = apart_from_it(&site, apart, name);
        assert!(output.status.success(), "{name}: {}", said(&output));
        assert!(!said(&output).contains("removed"), "{name}: {}", said(&output));
    }
    assert!(slow.try_wait().expect("look at it").is_none(), "it ended early");
    let output = slow.wait_with_output().expect("read what it said");
    assert!(output.status.success(), "{}", said(&output));
    for name in ["slow", "hidden", "later"] {
        assert_eq!(site.state(name).as_deref(), Some("complete"), "{name}");
    }
}

/// As root, whose processes are hidden from postgres.
fn slow_by_root(site: &Site<'_>, name: &str) -> Child {
    let mut backup = User::caller().command(site.world.public_program(Path::new(BINARY)));
    backup
        .env("PGHOST", site.world.path().join("pg"))
        .env("PGUSER", "postgres")
        .args(["backup", "--archive", &site.place.archive(), "--fast"])
        .args(["--rate-limit", "1MiB", name])
        .stderr(Stdio::piped());
    backup.spawn().expect("run walfs")
}

/// A backup by postgres, behind `unshare` with these arguments.
fn apart_from_it(site: &Site<'_>, arguments: &[&str], name: &str) -> Output {
    let mut command = Command::new("unshare");
    command
        .env("PGHOST", site.world.path().join("pg"))
        .env("PGUSER", "postgres")
        .args(arguments)
        .args([
            "setpriv",
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
        ])
        .arg(site.world.public_program(Path::new(BINARY)))
        .args(["backup", "--archive", &site.place.archive(), "--fast", name]);
    command.output().expect("run unshare")
}

/// B2: "complete [...] only when every byte is in the store": also when it was there, and is not any more.
#[test]
fn b2_what_was_removed_meanwhile_is_not_called_complete() {
    let world = World::new("removed");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!("made so")
    };
    site.server.pgbench_init(2);
    let backup = site.slow_backup("gone", "8MiB");
    let part = wait::until("a part to be stored", || {
        let keys = site.place.keys("trees");
        keys.into_iter().find(|key| key.contains(".tar."))
    });
    assert!(server.remove(&format!("pg/main/{part}")));
    let output = backup.wait_with_output().expect("read what it said");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("not complete") && text.contains("removed"),
        "{text}"
    );
    assert_eq!(site.state("gone"), None, "{text}");
}

/// B2: "*and* every WAL segment from its start to its stop is": that of this server, not another one's under the same
/// names.
#[test]
fn b2_the_wal_of_another_server_makes_no_backup_complete() {
    let world = World::new("others");
    let mut site = Site::local(&world);
    let copy = copy_of_the_server(&mut site);
    site.server.start();
    write_and_archive(&site);
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
    let copy = copy_of_the_server(&mut site);
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
    write_and_archive(&site);
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

/// Stops the server, whose WAL is archived, and copies it: two that have one system identifier.
fn copy_of_the_server(site: &mut Site<'_>) -> PathBuf {
    site.server.pgbench_init(1);
    site.server.archive_all();
    site.server.stop(StopMode::Fast);
    let copy = site.world.owned_dir("copy");
    let status = Command::new("cp")
        .args(["-a"])
        .arg(site.server.data())
        .arg(copy.join("data"))
        .status();
    assert!(status.expect("run cp").success());
    copy
}

fn start_copy(copy: &Path) -> Postgres {
    let other = Postgres::start_as_it_is(copy, newest(), &[]);
    wait::until("the copy to be open", || other.psql("SELECT 1").ok());
    other.query("CREATE TABLE of_the_copy (id int)");
    other
}

fn write_and_archive(site: &Site<'_>) {
    for round in 0..4 {
        site.server
            .query(&format!("CREATE TABLE original_{round} (id int)"));
        site.server.switch_wal();
    }
    site.server.archive_all();
}

fn backup_of_copy(site: &Site<'_>, copy: &Path) -> Output {
    let mut backup = site.walfs("backup");
    backup
        .env("PGHOST", copy)
        .args(["--fast", "--wal-timeout", "5s", "nightly"]);
    backup.output().expect("run walfs")
}

/// B2: what was on its way when a signal came is taken away as well.
#[test]
fn b2_a_signal_while_the_manifest_is_stored_leaves_nothing() {
    let world = World::new("manifest");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!("made so")
    };
    let delay = Action::Delay(std::time::Duration::from_secs(2));
    server.add_rule(Rule::new(delay).operation(Operation::Put).key("manifest."));
    let mut backup = site.slow_backup_with("stopped", &[]);
    let is_manifest =
        |request: &Logged| request.operation == Operation::Put && request.key.contains("manifest.");
    server.wait_for(1, is_manifest);
    send(backup.id(), libc::SIGTERM);
    let status = wait::for_exit("walfs to end", &mut backup);
    let mut text = String::new();
    let mut stderr = backup.stderr.take().expect("piped");
    stderr.read_to_string(&mut text).expect("read it");
    assert_eq!(status.code(), Some(143), "{text}");
    wait::until("the request to be answered", || {
        (server.count(|request| is_manifest(request) && request.status.is_some()) > 0).then_some(())
    });
    assert_eq!(site.place.keys("trees"), [""; 0], "{text}");
}

/// B6, S7: a backup that is known to be damaged, by what is stored of it or of its WAL, is refused before anything is
/// touched, also by its name.
#[test]
fn b6_a_named_backup_is_looked_at_before_anything_is_touched() {
    let world = World::new("named");
    let site = Site::local(&world);
    site.server.pgbench_init(1);
    let taken = site.backup("monday");
    site.server.archive_all();
    let target = world.owned_dir("old");
    fs::write(target.join("PG_VERSION"), "15\n").expect("write a file");
    fs::create_dir(target.join("global")).expect("make a directory");
    fs::write(target.join("global/pg_control"), "old").expect("write a file");
    let archive = world.archive();
    let part = site
        .place
        .keys("trees")
        .into_iter()
        .find(|key| key.contains(".tar."));
    let start = taken["backup"]["wal"][0]["start"]
        .as_str()
        .expect("a position")
        .to_owned();
    let number = u64::from_str_radix(start.split_once('/').expect("x/y").1, 16).expect("hex") >> 20;
    let segment = format!("wal/0000000100000000{number:08X}.lz4");
    for (object, cut) in [(part.expect("a part"), None), (segment, Some(50))] {
        let (path, kept) = (archive.join(&object), world.path().join("kept"));
        fs::copy(&path, &kept).expect("keep the object");
        match cut {
            Some(bytes) => fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_len(bytes))
                .expect("cut it"),
            None => fs::remove_file(&path).expect("remove it"),
        }
        for more in [&["--delta"][..], &["--delta", "--dry-run"]] {
            let mut restore = site.walfs("restore");
            let output = restore.args(more).arg("monday").arg(&target).output();
            let output = output.expect("run walfs");
            assert_eq!(
                output.status.code(),
                Some(1),
                "{object} {more:?}: {}",
                said(&output)
            );
            let control = fs::read(target.join("global/pg_control")).expect("it is still there");
            assert_eq!(control, b"old", "{object} {more:?}: {}", said(&output));
        }
        if cut.is_some() {
            assert_ne!(site.state("monday").as_deref(), Some("complete"));
        }
        fs::copy(&kept, &path).expect("bring the object back");
        User::postgres().own(&path);
    }
}

/// S5: "secrets [...] reach no log": a password in a URI of `primary_conninfo`.
#[test]
fn s5_the_password_of_a_standby_is_not_shown() {
    let world = World::new("secret");
    let site = Site::local(&world);
    let standby = super::taking::standby(&site, &world, &[]);
    standby.configure(&[(
        "primary_conninfo",
        "postgresql://postgres:S3cr3t@127.0.0.1:1/postgres",
    )]);
    standby.reload();
    let mut backup = site.walfs("backup");
    backup
        .env("PGHOST", world.path().join("standby"))
        .args(["--wal-timeout", "1s", "quiet"]);
    let output = backup.output().expect("run walfs");
    let text = said(&output);
    assert!(text.contains("127.0.0.1"), "it names the primary: {text}");
    assert!(!text.contains("S3cr3t"), "{text}");
}

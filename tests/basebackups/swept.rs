//! What is true of a backup while others sweep, discard, archive and remove: complete is said of what is there.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::common::basebackup::{Place, Site};
use crate::common::postgres::send;
use crate::common::s3::{Action, Logged, Operation, Rule, S3Server};
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::BINARY;
use crate::common::world::World;

/// K3, B2: a running backup is left alone by another one that cannot see its process: `/proc` hides it, or shows other
/// times. Also where something lies that was stored by a clock days ahead.
#[test]
fn b2_a_running_backup_that_cannot_be_seen_is_left_alone() {
    let world = World::new("unseen");
    let site = Site::local(&world);
    site.server.pgbench_init(1);
    let mut killed = slow_by_root(&site, "killed");
    wait::until("it to be listed", || site.state("killed"));
    killed.kill().expect("kill walfs");
    killed.wait().expect("wait for walfs");
    let trees = world.archive().join("trees");
    let ahead = Command::new("find")
        .arg(&trees)
        .args(["-type", "f", "-exec", "touch", "-d", "3 days", "{}", "+"])
        .status();
    assert!(ahead.expect("run find").success());
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

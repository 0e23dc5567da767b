//! Dumps that are written as plain files through the mount.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use super::rig::{NOISE, Rig};
use crate::common::basebackup::Place;
use crate::common::postgres::{Options as Server, send};
use crate::common::s3::S3Server;
use crate::common::user::{User, is_root, said};
use crate::common::wait;
use crate::common::walfs::Mount;
use crate::common::world::{World, detach};

/// A rig with a mount, and shell lines in it: `$d` is `dumps/`, `$p` where the programs of PostgreSQL are, `$w` a directory.
struct Plain {
    rig: Rig,
    mount: Mount,
    work: PathBuf,
}

/// A line with names for the places.
fn told(line: &str) -> String {
    format!("d=$1/dumps w=$2 p=$3 PGHOST=$4/pg PGUSER=postgres; export PGHOST PGUSER; {line}")
}

impl Plain {
    #[track_caller]
    fn new(rig: Rig, options: &[&str]) -> Plain {
        let mount = rig.to_mount().args(options).mount();
        let work = rig.world.owned_dir("work");
        Plain { rig, mount, work }
    }

    fn places(&self) -> [&Path; 4] {
        [
            self.mount.path(),
            &self.work,
            &self.rig.bin,
            self.rig.world.path(),
        ]
    }

    #[track_caller]
    fn sh(&self, line: &str) -> String {
        self.mount.sh(&told(line), &self.places())
    }

    #[track_caller]
    fn fails(&self, line: &str) -> String {
        self.mount.sh_fails(&told(line), &self.places())
    }
}

/// What a script says without the lines with a key that each run makes anew.
const SAME: &str = r"grep -v '^\\\(un\)\?restrict'";

#[test]
fn a5_pg_dump_into_the_mount_costs_what_has_changed_and_reads_as_it_was_written() {
    dumps_into_the_mount_cost_what_has_changed(Rig::local("dumps-plain"));
}

#[test]
fn a5_pg_dump_into_a_mount_of_s3_costs_what_has_changed() {
    let place = Place::S3(S3Server::start());
    let world = World::new("dumps-s3-plain");
    dumps_into_the_mount_cost_what_has_changed(Rig::new(world, place, &Server::default()));
}

fn dumps_into_the_mount_cost_what_has_changed(rig: Rig) {
    rig.fill("app", 60_000);
    let plain = Plain::new(rig, &[]);
    let rig = &plain.rig;
    plain.sh("$p/pg_dump app > $d/app.sql");
    assert_eq!(plain.sh("ls $d | head -1"), "app.sql\n");
    let first = rig.versions("app.sql");
    assert_eq!(first.len(), 1, "{}", plain.mount.log());
    assert_eq!(plain.sh("ls $d"), format!("app.sql\napp.sql@{}\n", first[0]));
    plain.sh(&format!(
        "$p/pg_dump app | {SAME} > $w/one; {SAME} $d/app.sql | cmp - $w/one"
    ));
    let bytes = plain.sh("stat -c %s $d/app.sql");
    assert_eq!(plain.sh("cat $d/app.sql | wc -c"), bytes);
    let whole = rig.stored_bytes();
    // A small change in the middle.
    rig.sql(
        "app",
        &format!("UPDATE t SET noise = {NOISE} FROM generate_series(30000, 30010) i WHERE id = i"),
    );
    plain.sh("$p/pg_dump app > $d/app.sql");
    assert_eq!(rig.versions("app.sql").len(), 2);
    let more = rig.stored_bytes() - whole;
    assert!(more < 1_200_000 && more * 5 < whole, "{more} beside {whole}");
    plain.sh(&format!(
        "$p/pg_dump app | {SAME} > $w/two; {SAME} $d/app.sql | cmp - $w/two"
    ));
    plain.sh(&format!("{SAME} $d/app.sql@{} | cmp - $w/one", first[0]));
    // Unchanged: nothing is stored, and there is no other version.
    plain.sh("cp $d/app.sql $w/same");
    let before = rig.place.keys("").len();
    plain.sh("cp $w/same $d/app.sql");
    plain.mount.wait_for_log("nothing is stored");
    assert_eq!(
        (rig.versions("app.sql").len(), rig.place.keys("").len()),
        (2, before)
    );
    plain.sh("cmp $w/same $d/app.sql");
    // Every way to write it: format custom, by name, through a pipe, nothing.
    for line in [
        "$p/pg_dump -Fc -Z0 -f $d/by-name.dump app",
        "$p/pg_dump -Fc -Z0 app > $d/app.dump",
        "$p/pg_dump app | gzip -1 > $d/app.sql.gz",
        "{ echo one; cat $w/same; echo two; } > $d/several",
        "dd if=$w/same of=$d/dd bs=64k status=none",
        "cp -p $w/same $d/kept",
        ": > $d/nothing",
        "$p/pg_dumpall --globals-only > $d/globals",
        "$p/pg_dumpall > $d/all",
        "bash -c '$0/pg_dump app > $1/bash' $p $d",
    ] {
        plain.sh(line);
    }
    assert_eq!(plain.sh("gunzip -c $d/app.sql.gz | wc -c"), bytes);
    plain.sh("{ echo one; cat $w/same; echo two; } | cmp - $d/several");
    plain.sh("cmp $w/same $d/dd; cmp $w/same $d/kept; $p/pg_restore -l $d/app.dump > /dev/null");
    assert_eq!(plain.sh("stat -c '%s %a' $d/nothing"), "0 600\n");
    plain.sh("grep -q 'CREATE ROLE postgres' $d/globals; grep -q 'CREATE DATABASE app' $d/all");
    plain.sh("tail -5 $d/all | grep -q 'cluster dump complete'; tail -5 $d/bash | grep -q 'dump complete'");
    assert!(rig.restored_from(&plain.mount.path().join("dumps/by-name.dump")) == rig.told("app"));
    // The commands know them.
    let to = plain.work.join("back").display().to_string();
    rig.succeeds("dump-restore", &["app.sql", &to]);
    plain.sh("cmp $w/back $d/app.sql");
    rig.succeeds(
        "dump-restore",
        &[&format!("app.sql/{}", first[0]), &format!("{to}-1")],
    );
    plain.sh(&format!("cmp $w/back-1 $d/app.sql@{}", first[0]));
    rig.succeeds("verify", &[]);
    let other = rig.world.owned_dir("other").display().to_string();
    let copy = crate::common::walfs::walfs(&rig.world, &rig.user)
        .envs(rig.place.env())
        .args(["copy", "--create", &rig.place.archive(), &other])
        .output()
        .expect("run walfs");
    assert!(copy.status.success(), "{}", said(&copy));
    rig.succeeds("prune", &["--keep-last", "1", "--grace", "1s"]);
    assert_eq!(rig.versions("app.sql").len(), 1);
    plain.sh("cmp $w/same $d/app.sql");
    rig.succeeds("verify", &[]);
    // What is complete stays as it is.
    for (line, words) in [
        ("rm $d/app.sql", "Operation not permitted"),
        ("mv $d/app.sql $d/other", "Operation not permitted"),
        ("echo more >> $d/app.sql", "rror"),
        (
            "dd if=$w/same of=$d/app.sql oflag=append conv=notrunc",
            "Invalid argument",
        ),
        ("printf x | dd of=$d/app.sql bs=1 seek=10 conv=notrunc", "dd:"),
        (
            "perl -e 'truncate($ARGV[0], 5) or die $!' $d/app.sql",
            "not permitted",
        ),
        ("echo x > $d/.app.sql.Xa1b2c", "Invalid argument"),
        ("echo x > $d/a@b", "Invalid argument"),
    ] {
        let said = plain.fails(line);
        assert!(said.contains(words), "{line}: {said}");
    }
    plain.sh("touch $d/app.sql; cmp $w/same $d/app.sql");
    let log = plain.mount.log();
    for hint in ["HINT: `walfs prune`", "rsync --inplace", "HINT: write it anew"] {
        assert!(log.contains(hint), "{hint}: {log}");
    }
}

/// Writes a whole dump to a file, and does not close it.
fn writer_that_waits(plain: &Plain, file: &Path) -> Child {
    let mut writer = plain.mount.user().command("/bin/sh");
    let line = "exec tail -c +1 -f \"$2\" > \"$1\"";
    writer
        .args(["-c", line, "sh"])
        .arg(file)
        .arg(plain.work.join("whole"));
    writer.spawn().expect("run a writer")
}

#[test]
fn a5_what_is_not_written_to_its_end_is_no_version() {
    let rig = Rig::local("dumps-half");
    rig.fill("app", 20_000);
    let mut plain = Plain::new(rig, &[]);
    plain.sh("$p/pg_dump -f $w/whole app; cp $w/whole $d/app.sql");
    let nothing_more = |plain: &Plain, what: &str| {
        assert_eq!(plain.rig.versions("app.sql").len(), 1, "{what}");
        plain.sh("cmp $w/whole $d/app.sql");
        wait::until("what was stored is deleted", || {
            let parts = plain.rig.place.keys("trees");
            let folders = parts.iter().map(|key| key.split('/').nth(1).expect("a folder"));
            let folders: std::collections::BTreeSet<&str> = folders.collect();
            (folders.len() == 1).then_some(())
        });
    };
    // A program that fails, before and after its first byte.
    plain.fails("$p/pg_dump nowhere > $d/app.sql");
    plain.fails("$p/pg_dump nowhere > $d/new.sql");
    plain.fails("(cat $w/whole; exit 3) > $d/app.sql");
    plain.fails("(cat $w/whole; exit 3) > $d/new.sql");
    assert_eq!(plain.sh("ls $d | grep -c new || true"), "0\n");
    nothing_more(&plain, "a program that fails");
    // One that is killed, while others still see the version before.
    let path = plain.mount.path().join("dumps/app.sql");
    let mut writer = writer_that_waits(&plain, &path);
    let is_written = || (plain.mount.status()["open_writes"] != 0).then_some(());
    wait::until("it writes", is_written);
    plain.sh("cmp $w/whole $d/app.sql");
    // Another one beside it has a version of its own.
    plain.sh("sed s/t/T/ $w/whole > $d/other.sql; sed s/t/T/ $w/whole | cmp - $d/other.sql");
    send(writer.id(), libc::SIGKILL);
    writer.wait().expect("wait for the writer");
    wait::until("the killed one leaves nothing", || {
        let log = plain.mount.log();
        log.contains("app.sql is not stored").then_some(())
    });
    plain.sh("cmp $w/whole $d/app.sql");
    assert_eq!(plain.rig.versions("app.sql").len(), 1);
    // The daemon is killed.
    let mut run = writer_that_waits(&plain, &path);
    thread::sleep(Duration::from_millis(500));
    plain.mount.kill9();
    send(run.id(), libc::SIGKILL);
    run.wait().expect("wait for the writer");
    plain.mount.restart();
    plain.sh("cmp $w/whole $d/app.sql");
    assert_eq!(plain.rig.versions("app.sql").len(), 1);
    // The next one removes what that has left.
    plain.sh("cp $w/whole $d/app.sql");
    plain.rig.succeeds("verify", &[]);
}

#[test]
fn a5_two_writers_of_one_name_are_never_mixed() {
    let rig = Rig::local("dumps-two");
    let plain = Plain::new(rig, &[]);
    plain.sh("yes one | head -c 3000000 > $w/1; yes two | head -c 4000000 > $w/2");
    plain.sh("(cat $w/1; sleep 2) > $d/x & sleep 1.2; cp $w/2 $d/x; cmp $w/2 $d/x; wait");
    let versions = plain.rig.versions("x");
    assert_eq!(versions.len(), 2, "{}", plain.mount.log());
    // As old as they began.
    plain.sh(&format!(
        "cmp $w/1 $d/x@{}; cmp $w/2 $d/x@{}; cmp $w/2 $d/x",
        versions[0], versions[1]
    ));
    // Who reads goes on reading what was there.
    plain.sh("exec 3< $d/x; head -c 1000 <&3 > $w/head; cp $w/1 $d/x; cat <&3 > $w/rest; cat $w/head $w/rest | cmp - $w/2");
    plain.sh("cmp $w/1 $d/x");
}

#[test]
fn a5_a_mount_that_is_read_only_takes_no_file() {
    let rig = Rig::local("dumps-ro");
    Mount::local(&rig.world).terminate();
    let plain = Plain::new(rig, &["--read-only"]);
    plain.fails("echo x > $d/x");
    assert!(plain.rig.versions("x").is_empty());
}

#[test]
fn a5_a_store_that_is_full_is_an_error_of_the_writer() {
    if !is_root() {
        eprintln!("skipped: only root can mount a disk");
        return;
    }
    let rig = Rig::local("dumps-full");
    let (archive, user) = (rig.world.archive(), User::postgres());
    let options = format!("size=9m,mode=0700,uid={},gid={}", user.uid, user.gid);
    let disk = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &options, "none"])
        .arg(&archive)
        .output()
        .expect("run mount");
    assert!(disk.status.success(), "{}", said(&disk));
    let mut plain = Plain::new(rig, &["--deadline", "5s"]);
    plain.sh(
        "head -c 3000000 /dev/urandom > $w/small; head -c 9000000 /dev/urandom > $w/big; cp $w/small $d/x",
    );
    for (line, what) in [
        ("cp $w/big $d/x", "a file"),
        ("cat $w/big > $d/new", "another name"),
        ("cp $w/big $d/dir/x; sync $d/dir", "a directory"),
    ] {
        plain.sh("mkdir -p $d/dir");
        let said = plain.fails(line);
        assert!(said.contains("No space left on device"), "{what}: {said}");
    }
    plain.sh("cmp $w/small $d/x; ! test -e $d/new");
    assert_eq!(plain.rig.versions("x").len(), 1);
    assert!(plain.rig.versions("dir").is_empty());
    // With room again it is as before.
    plain.sh("rm -r $d/dir; head -c 1000000 /dev/urandom > $w/more; cp $w/more $d/x; cmp $w/more $d/x");
    plain.rig.succeeds("verify", &[]);
    plain.mount.terminate();
    detach(&archive);
}

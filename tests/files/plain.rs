//! Files and directories that are written through the mount.

use std::fs;
use std::path::{Path, PathBuf};

use super::rig::Rig;
use crate::common::basebackup::Place;
use crate::common::postgres::{Options as Server, Postgres, newest, send};
use crate::common::s3::S3Server;
use crate::common::user::said;
use crate::common::wait;
use crate::common::walfs::{Mount, Options};
use crate::common::world::World;

/// A rig with a mount, and shell lines in it: `$f` is `files/`, `$d` is `dumps/`, `$s` the source, `$w` a directory.
struct Plain {
    rig: Rig,
    mount: Mount,
    work: PathBuf,
}

/// A line with names for the places.
fn told(line: &str) -> String {
    format!("f=$1/files d=$1/dumps s=$2 w=$3; {line}")
}

impl Plain {
    /// A version is not taken for whole by itself while a test runs, unless `options` say so.
    #[track_caller]
    fn new(rig: Rig, options: &[&str]) -> Plain {
        let options = match options {
            [] => &["--quiet-after", "1h"],
            options => options,
        };
        let mount = rig.to_mount().args(options).mount();
        let work = rig.world.owned_dir("work");
        let plain = Plain { rig, mount, work };
        plain
            .rig
            .change("mkdir -p deep/er empty && echo one > deep/one && ln -s one deep/link && : > none");
        plain.rig.change(
            "echo two > deep/er/two && chmod 640 deep/one && chmod 750 deep && touch -d @1000000000 deep/one",
        );
        plain.rig.noise("big", 9_000_000, 1);
        plain.rig.noise("small", 100_000, 2);
        // rsync takes what differs by less than a second for the same.
        plain.rig.change("find . -exec touch -hd @1000000000 {} +");
        plain
    }

    fn places(&self) -> [&Path; 3] {
        [self.mount.path(), &self.rig.source, &self.work]
    }

    #[track_caller]
    fn sh(&self, line: &str) -> String {
        self.mount.sh(&told(line), &self.places())
    }

    #[track_caller]
    fn fails(&self, line: &str) -> String {
        self.mount.sh_fails(&told(line), &self.places())
    }

    /// Is what is shown there as the source is?
    #[track_caller]
    fn is_as_source(&self, what: &str) {
        let shown = self.mount.path().join("files").join(what);
        assert_eq!(self.rig.told(&shown), self.rig.told(&self.rig.source), "{what}");
    }
}

#[test]
fn a5_tar_into_the_mount_costs_what_has_changed_and_reads_as_it_was_written() {
    tar_into_the_mount_costs_what_has_changed(Rig::local("files-tar"));
}

#[test]
fn a5_tar_into_a_mount_of_s3_costs_what_has_changed() {
    let place = Place::S3(S3Server::start());
    tar_into_the_mount_costs_what_has_changed(Rig::new(World::new("files-tar-s3"), place));
}

fn tar_into_the_mount_costs_what_has_changed(rig: Rig) {
    let plain = Plain::new(rig, &[]);
    let tar = "tar cf $f/etc.tar -C $s . && tar cf $w/etc.tar -C $s . && cmp $w/etc.tar $f/etc.tar";
    plain.sh(tar);
    let whole = plain.rig.stored_bytes();
    assert!(whole > 9_000_000, "{whole}");
    plain.rig.change("echo other > deep/er/two");
    plain.sh(tar);
    let more = plain.rig.stored_bytes() - whole;
    assert!(more < 600_000, "{more}");
    let versions = plain.rig.versions("etc.tar");
    assert_eq!(versions.len(), 2);
    let keys = plain.rig.place.keys("").len();
    plain.sh(tar);
    assert_eq!(
        (
            plain.rig.versions("etc.tar").len(),
            plain.rig.place.keys("").len()
        ),
        (2, keys)
    );
    assert_eq!(
        plain.sh(&format!("tar xOf $f/etc.tar@{} ./deep/er/two", versions[0])),
        "two\n"
    );
    let restored = plain.rig.restore("etc.tar");
    plain.sh(&format!("cmp $w/etc.tar {}/etc.tar", restored.display()));
    // One file by rsync: in place, or not at all.
    plain.sh("cp $s/big $w/one.bin; rsync --inplace $w/one.bin $f/ && cmp $w/one.bin $f/one.bin");
    plain.sh("printf more >> $w/one.bin; rsync -a --inplace --whole-file $w/one.bin $f/ && cmp $w/one.bin $f/one.bin");
    plain.sh("rsync -a --inplace --whole-file $w/one.bin $f/ && cmp $w/one.bin $f/one.bin");
    assert_eq!(plain.rig.versions("one.bin").len(), 2);
    plain.fails("rsync -a $w/etc.tar $f/other.tar");
    assert!(plain.mount.log().contains("rsync --inplace --whole-file"));
    plain.rig.succeeds("verify", &[]);
}

#[test]
fn a5_rsync_into_the_mount_costs_what_has_changed_and_reads_as_the_source() {
    rsync_into_the_mount_costs_what_has_changed(Rig::local("files-rsync"));
}

#[test]
fn a5_rsync_into_a_mount_of_s3_costs_what_has_changed() {
    let place = Place::S3(S3Server::start());
    rsync_into_the_mount_costs_what_has_changed(Rig::new(World::new("files-rsync-s3"), place));
}

fn rsync_into_the_mount_costs_what_has_changed(rig: Rig) {
    let mut plain = Plain::new(rig, &[]);
    let rsync = "rsync -a --delete $s/ $f/etc/";
    plain.sh(rsync);
    // While it is written it shows what is in it.
    plain.is_as_source("etc");
    assert!(plain.rig.versions("etc").is_empty());
    plain.sh("sync $f/etc");
    let first = plain.rig.versions("etc");
    assert_eq!(first.len(), 1, "{}", plain.mount.log());
    assert_eq!(plain.sh("ls $f/etc"), format!("{}\nLATEST\n", first[0]));
    plain.is_as_source("etc/LATEST");
    let whole = plain.rig.stored_bytes();
    // Who reads sees the versions: a copy of them is not emptied.
    plain.sh("rsync -a --delete $f/etc/ $w/copy/ && cmp $s/big $w/copy/LATEST/big");
    // The same again: nothing.
    let keys = plain.rig.place.keys("").len();
    plain.sh(rsync);
    plain.sh("sync $f/etc");
    assert!(
        plain.mount.log().contains("nothing is stored"),
        "{}",
        plain.mount.log()
    );
    assert_eq!(
        (plain.rig.versions("etc").len(), plain.rig.place.keys("").len()),
        (1, keys)
    );
    // A small change.
    plain.rig.change("echo three > deep/er/two && printf x | dd of=big bs=1 seek=5000000 conv=notrunc status=none && rm none");
    plain.sh(rsync);
    plain.sh("cat $f/etc/LATEST/none");
    plain.sh("sync $f/etc");
    let more = plain.rig.stored_bytes() - whole;
    assert!(more < 400_000, "{more}");
    let versions = plain.rig.versions("etc");
    assert_eq!(versions.len(), 2);
    plain.is_as_source("etc/LATEST");
    plain.sh(&format!(
        "test -e $f/etc/{}/none && ! test -e $f/etc/LATEST/none",
        versions[0]
    ));
    let restored = plain.rig.restore("etc");
    assert_eq!(plain.rig.told(&restored), plain.rig.told(&plain.rig.source));
    // `walfs files` and rsync make versions of the same name.
    plain.rig.store("etc");
    // A draft that is not wanted goes, and the versions stay.
    plain.sh("mkdir $f/etc/more && echo x > $f/etc/more/x && rm -r $f/etc");
    assert!(plain.sh("ls $f/etc").contains("LATEST"));
    plain.sh("mkdir $f/gone && rmdir $f/gone && ! test -e $f/gone");
    for line in [
        "rm -r $f/etc",
        "rm $f/etc/LATEST",
        "mv $f/etc $f/other",
        "rm $f/etc/LATEST/big",
    ] {
        plain.fails(line);
    }
    plain.is_as_source("etc/LATEST");
    // The clean end of the mount completes what is there.
    plain.sh("cp -a $s $f/copied && cp -a $s $d/copied");
    assert!(plain.mount.terminate().success());
    assert_eq!(plain.rig.versions("copied").len(), 1, "{}", plain.mount.log());
    plain.mount.restart();
    plain.is_as_source("copied/LATEST");
    plain.sh("cmp $s/big $d/copied/LATEST/big");
    plain.rig.succeeds("verify", &[]);
}

#[test]
fn a5_a_directory_that_is_quiet_is_complete_and_one_whose_writer_was_killed_is_not() {
    let mut plain = Plain::new(Rig::local("files-quiet"), &["--quiet-after", "2s"]);
    plain.sh("cp -a $s $f/etc");
    wait::until("it is complete by itself", || {
        (plain.rig.versions("etc").len() == 1).then_some(())
    });
    plain.is_as_source("etc/LATEST");
    // Nothing in it: no version, and it goes.
    plain.sh("mkdir $f/empty");
    wait::until("it goes", || (plain.sh("ls $f") == "etc\n").then_some(()));
    // A writer that is killed.
    let line = "exec tail -c +1 -f \"$1\" > \"$2\"";
    let mut writer = plain.mount.user().command("/bin/sh");
    let half = plain.mount.path().join("files/etc/half");
    let mut writer = writer
        .args(["-c", line, "sh"])
        .arg(plain.rig.source.join("small"))
        .arg(&half)
        .spawn()
        .expect("run a writer");
    wait::until("it writes", || {
        (plain.sh("if test -s $f/etc/half; then echo yes; fi") == "yes\n").then_some(())
    });
    plain.sh("echo whole > $f/etc/whole");
    send(writer.id(), libc::SIGKILL);
    writer.wait().expect("wait for the writer");
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(plain.rig.versions("etc").len(), 1, "{}", plain.mount.log());
    assert_eq!(plain.sh("ls $f/etc"), "half\nwhole\n");
    // Neither is it complete when the mount is killed, or ends.
    plain.mount.kill9();
    plain.mount.restart();
    assert_eq!(plain.rig.versions("etc").len(), 1);
    plain.is_as_source("etc/LATEST");
    // Only whoever says so completes it.
    plain.sh("echo x > $f/etc/x; sync $f/etc");
    assert_eq!(plain.sh("cat $f/etc/LATEST/x"), "x\n");
    plain.rig.succeeds("verify", &[]);
}

#[test]
fn a5_pg_dump_writes_a_directory_into_the_mount() {
    let plain = Plain::new(Rig::local("files-dump-dir"), &[]);
    let mut server = Postgres::init(&plain.rig.world.path().join("pg"), &Server::default());
    server.start();
    server.query("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i");
    server.query("CREATE TABLE u AS SELECT * FROM t");
    let dump = format!(
        "PGHOST={} PGUSER=postgres {}/pg_dump -Fd -j4 -f $d/app.dir postgres",
        plain.rig.world.path().join("pg").display(),
        newest().bin.display()
    );
    plain.sh(&dump);
    assert_eq!(
        plain.sh("ls $d/app.dir | tail -1"),
        "LATEST\n",
        "{}",
        plain.mount.log()
    );
    plain.sh(&format!(
        "{}/pg_restore -l $d/app.dir/LATEST > /dev/null",
        newest().bin.display()
    ));
    // Again and again.
    server.query("INSERT INTO t VALUES (0, 'x')");
    plain.sh(&dump);
    assert_eq!(plain.sh("ls $d/app.dir | wc -l"), "3\n");
    plain.rig.succeeds("verify", &[]);
}

#[test]
fn o4_a_place_of_archives_takes_files_only_if_it_is_writable() {
    let rig = Rig::local("files-all");
    let place = rig.world.owned_dir("place");
    let mut made = crate::common::walfs::walfs(&rig.world, &rig.user);
    let name = place.join("one").display().to_string();
    rig.user.make_dir(&place.join("one"));
    let made = made
        .args([
            "files",
            "--create",
            "--archive",
            &name,
            "etc",
            &rig.source.display().to_string(),
        ])
        .output()
        .expect("run walfs");
    assert!(made.status.success(), "{}", said(&made));
    for (options, takes) in [(&["--all"][..], false), (&["--all", "--writable"][..], true)] {
        let mut mount = Options::of(&rig.world, &place.display().to_string())
            .args(options)
            .mount();
        for line in [
            "echo x > $1/one/dumps/x && test \"$(cat $1/one/dumps/x)\" = x",
            "mkdir $1/one/files/new && echo x > $1/one/files/new/x && sync $1/one/files/new && cat $1/one/files/new/LATEST/x",
        ] {
            let output = mount.user().shell(line, &[mount.path()]);
            assert_eq!(
                output.status.success(),
                takes,
                "{line}: {}\n{}",
                said(&output),
                mount.log()
            );
        }
        mount.terminate();
    }
    assert_eq!(fs::read_dir(place.join("one/dumps")).expect("list").count(), 1);
}

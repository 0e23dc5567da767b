//! A local archive whose folders are disks of their own: while one is not mounted, nothing in it is absent, and nothing is
//! archived into the bare folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::common::user::{User, is_root, said};
use super::common::wal;
use super::common::walfs::{Options, walfs};
use super::common::world::{World, detach};

/// A disk, and where it is mounted at times.
struct Disk {
    disk: PathBuf,
    place: PathBuf,
}

impl Disk {
    fn new(world: &World, place: PathBuf) -> Self {
        let disk = world.owned_dir("disk");
        let user = User::postgres();
        let options = format!("mode=0700,uid={},gid={}", user.uid, user.gid);
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(&disk));
        user.make_dir(&place);
        let disk = Self { disk, place };
        disk.mount();
        disk
    }

    fn mount(&self) {
        run(Command::new("mount")
            .arg("--bind")
            .arg(&self.disk)
            .arg(&self.place));
    }

    /// As the kernel does after an error of the disk.
    fn make_read_only(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,bind,ro"])
            .arg(&self.place));
    }

    /// As an administrator would who does not wait for walfs.
    fn unmount(&self) {
        detach(&self.place);
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("run mount");
    assert!(output.status.success(), "{}", said(&output));
}

struct Files<'a>(&'a World);

impl Files<'_> {
    fn segment(&self, number: u64) -> PathBuf {
        let name = wal::segment_name(1, number, 1 << 20);
        let content = wal::segment(&name, 7, 1 << 20, number);
        self.0.owned_file(&name, &content)
    }

    fn cp(&self, segment: &Path) -> Output {
        User::postgres().shell(r#"cp "$1" "$2/wal/""#, &[segment, &self.0.mountpoint()])
    }

    fn walfs(&self, command: &str) -> Command {
        let mut command_line = walfs(self.0, &User::postgres());
        command_line
            .arg(command)
            .arg("--archive")
            .arg(self.0.archive())
            .args(["--deadline", "2s"]);
        command_line
    }
}

fn name(segment: &Path) -> &Path {
    Path::new(segment.file_name().expect("a name"))
}

#[test]
fn w1_a_folder_whose_disk_is_gone_proves_nothing_and_takes_nothing() {
    if !is_root() {
        eprintln!("skipped: only root can mount a disk");
        return;
    }
    let world = World::new("disks");
    let (files, disk) = (Files(&world), Disk::new(&world, world.archive().join("wal")));
    let mut mount = Options::local(&world).args(&["--deadline", "2s"]).mount();
    let [first, second, third] = [1, 2, 3].map(|number| files.segment(number));
    assert!(files.cp(&first).status.success(), "{}", mount.log());
    disk.unmount();
    let failed = files.cp(&second);
    assert!(!failed.status.success(), "archived onto a bare folder");
    let absent = r#"test -e "$1/.absent/$2""#;
    for segment in [&first, &second] {
        let proved = User::postgres().shell(absent, &[mount.path(), name(segment)]);
        assert!(!proved.status.success(), "proved absent: {}", segment.display());
    }
    assert_eq!(fs::read_dir(&disk.place).expect("list").count(), 0);
    let listed = User::postgres().shell(r#"ls "$1/wal""#, &[mount.path()]);
    assert!(!listed.status.success(), "an empty listing of what is gone");
    // Every new process, too.
    let nowhere = world.owned_dir("to").join("x");
    let fetched = files
        .walfs("wal-fetch")
        .arg(name(&first))
        .arg(&nowhere)
        .output()
        .expect("run walfs");
    assert_eq!(fetched.status.code(), Some(255), "{}", said(&fetched));
    assert!(
        said(&fetched).contains("is its disk mounted?"),
        "{}",
        said(&fetched)
    );
    for mut command in [files.walfs("wal-list"), files.walfs("backup-list")] {
        assert_eq!(command.output().expect("run walfs").status.code(), Some(1));
    }
    let pushed = files.walfs("wal-push").arg(&third).output().expect("run walfs");
    assert_eq!(pushed.status.code(), Some(1), "{}", said(&pushed));
    assert_eq!(fs::read_dir(&disk.place).expect("list").count(), 0);
    // Back again, the same process goes on.
    disk.mount();
    assert!(files.cp(&second).status.success(), "{}", mount.log());
    assert_eq!(mount.list().len(), 2);
    let proved = User::postgres().shell(absent, &[mount.path(), name(&third)]);
    assert!(proved.status.success(), "{}", mount.log());
    mount.terminate();
    // Another archive's disk is not taken for it.
    let mark = disk.disk.join(".archive_id");
    fs::write(&mark, "00000000000000000000000000000000\n").expect("change the mark");
    let refused = files.walfs("wal-list").output().expect("run walfs");
    assert!(said(&refused).contains("another archive"), "{}", said(&refused));
    disk.unmount();
    detach(&disk.disk);
}

/// S1, O1: what a file system that is read-only says is not that somebody has no permission.
#[test]
fn o1_an_archive_that_became_read_only_says_so() {
    if !is_root() {
        eprintln!("skipped: only root can mount a disk");
        return;
    }
    let world = World::new("read-only");
    let (files, disk) = (Files(&world), Disk::new(&world, world.archive().join("wal")));
    let mut mount = Options::local(&world).args(&["--deadline", "2s"]).mount();
    let [first, second] = [1, 2].map(|number| files.segment(number));
    assert!(files.cp(&first).status.success(), "{}", mount.log());
    disk.make_read_only();
    let failed = files.cp(&second);
    assert!(!failed.status.success(), "archived onto a read-only disk");
    assert!(
        said(&failed).contains("Read-only file system"),
        "{}",
        said(&failed)
    );
    mount.wait_for_log("HINT: the archive's file system is mounted read-only");
    let pushed = files.walfs("wal-push").arg(&second).output().expect("run walfs");
    assert_eq!(pushed.status.code(), Some(1), "{}", said(&pushed));
    mount.terminate();
    disk.unmount();
    detach(&disk.disk);
}

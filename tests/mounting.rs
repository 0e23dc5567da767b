//! Mounting and unmounting through a real kernel. Needs root, /dev/fuse, the package fuse3 and the user `postgres`;
//! fails without them.
//!
//! What is mounted is the smallest file system there is. It is served by a child, this test binary started again, so
//! that it can be killed without ending the test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use fuser::SessionACL;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, INodeNo, ReplyAttr, Request, Session,
};
use walfs::mount::kernel::{
    Error, Holder, MountOptions, Mounted, Owner, Unmounted, drop_privileges, lookup_user, mount, mounts,
    prepare, set_read_ahead_kb, unmount_path,
};

const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// Long enough for anything that will happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// One empty directory.
struct Nothing;

impl Filesystem for Nothing {
    fn getattr(&self, request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        if ino != INodeNo::ROOT {
            return reply.error(Errno::ENOENT);
        }
        let then = std::time::UNIX_EPOCH;
        let attributes = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: then,
            mtime: then,
            ctime: then,
            crtime: then,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: request.uid(),
            gid: request.gid(),
            rdev: 0,
            flags: 0,
            blksize: 512,
        };
        // Remembered for long, so that a dead server's directory looks alive to those who do not insist.
        reply.attr(&Duration::from_secs(3600), &attributes);
    }
}

fn session(fuse: OwnedFd) -> Session<Nothing> {
    let mut config = Config::default();
    config.n_threads = Some(1);
    Session::from_fd(Nothing, fuse, SessionACL::All, config).unwrap()
}

fn options(source: &str, owner: Owner) -> MountOptions {
    MountOptions {
        source: source.into(),
        owner,
        allow_other: false,
        read_only: false,
    }
}

/// A directory to mount on. Whatever is still mounted there at the end is taken away.
struct Place {
    path: PathBuf,
    // Dropped after `Place::drop` has unmounted.
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self::named("mnt")
    }

    fn named(name: &str) -> Self {
        // SAFETY: cannot fail.
        assert_eq!(
            unsafe { libc::geteuid() },
            0,
            "these tests mount: run them as root"
        );
        assert!(
            Path::new("/dev/fuse").exists(),
            "these tests mount: /dev/fuse is needed"
        );
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().canonicalize().unwrap().join(name);
        fs::create_dir(&path).unwrap();
        Self { path, _dir: dir }
    }

    fn give_to(&self, owner: Owner) {
        std::os::unix::fs::chown(&self.path, Some(owner.uid), Some(owner.gid)).unwrap();
    }

    /// The file systems mounted here: their types, lowest first.
    fn mounted(&self) -> Vec<String> {
        let here = mounts()
            .unwrap()
            .into_iter()
            .filter(|mount| mount.mountpoint == self.path);
        here.map(|mount| mount.fs_type).collect()
    }

    fn tmpfs(&self) {
        let made = Command::new("mount")
            .args(["-t", "tmpfs", "stranger"])
            .arg(&self.path)
            .status()
            .unwrap();
        assert!(made.success());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        detach_all(&self.path);
        detach_all(self.path.parent().unwrap());
    }
}

/// Takes away one mount after the other until there is none.
fn detach_all(path: &Path) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a terminated string and plain flags.
    while unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) } == 0 {}
}

fn test_binary() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// `fusermount3` opens /dev/fuse as its user, and everywhere but in some containers everybody may. Here the child gets
/// a node of its own with the usual mode, in a mount namespace of its own; the test sees the child's mounts because
/// the directory around the mount point is shared between the two.
fn with_open_device(place: &Place) -> Command {
    let around = place.path.parent().unwrap();
    let script = "mount --bind \"$1\" \"$1\" && mount --make-shared \"$1\"";
    if !fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .contains(around.to_str().unwrap())
    {
        assert!(
            Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(around)
                .status()
                .unwrap()
                .success()
        );
    }
    let script = "set -e; mount --make-private / ; mount --make-private /dev 2> /dev/null || true
        test -e \"$1\" || mknod -m 666 \"$1\" c 10 229; mount --bind \"$1\" /dev/fuse; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "unchanged", "sh", "-c", script, "sh"]);
    command.arg(around.join("fuse")).arg(test_binary());
    command
}

/// A child that mounts and serves. Told what to do by lines, it answers each by one line.
struct Server {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// `user`: whom to mount for; `as_user`: become that user before mounting (then it takes `fusermount3`).
    fn start(place: &Place, user: &str, as_user: bool) -> Self {
        let mut command = if as_user {
            with_open_device(place)
        } else {
            Command::new(test_binary())
        };
        command.args(["--exact", "mounting::serving_process", "--ignored", "--nocapture"]);
        command
            .env("WALFS_TEST_MOUNTPOINT", &place.path)
            .env("WALFS_TEST_USER", user);
        command.env("WALFS_TEST_AS_USER", if as_user { "1" } else { "0" });
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self {
            child,
            orders,
            answers,
        };
        assert_eq!(server.answer(), "serving");
        server
    }

    /// The test harness has lines of its own on the same output: ours are marked.
    fn answer(&mut self) -> String {
        let lines = self.answers.by_ref().lines();
        let mut marked = lines.filter_map(|line| {
            line.unwrap()
                .split_once("walfs: ")
                .map(|(_, text)| text.to_owned())
        });
        marked.next().expect("the serving process has died")
    }

    fn order(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").unwrap();
        self.answer()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test but the other process of some.
#[test]
#[ignore = "the serving process that the tests of this file start"]
#[allow(clippy::print_stdout, reason = "answers its parent")]
fn serving_process() {
    let Some(path) = std::env::var_os("WALFS_TEST_MOUNTPOINT") else {
        return;
    };
    let user = std::env::var("WALFS_TEST_USER").unwrap();
    let owner = lookup_user(&user).unwrap().owner;
    let as_user = std::env::var("WALFS_TEST_AS_USER").unwrap() == "1";
    if as_user {
        drop_privileges(&user).unwrap();
    }
    let prepared = prepare(Path::new(&path), owner).unwrap();
    let (fuse, mounted) = mount(&prepared.mountpoint, &options("test", owner)).unwrap();
    drop_privileges(&user).unwrap();
    let session = session(fuse);
    std::thread::spawn(move || session.run());
    println!("walfs: serving");
    for order in std::io::stdin().lines() {
        let answer = match order.unwrap().as_str() {
            "unmount" => format!("{:?}", mounted.unmount(PATIENCE)),
            "unmount at once" => format!("{:?}", mounted.unmount(Duration::ZERO)),
            "stat" => format!("{:?}", fs::metadata(&path).map(|found| found.is_dir())),
            other => panic!("unknown order {other}"),
        };
        println!("walfs: {answer}");
    }
}

/// Mounts and serves in a thread of this process; the thread ends with the mount.
fn serve_here(place: &Place, source: &str) -> Mounted {
    let prepared = prepare(&place.path, ROOT).unwrap();
    let (fuse, mounted) = mount(&prepared.mountpoint, &options(source, ROOT)).unwrap();
    let session = session(fuse);
    std::thread::spawn(move || session.run());
    mounted
}

#[test]
fn mount_serves_and_unmounts() {
    let place = Place::new();
    let mounted = serve_here(&place, "s3://bucket/prefix");
    assert_eq!(place.mounted(), ["fuse.walfs"]);
    let entry = mounts()
        .unwrap()
        .into_iter()
        .find(|mount| mount.mountpoint == place.path)
        .unwrap();
    assert_eq!(entry.source, "s3://bucket/prefix");
    assert_eq!(Some(entry.device), mounted.device());
    assert!(entry.options.contains("default_permissions") && !entry.options.contains("allow_other"));
    assert_eq!(
        fs::metadata(&place.path).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::Done);
    assert_eq!(place.mounted(), [""; 0]);
    assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::AlreadyGone);
}

#[test]
fn flags_of_the_mount() {
    let place = Place::new();
    let asked = MountOptions {
        allow_other: true,
        read_only: true,
        ..options("x", ROOT)
    };
    let (_fuse, mounted) = mount(&place.path, &asked).unwrap();
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table
        .lines()
        .find(|line| line.contains(place.path.to_str().unwrap()))
        .unwrap();
    for flag in [
        "ro,",
        "nosuid",
        "nodev",
        "noatime",
        "allow_other",
        "default_permissions",
    ] {
        assert!(line.contains(flag), "{flag} in {line}");
    }
    assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::Done);
}

/// S2: start-up cleans a stale mount by itself. The root directory's attributes are fresh in the kernel's cache for an
/// hour, and the mount belongs to a user whom not even root may speak for: neither may hide that it is dead.
#[test]
fn stale_mount_is_cleaned_at_start() {
    for user in ["root", "postgres"] {
        let place = Place::new();
        let mut server = Server::start(&place, user, false);
        assert_eq!(server.order("stat"), "Ok(true)");
        server.kill();
        assert_eq!(place.mounted(), ["fuse.walfs"], "left behind");
        let prepared = prepare(&place.path, ROOT).unwrap();
        assert_eq!(
            (prepared.cleaned, prepared.mountpoint.as_path()),
            (1, place.path.as_path())
        );
        assert_eq!(place.mounted(), [""; 0]);
        let mounted = serve_here(&place, "again");
        assert!(fs::metadata(&place.path).is_ok());
        assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::Done);
    }
}

#[test]
fn stale_mount_in_use_is_cleaned_too() {
    let place = Place::new();
    let mut server = Server::start(&place, "root", false);
    let held = hold(&place.path);
    server.kill();
    assert_eq!(prepare(&place.path, ROOT).unwrap().cleaned, 1);
    drop(held);
}

/// Keeps a mount in use without asking its server anything.
fn hold(path: &Path) -> fs::File {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .unwrap()
}

#[test]
fn living_mount_is_not_mounted_over() {
    for user in ["root", "postgres"] {
        let place = Place::new();
        let mut server = Server::start(&place, user, false);
        let error = prepare(&place.path, ROOT).unwrap_err();
        assert!(
            matches!(error, Error::AlreadyMounted { answers: true, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("HINT: walfs umount"), "{error}");
        assert_eq!(server.order("stat"), "Ok(true)");
    }
}

#[test]
fn mount_of_somebody_else_is_left_alone() {
    let place = Place::new();
    place.tmpfs();
    let error = prepare(&place.path, ROOT).unwrap_err();
    assert!(
        matches!(&error, Error::OtherFileSystem { fs_type, .. } if fs_type == "tmpfs"),
        "{error}"
    );
    let error = unmount_path(&place.path, PATIENCE).unwrap_err();
    assert!(matches!(error, Error::OtherFileSystem { .. }), "{error}");
    assert_eq!(place.mounted(), ["tmpfs"]);
}

/// W9: a copy into the bare directory may be the only one there is.
#[test]
fn mount_point_with_content_is_refused() {
    let place = Place::new();
    fs::write(place.path.join("000000010000000000000001"), "").unwrap();
    let error = prepare(&place.path, ROOT).unwrap_err();
    assert!(error.to_string().contains("000000010000000000000001"), "{error}");
}

#[test]
fn bare_directory_that_the_archiver_can_write_is_warned_of() {
    let place = Place::new();
    let postgres = lookup_user("postgres").unwrap().owner;
    assert_eq!(prepare(&place.path, postgres).unwrap().warnings, [""; 0]);
    place.give_to(postgres);
    let warnings = prepare(&place.path, postgres).unwrap().warnings;
    assert!(
        warnings.len() == 1 && warnings[0].contains("chmod 0555"),
        "{warnings:?}"
    );
}

/// The story: a daemon whose mount was taken away from outside is still ending when its successor has mounted; mount
/// and device numbers are given out again, lowest first, so the successor's are the same.
#[test]
fn successor_keeps_its_mount() {
    let place = Place::new();
    let first = serve_here(&place, "first");
    unmount_path(&place.path, PATIENCE).unwrap();
    let second = serve_here(&place, "second");
    assert_eq!(first.unmount(PATIENCE).unwrap(), Unmounted::AlreadyGone);
    assert_eq!(place.mounted(), ["fuse.walfs"]);
    assert_eq!(second.unmount(PATIENCE).unwrap(), Unmounted::Done);
}

#[test]
fn mount_covered_by_another_is_said_so() {
    let place = Place::new();
    let mounted = serve_here(&place, "below");
    place.tmpfs();
    let error = mounted.unmount(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Covered { .. }), "{error}");
    assert_eq!(place.mounted(), ["fuse.walfs", "tmpfs"]);
}

#[test]
fn busy_mount_names_who_uses_it_and_goes_when_free() {
    let place = Place::new();
    let mounted = serve_here(&place, "x");
    let mut user = Command::new("cat")
        .current_dir(&place.path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let error = mounted.unmount(Duration::ZERO).unwrap_err();
    let Error::Busy { holders, .. } = &error else {
        panic!("{error}")
    };
    let expected = Holder::Process {
        pid: user.id(),
        command: "cat".into(),
        uses: place.path.clone(),
    };
    assert!(holders.contains(&expected), "{error}");
    let error = unmount_path(&place.path, Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("cat["), "{error}");
    assert_eq!(place.mounted(), ["fuse.walfs"], "never lazily");
    // It leaves while we wait.
    drop(user.stdin.take());
    assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::Done);
    user.wait().unwrap();
}

#[test]
fn odd_names_of_mount_point_and_source() {
    for name in [
        "a b",
        "a,b",
        "line\nbreak",
        "tab\there",
        "back\\slash\\040",
        "-o",
        "ümläut",
        "quo'te\"",
    ] {
        let place = Place::named(name);
        let mounted = serve_here(&place, name);
        let entry = mounts()
            .unwrap()
            .into_iter()
            .find(|mount| mount.mountpoint == place.path)
            .unwrap();
        assert_eq!(entry.source, name);
        assert!(!entry.options.contains("allow_other"));
        assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::Done);
        assert_eq!(place.mounted(), [""; 0]);
    }
}

#[test]
fn source_is_no_way_to_options() {
    let place = Place::new();
    let mounted = serve_here(&place, "x,allow_other,suid");
    let entry = mounts()
        .unwrap()
        .into_iter()
        .find(|mount| mount.mountpoint == place.path)
        .unwrap();
    assert_eq!(entry.source, "x,allow_other,suid");
    assert!(!entry.options.contains("allow_other"));
    mounted.unmount(PATIENCE).unwrap();
}

#[test]
fn umount_command_takes_living_and_dead_mounts_and_nothing_else() {
    let place = Place::new();
    assert!(matches!(
        unmount_path(&place.path, PATIENCE),
        Err(Error::NotMounted { .. })
    ));
    assert!(matches!(
        unmount_path(&place.path.join("gone"), PATIENCE),
        Err(Error::NotMounted { .. })
    ));
    let server = Server::start(&place, "postgres", false);
    unmount_path(&place.path, PATIENCE).unwrap();
    assert_eq!(place.mounted(), [""; 0]);
    drop(server);
    let mut server = Server::start(&place, "postgres", false);
    server.kill();
    unmount_path(&place.path, PATIENCE).unwrap();
    assert_eq!(place.mounted(), [""; 0]);
}

/// The way that the manual recommends: root mounts on root's directory, for postgres, and becomes postgres.
#[test]
fn mounted_by_root_and_served_by_postgres() {
    let place = Place::new();
    let mut server = Server::start(&place, "postgres", false);
    assert_eq!(server.order("stat"), "Ok(true)");
    assert!(fs::metadata(&place.path).is_err(), "S5: not even root gets in");
    assert_eq!(server.order("unmount"), "Ok(Done)");
    assert_eq!(place.mounted(), [""; 0]);
}

#[test]
fn mounted_and_unmounted_by_an_unprivileged_user() {
    let postgres = lookup_user("postgres").unwrap().owner;
    for name in ["mnt", "a b,c", "line\nbreak"] {
        let place = Place::named(name);
        place.give_to(postgres);
        let mut server = Server::start(&place, "postgres", true);
        assert_eq!(place.mounted(), ["fuse.walfs"]);
        assert_eq!(server.order("stat"), "Ok(true)");
        assert_eq!(server.order("unmount"), "Ok(Done)");
        assert_eq!(place.mounted(), [""; 0]);
        assert_eq!(server.order("unmount"), "Ok(AlreadyGone)");
    }
}

#[test]
fn unprivileged_user_cleans_a_stale_mount_and_sees_a_busy_one() {
    let place = Place::new();
    place.give_to(lookup_user("postgres").unwrap().owner);
    let mut first = Server::start(&place, "postgres", true);
    first.kill();
    assert_eq!(place.mounted(), ["fuse.walfs"]);
    let mut second = Server::start(&place, "postgres", true);
    assert_eq!(place.mounted(), ["fuse.walfs"]);
    let held = hold(&place.path);
    let answer = second.order("unmount at once");
    assert!(answer.starts_with("Err(Busy"), "{answer}");
    drop(held);
    assert_eq!(second.order("unmount"), "Ok(Done)");
}

#[test]
fn somebody_elses_device_is_served_and_not_unmounted() {
    let place = Place::new();
    let (fuse, owned) = mount(&place.path, &options("x", ROOT)).unwrap();
    let passed = PathBuf::from(format!("/dev/fd/{}", fuse.as_raw_fd()));
    std::mem::forget(fuse);
    let (fuse, mounted) = mount(&prepare(&passed, ROOT).unwrap().mountpoint, &options("x", ROOT)).unwrap();
    let session = session(fuse);
    std::thread::spawn(move || session.run());
    assert!(fs::metadata(&place.path).is_ok());
    assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::NotOurs);
    assert_eq!(place.mounted(), ["fuse.walfs"]);
    assert_eq!(owned.unmount(PATIENCE).unwrap(), Unmounted::Done);
}

#[test]
fn read_ahead_is_set_for_this_mount() {
    let place = Place::new();
    let mounted = serve_here(&place, "x");
    set_read_ahead_kb(&mounted, 1024).unwrap();
    let device = mounted.device().unwrap();
    let file = format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.major, device.minor);
    assert_eq!(fs::read_to_string(file).unwrap().trim(), "1024");
    mounted.unmount(PATIENCE).unwrap();
}

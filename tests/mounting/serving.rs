//! Something to mount, somewhere to mount it, and somebody who serves it and can be killed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use fuser::SessionACL;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, INodeNo, ReplyAttr, Request, Session,
};
use walfs::linux::kernel::{
    MountOptions, Mounted, Owner, drop_privileges, lookup_user, mount, mounts, prepare,
};

pub(super) const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// Long enough for anything that will happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

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

/// Answers the kernel's first request, then serves in a thread of this process that ends with the mount.
pub(super) fn serve(fuse: OwnedFd) {
    let mut config = Config::default();
    config.n_threads = Some(1);
    let session = Session::from_fd(Nothing, fuse, SessionACL::All, config).unwrap();
    std::thread::spawn(move || session.run());
}

pub(super) fn options(source: &str, owner: Owner) -> MountOptions {
    MountOptions {
        source: source.into(),
        owner,
        allow_other: false,
        read_only: false,
    }
}

/// A directory to mount on. Whatever is still mounted there at the end is taken away.
pub(super) struct Place {
    pub(super) path: PathBuf,
    // Dropped after `Place::drop` has unmounted.
    _dir: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self::named("mnt")
    }

    pub(super) fn named(name: &str) -> Self {
        assert_eq!(
            Owner::of_this_process(),
            ROOT,
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

    pub(super) fn give_to(&self, owner: Owner) {
        std::os::unix::fs::chown(&self.path, Some(owner.uid), Some(owner.gid)).unwrap();
    }

    /// The file systems mounted here: their types, lowest first.
    pub(super) fn mounted(&self) -> Vec<String> {
        let here = mounts()
            .unwrap()
            .into_iter()
            .filter(|mount| mount.mountpoint == self.path);
        here.map(|mount| mount.fs_type).collect()
    }

    pub(super) fn tmpfs(&self) {
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
pub(super) struct Server {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// `user`: whom to mount for; `as_user`: become that user before mounting (then it takes `fusermount3`).
    pub(super) fn start(place: &Place, user: &str, as_user: bool) -> Self {
        let mut command = if as_user {
            with_open_device(place)
        } else {
            Command::new(test_binary())
        };
        command.args([
            "--exact",
            "mounting::serving::serving_process",
            "--ignored",
            "--nocapture",
        ]);
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

    pub(super) fn order(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").unwrap();
        self.answer()
    }

    pub(super) fn kill(&mut self) {
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
    serve(fuse);
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
pub(super) fn serve_here(place: &Place, source: &str) -> Mounted {
    let prepared = prepare(&place.path, ROOT).unwrap();
    let (fuse, mounted) = mount(&prepared.mountpoint, &options(source, ROOT)).unwrap();
    serve(fuse);
    mounted
}

/// Keeps a mount in use without asking its server anything.
pub(super) fn hold(path: &Path) -> fs::File {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .unwrap()
}

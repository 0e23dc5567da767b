//! S9: a log, a terminal or a pipe that is gone ends nothing and changes no exit code. S8: what an archive holds is shown
//! and not obeyed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::common::basebackup::Site;
use super::common::postgres::send;
use super::common::user::{User, is_root, said};
use super::common::wait;
use super::common::wal;
use super::common::walfs::{BINARY, walfs};
use super::common::world::{World, detach, mounts_beneath};

/// A pipe whose reader has gone.
fn gone() -> Stdio {
    let (reader, writer) = io::pipe().expect("make a pipe");
    drop(reader);
    writer.into()
}

/// A mount whose standard error is the test's to choose, and what tries it.
struct Mounted<'a> {
    world: &'a World,
    segments: u64,
}

impl<'a> Mounted<'a> {
    fn new(world: &'a World) -> Self {
        Self { world, segments: 0 }
    }

    fn command(&self) -> Command {
        let mut command = User::caller().command(BINARY);
        command
            .arg("mount")
            .arg(self.world.archive())
            .arg(self.world.mountpoint())
            .env("WALFS_LOG", "debug")
            .stdin(Stdio::null());
        if is_root() {
            command.args(["--user", &User::postgres().name]);
        }
        command
    }

    /// A segment is archived, and something is refused, which is logged.
    #[track_caller]
    fn serves(&mut self) {
        let user = User::postgres();
        self.segments += 1;
        let name = wal::segment_name(1, self.segments, 1 << 20);
        let content = wal::segment(&name, 7, 1 << 20, 1);
        let source = self.world.owned_file(&name, &content);
        wait::until("the mount to answer", || {
            let copied = user.shell(
                r#"test -d "$2/wal" && cp "$1" "$2/wal/""#,
                &[&source, &self.world.mountpoint()],
            );
            copied.status.success().then_some(())
        });
        let odd = user.shell(r#"cp "$1" "$2/wal/odd""#, &[&source, &self.world.mountpoint()]);
        assert!(!odd.status.success(), "{}", said(&odd));
    }

    #[track_caller]
    fn unmount(&self) {
        let output = Command::new(BINARY)
            .arg("umount")
            .arg(self.world.mountpoint())
            .output()
            .expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// With 64 KiB of room, of which nothing is left.
struct FullDisk(PathBuf);

impl FullDisk {
    fn new(world: &World) -> Self {
        let place = world.owned_dir("full");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=0777", "tmpfs"])
            .arg(&place)
            .status();
        assert!(mounted.expect("run mount").success(), "mount a small disk");
        let disk = Self(place);
        disk.fill();
        disk
    }

    fn fill(&self) {
        let mut filler = File::create(self.0.join("filler")).expect("make the filler");
        io::copy(&mut io::repeat(b'x'), &mut filler).expect_err("the disk to be full");
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        detach(&self.0);
    }
}

#[test]
fn s9_mount_outlives_its_log() {
    let world = World::new("nolog");
    let mut mounted = Mounted::new(&world);
    for stderr in [
        gone(),
        File::options()
            .write(true)
            .open("/dev/full")
            .expect("open")
            .into(),
    ] {
        let mut daemon = mounted
            .command()
            .stdout(gone())
            .stderr(stderr)
            .spawn()
            .expect("run walfs");
        mounted.serves();
        mounted.serves();
        send(daemon.id(), libc::SIGHUP);
        mounted.serves();
        send(daemon.id(), libc::SIGTERM);
        assert_eq!(wait::for_exit("walfs to end", &mut daemon).code(), Some(0));
    }
    // Nobody reads it: it is full after a while, and blocks whoever goes on writing.
    let (reader, writer): (PipeReader, _) = io::pipe().expect("make a pipe");
    let mut daemon = mounted
        .command()
        .stdout(gone())
        .stderr(writer)
        .spawn()
        .expect("run walfs");
    mounted.serves();
    let odd =
        r#"for i in $(seq 400); do mkdir "$1/wal/no-such-name-as-this-$i" 2>&- && exit 1; done; exit 0"#;
    for _ in 0..2 {
        assert!(
            User::postgres()
                .shell(odd, &[&world.mountpoint()])
                .status
                .success()
        );
    }
    mounted.serves();
    send(daemon.id(), libc::SIGTERM);
    assert_eq!(wait::for_exit("walfs to end", &mut daemon).code(), Some(0));
    drop(reader);
}

#[test]
fn s9_mount_outlives_its_terminal() {
    let world = World::new("noterm");
    let mut mounted = Mounted::new(&world);
    let (mut master, mut slave) = (0, 0);
    // SAFETY: two places for a number each; no name, settings or size are asked for.
    let opened = unsafe {
        libc::openpty(
            &mut master,
            &mut slave,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    assert_eq!(opened, 0, "open a terminal");
    // SAFETY: openpty has just opened them for us.
    let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let mut command = mounted.command();
    command
        .stdout(slave.try_clone().expect("share the terminal"))
        .stderr(slave);
    // SAFETY: setsid and ioctl are async-signal-safe; standard error is the terminal by then.
    unsafe {
        command.pre_exec(|| match libc::setsid() | libc::ioctl(2, libc::TIOCSCTTY, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        })
    };
    let mut daemon = command.spawn().expect("run walfs");
    drop(command);
    mounted.serves();
    drop(master);
    mounted.serves();
    send(daemon.id(), libc::SIGTERM);
    assert_eq!(wait::for_exit("walfs to end", &mut daemon).code(), Some(0));
}

#[test]
fn s9_daemon_starts_while_the_disk_of_its_log_is_full() {
    let world = World::new("fulllog");
    let mut mounted = Mounted::new(&world);
    let disk = FullDisk::new(&world);
    let log = disk.0.join("walfs.log");
    let start = |mounted: &Mounted<'_>, log: &Path| {
        let mut command = mounted.command();
        command
            .arg("--daemon")
            .arg("--log-file")
            .arg(log)
            .output()
            .expect("run walfs")
    };
    let started = start(&mounted, &log);
    assert!(started.status.success(), "{}", said(&started));
    mounted.serves();
    fs::remove_file(disk.0.join("filler")).expect("make room");
    mounted.serves();
    let lines = fs::read_to_string(&log).expect("read the log");
    assert!(
        lines.contains("lines were dropped") && lines.contains("odd is no name"),
        "{lines}"
    );
    let (written, user) = (fs::metadata(&log).expect("look at the log"), User::postgres());
    assert_eq!((written.uid(), written.mode() & 0o777), (user.uid, 0o600));
    // logrotate(8) renames it, and sends SIGHUP.
    fs::rename(&log, disk.0.join("walfs.log.1")).expect("rename the log");
    send(daemon_of(&log), libc::SIGHUP);
    wait::until("a new log", || log.exists().then_some(()));
    mounted.unmount();
    // Neither a link nor a file that only root may write: the mount's user opens it.
    let target = world.path().join("roots");
    fs::write(&target, "").expect("make a file of root's");
    let link = world.owned_dir("theirs").join("log");
    std::os::unix::fs::symlink(&target, &link).expect("make a link");
    for (log, word) in [(&link, "symbolic link"), (&target, "Permission denied")] {
        let refused = start(&mounted, log);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        let text = said(&refused);
        assert!(text.contains("HINT"), "{text}");
        assert_eq!(text.matches(word).count(), 1, "said once: {text}");
        assert!(mounts_beneath(&world.mountpoint()).is_empty());
    }
    assert_eq!(fs::read(&target).expect("read it"), b"");
}

/// The process that was started with this log.
#[track_caller]
fn daemon_of(log: &Path) -> u32 {
    let processes = fs::read_dir("/proc").expect("list processes").flatten();
    let mut numbers = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let has_log = |number: &u32| {
        let words = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&log.display().to_string())
    };
    numbers.find(has_log).expect("walfs runs")
}

/// A daemon that keeps no log says so where it is started.
#[test]
fn daemon_without_a_log_says_so() {
    let world = World::new("silent");
    let mounted = Mounted::new(&world);
    let started = mounted.command().arg("--daemon").output().expect("run walfs");
    assert!(started.status.success(), "{}", said(&started));
    assert!(
        said(&started).contains("no log is kept\nHINT: --log-file"),
        "{}",
        said(&started)
    );
    mounted.unmount();
}

/// Runs it with standard output and error gone, and returns its exit code.
fn unheard(command: &mut Command) -> Option<i32> {
    let status = command
        .stdout(gone())
        .stderr(gone())
        .env("WALFS_LOG", "debug")
        .status();
    status.expect("run walfs").code()
}

#[test]
fn s9_commands_keep_their_exit_codes() {
    let world = World::new("unheard");
    let site = Site::local(&world);
    let dir = world.owned_dir("restored");
    assert_eq!(
        unheard(site.walfs("backup").args(["--fast", "--json", "b"])),
        Some(0)
    );
    let restored = dir.join("data");
    let mut restore = site.walfs("restore");
    restore.arg("--no-archiving").arg("b").arg(&restored);
    assert_eq!(unheard(&mut restore), Some(0));
    assert_eq!(
        unheard(site.walfs("restore").arg("no-such-backup").arg(dir.join("x"))),
        Some(1)
    );
    for (command, arguments) in [
        ("wal-list", &[][..]),
        ("backup-list", &[]),
        ("backup-list", &["--json"]),
        ("backup-show", &["b"]),
    ] {
        assert_eq!(unheard(site.walfs(command).args(arguments)), Some(0), "{command}");
        let full = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("open /dev/full");
        let output = site
            .walfs(command)
            .args(arguments)
            .stdout(full)
            .output()
            .expect("run walfs");
        assert_eq!(output.status.code(), Some(1), "{command}: {}", said(&output));
        assert!(
            said(&output).contains("cannot write standard output"),
            "{}",
            said(&output)
        );
    }
    let fetched = dir.join("fetched");
    let archived = site.server.archive_all();
    for (name, code) in [
        (archived.as_str(), 0),
        ("0000000100000000000000FE", 1),
        ("odd", 255),
    ] {
        assert_eq!(
            unheard(site.walfs("wal-fetch").arg(name).arg(&fetched)),
            Some(code),
            "{name}"
        );
    }
    let mut config = walfs(&world, &User::postgres());
    assert_eq!(
        unheard(config.args(["postgres-config", "--mountpoint", "/mnt/walfs"])),
        Some(0)
    );
    assert_eq!(unheard(walfs(&world, &User::postgres()).arg("--help")), Some(0));
    assert_eq!(
        unheard(walfs(&world, &User::postgres()).arg("--no-such-option")),
        Some(2)
    );
}

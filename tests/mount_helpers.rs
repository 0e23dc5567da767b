//! What brings a mount up at boot, driven as a machine does it: mount(8) with `/sbin/mount.walfs`, fstab, systemd's
//! `Type=notify`, `--daemon`, and a `/dev/fuse` that somebody else has opened.
//!
//! Needs root. `/sbin/mount.walfs` is put there for as long as a test runs; one that is there already is left alone
//! if it is the one of `mount-helpers/`, and is an error if it is not.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use walfs::linux::kernel::{self, MountOptions, Owner};

use crate::common::postgres::send;
use crate::common::user::{User, is_root, said, succeeds};
use crate::common::walfs::{BINARY, walfs};
use crate::common::world::{World, helper, mounts_beneath};
use crate::common::{wait, wal};

const SEGMENT: &str = "000000010000000000000001";
const HELPER: &str = "/sbin/mount.walfs";

/// `/sbin/mount.walfs` while it lives. One at a time on this machine, whichever test binary it is.
struct Installed {
    _alone: File,
    ours: bool,
}

impl Installed {
    fn new() -> Installed {
        assert!(is_root(), "these tests mount: run them as root (make test does)");
        let lock =
            File::create(std::env::temp_dir().join("walfs-test-mount-helper.lock")).expect("a lock file");
        lock.lock().expect("lock it");
        let text = fs::read(helper("mount.walfs")).expect("read mount-helpers/mount.walfs");
        let ours = !Path::new(HELPER).exists();
        if ours {
            fs::write(HELPER, text).expect("install the helper");
            fs::set_permissions(HELPER, fs::Permissions::from_mode(0o755)).expect("make it a program");
        } else {
            let there = fs::read(HELPER).expect("read the helper that is there");
            assert!(
                there == text,
                "{HELPER} is another one\nHINT: remove it to test this one"
            );
        }
        Installed { _alone: lock, ours }
    }

    /// mount(8) with these words, as root.
    fn mount(&self, words: &[&str]) -> Output {
        let mut mount = Command::new("mount");
        mount.env("WALFS", BINARY).args(words).stdin(Stdio::null());
        mount.output().expect("run mount")
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if self.ours {
            fs::remove_file(HELPER).expect("remove the helper");
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn is_mounted(world: &World) -> bool {
    mounts_beneath(world.path()).contains(&world.mountpoint())
}

/// Looks once, without waiting for anything to come up. `timeout` ends a look that hangs.
fn names_in_wal(world: &World) -> String {
    let listed = User::postgres().shell(r#"timeout -s KILL 60 ls "$1/wal""#, &[&world.mountpoint()]);
    assert!(listed.status.success(), "ls: {}", said(&listed));
    String::from_utf8(listed.stdout).expect("UTF-8")
}

fn archive_a_segment(world: &World) {
    let content = wal::segment(SEGMENT, 7, wal::SEGMENT_BYTES, 1);
    let source = world.owned_file(SEGMENT, &content);
    let copied = User::postgres().shell(r#"cp "$1" "$2/wal/""#, &[&source, &world.mountpoint()]);
    assert!(copied.status.success(), "cp: {}", said(&copied));
}

/// Unmounts with umount(8), and waits for the daemon to say that it has noticed.
fn umount(world: &World, log: &Path) {
    let output = Command::new("umount")
        .arg(world.mountpoint())
        .output()
        .expect("run umount");
    assert!(output.status.success(), "umount: {}", said(&output));
    assert!(!is_mounted(world));
    wait::until("the daemon to end", || {
        fs::read_to_string(log)
            .is_ok_and(|log| log.contains("was unmounted"))
            .then_some(())
    });
}

#[test]
fn mount_command_returns_once_the_archive_is_there() {
    let (helper, world) = (Installed::new(), World::new("mount8"));
    let (archive, mountpoint) = (text(&world.archive()), text(&world.mountpoint()));
    let log = log_of(&world);
    let options = format!(
        "create,user=postgres,deadline=40s,noatime,log_file={}",
        log.display()
    );
    let output = helper.mount(&["-t", "walfs", &archive, &mountpoint, "-o", &options]);
    assert!(output.status.success(), "mount: {}", said(&output));
    assert_eq!(names_in_wal(&world), "");
    archive_a_segment(&world);
    assert_eq!(names_in_wal(&world), format!("{SEGMENT}\n"));
    umount(&world, &log);
}

#[test]
fn line_of_fstab_is_mounted_and_unmounted_by_its_directory() {
    let (helper, world) = (Installed::new(), World::new("fstab"));
    let log = log_of(&world);
    let fstab = world.path().join("fstab");
    let line = format!(
        "{} {} walfs setuid=postgres,create,_netdev,nofail,x-systemd.before=postgresql.service,log_file={} 0 0\n",
        text(&world.archive()),
        text(&world.mountpoint()),
        text(&log)
    );
    fs::write(&fstab, line).expect("write fstab");
    let output = helper.mount(&["-T", &text(&fstab), &text(&world.mountpoint())]);
    assert!(output.status.success(), "mount: {}", said(&output));
    assert_eq!(names_in_wal(&world), "");
    umount(&world, &log);
}

#[test]
fn mount_command_says_why_it_did_not_mount() {
    let (helper, world) = (Installed::new(), World::new("mount8no"));
    let (archive, mountpoint) = (text(&world.archive()), text(&world.mountpoint()));
    let no_archive = text(&world.owned_file("file", b"no directory"));
    let refused = |words: &[&str], code: i32, why: &str| {
        let output = helper.mount(words);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(why), "{why}: {}", said(&output));
        assert!(!is_mounted(&world));
    };
    refused(
        &["-t", "walfs", &no_archive, &mountpoint, "-o", "setuid=postgres"],
        32,
        &no_archive,
    );
    refused(
        &["-t", "walfs", &archive, &mountpoint, "-o", "speed=11"],
        1,
        "speed=11",
    );
    refused(
        &["-t", "walfs", &archive, &mountpoint, "-o", "deadline=soon"],
        1,
        "soon",
    );
    refused(
        &["-t", "walfs", &archive, &mountpoint, "-o", "setuid=no-such-user"],
        32,
        "no-such-user",
    );
}

#[test]
fn sloppy_ignores_unknown_options_and_fake_mounts_nothing() {
    let (helper, world) = (Installed::new(), World::new("mount8sf"));
    let (archive, mountpoint) = (text(&world.archive()), text(&world.mountpoint()));
    let output = helper.mount(&["-f", "-t", "walfs", &archive, &mountpoint]);
    assert!(
        output.status.success() && !is_mounted(&world),
        "{}",
        said(&output)
    );
    let log = log_of(&world);
    let options = format!(
        "speed=11,create,path_style,setuid=postgres,log_file={}",
        log.display()
    );
    let output = helper.mount(&["-s", "-t", "walfs", &archive, &mountpoint, "-o", &options]);
    assert!(output.status.success(), "mount: {}", said(&output));
    assert_eq!(names_in_wal(&world), "");
    umount(&world, &log);
}

fn walfs_mount(world: &World, archive: &str, mountpoint: &Path) -> Command {
    let mut command = User::caller().command(BINARY);
    command
        .args(["mount", "--user", "postgres", archive])
        .arg(mountpoint);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file(world));
    command
}

/// Where the mount's user can make one.
fn log_of(world: &World) -> PathBuf {
    world.owned_dir("log").join("walfs.log")
}

fn log_file(world: &World) -> File {
    let mut options = File::options();
    let log = options
        .append(true)
        .create(true)
        .open(world.path().join("walfs.log"));
    log.expect("open the log")
}

/// Ended with the test, whatever becomes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has ended, as it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where systemd would listen.
struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Supervisor {
    fn new(world: &World) -> Supervisor {
        let path = world.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind a socket");
        // The daemon is user postgres by the time it says something.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("let postgres write");
        socket.set_read_timeout(Some(wait::LONG)).expect("set a time-out");
        Supervisor { socket, path }
    }

    /// The next message that is none of `skipped`.
    #[track_caller]
    fn hears(&self, skipped: &str) -> String {
        loop {
            let mut message = [0; 1024];
            let bytes = self.socket.recv(&mut message).expect("walfs to say something");
            let text = String::from_utf8_lossy(&message[..bytes]).trim().to_owned();
            if text != skipped {
                return text;
            }
        }
    }

    fn has_heard_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).expect("do not wait");
        self.socket.recv(&mut [0; 64]).is_err()
    }
}

#[test]
fn systemd_hears_ready_when_the_mount_answers_and_stopping_at_sigterm() {
    let world = World::new("notify");
    let supervisor = Supervisor::new(&world);
    let mut command = walfs_mount(&world, &text(&world.archive()), &world.mountpoint());
    command
        .env("NOTIFY_SOCKET", &supervisor.path)
        .env("WATCHDOG_USEC", "200000");
    let mut daemon = Running(command.spawn().expect("run walfs"));
    assert_eq!(supervisor.hears(""), "READY=1");
    assert_eq!(names_in_wal(&world), "");
    assert_eq!(supervisor.hears(""), "WATCHDOG=1");
    assert_eq!(supervisor.hears(""), "WATCHDOG=1");
    send(daemon.0.id(), libc::SIGTERM);
    assert_eq!(supervisor.hears("WATCHDOG=1"), "STOPPING=1");
    let status = wait::for_exit("walfs to end", &mut daemon.0);
    assert!(status.success() && !is_mounted(&world), "{status}");
}

#[test]
fn systemd_hears_that_an_agent_is_well() {
    let world = World::new("notify-agent");
    let supervisor = Supervisor::new(&world);
    let mut command = walfs(&world, &User::postgres());
    command.args(["agent", "--create", "--schedule-verify", "1h", "--archive"]);
    command.arg(world.archive()).stderr(Stdio::null());
    command
        .env("NOTIFY_SOCKET", &supervisor.path)
        .env("WATCHDOG_USEC", "200000");
    let mut agent = Running(command.spawn().expect("run walfs"));
    assert_eq!(supervisor.hears(""), "READY=1");
    assert_eq!(supervisor.hears(""), "WATCHDOG=1");
    assert_eq!(supervisor.hears(""), "WATCHDOG=1");
    send(agent.0.id(), libc::SIGTERM);
    assert_eq!(supervisor.hears("WATCHDOG=1"), "STOPPING=1");
    let status = wait::for_exit("walfs to end", &mut agent.0);
    assert!(status.success(), "{status}");
}

#[test]
fn systemd_does_not_hear_ready_from_a_mount_without_its_archive() {
    let world = World::new("notready");
    let supervisor = Supervisor::new(&world);
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("its address"));
    let mut command = walfs_mount(&world, "s3://bucket/prefix", &world.mountpoint());
    command.args(["--deadline", "1s", "--endpoint", &endpoint]);
    command
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "hush-hush");
    command.env("NOTIFY_SOCKET", &supervisor.path);
    let mut daemon = Running(command.spawn().expect("run walfs"));
    let status = wait::for_exit("walfs to give up", &mut daemon.0);
    assert_eq!(status.code(), Some(1));
    assert!(supervisor.has_heard_nothing() && !is_mounted(&world));
    let log = fs::read_to_string(world.path().join("walfs.log")).expect("read the log");
    assert!(
        log.contains("s3://bucket/prefix") && log.contains(&endpoint),
        "{log}"
    );
    assert!(!log.contains("hush-hush"), "{log}");
}

#[test]
fn sigterm_while_the_store_is_silent_leaves_no_dead_mount() {
    let world = World::new("early");
    let silent = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("its address"));
    let mut command = walfs_mount(&world, "s3://bucket/prefix", &world.mountpoint());
    command.args(["--endpoint", &endpoint]);
    command
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "hush-hush");
    let mut daemon = Running(command.spawn().expect("run walfs"));
    // Then it is mounted, and asks its store.
    let _asked = silent.accept().expect("walfs to ask");
    send(daemon.0.id(), libc::SIGTERM);
    let status = wait::for_exit("walfs to end", &mut daemon.0);
    assert_eq!(status.code(), Some(1));
    assert!(!is_mounted(&world), "a dead mount was left");
}

#[test]
fn daemon_option_returns_when_the_mount_answers() {
    let world = World::new("daemon");
    let log = log_of(&world);
    let mut command = walfs_mount(&world, &text(&world.archive()), &world.mountpoint());
    command.arg("--daemon").arg("--log-file").arg(&log);
    let status = command.status().expect("run walfs");
    assert!(status.success(), "{status}");
    assert_eq!(names_in_wal(&world), "");
    archive_a_segment(&world);
    let again = Command::new(BINARY)
        .arg("umount")
        .arg(world.mountpoint())
        .output();
    let again = again.expect("run walfs umount");
    assert!(again.status.success(), "{}", said(&again));
    wait::until("the daemon to end", || {
        fs::read_to_string(&log)
            .is_ok_and(|log| log.contains("was unmounted"))
            .then_some(())
    });
}

#[test]
fn daemon_option_tells_why_there_is_no_mount() {
    let world = World::new("nodaemon");
    let no_archive = text(&world.owned_file("file", b"no directory"));
    let mut command = walfs_mount(&world, &no_archive, &world.mountpoint());
    let output = command
        .arg("--daemon")
        .stderr(Stdio::piped())
        .output()
        .expect("run walfs");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains(&no_archive) && said(&output).contains("HINT"),
        "{}",
        said(&output)
    );
    assert!(!is_mounted(&world));
}

#[test]
fn device_opened_by_somebody_else_is_served_and_left_mounted() {
    let world = World::new("devfd");
    let postgres = User::postgres();
    let options = MountOptions {
        source: "by the test".into(),
        owner: Owner {
            uid: postgres.uid,
            gid: postgres.gid,
        },
        allow_other: false,
        read_only: false,
    };
    let (fuse, mounted) = kernel::mount(&world.mountpoint(), &options).expect("mount");
    let number = fuse.as_raw_fd();
    let passed = PathBuf::from(format!("/dev/fd/{number}"));
    let mut command = walfs_mount(&world, &text(&world.archive()), &passed);
    // SAFETY: fcntl is async-signal-safe, and the number stays open until the program is started.
    unsafe {
        command.pre_exec(move || match libc::fcntl(number, libc::F_SETFD, 0) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        })
    };
    let mut daemon = Running(command.spawn().expect("run walfs"));
    drop(fuse);
    // Waits in the kernel until walfs answers.
    assert_eq!(names_in_wal(&world), "");
    archive_a_segment(&world);
    send(daemon.0.id(), libc::SIGTERM);
    let status = wait::for_exit("walfs to end", &mut daemon.0);
    assert!(status.success(), "{status}");
    assert!(is_mounted(&world), "walfs unmounted what it had not mounted");
    mounted.unmount(wait::LONG).expect("unmount");
}

/// A unit of systemd, with its continued lines put together.
fn unit(name: &str) -> String {
    let unit = fs::read_to_string(helper(name)).unwrap_or_else(|error| panic!("read {name}: {error}"));
    unit.replace("\\\n", " ")
}

/// The values of a setting in it.
fn set<'a>(unit: &'a str, setting: &str) -> &'a str {
    let mut lines = unit.lines();
    let found = lines.find_map(|line| line.strip_prefix(setting)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{setting}= is not in the unit"))
}

#[test]
fn systemd_takes_the_units() {
    let world = World::new("units");
    // `systemd-analyze security --offline=yes` of systemd 252 says 5.0 and 1.6, of 10: a bound, in tenths, so that nothing
    // is loosened unnoticed. The first cannot have a mount namespace of its own, and has to be root until it has mounted.
    for (name, exposed) in [("walfs@", "52"), ("walfs-agent@", "20")] {
        let file = world.path().join(format!("{name}.service"));
        // Its program has to be there.
        let text =
            unit(&format!("{name}.service")).replace("ExecStart=walfs ", &format!("ExecStart={BINARY} "));
        fs::write(&file, text).expect("write a unit");
        let analyze = |words: &[&str]| {
            let mut analyze = User::caller().command("systemd-analyze");
            succeeds(analyze.args(words).arg(&file))
        };
        assert_eq!(analyze(&["verify", "--man=no"]), "");
        analyze(&["security", "--offline=yes", "--threshold", exposed]);
    }
}

#[test]
fn mount_unit_reads_its_configuration_or_the_environment() {
    let world = World::new("unit");
    let programs = world.path().join("bin");
    fs::create_dir(&programs).expect("make a directory");
    let fake = programs.join("walfs");
    fs::write(&fake, "#!/bin/sh\nfor word; do echo \"[$word]\"; done\n").expect("write a program");
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("make it a program");
    let unit = unit("walfs@.service");
    let line = set(&unit, "ExecStart");
    let (script, words) = line
        .strip_prefix("/bin/sh -c '")
        .expect("a shell")
        .split_once("' ")
        .expect("words");
    let script = script.replace("$$", "$");
    let configuration = world.path().join("main.toml");
    assert_eq!(words, "walfs@%i /etc/walfs/%i.toml");
    let runs = |environment: &[(&str, &str)]| {
        let mut sh = User::caller().command("/bin/sh");
        sh.arg("-c").arg(&script).arg("walfs@main").arg(&configuration);
        sh.env("PATH", &programs).envs(environment.iter().copied());
        succeeds(&mut sh).replace('\n', " ")
    };
    let named = format!("[--config] [{}] [mount] ", configuration.display());
    let archive = ("WALFS_ARCHIVE", "s3://bucket/prefix");
    // As it was before there were configurations: all in main.env.
    assert_eq!(runs(&[archive]), "[mount] [--user=postgres] ");
    let more = ("WALFS_OPTIONS", "--region=eu  --log-file=/*");
    assert_eq!(
        runs(&[archive, ("WALFS_USER", "archiver"), more]),
        "[mount] [--user=archiver] [--region=eu] [--log-file=/*] "
    );
    // Neither: walfs says which file is missing, and mounts nothing else.
    assert_eq!(runs(&[]), named);
    fs::write(&configuration, "").expect("write a file");
    assert_eq!(runs(&[]), named);
    assert_eq!(
        runs(&[archive, ("WALFS_OPTIONS", "--region=eu")]),
        format!("{named}[--region=eu] ")
    );
}

#[test]
fn capabilities_of_the_mount_unit_suffice() {
    let world = World::new("bounded");
    let supervisor = Supervisor::new(&world);
    let unit = unit("walfs@.service");
    let bounded = set(&unit, "CapabilityBoundingSet")
        .replace(' ', ",")
        .replace("CAP_", "+");
    let (archive, mountpoint) = (world.archive(), world.mountpoint());
    let configuration =
        format!("archive = {archive:?}\nmountpoint = {mountpoint:?}\nuser = \"postgres\"\ncreate = true\n");
    // It, and the mount point, are another user's: walfs is root when it reads them.
    let configuration = world.owned_file("main.toml", configuration.as_bytes());
    User::postgres().own(&mountpoint);
    for closed in [&configuration, &mountpoint] {
        fs::set_permissions(closed, fs::Permissions::from_mode(0o500)).expect("close it");
    }
    let mut command = User::caller().command("setpriv");
    command.arg(format!("--bounding-set=-all,{}", bounded.to_lowercase()));
    command
        .arg(BINARY)
        .arg("--config")
        .arg(&configuration)
        .arg("mount");
    command
        .env("NOTIFY_SOCKET", &supervisor.path)
        .stderr(log_file(&world));
    let mut daemon = Running(command.spawn().expect("run setpriv"));
    assert_eq!(supervisor.hears(""), "READY=1");
    archive_a_segment(&world);
    // It is postgres by now, and unmounts by fusermount3.
    send(daemon.0.id(), libc::SIGTERM);
    let status = wait::for_exit("walfs to end", &mut daemon.0);
    assert!(status.success() && !is_mounted(&world), "{status}");
}

#[test]
fn agent_unit_mounts_nothing_and_needs_no_capability() {
    let world = World::new("agent-unit");
    let supervisor = Supervisor::new(&world);
    let unit = unit("walfs-agent@.service");
    let configuration = format!(
        "archive = {:?}\nmountpoint = {:?}\nuser = \"postgres\"\nschedule-verify = \"@yearly\"\n",
        world.archive(),
        world.mountpoint()
    );
    let configuration = world.owned_file("main.toml", configuration.as_bytes());
    let line = set(&unit, "ExecStart").replace("/etc/walfs/%i.toml", &text(&configuration));
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("walfs"));
    assert_eq!(set(&unit, "CapabilityBoundingSet"), "");
    assert_eq!(set(&unit, "User"), "postgres");
    let mut command = User::caller().command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command.arg(world.public_program(Path::new(BINARY))).args(words);
    command
        .env("NOTIFY_SOCKET", &supervisor.path)
        .stderr(log_file(&world));
    let mut agent = Running(command.spawn().expect("run setpriv"));
    assert_eq!(supervisor.hears(""), "READY=1");
    assert!(!is_mounted(&world));
    send(agent.0.id(), libc::SIGTERM);
    let status = wait::for_exit("walfs to end", &mut agent.0);
    assert!(status.success(), "{status}");
    let log = fs::read_to_string(world.path().join("walfs.log")).expect("read the log");
    assert!(!log.contains("mount"), "{log}");
}

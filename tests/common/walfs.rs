//! Drives the `walfs` binary: a mount in the foreground whose log goes to a file, to be killed, stopped and started
//! again as a machine or an administrator would. As root the mount is made for user postgres; only that user sees
//! inside, so everything here that looks does so as that user.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use super::postgres::send;
use super::user::{User, is_root, said};
use super::wait;
use super::world::{World, detach, mounts_beneath};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_walfs");

/// A `walfs` command with an environment that holds nothing of the caller's (no `AWS_*` from outside), as `user`.
pub fn walfs(world: &World, user: &User) -> Command {
    let mut command = user.command(world.public_program(Path::new(BINARY)));
    command.env("RUST_BACKTRACE", "1");
    command
}

/// What to mount and how; [`Options::mount`] does it.
#[derive(Clone, Debug)]
pub struct Options {
    archive: String,
    mountpoint: PathBuf,
    log: PathBuf,
    /// Whom the mount belongs to.
    pub user: User,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Options {
    /// The local archive of this world at its mount point.
    pub fn local(world: &World) -> Options {
        Options::of(world, &world.archive().display().to_string())
    }

    /// `s3://bucket/prefix` in the store at `endpoint`, with its credentials in the environment.
    pub fn s3(world: &World, archive: &str, endpoint: &str, environment: &[(String, String)]) -> Options {
        let options = Options::of(world, archive).args(&["--endpoint", endpoint]);
        environment
            .iter()
            .fold(options, |options, (name, value)| options.env(name, value))
    }

    /// The archive of this name: `s3://bucket/prefix` or a directory.
    pub fn of(world: &World, archive: &str) -> Options {
        let (mountpoint, log) = (world.mountpoint(), world.path().join("walfs.log"));
        let user = User::postgres();
        Options {
            archive: archive.into(),
            mountpoint,
            log,
            user,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// More arguments of `walfs mount`.
    pub fn args(mut self, arguments: &[&str]) -> Options {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// One more variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Options {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// At another place than the world's `mnt/`; the directory exists.
    pub fn at(mut self, mountpoint: &Path) -> Options {
        self.mountpoint = mountpoint.into();
        self.log = mountpoint.with_extension("log");
        self
    }

    /// Mounts, and returns when the mount answers; panics with the log if it never does.
    #[track_caller]
    pub fn mount(self) -> Mount {
        let mut mount = Mount {
            options: self,
            daemon: None,
        };
        mount.start();
        mount
    }

    /// Runs a mount that is expected to be refused, and returns what it said.
    #[track_caller]
    pub fn refused(&self) -> Output {
        let mut daemon = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run walfs");
        let ended = wait::within(wait::LONG, || daemon.try_wait().expect("wait for walfs"));
        if ended.is_none() {
            daemon.kill().expect("kill walfs");
        }
        let output = daemon.wait_with_output().expect("read what walfs said");
        assert!(
            ended.is_some_and(|status| !status.success()),
            "mount was not refused: {}",
            said(&output)
        );
        output
    }

    fn command(&self) -> Command {
        let mut command = User::caller().command(BINARY);
        command
            .env("RUST_BACKTRACE", "1")
            .arg("mount")
            .arg(&self.archive)
            .arg(&self.mountpoint);
        if is_root() {
            command.args(["--user", &self.user.name]);
        }
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// What an optimised walfs has of its program in memory, in KiB, as a mount at rest tells: the one that is tried is not optimised,
/// and has two and a half times that.
const PROGRAM_KIB: u64 = 16 << 10;

/// The most memory that a process has had so far, in MiB: `VmHWM`, with an optimised program. `None` if it has ended.
pub fn peak_memory_mib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let of_program = kib("RssFile:")?.saturating_sub(PROGRAM_KIB);
    Some(kib("VmHWM:")?.saturating_sub(of_program) >> 10)
}

/// Runs a command that must succeed, and gives the most memory that it had, in MiB.
#[track_caller]
pub fn peak_of(command: &mut Command) -> u64 {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run walfs");
    let mut peak = 0;
    while child.try_wait().expect("wait for walfs").is_none() {
        peak = peak_memory_mib(child.id()).unwrap_or(peak);
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("read what walfs said");
    assert!(output.status.success(), "{}", said(&output));
    peak
}

/// A mount, and the daemon that serves it.
#[derive(Debug)]
pub struct Mount {
    options: Options,
    daemon: Option<Child>,
}

impl Mount {
    /// Mounts the local archive of this world.
    #[track_caller]
    pub fn local(world: &World) -> Mount {
        Options::local(world).mount()
    }

    /// Starts the daemon and waits until its mount answers.
    #[track_caller]
    fn start(&mut self) {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.options.log)
            .expect("open the log");
        let mut command = self.options.command();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log);
        self.daemon = Some(command.spawn().expect("run walfs"));
        let answers = wait::within(wait::LONG, || match (self.is_running(), self.answers()) {
            (false, _) => Some(false),
            (true, true) => Some(true),
            (true, false) => None,
        });
        assert!(
            answers == Some(true),
            "walfs did not mount: {:?}\n{}",
            self.daemon.as_mut().map(Child::try_wait),
            wait::tail(&self.options.log, 40)
        );
    }

    /// Whether the daemon opens a file. A look at `wal/` would not do: for some seconds the kernel answers it out of its
    /// memory, for a dead mount as well, which the daemon is about to replace. `timeout` ends a look that hangs.
    fn answers(&self) -> bool {
        let mounted = mounts_beneath(&self.options.mountpoint).contains(&self.options.mountpoint);
        let mut cat = self.options.user.command("timeout");
        cat.args(["-s", "KILL", "10", "cat"])
            .arg(self.options.mountpoint.join(".walfs/version"));
        mounted && cat.output().expect("run cat").status.success()
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.options.mountpoint
    }

    /// Its `wal/`.
    pub fn wal(&self) -> PathBuf {
        self.options.mountpoint.join("wal")
    }

    /// Whom it belongs to.
    pub fn user(&self) -> &User {
        &self.options.user
    }

    /// `walfs COMMAND` on its archive, as its user.
    pub fn command(&self, world: &World, command: &str) -> Command {
        let mut walfs = walfs(world, self.user());
        let environment = self.options.environment.iter();
        walfs.envs(environment.map(|(name, value)| (name, value))).args([
            command,
            "--archive",
            &self.options.archive,
        ]);
        walfs
    }

    /// What to write into postgresql.conf to archive here: plain `cp`.
    pub fn archive_command(&self) -> String {
        format!("cp %p {}/%f", self.wal().display())
    }

    /// The shortest command that restores from here. The safer one is printed by `walfs postgres-config`.
    pub fn restore_command(&self) -> String {
        format!("cp {}/%f %p", self.wal().display())
    }

    /// The names in `wal/`, as `ls` gives them.
    #[track_caller]
    pub fn list(&self) -> Vec<String> {
        let output = self.options.user.shell(r#"ls -A "$1""#, &[&self.wal()]);
        assert!(output.status.success(), "ls: {}", said(&output));
        String::from_utf8(output.stdout)
            .expect("UTF-8")
            .lines()
            .map(String::from)
            .collect()
    }

    /// The bytes of `wal/name`, as `cat` gives them; the error is what `cat` said.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        self.read_path(&self.wal().join(name))
    }

    /// What `.walfs/mount.json` says now.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.told("mount.json")).expect("mount.json is JSON")
    }

    /// The text of a file in `.walfs/`.
    #[track_caller]
    pub fn told(&self, file: &str) -> String {
        let path = self.options.mountpoint.join(".walfs").join(file);
        let text = self
            .read_path(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        String::from_utf8(text).expect("text")
    }

    /// Asserts that a field of `.walfs/mount.json` has this value; `field` is a JSON pointer ("/store/kind").
    #[track_caller]
    pub fn assert_status(&self, field: &str, expected: impl Into<serde_json::Value>) {
        let status = self.status();
        assert_eq!(
            status.pointer(field),
            Some(&expected.into()),
            "{field} of {status:#}"
        );
    }

    fn read_path(&self, path: &Path) -> Result<Vec<u8>, String> {
        let output = self.options.user.shell(r#"cat "$1""#, &[path]);
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(said(&output))
        }
    }

    /// Whether the daemon lives.
    pub fn is_running(&mut self) -> bool {
        self.daemon
            .as_mut()
            .is_some_and(|daemon| daemon.try_wait().expect("wait for walfs").is_none())
    }

    /// The daemon's process id.
    pub fn process(&self) -> u32 {
        self.daemon.as_ref().expect("walfs runs").id()
    }

    /// The most memory that the daemon has had so far, in MiB: `VmHWM`.
    #[track_caller]
    pub fn peak_memory_mib(&self) -> u64 {
        peak_memory_mib(self.process()).expect("VmHWM in kB")
    }

    /// `kill -9` of the daemon; the dead mount stays, as it does on a real machine.
    pub fn kill9(&mut self) {
        let mut daemon = self.daemon.take().expect("walfs runs");
        daemon.kill().expect("kill walfs");
        daemon.wait().expect("wait for walfs");
    }

    /// SIGTERM, and waits for the daemon to finish.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("walfs runs");
        send(daemon.id(), libc::SIGTERM);
        let ended = wait::within(wait::LONG, || daemon.try_wait().expect("wait for walfs"));
        if ended.is_none() {
            daemon.kill().expect("kill walfs");
        }
        ended.unwrap_or_else(|| {
            panic!(
                "walfs did not end on SIGTERM\n{}",
                wait::tail(&self.options.log, 40)
            )
        })
    }

    /// Starts the same mount again, over a dead one too.
    #[track_caller]
    pub fn restart(&mut self) {
        if self.is_running() {
            self.terminate();
        }
        self.daemon = None;
        self.start();
    }

    /// What a shell line says that its user runs; it succeeds.
    #[track_caller]
    pub fn sh(&self, line: &str, places: &[&Path]) -> String {
        let output = self.user().shell(line, places);
        assert!(
            output.status.success(),
            "{line}: {}\n{}",
            said(&output),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same of one that fails, with its errors.
    #[track_caller]
    pub fn sh_fails(&self, line: &str, places: &[&Path]) -> String {
        let output = self.user().shell(line, places);
        assert!(!output.status.success(), "{line} did not fail\n{}", self.log());
        said(&output)
    }

    /// The daemon's log so far, of all its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.options.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the log contains `text`.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        if wait::within(wait::LONG, || self.log().contains(text).then_some(())).is_none() {
            panic!(
                "walfs never logged {text:?}\n{}",
                wait::tail(&self.options.log, 40)
            );
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", wait::tail(&self.options.log, 40));
        }
        // The dead daemon's requests fail at once, so nobody hangs in the mount that goes next.
        if self.daemon.is_some() {
            self.kill9();
        }
        for mountpoint in mounts_beneath(&self.options.mountpoint) {
            detach(&mountpoint);
        }
    }
}

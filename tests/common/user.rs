//! The system's users that tests act as. PostgreSQL refuses to run as root, and a mount that belongs to postgres lets
//! nobody else in: so servers, clients and copy tools run as user postgres when the tests run as root. When they do
//! not, everything runs as the user who started them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where the programs of the system are.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// A program by its path. One that is only named is started by a fork where `PATH` is set, and a fork copies the page tables
/// of this process: more than a third of the time of all tests.
fn located(program: impl AsRef<OsStr>) -> PathBuf {
    let program = Path::new(program.as_ref());
    let mut places = PATH.split(':').map(|place| Path::new(place).join(program));
    places
        .find(|place| place.exists())
        .unwrap_or_else(|| program.into())
}

/// One user of the system.
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    switch: bool,
}

impl User {
    /// The user whom PostgreSQL and its copy tools run as.
    pub fn postgres() -> User {
        if is_root() {
            User::named("postgres")
        } else {
            User::caller()
        }
    }

    /// Whoever runs the tests.
    pub fn caller() -> User {
        // SAFETY: geteuid and getegid only read this process's credentials and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        User {
            name: entry(|fields| fields[2] == uid.to_string()).0,
            uid,
            gid,
            switch: false,
        }
    }

    /// Somebody else of /etc/passwd ("nobody"). Only root can become somebody else.
    pub fn named(name: &str) -> User {
        assert!(
            is_root(),
            "only root can act as {name}\nHINT: run the tests with `make test`, which uses sudo"
        );
        let (name, uid, gid) = entry(|fields| fields[0] == name);
        User {
            name,
            uid,
            gid,
            switch: true,
        }
    }

    /// A command run by this user, from a directory and with an environment that hold nothing of the caller's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = if self.switch {
            self.switched(program)
        } else {
            Command::new(located(program))
        };
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8");
        command
            .env("HOME", "/nonexistent")
            // Nearly every test begins with a new archive.
            .env("WALFS_CREATE", "true")
            .env("USER", &self.name)
            .current_dir("/");
        command
    }

    /// Becomes this user in the child, by a program: what std does for it costs a copy of this process's page tables.
    fn switched(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(located("setpriv"));
        command
            .arg(format!("--reuid={}", self.uid))
            .arg(format!("--regid={}", self.gid))
            .args(["--clear-groups", "--"])
            .arg(program);
        command
    }

    /// Runs a shell line as this user. `$1`, `$2`... are `arguments`.
    pub fn shell(&self, line: &str, arguments: &[&Path]) -> Output {
        let mut command = self.command("/bin/sh");
        command.arg("-c").arg(line).arg("sh").args(arguments);
        command.output().expect("run /bin/sh")
    }

    /// A new directory owned by this user, mode 0700.
    pub fn make_dir(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap_or_else(|error| panic!("create {}: {error}", dir.display()));
        self.own(dir);
        let status = Command::new("chmod")
            .arg("0700")
            .arg(dir)
            .status()
            .expect("run chmod");
        assert!(status.success(), "chmod 0700 {}", dir.display());
    }

    /// Gives one file or directory to this user.
    pub fn own(&self, path: &Path) {
        if self.switch {
            chown(path, Some(self.uid), Some(self.gid))
                .unwrap_or_else(|error| panic!("chown {} {}: {error}", self.name, path.display()));
        }
    }
}

/// Whether the tests run as root, as `make test` makes them.
pub fn is_root() -> bool {
    // SAFETY: geteuid only reads this process's credentials and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Both output streams of a command, for a message.
pub fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    format!(
        "{}; it said: {}",
        output.status,
        String::from_utf8_lossy(&text).trim()
    )
}

/// What a command prints that succeeds, and says nothing on standard error.
#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}\nHINT: .ci/needs test brings what the tests need")
    });
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    assert!(output.stderr.is_empty(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Name, uid and gid of the first line of /etc/passwd that `wanted` accepts.
fn entry(wanted: impl Fn(&[&str]) -> bool) -> (String, u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields
        .into_iter()
        .find(|fields| fields.len() >= 4 && wanted(fields));
    let fields =
        found.expect("the user is in /etc/passwd\nHINT: .ci/needs test installs PostgreSQL and its user");
    (
        fields[0].into(),
        fields[2].parse().expect("a uid"),
        fields[3].parse().expect("a gid"),
    )
}

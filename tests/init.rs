//! A4: `walfs init` tries what it writes, and harms nothing that is there.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::common::postgres::{Options, Postgres, StopMode, send};
use super::common::user::{User, is_root, said, succeeds};
use super::common::wait;
use super::common::wal;
use super::common::walfs::{BINARY, walfs};
use super::common::world::{World, detach};

/// A server that does not archive, and no archive.
struct House {
    world: World,
    server: Postgres,
}

impl House {
    fn new(name: &str) -> House {
        let world = World::new(name);
        let options = Options {
            segment_mib: 1,
            ..Options::default()
        };
        let mut server = Postgres::init(&world.path().join("pg"), &options);
        server.start();
        House { world, server }
    }

    fn config(&self) -> PathBuf {
        self.world.owned_dir("etc").join("test.toml")
    }

    fn mountpoint(&self) -> PathBuf {
        self.world.mountpoint()
    }

    /// `walfs --config ... COMMAND`, as the one who runs the tests: root, mostly.
    fn walfs(&self, words: &[&str]) -> Command {
        self.walfs_as(&User::caller(), words)
    }

    fn walfs_as(&self, user: &User, words: &[&str]) -> Command {
        let mut command = walfs(&self.world, user);
        command.arg("--config").arg(self.config()).args(words);
        command
    }

    /// `walfs init` of a new archive, with these words besides.
    fn init(&self, words: &[&str]) -> Output {
        let mut command = self.walfs(&["init", "--keep-days", "14", "--archive"]);
        command.arg(self.world.archive());
        self.with_server(&mut command)
            .args(words)
            .output()
            .expect("run walfs")
    }

    fn with_server<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .arg("-h")
            .arg(self.world.path().join("pg"))
            .args(["-U", "postgres"]);
        command.arg("--mountpoint").arg(self.mountpoint())
    }

    fn setting(&self, name: &str) -> String {
        self.server.query(&format!("SHOW {name}"))
    }

    fn auto_conf(&self) -> String {
        fs::read_to_string(self.server.data().join("postgresql.auto.conf")).expect("read")
    }
}

#[track_caller]
fn ends(output: &Output, code: i32, words: &str) {
    let told = said(output);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(words), "no {words:?} in {told}");
}

/// Names below a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("list").flatten();
    entries
        .map(|entry| entry.file_name().display().to_string())
        .collect()
}

#[test]
fn a4_what_init_sets_up_archives() {
    let mut house = House::new("init");
    let shown = house.init(&["--dry-run", "--apply"]);
    ends(&shown, 0, "none in");
    assert!(
        said(&shown).contains("ALTER SYSTEM SET archive_mode"),
        "{}",
        said(&shown)
    );
    assert_eq!(names(&house.config().with_file_name("")), [""; 0]);
    assert!(!house.world.archive().join("walfs.json").exists());
    assert_eq!(house.setting("archive_command"), "(disabled)");
    assert!(!house.auto_conf().contains("archive"), "{}", house.auto_conf());

    let made = house.init(&["--apply"]);
    ends(&made, 3, "has to be restarted");
    let config = house.config();
    let content = fs::read_to_string(&config).expect("read");
    assert!(content.contains("keep-days = 14"), "{content}");
    let about = config.metadata().expect("look");
    assert_eq!(about.permissions().mode() & 0o7777, 0o640);
    if is_root() {
        let postgres = Command::new("id")
            .args(["-g", "postgres"])
            .output()
            .expect("run id");
        let group = String::from_utf8_lossy(&postgres.stdout).trim().to_owned();
        assert_eq!((about.uid(), about.gid().to_string()), (0, group));
    }
    assert_eq!(names(config.parent().expect("a directory")), ["test.toml"]);

    house.server.restart();
    let log = house.world.path().join("walfs.log");
    let mut mount = house.walfs(&["mount", "--daemon", "--log-file"]);
    succeeds(mount.arg(log));
    let mut check = house.walfs_as(&User::postgres(), &["check"]);
    let checked = check.output().expect("run walfs");
    ends(&checked, 0, "was archived");
    // Once more: nothing is left to do.
    let again = house.walfs(&["init", "--apply"]).output().expect("run walfs");
    ends(&again, 0, "archives with it already");
    assert_eq!(fs::read_to_string(&config).expect("read"), content);
    house.server.stop(StopMode::Fast);
    detach(&house.mountpoint());
}

#[test]
fn a4_init_without_a_mount_archives_by_the_configuration() {
    let mut house = House::new("init-direct");
    let mut init = house.walfs(&["init", "--no-mount", "--apply", "--archive"]);
    init.arg(house.world.archive())
        .arg("-h")
        .arg(house.world.path().join("pg"));
    let made = init.args(["-U", "postgres"]).output().expect("run walfs");
    ends(&made, 3, "has to be restarted");
    house.server.restart();
    let mut check = house.walfs_as(&User::postgres(), &["check"]);
    ends(&check.output().expect("run walfs"), 0, "was archived");
    let again = house.walfs(&["init", "--apply"]).output().expect("run walfs");
    ends(&again, 0, "archives with it already");
}

#[test]
fn a4_init_takes_nothing_from_who_archives_already() {
    let house = House::new("init-other");
    house
        .server
        .configure(&[("archive_command", "cp %p /srv/elsewhere/%f")]);
    house.server.reload();
    let refused = house.init(&["--apply"]);
    ends(
        &refused,
        1,
        "a way to archive already: archive_command = 'cp %p /srv/elsewhere/%f'",
    );
    assert!(!house.auto_conf().contains("archive"), "{}", house.auto_conf());
    // The configuration is there by now, and goes on.
    let taken = house
        .walfs(&["init", "--apply", "--replace"])
        .output()
        .expect("run walfs");
    ends(&taken, 3, "has to be restarted");
    assert!(
        house.setting("archive_command").starts_with("(disabled)") || house.auto_conf().contains("/wal/%f")
    );
}

/// What the server was started with wins over what is set: with `archive_mode` on, this one would not start any more.
#[test]
fn a4_init_changes_nothing_that_the_command_line_overrules() {
    let mut house = House::new("init-fixed");
    // An archive in the data directory goes with it.
    let mut inside = house.walfs(&["init", "--archive"]);
    inside.arg(house.server.data().join("archive"));
    let inside = house.with_server(&mut inside).output().expect("run walfs");
    ends(&inside, 1, "in the data directory");
    assert!(!house.server.data().join("archive").exists());

    house.server.stop(StopMode::Fast);
    let mut server = house.server.program("postgres");
    server
        .arg("-D")
        .arg(house.server.data())
        .arg("-k")
        .arg(house.world.path().join("pg"));
    server.args(["-c", "wal_level=minimal", "-c", "max_wal_senders=0"]);
    let log = fs::File::create(house.world.path().join("fixed.log")).expect("make a log");
    let mut server = server.stderr(log).spawn().expect("run postgres");
    wait::until("PostgreSQL to answer", || house.server.psql("SELECT 1").ok());
    let refused = house.init(&["--apply"]);
    ends(&refused, 1, "started with wal_level on its command line");
    assert!(!house.auto_conf().contains("archive"), "{}", house.auto_conf());
    send(server.id(), libc::SIGINT);
    wait::for_exit("PostgreSQL to end", &mut server);
}

#[test]
fn a4_init_writes_nothing_that_does_not_work() {
    let house = House::new("init-refused");
    let config = house.config();
    let nothing = || assert_eq!(names(config.parent().expect("a directory")), [""; 0]);
    // Nobody to ask.
    let mut silent = house.walfs(&["init"]);
    ends(&silent.output().expect("run walfs"), 2, "--archive");
    nothing();
    // Mount points that cannot be.
    let (archive, file) = (house.world.archive(), house.world.owned_file("file", b"kept"));
    for (mountpoint, word) in [
        (file.clone(), "is no directory"),
        (archive.clone(), "one in the other"),
        (archive.join("mnt"), "one in the other"),
        (house.world.path().to_owned(), "one in the other"),
        (PathBuf::from("/mnt/a\nb"), "this name is none"),
        (
            PathBuf::from(OsStr::from_bytes(b"/mnt/\xff")),
            "this name is none",
        ),
    ] {
        let mut odd = house.walfs(&["init", "--archive"]);
        odd.arg(&archive).arg("--mountpoint").arg(mountpoint);
        ends(&odd.output().expect("run walfs"), 2, word);
        nothing();
    }
    assert_eq!(fs::read(file).expect("read"), b"kept");
    // No store.
    let mut away = house.walfs(&[
        "init",
        "--archive",
        "s3://bucket/prefix",
        "--endpoint",
        "http://127.0.0.1:9",
        "--deadline",
        "2s",
    ]);
    away.env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret");
    let away = house.with_server(&mut away).output().expect("run walfs");
    ends(&away, 1, "127.0.0.1:9");
    nothing();
    // The archive of another cluster.
    let identifier = 4711;
    let segment = wal::segment("000000010000000000000001", identifier, wal::SEGMENT_BYTES, 1);
    let file = house.world.owned_file("000000010000000000000001", &segment);
    let mut push = walfs(&house.world, &User::postgres());
    push.args(["wal-push", "--create", "--archive"])
        .arg(house.world.archive());
    ends(
        &push.arg(file).output().expect("run walfs"),
        0,
        "made a new archive",
    );
    let refused = house.init(&[]);
    ends(&refused, 1, &identifier.to_string());
    nothing();
    // A file that is there stays as it is, also behind a link.
    let kept = house.world.owned_file("kept", b"# kept\n");
    std::os::unix::fs::symlink(&kept, &config).expect("make a link");
    ends(&house.init(&[]), 1, "is there already, and stays as it is");
    assert_eq!(fs::read(&kept).expect("read"), b"# kept\n");
}

#[test]
fn a4_init_without_a_server_says_so() {
    let house = House::new("init-down");
    let mut init = house.walfs(&["init", "--archive"]);
    init.arg(house.world.archive())
        .args(["-h", "/nowhere", "-U", "postgres"]);
    let made = init
        .arg("--mountpoint")
        .arg(house.mountpoint())
        .output()
        .expect("run walfs");
    ends(&made, 3, "cannot connect to PostgreSQL");
    assert!(house.config().exists());
}

#[test]
fn a4_init_asks_at_a_terminal() {
    let house = House::new("init-asks");
    let (program, config) = (house.world.public_program(Path::new(BINARY)), house.config());
    let (sockets, mountpoint) = (house.world.path().join("pg"), house.mountpoint());
    let line = format!(
        "{} --config {} init -h {} -U postgres --mountpoint {}",
        program.display(),
        config.display(),
        sockets.display(),
        mountpoint.display()
    );
    let mut script = User::caller().command("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .stdin(std::process::Stdio::piped());
    script.stdout(std::process::Stdio::piped());
    let mut asked = script.spawn().expect("run script");
    let answers = format!("{}\n21\ny\n", house.world.archive().display());
    let mut terminal = asked.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut terminal, answers.as_bytes()).expect("answer");
    let output = asked.wait_with_output().expect("wait");
    drop(terminal);
    ends(&output, 3, "Let PostgreSQL archive");
    let content = fs::read_to_string(config).expect("read");
    assert!(content.contains("keep-days = 21"), "{content}");
    assert!(
        house.auto_conf().contains("archive_command"),
        "{}",
        house.auto_conf()
    );
}

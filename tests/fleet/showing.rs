use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use walfs::mount::fleet::MOST_OPEN;

use crate::common::s3::{Action, Rule, S3Server};
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::wal::segment;
use crate::common::walfs::{Mount, Options, walfs};
use crate::common::world::World;

const SEGMENT: &str = "000000010000000000000001";
const MIB: u32 = 1 << 20;

/// A place for archives, in a world of its own.
pub(super) struct Place {
    pub(super) world: World,
}

impl Place {
    pub(super) fn new(name: &str) -> Place {
        let place = Place {
            world: World::new(name),
        };
        fs::create_dir(place.path()).expect("make the place");
        User::postgres().own(&place.path());
        place
    }

    pub(super) fn path(&self) -> PathBuf {
        self.world.path().join("fleet")
    }

    /// A file of WAL with content of its own; all have the same name.
    fn wal(&self, seed: u64) -> PathBuf {
        let dir = self.world.path().join(format!("wal-{seed}"));
        if !dir.exists() {
            User::postgres().make_dir(&dir);
            fs::write(dir.join(SEGMENT), content(seed)).expect("write a segment");
        }
        dir.join(SEGMENT)
    }

    /// Makes an archive, and archives the file of that seed.
    pub(super) fn archive(&self, at: &Path, seed: u64) {
        let mut push = walfs(&self.world, &User::postgres());
        push.args(["wal-push", "--create", "--archive"])
            .arg(at)
            .arg(self.wal(seed));
        run(&mut push);
    }

    pub(super) fn mount(&self, arguments: &[&str]) -> Mount {
        self.options().args(&["--all"]).args(arguments).mount()
    }

    fn options(&self) -> Options {
        Options::of(&self.world, &self.path().display().to_string())
    }
}

/// Runs a command, which may say that it has made an archive.
#[track_caller]
pub(super) fn run(command: &mut Command) {
    let output = command.output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
}

fn content(seed: u64) -> Vec<u8> {
    segment(SEGMENT, 7000 + seed, MIB, seed)
}

/// As the mount's user, who need not be this one.
fn shell(mount: &Mount, line: &str) -> Output {
    mount
        .user()
        .shell(&format!("cd \"$1\" && {line}"), &[mount.path()])
}

fn names(mount: &Mount, directory: &str) -> Vec<String> {
    let listed = shell(mount, &format!("ls -A -b '{directory}'"));
    assert!(listed.status.success(), "{}", said(&listed));
    let text = String::from_utf8(listed.stdout).expect("names are text");
    text.lines().map(str::to_owned).collect()
}

fn read(mount: &Mount, file: &str) -> Vec<u8> {
    let read = shell(mount, &format!("cat '{file}'"));
    assert!(read.status.success(), "{file}: {}", said(&read));
    read.stdout
}

/// What `cat` says of a file that it cannot read.
fn refused(mount: &Mount, line: &str) -> String {
    let tried = shell(mount, line);
    assert!(!tried.status.success(), "{line} succeeds");
    said(&tried)
}

#[test]
fn o4_one_mount_shows_each_archive_below_a_place_and_nothing_else() {
    let place = Place::new("fleet");
    let (alpha, beta) = (place.path().join("alpha"), place.path().join("beta"));
    place.archive(&alpha, 1);
    place.archive(&beta, 2);
    // Not below the place, in another archive, without walfs.json, with names that no archive can have.
    let outside = place.world.owned_dir("outside");
    place.archive(&outside, 3);
    symlink(&outside, place.path().join("linked")).expect("make a link");
    for (name, seed) in [
        ("alpha/inner", 4),
        ("deep/er", 5),
        ("two words", 6),
        ("new\nline", 7),
        (".hidden", 8),
    ] {
        let at = place.path().join(name);
        fs::create_dir_all(&at).expect("make directories");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(format!("{}/.", outside.display()))
            .arg(&at)
            .status();
        assert!(
            copied.is_ok_and(|status| status.success()),
            "copy to {name} by hand, seed {seed}"
        );
    }
    fs::create_dir(place.path().join("plain")).expect("make a directory");
    fs::write(place.path().join("file"), "no directory").expect("write a file");

    let mount = place.mount(&[]);
    assert_eq!(names(&mount, "."), [".walfs", "alpha", "beta"]);
    assert_eq!(
        names(&mount, "alpha"),
        [".absent", ".walfs", "basebackups", "dumps", "files", "wal"]
    );
    // The same name in two archives, read in turn: neither is taken for the other.
    for (name, seed) in [("alpha", 1), ("beta", 2), ("alpha", 1), ("beta", 2)] {
        assert!(
            read(&mount, &format!("{name}/wal/{SEGMENT}")) == content(seed),
            "{name}"
        );
    }
    assert!(String::from_utf8_lossy(&read(&mount, "beta/.walfs/status.txt")).contains("cluster 7002"));
    for name in [
        "linked",
        "plain",
        "deep",
        "file",
        "two words",
        ".hidden",
        "nothing",
    ] {
        assert!(
            refused(&mount, &format!("ls '{name}/'")).contains("No such file"),
            "{name}"
        );
    }

    // Read-only, and nothing is made, removed or moved in the place.
    let next = "000000010000000000000002";
    for line in [
        format!("cp '{}' alpha/wal/{next}", place.wal(1).display()),
        "mkdir gamma".to_owned(),
        "rmdir beta".to_owned(),
        "mv alpha gamma".to_owned(),
        format!("rm beta/wal/{SEGMENT}"),
    ] {
        assert!(refused(&mount, &line).contains("Read-only file system"), "{line}");
    }

    // An archive that is made later.
    place.archive(&place.path().join("gamma"), 9);
    assert!(read(&mount, &format!("gamma/wal/{SEGMENT}")) == content(9));
    assert_eq!(names(&mount, "."), [".walfs", "alpha", "beta", "gamma"]);
}

#[test]
fn o4_an_archive_that_does_not_open_says_why_and_harms_no_other() {
    let place = Place::new("fleet");
    for (name, seed) in [("alpha", 1), ("damaged", 2), ("denied", 3), ("going", 4)] {
        place.archive(&place.path().join(name), seed);
    }
    fs::write(place.path().join("damaged/walfs.json"), "{").expect("damage a marker");
    let denied = place.path().join("denied");
    fs::set_permissions(&denied, fs::Permissions::from_mode(0o000)).expect("close a directory");
    let mount = place.mount(&["--read-deadline", "2s", "--deadline", "2s"]);
    assert_eq!(
        names(&mount, "."),
        [".walfs", "alpha", "damaged", "denied", "going"]
    );
    for (name, why) in [("damaged", "walfs.json"), ("denied", "Permission denied")] {
        assert_eq!(names(&mount, name), [".walfs"]);
        let told = read(&mount, &format!("{name}/.walfs/error.txt"));
        assert!(
            String::from_utf8_lossy(&told).contains(why),
            "{}",
            String::from_utf8_lossy(&told)
        );
        // Never that there is no such file: a recovery would take that for the end of the WAL.
        let said = refused(&mount, &format!("cat {name}/wal/{SEGMENT}"));
        assert!(!said.contains("No such file"), "{said}");
        assert!(read(&mount, &format!("alpha/wal/{SEGMENT}")) == content(1));
    }
    // What was mended shows itself.
    fs::set_permissions(&denied, fs::Permissions::from_mode(0o700)).expect("open the directory");
    wait::until("the archive is shown", || {
        let read = shell(&mount, &format!("cat denied/wal/{SEGMENT}"));
        (read.stdout == content(3)).then_some(())
    });
    // Deleted while somebody reads in it.
    let held = shell(
        &mount,
        &format!(
            "exec 3< going/wal/{SEGMENT} && cat <&3 > /dev/null && rm -rf '{}' && ls",
            place.path().join("going").display()
        ),
    );
    assert!(
        !String::from_utf8_lossy(&held.stdout).contains("going"),
        "{}",
        said(&held)
    );
    assert!(read(&mount, &format!("alpha/wal/{SEGMENT}")) == content(1));
}

#[test]
fn o4_more_archives_than_are_held_open_are_all_read() {
    const MANY: u64 = 24;
    let place = Place::new("fleet");
    let source = place.world.owned_dir("source");
    for number in 0..MANY {
        fs::write(source.join("f"), format!("of {number}")).expect("write a file");
        let mut files = walfs(&place.world, &User::postgres());
        files.args(["files", "--create", "--archive"]);
        run(files
            .arg(place.path().join(format!("n{number}")))
            .arg("etc")
            .arg(&source));
    }
    let mount = place.mount(&[]);
    assert_eq!(names(&mount, ".").len() as u64, MANY + 1);
    // One stays in use, with its file open, while all others come and go, twice.
    let line = format!(
        "exec 3< n0/files/etc/LATEST/f && for round in 1 2; do for n in $(seq 0 {}); do cat n$n/files/etc/LATEST/f; echo; \
         done; done && cat <&3",
        MANY - 1
    );
    let read = shell(&mount, &line);
    assert!(read.status.success(), "{}", said(&read));
    let once: String = (0..MANY).map(|number| format!("of {number}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&read.stdout), format!("{once}{once}of 0"));
}

/// What was read stays in memory for a while, and holds no archive open.
#[test]
fn o4_archives_that_were_read_from_are_closed() {
    const MANY: u64 = 40;
    let place = Place::new("fleet");
    for number in 0..MANY {
        place.archive(&place.path().join(format!("n{number}")), 1);
    }
    let mount = place.mount(&[]);
    let read = shell(
        &mount,
        &format!(
            "for n in n*; do cmp '{}' $n/wal/{SEGMENT} || exit; done",
            place.wal(1).display()
        ),
    );
    assert!(read.status.success(), "{}", said(&read));
    let open = || {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", mount.process())).expect("list");
        let links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
        links.filter(|link| link.ends_with("trees")).count()
    };
    // Less than what was read is kept for.
    let closed = wait::within(Duration::from_secs(20), || {
        (open() <= MOST_OPEN + 1).then_some(())
    });
    assert!(closed.is_some(), "{} archives are open", open());
}

#[test]
fn o4_many_archives_in_s3_one_of_them_denied() {
    let place = Place::new("fleet");
    let server = S3Server::start();
    let fleet = format!("s3://{}/fleet", server.bucket());
    for (name, seed) in [("alpha", 1), ("beta", 2)] {
        let mut push = walfs(&place.world, &User::postgres());
        push.args(["wal-push", "--create", "--archive", &format!("{fleet}/{name}")]);
        run(push.arg(place.wal(seed)).envs(server.env()));
    }
    let denied = Rule::new(Action::error(403, "AccessDenied")).key("fleet/beta/");
    server.add_rule(denied);
    let environment: Vec<(String, String)> = server
        .env()
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let options = environment
        .iter()
        .fold(Options::of(&place.world, &fleet), |options, (name, value)| {
            options.env(name, value)
        });
    let mount = options.args(&["--all", "--read-deadline", "5s"]).mount();
    assert_eq!(names(&mount, "."), [".walfs", "alpha", "beta"]);
    assert!(read(&mount, &format!("alpha/wal/{SEGMENT}")) == content(1));
    let told = read(&mount, "beta/.walfs/error.txt");
    assert!(
        String::from_utf8_lossy(&told).contains("AccessDenied"),
        "{}",
        String::from_utf8_lossy(&told)
    );
    let said = refused(&mount, &format!("cat beta/wal/{SEGMENT}"));
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn o4_writable_is_asked_for_and_an_archive_is_no_place_of_archives() {
    let place = Place::new("fleet");
    place.archive(&place.path().join("alpha"), 1);
    let mount = place.mount(&["--writable"]);
    let name = "000000010000000000000002";
    let file = place.wal(1).with_file_name(name);
    fs::write(&file, segment(name, 7001, MIB, 5)).expect("write a segment");
    let copied = shell(&mount, &format!("cp '{}' alpha/wal/{name}", file.display()));
    assert!(copied.status.success(), "{}", said(&copied));
    assert!(read(&mount, &format!("alpha/wal/{name}")) == segment(name, 7001, MIB, 5));
    // A new archive is one that was asked for.
    let made = shell(
        &mount,
        &format!("mkdir gamma && cp '{}' gamma/wal/", place.wal(1).display()),
    );
    assert!(made.status.success(), "{}", said(&made));
    assert!(read(&mount, &format!("gamma/wal/{SEGMENT}")) == content(1));
    assert!(place.path().join("gamma/walfs.json").is_file());
    // S6: not through a link that leads out of the place.
    let outside = place.world.owned_dir("outside");
    symlink(&outside, place.path().join("linked")).expect("make a link");
    symlink("nowhere", place.path().join("dangling")).expect("make a link");
    for line in [
        "mkdir linked",
        "mkdir dangling",
        "mkdir alpha",
        "mkdir 'two words'",
        "mkdir .hidden",
        "rmdir gamma",
        "mv gamma delta",
    ] {
        refused(&mount, line);
    }
    assert_eq!(fs::read_dir(outside).expect("list").count(), 0);
    drop(mount);
    let inside = Options::of(&place.world, &place.path().join("alpha").display().to_string());
    let refused = inside.args(&["--all"]).refused();
    assert!(
        said(&refused).contains("is an archive itself"),
        "{}",
        said(&refused)
    );
}

//! S8: a link, a FIFO, a device or a directory in the place of one object of a local archive is damage of the one backup or
//! segment whose it is. It is named, never taken for absence (promise R1), and everything else goes on.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use walfs::archive::tree::summary::Summary;

use super::common::basebackup::Site;
use super::common::user::{User, is_root, said};
use super::common::walfs::Mount;
use super::common::world::World;

/// What no history is.
const ENORMOUS_BYTES: u64 = 30 << 30;

/// What is put in an object's place, and a word of what is said of it.
type Odd = (&'static str, fn(&Path), &'static str);

const ODD: [Odd; 5] = [
    (
        "a link",
        |path| symlink("/etc/hostname", path).expect("make a link"),
        "symbolic link",
    ),
    ("a FIFO", |path| make(Command::new("mkfifo").arg(path)), "FIFO"),
    (
        "a socket",
        |path| drop(UnixListener::bind(path).expect("make a socket")),
        "socket",
    ),
    ("a directory", |path| User::postgres().make_dir(path), "directory"),
    (
        "a device",
        |path| match is_root() {
            true => make(Command::new("mknod").arg(path).args(["c", "1", "5"])),
            false => User::postgres().make_dir(path),
        },
        "",
    ),
];

fn make(command: &mut Command) {
    assert!(command.status().expect("run a tool").success());
}

/// An object that is taken away, and comes back at the end.
struct Away {
    place: PathBuf,
    kept: PathBuf,
}

impl Away {
    fn replace(world: &World, key: &str, odd: fn(&Path)) -> Self {
        let (place, kept) = (world.archive().join(key), world.path().join("kept"));
        fs::rename(&place, &kept).expect("take it away");
        odd(&place);
        Self { place, kept }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let removed = match self.place.is_dir() {
            true => fs::remove_dir(&self.place),
            false => fs::remove_file(&self.place),
        };
        removed
            .and_then(|()| fs::rename(&self.kept, &self.place))
            .expect("bring it back");
    }
}

/// The line of each backup, and all that was said.
#[track_caller]
fn list(site: &Site<'_>, what: &str) -> (String, String, String) {
    let output = site.walfs("backup-list").output().expect("run walfs");
    assert_eq!(output.status.code(), Some(0), "{what}: {}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |name: &str| {
        let found = text.lines().find(|line| line.starts_with(name));
        found
            .unwrap_or_else(|| panic!("{what}: no {name}: {text}{}", said(&output)))
            .to_owned()
    };
    (line("w1 "), line("w2 "), said(&output))
}

#[test]
fn s8_what_lies_in_an_objects_place_is_that_objects_damage() {
    let world = World::new("odd");
    let site = Site::local(&world);
    site.backup("w1");
    site.backup("w2");
    site.server.archive_all();
    let text = fs::read(world.archive().join("basebackups/w1.json")).expect("read a summary");
    let summary = Summary::parse(&text).expect("a summary");
    let segment = summary.backup.segments().expect("its WAL")[0].to_string();
    let mount = Mount::local(&world);
    for (what, odd, word) in ODD {
        let away = Away::replace(&world, "basebackups/w1.json", odd);
        let (damaged, good, _) = list(&site, what);
        assert!(
            damaged.contains("damaged: ") && damaged.contains(word),
            "{what}: {damaged}"
        );
        assert!(good.ends_with("complete"), "{what}: {good}");
        drop(away);

        let away = Away::replace(&world, &format!("wal/{segment}.lz4"), odd);
        let (damaged, good, all) = list(&site, what);
        assert!(damaged.contains(&segment), "{what}: {damaged}");
        assert!(good.ends_with("complete"), "{what}: {good}");
        assert!(
            all.contains(&format!("wal/{segment}.lz4")) && all.contains(word),
            "{what}: {all}"
        );
        assert_not_absent(&site, &mount, &segment, what);
        drop(away);
    }
    let (first, second, _) = list(&site, "all is well again");
    assert!(first.ends_with("complete") && second.ends_with("complete"));

    // The sweep does its work beside it.
    let id = "left.0123456789abcdef";
    let left = world.archive().join("trees").join(id);
    User::postgres().make_dir(&left);
    let begun = world.archive().join("trees").join(&summary.id).join("begun.json");
    make(Command::new("cp").arg("-a").args([&begun, &left]));
    let away = Away::replace(&world, "basebackups/w1.json", ODD[1].1);
    site.backup("w3");
    assert!(!left.exists(), "what a killed backup has left was not swept");
    drop(away);
    let (first, second, _) = list(&site, "all is well again");
    assert!(first.ends_with("complete") && second.ends_with("complete"));
}

/// R1: it was archived, and is damaged; it is not absent.
#[track_caller]
fn assert_not_absent(site: &Site<'_>, mount: &Mount, segment: &str, what: &str) {
    let look = |script: &str| -> Output {
        let script = format!("timeout -s KILL 60 {script}");
        mount.user().shell(&script, &[mount.path(), Path::new(segment)])
    };
    let proved = look(r#"test -e "$1/.absent/$2""#);
    assert!(!proved.status.success(), "{what}: {segment} was proved absent");
    let read = look(r#"cat "$1/wal/$2""#);
    assert!(
        said(&read).contains("Input/output error"),
        "{what}: {}",
        said(&read)
    );
    let target = site.world.path().join("fetched");
    let mut fetch = site.walfs("wal-fetch");
    let fetched = fetch.arg(segment).arg(&target).output().expect("run walfs");
    assert_eq!(fetched.status.code(), Some(255), "{what}: {}", said(&fetched));
    assert!(said(&fetched).contains("HINT: "), "{what}: {}", said(&fetched));
}

#[test]
fn s8_a_history_that_is_too_long_is_named() {
    let world = World::new("history");
    let site = Site::local(&world);
    site.backup("w1");
    let key = "wal/00000002.history.lz4";
    let path = world.archive().join(key);
    let file = File::create(&path).expect("make it");
    file.set_len(ENORMOUS_BYTES).expect("make it long");
    User::postgres().own(&path);
    let target = world.path().join("nowhere");
    let mut restore = site.walfs("restore");
    restore.args(["--dry-run", "--no-archiving", "w1"]).arg(&target);
    let output = restore.output().expect("run walfs");
    let text = said(&output);
    assert!(text.contains(key), "{text}");
    let tells = text.contains(&format!("{ENORMOUS_BYTES} bytes")) && text.contains("HINT: ");
    assert!(tells, "{text}");
    let (listed, fetched) = (
        site.walfs("backup-list").output().expect("run walfs"),
        site.walfs("wal-fetch")
            .arg("00000002.history")
            .arg(&target)
            .output()
            .expect("run walfs"),
    );
    assert!(listed.status.success(), "{}", said(&listed));
    assert_eq!(fetched.status.code(), Some(255), "{}", said(&fetched));
}

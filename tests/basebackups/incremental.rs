//! A later backup stores what has changed, and nothing else; it is read and restored as a full one (promises B5, K1).

use std::fs::{self, File, FileTimes, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::basebackup::{Place, Site};
use crate::common::s3::S3Server;
use crate::common::user::{User, said};
use crate::common::walfs::Mount;
use crate::common::world::World;

pub(super) const PAGE: usize = 8192;

/// Files in the data directory that no server touches.
pub(super) struct Files {
    pub(super) root: PathBuf,
    random: fastrand::Rng,
    made: u32,
}

impl Files {
    pub(super) fn new(site: &Site<'_>, seed: u64) -> Files {
        let root = site.server.data().join("kept_by_us");
        fs::create_dir_all(root.join("deeper")).expect("make a directory");
        Files {
            root,
            random: fastrand::Rng::with_seed(seed),
            made: 0,
        }
    }

    pub(super) fn noise(&mut self, bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        self.random.fill(&mut noise);
        noise
    }

    /// A new file: empty, small, of pages and some more bytes, or longer than a slice.
    pub(super) fn make(&mut self, bytes: usize) -> PathBuf {
        self.made += 1;
        let below = if self.random.bool() { "" } else { "deeper" };
        let path = self.root.join(below).join(format!("file{}", self.made));
        let content = self.noise(bytes);
        fs::write(&path, content).expect("write a file");
        path
    }

    fn any(&mut self) -> Option<PathBuf> {
        let mut found: Vec<PathBuf> = [self.root.clone(), self.root.join("deeper")]
            .iter()
            .flat_map(|directory| fs::read_dir(directory).expect("list a directory"))
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_file())
            .collect();
        found.sort();
        (!found.is_empty()).then(|| found.swap_remove(self.random.usize(..found.len())))
    }

    /// Changes one thing.
    pub(super) fn change(&mut self) {
        let Some(path) = self.any() else {
            self.make(3 * PAGE + 100);
            return;
        };
        let file = OpenOptions::new().write(true).open(&path).expect("open a file");
        let bytes = file.metadata().expect("its length").len();
        match self.random.u32(0..10) {
            // Pages here and there, a few bytes across pages, a run of them.
            0..=2 => {
                for _ in 0..self.random.u64(1..20) {
                    let pages = bytes / PAGE as u64;
                    let page = self.random.u64(0..pages.max(1));
                    let content = self.noise(PAGE.min(bytes as usize));
                    file.write_all_at(&content, page * PAGE as u64)
                        .expect("write a page");
                }
            }
            3 => {
                let (at, some) = (self.random.u64(0..bytes.max(1)), self.random.usize(1..100));
                let content = self.noise(some);
                file.write_all_at(&content, at).expect("write a few bytes");
            }
            4 => {
                let (at, many) = (self.random.u64(0..bytes.max(1)), self.random.usize(1..(1 << 20)));
                let content = self.noise(many);
                file.write_all_at(&content, at).expect("write many bytes");
            }
            // Longer and shorter, by pages and by bytes.
            5 => {
                let more = self.random.usize(1..5 * PAGE);
                let content = self.noise(more);
                file.write_all_at(&content, bytes).expect("extend a file");
            }
            6 => {
                let left = self.random.u64(0..=bytes);
                file.set_len(left).expect("truncate a file");
            }
            7 => fs::remove_file(&path).expect("remove a file"),
            8 => fs::rename(&path, path.with_extension("renamed")).expect("rename a file"),
            _ => {
                let pages = self.random.usize(0..40);
                let rest = self.random.usize(0..2) * self.random.usize(1..PAGE);
                self.make(pages * PAGE + rest);
            }
        }
    }
}

/// The files below two directories are the same, byte for byte.
#[track_caller]
pub(super) fn assert_same(user: &User, one: &Path, other: &Path) {
    let compared = user.shell("diff -r \"$1\" \"$2\"", &[one, other]);
    assert!(compared.status.success(), "{}", said(&compared));
}

pub(super) fn restored(site: &Site<'_>, name: &str) -> PathBuf {
    let dir = site.world.owned_dir(&format!("restored-{name}"));
    let mut restore = site.walfs("restore");
    restore.args(["--no-archiving", "--no-sync", name]);
    let output = restore.arg(dir.join("data")).output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    dir.join("data")
}

fn stored_bytes(taken: &Value) -> u64 {
    taken["stored_bytes"].as_u64().expect("a number of bytes")
}

/// Each of a row of backups is what was there at its moment: restored, and in the mount.
#[test]
fn b5_every_backup_of_a_row_is_what_was_there() {
    let world = World::new("row");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 14);
    // Longer than a slice, as long as one is, and a page less.
    for bytes in [
        40 << 20,
        (32 << 20) - 8192,
        (32 << 20) - 16384,
        0,
        1,
        8191,
        8192,
        8193,
    ] {
        files.make(bytes);
    }
    let mut copies = Vec::new();
    for round in 0..5 {
        let name = format!("b{round}");
        let taken = site.backup(&name);
        let base = (round > 0).then(|| format!("b{}", round - 1));
        assert_eq!(taken["base"].as_str(), base.as_deref());
        assert_eq!(taken["plain_tar"], round == 0);
        let copy = world.path().join(format!("copy{round}"));
        let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[&files.root, &copy]);
        assert!(copied.status.success(), "{}", said(&copied));
        copies.push((name, copy));
        for _ in 0..40 {
            files.change();
        }
    }
    let mount = Mount::local(&world);
    for (name, copy) in copies {
        let data = restored(&site, &name);
        assert_same(&User::caller(), &data.join("kept_by_us"), &copy);
        let verified = site.server.program("pg_verifybackup").arg(&data).output();
        let verified = verified.expect("run pg_verifybackup");
        assert!(verified.status.success(), "{}", said(&verified));
        let shown = mount.path().join("basebackups").join(&name);
        assert_same(mount.user(), &shown.join("kept_by_us"), &copy);
        fs::remove_dir_all(&data).expect("remove what was restored");
    }
}

/// K1: what is stored is what has changed; nothing at all costs its description only.
#[test]
fn k1_a_later_backup_stores_what_has_changed() {
    let world = World::new("change");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let mut files = Files::new(&site, 15);
    let large = files.make(40 << 20);
    let small: Vec<PathBuf> = (0..20).map(|_| files.make(20 * PAGE)).collect();
    let full = stored_bytes(&site.backup("full"));
    let same = stored_bytes(&site.backup("same"));
    assert!(same < 100 << 10, "{same} of {full}");
    // One page of each small file, and one of every megabyte of the large one: 60 pages of noise, which do not shrink.
    for path in &small {
        let file = OpenOptions::new().write(true).open(path).expect("open a file");
        let page = files.noise(PAGE);
        file.write_all_at(&page, 7 * PAGE as u64).expect("write a page");
    }
    let file = OpenOptions::new().write(true).open(&large).expect("open a file");
    for megabyte in 0..40 {
        let page = files.noise(PAGE);
        file.write_all_at(&page, (megabyte << 20) + 5 * PAGE as u64)
            .expect("write a page");
    }
    let taken = site.backup("changed");
    let changed = stored_bytes(&taken) - same;
    assert!(
        changed < 60 * PAGE as u64 * 12 / 10,
        "{changed} bytes for 60 pages"
    );
    // What it took is told. Beside the pages, the label, the control file and the manifest are new.
    let work = &taken["work"];
    let number = |name: &str| work[name].as_u64().unwrap_or_else(|| panic!("{name} of {work}"));
    assert!(
        number("changed_bytes") >= 60 * PAGE as u64 && number("changed_bytes") < 1 << 20,
        "{work}"
    );
    assert!(
        number("read_bytes") > 40 << 20 && number("requests") > 5,
        "{work}"
    );
    let waits = [
        "store_seconds",
        "disk_seconds",
        "rate_limit_seconds",
        "cpu_seconds",
    ];
    let waits: f64 = waits
        .iter()
        .map(|name| work[*name].as_f64().expect("seconds"))
        .sum();
    assert!(
        waits > 0.0 && waits <= work["seconds"].as_f64().expect("seconds"),
        "{work}"
    );
    let whole =
        stored_bytes(&serde_json::from_slice(&site.try_backup("whole", &["--full"]).stdout).expect("JSON"));
    assert!(whole > full / 10 * 9, "{whole} of {full}");
}

/// B5: content decides. Neither time nor length tell of a byte that was flipped on the disk, or of a page that was put back.
#[test]
fn b5_a_page_that_changed_behind_the_servers_back_is_in_the_next_backup() {
    let world = World::new("behind");
    let site = Site::local(&world);
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 10000) AS id; CHECKPOINT");
    let relation = site.server.query("SELECT pg_relation_filepath('t')");
    let path = site.server.data().join(relation.trim());
    site.backup("before");
    let original = fs::read(&path).expect("read the relation");
    let flip = |at: u64| {
        let file = File::options()
            .write(true)
            .open(&path)
            .expect("open the relation");
        let modified = file.metadata().expect("its times").modified().expect("a time");
        file.write_all_at(&[original[at as usize] ^ 1], at)
            .expect("flip a bit");
        file.set_times(FileTimes::new().set_modified(modified))
            .expect("set its time");
    };
    // In the hole of a page, behind its item pointers: no tool of the server's would see it.
    flip(2 * PAGE as u64 + 4000);
    let output = site.try_backup("flipped", &["--no-verify-checksums"]);
    assert!(output.status.success(), "{}", said(&output));
    let flipped = fs::read(&path).expect("read it again");
    assert!(flipped != original);
    fs::write(&path, &original).expect("put it back");
    site.backup("back");
    for (name, expected) in [("before", &original), ("flipped", &flipped), ("back", &original)] {
        let data = restored(&site, name);
        assert!(
            fs::read(data.join(relation.trim())).expect("read it") == *expected,
            "{name}"
        );
    }
}

/// B5, R3: a file and a copy of it, as a killed rsync leaves one, point to the same bytes of the base.
#[test]
fn b5_two_files_that_share_bytes_of_the_base_are_both_restored() {
    let world = World::new("shared");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 17);
    let original = files.root.join("table");
    fs::rename(files.make(45 << 20), &original).expect("name it");
    site.backup("before");
    let copy = files.root.join(".table.backup");
    fs::copy(&original, &copy).expect("copy it");
    let file = OpenOptions::new().write(true).open(&copy).expect("open the copy");
    for page in (5..(45 << 20) / PAGE as u64).step_by(32) {
        let noise = files.noise(PAGE);
        file.write_all_at(&noise, page * PAGE as u64)
            .expect("write a page");
    }
    site.backup("after");
    let data = restored(&site, "after");
    assert_same(&User::caller(), &data.join("kept_by_us"), &files.root);
}

/// B5: what a backup builds on is missed as its own would be, and no new one builds on it.
#[test]
fn b5_a_backup_whose_base_is_damaged_is_none() {
    let world = World::new("base-gone");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 16);
    files.make(30 * PAGE);
    let first = site.backup("first");
    let second = site.backup("second");
    assert_eq!(second["builds_on"][0]["id"], first["id"]);
    let keys = site
        .place
        .keys(&format!("trees/{}", first["id"].as_str().expect("an id")));
    let part = keys.iter().find(|key| key.contains(".tar.")).expect("a part");
    fs::remove_file(world.archive().join(part)).expect("remove a part");
    for name in ["first", "second"] {
        assert_eq!(site.state(name).as_deref(), Some("damaged"), "{name}");
        let mut restore = site.walfs("restore");
        restore.args(["--no-archiving", name]);
        let output = restore
            .arg(world.path().join("none"))
            .output()
            .expect("run walfs");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("is not there"), "{}", said(&output));
    }
    let third = site.backup("third");
    assert!(third["base"].is_null() && third["builds_on"].is_null(), "{third}");
    let data = restored(&site, "third");
    assert_same(&User::caller(), &data.join("kept_by_us"), &files.root);
}

/// B5: what a later backup needs is not discarded, though nothing says any more that it was complete.
#[test]
fn b5_what_a_later_backup_builds_on_is_not_discarded() {
    let world = World::new("needed");
    let site = Site::local(&world);
    site.backup("first");
    site.backup("second");
    let (summary, aside) = (
        world.archive().join("basebackups/first.json"),
        world.path().join("aside"),
    );
    fs::rename(&summary, &aside).expect("lose the summary");
    // The plan says what the deed would.
    for arguments in [&["--dry-run", "first"][..], &["first"]] {
        let discard = site.walfs("backup-discard").args(arguments).output();
        let discard = discard.expect("run walfs");
        assert_eq!(
            discard.status.code(),
            Some(1),
            "{arguments:?}: {}",
            said(&discard)
        );
        assert!(
            said(&discard).contains("backup second builds on"),
            "{arguments:?}: {}",
            said(&discard)
        );
    }
    site.backup("third");
    fs::rename(&aside, &summary).expect("bring it back");
    for name in ["first", "second", "third"] {
        assert_eq!(site.state(name).as_deref(), Some("complete"), "{name}");
    }
}

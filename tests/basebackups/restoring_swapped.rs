//! `walfs restore` while somebody renames its directories (promise S6): who can write above the target puts a link, or another
//! directory, in its place between two looks. All work is done in what was looked at first.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::restoring_safely::{assert_refused, owner_words, seen};
use crate::common::basebackup::{Place, Site};
use crate::common::s3::{Action, Logged, Operation, Rule, S3Server};
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::walfs;
use crate::common::world::World;

/// Content of a backup, but not its summary.
const PARTS: &str = ".tar.";

struct Scene<'a> {
    site: Site<'a>,
    /// Somebody else's.
    outside: PathBuf,
}

impl<'a> Scene<'a> {
    fn new(world: &'a World) -> Self {
        Self::with(world, |_| ())
    }

    fn with(world: &'a World, prepare: impl FnOnce(&Site)) -> Self {
        let site = Site::new(world, Place::S3(S3Server::start()));
        prepare(&site);
        site.backup("monday");
        let outside = world.path().join("outside");
        fs::create_dir_all(outside.join("empty")).expect("make a directory");
        fs::write(outside.join("precious"), "precious").expect("write a file");
        Self { site, outside }
    }

    fn server(&self) -> &S3Server {
        match &self.site.place {
            Place::S3(server) => server,
            Place::Local(_) => unreachable!("it is in S3"),
        }
    }

    fn command(&self, arguments: &[&str], data: &Path) -> Command {
        let mut restore = walfs(self.site.world, &User::caller());
        restore
            .envs(self.site.place.env())
            .args(["restore", "--no-archiving", "--no-sync", "--archive"])
            .arg(self.site.place.archive())
            .args(&["--owner", &User::postgres().name][..owner_words()])
            .args(arguments)
            .arg("monday")
            .arg(data);
        restore
    }

    fn restore(&self, arguments: &[&str], data: &Path) -> Output {
        self.command(arguments, data).output().expect("run walfs")
    }

    /// A restore during which something is done while one of its requests hangs.
    #[track_caller]
    fn meanwhile(
        &self,
        arguments: &[&str],
        data: &Path,
        hanging: Rule,
        act: impl FnOnce(&mut Child),
    ) -> Output {
        let rule = self.server().add_rule(hanging);
        let mut restore = self.command(arguments, data);
        let restore = restore.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut restore = restore.expect("run walfs");
        wait::until("a request that hangs", || {
            let ended = restore.try_wait().expect("look at it").is_some();
            (ended || self.server().hits(rule) > 0).then_some(())
        });
        act(&mut restore);
        self.server().remove_rule(rule);
        restore.wait_with_output().expect("the restore")
    }

    /// Requests for content, once all has been looked at.
    fn later(&self, arguments: &[&str], data: &Path) -> Rule {
        let is_part = |request: &Logged| request.operation == Operation::Get && request.key.contains(PARTS);
        let before = self.server().count(is_part);
        let output = self.restore(&[arguments, &["--dry-run"]].concat(), data);
        assert!(output.status.success(), "{}", said(&output));
        hang(PARTS).after((self.server().count(is_part) - before) as u64)
    }

    /// A restore that is killed when it has begun to fill its directories.
    #[track_caller]
    fn killed(&self, arguments: &[&str], data: &Path) {
        let later = self.later(arguments, data);
        let output = self.meanwhile(arguments, data, later, |restore| {
            restore.kill().expect("kill walfs");
        });
        assert_eq!(output.status.code(), None, "{}", said(&output));
        assert!(data.join("walfs-restore.json").exists() && !data.join("global/pg_control").exists());
    }

    fn copied(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.site.world.path().join(name);
        let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[from, &to]);
        assert!(copied.status.success(), "{}", said(&copied));
        to
    }
}

fn hang(key: &str) -> Rule {
    Rule::new(Action::Hang).operation(Operation::Get).key(key)
}

/// A link takes the place of a directory.
fn swap(directory: &Path, to: &Path) -> PathBuf {
    let moved = directory.with_extension("moved");
    fs::rename(directory, &moved).expect("move the directory");
    symlink(to, directory).expect("make a link");
    moved
}

#[test]
fn s6_a_target_that_is_swapped_for_a_link_is_not_followed() {
    let world = World::new("swapped");
    let scene = Scene::new(&world);
    let empty = scene.outside.join("empty");
    let before = seen(&scene.outside);

    // An empty directory, while the backup is looked at.
    let data = world.path().join("there");
    fs::create_dir(&data).expect("make a directory");
    let output = scene.meanwhile(&[], &data, hang("/manifest"), |_| drop(swap(&data, &empty)));
    assert_eq!(seen(&scene.outside), before, "{}", said(&output));
    assert_refused(&output, &["was replaced", "there.moved"]);
    let left = fs::read_dir(data.with_extension("moved")).expect("list it");
    assert_eq!(left.count(), 0);

    // One that is yet to be made, and a directory above it.
    let data = world.path().join("absent");
    let output = scene.meanwhile(&[], &data, hang("/manifest"), |_| {
        symlink(&empty, &data).expect("make a link");
    });
    assert_eq!(seen(&scene.outside), before, "{}", said(&output));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let above = world.path().join("above");
    fs::create_dir(&above).expect("make a directory");
    let output = scene.meanwhile(&[], &above.join("data"), hang("/manifest"), |_| {
        swap(&above, &empty);
    });
    assert_eq!(seen(&scene.outside), before, "{}", said(&output));
    assert_refused(&output, &["was replaced", "above.moved"]);

    // The disk for the WAL.
    let (data, wal) = (world.path().join("with-wal"), world.path().join("wal-disk"));
    fs::create_dir(&wal).expect("make a directory");
    let waldir = ["--waldir", wal.to_str().expect("UTF-8")];
    // What its place leads to is looked at after this request, and not again.
    let output = scene.meanwhile(&waldir, &data, hang("/manifest"), |_| {
        fs::create_dir(&data).expect("make a directory");
        fs::write(data.join("precious"), "").expect("write a file");
    });
    assert_refused(&output, &["not empty"]);
    assert!(fs::read_dir(&wal).expect("list it").next().is_none());
}

/// Behind the link is another copy of the same cluster: with `--delta` it would be replaced, and what is too much removed.
#[test]
fn s6_an_old_directory_that_is_swapped_is_not_followed() {
    let world = World::new("swapped-old");
    let scene = Scene::new(&world);
    let data = world.path().join("data");
    let output = scene.restore(&[], &data);
    assert!(output.status.success(), "{}", said(&output));
    let victim = scene.copied(&data, "victim");
    fs::write(victim.join("PG_VERSION"), "its own\n").expect("change a file");
    fs::write(victim.join("stranger"), "its own\n").expect("write a file");
    let before = seen(&victim);
    // What is asked for behind the looks of a plain restore is compared with.
    let comparing = scene.later(&[], &world.path().join("elsewhere"));
    let output = scene.meanwhile(&["--delta"], &data, comparing, |_| drop(swap(&data, &victim)));
    assert_eq!(seen(&victim), before, "{}", said(&output));
    assert_refused(&output, &["was replaced", "data.moved"]);
}

/// Too late to be followed; but what was asked for is not where it was asked for, and that is said.
#[test]
fn s6_a_target_that_is_swapped_later_is_named() {
    let world = World::new("swapped-late");
    let scene = Scene::new(&world);
    let data = world.path().join("data");
    let outside = seen(&scene.outside);
    let mut moved = PathBuf::new();
    let later = scene.later(&[], &data);
    let output = scene.meanwhile(&[], &data, later, |_| {
        moved = swap(&data, &scene.outside.join("empty"));
    });
    assert_eq!(seen(&scene.outside), outside, "{}", said(&output));
    assert_refused(
        &output,
        &["was replaced", "data.moved", "run the same command again"],
    );
    assert!(!moved.join("global/pg_control").exists());
    // As the hint says.
    fs::remove_file(&data).expect("remove the link");
    fs::rename(&moved, &data).expect("move it back");
    let output = scene.restore(&[], &data);
    assert!(output.status.success(), "{}", said(&output));
    assert!(data.join("global/pg_control").exists());
}

/// The mark of a half restore names a tablespace and a disk for the WAL. Both were given to another one meanwhile.
#[test]
fn s7_what_a_stale_mark_names_is_not_its_own() {
    let world = World::new("stale");
    let scene = Scene::with(&world, |site| {
        let space = world.owned_dir("spaces").join("space");
        User::postgres().make_dir(&space);
        let server = &site.server;
        server.query(&format!("CREATE TABLESPACE s LOCATION '{}'", space.display()));
        server.query("CREATE TABLE t TABLESPACE s AS SELECT generate_series(1, 1000) AS id");
    });
    let oid = scene
        .site
        .server
        .query("SELECT oid FROM pg_tablespace WHERE spcname = 's'");
    let (space, wal) = (world.path().join("its-space"), world.path().join("its-wal"));
    let mapping = format!("{oid}={}", space.display());
    let waldir = wal.display().to_string();
    let places = ["--tablespace-mapping", &mapping, "--waldir", &waldir];
    let (first, second) = (world.path().join("first"), world.path().join("second"));
    let marks = || {
        let mark = |place: &&PathBuf| place.join("walfs-restore-place.json").exists();
        [&space, &wal].iter().filter(|place| mark(place)).count()
    };

    // Its own places, as it left them: it goes on.
    scene.killed(&places, &first);
    assert_eq!(marks(), 2);
    // They are no target of their own.
    assert_refused(&scene.restore(&[], &space), &["is not empty"]);
    scene.killed(&places, &first);
    let output = scene.restore(&places, &first);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(marks(), 0);
    let remove = |directory: &Path| fs::remove_dir_all(directory).expect("remove a directory");
    [&first, &space, &wal].into_iter().for_each(|place| remove(place));

    // Another one's, finished.
    scene.killed(&places, &first);
    [&space, &wal].into_iter().for_each(|place| remove(place));
    let output = scene.restore(&places, &second);
    assert!(output.status.success(), "{}", said(&output));
    let before = (seen(&space), seen(&wal));
    let output = scene.restore(&places, &first);
    assert_eq!((seen(&space), seen(&wal)), before, "{}", said(&output));
    assert_refused(&output, &["not empty", "its-wal"]);
    let elsewhere = world.path().join("elsewhere").display().to_string();
    let output = scene.restore(&[&places[..2], &["--waldir", &elsewhere]].concat(), &first);
    assert_eq!((seen(&space), seen(&wal)), before, "{}", said(&output));
    assert_refused(&output, &["not empty", "its-space"]);

    // Another one's, half as well.
    remove(&second);
    [&space, &wal].into_iter().for_each(|place| remove(place));
    scene.killed(&places, &second);
    let before = (seen(&space), seen(&wal));
    let output = scene.restore(&places, &first);
    assert_refused(&output, &["not empty"]);
    assert_eq!((seen(&space), seen(&wal)), before, "{}", said(&output));
}

//! `walfs restore` while somebody renames its directories (promise S6): who can write above the target puts a link, or another
//! directory, in its place between two looks. All work is done in what was looked at first.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::restoring_safely::{assert_refused, owner_words, seen};
use crate::common::basebackup::{Place, Site};
use crate::common::s3::{Action, Operation, Rule, S3Server};
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
        let site = Site::new(world, Place::S3(S3Server::start()));
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
    fn meanwhile(&self, arguments: &[&str], data: &Path, hanging: Rule, act: impl FnOnce()) -> Output {
        let rule = self.server().add_rule(hanging);
        let mut restore = self.command(arguments, data);
        let restore = restore.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let restore = restore.expect("run walfs");
        wait::until("a request that hangs", || {
            (self.server().hits(rule) > 0).then_some(())
        });
        act();
        self.server().remove_rule(rule);
        restore.wait_with_output().expect("the restore")
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
    let output = scene.meanwhile(&[], &data, hang("/manifest"), || drop(swap(&data, &empty)));
    assert_eq!(seen(&scene.outside), before, "{}", said(&output));
    assert_refused(&output, &["was replaced", "there.moved"]);
    let left = fs::read_dir(data.with_extension("moved")).expect("list it");
    assert_eq!(left.count(), 0);

    // One that is yet to be made, and a directory above it.
    let data = world.path().join("absent");
    let output = scene.meanwhile(&[], &data, hang("/manifest"), || {
        symlink(&empty, &data).expect("make a link");
    });
    assert_eq!(seen(&scene.outside), before, "{}", said(&output));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let above = world.path().join("above");
    fs::create_dir(&above).expect("make a directory");
    let output = scene.meanwhile(&[], &above.join("data"), hang("/manifest"), || {
        swap(&above, &empty);
    });
    assert_eq!(seen(&scene.outside), before, "{}", said(&output));
    assert_refused(&output, &["was replaced", "above.moved"]);

    // The disk for the WAL.
    let (data, wal) = (world.path().join("with-wal"), world.path().join("wal-disk"));
    fs::create_dir(&wal).expect("make a directory");
    let waldir = ["--waldir", wal.to_str().expect("UTF-8")];
    // What its place leads to is looked at after this request, and not again.
    let output = scene.meanwhile(&waldir, &data, hang("/manifest"), || {
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
    let output = scene.meanwhile(&["--delta"], &data, hang("/chunks"), || {
        drop(swap(&data, &victim))
    });
    assert_eq!(seen(&victim), before, "{}", said(&output));
    assert_refused(&output, &["was replaced", "data.moved"]);
}

/// Too late to be followed; but what was asked for is not where it was asked for, and that is said.
#[test]
fn s6_a_target_that_is_swapped_later_is_named() {
    let world = World::new("swapped-late");
    let scene = Scene::new(&world);
    let data = world.path().join("data");
    let server = scene.server();
    let parts = || server.count(|request| request.operation == Operation::Get && request.key.contains(PARTS));
    let before = parts();
    let output = scene.restore(&["--dry-run"], &data);
    assert!(output.status.success(), "{}", said(&output));
    let looked_at = parts() - before;
    let outside = seen(&scene.outside);
    let mut moved = PathBuf::new();
    let later = hang(PARTS).after(looked_at as u64);
    let output = scene.meanwhile(&[], &data, later, || {
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

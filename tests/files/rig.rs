//! A directory to store, an archive, and the commands between them, all of one user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::basebackup::Place;
use crate::common::user::{User, said};
use crate::common::walfs::walfs;
use crate::common::world::World;

pub(super) struct Rig {
    pub(super) world: World,
    pub(super) place: Place,
    /// The directory.
    pub(super) source: PathBuf,
    pub(super) user: User,
}

impl Rig {
    pub(super) fn local(name: &str) -> Rig {
        let world = World::new(name);
        let place = Place::Local(world.archive());
        Rig::new(world, place)
    }

    pub(super) fn new(world: World, place: Place) -> Rig {
        let source = world.owned_dir("source");
        Rig {
            world,
            place,
            source,
            user: User::postgres(),
        }
    }

    /// `walfs COMMAND` on the archive.
    pub(super) fn walfs(&self, command: &str) -> Command {
        let mut walfs = walfs(&self.world, &self.user);
        walfs
            .envs(self.place.env())
            .args([command, "--archive", &self.place.archive()]);
        walfs
    }

    pub(super) fn run(&self, command: &str, arguments: &[&str]) -> Output {
        let mut walfs = self.walfs(command);
        walfs.args(arguments).output().expect("run walfs")
    }

    #[track_caller]
    pub(super) fn succeeds(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.run(command, arguments);
        assert!(
            output.status.success(),
            "{command} {arguments:?}: {}",
            said(&output)
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Stores a version of `source` under that name.
    #[track_caller]
    pub(super) fn store(&self, name: &str) -> Value {
        let told = self.succeeds("files", &["--json", name, &self.source.display().to_string()]);
        serde_json::from_str(&told).expect("JSON")
    }

    /// The versions that there are of a name.
    #[track_caller]
    pub(super) fn versions(&self, name: &str) -> Vec<String> {
        let told = self.succeeds("files-list", &["--json", name]);
        let version = |line: &str| {
            let listed: Value = serde_json::from_str(line).expect("JSON");
            assert!(listed.get("error").is_none(), "{listed}");
            listed["version"].as_str().expect("a version").to_owned()
        };
        told.lines().map(version).collect()
    }

    /// Brings a version back into a new directory.
    #[track_caller]
    pub(super) fn restore(&self, what: &str) -> PathBuf {
        let to = self.world.owned_dir(&format!("restored-{:x}", fastrand::u64(..)));
        self.succeeds("files-restore", &[what, &to.display().to_string()]);
        to
    }

    /// Does something to the directory, as its user: a shell line in it.
    #[track_caller]
    pub(super) fn change(&self, line: &str) {
        let output = self.user.shell(&format!("cd \"$1\" && {line}"), &[&self.source]);
        assert!(output.status.success(), "{line}: {}", said(&output));
    }

    /// Writes noise that no compression makes smaller.
    pub(super) fn noise(&self, name: &str, bytes: usize, seed: u64) {
        let mut noise = vec![0; bytes];
        fastrand::Rng::with_seed(seed).fill(&mut noise);
        let path = self.source.join(name);
        fs::write(&path, noise).expect("write a file");
        self.user.own(&path);
    }

    /// All that `find` tells of a tree, and the checksums of its files.
    #[track_caller]
    pub(super) fn told(&self, root: &Path) -> String {
        let line = r"cd $1 && find . -mindepth 1 ! -type d -printf '%p %y %m %U %G %Ts %s %l\n' | sort && \
            find . -mindepth 1 -type d -printf '%p %y %m %U %G %Ts\n' | sort && \
            find . -type f -print0 | sort -z | xargs -0 sha256sum";
        let output = self.user.shell(line, &[root]);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Bytes of all objects.
    pub(super) fn stored_bytes(&self) -> usize {
        let folders = ["files", "trees", "basebackups", "prune"];
        let keys = folders.iter().flat_map(|folder| self.place.keys(folder));
        keys.map(|key| self.place.object(&key).len()).sum()
    }
}

//! An archive, and the commands on it, all of one user: what the rigs of dumps and of files have in common.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use super::basebackup::Place;
use super::user::{User, said};
use super::walfs::{Options, walfs};
use super::world::World;

pub struct Versions {
    pub world: World,
    pub place: Place,
    pub user: User,
    /// What stores a version: `dump` or `files`.
    pub command: &'static str,
    /// What commands find in their environment.
    pub env: Vec<(&'static str, PathBuf)>,
}

impl Versions {
    pub fn new(world: World, place: Place, command: &'static str) -> Versions {
        Versions {
            world,
            place,
            user: User::postgres(),
            command,
            env: Vec::new(),
        }
    }

    /// A mount of the archive.
    pub fn to_mount(&self) -> Options {
        let options = Options::of(&self.world, &self.place.archive());
        let env = self.place.env().into_iter();
        env.fold(options, |options, (name, value)| options.env(name, &value))
    }

    /// `walfs COMMAND` on the archive.
    pub fn walfs(&self, command: &str) -> Command {
        let mut walfs = walfs(&self.world, &self.user);
        walfs.envs(self.place.env()).envs(self.env.iter().cloned()).args([
            command,
            "--archive",
            &self.place.archive(),
        ]);
        walfs
    }

    pub fn run(&self, command: &str, arguments: &[&str]) -> Output {
        let mut walfs = self.walfs(command);
        walfs.args(arguments).output().expect("run walfs")
    }

    #[track_caller]
    pub fn succeeds(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.run(command, arguments);
        let code = output.status.code();
        assert_eq!(code, Some(0), "{command} {arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The versions that there are of a name.
    #[track_caller]
    pub fn versions(&self, name: &str) -> Vec<String> {
        let told = self.succeeds(&format!("{}-list", self.command), &["--json", name]);
        let version = |line: &str| {
            let listed: Value = serde_json::from_str(line).expect("JSON");
            assert!(listed.get("error").is_none(), "{listed}");
            listed["version"].as_str().expect("a version").to_owned()
        };
        told.lines().map(version).collect()
    }

    /// Flips a bit of a part whose key has this in it, in a local archive. Returns its key.
    #[track_caller]
    pub fn damage_part(&self, of: &str) -> String {
        let keys = self.place.keys("trees").into_iter();
        let mut parts = keys.filter(|key| key.contains(of) && key.contains(".tar."));
        let part = parts.next().expect("a part");
        let path = self.world.archive().join(&part);
        let mut bytes = fs::read(&path).expect("read the part");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(&path).expect("remove it");
        fs::write(&path, bytes).expect("write it");
        self.user.own(&path);
        part
    }

    /// Bytes of all objects.
    pub fn stored_bytes(&self) -> usize {
        let folders = ["dumps", "files", "trees", "basebackups", "prune"];
        let keys = folders.iter().flat_map(|folder| self.place.keys(folder));
        keys.map(|key| self.place.object(&key).len()).sum()
    }
}

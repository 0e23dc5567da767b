//! A directory to store, an archive, and the commands between them, all of one user.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::basebackup::Place;
use crate::common::user::said;
use crate::common::versions::Versions;
use crate::common::world::World;

pub(super) struct Rig {
    pub(super) archive: Versions,
    /// The directory.
    pub(super) source: PathBuf,
}

impl Deref for Rig {
    type Target = Versions;

    fn deref(&self) -> &Versions {
        &self.archive
    }
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
            archive: Versions::new(world, place, "files"),
            source,
        }
    }

    /// Stores a version of `source` under that name.
    #[track_caller]
    pub(super) fn store(&self, name: &str) -> Value {
        let told = self.succeeds("files", &["--json", name, &self.source.display().to_string()]);
        serde_json::from_str(&told).expect("JSON")
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
}

//! A server with data worth keeping beside a mount, into which its base backups are written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use crate::common::postgres::{Options as ServerOptions, Postgres};
use crate::common::s3::S3Server;
use crate::common::user::said;
use crate::common::version::{Version, newest};
use crate::common::wait;
use crate::common::walfs::{Mount, Options, walfs};
use crate::common::world::World;

/// A server that archives into a mount, with a table longer than a slice and a few hundred small files.
pub(super) struct Site {
    pub(super) server: Postgres,
    pub(super) mount: Mount,
    pub(super) world: World,
}

impl Site {
    /// On an archive in a directory.
    pub(super) fn local(name: &str) -> Self {
        Self::new(name, Options::local)
    }

    pub(super) fn new(name: &str, options: impl FnOnce(&World) -> Options) -> Self {
        Self::of(name, newest(), options)
    }

    pub(super) fn of(name: &str, version: Version, options: impl FnOnce(&World) -> Options) -> Self {
        Self::with(World::new(name), version, options)
    }

    /// In a world that the test has prepared.
    pub(super) fn in_world(world: World, options: impl FnOnce(&World) -> Options) -> Self {
        Self::with(world, newest(), options)
    }

    fn with(world: World, version: Version, options: impl FnOnce(&World) -> Options) -> Self {
        let mount = options(&world).mount();
        let mut server = Postgres::init(&world.path().join("pg"), &ServerOptions::of(version));
        server.configure(&[
            ("archive_mode", "on"),
            ("archive_command", &mount.archive_command()),
            ("wal_level", "replica"),
        ]);
        server.start();
        server.pgbench_init(4);
        Self { server, mount, world }
    }

    pub(super) fn backups(&self) -> PathBuf {
        self.mount.path().join("basebackups")
    }

    pub(super) fn backup(&self, name: &str) -> PathBuf {
        self.backups().join(name)
    }

    pub(super) fn start_backup(&self, directory: &Path, arguments: &[&str]) -> Child {
        let mut command = self.server.program("pg_basebackup");
        command
            .arg("-D")
            .arg(directory)
            .args(["-c", "fast"])
            .args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("run pg_basebackup")
    }

    pub(super) fn run_backup(&self, directory: &Path, arguments: &[&str]) -> Output {
        let child = self.start_backup(directory, arguments);
        child.wait_with_output().expect("wait for pg_basebackup")
    }

    /// `pg_basebackup` into the mount, which must do.
    #[track_caller]
    pub(super) fn take(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let directory = self.backup(name);
        let output = self.run_backup(&directory, arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{}",
            said(&output),
            self.mount.log()
        );
        directory
    }

    #[track_caller]
    pub(super) fn shell(&self, line: &str, arguments: &[&Path]) -> Output {
        let output = self.mount.user().shell(line, arguments);
        assert!(
            output.status.success(),
            "{line}: {}\n{}",
            said(&output),
            self.mount.log()
        );
        output
    }

    #[track_caller]
    pub(super) fn verify(&self, directory: &Path) {
        let verified = self.server.program("pg_verifybackup").arg(directory).output();
        let verified = verified.expect("run pg_verifybackup");
        assert!(
            verified.status.success(),
            "{}\n{}",
            said(&verified),
            self.mount.log()
        );
    }

    pub(super) fn latest(&self) -> Option<String> {
        let target = self
            .mount
            .user()
            .shell("readlink \"$1\"", &[&self.backup("LATEST")]);
        let target = String::from_utf8(target.stdout).expect("UTF-8").trim().to_owned();
        Some(target).filter(|target| !target.is_empty())
    }

    /// The summary, as it is stored.
    pub(super) fn summary(&self, name: &str) -> Option<serde_json::Value> {
        let path = self.world.archive().join(format!("basebackups/{name}.json"));
        let text = fs::read(path).ok()?;
        Some(serde_json::from_slice(&text).expect("JSON"))
    }

    /// It is complete and says so; no byte of it can be changed.
    #[track_caller]
    pub(super) fn assert_complete(&self, name: &str) {
        let summary = self
            .summary(name)
            .unwrap_or_else(|| panic!("no summary\n{}", self.mount.log()));
        let own = self.server.system_identifier().to_string();
        if let Some(found) = summary["backup"].get("system_identifier") {
            assert_eq!(found, own.as_str());
        }
        wait::until("LATEST to move", || (self.latest()? == name).then_some(()));
        let changed = self
            .mount
            .user()
            .shell("touch \"$1/x\" || rm -r \"$1\"", &[&self.backup(name)]);
        assert!(!changed.status.success(), "a complete backup was changed");
    }

    /// What `walfs backup-list --json` says of it.
    #[track_caller]
    pub(super) fn listed(&self, name: &str) -> serde_json::Value {
        let mut list = self.mount.command(&self.world, "backup-list");
        let output = list.arg("--json").output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        let all: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        let mut found = all.into_iter().filter(|listed| listed["name"] == name);
        found.next().unwrap_or_else(|| panic!("{name} is not listed"))
    }

    #[track_caller]
    pub(super) fn assert_listed_complete(&self, name: &str) {
        let listed = self.listed(name);
        assert_eq!(listed["state"], "complete", "{listed}\n{}", self.mount.log());
        wait::until("LATEST to move", || (self.latest()? == name).then_some(()));
    }

    /// `fsync` of a backup's directory, which must fail: it has a manifest, and is not what that says.
    #[track_caller]
    pub(super) fn sync_fails(&self, directory: &Path) {
        let synced = self.mount.user().shell("sync \"$1\"", &[directory]);
        let message = said(&synced);
        assert!(
            message.contains("Input/output error"),
            "{message}\n{}",
            self.mount.log()
        );
    }

    /// `walfs backup-finish`, which must end with this exit code; what it said.
    #[track_caller]
    pub(super) fn finish(&self, directory: &Path, code: i32) -> String {
        let mut command = walfs(&self.world, self.mount.user());
        let output = command
            .arg("backup-finish")
            .arg(directory)
            .output()
            .expect("run walfs");
        let message = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), Some(code), "{message}");
        message
    }

    pub(super) fn local_backup(&self) -> PathBuf {
        let directory = self.world.owned_dir("local");
        let output = self.run_backup(&directory, &["-Xfetch"]);
        assert!(output.status.success(), "{}", said(&output));
        directory
    }
}

pub(super) fn on_s3(store: &S3Server, world: &World) -> Options {
    let environment: Vec<(String, String)> = store
        .env()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let archive = format!("s3://{}/pg", store.bucket());
    Options::s3(world, &archive, &store.endpoint(), &environment)
}

/// As the owner of the mount sees it: nobody else gets in.
pub(super) fn directory_has(site: &Site, directory: &Path, name: &str) -> Option<()> {
    let found = site
        .mount
        .user()
        .shell("test -e \"$1\"", &[&directory.join(name)]);
    found.status.success().then_some(())
}

//! One round: every tool backs up the same cluster once and restores it once, each from a page cache that is empty.

use std::path::Path;
use std::process::Command;

use crate::common::postgres::Postgres;
use crate::common::user::User;
use crate::common::walfs::{Mount, Options, walfs};
use crate::common::world::World;
use crate::measure::files;
use crate::measure::meter::{self, Cost, Others};
use crate::scene::cluster::{self, Question};
use crate::scene::site::{Place, Site};
use crate::sheet::Sheet;

/// A copy of a data directory. PostgreSQL's own tools and walfs write with fsync; so does whatever they are compared with.
const COPY: &str = r#"cp -a "$1" "$2" && find "$2" -exec sync {} +"#;
const PACK: &str = r#"tar -C "$1" --exclude='./pg_wal/*' --exclude='./postmaster.*' -cf - . | lz4 -q -1 > "$2" && sync "$2""#;
const UNPACK: &str = r#"lz4 -q -d < "$1" | tar -C "$2" -xf - && find "$2" -exec sync {} +"#;

/// One archive of walfs, mounted.
struct Store<'a> {
    name: &'a str,
    mount: Mount,
    /// `--archive` and what else says where it is.
    arguments: Vec<String>,
    helpers: Vec<u32>,
    /// Where its bytes are; ends after the mount.
    site: Site,
}

/// One cluster, and what its backups and restores have cost so far.
pub struct Bench<'a> {
    pub world: &'a World,
    pub server: Postgres,
    question: Question,
    backups: Sheet,
    restores: Sheet,
}

impl<'a> Bench<'a> {
    pub fn new(world: &'a World, (server, question): (Postgres, Question)) -> Bench<'a> {
        Bench {
            world,
            server,
            question,
            backups: Sheet::default(),
            restores: Sheet::default(),
        }
    }

    /// Prints both tables; the cluster is removed.
    pub fn end(self, title: &str) {
        self.backups.print_backups(&format!("Backup of {title}"));
        self.restores.print_restores(&format!("Restore of {title}"));
        self.server.destroy();
    }

    /// walfs in both places, and the tools that need no archive of their own. Archives are new in each round: nothing in
    /// them is known already.
    pub fn round(&mut self, with_s3: bool) {
        let directory = self.store("directory", Place::Directory);
        cluster::archive_by(&self.server, &directory.mount.archive_command());
        self.plain(&directory.mount);
        self.tar(&directory.mount);
        self.walfs(directory);
        if with_s3 {
            let store = self.store("S3", Place::S3 { round_trip_ms: 0 });
            cluster::archive_by(&self.server, &store.mount.archive_command());
            self.walfs(store);
        }
    }

    fn store(&self, name: &'static str, place: Place) -> Store<'static> {
        let site = Site::new(self.world, "site", place);
        let (archive, options) = site.walfs_archive();
        let words: Vec<&str> = options.iter().map(String::as_str).collect();
        let mountpoint = site.mountpoint();
        let mount = Options::of(self.world, &archive)
            .at(&mountpoint)
            .args(&words)
            .mount();
        Store {
            name,
            mount,
            arguments: [vec!["--archive".into(), archive], options].concat(),
            helpers: site.s3.iter().map(|s3| s3.process()).collect(),
            site,
        }
    }

    /// `pg_basebackup` to disk; a copy of that is what a restore is compared with.
    fn plain(&mut self, archive: &Mount) {
        let dir = self.world.owned_dir("plain").join("data");
        let command = self.pg_basebackup(&dir);
        self.backup("pg_basebackup to disk", command, &self.archived_by(archive), &dir);
        let copy = shell(COPY, &[&dir, &self.world.path().join("restored/data")]);
        self.restore(
            "cp -a, fsync",
            copy,
            &Others::default(),
            &archive.restore_command(),
        );
        cluster::remove(&dir);
    }

    fn tar(&mut self, archive: &Mount) {
        let dir = self.world.owned_dir("tar");
        let file = dir.join("backup.tar.lz4");
        let pack = shell(PACK, &[self.server.data(), &file]);
        let mut cost = Cost::default();
        let label = self
            .server
            .in_backup_mode(|| cost = self.measured(pack, &Others::default(), &dir));
        self.backups.add("tar, lz4 -1, fsync", cost);
        let data = self.world.owned_dir("restored/data");
        self.world.owned_file("restored/data/backup_label", &label);
        let unpack = shell(UNPACK, &[&file, &data]);
        self.restore(
            "lz4 -d, tar x, fsync",
            unpack,
            &Others::default(),
            &archive.restore_command(),
        );
        cluster::remove(&dir);
    }

    /// By walfs itself, and by other tools through its mount.
    fn walfs(&mut self, mut store: Store<'_>) {
        let daemon = store.mount.process();
        let name = |tool: &str| format!("**{tool}**, {}", store.name);
        let others = |workers: &[u32], helpers: &[u32]| Others {
            server: Some(self.server.process()),
            workers: workers.to_vec(),
            helpers: [&store.helpers[..], helpers].concat(),
        };
        let (itself, through) = (others(&[], &[daemon]), others(&[daemon], &[]));
        let mounted = store.mount.path().join("basebackups/by-pg_basebackup");
        let data = self.world.path().join("restored/data");

        self.backup(
            &name("walfs backup"),
            self.walfs_backup(&store),
            &itself,
            &store.site.bytes_in(),
        );
        let pg_basebackup = self.pg_basebackup(&mounted);
        self.backup(
            &name("pg_basebackup into the mount"),
            pg_basebackup,
            &through,
            &store.site.bytes_in(),
        );

        let mut restore = self.walfs_command("restore", &store);
        restore.arg("by-walfs").arg(&data).arg("--no-archiving");
        let restore_command = store.mount.restore_command();
        self.restore(&name("walfs restore"), restore, &itself, &restore_command);
        let copy = shell(COPY, &[&mounted, &data]);
        self.restore(
            &name("cp -a from the mount, fsync"),
            copy,
            &through,
            &restore_command,
        );
        cluster::archive_by(&self.server, "/bin/true");
        store.mount.terminate();
    }

    fn backup(&mut self, name: &str, command: Command, others: &Others, dir: &Path) {
        let cost = self.measured(command, others, dir);
        self.backups.add(name, cost);
    }

    /// A backup from an empty page cache, whose bytes go into `dir`.
    fn measured(&self, mut command: Command, others: &Others, dir: &Path) -> Cost {
        self.server.query("CHECKPOINT");
        files::empty_page_cache();
        let before = files::bytes_beneath(dir);
        let mut cost = meter::run(&mut command, others);
        cost.stored_bytes = files::bytes_beneath(dir).saturating_sub(before);
        cost
    }

    /// Restores into `restored/data`, starts a server there, and removes it.
    fn restore(&mut self, name: &str, mut command: Command, others: &Others, restore_command: &str) {
        let restored = self.world.path().join("restored");
        if !restored.exists() {
            self.world.owned_dir("restored");
        }
        files::empty_page_cache();
        let mut cost = meter::run(&mut command, others);
        cost.until_answer = cost.wall + cluster::time_to_answer(&restored, &self.question, restore_command);
        self.restores.add(name, cost);
        cluster::remove(&restored);
    }

    /// Nobody but the server, and the daemon that takes its WAL.
    fn archived_by(&self, archive: &Mount) -> Others {
        Others {
            server: Some(self.server.process()),
            workers: Vec::new(),
            helpers: vec![archive.process()],
        }
    }

    fn pg_basebackup(&self, dir: &Path) -> Command {
        let mut command = self.server.program("pg_basebackup");
        command.arg("-D").arg(dir).args(["-X", "none", "-c", "fast"]);
        command
    }

    fn walfs_backup(&self, store: &Store<'_>) -> Command {
        let mut command = self.walfs_command("backup", store);
        let sockets = self.server.data().with_file_name("");
        command
            .args(["by-walfs", "--fast", "--json"])
            .env("PGHOST", sockets)
            .env("PGUSER", "postgres");
        command
    }

    fn walfs_command(&self, verb: &str, store: &Store<'_>) -> Command {
        let mut command = walfs(self.world, &User::postgres());
        command.arg(verb).args(&store.arguments);
        command
    }
}

/// A line of bash as postgres that fails if any part of a pipe does.
fn shell(line: &str, arguments: &[&Path]) -> Command {
    let mut command = User::postgres().command("/bin/bash");
    command
        .args(["-o", "pipefail", "-c", line, "bash"])
        .args(arguments);
    command
}

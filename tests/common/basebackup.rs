//! `walfs backup` and its relatives, driven from outside: a server with data worth keeping, an archive in either kind
//! of store, and a backup brought back by stock tools only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::postgres::{Options, Postgres, newest};
use super::s3::S3Server;
use super::user::{User, said};
use super::walfs::walfs;
use super::world::World;

/// First version whose checker looks into tables as well as into indexes.
const CHECKS_TABLES: u32 = 14;

/// Where an archive is.
pub enum Place {
    Local(PathBuf),
    S3(S3Server),
}

impl Place {
    /// What `--archive` is told.
    pub fn archive(&self) -> String {
        match self {
            Place::Local(path) => path.display().to_string(),
            Place::S3(server) => format!("s3://{}/pg/main", server.bucket()),
        }
    }

    pub fn env(&self) -> Vec<(&'static str, String)> {
        match self {
            Place::Local(_) => Vec::new(),
            Place::S3(server) => server.env(),
        }
    }

    /// Keys of all objects below `folder/`, or of all, ascending.
    pub fn keys(&self, folder: &str) -> Vec<String> {
        match self {
            Place::S3(server) => {
                let prefix = format!("pg/main/{folder}/");
                let keys = server.keys(prefix.trim_end_matches("//"));
                keys.iter()
                    .map(|key| key["pg/main/".len()..].to_owned())
                    .collect()
            }
            Place::Local(root) => {
                let mut found = Vec::new();
                collect(root, &root.join(folder), &mut found);
                found.sort();
                found
            }
        }
    }

    pub fn object(&self, key: &str) -> Vec<u8> {
        match self {
            Place::S3(server) => server.object(&format!("pg/main/{key}")).expect("the object"),
            Place::Local(root) => fs::read(root.join(key)).expect("read the object"),
        }
    }
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(root, &entry.path(), found);
        } else if entry.file_name() != ".archive_id" {
            let path = entry.path();
            found.push(path.strip_prefix(root).expect("below").display().to_string());
        }
    }
}

/// A server that archives by `walfs wal-push` into a place.
pub struct Site<'a> {
    pub world: &'a World,
    pub place: Place,
    pub server: Postgres,
}

impl<'a> Site<'a> {
    /// On a local archive, with segments of 1 MiB, started.
    #[track_caller]
    pub fn local(world: &'a World) -> Site<'a> {
        Site::new(world, Place::Local(world.archive()))
    }

    #[track_caller]
    pub fn new(world: &'a World, place: Place) -> Site<'a> {
        let options = Options {
            version: newest(),
            segment_mib: 1,
            ..Options::default()
        };
        Site::with(world, place, &options)
    }

    /// Of a server that is made so.
    #[track_caller]
    pub fn with(world: &'a World, place: Place, options: &Options) -> Site<'a> {
        let server = Postgres::init(&world.path().join("pg"), options);
        let mut site = Site { world, place, server };
        site.server.archive_with(&site.archive_command());
        site.server.start();
        site
    }

    /// `env NAME=VALUE ... walfs wal-push`, which keeps what the server's environment lacks.
    pub fn archive_command(&self) -> String {
        self.command("wal-push", "\"%p\"")
    }

    pub fn restore_command(&self) -> String {
        self.command("wal-fetch", "%f \"%p\"")
    }

    fn command(&self, verb: &str, files: &str) -> String {
        let env = self.place.env();
        let env: Vec<String> = env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let program = self.world.public_program(Path::new(super::walfs::BINARY));
        let (env, program, archive) = (env.join(" "), program.display(), self.place.archive());
        format!("env {env} {program} {verb} --archive {archive} {files}")
    }

    /// `walfs COMMAND` on this archive, as postgres, with the way to the server in its environment.
    pub fn walfs(&self, command: &str) -> Command {
        let mut walfs = walfs(self.world, &User::postgres());
        walfs
            .env("PGHOST", self.world.path().join("pg"))
            .env("PGUSER", "postgres")
            .envs(self.place.env())
            .arg(command)
            .args(["--archive", &self.place.archive()]);
        walfs
    }

    /// Takes a backup that must succeed, and returns what `--json` says.
    #[track_caller]
    pub fn backup(&self, name: &str) -> Value {
        let output = self.try_backup(name, &[]);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Takes a backup with an immediate checkpoint.
    pub fn try_backup(&self, name: &str, arguments: &[&str]) -> Output {
        let mut backup = self.walfs("backup");
        backup
            .args(["--fast", "--json", name])
            .args(arguments)
            .output()
            .expect("run walfs")
    }

    /// Begins one that reads at most so much in a second.
    pub fn slow_backup(&self, name: &str, rate: &str) -> Child {
        self.slow_backup_with(name, &["--rate-limit", rate])
    }

    /// Begins one with these arguments.
    pub fn slow_backup_with(&self, name: &str, arguments: &[&str]) -> Child {
        let mut backup = self.walfs("backup");
        backup.args(["--fast", name]).args(arguments);
        backup
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run walfs")
    }

    /// What `backup-list --json` says.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let output = self
            .walfs("backup-list")
            .arg("--json")
            .output()
            .expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).expect("a JSON array")
    }

    /// The state of the only backup of that name.
    #[track_caller]
    pub fn state(&self, name: &str) -> Option<String> {
        let found: Vec<Value> = self
            .list()
            .into_iter()
            .filter(|listed| listed["name"] == name)
            .collect();
        assert!(found.len() <= 1, "{found:?}");
        Some(found.first()?["state"].as_str()?.to_owned())
    }

    /// Sessions of `walfs backup` in the server.
    pub fn sessions(&self) -> u32 {
        self.server
            .number("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walfs backup'")
    }

    /// Promise R5: the files of a backup, brought back by `cat`, `lz4` and `tar`, into `dir/data`.
    #[track_caller]
    pub fn unpack(&self, summary: &Value, dir: &Path) -> PathBuf {
        let user = User::postgres();
        user.make_dir(dir);
        let (data, parts) = (dir.join("data"), dir.join("parts"));
        user.make_dir(&data);
        let id = summary["id"].as_str().expect("an id");
        let keys = self.place.keys(&format!("trees/{id}"));
        let stream: Vec<u8> = keys
            .iter()
            .filter(|key| key.ends_with(".tar.lz4"))
            .flat_map(|key| self.place.object(key))
            .collect();
        fs::write(&parts, stream).expect("write the parts");
        let output = user.shell(r#"cat "$1" | lz4 -dc | tar -xpif - -C "$2""#, &[&parts, &data]);
        // Owners and parts are nobody's concern any more.
        let _ = fs::remove_file(&parts);
        assert!(output.status.success(), "{}", said(&output));
        data
    }

    /// `pg_verifybackup` of an unpacked backup, without its WAL, which is in the archive.
    #[track_caller]
    pub fn verify(&self, data: &Path) {
        let output = self
            .server
            .program("pg_verifybackup")
            .arg("-n")
            .arg(data)
            .output()
            .expect("run pg_verifybackup");
        assert!(output.status.success(), "{}", said(&output));
    }
}

impl Postgres {
    /// Every table and every index against its table, by PostgreSQL's own checker.
    #[track_caller]
    pub fn check_all(&self) {
        if self.version.major < CHECKS_TABLES {
            self.query("CREATE EXTENSION amcheck");
            self.query(
                "SELECT bt_index_check(indexrelid, true) FROM pg_index JOIN pg_class ON oid = indexrelid
                  WHERE relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND relpersistence <> 't'",
            );
            return;
        }
        let mut amcheck = self.program("pg_amcheck");
        let output = amcheck
            .args(["--all", "--heapallindexed", "--install-missing"])
            .output()
            .expect("run pg_amcheck");
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// Panics unless pgbench's sums are equal; returns how many transactions there are.
#[track_caller]
pub fn balanced(server: &Postgres) -> u64 {
    let sums = server.query(
        "SELECT (SELECT coalesce(sum(delta), 0) FROM pgbench_history), (SELECT sum(abalance) FROM pgbench_accounts),
                (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches)",
    );
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(
        sums.iter().all(|sum| *sum == sums[0]),
        "deltas, accounts, tellers, branches: {sums:?}"
    );
    server.number("SELECT count(*) FROM pgbench_history")
}

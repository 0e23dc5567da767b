//! A server, an archive, and the commands between them, all of one user.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::basebackup::Place;
use crate::common::postgres::{Options, Postgres, newest};
use crate::common::user::said;
use crate::common::versions::Versions;
use crate::common::world::World;

pub(super) struct Rig {
    archive: Versions,
    pub(super) server: Postgres,
    /// Where `pg_dump` is.
    pub(super) bin: PathBuf,
}

impl Deref for Rig {
    type Target = Versions;

    fn deref(&self) -> &Versions {
        &self.archive
    }
}

impl Rig {
    #[track_caller]
    pub(super) fn local(name: &str) -> Rig {
        let world = World::new(name);
        let place = Place::Local(world.archive());
        Rig::new(world, place, &Options::default())
    }

    #[track_caller]
    pub(super) fn new(world: World, place: Place, options: &Options) -> Rig {
        let mut server = Postgres::init(&world.path().join("pg"), options);
        server.start();
        let bin = newest().bin;
        let mut archive = Versions::new(world, place, "dump");
        archive.env = vec![
            ("PGHOST", archive.world.path().join("pg")),
            ("PGUSER", "postgres".into()),
            ("WALFS_BIN_DIR", bin.clone()),
        ];
        Rig { archive, server, bin }
    }

    /// From now on with these.
    pub(super) fn use_tools(&mut self, bin: PathBuf) {
        self.archive.env.push(("WALFS_BIN_DIR", bin.clone()));
        self.bin = bin;
    }

    /// Takes a dump of one database.
    #[track_caller]
    pub(super) fn dump(&self, database: &str) -> Value {
        self.dumps(&["--", database])[0].clone()
    }

    /// What dumps tell of each.
    #[track_caller]
    pub(super) fn dumps(&self, arguments: &[&str]) -> Vec<Value> {
        let told = self.succeeds("dump", &[&["--json"], arguments].concat());
        dumps_in(told.as_bytes())
    }

    /// SQL in one database.
    #[track_caller]
    pub(super) fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.server.program("psql");
        psql.env("PGDATABASE", database);
        let output = psql
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .expect("run psql");
        assert!(output.status.success(), "{sql}: {}", said(&output));
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().into()
    }

    /// A database with a table of rows that no compression makes small, and things that depend on it.
    #[track_caller]
    pub(super) fn fill(&self, database: &str, rows: u32) {
        self.server.query(&format!("CREATE DATABASE {database}"));
        self.sql(
            database,
            &format!(
                "CREATE TABLE t (id int PRIMARY KEY, noise text); \
                 INSERT INTO t SELECT i, {NOISE} FROM generate_series(1, {rows}) i; \
                 CREATE VIEW v AS SELECT count(*) FROM t; CREATE INDEX ON t (noise); COMMENT ON TABLE t IS 'it''s t'"
            ),
        );
    }

    /// What `pg_dump` says of a database, as a script.
    #[track_caller]
    pub(super) fn told(&self, database: &str) -> String {
        let mut dump = self.user.command(self.bin.join("pg_dump"));
        dump.env("PGHOST", self.world.path().join("pg"))
            .env("PGUSER", "postgres");
        let output = dump.arg(database).output().expect("run pg_dump");
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let lines = text.lines();
        // With a key that is another one each time.
        let same = lines.filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
        same.collect::<Vec<&str>>().join("\n")
    }

    /// Brings a dump back into a database of its own, and says what `pg_dump` says of that.
    #[track_caller]
    pub(super) fn restored(&self, what: &str) -> String {
        let file = self
            .world
            .owned_dir(&format!("dump-{:x}", fastrand::u64(..)))
            .join("a.dump");
        self.succeeds("dump-restore", &[what, &file.display().to_string()]);
        self.restored_from(&file)
    }

    /// The same from a file.
    #[track_caller]
    pub(super) fn restored_from(&self, file: &Path) -> String {
        self.server.query("DROP DATABASE IF EXISTS restored");
        self.server.query("CREATE DATABASE restored");
        let mut restore = self.user.command(self.bin.join("pg_restore"));
        restore
            .env("PGHOST", self.world.path().join("pg"))
            .env("PGUSER", "postgres")
            .args(["-d", "restored"])
            .arg(file);
        let output = restore.output().expect("run pg_restore");
        // A server without tools of its own does not know all settings of those that are newer.
        let is_fine = output.status.success() || !self.server.version.has_tools();
        assert!(is_fine, "{}", said(&output));
        let told = self.told("restored");
        self.server.query("DROP DATABASE restored");
        told
    }
}

/// The dumps of which `--json` tells.
#[track_caller]
pub(super) fn dumps_in(told: &[u8]) -> Vec<Value> {
    let told: Value = serde_json::from_slice(told).expect("JSON");
    told["dumps"].as_array().expect("a list").clone()
}

/// 160 bytes of noise for the row `i`.
pub(super) const NOISE: &str =
    "(SELECT string_agg(md5(i || '-' || n || random()), '') FROM generate_series(1, 5) n)";

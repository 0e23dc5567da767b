//! Each of a row of backups of a server is what a conventional copy of the stopped server is (promises B5, K1).

use std::fs;
use std::path::{Path, PathBuf};

use super::incremental::assert_same;
use super::written_again::written;
use crate::common::basebackup::{Place, Site};
use crate::common::postgres::{Options, Postgres, newest};
use crate::common::user::{User, said};
use crate::common::walfs::Mount;
use crate::common::world::World;

const TABLES: u32 = 6;

/// A server that changes.
struct Changing<'a> {
    server: &'a Postgres,
    random: fastrand::Rng,
}

impl Changing<'_> {
    fn make(&mut self, table: u32) {
        let space = ["pg_default", "fast"][self.random.usize(0..2)];
        self.server.query(&format!(
            "CREATE TABLE t{table} (id int, v text) TABLESPACE {space};
             INSERT INTO t{table} SELECT id, md5(random()::text) FROM generate_series(1, {}) id;
             CREATE INDEX ON t{table} (v)",
            self.random.u32(0..20_000)
        ));
    }

    /// Changes one thing, as a server does: rows, whole files, or what is behind no record of the WAL.
    fn change(&mut self) {
        let table = self.random.u32(0..TABLES);
        let (some, rest) = (self.random.u32(2..2000), self.random.u32(0..1000));
        let space = ["pg_default", "fast"][self.random.usize(0..2)];
        match self.random.u32(0..12) {
            0..=2 => drop(self.server.query(&format!(
                "UPDATE t{table} SET v = md5(random()::text) WHERE id % {some} = {rest} % {some}"
            ))),
            3 => drop(self.server.query(&format!(
                "INSERT INTO t{table} SELECT id, md5(random()::text) FROM generate_series(1, {some}) id"
            ))),
            4 => drop(
                self.server
                    .query(&format!("DELETE FROM t{table} WHERE id % 7 = {rest} % 7")),
            ),
            5 => drop(self.server.query(&format!("TRUNCATE t{table}"))),
            6 => {
                self.server.query(&format!("DROP TABLE t{table}"));
                self.make(table);
            }
            7 => drop(self.server.query(&format!("VACUUM FULL t{table}"))),
            8 => drop(
                self.server
                    .query(&format!("ALTER TABLE t{table} SET TABLESPACE {space}")),
            ),
            9 => drop(self.server.query("DROP DATABASE IF EXISTS other")),
            10 => {
                self.server.query("DROP DATABASE IF EXISTS other");
                self.server.query("CREATE DATABASE other STRATEGY file_copy");
            }
            // Hint bits; the maps of free space and of what is visible.
            _ => {
                self.server.query(&format!("SELECT count(*) FROM t{table}"));
                self.server.query(&format!("VACUUM t{table}"));
            }
        }
    }
}

/// What is the same as long as nothing is written to it. The rest of a data directory is the WAL's, the control file, and what
/// a server makes when it starts.
const SAME: [&str; 4] = ["base", "pg_xact", "pg_multixact", "pg_tblspc"];

/// A copy of a data directory, with what its links lead to.
fn copied(data: &Path, to: &Path) {
    fs::create_dir(to).expect("make a directory");
    for name in SAME {
        let copy = User::caller().shell("cp -aL \"$1\" \"$2\"", &[&data.join(name), to]);
        assert!(copy.status.success(), "{}", said(&copy));
    }
    let passing = "find \"$1\" '(' -name pg_internal.init -o -name pgsql_tmp ')' -prune -exec rm -r '{}' +";
    let output = User::caller().shell(passing, &[to]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn b5_every_backup_of_a_server_is_what_a_copy_of_it_is() {
    let world = World::new("stopped");
    let mut site = Site::with(
        &world,
        Place::Local(world.archive()),
        &Options {
            version: newest(),
            segment_mib: 1,
            // Without them a hint leaves no record, and the page's LSN where it was.
            data_checksums: false,
            ..Options::default()
        },
    );
    site.server.configure(&[
        ("autovacuum", "off"),
        ("bgwriter_lru_maxpages", "0"),
        ("checkpoint_timeout", "1h"),
        ("max_wal_size", "4GB"),
    ]);
    site.server.restart();
    let mount = Mount::local(&world);
    let place = world.owned_dir("fast");
    site.server
        .query(&format!("CREATE TABLESPACE fast LOCATION '{}'", place.display()));
    let oid = site
        .server
        .query("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'");
    let mut random = fastrand::Rng::with_seed(41);
    let mut copies: Vec<(String, PathBuf)> = Vec::new();
    for round in 0..6 {
        let mut changing = Changing {
            server: &site.server,
            random,
        };
        match round {
            0 => (0..TABLES).for_each(|table| changing.make(table)),
            // Nothing but what no record tells of.
            1 => drop(site.server.query("SELECT count(*) FROM t0")),
            _ => (0..25).for_each(|_| changing.change()),
        }
        random = changing.random;
        let name = format!("s{round}");
        if round % 2 == 0 {
            site.backup(&name);
        } else {
            let to = mount.path().join("basebackups").join(&name).join("fast");
            let mapping = format!("--tablespace-mapping={}={}", place.display(), to.display());
            written(&site, &mount, &name, &[&mapping]);
        }
        // It writes nothing more.
        site.server.kill9();
        let copy = world.path().join(format!("copy-{name}"));
        copied(site.server.data(), &copy);
        copies.push((name, copy));
        site.server.start();
    }
    let told_by_no_record = |name: &str| {
        let (_, copy) = copies.iter().find(|(known, _)| known == name).expect("a copy");
        let listed = User::caller().shell("cd \"$1\" && find . -type f | sort | xargs sha256sum", &[copy]);
        String::from_utf8(listed.stdout).expect("names")
    };
    assert!(
        told_by_no_record("s0") != told_by_no_record("s1"),
        "a count sets no hint"
    );
    for (name, copy) in &copies {
        let shown = mount.path().join("basebackups").join(name);
        for part in SAME {
            let (read, expected) = (shown.join(part), copy.join(part));
            assert_same(mount.user(), &read, &expected);
        }
        let dir = world.owned_dir(&format!("restored-{name}"));
        let mapping = format!("{oid}={}", dir.join("fast").display());
        let mut restore = site.walfs("restore");
        restore.args([
            "--no-archiving",
            "--no-sync",
            "--tablespace-mapping",
            &mapping,
            name,
        ]);
        let output = restore.arg(dir.join("data")).output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        for part in SAME {
            assert_same(&User::caller(), &dir.join("data").join(part), &copy.join(part));
        }
        fs::remove_dir_all(&dir).expect("remove what was restored");
    }
}

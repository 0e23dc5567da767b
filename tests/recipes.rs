//! The recipes of `docs/recipes.md`: the commands are taken from there, and run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::basebackup::{Place, Site};
use crate::common::garage::Garage;
use crate::common::postgres::{Options, Postgres, Version, installed_versions, newest};
use crate::common::user::said;
use crate::common::wait;
use crate::common::walfs::{self, Mount};
use crate::common::world::World;

mod layouts;
mod page;

pub(crate) use page::{Recipe, page};

/// Where a recipe's second server listens.
const BESIDE: &str = "5433";

/// Each heading of the page, and the test of it.
const TESTED: [&str; 8] = [
    "One table out of an old backup",
    "Old WAL for a logical slot",
    "A second copy in another region",
    "A standby fed from the archive",
    "Moving to a new major version",
    "Debian's layout",
    "Patroni",
    // In tests/fleet/central.rs.
    "A central host for many servers",
];

#[test]
fn each_recipe_has_its_test() {
    assert_eq!(page::headings(), TESTED);
}

/// A server on a local archive, whose copies have their socket where it has its own.
fn site_of<'a>(world: &'a World, version: &Version) -> Site<'a> {
    let options = Options::of(version.clone());
    let site = Site::with(world, Place::Local(world.archive()), &options);
    let sockets = sockets(world);
    site.server.configure(&[("unix_socket_directories", &sockets)]);
    site
}

fn sockets(world: &World) -> String {
    world.path().join("pg").display().to_string()
}

/// A recipe for this site, with the way to its server.
fn recipe<'a>(site: &Site<'a>, heading: &str) -> Recipe<'a> {
    let mut recipe = Recipe::of(heading, site.world, &site.server.version);
    recipe.set("PGHOST", &sockets(site.world));
    for (name, value) in site.place.env() {
        recipe.set(name, &value);
    }
    recipe
}

/// The place of a server that a recipe starts, which ends with the test: its data directory is `data` in it.
fn second(world: &World, name: &str, version: &Version) -> Postgres {
    Postgres::in_dir(&world.path().join(name), version.clone())
}

/// What the server answers that listens beside the first one.
#[track_caller]
fn ask_beside(first: &Postgres, sql: &str) -> String {
    asked(first.program("psql").env("PGPORT", BESIDE), sql)
}

/// What a psql that knows its server is told.
#[track_caller]
fn asked(psql: &mut Command, sql: &str) -> String {
    let output = psql
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])
        .output()
        .expect("run psql");
    assert!(output.status.success(), "{sql}: {}", said(&output));
    String::from_utf8(output.stdout).expect("UTF-8").trim_end().into()
}

#[test]
fn b6_one_table_comes_out_of_an_old_backup() {
    let world = World::new("table");
    let site = site_of(&world, &newest());
    site.server.query("CREATE DATABASE shop");
    let in_shop = |sql: &str| asked(site.server.program("psql").env("PGDATABASE", "shop"), sql);
    in_shop("CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id");
    site.backup("monday");
    in_shop("INSERT INTO orders VALUES (0)");
    in_shop("CREATE TABLE stays AS SELECT 1 AS id");
    let before = in_shop("SELECT clock_timestamp()");
    in_shop("DROP TABLE orders");
    in_shop("INSERT INTO stays VALUES (2)");
    site.server.archive_all();

    let copy = second(&world, "copy", &site.server.version);
    let mut recipe = recipe(&site, "One table out of an old backup");
    recipe
        .place("s3://bucket/prefix", site.place.archive())
        .place("2026-11-21 13:59:00+01", before)
        .place("/srv/copy.log", copy.data().with_extension("log").display())
        .place("/srv/copy", copy.data().display())
        .place(
            "/srv/orders.dump",
            world.owned_dir("dump").join("orders").display(),
        );
    recipe.run(0);
    assert_eq!(in_shop("SELECT count(*), min(id) FROM orders"), "1001|0");
    // The rest of the server stays as it is, and nothing is left.
    assert_eq!(in_shop("SELECT count(*) FROM stays"), "2");
    recipe.run(1);
    assert_eq!(recipe.len(), 2);
    assert!(!copy.data().exists());
    assert!(!world.path().join("dump/orders").exists());
}

#[test]
fn r5_a_logical_slot_reads_on_in_wal_from_the_archive() {
    let world = World::new("slot");
    let mount = Mount::local(&world);
    let options = Options {
        segment_mib: 1,
        ..Options::default()
    };
    let mut server = Postgres::init(&world.path().join("pg"), &options);
    server.archive_with(&mount.archive_command());
    server.configure(&[("wal_level", "logical")]);
    server.start();
    server.query("CREATE TABLE t(id int)");
    server.query("SELECT pg_create_logical_replication_slot('subscriber', 'test_decoding')");
    let start = server.current_lsn();
    for id in 1..=3 {
        server.query(&format!("INSERT INTO t VALUES ({id})"));
        server.archive_all();
    }
    let end = server.current_lsn();
    server.query("INSERT INTO t VALUES (4)");
    // What somebody has done who needed room.
    let wal = server.data().join("pg_wal");
    let removed = server.done_segments();
    let removed: Vec<_> = removed.iter().filter(|name| name.len() == 24).collect();
    assert!(removed.len() >= 3, "{removed:?}");
    for name in &removed {
        fs::remove_file(wal.join(name)).expect("remove a segment");
    }
    let read =
        "SELECT count(*) FROM pg_logical_slot_get_changes('subscriber', NULL, NULL) WHERE data LIKE 'table%'";
    let error = server.psql(read).expect_err("the WAL is not there");
    assert!(error.contains("has already been removed"), "{error}");

    let mut recipe = Recipe::of("Old WAL for a logical slot", &world, &server.version);
    recipe
        .set("PGHOST", &sockets(&world))
        .place("/var/lib/postgresql/15/main", server.data().display())
        .place("/mnt/walfs", mount.path().display())
        .place("0/3000000", start)
        .place("0/4000000", end);
    recipe.run(0);
    assert_eq!(server.query(read), "4");
    // Again it changes nothing, and nothing half-written is left.
    let names = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).expect("list pg_wal").flatten();
        entries.map(|entry| entry.path()).collect()
    };
    assert!(
        names(&wal).iter().all(|path| path.extension().is_none()),
        "{:?}",
        names(&wal)
    );
    let told = recipe.run(1);
    assert!(told.matches("COMMIT").count() >= 3, "{told}");
    assert_eq!(recipe.len(), 2);
}

#[test]
fn k8_a_server_comes_back_from_the_copy_in_another_region() {
    let world = World::new("region");
    let [here, there] = ["here", "there"].map(|name| Garage::start(&world.path().join(name), false));
    let bucket = here.bucket();
    let archive = |prefix: &str| format!("s3://{bucket}/{prefix}");
    let mut env = here.env();
    env.push(("AWS_ENDPOINT_URL".to_owned(), here.endpoint()));
    let options = Options {
        segment_mib: 1,
        ..Options::default()
    };
    let mut server = Postgres::init(&world.path().join("pg"), &options);
    server.configure(&[("unix_socket_directories", &sockets(&world))]);
    let program = world
        .public_program(Path::new(walfs::BINARY))
        .display()
        .to_string();
    server.archive_with(&format!(
        "{program} wal-push --create --archive {} \"%p\"",
        archive("prefix")
    ));
    let own: Vec<(&str, String)> = env.iter().map(|(name, value)| (&**name, value.clone())).collect();
    server.start_with(&own);
    let mut recipe = Recipe::of("A second copy in another region", &world, &server.version);
    recipe.set("PGHOST", &sockets(&world));
    for (name, value) in &env {
        recipe.set(name, value);
    }
    let back = second(&world, "back", &server.version);
    let place = there.endpoint();
    recipe
        .place("s3://bucket/prefix", archive("prefix"))
        .place("s3://other/prefix", archive("other"))
        .place(
            "--to-region eu-north-1",
            format!("--to-region garage --to-endpoint {place}"),
        )
        .place(
            "--region eu-north-1",
            format!("--region garage --endpoint {place}"),
        )
        .place("/var/lib/postgresql/15/main", back.data().display())
        .place("/srv/recovery.log", back.data().with_extension("log").display());
    let first = format!("walfs backup --fast --create --archive {}", archive("prefix"));
    recipe.run_line(&first);
    server.query("CREATE TABLE t AS SELECT 1 AS id");
    server.archive_all();
    recipe.run(0);
    // The region is lost, with all that was in it.
    server.destroy();
    drop(here);
    recipe.run(1);
    assert_eq!(recipe.len(), 2);
    let sql = "SELECT count(*), current_setting('archive_mode') FROM t";
    assert_eq!(
        asked(back.program("psql").env("PGHOST", sockets(&world)), sql),
        "1|off"
    );
}

#[test]
fn b6_a_standby_lives_on_the_archive_and_takes_over() {
    let world = World::new("fed");
    let site = site_of(&world, &newest());
    site.server.query("CREATE TABLE t AS SELECT 1 AS id");
    site.backup("monday");
    let standby = second(&world, "standby", &site.server.version);
    let mut recipe = recipe(&site, "A standby fed from the archive");
    recipe
        .set("PGPORT", BESIDE)
        .place("s3://bucket/prefix", site.place.archive())
        .place("/var/lib/postgresql/15/main", standby.data().display())
        .place("/srv/standby.log", standby.data().with_extension("log").display());
    assert!(recipe.run(0).contains("\nt|"));
    for id in 2..4 {
        site.server.query(&format!("INSERT INTO t VALUES ({id})"));
        site.server.archive_all();
        wait::until("the standby to follow", || {
            (ask_beside(&site.server, "SELECT max(id) FROM t") == id.to_string()).then_some(())
        });
    }
    assert_eq!(site.server.query("SELECT count(*) FROM pg_stat_replication"), "0");
    let Site {
        mut server, place, ..
    } = site;
    server.kill9();
    recipe.run(1);
    assert_eq!(recipe.len(), 2);
    ask_beside(&server, "INSERT INTO t VALUES (9)");
    let last = ask_beside(&server, "SELECT pg_walfile_name(pg_switch_wal())");
    assert!(last.starts_with("00000002"), "{last}");
    wait::until("the new timeline to be archived", || {
        let keys = place.keys("wal");
        keys.iter().any(|key| key.contains(&last)).then_some(())
    });
}

#[test]
fn w5_a_new_major_version_has_an_archive_of_its_own_beside_the_old_one() {
    let world = World::new("major");
    let whole = installed_versions().into_iter().filter(Version::has_tools);
    let old = whole.min_by_key(|version| version.major).expect("a server");
    let new = newest();
    let site = site_of(&world, &old);
    site.server.query("CREATE TABLE t AS SELECT 1 AS id");
    site.backup("monday");
    site.server.query("INSERT INTO t VALUES (2)");
    let upgraded = second(&world, "new", &new);
    let copy = second(&world, "copy", &old);
    let prefix = world.owned_dir("archive18");
    let mut recipe = Recipe::of("Moving to a new major version", &world, &new);
    let initdb = format!(
        "initdb --data-checksums -A trust -U postgres -E UTF8 --locale=C -c listen_addresses= \
         -c unix_socket_directories={} -D",
        sockets(&world)
    );
    recipe
        .set("PGHOST", &sockets(&world))
        .place("initdb -D", initdb)
        .place("sudo walfs", "walfs")
        .place(
            "--config main18",
            format!(
                "--config {}",
                world.owned_dir("etc").join("main18.toml").display()
            ),
        )
        .place("s3://bucket/prefix-18", prefix.display())
        .place("s3://bucket/prefix", site.place.archive())
        .place(
            "cd /var/lib/postgresql",
            format!("cd {}", world.owned_dir("work").display()),
        )
        .place("/usr/lib/postgresql/15/bin", old.bin.display())
        .place("/usr/lib/postgresql/18/bin", new.bin.display())
        .place("/var/lib/postgresql/15/main", site.server.data().display())
        .place("/var/lib/postgresql/18/main", upgraded.data().display())
        .place("/srv/18.log", upgraded.data().with_extension("log").display())
        .place("/srv/copy.log", copy.data().with_extension("log").display())
        .place("/srv/copy", copy.data().display());
    recipe.run(0);
    assert_eq!(site.server.query("SELECT sum(id) FROM t"), "3");
    let version = site.server.query("SHOW server_version_num");
    assert_eq!(version[..2].parse(), Ok(new.major), "{version}");
    // Each archive has a backup that is complete, of the one version and of the other.
    let list = |archive: &str| recipe.run_line(&format!("walfs backup-list --json --archive {archive}"));
    for (archive, major, count) in [
        (site.place.archive(), old.major, 2),
        (prefix.display().to_string(), new.major, 1),
    ] {
        let told = list(&archive);
        let json = &told[told.find("\n[").expect("JSON")..];
        let listed: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(listed.as_array().map(Vec::len), Some(count), "{listed:#}");
        assert_eq!(listed[0]["state"], "complete", "{listed:#}");
        assert_eq!(listed[0]["backup"]["postgresql_major"], major, "{listed:#}");
    }
    // What the new cluster sends to the old archive is refused.
    let wal = upgraded.data().join("pg_wal");
    let last = site.server.query("SELECT pg_walfile_name(pg_switch_wal())");
    let pushed = site
        .walfs("wal-push")
        .arg(wal.join(&last))
        .output()
        .expect("run walfs");
    assert!(
        said(&pushed).contains("cluster") && !pushed.status.success(),
        "{}",
        said(&pushed)
    );
    recipe.run(1);
    assert_eq!(recipe.len(), 2);
    assert_eq!(ask_beside(&site.server, "SELECT sum(id) FROM t"), "3");
    let version = ask_beside(&site.server, "SHOW server_version_num");
    assert_eq!(version[..2].parse(), Ok(old.major), "{version}");
}

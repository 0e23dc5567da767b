//! What is stored, and what comes back.

use serde_json::Value;

use super::rig::{NOISE, Rig};
use crate::common::basebackup::Place;
use crate::common::postgres::{Options, installed_versions};
use crate::common::s3::S3Server;
use crate::common::user::said;
use crate::common::world::World;

fn stored(told: &Value) -> u64 {
    told["stored_bytes"].as_u64().expect("bytes")
}

fn ten_dumps_of_a_database_that_changes_come_back_as_it_was(rig: &Rig) {
    rig.fill("app", 20_000);
    let mut told = Vec::new();
    for number in 0..10 {
        rig.sql(
            "app",
            &format!(
                "UPDATE t SET noise = {NOISE} FROM (SELECT {number} * 1000 AS i) x WHERE id = i + 1; \
                 DELETE FROM t WHERE id % 1000 = {number}; CREATE TABLE t{number} AS SELECT {number} AS n; \
                 INSERT INTO t SELECT i, {NOISE} FROM generate_series({from}, {from} + 500) i",
                from = 100_000 + number * 1000
            ),
        );
        rig.sql("app", "VACUUM t");
        let dump = rig.dump("app");
        assert_eq!(dump["unchanged"], false, "{dump}");
        told.push(rig.told("app"));
    }
    let versions = rig.versions("app");
    assert_eq!(versions.len(), 10);
    for (version, told) in versions.iter().zip(&told) {
        assert!(
            rig.restored(&format!("app/{version}")) == *told,
            "version {version}"
        );
    }
    assert!(rig.restored("app") == told[9]);
    rig.succeeds("verify", &[]);
}

#[test]
fn a5_ten_dumps_of_a_database_that_changes_come_back_as_it_was() {
    ten_dumps_of_a_database_that_changes_come_back_as_it_was(&Rig::local("dumps-ten"));
}

#[test]
fn a5_ten_dumps_in_s3_come_back_as_the_database_was() {
    let place = Place::S3(S3Server::start());
    let rig = Rig::new(World::new("dumps-ten-s3"), place, &Options::default());
    ten_dumps_of_a_database_that_changes_come_back_as_it_was(&rig);
}

#[test]
fn a5_a_dump_costs_what_has_changed_since_the_newest_one() {
    let rig = Rig::local("dumps-cost");
    rig.fill("app", 300_000);
    let first = rig.dump("app");
    let whole = first["read_bytes"].as_u64().expect("bytes");
    assert!(whole > 40 << 20, "{first}");
    // Nothing has changed, but for the time in the header.
    let before = rig.stored_bytes();
    for _ in 0..2 {
        let again = rig.dump("app");
        assert_eq!(again["unchanged"], true, "{again}");
        assert_eq!((&again["version"], stored(&again)), (&first["version"], 0));
    }
    assert!(rig.stored_bytes() < before + 20_000);
    assert_eq!(rig.versions("app").len(), 1);
    // Rows in the middle: PostgreSQL puts new ones where there is room.
    rig.sql("app", "DELETE FROM t WHERE id BETWEEN 150000 AND 150200");
    let fewer = rig.dump("app");
    rig.sql("app", "VACUUM t");
    rig.sql(
        "app",
        &format!("INSERT INTO t SELECT i, {NOISE} FROM generate_series(150000, 150100) i"),
    );
    let inserted = rig.dump("app");
    for dump in [&fewer, &inserted] {
        assert!(stored(dump) < 1 << 20, "{dump}");
        assert_eq!(dump["unchanged"], false);
    }
    // One percent of the rows, together.
    rig.sql(
        "app",
        &format!("UPDATE t SET noise = {NOISE} FROM generate_series(200000, 203000) i WHERE id = i"),
    );
    let changed = rig.dump("app");
    assert!(stored(&changed) < whole / 20, "{changed} of {whole} bytes");
    assert!(rig.restored("app") == rig.told("app"));
    rig.succeeds("verify", &[]);
}

#[test]
fn a5_globals_are_dumped_and_their_random_key_is_no_change() {
    let rig = Rig::local("dumps-globals");
    rig.server.query("CREATE ROLE somebody LOGIN PASSWORD 'secret'");
    let globals = || rig.dumps(&["--globals"])[0].clone();
    let first = globals();
    assert_eq!(
        (&first["name"], &first["unchanged"]),
        (&"globals".into(), &false.into())
    );
    let again = globals();
    assert_eq!(
        (&again["unchanged"], &again["version"]),
        (&true.into(), &first["version"])
    );
    let script = rig.succeeds("dump-restore", &["globals", "-"]);
    assert!(
        script.contains("CREATE ROLE somebody;") && script.contains("SCRAM-SHA-256"),
        "{script}"
    );
    rig.server.query("ALTER ROLE somebody CREATEDB");
    assert_eq!(globals()["unchanged"], false);
    assert!(
        rig.succeeds("dump-restore", &["globals", "-"])
            .contains("CREATEDB")
    );
}

#[test]
fn a5_all_databases_and_the_globals_are_dumped() {
    let rig = Rig::local("dumps-all");
    for name in ["one", "two"] {
        rig.fill(name, 100);
    }
    let told = rig.dumps(&["--all", "--jobs", "3"]);
    assert!(told.iter().all(|told| told["error"].is_null()), "{told:?}");
    let names: Vec<&str> = told.iter().filter_map(|told| told["name"].as_str()).collect();
    assert_eq!(names, ["one", "postgres", "template1", "two", "globals"]);
    for name in ["one", "two"] {
        assert!(rig.restored(name) == rig.told(name), "{name}");
    }
    // In cron nothing is said.
    let quiet = rig.run("dump", &["--all"]);
    assert!(
        quiet.status.success() && quiet.stderr.is_empty() && quiet.stdout.is_empty(),
        "{}",
        said(&quiet)
    );
    let loud = rig.run("dump", &["-v", "--all"]);
    let text = String::from_utf8_lossy(&loud.stderr).into_owned();
    assert_eq!(text.matches("is unchanged since").count(), 5, "{text}");
    // Another name, of one of them.
    rig.succeeds("dump", &["--name", "nightly", "one"]);
    assert!(rig.restored("nightly") == rig.told("one"));
    let refused = rig.run("dump", &["--name", "nightly", "one", "two"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
}

#[test]
fn a5_dumps_of_every_version_of_postgresql_are_known_again() {
    for version in installed_versions() {
        let name = format!("dumps-{}", version.major);
        let world = World::new(&name);
        let place = Place::Local(world.archive());
        let mut rig = Rig::new(world, place, &Options::of(version.clone()));
        if version.has_tools() {
            rig.use_tools(version.bin);
        }
        rig.fill("app", 1000);
        let first = rig.dump("app");
        let again = rig.dump("app");
        assert_eq!(again["unchanged"], true, "{} {again}", version.major);
        assert_eq!(again["version"], first["version"]);
        rig.sql("app", "UPDATE t SET noise = 'x' WHERE id = 7");
        assert_eq!(rig.dump("app")["unchanged"], false, "{}", version.major);
        assert!(rig.restored("app") == rig.told("app"), "{}", version.major);
    }
}

/// A5: a dump after so many that build on earlier ones stands alone; one without news is none.
#[test]
fn a5_after_so_many_dumps_one_stands_alone() {
    let rig = Rig::local("dumps-limits");
    rig.fill("app", 3000);
    let dump = |arguments: &[&str]| rig.dumps(&[arguments, &["app"]].concat())[0].clone();
    let limit = ["--max-incrementals", "1"];
    let mut whole = Vec::new();
    for number in 0..4 {
        rig.sql("app", &format!("INSERT INTO t VALUES (-{number} - 1, 'new')"));
        let told = dump(&limit);
        whole.push(told["base"].is_null() && told["stored_bytes"].as_u64() > Some(300_000));
    }
    assert_eq!(whole, [true, false, true, false]);
    let same = dump(&limit);
    assert!(same["unchanged"] == true && same["stored_bytes"] == 0, "{same}");
    assert!(dump(&["--full"])["base"].is_null());
    assert_eq!(rig.versions("app").len(), 5);
    assert!(rig.restored("app") == rig.told("app"));
}

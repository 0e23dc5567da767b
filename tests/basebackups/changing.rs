//! Files that shrink, vanish and grow while `walfs backup` reads them (promise B3).

use std::fs;
use std::path::Path;

use crate::common::basebackup::Site;
use crate::common::postgres::Postgres;
use crate::common::recovery::Recovery;
use crate::common::user::{User, said};
use crate::common::version::newest;
use crate::common::wait;
use crate::common::world::World;

/// Has the process this file open?
fn has_open(process: u32, file: &Path) -> bool {
    let open = fs::read_dir(format!("/proc/{process}/fd")).expect("read /proc");
    open.flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == file))
}

/// A table of so many MiB, whose file changes only when it is told to.
fn table(site: &Site, name: &str, mib: u32) {
    site.server.query(&format!(
        "CREATE TABLE {name} (id int, filler text) WITH (autovacuum_enabled = off)"
    ));
    // 128 rows of some 7.9 KiB make a MiB.
    site.server.query(&format!(
        "ALTER TABLE {name} ALTER filler SET STORAGE PLAIN; \
         INSERT INTO {name} SELECT i, repeat('x', 7900) FROM generate_series(1, {mib} * 128) i"
    ));
}

/// B3: "files may grow, shrink and vanish meanwhile".
#[test]
fn b3_files_that_shrink_vanish_and_grow_come_back_right() {
    let world = World::new("changing");
    let site = Site::local(&world);
    let server = &site.server;
    table(&site, "shrinks", 24);
    table(&site, "grows", 6);
    table(&site, "vanishes", 6);
    server.query("DELETE FROM shrinks WHERE id > 5");
    server.query("CHECKPOINT");
    let path = |name: &str| {
        let path = server.query(&format!("SELECT pg_relation_filepath('{name}')"));
        server
            .data()
            .canonicalize()
            .expect("the data directory")
            .join(path)
    };
    let (shrinks, vanishes) = (path("shrinks"), path("vanishes"));
    let bytes = |file: &Path| fs::metadata(file).expect("look at a file").len();
    assert_eq!(bytes(&shrinks), 24 << 20);

    let mut backup = site.slow_backup_with("monday", &["--rate-limit", "8MiB", "--jobs", "1"]);
    wait::until("the table to be read", || {
        has_open(backup.id(), &shrinks).then_some(())
    });
    server.query("VACUUM shrinks");
    server.query("DROP TABLE vanishes");
    server.query("INSERT INTO grows SELECT i, repeat('y', 7900) FROM generate_series(1, 4 * 128) i");
    server.query("CREATE TABLE born AS SELECT 7 AS id");
    server.query("CHECKPOINT");
    assert!(has_open(backup.id(), &shrinks), "it was read before it shrank");
    assert!(bytes(&shrinks) < 1 << 20 && !vanishes.exists());
    wait::for_exit("walfs backup", &mut backup);
    let output = backup.wait_with_output().expect("wait for walfs backup");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(site.state("monday").as_deref(), Some("complete"));
    server.archive_all();

    let dir = world.path().join("back");
    User::postgres().make_dir(&dir);
    let mut restore = site.walfs("restore");
    let restored = restore
        .args(["--no-archiving", "monday"])
        .arg(dir.join("data"))
        .output()
        .expect("run walfs");
    assert!(restored.status.success(), "{}", said(&restored));
    let mut back = Postgres::start_as_it_is(&dir, newest(), &site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT count(*), max(id) FROM shrinks"), "5|5");
    assert_eq!(
        back.query("SELECT count(*), count(*) FILTER (WHERE filler LIKE 'y%') FROM grows"),
        "1280|512"
    );
    assert_eq!(back.query("SELECT to_regclass('vanishes') IS NULL"), "t");
    assert_eq!(back.query("SELECT id FROM born"), "7");
    // Every page of every table and index, as PostgreSQL's own checker sees them.
    back.query("CREATE EXTENSION amcheck");
    let checked = back
        .program("pg_amcheck")
        .arg("--heapallindexed")
        .arg("postgres")
        .output();
    let checked = checked.expect("run pg_amcheck");
    assert!(checked.status.success(), "{}", said(&checked));
}

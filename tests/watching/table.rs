//! The table `walfs.metrics`: written if asked for, about everything but itself, where it may be, and never waited for.

use std::fs;
use std::time::Duration;

use crate::common::basebackup::Site;
use crate::common::postgres::{Postgres, StopMode};
use crate::common::sidecar::Sidecar;
use crate::common::wait;
use crate::common::world::World;

use super::beside;

const TABLE: [&str; 2] = ["--metrics-table", "1s"];

/// A server that archives by HTTP, each second if there is something, and an agent that writes each second.
fn served<'a>(world: &'a World, arguments: &[&str]) -> (Site<'a>, Sidecar) {
    let site = Site::local(world);
    // By itself it writes nothing.
    site.server
        .configure(&[("archive_timeout", "1s"), ("autovacuum", "off")]);
    let sidecar = beside(&site, &[&TABLE[..], arguments].concat());
    archives_by(&site.server, &sidecar);
    (site, sidecar)
}

fn archives_by(server: &Postgres, sidecar: &Sidecar) {
    server.archive_with(&format!("curl -sf -T \"%p\" {}/wal/%f", sidecar.url()));
    server.reload();
}

fn rows(server: &Postgres, operation: &str) -> u64 {
    let asked = server.psql(&format!(
        "SELECT count(*) FROM walfs.metrics WHERE operation = '{operation}'"
    ));
    asked.map_or(0, |rows| rows.trim().parse().expect("a number"))
}

#[test]
fn k7_the_table_has_what_was_done_and_a_batch_makes_no_other() {
    let world = World::new("table");
    let (site, sidecar) = served(&world, &["--schedule-backup", "1h", "--schedule-verify", "3s"]);
    let server = &site.server;
    wait::until("rows of both jobs and of WAL", || {
        server.switch_wal();
        let all = ["backup", "verify", "wal-push"];
        all.iter()
            .all(|operation| rows(server, operation) > 0)
            .then_some(())
    });
    let name = site.list()[0]["name"].as_str().expect("a name").to_owned();
    let told = server.query(
        "SELECT subject, bytes > 0, start <= finish, now() - finish < interval '5 minutes' FROM walfs.metrics
          WHERE operation = 'backup'",
    );
    assert_eq!(told, format!("{name}|t|t|t"));
    let kind = "SELECT relpersistence FROM pg_class WHERE oid = 'walfs.metrics'::regclass";
    assert_eq!(server.query(kind), "u");
    // What is old goes.
    server.query("INSERT INTO walfs.metrics VALUES ('old', '', now() - interval '40 days', now() - interval '31 days', 1)");
    wait::until("the old row to go", || (rows(server, "old") == 0).then_some(()));
    sidecar.stop();

    // With no job the only news is WAL: of its own batch there is one segment, and that is none.
    let sidecar = beside(&site, &TABLE);
    archives_by(server, &sidecar);
    let before = rows(server, "wal-push");
    for _ in 0..3 {
        server.switch_wal();
    }
    wait::until("a batch", || (rows(server, "wal-push") > before).then_some(()));
    let quiet = wait::until("it to be quiet", || {
        let seen = || (rows(server, "wal-push"), server.current_lsn());
        let first = seen();
        std::thread::sleep(Duration::from_secs(6));
        (first == seen()).then_some(first)
    });
    assert!(quiet.0 <= before + 3, "{quiet:?}");
    sidecar.stop();
}

#[test]
fn k7_the_table_of_another_role_is_not_touched_and_a_standby_gets_no_rows() {
    let world = World::new("foreign");
    let (mut site, sidecar) = served(&world, &["--schedule-verify", "1s"]);
    wait::until("rows", || (rows(&site.server, "verify") > 0).then_some(()));
    // It is lost, comes back as a standby, then as itself: nothing ends, nothing waits.
    site.server.stop(StopMode::Fast);
    wait::until("a loss in the log", || {
        sidecar.log().contains("are not written").then_some(())
    });
    let signal = site.server.data().join("standby.signal");
    fs::write(&signal, "").expect("make it a standby");
    site.server.start();
    let runs = || {
        let text = sidecar.gets("/metrics", 200);
        let line = text
            .lines()
            .find(|line| line.starts_with("walfs_job_runs_total{command=\"verify\",result=\"done\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .expect("a number")
    };
    let begun = runs();
    wait::until("more runs", || (runs() >= begun + 3).then_some(()));
    assert!(!sidecar.log().contains("read-only"), "{}", sidecar.log());
    site.server.promote();
    // A recovery has emptied it.
    wait::until("rows again", || (rows(&site.server, "verify") > 0).then_some(()));
    // Of another role, with a trigger that would run as us.
    let server = &site.server;
    server.query(
        "BEGIN; DROP SCHEMA walfs CASCADE; CREATE ROLE other; CREATE SCHEMA walfs AUTHORIZATION other; SET ROLE other;
         CREATE UNLOGGED TABLE walfs.metrics (operation text, subject text, start timestamptz, finish timestamptz, bytes bigint);
         COMMIT",
    );
    wait::until("a refusal in the log", || {
        sidecar.log().contains("another role").then_some(())
    });
    assert_eq!(server.query("SELECT count(*) FROM walfs.metrics"), "0");
    sidecar.stop();
}

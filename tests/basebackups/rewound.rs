//! A page that `pg_rewind` has put back is older than the one it replaces, by its LSN and by its content: the next backup has
//! it (promise K1: changed means by content).

use std::fs;
use std::path::Path;

use super::incremental::{PAGE, restored};
use crate::common::basebackup::Site;
use crate::common::postgres::{Postgres, StopMode};
use crate::common::recovery::Recovery;
use crate::common::user::said;
use crate::common::wait;
use crate::common::world::World;

const UPDATED: usize = 20;

/// The LSN of each page of a relation file.
fn lsns(file: &[u8]) -> Vec<u64> {
    let half =
        |page: &[u8], at: usize| u64::from(u32::from_le_bytes(page[at..at + 4].try_into().expect("4 bytes")));
    let pages = file.chunks_exact(PAGE);
    pages.map(|page| (half(page, 0) << 32) | half(page, 4)).collect()
}

fn promoted(server: &mut Postgres) {
    server.start_recovery();
    assert_eq!(
        server.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        server.log()
    );
    server.query("CHECKPOINT");
}

#[test]
fn k1_a_page_that_was_rewound_is_in_the_next_backup() {
    let world = World::new("rewound");
    let mut site = Site::local(&world);
    let restore = site.restore_command();
    let archive = site.archive_command();
    let settings = [
        ("restore_command", restore.as_str()),
        ("archive_mode", "on"),
        ("archive_command", archive.as_str()),
    ];
    site.server.query(
        "CREATE TABLE t WITH (fillfactor = 50, autovacuum_enabled = off) AS
           SELECT n AS id, repeat('common', 20) AS word FROM generate_series(1, 5000) n;
         CREATE TABLE filler (n int, text text)",
    );
    let path = site.server.query("SELECT pg_relation_filepath('t')");
    let update = |server: &Postgres, word: &str| {
        server.query(&format!(
            "UPDATE t SET word = '{word}' WHERE (ctid::text::point)[0]::int % 7 = 0"
        ));
        server.query("CHECKPOINT");
    };
    let copy = world.path().join("new");
    site.server.copy_data_dir(&copy);
    site.server.query("SELECT pg_create_restore_point('fork')");
    // Far ahead of whatever the new primary will write there.
    for _ in 0..4 {
        site.server
            .query("INSERT INTO filler SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n");
    }
    update(&site.server, "lost");
    let relation = |data: &Path| fs::read(data.join(&path)).expect("read a relation");
    site.backup("before");
    let before = relation(site.server.data());
    site.server.archive_all();
    site.server.stop(StopMode::Fast);

    let version = site.server.version.clone();
    let mut new = Postgres::recovering(&copy, version.clone(), &settings);
    new.configure(&[
        ("recovery_target_name", "fork"),
        ("recovery_target_action", "promote"),
    ]);
    promoted(&mut new);
    update(&new, "kept");
    new.archive_all();
    new.stop(StopMode::Fast);

    site.server.configure(&settings);
    let mut rewind = site.server.program("pg_rewind");
    rewind.args(["--restore-target-wal", "--no-sync", "-D"]);
    rewind
        .arg(site.server.data())
        .arg("--source-pgdata")
        .arg(new.data());
    let output = rewind.output().expect("run pg_rewind");
    assert!(output.status.success(), "{}", said(&output));
    let mut back = Postgres::recovering(&world.path().join("pg"), version, &settings);
    back.configure(&[("recovery_target_name", "")]);
    promoted(&mut back);
    // What drops it ends the server of its directory.
    let _stopped = std::mem::replace(&mut site.server, back);

    let taken = site.try_backup("after", &[]);
    assert!(taken.status.success(), "{}", said(&taken));
    let taken: serde_json::Value = serde_json::from_slice(&taken.stdout).expect("JSON");
    let now = relation(site.server.data());
    let older = lsns(&before).into_iter().zip(lsns(&now));
    let older = older.filter(|(before, now)| now < before).count();
    assert!(older >= UPDATED, "{older} pages have an older LSN");
    assert_eq!(taken["base"], "before", "{taken}");
    assert!(
        relation(&restored(&site, "after")) == now,
        "other bytes are restored"
    );
    assert!(
        relation(&restored(&site, "before")) == before,
        "other bytes are restored"
    );
    assert_eq!(
        site.server
            .number::<u32>("SELECT count(*) FROM t WHERE word = 'lost'"),
        0
    );
}

//! `pg_rewind` with an archive: what the old primary has done since the fork is read from `wal/`.

use super::*;
use crate::common::postgres::StopMode;

/// The old primary's own WAL is gone from `pg_wal`; `pg_rewind` brings it back by the `restore_command` of
/// `walfs postgres-config`, and what it rewound follows the new primary through the archive.
#[test]
fn r1_pg_rewind_reads_from_the_archive() {
    let world = World::new("rewind");
    let site = Site::new(&world, &Place::Local, &Plan::default());
    let (mut old, mount) = (site.server, site.mount);
    let copy = world.path().join("new");
    old.copy_data_dir(&copy);
    fill(&old, 2);
    let common = Committed::note(&old, "1-common");
    old.query("SELECT pg_create_restore_point('fork')");
    fill(&old, 8);
    Committed::note(&old, "2-lost");
    old.archive_all();
    old.stop(StopMode::Fast);

    let restore = printed_restore_command(&world, mount.path());
    let archive = mount.archive_command();
    let settings = [
        ("restore_command", restore.as_str()),
        ("archive_mode", "on"),
        ("archive_command", archive.as_str()),
    ];
    let mut new = Postgres::recovering(&copy, old.version.clone(), &settings);
    new.configure(&[
        ("recovery_target_name", "fork"),
        ("recovery_target_action", "promote"),
    ]);
    new.start_recovery();
    assert_eq!(recovered(&mut new), common);
    let kept = Committed::note(&new, "3-kept");
    new.query("CHECKPOINT");
    new.archive_all();
    new.stop(StopMode::Fast);

    for name in old.done_segments() {
        fs::remove_file(old.data().join("pg_wal").join(&name)).expect("remove what is archived");
    }
    old.configure(&settings);
    let mut rewind = old.program("pg_rewind");
    rewind.args(["--restore-target-wal", "--no-sync", "-D"]);
    rewind.arg(old.data()).arg("--source-pgdata").arg(new.data());
    let output = rewind.output().expect("run pg_rewind");
    assert!(output.status.success(), "{}\n{}", said(&output), mount.log());

    // With the settings of the new one, which it has brought along: without its target.
    let mut back = Postgres::recovering(&world.path().join("pg"), old.version.clone(), &settings);
    back.configure(&[("recovery_target_name", "")]);
    back.start_recovery();
    assert_eq!(recovered(&mut back), kept);
}

//! A standby that follows the archive by the printed `restore_command`: the command is fatal where absence is not
//! proven, and segments arrive while it asks.

use super::*;

/// R2: a segment that arrives between `cp` and `test` must not stop the standby: what it was told was true.
#[test]
fn r2_a_standby_follows_the_archive_and_is_promoted() {
    for same_mount in [true, false] {
        let world = World::new("standby");
        let place = Place::Local;
        let site = Site::new(&world, &place, &Plan::default());
        let dir = world.path().join("standby");
        site.server.copy_data_dir(&dir);
        let own = (!same_mount).then(|| place.mount_at(&world, "mnt2", &[]));
        let mountpoint = own.as_ref().unwrap_or(&site.mount).path().to_owned();
        let mut standby = standby(&world, &dir, &mountpoint);
        standby.start();

        for round in 0..8 {
            let name = site.server.switch_wal();
            fill(&site.server, fastrand::u64(1..4));
            site.server.query(&format!("INSERT INTO last VALUES ('{round}')"));
            let expected = site.server.current_lsn();
            site.server.archive_all();
            wait::until("the standby to follow", || {
                assert!(standby.is_running(), "it stopped after {name}\n{}", standby.log());
                replayed(&standby, &expected).then_some(())
            });
        }
        let committed = Committed::note(&site.server, "last");
        site.server.archive_all();
        wait::until("the last row", || {
            (standby.query("SELECT count(*) FROM last WHERE word = 'last'") == "1").then_some(())
        });
        let log = standby.log();
        assert!(!log.contains("could not restore file"), "{log}");
        standby.promote();
        assert_eq!(Committed::found(&standby), committed);
        site.lose();
        standby.destroy();
    }
}

fn standby(world: &World, dir: &Path, mountpoint: &Path) -> Postgres {
    let restore = printed_restore_command(world, mountpoint);
    let settings = [
        ("restore_command", restore.as_str()),
        // Asks all the time, so that segments arrive between its questions.
        ("wal_retrieve_retry_interval", "20ms"),
        ("hot_standby", "on"),
    ];
    let standby = Postgres::recovering(dir, newest(), &settings);
    let signal = standby.data().join("standby.signal");
    fs::rename(standby.data().join("recovery.signal"), signal).expect("make it a standby");
    standby
}

/// Has the standby replayed up to there?
fn replayed(standby: &Postgres, lsn: &str) -> bool {
    let asked = standby.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"));
    asked.is_ok_and(|answer| answer == "t")
}

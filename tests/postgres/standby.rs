//! A standby that follows the archive by the printed `restore_command`: the command is fatal where absence is not
//! proven, and segments arrive while it asks.

use super::outages::first_segment;
use super::*;
use crate::common::postgres::installed_versions;

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

/// R6: by the form for standbys a hole stops no standby that can stream, of the oldest and the newest PostgreSQL that
/// matter here.
#[test]
fn r6_a_standby_streams_over_a_hole() {
    let versions = installed_versions().into_iter();
    let versions = versions.filter(|version| version.major == 15 || version.major == newest().major);
    for version in versions {
        let world = World::new("hole-stream");
        let plan = Plan {
            version: version.clone(),
            ..Plan::default()
        };
        let site = Site::new(&world, &Place::Local, &plan);
        site.server.configure(&[("wal_keep_size", "1GB")]);
        site.server.reload();
        let dir = world.path().join("standby");
        site.server.copy_data_dir(&dir);
        fill(&site.server, 6);
        Committed::note(&site.server, "last");
        site.server.archive_all();
        let mut names = segments(site.mount.list());
        names.retain(|name| *name >= first_segment(&dir));
        let hole = &names[names.len() / 2];
        fs::remove_file(world.archive().join(format!("wal/{hole}.lz4"))).expect("make a hole");

        let restore = printed_for_standby(&world, site.mount.path());
        let conninfo = format!("host={} user=postgres", world.path().join("pg").display());
        let settings = [
            ("restore_command", restore.as_str()),
            ("primary_conninfo", conninfo.as_str()),
            ("hot_standby", "on"),
        ];
        let mut standby = Postgres::recovering(&dir, version.clone(), &settings);
        let signal = standby.data().join("standby.signal");
        fs::rename(standby.data().join("recovery.signal"), signal).expect("make it a standby");
        standby.start();
        wait::until("the standby to stream over the hole", || {
            assert!(standby.is_running(), "{}", standby.log());
            let last = standby.psql("SELECT count(*) FROM last WHERE word = 'last'");
            (last.as_deref() == Ok("1")).then_some(())
        });
        site.mount.wait_for_log(&format!("{hole} is missing"));
        // It streams from then on.
        site.server.query("INSERT INTO last VALUES ('streamed')");
        wait::until("the standby to follow", || {
            (standby.query("SELECT count(*) FROM last WHERE word = 'streamed'") == "1").then_some(())
        });
        assert_eq!(standby.query("SELECT pg_is_in_recovery()"), "t");
        standby.destroy();
    }
}

/// What `walfs postgres-config` prints for a standby.
fn printed_for_standby(world: &World, mountpoint: &Path) -> String {
    let mut command = walfs(world, &User::postgres());
    command.args(["postgres-config", "--mountpoint"]).arg(mountpoint);
    let output = command.output().expect("run walfs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let standby = text.split_once("standby.signal").expect("a form for standbys").1;
    let value = standby
        .lines()
        .find_map(|line| line.strip_prefix("#restore_command = '")?.strip_suffix('\''));
    let value = value.unwrap_or_else(|| panic!("no restore_command in {text}"));
    value.replace("''", "'").replace(r"\\", r"\")
}

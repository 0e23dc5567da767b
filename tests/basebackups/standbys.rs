//! Backups of a standby whose primary is idle, and of servers whose WAL does not come (promise B2, B3).

use std::process::Stdio;

use crate::common::basebackup::Site;
use crate::common::postgres::{Postgres, StopMode, newest};
use crate::common::user::said;
use crate::common::wait;
use crate::common::world::World;

use super::taking::{standby, standby_of};

/// B3: a standby of an idle primary: the segment that the backup needs is ended by the primary, which is asked.
#[test]
fn b3_the_primary_of_a_standby_is_asked_to_end_the_segment() {
    let world = World::new("idle");
    let site = Site::local(&world);
    let conninfo = format!("host={} user=postgres", world.path().join("pg").display());
    let standby = standby(&site, &world, &[("primary_conninfo", &conninfo)]);
    site.server.query("CHECKPOINT");
    let backup = |name: &str, arguments: &[&str]| {
        let mut backup = site.walfs("backup");
        backup
            .env("PGHOST", world.path().join("standby"))
            .args(["--json", name]);
        backup.args(arguments).output().expect("run walfs")
    };
    // Nothing else ends a segment; without a primary the wait says at once what for, and how to help.
    let nowhere = format!("host={} user=postgres", world.path().join("nowhere").display());
    site.server.query("CREATE TABLE between AS SELECT 1 AS id");
    let position = site.server.current_lsn();
    wait::until("the standby to follow", || {
        let followed = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        (standby.query(&followed) == "t").then_some(())
    });
    standby.query("CHECKPOINT");
    let lacking = backup("lacking", &["--wal-timeout", "2s", "--primary", &nowhere]);
    assert_eq!(lacking.status.code(), Some(1), "{}", said(&lacking));
    for expected in ["pg_switch_wal()", "--primary", "nowhere"] {
        assert!(said(&lacking).contains(expected), "{}", said(&lacking));
    }
    let taken = backup("complete", &["--wal-timeout", "5m"]);
    assert!(taken.status.success(), "{}", said(&taken));
    assert_eq!(site.state("complete").as_deref(), Some("complete"));
    let itself = format!("host={} user=postgres", world.path().join("standby").display());
    let wrong = backup("itself", &["--wal-timeout", "2s", "--primary", &itself]);
    assert!(said(&wrong).contains("is a standby, too"), "{}", said(&wrong));
}

/// B3: a cascading standby whose primary is lost and whose upstream is promoted while its backup is taken. The segment of the
/// fork is in the archive as `.partial` on the old timeline, and whole on the new one only.
#[test]
fn b3_a_cascading_standby_is_backed_up_over_a_promotion() {
    let world = World::new("cascade");
    let mut site = Site::local(&world);
    site.server.pgbench_init(1);
    let first = site.backup("first");
    site.server.archive_all();
    let from = |dir: &str| format!("host={} user=postgres", world.path().join(dir).display());
    let (primary, upstream) = (from("pg"), from("upstream"));
    let (archive, mut standbys) = (site.archive_command(), Vec::new());
    for (dir, conninfo) in [("upstream", &primary), ("cascade", &upstream)] {
        let settings = [
            ("primary_conninfo", conninfo.as_str()),
            ("archive_mode", "on"),
            ("archive_command", &archive),
            ("wal_retrieve_retry_interval", "200ms"),
        ];
        standbys.push(standby_of(&site, &first, &world.path().join(dir), &settings));
    }
    site.server.query("CREATE TABLE before AS SELECT 1 AS id");
    site.server.query("CHECKPOINT");
    let follows = |standby: &Postgres, position: &str| {
        let followed = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        wait::until("a standby to follow", || {
            (standby.query(&followed) == "t").then_some(())
        });
    };
    let position = site.server.current_lsn();
    standbys.iter().for_each(|standby| follows(standby, &position));
    let mut backup = site.walfs("backup");
    backup
        .env("PGHOST", world.path().join("cascade"))
        .args(["--rate-limit", "8MiB", "--wal-timeout", "1m", "over-it"])
        .stderr(Stdio::piped());
    let backup = backup.spawn().expect("run walfs");
    wait::until("the backup to be at work", || {
        let at_work =
            "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_backup_start' AND state = 'idle'";
        (standbys[1].query(at_work) != "0").then_some(())
    });
    site.server.stop(StopMode::Immediate);
    standbys[0].promote();
    standbys[0].query("CREATE TABLE behind AS SELECT 1 AS id");
    standbys[0].query("CHECKPOINT");
    follows(&standbys[1], &standbys[0].current_lsn());
    // A restartpoint, as there is one every few minutes: until then a backup would end before the fork.
    standbys[1].query("CHECKPOINT");
    let output = backup.wait_with_output().expect("read what it said");
    assert!(output.status.success(), "{}", said(&output));
    let listed = site.list();
    let listed = listed.iter().find(|listed| listed["name"] == "over-it");
    let listed = listed.expect("it is listed");
    assert_eq!(listed["state"], "complete", "{listed}");
    let old_forks = site.place.keys("wal");
    let old_forks = old_forks.iter().filter(|key| key.contains(".partial"));
    assert_eq!(old_forks.count(), 1, "{listed}");
    let target = world.owned_dir("restored");
    let restored = site
        .walfs("restore")
        .arg("over-it")
        .arg(target.join("data"))
        .output();
    let restored = restored.expect("run walfs");
    assert!(restored.status.success(), "{}", said(&restored));
    let back = Postgres::start_as_it_is(&target, newest(), &[]);
    wait::until("it to be open", || back.psql("SELECT 1").ok());
    assert_eq!(back.query("SELECT count(*) FROM before, behind"), "1");
}

/// B2, O1: WAL that cannot come is told before anything is copied; O2: quiet in cron, and everything with -v. The server is
/// named by a service, as libpq does.
#[test]
fn b2_wal_that_cannot_come_is_told_before_anything_is_copied() {
    let world = World::new("no-wal");
    let mut site = Site::local(&world);
    let service = world.owned_file(
        "pg_service.conf",
        format!(
            "[main]\nhost={}\nuser=postgres\n",
            world.path().join("pg").display()
        )
        .as_bytes(),
    );
    let backup = |site: &Site<'_>, arguments: &[&str]| {
        let mut backup = site.walfs("backup");
        backup.env_remove("PGHOST").env_remove("PGUSER");
        backup
            .env("PGSERVICEFILE", &service)
            .args(["--fast", "-d", "service=main"])
            .args(arguments);
        backup.output().expect("run walfs")
    };
    // Its making is said aloud.
    site.server.archive_all();
    let quiet = backup(&site, &["quiet"]);
    assert!(
        quiet.status.success() && quiet.stdout.is_empty() && quiet.stderr.is_empty(),
        "{}",
        said(&quiet)
    );
    let told = backup(&site, &["-v", "told"]);
    let text = said(&told);
    assert!(
        text.contains("taking backup told") && text.contains("backup told is complete"),
        "{text}"
    );
    site.server.configure(&[("archive_command", "")]);
    site.server.reload();
    let lacking = backup(&site, &["--wal-timeout", "1s", "lacking"]);
    assert!(
        said(&lacking).contains("will not be complete before its WAL"),
        "{}",
        said(&lacking)
    );
    site.server.configure(&[("archive_mode", "off")]);
    site.server.restart();
    let before = site.place.keys("trees").len();
    let refused = backup(&site, &["refused"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains("archive_mode is off"),
        "{}",
        said(&refused)
    );
    assert_eq!(site.place.keys("trees").len(), before);
    assert_eq!(site.place.keys("basebackups").len(), 3);
}

//! Backups of a standby whose primary is idle, and of servers whose WAL does not come (promise B2, B3).

use crate::common::basebackup::Site;
use crate::common::user::said;
use crate::common::world::World;

use super::taking::standby;

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
    crate::common::wait::until("the standby to follow", || {
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

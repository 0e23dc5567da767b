//! Timelines that fork while their parent goes on (promise B12): who is asked, what is followed without a question, and
//! which backup LATEST then means.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::common::basebackup::Site;
use crate::common::postgres::{Postgres, newest};
use crate::common::recovery::Recovery;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::wal;
use crate::common::world::World;

/// A server, its archive, and what is restored from it.
struct Forked<'a> {
    site: Site<'a>,
    world: &'a World,
}

impl Forked<'_> {
    fn try_restore(&self, arguments: &[&str], directory: &Path) -> Output {
        let mut restore = self.site.walfs("restore");
        restore
            .args(["--json", "--no-sync"])
            .args(arguments)
            .arg("-D")
            .arg(directory);
        restore.output().expect("run walfs")
    }

    /// The backup and the timeline that a restore would take, and what it says besides.
    #[track_caller]
    fn would(&self, arguments: &[&str]) -> (String, u64, String) {
        let output = self.try_restore(
            &[arguments, &["--dry-run"]].concat(),
            &self.dir("dry").join("data"),
        );
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let timeline = report["timeline"].as_u64().expect("a number");
        (
            report["backup"].as_str().expect("a name").to_owned(),
            timeline,
            report["warnings"].to_string(),
        )
    }

    /// Nothing is touched, and both branches are named.
    #[track_caller]
    fn asks(&self, arguments: &[&str]) -> String {
        let directory = self.dir("asked").join("data");
        let output = self.try_restore(arguments, &directory);
        let message = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        for text in [
            "HINT: ",
            "--target-timeline 1",
            "--target-timeline 3",
            "forked from timeline 1 at 0/",
        ] {
            assert!(message.contains(text), "{text}: {message}");
        }
        assert!(!directory.exists());
        message
    }

    /// A server that was restored, open for writing.
    #[track_caller]
    fn restored(&self, name: &str, arguments: &[&str]) -> Postgres {
        let dir = self.dir(name);
        let output = self.try_restore(arguments, &dir.join("data"));
        assert!(output.status.success(), "{}", said(&output));
        let mut server = Postgres::start_as_it_is(&dir, newest(), &[]);
        assert_eq!(
            server.recovery_within(wait::LONG),
            Recovery::Promoted,
            "{}",
            server.log()
        );
        server
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.world.path().join(name);
        User::postgres().make_dir(&dir);
        dir
    }

    fn push(&self, name: &str, content: &[u8]) {
        let file = self.world.owned_file(name, content);
        let output = self
            .site
            .walfs("wal-push")
            .arg(&file)
            .output()
            .expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
    }
}

const ROWS: &str = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";

#[test]
fn b12_timelines_that_go_on_side_by_side_are_named_and_chosen() {
    let world = World::new("forked");
    let site = Site::local(&world);
    let forked = Forked { site, world: &world };
    let server = &forked.site.server;
    server.query("CREATE TABLE t (id int)");
    forked.site.backup("b1");
    server.query("INSERT INTO t VALUES (1)");
    let before = server.current_lsn();
    server.archive_all();

    // Anybody can bring a history: one without WAL leads nowhere, and stands in nobody's way.
    forked.push("00000002.history", b"1\t0/9000000\tmade up\n");
    let (backup, timeline, warnings) = forked.would(&["LATEST"]);
    assert_eq!((backup.as_str(), timeline), ("b1", 1));
    assert!(
        warnings.contains("timeline 2 is not followed") && warnings.contains("no segment"),
        "{warnings}"
    );

    // A copy beside the server does not archive, whatever it is made of.
    let beside = forked.restored("beside", &["latest"]);
    assert_eq!(beside.query("SHOW archive_mode"), "off");
    assert_eq!(beside.query(ROWS), "1");
    drop(beside);

    // One that takes over does; and what has merely been left for it is not asked about.
    let copy = forked.restored("copy", &["--take-over", "LATEST"]);
    copy.query("INSERT INTO t VALUES (20)");
    copy.archive_all();
    assert_eq!(forked.would(&["LATEST"]).1, 3);

    // The server was not gone. One record behind the fork is enough, in a segment that is the last.
    server.query("INSERT INTO t VALUES (2)");
    let behind = server.current_lsn();
    server.archive_all();
    let message = forked.asks(&["LATEST"]);
    assert!(
        message.contains("archived up to 00000001") && message.contains("archived up to 00000003"),
        "{message}"
    );
    forked.asks(&["b1"]);
    forked.asks(&["LATEST", "--target-time", "2099-01-01 00:00:00 UTC"]);
    forked.asks(&["LATEST", "--target-xid", "800"]);
    forked.asks(&["LATEST", "--target-lsn", &behind]);
    // Where both are one, there is nothing to ask.
    for arguments in [
        ["LATEST", "--immediate"].as_slice(),
        &["LATEST", "--target-lsn", &before],
    ] {
        assert_eq!(forked.would(arguments).0, "b1", "{arguments:?}");
    }
    for (timeline, rows) in [("1", "1 2"), ("3", "1 20")] {
        let chosen = forked.restored(
            &format!("on-{timeline}"),
            &["LATEST", "--target-timeline", timeline],
        );
        assert_eq!(chosen.query(ROWS), rows);
    }

    // LATEST is the newest that can get there, not the newest of all.
    forked.site.backup("b2");
    assert_eq!(forked.would(&["LATEST", "--target-timeline", "1"]).0, "b2");
    assert_eq!(forked.would(&["LATEST", "--target-timeline", "3"]).0, "b1");
    // A backup of one branch, begun after the last WAL of the other, settles it: until that goes on.
    let (backup, timeline, warnings) = forked.would(&["LATEST"]);
    assert_eq!((backup.as_str(), timeline), ("b2", 1));
    assert!(warnings.contains("taken for abandoned"), "{warnings}");
    copy.query("INSERT INTO t VALUES (21)");
    copy.archive_all();
    forked.asks(&["LATEST"]);
    let refused = forked.try_restore(
        &["b2", "--target-timeline", "3"],
        &forked.dir("refused").join("data"),
    );
    assert!(said(&refused).contains("left timeline 1"), "{}", said(&refused));

    let mut backup = forked.site.walfs("backup");
    backup
        .env("PGHOST", world.path().join("copy"))
        .args(["--fast", "b3"]);
    let output = backup.output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let (backup, timeline, warnings) = forked.would(&["LATEST"]);
    assert_eq!((backup.as_str(), timeline), ("b3", 3));
    assert!(warnings.contains("taken for abandoned"), "{warnings}");
    server.query("INSERT INTO t VALUES (3)");
    server.archive_all();
    forked.asks(&["LATEST"]);
    // K6: forks, and the copies of pages with which a timeline begins, are no damage.
    let verified = forked.site.walfs("verify").output().expect("run walfs");
    assert!(verified.status.success(), "{}", said(&verified));
}

/// R6: "A timeline that has segments and no `.history` is named, not passed over."
#[test]
fn r6_a_timeline_without_its_history_is_asked_about() {
    let world = World::new("lost-history");
    let site = Site::local(&world);
    let forked = Forked { site, world: &world };
    let server = &forked.site.server;
    server.query("CREATE TABLE t (id int)");
    forked.site.backup("b1");
    server.query("INSERT INTO t VALUES (1)");
    let early = server.current_lsn();
    server.archive_all();
    server.query("INSERT INTO t VALUES (2)");
    let before = server.current_lsn();
    let last = server.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    server.archive_all();
    assert_eq!(forked.would(&["LATEST"]).1, 1);

    // What is left of a standby that was promoted: its segments, and not its history.
    let segment_bytes: u32 = server.number("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'");
    let number = u64::from_str_radix(&last[8..], 16).expect("hex") + 3;
    let name = wal::segment_name(2, number, segment_bytes);
    forked.push(
        &name,
        &wal::segment(&name, server.system_identifier(), segment_bytes, 1),
    );
    let directory = forked.dir("asked").join("data");
    for arguments in [&["LATEST"][..], &["b1"], &["b1", "--standby"]] {
        let output = forked.try_restore(arguments, &directory);
        let message = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        for text in [&*name, "00000002.history", "HINT: ", "--target-timeline 1"] {
            assert!(message.contains(text), "{text}: {message}");
        }
        assert!(!directory.exists());
    }
    // Where the answer makes no difference nobody asks.
    assert_eq!(forked.would(&["LATEST", "--target-timeline", "1"]).1, 1);
    assert_eq!(forked.would(&["LATEST", "--target-lsn", &before]).1, 1);
    forked.push("00000002.history", format!("1\t{before}\tpromoted\n").as_bytes());
    // Of the segment in which it left its parent there is nothing.
    let (_, timeline, warnings) = forked.would(&["LATEST", "--target-lsn", &early]);
    assert!(
        timeline <= 2 && !warnings.contains("not followed"),
        "{timeline} {warnings}"
    );
}

/// The server has filled the last segment that was archived, and a record goes on behind it: what takes over leaves the
/// timeline where that begins. That is no fork.
#[test]
fn b12_a_full_segment_whose_last_record_is_not_whole_is_no_fork() {
    let world = World::new("filled");
    let mut site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("b1");
    site.server
        .query("CREATE TABLE f AS SELECT repeat('x', 500) FROM generate_series(1, 9000)");
    let last = site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let before = u64::from_str_radix(&last[8..], 16).expect("a segment");
    wait::until("what is full to be archived", || {
        let is_last =
            |name: &String| u64::from_str_radix(&name[8..], 16).is_ok_and(|name| name + 1 == before);
        site.server.done_segments().iter().any(is_last).then_some(())
    });
    site.server.kill9();
    let forked = Forked { site, world: &world };
    let dir = forked.dir("over");
    let output = forked.try_restore(&["--take-over", "LATEST"], &dir.join("data"));
    assert!(output.status.success(), "{}", said(&output));
    let mut server = Postgres::start_as_it_is(&dir, newest(), &forked.site.place.env());
    assert_eq!(
        server.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        server.log()
    );
    server.query("INSERT INTO t VALUES (1)");
    server.archive_all();
    assert!(!server.log().contains("goes on"), "{}", server.log());
    assert_eq!(forked.would(&["LATEST"]).1, 2);
}

//! WAL that was acknowledged, or archived as a beginning, and that a restore does not replay: it says so (promises W1, B12).

use std::fs;
use std::process::Output;

use super::others::{copy_of, start_copy};
use crate::common::basebackup::Site;
use crate::common::user::{User, said};
use crate::common::wal;
use crate::common::walfs::Mount;
use crate::common::world::World;

/// What a dry run of a restore says.
#[track_caller]
fn told(site: &Site<'_>, arguments: &[&str]) -> String {
    let output = tried(site, arguments);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn tried(site: &Site<'_>, arguments: &[&str]) -> Output {
    let mut restore = site.walfs("restore");
    restore.args(["--no-archiving", "--dry-run"]).args(arguments);
    restore.arg("LATEST").arg(site.world.path().join("pg/none"));
    restore.output().expect("run walfs")
}

fn current_segment(site: &Site<'_>) -> String {
    site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())")
}

/// The beginning of the segment that the server writes, as `pg_receivewal` brings it: laid out, filled in, closed.
pub(super) fn receive(site: &Site<'_>, mount: &Mount, segment: &str) {
    let content = site.server.data().join("pg_wal").join(segment);
    let partial = mount.wal().join(format!("{segment}.partial"));
    let receive =
        "head -c 1048576 /dev/zero > \"$1\" && exec 3<> \"$1\" && head -c 98304 \"$2\" >&3 && exec 3>&-";
    let output = mount.user().shell(receive, &[&partial, &content]);
    assert!(output.status.success(), "{}", said(&output));
}

/// A copy of the server archives the segment whose beginning was received: nobody gets that back.
#[test]
fn w1_received_wal_that_another_server_has_overruled_is_named() {
    let world = World::new("overruled");
    let mut site = Site::local(&world);
    site.backup("monday");
    let copy = copy_of(&world, &mut site.server);
    site.server.start();
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 3000) AS id");
    let segment = current_segment(&site);
    let mount = Mount::local(&world);
    receive(&site, &mount, &segment);
    assert!(!told(&site, &[]).contains("not restored"));
    site.server.kill9();
    let other = start_copy(&copy);
    other.archive_all();
    let message = told(&site, &[]);
    assert!(
        message.contains(&segment) && message.contains("98304 bytes"),
        "{message}"
    );
    assert!(message.contains("is not restored"), "{message}");
}

/// A target that lies in received WAL is reached; one behind that is not.
#[test]
fn k5_a_time_in_received_wal_is_reached() {
    let world = World::new("received-time");
    let site = Site::local(&world);
    site.backup("monday");
    site.server.query("CREATE TABLE t (id int)");
    site.server.archive_all();
    let now = || site.server.query("SELECT now() FROM pg_sleep(1.1)");
    let time = now();
    site.server.query("INSERT INTO t VALUES (1)");
    let mount = Mount::local(&world);
    let refused = |time: &str| {
        let output = tried(&site, &["--target-time", time]);
        let message = said(&output);
        let ends_early = message.contains("recovery ended before");
        assert_eq!(
            (ends_early, !output.status.success()),
            (ends_early, ends_early),
            "{message}"
        );
        ends_early
    };
    assert!(refused(&time));
    receive(&site, &mount, &current_segment(&site));
    assert!(!refused(&time));
    assert!(refused(&now()));
}

/// A timeline began in a segment that is not archived: what its parent committed there before is brought, from a `.partial` or
/// from what was received.
#[test]
fn b12_the_beginning_of_a_forks_segment_is_brought() {
    let world = World::new("fork-segment");
    let site = Site::local(&world);
    site.backup("monday");
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    site.server.archive_all();
    site.server.query("INSERT INTO t VALUES (0)");
    let (segment, fork) = (
        current_segment(&site),
        site.server.query("SELECT pg_current_wal_lsn()"),
    );
    let push = |name: &str, content: Vec<u8>| {
        let file = world.owned_file(name, &content);
        let pushed = site.walfs("wal-push").arg(&file).output().expect("run walfs");
        assert!(pushed.status.success(), "{}", said(&pushed));
    };
    push("00000002.history", wal::history(1, &fork));
    let target = ["--target-timeline", "2"];
    let brought = format!("leads up to {fork}");
    assert!(!told(&site, &target).contains("leads up to"));
    let content = fs::read(site.server.data().join("pg_wal").join(&segment)).expect("read WAL");
    push(&format!("{segment}.partial"), content);
    let message = told(&site, &target);
    assert!(message.contains(&brought), "{message}");
    let mount = Mount::local(&world);
    let removed = User::caller().shell("rm -f \"$1\"/wal/*.partial.lz4", &[&world.archive()]);
    assert!(removed.status.success(), "{}", said(&removed));
    receive(&site, &mount, &segment);
    let message = told(&site, &target);
    assert!(message.contains(&brought), "{message}");
}

/// The first thing in an archive is a backup in tar files, of a cluster whose segments are not of the usual size.
#[test]
fn b2_a_tar_backup_in_an_empty_archive_knows_its_segments() {
    let world = World::new("first-tar");
    let site = Site::local(&world);
    site.server.configure(&[("archive_command", "/bin/false")]);
    site.server.reload();
    let mount = Mount::local(&world);
    for (name, arguments) in [
        ("fetched", &["-Ft", "-Xfetch"][..]),
        ("packed", &["-Ft", "-Xstream", "-z"]),
    ] {
        let mut backup = site.server.program("pg_basebackup");
        backup.args(["-c", "fast"]).args(arguments).arg("-D");
        backup.arg(mount.path().join("basebackups").join(name));
        let output = backup.output().expect("run pg_basebackup");
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(site.state(name).as_deref(), Some("WAL missing"), "{name}");
    }
    let command = site.archive_command();
    site.server.archive_with(&command);
    site.server.reload();
    site.server.archive_all();
    for name in ["fetched", "packed"] {
        assert_eq!(site.state(name).as_deref(), Some("complete"), "{name}");
    }
}

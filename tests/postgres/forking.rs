//! Timelines that fork while no segment of theirs is full (promise B12): what `pg_receivewal` has kept counts as WAL of its
//! timeline, as a segment does.

use std::process::Output;

use super::receiving::{SYNCHRONOUS, back_up, streaming_with, synchronous_source};
use super::*;

const ROWS: &str = "SELECT count(*), max(id) FROM committed";

/// W4: a standby that is promoted archives the beginning of the segment in which it took over as `.partial`. A receiver goes on
/// there, so that commits wait for no switch of the segment.
#[test]
fn w4_a_receiver_goes_on_where_a_partial_is_archived() {
    let world = World::new("partial-archived");
    let mount = Mount::local(&world);
    let (mut standby, partial) = failed_over(&world, &mount, false);
    let archived = mount.read(&partial).expect("read it");
    let mut receiver = streaming_with(&standby, &mount, &["--synchronous"]);
    standby.query("ALTER SYSTEM SET synchronous_standby_names = 'receiver'");
    standby.reload();
    standby.query("INSERT INTO committed VALUES (2)");
    let listed = mount.list();
    let goes_on = |name: &String| name.starts_with("00000002") && name.ends_with(".partial");
    assert!(listed.iter().any(goes_on), "{listed:?}");
    assert!(mount.read(&partial).expect("read it") == archived);
    standby.kill9();
    wait::for_exit("pg_receivewal to end", &mut receiver);

    // Other bytes are refused, and the log says what it may be.
    let other = world.owned_file("other", &vec![7; 8192]);
    let write = "dd if=\"$1\" of=\"$2\" conv=notrunc bs=8192";
    let output = mount.user().shell(write, &[&other, &mount.wal().join(&partial)]);
    assert!(
        !output.status.success() && said(&output).contains("File exists"),
        "{}",
        said(&output)
    );
    mount.wait_for_log("with other bytes from 0 on");
    assert!(mount.read(&partial).expect("read it") == archived);
}

/// The old primary's receiver had it as well.
#[test]
fn w4_a_partial_that_was_received_and_archived_is_listed_once() {
    let world = World::new("partial-twice");
    let mount = Mount::local(&world);
    let (mut standby, partial) = failed_over(&world, &mount, true);
    let listed = mount.list();
    let shown = listed.iter().filter(|name| **name == partial).count();
    assert_eq!(shown, 1, "{listed:?}");
    standby.kill9();
}

/// A primary is lost, its standby is promoted: it, and the name of the beginning that it has archived. With or without a
/// receiver at the primary.
fn failed_over(world: &World, mount: &Mount, is_received: bool) -> (Postgres, String) {
    let options = ServerOptions {
        segment_mib: 1,
        ..ServerOptions::of(newest())
    };
    let mut server = Postgres::init(&world.path().join("pg"), &options);
    server.archive_with(&mount.archive_command());
    server.start();
    server.query("CREATE TABLE committed (id bigint)");
    let dir = world.owned_dir("standby");
    let mut backup = server.program("pg_basebackup");
    backup.args(["-c", "fast", "-R", "-D"]).arg(dir.join("data"));
    let output = backup.output().expect("run pg_basebackup");
    assert!(output.status.success(), "{}", said(&output));
    let receiver = is_received.then(|| streaming_with(&server, mount, &["--synchronous"]));
    let standby = Postgres::start_as_it_is(&dir, newest(), &[]);
    server.query("INSERT INTO committed VALUES (1)");
    wait::until("the standby to follow", || {
        let rows = standby.psql("SELECT count(*) FROM committed").ok();
        (rows.as_deref() == Some("1")).then_some(())
    });
    if is_received {
        wait::until("the beginning to be received", || {
            let partial = |name: &String| name.ends_with(".partial");
            mount.list().iter().any(partial).then_some(())
        });
    }
    server.kill9();
    if let Some(mut receiver) = receiver {
        wait::for_exit("pg_receivewal to end", &mut receiver);
    }
    standby.promote();
    let partial = wait::until("the beginning of the segment to be archived", || {
        let archived = standby.archiver_stats().last_archived_wal;
        archived.ends_with(".partial").then_some(archived)
    });
    (standby, partial)
}

#[test]
fn b12_what_was_received_is_followed_and_asked_about() {
    let world = World::new("received-fork");
    let mount = Mount::local(&world);
    let mut server = synchronous_source(&world, newest());
    let mut receiver = streaming_with(&server, &mount, &SYNCHRONOUS);
    server.query("SET synchronous_commit = local; CREATE TABLE committed (id bigint)");
    back_up(&server, &mount);
    server.query("INSERT INTO committed VALUES (1)");
    server.kill9();
    wait::for_exit("pg_receivewal to end", &mut receiver);

    // Another server goes on, and is lost as well before a segment of its timeline is full.
    let mut copy = restored(&world, "copy", &["LATEST"]);
    let mut receiver = streaming_with(&copy, &mount, &["--synchronous"]);
    copy.query("ALTER SYSTEM SET synchronous_standby_names = 'receiver'");
    copy.reload();
    for id in 2..=40 {
        copy.query(&format!("INSERT INTO committed VALUES ({id})"));
    }
    copy.kill9();
    wait::for_exit("pg_receivewal to end", &mut receiver);
    let listed = mount.list();
    let of_second: Vec<&String> = listed
        .iter()
        .filter(|name| name.starts_with("00000002"))
        .collect();
    assert!(
        of_second.len() == 2 && of_second[0] == "00000002.history" && of_second[1].ends_with(".partial"),
        "{listed:?}"
    );
    let mut back = restored(&world, "back", &["LATEST"]);
    assert_eq!(back.query(ROWS), "40|40");
    back.kill9();

    // The first one was not gone: behind the fork it has WAL of its own, in the segment of the fork.
    server.start();
    server.query("SET synchronous_commit = local; INSERT INTO committed VALUES (100)");
    receive_more(&server, &mount);
    server.kill9();
    let asked = restore(&world, "asked", &["LATEST"]);
    let message = said(&asked);
    assert_eq!(asked.status.code(), Some(1), "{message}");
    for branch in [
        "timeline 1, begun in 00000001",
        "timeline 2, forked from timeline 1",
    ] {
        assert!(message.contains(branch), "{branch}: {message}");
    }
    for (timeline, rows) in [("1", "2|100"), ("2", "40|40")] {
        let mut back = restored(
            &world,
            &format!("on-{timeline}"),
            &["--target-timeline", timeline, "LATEST"],
        );
        assert_eq!(back.query(ROWS), rows, "timeline {timeline}");
        back.kill9();
    }
}

/// W1, B6: a standby's backup ends within a segment, of which it brings the beginning. What a receiver has of that goes on
/// behind it, also over what a restore, or an older copy, has left of it.
#[test]
fn w1_what_was_received_goes_on_where_a_backups_own_wal_ends() {
    let world = World::new("own-beginning");
    let mount = Mount::local(&world);
    let mut server = synchronous_source(&world, newest());
    let mut receiver = streaming_with(&server, &mount, &SYNCHRONOUS);
    server.query("SET synchronous_commit = local; CREATE TABLE committed (id bigint)");
    let dir = world.owned_dir("standby");
    let mut backup = server.program("pg_basebackup");
    backup.args(["-c", "fast", "-R", "-D"]).arg(dir.join("data"));
    let output = backup.output().expect("run pg_basebackup");
    assert!(output.status.success(), "{}", said(&output));
    let mut standby = Postgres::start_as_it_is(&dir, newest(), &[]);
    server.query("INSERT INTO committed VALUES (1)");
    server.query("CHECKPOINT");
    wait::until("the standby to follow", || {
        let rows = standby.psql("SELECT count(*) FROM committed").ok();
        (rows.as_deref() == Some("1")).then_some(())
    });
    standby.query("CHECKPOINT");
    let mut backup = standby.program("pg_basebackup");
    backup.args(["-c", "fast", "-X", "fetch", "-D"]);
    let backup = backup.arg(mount.path().join("basebackups/first")).output();
    let backup = backup.expect("run pg_basebackup");
    assert!(backup.status.success(), "{}", said(&backup));
    for id in 2..=10 {
        server.query(&format!("INSERT INTO committed VALUES ({id})"));
    }
    let segment = server.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    server.kill9();
    wait::for_exit("pg_receivewal to end", &mut receiver);
    standby.kill9();
    assert!(
        mount.list().contains(&format!("{segment}.partial")),
        "{:?}",
        mount.list()
    );

    let output = restore(&world, "back", &["LATEST"]);
    assert!(output.status.success(), "{}", said(&output));
    let dir = world.path().join("back");
    let there = dir.join("data/pg_wal").join(&segment);
    let brought = fs::read(&there).expect("read what was brought");
    // Once more, over what the first one has brought; and over what has less of it, which the operator wants to stay.
    let again = |arguments: &[&str]| {
        let user = User::postgres();
        let mut restore = walfs(&world, &user);
        restore
            .arg("restore")
            .arg("--archive")
            .arg(world.archive())
            .arg("--delta");
        let output = restore
            .args(arguments)
            .arg("LATEST")
            .arg(dir.join("data"))
            .output();
        let output = output.expect("run walfs restore");
        assert!(output.status.success(), "{}", said(&output));
        assert!(
            fs::read(&there).expect("read it") == brought,
            "{arguments:?}: {}",
            said(&output)
        );
    };
    again(&[]);
    let mut older = brought.clone();
    older[8192..].fill(0);
    fs::write(&there, older).expect("write an older one");
    again(&["--keep-wal"]);
    let mut back = Postgres::start_as_it_is(&dir, newest(), &[]);
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query(ROWS), "10|10");
    back.kill9();
}

/// As its `pg_receivewal` would, which another timeline in the directory leads astray.
#[track_caller]
fn receive_more(server: &Postgres, mount: &Mount) {
    let at = "SELECT file_name, file_offset FROM pg_walfile_name_offset(pg_current_wal_flush_lsn())";
    let at = server.query(at);
    let (segment, offset) = at.split_once('|').expect("a name and an offset");
    let own = server.data().join("pg_wal").join(segment);
    let partial = mount.wal().join(format!("{segment}.partial"));
    let receive = "test -f \"$2\" && exec 3<> \"$2\" && head -c \"$3\" \"$1\" >&3 && exec 3>&-";
    let output = mount.user().shell(receive, &[&own, &partial, Path::new(offset)]);
    assert!(output.status.success(), "{}", said(&output));
}

fn restore(world: &World, name: &str, arguments: &[&str]) -> Output {
    let dir = world.path().join(name);
    let user = User::postgres();
    user.make_dir(&dir);
    let mut restore = walfs(world, &user);
    restore.arg("restore").arg("--archive").arg(world.archive());
    let output = restore.args(arguments).arg(dir.join("data")).output();
    output.expect("run walfs restore")
}

#[track_caller]
fn restored(world: &World, name: &str, arguments: &[&str]) -> Postgres {
    let output = restore(world, name, arguments);
    assert!(output.status.success(), "{}", said(&output));
    let mut back = Postgres::start_as_it_is(&world.path().join(name), newest(), &[]);
    let ended = back.recovery_within(wait::LONG);
    assert_eq!(ended, Recovery::Promoted, "{}", back.log());
    back
}

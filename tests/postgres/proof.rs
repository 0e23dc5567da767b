//! R2: proof of absence. By the printed `restore_command`, whatever is not proven stops recovery with a fatal error, and
//! the same server recovers everything once walfs is back.

use std::path::Path;
use std::process::Output;

use super::outages::Lost;
use super::*;
use crate::common::postgres::StopMode;
use crate::common::s3::{Action, Rule};

/// R2: "With a dead daemon or no mount, recovery stops and can be started again."
#[test]
fn r2_kill_9_of_walfs_stops_recovery_and_nothing_is_lost() {
    let lost = Lost::from_s3("proof-kill", 20);
    let world = World::new("proof");
    let place = Place::S3(lost.store());
    let mut mount = place.options(&world).mount();
    let Place::S3(store) = &place else { unreachable!() };
    let command = printed_restore_command(&world, mount.path());
    let mut server = lost.server(&world, &command);

    // In the middle of reading a segment.
    let middle = &lost.segments[lost.segments.len() / 2];
    store.add_rule(Rule::new(Action::Hang).key(middle));
    server.start_recovery();
    store.wait_for(1, |request| request.key.contains(middle.as_str()));
    mount.kill9();
    assert_fatal(&mut server);

    // The dead mount is still there, then no mount at all.
    server.restart_recovery();
    assert_fatal(&mut server);
    crate::common::world::detach(mount.path());
    server.restart_recovery();
    assert_fatal(&mut server);

    store.clear_rules();
    mount.restart();
    server.restart_recovery();
    assert_eq!(recovered(&mut server), lost.committed);
}

/// R3 with R2: "Damage is EIO and a message naming the object": by the printed command that is fatal, not the end.
#[test]
fn r3_damage_stops_recovery_and_nothing_is_lost() {
    let lost = Lost::from_s3("proof-damage", 20);
    let world = World::new("proof");
    let place = Place::S3(lost.store());
    let mount = place.options(&world).mount();
    let Place::S3(store) = &place else { unreachable!() };
    let middle = &lost.segments[lost.segments.len() / 2];
    let key = format!("pg/main/wal/{middle}.lz4");
    let object = store.object(&key).expect("the object is there");
    store.corrupt(&key, |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    let command = printed_restore_command(&world, mount.path());
    let mut server = lost.server(&world, &command);
    server.start_recovery();
    assert_fatal(&mut server);
    mount.wait_for_log(&format!("wal/{middle}.lz4"));

    // Brought back from a copy of the store, as the message says.
    store.remove(&key);
    store.put_object(&key, object);
    server.restart_recovery();
    assert_eq!(recovered(&mut server), lost.committed);
}

/// A recovering server can be stopped while the store is away: the waiting `cp` can be killed.
#[test]
fn r1_a_server_that_waits_for_the_store_can_be_stopped() {
    let lost = Lost::from_s3("proof-stop", 8);
    let world = World::new("proof");
    let place = Place::S3(lost.store());
    let mount = place.options(&world).mount();
    let Place::S3(store) = &place else { unreachable!() };
    for command in [
        mount.restore_command(),
        printed_restore_command(&world, mount.path()),
    ] {
        store.blackhole(true);
        let asked = store.requests().len();
        let mut server = lost.server(&world, &command);
        server.start_recovery();
        store.wait_for(asked + 1, |_| true);
        // Waits for its end; the store never answers.
        server.stop(StopMode::Fast);
        store.blackhole(false);
        server.restart_recovery();
        assert_eq!(recovered(&mut server), lost.committed);
        server.destroy();
        fs::remove_dir_all(world.path().join("recovering")).expect("make room for the next");
    }
}

/// "`.absent/<name>` exists exactly when the store has *said* that `wal/<name>` does not exist."
#[test]
fn r2_absent_is_what_the_store_says_and_nothing_else() {
    let lost = Lost::from_s3("proof-absent", 3);
    let world = World::new("proof");
    let place = Place::S3(lost.store());
    let mount = place.options(&world).args(&["--deadline", "2s"]).mount();
    let Place::S3(store) = &place else { unreachable!() };
    let (present, absent) = (lost.segments[0].clone(), lost.after_last());
    assert!(!is_absent(&mount, &present) && is_absent(&mount, &absent));
    assert!(is_absent(&mount, "00000002.history") && !is_absent(&mount, "no name for WAL"));

    // During an outage nothing is said; the question ends by the deadline.
    for fault in [
        Action::Hang,
        Action::slow_down(),
        Action::html_404(),
        Action::error(403, "AccessDenied"),
    ] {
        let rule = store.add_rule(Rule::new(fault));
        assert!(!is_absent(&mount, &absent) && !is_absent(&mount, &present));
        store.remove_rule(rule);
    }
    assert!(is_absent(&mount, &absent) && !is_absent(&mount, &present));

    // Through another machine's eyes, and through those of whoever archives it, the moment it is there.
    let other = place.mount_at(&world, "mnt2", &[]);
    assert!(is_absent(&other, &absent));
    let segment = mount
        .read(lost.segments.last().expect("segments"))
        .expect("a segment");
    let source = world.owned_file("source", &next_of(segment, &absent));
    let line = r#"test ! -e "$1/wal/$3" && cp "$2" "$1/wal/$3" && test ! -e "$1/.absent/$3""#;
    let archived = ask(&mount, line, &[&source, Path::new(&absent)]);
    assert!(archived.status.success(), "{}", said(&archived));
    assert!(!is_absent(&mount, &absent) && !is_absent(&other, &absent));
}

/// What comes after a segment, as far as its first page tells: `xlp_pageaddr` at byte 8.
fn next_of(mut segment: Vec<u8>, name: &str) -> Vec<u8> {
    let part = |range| u64::from_str_radix(&name[range], 16).expect("hex");
    let address = (part(8..16) << 32) + part(16..24) * segment.len() as u64;
    segment[8..16].copy_from_slice(&address.to_le_bytes());
    segment
}

#[track_caller]
fn is_absent(mount: &Mount, name: &str) -> bool {
    ask(mount, r#"test -e "$1/.absent/$2""#, &[Path::new(name)])
        .status
        .success()
}

/// Runs a shell line whose `$1` is the mount point.
fn ask(mount: &Mount, line: &str, arguments: &[&Path]) -> Output {
    let all: Vec<&Path> = std::iter::once(mount.path())
        .chain(arguments.iter().copied())
        .collect();
    mount.user().shell(line, &all)
}

/// Recovery ends with a fatal error, and the database was not opened.
#[track_caller]
pub(super) fn assert_fatal(server: &mut Postgres) {
    let ended = server.recovery_within(wait::LONG);
    assert_eq!(ended, Recovery::Failed, "{}", server.log());
    let log = server.log();
    assert!(log.contains("child process exited with exit code 255"), "{log}");
    assert!(!log.contains("selected new timeline"), "{log}");
}

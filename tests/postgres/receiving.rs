//! PostgreSQL's own tools in the mount: `pg_receivewal` streams into it, `pg_waldump` reads from it, and
//! `pg_archivecleanup` deletes nothing.

use std::process::Child;

use super::*;
use crate::common::postgres::{installed_versions, send};

/// W6: "through a temporary name and a rename as well (`cp x.tmp && mv`, `rsync`, `pg_receivewal`...)". Killed and
/// started again it goes on after the last finished segment.
#[test]
fn w6_pg_receivewal_streams_into_the_mount() {
    let world = World::new("receive");
    let mount = Mount::local(&world);
    let mut server = stream_source(&world);
    let mut receiver = streaming(&server, &mount);
    let mut expected = Vec::new();
    for round in 0..4 {
        fill(&server, 3);
        expected.push(server.switch_wal());
        arrives(&mount, expected.last().expect("a name"));
        // In the middle of the next one.
        fill(&server, 1);
        if round < 3 {
            receiver.kill().expect("kill pg_receivewal");
            receiver.wait().expect("wait for pg_receivewal");
            receiver = streaming(&server, &mount);
        }
    }
    expected.push(server.switch_wal());
    arrives(&mount, expected.last().expect("a name"));
    receiver.kill().expect("kill pg_receivewal");
    receiver.wait().expect("wait for pg_receivewal");

    let archived = segments(mount.list());
    for name in &archived {
        let original = fs::read(server.data().join("pg_wal").join(name)).expect("wal_keep_size keeps it");
        assert!(mount.read(name).expect("read it") == original, "{name} differs");
    }
    let numbers: Vec<u64> = archived.iter().map(|name| number(name)).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "a gap: {archived:?}"
    );
    assert!(archived.len() > 16, "{archived:?}");
    dumps(&server, &mount, &archived[0]);
    deletes_nothing(&server, &mount, &archived);
    server.kill9();
}

/// W1: a commit that the server has acknowledged because `pg_receivewal --synchronous` had it is there after server,
/// receiver and walfs are killed, and both machines are lost: nothing but the archive is left. In between everything is
/// killed and started again, on the same and on another mount. On every PostgreSQL there is.
#[test]
fn w1_an_acknowledged_commit_survives_the_loss_of_every_machine() {
    for version in installed_versions() {
        let world = World::new("synchronous");
        let mut mount = Mount::local(&world);
        let mut server = synchronous_source(&world, version.clone());
        let start = |server: &Postgres, mount: &Mount| streaming_with(server, mount, &SYNCHRONOUS);
        let mut receiver = start(&server, &mount);
        server.query("SET synchronous_commit = local; CREATE TABLE committed (id bigint)");
        back_up(&server, &mount);
        let mut expected = 0;
        for round in 0..6 {
            for _ in 0..=round {
                expected += 1;
                server.query(&format!("INSERT INTO committed VALUES ({expected})"));
            }
            match round {
                0 => end(&mut receiver, libc::SIGKILL),
                1 => end(&mut receiver, libc::SIGINT),
                2 => {
                    fill(&server, 3);
                    server.kill9();
                    wait::for_exit("pg_receivewal to end", &mut receiver);
                    server.start();
                }
                3 => {
                    mount.kill9();
                    wait::for_exit("pg_receivewal to end", &mut receiver);
                    mount.restart();
                }
                4 => {
                    end(&mut receiver, libc::SIGKILL);
                    // Another machine takes over.
                    let mountpoint = world.path().join("other");
                    fs::create_dir(&mountpoint).expect("make a mount point");
                    mount = Options::local(&world).at(&mountpoint).mount();
                }
                _ => break,
            }
            receiver = start(&server, &mount);
        }
        server.kill9();
        mount.kill9();
        wait::for_exit("pg_receivewal to end", &mut receiver);
        server.destroy();
        let back = restored(&world, version);
        assert_eq!(back.number::<u64>("SELECT count(*) FROM committed"), expected);
    }
}

pub(super) const SYNCHRONOUS: [&str; 2] = ["--synchronous", "--slot=walfs"];

/// Its commits wait until they are received.
pub(super) fn synchronous_source(world: &World, version: Version) -> Postgres {
    let options = ServerOptions {
        segment_mib: 1,
        ..ServerOptions::of(version)
    };
    let mut server = Postgres::init(&world.path().join("pg"), &options);
    server.configure(&[("synchronous_standby_names", "receiver")]);
    server.start();
    server.query("SET synchronous_commit = local; CREATE TABLE filler (id bigint, note text)");
    server.query("SELECT pg_create_physical_replication_slot('walfs', true)");
    server
}

pub(super) fn back_up(server: &Postgres, mount: &Mount) {
    let mut backup = server.program("pg_basebackup");
    backup.args(["-X", "none", "-c", "fast", "-D"]);
    let output = backup
        .arg(mount.path().join("basebackups/first"))
        .output()
        .expect("run pg_basebackup");
    assert!(output.status.success(), "{}", said(&output));
}

/// `walfs restore LATEST` on a new machine, recovered to its end.
#[track_caller]
fn restored(world: &World, version: Version) -> Postgres {
    let dir = world.path().join("back");
    let user = User::postgres();
    user.make_dir(&dir);
    let mut restore = walfs(world, &user);
    restore.arg("restore").arg("--archive").arg(world.archive());
    let output = restore
        .arg("LATEST")
        .arg(dir.join("data"))
        .output()
        .expect("run walfs restore");
    assert!(output.status.success(), "{}", said(&output));
    let mut back = Postgres::start_as_it_is(&dir, version, &[]);
    let ended = back.recovery_within(wait::LONG);
    assert_eq!(ended, Recovery::Promoted, "{}", back.log());
    back
}

fn end(receiver: &mut Child, signal: i32) {
    send(receiver.id(), signal);
    wait::for_exit("pg_receivewal to end", receiver);
}

/// W6: without a slot, ended in the first segment of an empty archive, it goes on where it was: `pg_receivewal` itself
/// would begin where the server is by then. Its compressed files are refused when it begins.
#[test]
fn w6_pg_receivewal_without_a_slot_leaves_no_gap() {
    let world = World::new("first");
    let mount = Mount::local(&world);
    let mut server = stream_source(&world);
    let log = world.path().join("pg/pg_receivewal.log");
    let mut compressing = server.receive_wal_with(&mount.wal(), &["--compress=1"]);
    assert!(!wait::for_exit("pg_receivewal to end", &mut compressing).success());
    let said = fs::read_to_string(log).expect("read its log");
    assert!(said.contains("Operation not supported"), "{said}");
    for signal in [libc::SIGINT, libc::SIGKILL, libc::SIGINT] {
        let mut receiver = streaming(&server, &mount);
        let first = server.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
        fill(&server, 1);
        // A receiver that is killed before it has opened anything leaves nothing to go on from.
        let partial = format!("{first}.partial");
        let begun = || mount.list().iter().any(|name| *name == first || *name == partial);
        wait::until("the segment to be received", || begun().then_some(()));
        end(&mut receiver, signal);
        fill(&server, 2);
        server.switch_wal();
        assert!(begun(), "{:?}", mount.list());
    }
    let mut receiver = streaming(&server, &mount);
    let last = server.switch_wal();
    arrives(&mount, &last);
    end(&mut receiver, libc::SIGINT);
    let archived = segments(mount.list());
    let numbers: Vec<u64> = archived.iter().map(|name| number(name)).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "a gap: {archived:?}"
    );
    for name in &archived {
        let original = fs::read(server.data().join("pg_wal").join(name)).expect("wal_keep_size keeps it");
        assert!(mount.read(name).expect("read it") == original, "{name} differs");
    }
    server.kill9();
}

/// `pg_waldump` finds records in a segment in the mount.
#[track_caller]
fn dumps(server: &Postgres, mount: &Mount, name: &str) {
    let mut waldump = server.program("pg_waldump");
    let output = waldump
        .args(["--limit", "50"])
        .arg(mount.wal().join(name))
        .output()
        .expect("run pg_waldump");
    let records = String::from_utf8_lossy(&output.stdout).lines().count();
    assert!(output.status.success() && records == 50, "{}", said(&output));
}

/// B7, W4: what is archived is not deleted through the mount; the tool fails without harm.
#[track_caller]
fn deletes_nothing(server: &Postgres, mount: &Mount, archived: &[String]) {
    let mut cleanup = server.program("pg_archivecleanup");
    let output = cleanup
        .arg(mount.wal())
        .arg(archived.last().expect("a name"))
        .output()
        .expect("run pg_archivecleanup");
    assert!(!output.status.success(), "{}", said(&output));
    assert_eq!(segments(mount.list()), archived);
    assert!(mount.read(&archived[0]).is_ok());
}

fn stream_source(world: &World) -> Postgres {
    let options = ServerOptions {
        segment_mib: 1,
        ..ServerOptions::default()
    };
    let mut server = Postgres::init(&world.path().join("pg"), &options);
    server.configure(&[("wal_keep_size", "1GB")]);
    server.start();
    server.query("CREATE TABLE filler (id bigint, note text)");
    server
}

/// Starts `pg_receivewal`, and returns when it streams.
#[track_caller]
fn streaming(server: &Postgres, mount: &Mount) -> Child {
    streaming_with(server, mount, &[])
}

/// The same, with more arguments.
#[track_caller]
pub(super) fn streaming_with(server: &Postgres, mount: &Mount, arguments: &[&str]) -> Child {
    // The server may take a moment to notice that the last one is gone.
    wait::until("the last pg_receivewal to be gone", || {
        (server.query("SELECT count(*) FROM pg_stat_replication") == "0").then_some(())
    });
    let receiver = server.receive_wal_with(&mount.wal(), arguments);
    wait::until("pg_receivewal to stream", || {
        let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        (server.query(streaming) == "1").then_some(())
    });
    receiver
}

#[track_caller]
fn arrives(mount: &Mount, name: &str) {
    wait::until("the segment to arrive", || {
        mount.list().contains(&name.to_owned()).then_some(())
    });
}

/// The number of a segment of 1 MiB.
fn number(name: &str) -> u64 {
    let part = |range| u64::from_str_radix(&name[range], 16).expect("hex");
    (part(8..16) << 12) + part(16..24)
}

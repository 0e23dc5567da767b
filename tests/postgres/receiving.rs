//! PostgreSQL's own tools in the mount: `pg_receivewal` streams into it, `pg_waldump` reads from it, and
//! `pg_archivecleanup` deletes nothing.

use std::process::Child;

use super::*;

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
    // The server may take a moment to notice that the last one is gone.
    wait::until("the last pg_receivewal to be gone", || {
        (server.query("SELECT count(*) FROM pg_stat_replication") == "0").then_some(())
    });
    let receiver = server.receive_wal(&mount.wal());
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
